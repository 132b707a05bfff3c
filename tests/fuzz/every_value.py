"""Every kind of place in every document of the seeds, one after the other, holds another kind of value, or none.

Mutators by chance change few of a thousand values, and mostly those that come often. Here each kind of place is tried,
in documents, in the records beside weights, and in the headers of the cache, whose checksums are right.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from helpers.wrong_values import MISSING, PLAIN, Place, changed, places

from fuzz.case import Case
from fuzz.cases import Cases
from fuzz.readers import Reader

_DEPTH = 10_000
_DEEP = "lists that lie deep in one another"
WRONG = [*PLAIN, "", 0, True, 1e308, -math.inf, "\0\x1b[2J\u202e", _DEEP]
_RECORD = "__metadata__"
_Packed = tuple[Any, Callable[[Any], bytes]]


class EveryValue(Cases):
    """The cases, by number; see :attr:`count`."""

    again = "python tests/fuzz --every 1 --case"

    @cached_property
    def _all(self) -> list[tuple[Reader, Place, int]]:
        readers, _ = self._readers
        chosen = {(reader.source, reader.arguments[0]): reader for reader in reversed(readers)}
        found = []
        for reader in sorted(chosen.values(), key=lambda reader: (reader.source, reader.arguments)):
            content = self._opened(reader.source)
            if content is not None:
                value, _ = content
                found += [
                    (reader, place, number)
                    for place in places(value)
                    for number, wrong in enumerate(WRONG)
                    if (place or wrong is not MISSING) and place[-1:] != ("compile",)  # which calls a compiler
                ]
        return found

    @property
    def count(self) -> int:
        """How many cases there are."""
        return len(self._all)

    def of(self, seed: int) -> Case:
        """The case of a number."""
        reader, place, wrong = self._all[seed]
        content = self._opened(reader.source)
        assert content is not None
        value, pack = content
        other = changed(value, place, WRONG[wrong])
        files = {where: self.seeds / source for where, source in reader.beside.items()}
        told = f"{reader.name} {Path(reader.source).name}"
        return Case(seed, told, ".".join(map(str, place)), list(reader.arguments), {**files, reader.place: pack(other)})

    def _opened(self, source: str) -> _Packed | None:
        """What a document holds, and how it is written; None for other files."""
        path = self.seeds / source
        if path.name == "header.json" and source.startswith("cache/"):
            return json.loads(path.read_bytes()), _with_checksum
        if path.suffix == ".json":
            return json.loads(path.read_bytes()), _as_json
        if path.suffix == ".safetensors":
            return _of_safetensors(path.read_bytes())
        return None


def _as_json(value: Any) -> bytes:
    deep = "[" * _DEPTH + "]" * _DEPTH
    return json.dumps(value).replace(json.dumps(_DEEP), deep).encode()


def _with_checksum(value: Any) -> bytes:
    from decompose_cli.storage.fingerprints import digest_of

    if isinstance(value, dict) and "checksum" in value:
        named = {name: part for name, part in value.items() if name != "checksum"}
        value = {**value, "checksum": digest_of(named)}
    return _as_json(value)


def _of_safetensors(content: bytes) -> _Packed:
    (length,) = struct.unpack("<Q", content[:8])
    header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
    records = header.get(_RECORD, {})
    inner = {name: json.loads(text) for name, text in records.items() if text[:1] in "{["}

    def pack(value: Any) -> bytes:
        if isinstance(value, dict) and isinstance(value.get(_RECORD), dict):
            # Where all of a record is another value it stands as it is, for strings alone may stand there.
            texts = {
                name: _as_json(part).decode() if isinstance(inner.get(name), type(part)) else part
                for name, part in value[_RECORD].items()
            }
            value = {**value, _RECORD: texts}
        text = _as_json(value)
        return struct.pack("<Q", len(text)) + text + rest

    return {**header, _RECORD: {**records, **inner}}, pack
