"""Which split a name of a folder, a file or a column stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable

from decompose_cli.errors import first_few
from decompose_cli.messages import note

SPLITS = ("train", "val", "test")
PREFERRED = ("test", "val", "train")
"""Splits in the order in which they are preferred for testing."""
SPELLINGS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""How the splits are called, in any case of letters; the usual name first."""
_BY_SPELLING = {spelling: split for split, spellings in SPELLINGS.items() for spelling in spellings}


def split_called(name: str) -> str | None:
    """The split that a name is another spelling of, such as ``Test`` or ``validation``.

    >>> split_called("Validation"), split_called("tests")
    ('val', None)
    """
    return _BY_SPELLING.get(name.strip().casefold())


def split_in(name: str) -> str | None:
    """The split that one word of a name stands for, if exactly one does.

    >>> split_in("imagenet-train-000012.tar"), split_in("train_and_test.csv"), split_in("all.csv")
    ('train', None, None)
    """
    found = {split for word in re.split(r"[^A-Za-z]+", name) if (split := split_called(word)) is not None}
    return found.pop() if len(found) == 1 else None


def say_others(used: str, there: Iterable[str], split: str, where: object) -> None:
    """Say which of several things that may be one split is used, where there are others."""
    others = [name for name in there if name != used]
    if others:
        note(f"{where} has {first_few([used, *others], 4)} for the split {split}, of which {used} is used.")


def in_preferred_order(splits: Iterable[str]) -> tuple[str, ...]:
    """The splits in the order in which they are preferred for testing."""
    there = set(splits)
    return tuple(split for split in PREFERRED if split in there)
