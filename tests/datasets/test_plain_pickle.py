"""Pickles are read without being run: what is in the published files is read, everything else is one sentence."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command_line import REFUSED
from hypothesis import given
from hypothesis import strategies as st

from decompose_cli.datasets.cifar import open_cifar
from decompose_cli.datasets.plain_pickle import UnsafePickleError, read_plain_pickle
from decompose_cli.errors import InputError

PIXELS = np.arange(2 * 3072, dtype=np.int64).astype(np.uint8).reshape(2, 3072)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("pixels", [PIXELS, np.asfortranarray(PIXELS), PIXELS[:, ::2]])
def test_what_batch_files_hold_is_read_in_every_protocol(protocol: int, pixels: np.ndarray) -> None:
    rest = {
        "labels": [3, 1],
        "numbers": np.array([-5, 1 << 40]),
        "names": ["a.png", "b.png"],
        "more": (None, True, 2.5),
    }
    content = read_plain_pickle(pickle.dumps({"data": pixels, **rest}, protocol))
    assert np.array_equal(content.pop("data"), pixels)
    assert np.array_equal(content.pop("numbers"), rest.pop("numbers"))
    assert content == rest
    assert np.array_equal(read_plain_pickle(pickle.dumps(pixels, protocol)), pixels)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(min_size=1),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner, inner, inner),
    max_leaves=8,
)


@given(plain, st.integers(2, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_what_pickle_makes_of_them(value: Any, protocol: int) -> None:
    content = pickle.dumps(value, protocol)
    assert read_plain_pickle(content) == pickle.loads(content)


# --- hostile ones, instruction by instruction -------------------------------------------------------------------------


def name(module: str, attribute: str) -> bytes:
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value.encode())) + value.encode()


def blob(value: bytes) -> bytes:
    return pickle.BINBYTES + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def dtype(kind: str) -> bytes:
    return called(name("numpy", "dtype"), text(kind), b"\x89", b"\x88")


def filled(target: bytes, *state: bytes) -> bytes:
    return target + tuple_of(*state) + b"b"


def dtype_state(order: str, names: bytes = b"N", fields: bytes = b"N", flags: int = 0, size: int = -1) -> list[bytes]:
    return [number(3), text(order), b"N", names, fields, number(size), number(size), number(flags)]


def batch(data: bytes, labels: bytes = b"](K\x01K\x02e") -> bytes:
    """A batch file whose pixels and labels are made by these instructions."""
    return b"\x80\x02}(" + text("data") + data + text("labels") + labels + b"u."


POINTERS = struct.pack("<Q", 0x4141414141414141) * 768  # as many bytes as two images of 3072
NDARRAY, ENCODE = name("numpy", "ndarray"), name("_codecs", "encode")
EMPTY = called(name("numpy.core.multiarray", "_reconstruct"), NDARRAY, tuple_of(number(0)), blob(b"b"))
FROM_BUFFER = name("numpy._core.numeric", "_frombuffer")
SHAPE = tuple_of(number(2), number(3072))
DOUBLING = b"(" * 60 + b"]" + b"q\x00h\x00l" * 60  # a list of twice the list before it
DEPTH = 100_000  # more than the C stack has room for
ROW = tuple_of(number(768))

HOSTILE = {
    # What makes NumPy follow pointers that the file holds.
    "ndarray called on bytes": called(NDARRAY, ROW, text("O"), blob(POINTERS)),
    "ndarray called for plain numbers": called(NDARRAY, SHAPE, text("u1"), blob(POINTERS)),
    "ndarray made as an object": NDARRAY + tuple_of(ROW, text("O"), blob(POINTERS)) + b"\x81",
    "array of objects": filled(EMPTY, number(1), ROW, dtype("O8"), b"\x89", blob(POINTERS)),
    "array of objects in a list": filled(EMPTY, number(1), tuple_of(number(1)), dtype("O8"), b"\x89", b"]N" + b"a"),
    "objects from a buffer": called(FROM_BUFFER, blob(POINTERS), dtype("O8"), ROW, text("C")),
    "objects by a text": called(FROM_BUFFER, blob(POINTERS), text("O8"), ROW, text("C")),
    "a kind of memory": filled(EMPTY, number(1), SHAPE, dtype("u1"), b"\x89", b"]"),
    "bytes that become objects": called(
        FROM_BUFFER,
        blob(POINTERS),
        filled(dtype("i8"), *dtype_state("|", flags=63)),
        ROW,
        text("C"),
    ),
    "fields of objects": called(
        FROM_BUFFER,
        blob(POINTERS),
        filled(
            dtype("V8"),
            *dtype_state(
                "|",
                names=tuple_of(text("f")),
                fields=b"}" + text("f") + tuple_of(dtype("O8"), number(0)) + b"s",
                size=8,
                flags=63,
            ),
        ),
        ROW,
        text("C"),
    ),
    "another size of numbers": filled(dtype("i8"), *dtype_state("<", size=1 << 20)),
    "fields of numbers": filled(dtype("u1"), *dtype_state("|", names=tuple_of(text("f")))),
    "kind of structures": called(name("numpy", "dtype"), text("u1,O"), b"\x89", b"\x88"),
    "kind aligned otherwise": called(name("numpy", "dtype"), text("u1"), b"\x88", b"\x88"),
    "kind by an evaluated text": called(name("numpy", "dtype"), text("(2,)O"), b"\x89", b"\x88"),
    "filled twice": filled(
        filled(EMPTY, number(1), SHAPE, dtype("u1"), b"\x89", blob(POINTERS)),
        *(number(1), SHAPE, dtype("u1"), b"\x89", blob(POINTERS)),
    ),
    "a subclass of arrays": called(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "dtype"), b")", b"N"),
    "an array that has a size already": called(
        name("numpy.core.multiarray", "_reconstruct"), NDARRAY, tuple_of(number(1 << 30)), blob(b"d")
    ),
    # What calls or changes something.
    "a function of the system": called(name("posix", "system"), text("touch executed")),
    "an attribute of an attribute": called(b"\x80\x04" + text("numpy") + text("save") + b"\x93", text("executed")),
    "numpy.load": called(name("numpy", "load"), text("executed")),
    "getattr": called(name("builtins", "getattr"), NDARRAY, text("dump")),
    "a codec that runs": called(ENCODE, text("x"), text("hex")),
    "a codec of the number's choice": called(ENCODE, number(1), text("latin1")),
    "a text as a function": called(text("numpy.dtype"), text("u1"), b"\x89", b"\x88"),
    "an array as a function": called(EMPTY, number(1)),
    "an instance": b"(" + text("touch executed") + b"iposix\nsystem\n",
    "an object": b"(" + NDARRAY + number(1 << 30) + b"o",
    "an object by keywords": NDARRAY + b")}\x92",
    "an extension": b"\x82\x01",
    "a persistent object": b"Pwhatever\n",
    "a buffer from outside": b"\x97",
    "a function that is changed": filled(ENCODE, text("__code__"), b"N"),
    "a list that gets a state": b"]}" + text("append") + b"Nsb",
}
SIZES = {
    # What would take memory or time that the size of the file does not show.
    "bytes that are not there": b"\x8e" + struct.pack("<Q", 1 << 40) + b"x",
    "more bytes than there are numbers for": b"\x8e" + struct.pack("<Q", (1 << 64) - 1) + b"x",
    "text that is not there": b"\x8d" + struct.pack("<Q", 1 << 40) + b"x",
    "byte array that is not there": b"\x96" + struct.pack("<Q", 1 << 40) + b"x",
    "frame that is not there": b"\x95" + struct.pack("<Q", 1 << 40) + b"x",
    "a number of two billion digits": b"\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x",
    "memory at a place far away": b"Nr" + struct.pack("<I", (1 << 32) - 1),
    "a place far away that was never filled": b"j" + struct.pack("<I", (1 << 32) - 1),
    "shape without numbers": filled(EMPTY, number(1), tuple_of(number(1 << 30)), dtype("u1"), b"\x89", blob(b"")),
    "shape with a negative side": filled(EMPTY, number(1), tuple_of(number(-1)), dtype("u1"), b"\x89", blob(b"x")),
    "shape with two negative sides": filled(
        EMPTY, number(1), tuple_of(number(-1), number(-1)), dtype("u1"), b"\x89", blob(b"x")
    ),
    "shape of many sides": filled(EMPTY, number(1), tuple_of(*[number(1)] * 60), dtype("u1"), b"\x89", blob(b"x")),
    "huge sides and none": filled(
        EMPTY, number(1), tuple_of(number(1 << 30), number(1 << 30), number(0)), dtype("u1"), b"\x89", blob(b"")
    ),
    "lists a hundred thousand deep": b"]" * DEPTH + b"a" * (DEPTH - 1),
    "tuples a hundred thousand deep": b")" + b"\x85" * DEPTH,
    "a key a hundred thousand deep": b"}" + b")" + b"\x85" * DEPTH + b"Ns",
    "a key of two to the power of sixty parts": b"}" + b")" + b"q\x00h\x00\x86" * 60 + b"Ns",
    "marks a hundred thousand deep": b"(" * DEPTH,
    "a list in itself": b"]q\x00h\x00a",
    "lists that double sixty times": DOUBLING,
}


def refusal(content: bytes, folder: Path) -> str:
    """What is said of a batch file; the sentence names the file."""
    file = folder / "cifar-10-batches-py" / "test_batch"
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(InputError) as said:
        open_cifar("cifar10", "test", folder, False).pixels_and_labels  # noqa: B018 - reading is what is tested
    assert said.value.exit_code == REFUSED
    assert said.value.message.startswith(str(file))
    return said.value.message.removeprefix(f"{file} ")


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_batches_are_one_sentence_and_nothing_is_called(data: bytes, tmp_path: Path) -> None:
    assert refusal(batch(data), tmp_path).startswith("is refused: reading it would execute code (")
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("data", SIZES.values(), ids=SIZES)
def test_batches_that_pretend_a_size_are_one_sentence(data: bytes, tmp_path: Path) -> None:
    assert refusal(batch(data), tmp_path) == "is damaged: it does not hold cifar10 images."


LABELS = {
    "lists that double sixty times": DOUBLING,
    "lists in lists": b"]" * 60 + b"a" * 59,
    "a number beyond all numbers": b"](K\x01\x8a\x09" + b"\x00" * 8 + b"\x01e",
    "numbers with a fraction": pickle.dumps([1.5, 2.5], 2)[2:-1],
    "an array of rows": filled(EMPTY, number(1), tuple_of(number(2), number(1)), dtype("u1"), b"\x89", blob(b"ab")),
    "an array that was never filled": EMPTY,
    "a text": text("ab"),
    "nothing": b"N",
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_that_are_none_are_one_sentence(labels: bytes, tmp_path: Path) -> None:
    pixels = filled(EMPTY, number(1), SHAPE, dtype("u1"), b"\x89", blob(PIXELS.tobytes()))
    assert refusal(batch(pixels, labels), tmp_path) == "is damaged: it does not hold cifar10 images."


def test_the_hostile_ones_differ_from_good_ones_in_what_is_hostile() -> None:
    """The counter-example: of the same instructions, with bytes for numbers."""
    rows = filled(EMPTY, number(1), SHAPE, dtype("u1"), b"\x89", blob(PIXELS.tobytes()))
    buffer = called(FROM_BUFFER, blob(PIXELS.tobytes()), filled(dtype("u1"), *dtype_state("|")), SHAPE, text("C"))
    for data in (rows, buffer):
        content = read_plain_pickle(batch(data))
        assert np.array_equal(content["data"], PIXELS)
        assert content["labels"] == [1, 2]


def test_a_file_of_half_a_gigabyte_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decompose_cli.datasets.cifar._MOST_BYTES", 10)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("the file was read"))
    assert "does not hold cifar10 images" in refusal(batch(EMPTY), tmp_path)


@pytest.mark.parametrize("data", [*HOSTILE.values(), *SIZES.values()], ids=[*HOSTILE, *SIZES])
def test_no_memory_is_taken_but_for_what_is_in_the_file(data: bytes) -> None:
    tracemalloc.start()
    try:
        with suppress(Exception):  # a damaged pickle can raise nearly anything
            read_plain_pickle(batch(data))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000 + 100 * len(data)
    finally:
        tracemalloc.stop()


def test_there_is_an_end_to_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decompose_cli.datasets.plain_pickle._MOST_INSTRUCTIONS", 100)
    assert len(read_plain_pickle(b"(" + b"N" * 97 + b"l.")) == 97
    with pytest.raises(ValueError, match="too many"):
        read_plain_pickle(b"(" + b"N" * 98 + b"l.")


@given(st.binary(max_size=60), st.sampled_from([b"", EMPTY, dtype("u1"), batch(EMPTY)[:-1]]))
def test_whatever_the_bytes_there_is_a_plain_value_or_an_error(end: bytes, start: bytes) -> None:
    try:
        value = read_plain_pickle(b"\x80\x04" + start + end)
    except Exception as error:
        assert not isinstance(error, (SystemExit, KeyboardInterrupt, MemoryError, RecursionError)), error  # noqa: PT017
    else:
        plain_types = (type(None), bool, int, float, str, bytes, bytearray, list, tuple, dict, np.ndarray, np.dtype)
        assert isinstance(value, plain_types)


def test_every_name_is_told() -> None:
    with pytest.raises(UnsafePickleError, match=r"^os\.path\.join$"):
        read_plain_pickle(called(name("os.path", "join")) + b".")
    with pytest.raises(UnsafePickleError, match=r"^a call of numpy\.ndarray$"):
        read_plain_pickle(called(NDARRAY, ROW) + b".")
    with pytest.raises(UnsafePickleError, match=r"^posix\.system$"):
        read_plain_pickle(b"(iposix\nsystem\n.")


def test_texts_cannot_be_made_into_bytes_again_and_again() -> None:
    """A remembered text of a megabyte, encoded eight hundred times, is refused long before it fills the memory."""
    text = b"X" + (1_000_000).to_bytes(4, "little") + b"a" * 1_000_000 + b"q\x00"
    once = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    with pytest.raises(ValueError, match="more bytes than a file of this size holds"):
        read_plain_pickle(b"\x80\x02" + text + b"]" + b"(" + once * 800 + b"e.")
