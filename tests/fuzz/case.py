"""What a case is made of, and how its folder is filled."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Late = Callable[[Path], bytes]
"""Makes the content of a file when all others are in place, of the folder of the case."""
Content = bytes | Path | Late | None
INPUTS, WORK, CACHE, TEMPORARY = "in", "work", "cache", "tmp"
"""Folders of a case: what must not change, the working directory, the cache if it has one of its own, ``$TMPDIR``."""
_LONG = 600
SEEDS = "seeds"
"""A link to the seeds, in the folder of a case."""


@dataclass(frozen=True)
class Case:
    """A command in a folder of its own.

    Attributes:
        seed: Makes the same case again.
        mutator: What was changed, for the table.
        reader: What reads it.
        arguments: Of the program.
        files: By path in the folder of the case: bytes, a file or folder of the seeds to be copied, a function that is
            called last, or None for a folder.
        environment: Variables that are set.
        unset: Variables that are not there.
    """

    seed: int
    mutator: str
    reader: str
    arguments: list[str]
    files: Mapping[str, Content] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()

    def line(self) -> str:
        """The command as it would be typed, with what is changed around it, in ASCII."""
        words = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        words = [*(["env", *(f"-u {name}" for name in self.unset)] if self.unset else []), *words]
        text = " ".join([*words, shlex.join(["decompose", *self.arguments])])
        return ascii(text if len(text) < _LONG else f"{text[:_LONG]} ...")[1:-1]

    def fill(self, folder: Path, seeds: Path) -> None:
        """Write the files of the case below its folder, which is new."""
        for name in (INPUTS, WORK, TEMPORARY):
            (folder / name).mkdir(parents=True)
        (folder / SEEDS).symlink_to(seeds)
        for name, content in self.files.items():
            if not callable(content):
                _put(folder / name, content)
        for name, content in self.files.items():
            if callable(content):
                _put(folder / name, content(folder))


def _put(path: Path, content: bytes | Path | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.unlink(missing_ok=True)
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content.is_dir():
        shutil.copytree(content, path, dirs_exist_ok=True)
    else:
        shutil.copy2(content, path)


State = dict[str, tuple[int, int]]


def state_of(folder: Path) -> State:
    """Size and time of all files below a folder; 0 for folders."""
    found: State = {}
    for place, folders, files in os.walk(os.fsencode(folder)):
        for name in folders:
            found[os.fsdecode(os.path.join(place, name))] = (0, 0)  # noqa: PTH118
        for name in files:
            path = os.path.join(place, name)  # noqa: PTH118
            status = os.lstat(path)
            found[os.fsdecode(path)] = (status.st_size, status.st_mtime_ns)
    return found
