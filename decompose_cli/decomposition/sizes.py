"""How many features a class keeps, as it is typed: ``5``, ``5,10``, ``0.9``."""

from __future__ import annotations

import re

from decompose_cli.errors import InputError, param, shortened
from decompose_cli.printable import shortest

_MOST_KS = 10_000


def parse_k(text: str) -> list[int | float]:
    """Read ``5``, ``5,10,20`` or fractions such as ``0.9``, each once, in the order given.

    Raises:
        InputError: A part is no whole number of at least 1 and no fraction between 0 and 1, or there are over 10,000.
    """
    if (count := text.count(",") + 1) > _MOST_KS:
        raise InputError(f"{param('k')} lists {count:,} numbers, and at most {_MOST_KS:,} are read.")
    result: dict[int | float, None] = {}
    for part in text.split(","):
        word = part.strip()
        if not word and "," in text:
            raise InputError(f"{param('k')} {text!r} has a comma with no number beside it.")
        value: int | float = 0
        if re.fullmatch(r"0*[1-9]\d{0,8}", word, re.ASCII):
            value = int(word)
        elif re.fullmatch(r"0?\.\d{1,17}|\d(\.\d{1,17})?e-\d{1,2}", word, re.ASCII) and 0 < float(word) < 1:
            value = float(word)
        elif re.fullmatch(r"0*[1-9]\d{9,}", word, re.ASCII):
            raise InputError(f"{param('k')} {shortened(word)} is more than any network has features.")
        if value == 0:
            raise InputError(
                f"{param('k')} {shortened(part)!r} is neither a whole number of at least 1 nor a fraction between "
                "0 and 1."
            )
        result[value] = None
    return list(result)


def check_k(k: int | float, num_features: int, parameter: str = "k") -> None:
    """Refuse a k that no network with so many features can fill.

    Raises:
        InputError: k is more than the number of features.
    """
    if isinstance(k, int) and k > num_features:
        raise InputError(f"{param(parameter)} {k} is more than the {num_features} features that there are.")


def check_filters(indices: object, k: int | None) -> None:
    """Refuse two answers to which filters a class has, or a number of filters below one.

    Raises:
        InputError: Both were given, or ``k`` is below 1.
    """
    if k is not None and k < 1:
        raise InputError(f"{param('k')} {k} is not at least 1.")
    if indices is not None and k is not None:
        raise InputError(f"{param('indices')} and {param('k')} both say which filters a class has; give one of them.")


def check_class_drop(points: float | None, max_drop: float | None) -> None:
    """Refuse a loss that each class is allowed where none is looked for, or that is out of range.

    Args:
        points: Percentage points that a class may lose.
        max_drop: Percentage points that all classes together may lose.

    Raises:
        InputError: It is out of range, or there is no ``max_drop``.
    """
    if points is None:
        return
    if not 0 <= points < 100:
        raise InputError(f"{param('max_class_drop')} {shortest(points)} is not between 0 and 100 points.")
    if max_drop is None:
        raise InputError(
            f"{param('max_class_drop')} has no effect without {param('max_drop')}, which looks for a smallest set.",
            hint=f"Add {param('max_drop')}, which may be as large as {points:g} too.",
        )
