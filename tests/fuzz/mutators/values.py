"""Values that are likely to be forgotten."""

from __future__ import annotations

from random import Random
from typing import Any

LENGTHS = (
    0,
    1,
    -1,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**64 - 1,
)
INTEGERS = (*LENGTHS, -2, 2, 3, 10, -(2**31), -(2**63), 2**64, 10**30, 10**400)
FLOATS = (0.0, -0.0, 0.5, -0.5, 1.0, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf"), 1e-9, 3.0)
TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "\udcff",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe",
    "a\nb",
    "\r",
    "\t",
    "äöü",
    "ﬀ",
    "١٢",
    "²",
    "½",
    "💥" * 3,
    "x" * 300,
    "x" * 100_000,
    "nan",
    "inf",
    "-inf",
    "1e400",
    "None",
    "null",
    "true",
    "0x10",
    "1_000",
    "-1",
    "0",
    "00",
    "1e3",
    "%s%n",
    "{0}",
    "${HOME}",
    "~",
    "~nobody/x",
    "~nosuchuser",
    ".",
    "..",
    "/",
    "//",
    "../../../../etc/passwd",
    "/dev/null",
    "/dev/zero",
    "/proc/self/mem",
    "a/b",
    "con",
    "[red]",
    "[/]",
    "'",
    '"',
    "`",
    "<script>",
    "--",
    "-",
    "=",
    ",",
    ",,",
    ":",
    "a=b=c",
    "*",
    "[",
    "(",
    "\\",
    "file:///etc/passwd",
    "http://127.0.0.1:9/x",
    "http://[",
    "http://[::1",
    "https://:0/",
    "http://a:b:c/",
    "http://127.0.0.1:99999/x",
    "\ue000seed\ue001",
)


def any_value(random: Random, depth: int = 2) -> Any:
    """Of any type that JSON has."""
    kind = random.randrange(9 if depth else 6)
    if kind == 0:
        return random.choice((None, True, False))
    if kind in (1, 2):
        return random.choice(INTEGERS)
    if kind == 3:
        return random.choice(FLOATS)
    if kind in (4, 5):
        return random.choice(TEXTS)
    if kind == 6:
        return [any_value(random, depth - 1) for _ in range(random.choice((0, 1, 3)))]
    if kind == 7:
        return {str(any_value(random, 0))[:100]: any_value(random, depth - 1) for _ in range(random.choice((0, 1, 3)))}
    return [random.choice((0, 0.5, "a", None))] * random.choice((1000, 100_000))
