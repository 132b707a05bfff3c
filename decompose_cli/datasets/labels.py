"""Labels as files hold them, numbers or names, and the classes that they stand for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from decompose_cli.datasets.wnids import named_by_wnid
from decompose_cli.errors import InputError, first_few, shortened
from decompose_cli.messages import warn

if TYPE_CHECKING:
    from torch import Tensor

_MOST_CLASSES = 1 << 20
_MOST_DIGITS = 10
_FEWEST_FROM_1 = 2
_NUMBER = re.compile(r"\d+(\.0*)?")
_ANY_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?inf|nan|", re.IGNORECASE)


@dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    Attributes:
        keys: What labels call the classes; None where labels are the numbers 0 to C - 1.
        names: Names of the C classes.
        ids: Their WordNet ids, where there are any.
        are_numbers: Whether the names are only the numbers.
    """

    keys: tuple[str, ...] | None
    names: tuple[str, ...]
    ids: tuple[str, ...] | None = None
    are_numbers: bool = False


@dataclass(frozen=True)
class Labels:
    """The labels of the images of a split as a file holds them.

    Attributes:
        texts: A number or name for each image.
        where: The place of a label by its number, for messages: ``row 3 of images.csv``.
    """

    texts: Sequence[str]
    where: Callable[[int], str]

    def numbered(
        self, training: Callable[[], Labels] | None, names: Sequence[str] | None = None
    ) -> tuple[Tensor, Classes]:
        """The class number of each image, int64 (N,), and the classes.

        Names are numbered as those of the training images, so that a class that one split lacks does not shift the
        others; numbers stand for themselves, and the training images are not looked at.

        Args:
            training: The labels of the training images; None where these are they, or there are none.
            names: Names of the classes in the order of their numbers, where they are listed elsewhere.

        Raises:
            InputError: A label is missing or unknown, or there is none.
        """
        are_numbers = all(map(_NUMBER.fullmatch, dict.fromkeys(self.texts)))
        of = self if training is None or are_numbers or names is not None else training()
        classes = _classes_of(of.texts, of.where, names)
        numbers = _numbers_of(self.texts, classes, self.where, "the training split" if of is not self else "it")
        if classes.are_numbers and training is None:
            warn_of_numbers_from_1(numbers, f"the images from {self.where(0)} on")
        return numbers, classes


def _classes_of(labels: Sequence[str], where: Callable[[int], str], names: Sequence[str] | None = None) -> Classes:
    """The classes that labels tell of: numbers stand for themselves, names for classes in the order of the alphabet.

    Args:
        labels: The label of each image.
        where: The place of a label by its number, for messages: ``row 3 of images.csv``.
        names: Names of the classes in the order of their numbers, where they are listed elsewhere.

    Raises:
        InputError: A label is missing, or is no number as others are.
    """
    distinct = dict.fromkeys(labels)
    numbers = [label for label in distinct if _NUMBER.fullmatch(label)]
    if len(numbers) == len(distinct):
        count = max(map(_number_in, numbers), default=-1) + 1
        if count > _MOST_CLASSES:
            _refuse(labels, lambda label: _number_in(label) >= _MOST_CLASSES, where, "which is no number of a class")
        if names is not None:
            if count > len(names):
                _refuse(
                    labels, lambda label: _number_in(label) >= len(names), where, f"and {len(names)} classes have names"
                )
            return _named(names, None)
        return Classes(None, tuple(map(str, range(count))), are_numbers=True)
    are_meant = numbers and all(map(_ANY_NUMBER.fullmatch, distinct))
    if are_meant or len(numbers) > len(distinct) / 2:
        _refuse(labels, lambda label: not _NUMBER.fullmatch(label), where, "which is no class number, as others are")
    if "" in distinct or "nan" in distinct:
        _refuse(labels, lambda label: label in ("", "nan"), where, "which names no class")
    if names is not None:
        if len(twice := [name for name, count in Counter(names).items() if count > 1]) > 0:
            raise InputError(
                f"The list of classes has {shortened(twice[0])!r} {names.count(twice[0])} times, so that it is not "
                f"known which class the label of {where(0)} is."
            )
        return _named(names, tuple(names))
    ordered = sorted(distinct)
    return _named(ordered, tuple(ordered))


def _number_in(label: str) -> int:
    """The number that a label of digits is; one of very many digits is no class, whatever it is."""
    digits = label.partition(".")[0].lstrip("0") or "0"
    return int(digits) if len(digits) < _MOST_DIGITS else _MOST_CLASSES


def _named(names: Iterable[str], keys: tuple[str, ...] | None) -> Classes:
    """Classes with these names, of which WordNet ids become words."""
    shown, ids = named_by_wnid(tuple(names))
    return Classes(keys, shown, ids)


def _numbers_of(labels: Sequence[str], classes: Classes, where: Callable[[int], str], what: str) -> Tensor:
    """The class number of each image, int64 (N,).

    Args:
        labels: The label of each image.
        classes: Those of the data set.
        where: The place of a label by its number, for messages.
        what: What has the classes, for messages: ``the training split``.

    Raises:
        InputError: A label is none of the classes.
    """
    import torch

    if classes.keys is None:
        known = {str(number): number for number in range(len(classes.names))}
        by_label = {
            label: known.get(str(_number_in(label)) if _NUMBER.fullmatch(label) else label) for label in set(labels)
        }
    else:
        known = {key: number for number, key in enumerate(classes.keys)}
        by_label = {label: known.get(label) for label in set(labels)}
    if None in by_label.values():
        _refuse(
            labels,
            lambda label: by_label[label] is None,
            where,
            f"which is none of the {len(classes.names)} classes of {what} ({first_few(classes.keys or classes.names)})",
        )
    return torch.tensor([by_label[label] for label in labels], dtype=torch.int64)


def _refuse(labels: Sequence[str], is_wrong: Callable[[str], bool], where: Callable[[int], str], why: str) -> None:
    wrong = [number for number, label in enumerate(labels) if is_wrong(label)]
    more = f" ({len(wrong):,} such labels)" if len(wrong) > 1 else ""
    raise InputError(f"The label of {where(wrong[0])} is {shortened(labels[wrong[0]])!r}, {why}{more}.")


def warn_of_numbers_from_1(labels: Tensor, where: str) -> None:
    """Warn of class numbers that seem to begin at 1, as every number from there on has images, and 0 has none.

    Args:
        labels: The class number of each image, int64 (N,).
        where: What has the labels.
    """
    counts = labels.bincount()
    if len(counts) > _FEWEST_FROM_1 and counts[0] == 0 and bool((counts[1:] > 0).all()):
        last = len(counts) - 1
        warn(
            f"The labels of {where} go from 1 to {last}, and classes are numbered from 0: there are {last + 1}, of "
            "which the first has no images. If the labels begin at 1, subtract 1."
        )
