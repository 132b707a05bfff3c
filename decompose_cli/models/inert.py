"""Objects that stand beside the tensors of a torch file, as plain data: their classes are neither imported nor called.

A training saves its arguments (an ``argparse.Namespace``), paths, defaultdicts or objects of classes that are not even
installed here. Each of their names gets a stand-in for torch's own unpickler of weights alone, which lets nothing else
through. What the stand-in has to make is seen from what the pickle does with it afterwards.
"""

from __future__ import annotations

import pickletools
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any

_NEVER_DATA = frozenset(
    (
        *("os", "posix", "nt", "sys", "subprocess", "_posixsubprocess", "ctypes", "socket", "importlib", "runpy"),
        *("code", "codeop", "pty", "pdb", "webbrowser", "io", "_io", "shutil", "pickle", "_pickle", "marshal"),
    )
)
"""Modules that a pickle names to run something, or to write files."""
_NEVER_CALLED = frozenset(("eval", "exec", "compile", "open", "input", "breakpoint", "__import__"))
"""Functions of Python itself of that kind."""
_MOST_INSTRUCTIONS, _BYTES_OF_AN_INSTRUCTION = 300_000, 8
"""Instructions of any pickle, ten times those of a thousand tensors, and bytes of the file for each further one."""
_PICKLES = 4  # of torch's files of before 1.6: a mark, a version, the machine, and then the content


class RunsCodeError(Exception):
    """The pickle names something that only serves to run code or to write files; the text is the name."""


class TooLongError(Exception):
    """The pickle has so many instructions for its bytes that it is not followed to its end; the text is the number."""


class Inert:
    """An object of a class that is not looked at, without what it had."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def stand_ins(path: Path) -> list[tuple[Any, str]]:
    """Stand-ins for all names that the pickles of a file import, as ``torch.serialization.safe_globals`` takes them.

    Args:
        path: A file of torch, or a bare pickle.

    Raises:
        RunsCodeError: A name is of something that runs code.
        TooLongError: A pickle is not followed to its end.
        Exception: Nearly any other, where the file is damaged.
    """
    uses: dict[str, set[str]] = {}
    most = _MOST_INSTRUCTIONS + path.stat().st_size // _BYTES_OF_AN_INSTRUCTION
    for pickle in _pickles(path):
        _note_uses(pickle, uses, most)
    for name in uses:
        module, _, last = name.rpartition(".")
        if module.split(".")[0] in _NEVER_DATA or (module == "builtins" and last in _NEVER_CALLED):
            raise RunsCodeError(name)
    return [(_stand_in(found), name) for name, found in uses.items()]


def _stand_in(uses: set[str]) -> type:
    """A class that makes a list or a mapping where such a thing is filled, else an inert object.

    torch's unpickler fills no lists and mappings but Python's own, and objects of no classes but those it was given.
    """
    made: type = list if "items" in uses else OrderedDict if "entries" in uses else Inert

    class StandIn(Inert):
        def __new__(cls, *_: Any, **__: Any) -> Any:
            return super().__new__(cls) if made is Inert else made()

    return StandIn


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.rpartition("/")[2] == "data.pkl":
                    yield BytesIO(archive.read(name))
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        for _ in range(_PICKLES):
            if file.tell() < size:
                yield file


class _Token:
    """Something on the stack of a pickle: a text, a name that was imported, or what was made by that name."""

    __slots__ = ("made_by", "name", "text")

    def __init__(self, *, text: str | None = None, name: str | None = None, made_by: str | None = None) -> None:
        self.text, self.name, self.made_by = text, name, made_by


_FILLED = {"APPEND": "items", "APPENDS": "items", "SETITEM": "entries", "SETITEMS": "entries", "BUILD": "state"}
_MARK, _OTHER = _Token(), _Token()


def _note_uses(pickle: IO[bytes], uses: dict[str, set[str]], most: int) -> None:
    """Follow the instructions of a pickle, none of which is carried out, to see what is done with what each name made.

    Args:
        pickle: The pickle; the file is then at its end.
        uses: For each name what is put into the things that it makes; filled here.
    """
    stack: list[_Token] = []
    memo: dict[Any, _Token] = {}
    for number, (code, argument, _) in enumerate(pickletools.genops(pickle)):
        if number == most:
            raise TooLongError(f"{most:,}")
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif code.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif code.name == "MARK":
            stack.append(_MARK)
        elif code.name == "GLOBAL":
            module, name = str(argument).split(" ", 1)
            stack.append(_imported(module, name, uses))
        else:
            before = _popped(stack, code)
            if code.name in _FILLED:
                target = before[0]
                if target.made_by is not None:
                    uses[target.made_by].add(_FILLED[code.name])
                stack.append(target)
            elif code.name == "STACK_GLOBAL":
                stack.append(_imported(before[0].text or "", before[1].text or "", uses))
            elif code.name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
                stack.append(_Token(made_by=before[0].name))
            elif isinstance(argument, str):
                stack.append(_Token(text=argument))
            else:
                stack.extend(_OTHER for _ in code.stack_after)


def _popped(stack: list[_Token], code: pickletools.OpcodeInfo) -> list[_Token]:
    """Take off the stack what an instruction takes off it."""
    count = len(code.stack_before)
    if pickletools.markobject in code.stack_before:
        while stack.pop() is not _MARK:
            pass
        count = code.stack_before.index(pickletools.markobject)
    if count == 0:
        return []
    taken = stack[-count:]
    del stack[-count:]
    return taken


def _imported(module: str, name: str, uses: dict[str, set[str]]) -> _Token:
    """The token of a name, which is noted as the pickle has it and by its name of today; torch knows some of those."""
    today = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    full = f"{module}.{name}"
    uses[".".join(today)] = uses.setdefault(full, set())
    return _Token(name=full)
