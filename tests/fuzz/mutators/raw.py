"""Bits, bytes and lengths, of any file."""

from __future__ import annotations

from random import Random

from fuzz.mutators.values import LENGTHS

_MARKS = (
    b"\x00",
    b"\xff",
    b"\x80",
    b"\x7f",
    b"\n",
    b"\r\n",
    b'"',
    b",",
    b"{",
    b"[",
    b"\x1b[2J",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
)


def bits(random: Random, content: bytes) -> bytes:
    """A few bits are turned."""
    found = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        if found:
            found[random.randrange(len(found))] ^= 1 << random.randrange(8)
    return bytes(found)


def some_bytes(random: Random, content: bytes) -> bytes:
    """Bytes are replaced, put in, left out or repeated, singly or in blocks."""
    for _ in range(random.choice((1, 1, 2, 3))):
        start = _place(random, content)
        length = random.choice((1, 1, 2, 4, 8, 64, 1024))
        end = min(start + length, len(content))
        piece = content[start:end]
        new = random.choice(
            (
                random.randbytes(len(piece)),
                piece + random.choice(_MARKS),
                b"",
                piece * random.choice((2, 3, 1000)),
                bytes([random.randrange(256)]) * len(piece),
                random.choice(_MARKS),
            )
        )
        content = content[:start] + new[: 1 << 20] + content[end:]
    return content


def truncation(random: Random, content: bytes) -> bytes:
    """The end is missing, or the beginning, or there is something behind it."""
    place = _place(random, content)
    kind = random.randrange(6)
    if kind < 3:
        return content[:place]
    if kind == 3:
        return content[place:]
    if kind == 4:
        return content + random.choice((b"\0", random.randbytes(100), content))
    return random.choice((b"", b"\0", b"\n", b"\0" * 1000, content[:1], content[:-1]))


def lengths(random: Random, content: bytes) -> bytes:
    """Numbers of 1 to 8 bytes, of which many say how long something is, become others."""
    for _ in range(random.choice((1, 1, 2))):
        size = random.choice((1, 2, 4, 8))
        place = min(_place(random, content), random.choice((16, 64, 1 << 30)))
        order = random.choice(("little", "big"))
        before = int.from_bytes(content[place : place + size], order)  # type: ignore[arg-type]
        number = random.choice((*LENGTHS, before + 1, before - 1, before * 2, before + 256))
        content = content[:place] + (number % 256**size).to_bytes(size, order) + content[place + size :]  # type: ignore[arg-type]
    return content


def _place(random: Random, content: bytes) -> int:
    """Anywhere, but often near the beginning or the end, where headers and tables are."""
    kind = random.randrange(4)
    if kind == 0:
        return min(len(content), random.randrange(32))
    if kind == 1:
        return max(0, len(content) - random.randrange(64))
    return random.randint(0, len(content))
