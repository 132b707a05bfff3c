"""What a weights file holds, weighed before anything is done with it: a few bytes can stand for terabytes.

A view with a stride of 0 is as large as its shape says, an archive can be deflated, and a list can hold one other list
a thousand times, which holds another one a thousand times.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decompose_cli.errors import InputError, first_few
from decompose_cli.storage.ordinary_files import FREE

_COPIES = 4
"""How many times as much as a file holds may stand in it by views that are larger than their numbers, and by lists."""
_DEFLATED = 20
"""How many times as long as a deflated archive what is in it may be."""
_MOST_PARTS, _DEEPEST = 2_000_000, 100
_CONTAINERS = (dict, list, tuple, set, frozenset)
_HOLD = (Tensor, *_CONTAINERS)


def check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse an archive that is far larger unpacked; ``torch.save`` deflates nothing.

    Raises:
        InputError: It is.
    """
    unpacked, size = sum(info.file_size for info in archive.infolist()), path.stat().st_size
    if unpacked > FREE + _DEFLATED * size:
        raise InputError(
            f"The weights file {path} of {size / 1e6:,.1f} MB says that {unpacked / 1e6:,.0f} MB are packed into it, "
            "which no weights are."
        )


def check_content(content: Any, path: Path) -> None:
    """Refuse content that takes far more memory than its file is long once anything is done with each of its parts.

    Args:
        content: Tensors and plain values, in mappings and lists.
        path: The file, for messages.

    Raises:
        InputError: Views repeat numbers of the file, lists repeat one another, or they lie too deep in one another.
    """
    weighed = _Weighed()
    parts, seen = weighed.of(content, "", 0)
    if parts > _MOST_PARTS + _COPIES * weighed.parts or seen > FREE + _COPIES * weighed.stored:
        views = f" ({first_few(weighed.views)})" if weighed.views else ""
        raise InputError(
            f"{path} repeats its numbers{views}: it would become {seen / 1e6:,.0f} MB in {parts:,} parts, of "
            f"{weighed.stored / 1e6:,.1f} MB in the file.",
            hint="Save tensors with numbers of their own, as tensor.contiguous() has them.",
        )
    if weighed.is_deep:
        raise InputError(f"{path} holds lists more than {_DEEPEST} deep in one another, which no weights are.")


class _Weighed:
    """Counts what stands in a file, each part as often as it is reached, without reaching any twice.

    Tensors that share a storage, as layers do that are used several times, take no more room than it does.

    Attributes:
        parts: Values that are there.
        stored: Bytes of numbers that are there.
        views: Places of views that are larger than their numbers.
        is_deep: Whether something lies too deep, so that it was not looked at.
    """

    def __init__(self) -> None:
        self.parts = 0
        self.stored = 0
        self.views: list[str] = []
        self.is_deep = False
        self._storages: set[int] = set()
        self._known: dict[int, tuple[int, int]] = {}

    def of(self, value: Any, place: str, depth: int) -> tuple[int, int]:
        """The number of parts of a value, and the bytes of all views in it that are larger than their numbers."""
        if id(value) in self._known:
            return self._known[id(value)]
        found = (1, 0)
        if isinstance(value, Tensor):
            found = (1, self._bytes_of(value, place))
        elif isinstance(value, _CONTAINERS):
            if depth >= _DEEPEST:
                self.is_deep = True
                return found
            self._known[id(value)] = found  # of a list that holds itself
            named = value.items() if isinstance(value, dict) else ((place, part) for part in value)
            weights = [self.of(part, str(name), depth + 1) for name, part in named if isinstance(part, _HOLD)]
            plain = 1 + len(value) - len(weights)
            self.parts += plain
            found = (plain + sum(parts for parts, _ in weights), sum(seen for _, seen in weights))
        else:
            return found
        self._known[id(value)] = found
        return found

    def _bytes_of(self, value: Tensor, place: str) -> int:
        if value.layout != torch.strided or value.is_meta:
            return 0  # refused by its name
        storage = value.untyped_storage()
        if storage.data_ptr() not in self._storages:
            self._storages.add(storage.data_ptr())
            self.stored += storage.nbytes()
        seen = value.numel() * value.element_size()
        if seen <= storage.nbytes():
            return 0
        self.views.append(place)
        return seen
