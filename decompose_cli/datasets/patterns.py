"""Files of a data set that a pattern or a folder names, by split."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from decompose_cli.datasets.source import Source
from decompose_cli.datasets.splits import SPELLINGS, say_others, split_called, split_in
from decompose_cli.errors import InputError, first_few, first_line, param

_MOST = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SPLIT = "{split}"


def files_by_split(source: Source, suffixes: Sequence[str], what: str) -> dict[str, list[Path]]:
    """The files of each split, in the order of the pattern; those of a folder or of ``*`` by name.

    A pattern is a path in which ``{000..009}`` and ``{a,b}`` are expanded as by a shell, ``*`` and ``?`` stand for
    letters, and ``{split}`` for the name of the split. Otherwise the splits are told by words in the names of files, or
    by the folders that these are in. Files none of which says a split are ``test``.

    Args:
        source: What was typed.
        suffixes: How such files end, in small letters.
        what: What they are, for messages: ``shards``.

    Raises:
        InputError: There are none, one that is named is not there, or only some of the files say their split.
    """
    path = source.path
    if path.is_dir():
        inside = _in_folder(path, tuple(suffixes))
        if not inside:
            raise InputError(
                f"The folder {path} of {param('dataset')} {source.name} has no {what} ({', '.join(suffixes)})."
            )
        return _grouped(inside, source)
    if _SPLIT not in source.rest:
        files = _expanded(str(path), source)
        base = Path(os.path.commonpath([file.absolute().parent for file in files]))
        return _grouped([(_said_split(file, base), file) for file in files], source)
    found = {}
    for split, spellings in SPELLINGS.items():
        patterns = {spelling: str(path).replace(_SPLIT, spelling) for spelling in spellings}
        there = [each for each, pattern in patterns.items() if any(map(_matching, _braced(pattern, source)))]
        if there:
            found[split] = _expanded(patterns[there[0]], source)
            say_others(there[0], there, split, path)
    if not found:
        raise InputError(
            f"There is no file {path} of {param('dataset')} {source.name}, with train, val or test for {_SPLIT}."
        )
    return found


def _grouped(files: Sequence[tuple[str | None, Path]], source: Source) -> dict[str, list[Path]]:
    """The files of each split, where each file is given with the split that it says; those that say none are ``test``.

    Raises:
        InputError: Some say one and others do not: whatever these hold, it would be mixed with test images.
    """
    found: dict[str | None, list[Path]] = {}
    for split, file in files:
        found.setdefault(split, []).append(file)
    silent = found.pop(None, [])
    if silent and found:
        which = (
            f" and {len(silent) - 1} more do not say which split they are"
            if len(silent) > 1
            else (" does not say which split it is")
        )
        raise InputError(
            f"{silent[0]}{which} of, while other files of {param('dataset')} {source.name} do "
            f"({first_few(file.name for files in found.values() for file in files)}).",
            hint="Name files after train, val or test, or name only those that are meant.",
        )
    return {split or "test": own for split, own in found.items()} or {"test": silent}


def _said_split(file: Path, base: Path) -> str | None:
    """The split that a file says by a word of its name, or else by the nearest folder from ``base`` on."""
    if (split := split_in(file.name)) is not None:
        return split
    for folder in file.absolute().parents:
        if (split := split_called(folder.name)) is not None:
            return split
        if folder == base:
            break
    return None


def _in_folder(folder: Path, suffixes: tuple[str, ...]) -> list[tuple[str | None, Path]]:
    found: list[tuple[str | None, Path]] = []
    places = [(folder, "")] + [(child, child.name) for child in sorted(folder.iterdir()) if child.is_dir()]
    for place, name in places:
        if name and split_called(name) is None:
            continue
        for file in sorted(place.iterdir()):
            if file.name.lower().endswith(suffixes) and not file.name.startswith(".") and file.is_file():
                found.append((split_called(name) if name else split_in(file.name), file))
    return found


def _expanded(pattern: str, source: Source) -> list[Path]:
    files: list[Path] = []
    missing: list[str] = []
    for name in _braced(pattern, source):
        matching = _matching(name)
        files += matching
        missing += [] if matching else [name]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"The file {missing[0]}{more} of {param('dataset')} {source.name} {'do' if more else 'does'} not exist."
        )
    folders = [file for file in files if not file.is_file()]
    if folders:
        raise InputError(f"{first_few(folders)} of {param('dataset')} {source.name} is no file.")
    return files


def _matching(name: str) -> list[Path]:
    path = Path(name)
    if os.path.lexists(path):
        return [path]
    if not re.search(r"[*?\[]", name):
        return []
    try:
        return sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
    except (ValueError, NotImplementedError) as error:
        raise InputError(f"{name} is no pattern of files: {first_line(error)}.") from error


def _braced(pattern: str, source: Source) -> Iterator[str]:
    """All texts that a shell makes of ``{a,b}`` and ``{000..009}``, the first braces changing slowest."""
    count = 1
    for braces in _BRACES.finditer(pattern):
        count *= len(_choices(braces[1]) or [""])
        if count > _MOST:
            raise InputError(f"{param('dataset')} {source.name} stands for more than {_MOST:,} files.")
    yield from _each(pattern)


def _each(pattern: str) -> Iterator[str]:
    for braces in _BRACES.finditer(pattern):
        choices = _choices(braces[1])
        if choices is not None:
            for choice in choices:
                for rest in _each(pattern[braces.end() :]):
                    yield f"{pattern[: braces.start()]}{choice}{rest}"
            return
    yield pattern


def _choices(text: str) -> list[str] | None:
    if (bounds := _RANGE.fullmatch(text)) is not None:
        first, last = int(bounds[1]), int(bounds[2])
        if abs(last - first) > _MOST:
            return [""] * (_MOST + 1)
        width = max(map(len, bounds.groups())) if any(b.startswith("0") for b in bounds.groups()) else 0
        return [f"{number:0{width}}" for number in range(first, last + 1)] or [
            f"{number:0{width}}" for number in range(first, last - 1, -1)
        ]
    return text.split(",") if "," in text else None
