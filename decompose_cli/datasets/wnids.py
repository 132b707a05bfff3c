"""The WordNet ids of ImageNet's classes, and the words that they stand for."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The 1000 WordNet ids in the order of the class numbers, and their English names."""
    text = (files("decompose_cli.datasets") / "imagenet_classes.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()]
    return tuple(row[0] for row in rows), tuple(row[1] for row in rows)


def named_by_wnid(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Class names in which WordNet ids of ImageNet become words, and the ids; names as they are, where any is none.

    >>> named_by_wnid(("n01440764", "n02123045"))
    (('tench', 'tabby'), ('n01440764', 'n02123045'))
    """
    if not names or not names[0].startswith("n"):
        return names, None
    words = dict(zip(*imagenet_classes(), strict=True))
    if not all(name in words for name in names):
        return names, None
    return tuple(words[name] for name in names), names
