"""The source files that a network of the user's is made of, by which its cached features are told apart."""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

from decompose_cli.storage.files import sha256_of
from decompose_cli.storage.fingerprints import digest_of

_PACKAGE = Path(__file__).resolve().parent.parent
_INSTALLED = {"site-packages", "dist-packages"}


def source_digest(module_name: str) -> str:
    """Digest of every file that may define a network, for a module that has been imported.

    These are the files of its own top-level package; of all modules by now imported that are neither installed packages
    nor part of Python or of decompose, wherever on the Python path they lie; and of what any of these imports later,
    inside a function. Upgrades of installed packages do not change the digest; edits of the user's own files do.
    """
    top = module_name.split(".")[0]
    files: dict[str, Path] = {}
    for name, module in list(sys.modules.items()):
        file = _file_of(module)
        if file is None or name == "__main__":
            continue
        folder = _real_folder(file)
        if folder is not None and (name.split(".")[0] == top or _is_local(folder)):
            files[name] = file
    waiting = list(files)
    while waiting:
        name = waiting.pop()
        for wanted in _imports(name, files[name]):
            for part, file in _located(wanted):
                if part not in files:
                    files[part] = file
                    waiting.append(part)
    return digest_of({name: sha256_of(file) for name, file in files.items() if file.is_file()})


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if isinstance(file, str) else None


def _real_folder(file: Path) -> Path | None:
    try:
        return file.resolve().parent if file.is_symlink() else file.parent
    except OSError:
        return None


@cache  # thousands of modules lie in a few hundred folders, and asking where one really is takes its time
def _is_local(folder: Path) -> bool:
    real = folder.resolve()
    own = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
    return not _INSTALLED & set(real.parts) and not any(real.is_relative_to(path) for path in (*own, _PACKAGE))


def _imports(name: str, file: Path) -> Iterator[str]:
    """The modules that a source file names in an import statement, wherever it stands in the file."""
    if file.suffix != ".py":
        return
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError):
        return
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
            if (folder := _real_folder(file)) is None or not _is_local(folder):
                return
            yield part, file
        path = spec.submodule_search_locations
        if path is None:
            return
        path = list(path)
