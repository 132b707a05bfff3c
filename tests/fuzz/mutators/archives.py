"""What is inside of archives: zip (also files of torch.save and npz), tar, and the headers of safetensors and npy."""

from __future__ import annotations

import io
import json
import tarfile
import tokenize
import warnings
import zipfile
from contextlib import suppress
from random import Random
from typing import Any

import numpy as np

from fuzz.mutators.pickled import pickled
from fuzz.mutators.raw import bits, lengths, some_bytes, truncation
from fuzz.mutators.structure import changed
from fuzz.mutators.values import TEXTS

_NAMES = ("", "../outside", "/absolute", "a/../../b", "x\ny", "\x1b[2J", "x" * 5_000, "data.pkl", "archive/data.pkl")
_BOMB = b"\0" * 50_000_000


def zip_members(random: Random, content: bytes) -> bytes:
    """Members are changed, left out, doubled, renamed, or grow large when they are unpacked; checksums are right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    packed = zipfile.ZIP_STORED
    for _ in range(random.choice((1, 1, 2))):
        at = random.randrange(len(members))
        name, value = members[at]
        kind = random.randrange(10)
        if kind == 0:
            del members[at]
        elif kind == 1:
            members.append((name, value[::-1]))
        elif kind == 2:
            members[at] = (random.choice(_NAMES), value)
        elif kind == 3:
            members.append((random.choice(_NAMES), b"x"))
        elif kind == 4 and random.random() < 0.3:
            members[at], packed = (name, value + _BOMB), zipfile.ZIP_DEFLATED
        elif kind == 5:
            other = random.randrange(len(members))
            members[at], members[other] = (name, members[other][1]), (members[other][0], value)
        else:
            members[at] = (name, _member(random, name, value))
        if not members:
            break
    if random.random() < 0.1:
        packed = random.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packed) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names that come twice
        for name, value in members:
            archive.writestr(zipfile.ZipInfo(name), value, packed)
    return buffer.getvalue()


def _member(random: Random, name: str, value: bytes) -> bytes:
    if name.endswith(".pkl"):
        return pickled(random, value)
    if name.endswith(".npy"):
        with suppress(ValueError, SyntaxError, tokenize.TokenError, EOFError):  # one that has been changed before
            return npy(random, value)
    return random.choice((bits, some_bytes, truncation, lengths))(random, value)


def npy(random: Random, content: bytes) -> bytes:
    """Another header of the same numbers, or another array."""
    if random.random() < 0.3:
        return _saved(random.choice(_ARRAYS)(random, np.load(io.BytesIO(content))))
    size = int.from_bytes(content[8:10], "little")
    header, rest = content[10 : 10 + size].decode("latin-1"), content[10 + size :]
    old, new = random.choice(_HEADERS)
    start = header.find(old)
    if start >= 0:
        end = next((n for n in range(start + len(old), len(header)) if header[n] in ",}"), start)
        header = header[: start + len(old)] + random.choice(new) + header[end:]
    raw = header.strip().encode("latin-1", "replace") + b"\n"
    return content[:8] + (len(raw) % 65536).to_bytes(2, "little") + raw + rest


_HEADERS = (
    (
        "'descr': ",
        ("'<f8'", "'|O'", "'<U5'", "'|S3'", "'<c8'", "'>f4'", "'V8'", "[('a', '<f4')]", "'<M8[s]'", "'x'", "1"),
    ),
    ("'shape': ", ("(0,)", "(-1,)", "(1000000000000,)", "(2, -2)", "()", "(2.5,)", "None", "(" * 200, "(1,) * 10**9")),
    ("'fortran_order': ", ("True", "None", "2", "__import__('os')")),
    ("{", ("'x': 1, ", "#", "{")),
)
_ARRAYS = (
    lambda random, array: array.astype(random.choice(("f8", "f2", "i8", "u8", "?", "S5", "U9", "c8"))),
    lambda random, array: array[:-1],
    lambda random, array: array[None],
    lambda random, array: array.T,
    lambda random, array: np.array(array.tolist(), dtype=object),
    lambda random, array: np.full(array.shape, random.choice((np.nan, np.inf, -1.0, 1e30))),
    lambda random, array: np.zeros((0, *array.shape[1:])),
    lambda random, array: np.array(["a", "\x1b[2J", "b" * 500]),
)


def _saved(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def safetensors_header(random: Random, content: bytes) -> bytes:
    """Another header before the same bytes; its length is right, or not."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    for _ in range(random.choice((1, 1, 2))):
        kind = random.randrange(4)
        name = random.choice(list(header) or [""])
        if kind == 0 and isinstance(header.get(name), dict) and "dtype" in header[name]:
            header[name]["dtype"] = random.choice(("F64", "I64", "BOOL", "F8_E4M3", "C64", "U4", "x", "BF16", "F16"))
        elif kind == 1:
            header["__metadata__"] = {random.choice(TEXTS[:20]): random.choice(TEXTS[:20])}
        else:
            header = changed(random, header)
            if not isinstance(header, dict):
                break
    text = json.dumps(header).encode()
    size = random.choice((len(text),) * 8 + (len(text) + 1, 2**63, 2**40, 0))
    return size.to_bytes(8, "little") + text + content[8 + int.from_bytes(content[:8], "little") :]


def tar_members(random: Random, content: bytes) -> bytes:
    """Members are changed, left out, doubled, renamed, of other kinds."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = [(info, archive.extractfile(info).read()) for info in archive if info.isfile()]  # type: ignore[union-attr]
    for _ in range(random.choice((1, 1, 2))):
        at = random.randrange(len(members))
        info, value = members[at]
        kind = random.randrange(7)
        if kind == 0 and len(members) > 1:
            del members[at]
        elif kind == 1:
            members.append((info, value))
        elif kind == 2:
            info.name = random.choice((*_NAMES[1:-2], info.name.rpartition(".")[0], f"{info.name}.cls", "000.json"))
        elif kind == 3:
            info.type = random.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, b"?", b"S"))
            info.linkname = random.choice(("../../x", "/etc/passwd", info.name))
        elif kind == 4:
            members[at] = (info, random.choice((b"", b"-1", b"99999999999", b"x", b"1.5", b"\xff", b"1" * 5_000)))
        else:
            members[at] = (info, random.choice((bits, some_bytes, truncation))(random, value))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=random.choice((1, 2))) as archive:
        for info, value in members:
            info.size = len(value) if info.isfile() else 0
            archive.addfile(info, io.BytesIO(value))
    return buffer.getvalue()
