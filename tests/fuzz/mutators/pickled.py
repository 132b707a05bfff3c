"""Pickles, instruction by instruction."""

from __future__ import annotations

import pickle
import pickletools
import struct
from itertools import pairwise
from random import Random
from typing import Any

from fuzz.mutators.values import LENGTHS, any_value

_CALLS = (
    b"cos\nsystem\n(S'touch executed'\ntR",
    b"c__builtin__\neval\n(S'1'\ntR",
    b"cbuiltins\ngetattr\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"c_codecs\nencode\n",
    b"ccollections\nOrderedDict\n)R",
    b"cno.such.module\nname\n",
)
_ENDLESS = (b"(" * 5_000, b"]" * 5_000, b"}" * 1_000 + b"s" * 10, b"(l(l(l(l(l" * 200, b"N." * 10)
_DEEP = (b"(" * 3_000 + b"t" * 3_000, b"]" + b"]" * 3_000 + b"a" * 3_000, b"N" + b"\x85" * 20_000)


def pickled(random: Random, content: bytes) -> bytes:
    """Instructions of a pickle are left out, repeated, swapped, or get other arguments; or it is another pickle."""
    if random.random() < 0.1:
        return pickle.dumps(any_value(random), protocol=random.choice((0, 1, 2, 3, 4, 5)))
    try:
        steps = [place for _, _, place in pickletools.genops(content) if place is not None]
    except Exception:
        return content
    cuts = [*steps, len(content)]
    parts = [content[start:end] for start, end in pairwise(cuts)]
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(parts))
        parts[at : at + 1] = random.choice(_CHANGES)(random, parts, at)
        if not parts:
            return b""
    return b"".join(parts)


def _argument(random: Random, parts: list[bytes], at: int) -> list[bytes]:
    """Another argument, of the same length or not."""
    part = parts[at]
    code, rest = part[:1], part[1:]
    if code == b"J":
        return [code + struct.pack("<i", random.choice(LENGTHS) % 2**31)]
    if code in b"BX" and code:
        return [code + struct.pack("<I", random.choice(LENGTHS) % 2**32) + rest[4:]]
    if code in b"KhqU" and code:
        return [code + bytes([random.randrange(256)]) + rest[1:]]
    if code in b"Mrj" and code:
        return [code + random.randbytes(len(rest))]
    if code == b"c":
        return [random.choice(_CALLS)]
    return [code + bytes(reversed(rest))]


def _number(random: Random, parts: list[bytes], at: int) -> list[bytes]:
    """A number of any size in its place."""
    number: Any = random.choice((*LENGTHS, 10**300, -(10**30), 0.5, float("nan"), True, None, "x", b"y", [], {}))
    return [pickle.dumps(number, protocol=2)[2:-1]]


_CHANGES = (
    lambda random, parts, at: [],
    lambda random, parts, at: [parts[at]] * random.choice((2, 3, 1000)),
    lambda random, parts, at: [random.choice(parts)],
    lambda random, parts, at: [parts[at], random.choice(parts)],
    lambda random, parts, at: [random.choice(_CALLS)],
    lambda random, parts, at: [parts[at], random.choice(_CALLS)],
    lambda random, parts, at: [random.choice((*_ENDLESS, *_DEEP))],
    lambda random, parts, at: [bytes([random.randrange(256)])],
    _argument,
    _argument,
    _number,
    _number,
)
