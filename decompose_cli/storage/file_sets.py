"""Files that belong together: written all or none, and replaced only where decompose wrote what is there."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from decompose_cli.errors import InputError, param
from decompose_cli.storage.files import (
    as_bytes,
    atomic_path,
    check_place,
    finish_staged,
    staged_path,
    write_under_new_name,
)
from decompose_cli.storage.journal import commit
from decompose_cli.storage.matrices import SUFFIX
from decompose_cli.storage.ownership import holds_run
from decompose_cli.storage.system_errors import explained
from decompose_cli.storage.text_files import read_result

if TYPE_CHECKING:
    from decompose_cli.storage.result_document import ResultDocument

Content = str | bytes | Callable[[Path], object]
"""What comes into a file: text, bytes, or a function that writes them to a path."""


def write_files(contents: Mapping[Path, Content], remove: Iterable[Path] = ()) -> None:
    """Write several files and remove others; after an error or an interruption of any kind, all is done or nothing.

    Args:
        contents: At least one file and what comes into it; folders are made.
        remove: Files that have to go, as far as they are there and nothing is written to them.

    Raises:
        DecomposeError: One of the files cannot be written.
    """
    removed = [path for path in remove if path not in contents and os.path.lexists(path)]
    root = Path(os.path.commonpath([path.parent for path in (*contents, *removed)]))
    first = next(iter(contents))
    staged: dict[Path, Path] = {}
    with ExitStack() as stack:
        for target, content in contents.items():
            with explained(target):
                if target.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                temporary = stack.enter_context(staged_path(target))
                _fill(temporary, content)
                finish_staged(temporary)
            staged[temporary] = target
        with explained(first):
            if len(staged) > 1 or removed:
                commit(root, staged, removed)
            else:
                temporary.replace(first)


def _fill(path: Path, content: Content) -> None:
    if isinstance(content, str | bytes):
        path.write_bytes(as_bytes(content) if isinstance(content, str) else content)
    else:
        content(path)


def written_with(manifest: Path, usual: Iterable[Path] = ()) -> set[Path]:
    """The files that a result document says were written together with it, itself among them.

    Documents of earlier versions do not list them, but say in their results where pictures and index files are.

    Args:
        manifest: The document; without one, and if it is no result of decompose, there are no files.
        usual: Files that earlier versions wrote as well.
    """
    try:
        content = read_result(manifest) if manifest.is_file() else None  # reading a pipe would not end
    except (InputError, OSError):
        return set()
    if not isinstance(content, dict) or not {"schema_version", "command", "results"} <= content.keys():
        return set()
    listed = content.get("files")
    names = listed if isinstance(listed, list) else [Path(text).name for text in _paths_in(content["results"])]
    paths = [PurePosixPath(name) for name in names if isinstance(name, str)]
    inside = {manifest.parent / path for path in paths if not path.is_absolute() and ".." not in path.parts}
    return {manifest, *inside, *(usual if listed is None else ())}


def replaced_with(output: Path, manifest: str) -> set[Path]:
    """The files that an output takes the place of: a file itself; of a folder its run, or what its result lists.

    Args:
        output: The file or the folder.
        manifest: The name that a result has in a folder.
    """
    if not output.is_dir():
        return {output, *_matrices_of(output)}
    if holds_run(output):
        return {path for path in output.rglob("*") if path.is_file()}
    return written_with(output / manifest)


def _matrices_of(manifest: Path) -> set[Path]:
    """The files of matrices beside a result document that is there."""
    return {path for path in written_with(manifest) if path.suffix == SUFFIX}


def _paths_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            if name in ("file", "plot", "sheet") and isinstance(item, str):
                yield item
            yield from _paths_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _paths_in(item)


def check_replaceable(targets: Collection[Path], manifest: Path, *, overwrite: bool) -> None:
    """Refuse, before any work is done, to write files over others that are not of an earlier result in this place.

    Args:
        targets: The files that will be written.
        manifest: The result document that will list them.
        overwrite: Whether the files of an earlier result may be replaced.

    Raises:
        InputError: One of them cannot be written, may not be replaced, or is not of decompose.
    """
    for path in targets:
        check_place(path, overwrite=overwrite)
    if holds_run(manifest.parent):
        raise InputError(
            f"{manifest.parent} holds the run of a training, and takes no other results.",
            hint=f"Choose another {param('output')}.",
        )
    present = [path for path in targets if os.path.lexists(path)]
    ours = written_with(manifest, targets) if present else set()
    if foreign := [path for path in present if path not in ours]:
        raise InputError(
            f"{foreign[0]} is not listed in a result of decompose in {manifest}, so it is not overwritten.",
            hint=f"Remove it, or choose another {param('output')}.",
        )


def write_result(document: ResultDocument[Any], manifest: Path, contents: Mapping[Path, Content]) -> None:
    """Write a result document with the files that belong to it; those of the result that was there before go.

    Args:
        document: The result, which gets the names of the files.
        manifest: The file of the document; all others are in its folder or below.
        contents: The other files; the document among them is passed over.

    Raises:
        DecomposeError: One of the files cannot be written; all is as it was before.
    """
    earlier = written_with(manifest)
    document.files = [path.relative_to(manifest.parent).as_posix() for path in contents if path != manifest]
    text, beside = _parts(document, manifest, earlier)
    write_files({**contents, **beside, manifest: text}, earlier)


def write_document(document: ResultDocument[Any], path: Path) -> None:
    """Write a result document that no other files belong to, but for one of its large matrices.

    Args:
        document: The result, which gets the name of that file.
        path: The file of the document; matrices of the one that was there before go.

    Raises:
        DecomposeError: One of the files cannot be written; all is as it was before.
    """
    earlier = _matrices_of(path)
    text, beside = _parts(document, path, earlier)
    write_files({**beside, path: text}, earlier)


def write_new_document(document: ResultDocument[Any], names: Iterator[Path]) -> Path:
    """Write a result document as :func:`write_document`, under the first name that is not taken; return its path.

    Raises:
        DecomposeError: One of the files cannot be written; nothing is left behind.
    """
    if document.parts("")[1] is None:
        return write_under_new_name(names, document.to_json())
    for path in names:
        beside = path.with_suffix(SUFFIX)
        document.files = [beside.name]
        text, matrices = document.parts(beside.name)
        assert matrices is not None
        with explained(path), ExitStack() as undo:
            try:
                with atomic_path(beside, replace=False) as temporary:
                    temporary.write_bytes(matrices)
                undo.callback(beside.unlink, missing_ok=True)
                with atomic_path(path, replace=False) as temporary:
                    temporary.write_bytes(as_bytes(text))
            except FileExistsError:
                continue
            undo.pop_all()
        return path
    raise AssertionError("there is always another name")


def _parts(document: ResultDocument[Any], manifest: Path, ours: Collection[Path]) -> tuple[str, dict[Path, Content]]:
    """The text of a document, and the file of its large matrices if it has any.

    The file has the name of the document. Something else of that name is not replaced, and is no reason to lose a
    result: the file gets a number then.
    """
    numbers = itertools.count(2)
    beside = manifest.with_suffix(SUFFIX)
    while os.path.lexists(beside) and beside not in ours:
        beside = manifest.with_name(f"{manifest.stem}-{next(numbers)}{SUFFIX}")
    listed = document.files
    document.files = [*listed, beside.name]
    text, matrices = document.parts(beside.name)
    if matrices is None:
        document.files = listed
        return document.to_json(), {}
    return text, {beside: matrices}
