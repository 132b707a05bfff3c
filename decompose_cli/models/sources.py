"""The source files that a network of the user's is made of, by which its cached features are told apart."""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from decompose_cli.storage.files import sha256_of
from decompose_cli.storage.fingerprints import digest_of

_PACKAGE = Path(__file__).resolve().parent.parent
_NAME = re.compile(r"[\w./-]{1,200}")
_INSTALLED = {"site-packages", "dist-packages"}


def source_digest(module_name: str) -> str:
    """Digest of every file that may define a network, for a module that has been imported.

    These are the files of its own top-level package; of all modules by now imported that are neither installed packages
    nor part of Python or of decompose, wherever on the Python path they lie; and of what its package, and what that
    names, imports later, inside a function, or names as a text: modules, and other files beside the source or in the
    current folder.
    Upgrades of installed packages do not change the digest; edits of the user's own files do.
    """
    top = module_name.split(".")[0]
    files: dict[str, Path] = {}
    for name, module in list(sys.modules.items()):
        text = getattr(module, "__file__", None)
        if not isinstance(text, str) or name == "__main__":
            continue
        if (name.split(".")[0] == top or _lies_locally(text)) and _on_disk(file := Path(text)).is_file():
            files[name] = file
    waiting, looked_for = [name for name in files if name.split(".")[0] == top], set()
    while waiting:
        name = waiting.pop()
        file = files[name]
        for wanted in _mentioned(name, file, _stamp(file)):
            for data in (file.parent / wanted, Path(wanted)):
                if "." in wanted and data.is_file():
                    files[f"file {data}"] = data
            if wanted in looked_for or _is_installed(wanted.split(".")[0]):
                continue
            looked_for.add(wanted)
            for part, source in _located(wanted):
                if part not in files:
                    files[part] = source
                    waiting.append(part)
    return digest_of({name: _sha256(file, _stamp(file)) for name, file in files.items()})


def _stamp(file: Path) -> tuple[int, int]:
    """Time and size by which an unchanged file is known; those of the archive that a module lies in."""
    status = _on_disk(file).stat()
    return status.st_mtime_ns, status.st_size


def _on_disk(file: Path) -> Path:
    """The file itself, or the archive on the Python path that has it inside."""
    return next((path for path in (file, *file.parents) if path.is_file()), file)


@cache
def _sha256(file: Path, _: tuple[int, int]) -> str:
    return sha256_of(_on_disk(file))


def _is_installed(top: str) -> bool:
    """Whether a top-level name is Python's own, or of an installed package that has been imported."""
    if top in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(top), "__file__", None)
    return isinstance(file, str) and not _lies_locally(file)


@cache  # of thousands of modules, for every network
def _lies_locally(text: str) -> bool:
    file = Path(text)
    try:
        return _is_local(file.resolve().parent if file.is_symlink() else file.parent)
    except OSError:
        return False


@cache  # thousands of modules lie in a few hundred folders, and asking where one really is takes its time
def _is_local(folder: Path) -> bool:
    real = folder.resolve()
    own = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
    return not _INSTALLED & set(real.parts) and not any(real.is_relative_to(path) for path in (*own, _PACKAGE))


@cache
def _mentioned(name: str, file: Path, _: tuple[int, int]) -> tuple[str, ...]:
    """What a source file names in an import, wherever it stands in the file, or as a text: modules, and other files."""
    if file.suffix != ".py" or not file.is_file():
        return ()
    try:
        return tuple(dict.fromkeys(_named(ast.parse(file.read_bytes()), name, file)))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return ()


def _named(tree: ast.AST, name: str, file: Path) -> Iterator[str]:
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            above = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _NAME.fullmatch(node.value):
            yield node.value  # importlib.import_module("parts"), or open("widths.json")


def _located(name: str) -> Iterator[tuple[str, Path]]:
    """The local files of a module and of the packages that it is in; nothing is imported to find them."""
    path: Sequence[str] | None = None
    parts = name.split(".")
    for number in range(len(parts)):
        part = ".".join(parts[: number + 1])
        try:
            specs = (finder.find_spec(part, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
            spec = next((one for one in specs if one is not None), None)
        except Exception:  # finders of others
            return
        if spec is None:
            return
        if spec.origin is not None and (file := Path(spec.origin)).is_file():
            if not _lies_locally(spec.origin):
                return
            yield part, file
        path = spec.submodule_search_locations
        if path is None:
            return
        path = list(path)
