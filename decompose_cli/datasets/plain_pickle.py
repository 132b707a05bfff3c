"""Read pickles of numbers, texts, lists, mappings and arrays, such as the CIFAR batch files, without running them.

A pickle is a program: it imports what it names, calls it, and fills what it has made. Here its instructions, as
:mod:`pickletools` lists them, are followed by a machine that can do none of this. The few names that arrays need stand
for themselves, and what NumPy would have made of them is made here, of bytes whose number has to be right.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

_MOST_INSTRUCTIONS = 5_000_000  # the largest published file has 300,000; each can make a list of its own


class UnsafePickleError(Exception):
    """The pickle wants something called, or memory filled in another way than for plain arrays; the text says what."""


class _Name(str):
    """A name that the pickle imports; nothing is imported, and a text of the same letters is not such a name."""


class _Array:
    """An array, which the pickle mentions before it says what is in it."""

    values: np.ndarray | None = None


_MULTIARRAY, _NUMERIC = (
    ("numpy.core.multiarray", "numpy._core.multiarray"),
    ("numpy.core.numeric", "numpy._core.numeric"),
)
_RECONSTRUCT = tuple(f"{module}._reconstruct" for module in _MULTIARRAY)  # of NumPy 1 and 2
_FROM_BUFFER = tuple(f"{module}._frombuffer" for module in _NUMERIC)
_NAMES = frozenset((*_RECONSTRUCT, *_FROM_BUFFER, "numpy.ndarray", "numpy.dtype", "_codecs.encode"))
_KINDS: dict[str, np.dtype[Any]] = {"u1": np.dtype("|u1"), "i8": np.dtype("<i8")}
# The state of such a type: a version, the byte order, no fields, nothing unusual about size and alignment, no flags.
_STATES = {kind: (3, dtype.str[0], None, None, None, -1, -1, 0) for kind, dtype in _KINDS.items()}


def read_plain_pickle(content: bytes) -> Any:
    """The value of a pickle: None, bool, int, float, str, bytes, list, tuple, dict with str for keys, or array.

    The byte strings of Python 2 become str by Latin-1, and so do keys that are bytes. Arrays have the type uint8 or
    little-endian int64, cannot be written to, and stand alone or as values of the outermost mapping.

    Raises:
        UnsafePickleError: The pickle wants something else imported, called or filled.
        Exception: Nearly any other, where the pickle is damaged.
    """
    machine = _Machine(most_made=4 * len(content))
    for number, (code, argument, _) in enumerate(pickletools.genops(content)):
        if number >= _MOST_INSTRUCTIONS:
            raise ValueError("too many instructions")
        if code.name in _PLAIN:
            machine.push(argument)
        elif code.name in _STEPS:
            _STEPS[code.name](machine, argument)
        elif code.name in _OBJECTS:
            raise UnsafePickleError(code.name.lower() if argument is None else str(argument).replace(" ", "."))
        else:
            raise ValueError(f"the instruction {code.name}")
    (value,) = machine.stack
    if isinstance(value, dict):
        return {key: _finished(item) for key, item in value.items()}
    return _finished(value)


def _finished(value: Any) -> Any:
    return value.values if type(value) is _Array else value


class _Machine:
    """The stack of a pickle, and what it remembers."""

    def __init__(self, most_made: int) -> None:
        self._may_make = most_made  # bytes; a text that is remembered can be made into bytes again and again
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below the marks
        self._memo: dict[int, Any] = {}

    def put(self, place: int | None) -> None:
        self._memo[len(self._memo) if place is None else place] = self.stack[-1]

    def get(self, place: int) -> None:
        self.push(self._memo[place])

    def mark(self, _: None) -> None:
        self._below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self._below.pop()
        return values

    def last(self, count: int) -> list[Any]:
        values = self.stack[-count:]
        del self.stack[-count:]
        if len(values) < count:
            raise ValueError("nothing on the stack")
        return values

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_all(self, kind: type) -> None:
        values = self.since_mark()
        self.push(kind(values))

    def mapping(self, _: None) -> None:
        values = self.since_mark()
        self.push({})
        self.update(values)

    def extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("items of something else than a list")
        self.stack[-1].extend(values)

    def update(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise ValueError("entries of something else than a mapping")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Texts only: the hash of tuples in tuples takes for ever, or more stack than there is.
            self.stack[-1][key if type(key) is str else key.decode("latin-1")] = value

    def look_up(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no text")
        if f"{module}.{name}" not in _NAMES:
            raise UnsafePickleError(f"{module}.{name}")
        self.push(_Name(f"{module}.{name}"))

    def call(self, _: None) -> None:
        called, arguments = self.last(2)
        made = _made(called, arguments)
        self._count(made)
        self.push(made)

    def _count(self, made: Any) -> None:
        values = made.values if type(made) is _Array else made
        self._may_make -= getattr(values, "nbytes", len(values) if isinstance(values, bytes) else 0)
        if self._may_make < 0:
            raise ValueError("more bytes than a file of this size holds")

    def fill(self, _: None) -> None:
        (state,), target = self.last(1), self.stack[-1]
        if type(target) is _Array and target.values is None and type(state) is tuple and len(state) == 5:
            target.values = made = _array(state[4], state[2], state[1], "F" if state[3] else "C")
            self._count(made)
        elif not (isinstance(target, np.dtype) and type(state) is tuple and state == _STATES[target.str[1:]]):
            raise UnsafePickleError(f"the state of {_told(target)}")


def _made(called: Any, arguments: Any) -> Any:
    """What NumPy or Python would have made, where the arguments are those that arrays have in pickles."""
    if type(called) is _Name and type(arguments) is tuple:
        first, *rest = arguments or (None,)
        if called in _RECONSTRUCT and type(first) is _Name and first == "numpy.ndarray" and rest[:1] == [(0,)]:
            return _Array()
        if called in _FROM_BUFFER and len(rest) == 3 and rest[2] in ("C", "F"):
            array = _Array()
            array.values = _array(first, *rest)
            return array
        if called == "numpy.dtype" and type(first) is str and rest == [False, True]:
            if first in _KINDS:
                return _KINDS[first]
            if re.fullmatch(r"[biufc]\d+", first, re.ASCII):
                raise ValueError(f"numbers of the type {first}")
        if called == "_codecs.encode" and type(first) is str and rest == ["latin1"]:
            return first.encode("latin-1")
    raise UnsafePickleError(f"a call of {_told(called)}")


def _array(content: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    """The array of these bytes: each of its numbers has to be among them, and none may be left."""
    if not isinstance(kind, np.dtype) or type(content) not in (str, bytes, bytearray):
        raise UnsafePickleError(f"an array of {_told(kind)} in {_told(content)}")
    if type(shape) is not tuple or not all(type(side) is int for side in shape):
        raise ValueError("the shape is none")
    raw = content.encode("latin-1") if type(content) is str else content
    if math.prod(shape) * kind.itemsize != len(raw):
        raise ValueError("the shape does not fit")
    return np.frombuffer(raw, kind).reshape(shape, order=order)


def _told(value: Any) -> str:
    return value if type(value) is _Name else type(value).__name__.lstrip("_").lower()


_PLAIN = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG1", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
"""Instructions whose argument is a value."""

_OBJECTS = frozenset(
    ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER")
)
"""Instructions that would make objects of whatever class, or ask the program for some."""

_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "MARK": _Machine.mark,
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.last(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.last(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.last(3))),
    "TUPLE": lambda machine, _: machine.push_all(tuple),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "LIST": lambda machine, _: machine.push_all(list),
    "APPEND": lambda machine, _: machine.extend(machine.last(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "DICT": _Machine.mapping,
    "SETITEM": lambda machine, _: machine.update(machine.last(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "GLOBAL": lambda machine, names: machine.look_up(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.look_up(*machine.last(2)),
    "REDUCE": _Machine.call,
    "BUILD": _Machine.fill,
}
