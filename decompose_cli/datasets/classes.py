"""Match the classes of a data set to the outputs of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from decompose_cli.errors import InputError, first_few


@dataclass(frozen=True)
class ClassNames:
    """Names of a network's outputs.

    Attributes:
        names: A name per output.
        ids: Another name (WordNet id) per output, or None.
        certain: Whether the weights are known to be trained on these classes; a guess may be overruled.
    """

    names: Sequence[str]
    ids: Sequence[str] | None = None
    certain: bool = True


@dataclass(frozen=True)
class ClassMap:
    """``outputs[label]`` is the network's class number of a label of the data set; ``names`` name the outputs."""

    outputs: tuple[int, ...]
    names: tuple[str, ...]
    by_position: bool


def match_classes(
    dataset: Sequence[str],
    dataset_ids: Sequence[str] | None,
    model: ClassNames | None,
    num_classes: int,
    *,
    what: str,
    present: Sequence[int] | None = None,
    is_numbered: bool = False,
) -> ClassMap:
    """Match the classes of a data set to the outputs of a network, by name where both have names.

    Args:
        dataset: Names of the data set's classes.
        dataset_ids: Their WordNet ids, where there are any.
        model: Names of the network's outputs, or None if they are not known.
        num_classes: Number of outputs.
        what: The data set and the network, for messages.
        present: Labels that occur, all by default; other labels need no match.
        is_numbered: Whether the data set's names are only numbers, which stand for the network's outputs where these
            have other names; the last of them may have no images.

    Raises:
        InputError: Some names match and others do not, or there are no names to match and the numbers differ.
    """
    if model is not None and len(model.names) == num_classes:
        numbers = _numbers(model)
        rows = list(zip(dataset, dataset_ids or dataset, strict=True))
        outputs = [numbers.get(_normal(identifier), numbers.get(_normal(name))) for name, identifier in rows]
        needed = range(len(outputs)) if present is None else present
        unmatched = [dataset[label] for label in needed if outputs[label] is None]
        if not unmatched:
            _refuse_doubles(dataset, outputs, what)
            return ClassMap(tuple(-1 if n is None else n for n in outputs), tuple(model.names), by_position=False)
        if not is_numbered and (model.certain or len(unmatched) < len(needed)):
            raise InputError(
                f"{what}: the class {unmatched[0]!r}"
                + (f" and {len(unmatched) - 1} more are" if len(unmatched) > 1 else " is")
                + f" not among the network's {num_classes} classes ({first_few(model.names)}).",
                hint="Name the class folders as the network's classes, or use the data set that it was trained on.",
            )
    if is_numbered and len(dataset) <= num_classes:
        names = model.names if model is not None and len(model.names) == num_classes else map(str, range(num_classes))
        return ClassMap(tuple(range(len(dataset))), tuple(names), by_position=True)
    if len(dataset) != num_classes:
        raise InputError(f"{what}: the data set has {len(dataset)} classes, but the network has {num_classes}.")
    return ClassMap(tuple(range(num_classes)), tuple(dataset), by_position=True)


def _refuse_doubles(dataset: Sequence[str], outputs: Sequence[int | None], what: str) -> None:
    owners: dict[int, str] = {}
    for name, number in zip(dataset, outputs, strict=True):
        if number is not None and owners.setdefault(number, name) != name:
            raise InputError(f"{what}: {owners[number]!r} and {name!r} are both class {number} of the network.")


def _normal(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def _numbers(model: ClassNames) -> dict[str, int]:
    """Class numbers by name and by id; a name that several classes share (ImageNet's crane) stands for none of them."""
    numbers: dict[str, int | None] = {}
    for names in (model.names, model.ids or ()):
        for number, name in enumerate(names):
            key = _normal(name)
            numbers[key] = None if key in numbers else number
    return {name: number for name, number in numbers.items() if number is not None}
