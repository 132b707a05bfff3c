"""Folders whose files are missing, doubled, of another kind, and journals of updates that were broken off."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

from fuzz.case import Content, Late
from fuzz.mutators.structure import as_json, changed, odd_text

_STRANGERS = (".lock", "x.tmp", "\udcff", "a\nb", "last.pt")


def missing(random: Random, files: dict[str, Content], place: str, root: Path) -> dict[str, Content]:
    """The file is not there, is a folder, is another file, or stands beside one of another name."""
    found = dict(files)
    content = found.pop(place)
    kind = random.randrange(5)
    others = sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size < 20_000)
    if kind == 0:
        found[place] = None
    elif kind == 1:
        found[place] = random.choice(others)
    elif kind == 2:
        found[f"{place}.bak"] = content
    elif kind == 3:
        found[place] = b""
    else:
        found[place] = content
        found[f"{place.rpartition('/')[0]}/{random.choice(_STRANGERS)}"] = b""
    return found


def journal(seed: int, folder: str) -> Late:
    """A journal of an update of the folder that was broken off, with something wrong in it."""

    def make(case: Path) -> bytes:
        random = Random(seed)
        root = case / folder
        files = sorted(path for path in root.iterdir() if path.is_file())
        placed: list[dict[str, Any]] = []
        for number, path in enumerate(files[:2]):
            new = f".decompose-new{number}.tmp"
            status = os.lstat(path)
            stamp = [status.st_ino, status.st_size, status.st_mtime_ns]
            if random.random() < 0.6:
                (root / new).write_bytes(b"new")
                status = os.lstat(root / new)
                stamp = [status.st_ino, status.st_size, status.st_mtime_ns]
            if random.random() < 0.6:
                (root / f".decompose-new{number}.old").write_bytes(b"old")
            placed.append({"target": path.name, "new": new, "old": f".decompose-new{number}.old", "stamp": stamp})
        value: Any = {"format": 1, "placed": placed, "removed": []}
        if random.random() < 0.5:
            value["removed"] = [{"target": random.choice(("result.json", "../in/x", "/etc/x")), "stamp": [1, 2, 3]}]
        for _ in range(random.choice((0, 1, 1, 2))):
            value = changed(random, value)
        text = odd_text(random, as_json(value))
        return text[: random.randint(0, len(text))] if random.random() < 0.2 else text

    return make
