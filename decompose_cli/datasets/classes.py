"""Match the classes of a data set to the outputs of a network."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from decompose_cli.errors import InputError, first_few, param, shortened


class UnmatchedError(InputError):
    """Classes that are not the network's; the hint names ``class_map``, which not every command has."""


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
    """``outputs[label]`` is the network's class number of a label of the data set; ``names`` name the outputs.

    A label has -1 where it has no output. ``ids`` are other names (WordNet ids) of the outputs, where there are any.
    """

    outputs: tuple[int, ...]
    names: tuple[str, ...]
    by_position: bool
    ids: tuple[str, ...] | None = None

    def called(self, output: int) -> str:
        """A text that means this output in a class map: its name, else its id, else its number."""
        known = _numbers(ClassNames(self.names, self.ids))
        texts = [names[output] for names in (self.names, self.ids) if names is not None]
        return next((text for text in texts if known.get(_normal(text)) == output), str(output))

    def of_classes(self, numbers: Sequence[int]) -> ClassMap:
        """The map to a head of some of the outputs alone, in this order."""
        places = {number: place for place, number in enumerate(numbers)}
        return ClassMap(
            tuple(places.get(number, -1) for number in self.outputs),
            tuple(self.names[number] for number in numbers),
            self.by_position,
            None if self.ids is None else tuple(self.ids[number] for number in numbers),
        )


FOR_OTHERS = " If they are other classes, 'decompose train --new-head' fits a head for them."
"""What is said of a data set that seems to have other classes than a network."""


def match_classes(
    dataset: Sequence[str],
    dataset_ids: Sequence[str] | None,
    model: ClassNames | None,
    num_classes: int,
    *,
    what: str,
    present: Sequence[int] | None = None,
    is_numbered: bool = False,
    given: Mapping[str, str | int] | None = None,
) -> ClassMap:
    """Match the classes of a data set to the outputs of a network, by name where both have names.

    A class is matched by its id, else by its name; ``given`` goes before both.

    Args:
        dataset: Names of the data set's classes.
        dataset_ids: Their WordNet ids, where there are any.
        model: Names of the network's outputs, or None if they are not known.
        num_classes: Number of outputs.
        what: The data set and the network, for messages.
        present: Labels that occur, all by default; other labels need no match.
        is_numbered: Whether the data set's names are only numbers, which stand for the network's outputs where these
            have other names, beside those that are given; the last of them may have no images.
        given: For some classes of the data set, by name or id, the name, id or number of an output.

    Raises:
        UnmatchedError: Some names match and others do not, or there are no names to match and the numbers differ.
        InputError: A class that was given does not exist, or two classes have one output.
    """
    are_named = model is not None and len(model.names) == num_classes
    if given or (model is not None and are_named):
        numbers = _numbers(model) if model is not None and are_named else {}
        rows = list(zip(dataset, dataset_ids or dataset, strict=True))
        outputs = [numbers.get(_normal(identifier), numbers.get(_normal(name))) for name, identifier in rows]
        needed = range(len(outputs)) if present is None else present
        is_filled = False
        if given:
            outputs = _overruled(outputs, rows, given, numbers, num_classes, what)
        if given and is_numbered:
            others = [label for label, row in enumerate(rows) if not given.keys() & {*row}]
            for label in set(others).difference(needed):  # whose outputs are free
                outputs[label] = None
            others = [label for label in others if label in needed]
            if is_filled := any(outputs[label] is None for label in others):
                for label in others:
                    outputs[label] = label if label < num_classes else None
        if model is None or not are_named:
            model = ClassNames(
                _named_by((), (), num_classes) if is_numbered else _named_by(dataset, outputs, num_classes)
            )
        unmatched = [dataset[label] for label in needed if outputs[label] is None]
        if not unmatched:
            _refuse_doubles(dataset, outputs, what)
            ids = None if model.ids is None else tuple(model.ids)
            return ClassMap(tuple(-1 if n is None else n for n in outputs), tuple(model.names), is_filled, ids)
        if given or (not is_numbered and (model.certain or len(unmatched) < len(needed))):
            raise UnmatchedError(
                f"{what}: the class {unmatched[0]!r}"
                + (f" and {len(unmatched) - 1} more are" if len(unmatched) > 1 else " is")
                + f" not among the network's {num_classes} classes ({first_few(model.names)}).",
                hint=f"Say in the file of {param('class_map')} which class of the network each of them is."
                if given
                else "Name the classes as the network's are, or say with a file of both names which is which "
                f"({param('class_map')}).{FOR_OTHERS}",
            )
    if is_numbered and len(dataset) <= num_classes:
        names = model.names if model is not None and len(model.names) == num_classes else map(str, range(num_classes))
        return ClassMap(tuple(range(len(dataset))), tuple(names), by_position=True)
    if len(dataset) != num_classes:
        raise UnmatchedError(
            f"{what}: the data set has {len(dataset)} classes, but the network has {num_classes}.",
            hint=f"Say with a file of names and numbers which is which ({param('class_map')}).{FOR_OTHERS}"
            if len(dataset) < num_classes
            else FOR_OTHERS.strip(),
        )
    ids = None if dataset_ids is None else tuple(dataset_ids)
    return ClassMap(tuple(range(num_classes)), tuple(dataset), True, ids)


def _overruled(
    outputs: Sequence[int | None],
    rows: Sequence[tuple[str, str]],
    given: Mapping[str, str | int],
    numbers: Mapping[str, int],
    num_classes: int,
    what: str,
) -> list[int | None]:
    """The outputs, those of classes that were given as they were given."""
    labels = {name: label for label, row in enumerate(rows) for name in row}
    result = list(outputs)
    for name, wanted in given.items():
        if name not in labels:
            close = difflib.get_close_matches(name, labels, n=1)
            is_first = name == next(iter(given)) and len(given) > 1
            heading = "A first line that names the columns is 'dataset,network'." if is_first else None
            raise InputError(
                f"{param('class_map')} names the class {name!r}, which is not among the data set's "
                f"({first_few(row[0] for row in rows)}).",
                hint=f"Did you mean {close[0]}?" if close else heading,
            )
        number = numbers.get(_normal(str(wanted)))
        digits = str(wanted).lstrip("0") or str(wanted)[:1]
        if number is None and digits.isascii() and digits.isdigit() and len(digits) <= len(str(num_classes)):
            number = int(digits) if int(digits) < num_classes else None
        if number is None:
            known = f" ({first_few(numbers)})" if numbers else ", whose classes have no names known here"
            raise InputError(
                f"{what}: {param('class_map')} gives {name!r} the class {shortened(repr(wanted))}, which is neither a "
                f"name, an id nor a number of the network's {num_classes} classes{known}."
            )
        result[labels[name]] = number
    return result


def _named_by(dataset: Sequence[str], outputs: Sequence[int | None], num_classes: int) -> list[str]:
    """Names of outputs: those of the data set's classes, and numbers where no class of it is matched."""
    names = [str(number) for number in range(num_classes)]
    for name, number in zip(dataset, outputs, strict=True):
        if number is not None:
            names[number] = name
    return names


def _refuse_doubles(dataset: Sequence[str], outputs: Sequence[int | None], what: str) -> None:
    owners: dict[int, int] = {}
    for label, number in enumerate(outputs):
        if number is not None and (other := owners.setdefault(number, label)) != label:
            first, second = dataset[other], dataset[label]
            both = f"{first!r} and {second!r}" if first != second else f"two classes that are called {first!r}"
            raise InputError(f"{what}: {both} are both class {number} of the network.")


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
