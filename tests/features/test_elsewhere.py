"""Files of features that were made elsewhere: what is read, and what is refused with which sentence."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.checkpoints import Hostile
from helpers.feature_files import arrays, npz, tensors
from safetensors.torch import save_file

from decompose_cli.errors import InputError, UnsafeFileError
from decompose_cli.features.elsewhere import FeatureFile, read_feature_file
from decompose_cli.messages import LoggingReporter, use_reporter
from decompose_cli.storage.files import sha256_of

NPZ, TENSORS = Path("features.npz"), Path("features.safetensors")
NAMES = ["cat", "dog", "ship", "frog"]
ALL = ("train", "val", "test")


class Said(LoggingReporter):
    """A reporter that keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def read(path: Path, **how: Any) -> tuple[FeatureFile, Said]:
    said = Said()
    with use_reporter(said):
        return read_feature_file(path, **how), said


# -------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("write", [npz, tensors])
def test_both_kinds_of_file_are_read_alike(write: Callable[..., Path]) -> None:
    path = write(NPZ if write is npz else TENSORS)
    file, said = read(path)
    assert list(file.splits) == ["train", "test"]
    for split, found in file.splits.items():
        assert found.features.dtype == torch.float32
        assert found.labels.dtype == torch.int64
        assert np.array_equal(found.features.numpy(), arrays()[f"{split}_x"])
        assert np.array_equal(found.labels.numpy(), arrays()[f"{split}_y"])
    assert (file.num_features, file.class_names, file.feature_names) == (5, ("0", "1", "2", "3"), None)
    assert not file.has_class_names
    assert (file.path, file.sha256) == (path, sha256_of(path))
    assert said.notes == said.warnings == []


def test_names_of_classes_and_features_are_read() -> None:
    columns = list("abcde")
    for path in (
        npz(NPZ, class_names=np.array(NAMES), feature_names=np.array(columns)),
        tensors(TENSORS, {"class_names": NAMES, "feature_names": columns}),
    ):
        file, said = read(path)
        assert (file.class_names, file.feature_names) == (tuple(NAMES), tuple(columns))
        assert file.has_class_names
        assert said.notes == []


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8"])
def test_features_of_every_width_become_float32(dtype: str) -> None:
    values = np.array([[0.5, -2.0], [3.0, 0.25]])
    changes = {f"{split}_x": np.asfortranarray(values.astype(dtype)) for split in ("train", "test")}
    file, said = read(npz(NPZ, **changes, train_y=np.array([0, 1]), test_y=np.array([1, 0])))
    assert file.splits["train"].features.tolist() == values.tolist()
    assert file.splits["train"].features.dtype == torch.float32
    assert said.warnings == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tensors_of_every_width_become_float32(dtype: torch.dtype) -> None:
    values = torch.tensor([[0.5, -2.0], [3.0, 0.25]], dtype=dtype)
    labels = torch.tensor([0, 1])
    file, _ = read(tensors(TENSORS, train_x=values, test_x=values.clone(), train_y=labels, test_y=labels.clone()))
    assert file.splits["test"].features.tolist() == values.tolist()
    assert file.splits["test"].features.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", ">i4", "<u4", "<u8", ">i8"])
def test_labels_of_every_whole_kind_are_read(dtype: str) -> None:
    file, _ = read(npz(NPZ, train_y=arrays()["train_y"].astype(dtype)))
    assert file.splits["train"].labels.tolist() == arrays()["train_y"].tolist()


def test_compressed_files_are_read() -> None:
    np.savez_compressed(NPZ, **arrays())
    assert torch.equal(read(NPZ)[0].splits["test"].features, torch.from_numpy(arrays()["test_x"]))


def test_classes_are_counted_over_all_splits_whether_or_not_they_are_read() -> None:
    val = {"val_x": np.ones((2, 5), np.float32), "val_y": np.array([6, 0])}
    file, _ = read(npz(NPZ, **val), needs=("test",), optional=())
    assert list(file.splits) == ["test"]
    assert len(file.class_names) == 7
    file, _ = read(npz(NPZ, **val))
    assert list(file.splits) == ["train", "val", "test"]
    named, _ = read(npz(NPZ, **val, class_names=np.array(list("abcdefghi"))))
    assert len(named.class_names) == 9, "classes may be without images"


def test_of_splits_that_are_as_good_the_first_is_read() -> None:
    needs = (("test", "val"),)
    val = {"val_x": np.ones((2, 5), np.float32), "val_y": np.array([1, 0])}
    assert list(read(npz(NPZ, **val), needs=needs, optional=())[0].splits) == ["test"]
    only_val = npz(NPZ, **val, test_x=None, test_y=None)
    assert list(read(only_val, needs=needs, optional=())[0].splits) == ["val"]


def test_constant_and_equal_features_and_classes_with_one_image_or_none_are_no_mistakes() -> None:
    x = arrays()["train_x"]
    x[:, 1], x[:, 2] = 7, x[:, 0]
    y = np.array([0] * 11 + [9])
    file, said = read(npz(NPZ, train_x=x, train_y=y))
    assert len(file.class_names) == 10
    assert said.warnings == []


def test_other_arrays_are_said_once_and_left_alone() -> None:
    path = npz(NPZ, ids=np.array([object()], dtype=object), val=np.zeros(3))
    assert read(path)[1].notes == [
        f"{NPZ} also holds ids, val, which a features file does not have and which is not read."
    ]
    said = read(tensors(TENSORS, class_names=torch.zeros(4)))[1]
    assert said.notes[0].startswith(f"{TENSORS} also holds class_names, "), "texts are in the metadata"


def test_what_float32_cannot_tell_apart_is_said() -> None:
    x = arrays()["train_x"].astype(np.float64)
    assert read(npz(NPZ, train_x=x))[1].warnings == []
    x[:, 2] = 1e9 + np.arange(12)
    x[:, 3] = 5  # constant before and after
    (warning,) = read(npz(NPZ, train_x=x))[1].warnings
    assert warning.startswith(f"train_x in {NPZ}: images differ in 1 feature (2) by less than float32 can tell")


# ------------------------------------------------------------------------------------------------------ what is refused


def with_value(name: str, place: tuple[int, ...], value: float, dtype: str = "f4") -> dict[str, Any]:
    changed = arrays()[name].astype(dtype)
    changed[place] = value
    return {name: changed}


NAN, INFINITY = float("nan"), float("inf")
F32 = np.float32
BAD_ARRAYS: list[tuple[str, dict[str, Any], str]] = [
    ("no test split", {"test_x": None, "test_y": None}, "lacks test_x and test_y; it has train_x, train_y."),
    ("nothing", dict.fromkeys(arrays()), "lacks train_x and train_y; it has no arrays."),
    ("other names", {"train_x": None, "train_y": None, "X": np.ones(3)},
     "lacks train_x and train_y; it has test_x, test_y, X."),
    ("no labels", {"train_y": None}, "has train_x but no train_y; it has train_x, test_x, test_y."),
    ("labels alone", {"val_y": np.zeros(3, int)}, "has val_y but no val_x; it has train_x"),
    ("flat features", {"train_x": np.ones(12, F32)}, "train_x in features.npz has the shape (12,), not (N, D)."),
    ("maps", {"train_x": np.ones((12, 5, 2, 2), F32)}, "has the shape (12, 5, 2, 2), not (N, D)."),
    ("a number", {"train_x": np.float32(3)}, "train_x in features.npz has the shape (), not (N, D)."),
    ("one-hot labels", {"train_y": np.eye(4, dtype=int)[arrays()["train_y"]]}, "the shape (12, 4), not (N,)"),
    ("a label for all", {"test_y": np.array(3)}, "test_y in features.npz has the shape (), not (N,)."),
    ("no images", {"test_x": np.ones((0, 5), F32), "test_y": np.ones(0, int)}, "test_x in features.npz is empty"),
    ("no features", {"test_x": np.ones((6, 0), F32)}, "test_x in features.npz is empty: its shape is (6, 0)."),
    ("no names", {"class_names": np.array([], dtype=str)}, "class_names in features.npz is empty: its shape is (0,)."),
    ("fewer labels", {"train_y": np.zeros(11, int)}, "train_x has 12 rows, but train_y has 11 labels."),
    ("other features", {"test_x": np.ones((6, 4), F32)}, "test_x has 4 features, but train_x has 5."),
    ("complex features", {"train_x": np.ones((12, 5), complex)}, "train_x holds complex128 instead of real numbers."),
    ("real labels", {"train_y": np.ones(12)}, "train_y holds real numbers instead of whole numbers."),
    ("true or false", {"train_y": np.ones(12, bool)}, "train_y holds bool instead of whole numbers."),
    ("names as labels", {"train_y": np.array(NAMES * 3)}, "train_y holds text instead of whole numbers."),
    ("numbers as names", {"class_names": np.arange(4)}, "class_names holds whole numbers instead of text."),
    ("bytes as names", {"class_names": np.array([b"a"] * 4)}, "class_names holds |S1 instead of text."),
    ("a table of names", {"class_names": np.array([NAMES])}, "the shape (1, 4), not (C,)."),
    ("fewer columns", {"feature_names": np.array(NAMES)}, "feature_names has 4 names for 5 features."),
    ("fewer names", {"class_names": np.array(NAMES[:3])},
     "train_y in features.npz has the label 3 in row 3 (counted from 0), which is not one of 0 to 2."),
    ("negative label", with_value("train_y", (7,), -1, "i8"),
     "train_y in features.npz has the label -1 in row 7 (counted from 0), which is negative."),
    ("large label", with_value("test_y", (2,), 1 << 20, "i8"), "has the label 1048576 in row 2"),
    ("largest label", with_value("test_y", (2,), 2**64 - 1, "u8"), "has the label 18446744073709551615 in row 2"),
    ("NaN", with_value("train_x", (7, 3), NAN), "train_x in features.npz has NaN in row 7, column 3 (counted from 0), "
     "which is not finite."),
    ("infinite", with_value("test_x", (0, 4), -INFINITY, "f2"), "has -inf in row 0, column 4 "),
    ("too large", with_value("test_x", (5, 0), 1e300, "f8"), "has 1e+300 in row 5, column 0 (counted from 0), "
     "which is too large for float32."),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["u1", "i8"])
def test_whole_numbers_are_features_too(kind: str) -> None:
    values = np.arange(60).reshape(12, 5).astype(kind)
    found = read_feature_file(npz(Path("features.npz"), train_x=values)).splits["train"].features
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.arange(60.0).reshape(12, 5))


@pytest.mark.parametrize(("changes", "sentence"), [row[1:] for row in BAD_ARRAYS], ids=[row[0] for row in BAD_ARRAYS])
@pytest.mark.parametrize("at_once", [1 << 22, 10])
def test_arrays_that_do_not_fit_are_refused(
    at_once: int, changes: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decompose_cli.features.elsewhere._VALUES_AT_ONCE", at_once)
    npz(NPZ, **changes)
    with pytest.raises(InputError, match=re.escape(sentence)) as raised:
        read(NPZ)
    assert str(NPZ) in raised.value.message


BAD_TENSORS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("bytes", {}, {"train_x": torch.zeros(12, 5).to(torch.float8_e4m3fn)}, "train_x holds F8_E4M3 instead of real"),
    ("real labels", {}, {"train_y": torch.zeros(12)}, "train_y holds real numbers instead of whole numbers."),
    ("largest label", {}, {"train_y": torch.full((12,), 2**64 - 1, dtype=torch.uint64)}, "label 18446744073709551615"),
    ("NaN", {}, {"train_x": torch.full((12, 5), NAN, dtype=torch.bfloat16)}, "has NaN in row 0, column 0"),
    ("empty", {}, {"train_x": torch.zeros(0, 5), "train_y": torch.zeros(0).long()}, "is empty: its shape is (0, 5)."),
    ("no JSON", {"class_names": "cat, dog"}, {}, "class_names in the metadata of features.safetensors is no JSON: "),
    ("nested JSON", {"class_names": "[" * 100_000}, {}, "in the metadata of features.safetensors is no JSON"),
    ("no list", {"class_names": {"0": "cat"}}, {}, "in the metadata of features.safetensors is no list of texts in"),
    ("no texts", {"feature_names": [1, 2]}, {}, "in the metadata of features.safetensors is no list of texts in"),
    ("fewer names", {"class_names": NAMES[:2]}, {}, "has the label 2 in row 2 (counted from 0), which is not one"),
    ("fewer columns", {"feature_names": NAMES}, {}, "feature_names has 4 names for 5 features."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("metadata", "changes", "sentence"), [row[1:] for row in BAD_TENSORS], ids=[row[0] for row in BAD_TENSORS]
)
def test_tensors_that_do_not_fit_are_refused(metadata: dict[str, Any], changes: dict[str, Any], sentence: str) -> None:
    tensors(TENSORS, metadata, **changes)
    with pytest.raises(InputError, match=re.escape(sentence)):
        read(TENSORS)


def good(compressed: bool = False) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays())
    return buffer.getvalue()


def archive(members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def header(shape: str, descr: str = "'<f4'", version: tuple[int, int] = (1, 0)) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text.encode()


def train_x(content: bytes) -> bytes:
    """An archive whose first array has this content."""
    with zipfile.ZipFile(io.BytesIO(good())) as opened:
        return archive({**{name: opened.read(name) for name in opened.namelist()}, "train_x.npy": content})


def flipped(content: bytes) -> bytes:
    """With bits of the numbers of an array turned, which the checksum of the archive shows."""
    place = content.index(arrays()["train_x"].tobytes()) + 8
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


def encrypted(content: bytes) -> bytes:
    """With the mark of encryption on each member."""
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        parts = content.split(mark)
        at = offset - len(mark)
        content = mark.join([parts[0], *(part[:at] + bytes([part[at] | 1]) + part[at + 1 :] for part in parts[1:])])
    return content


def one_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, arrays()["train_x"])
    return buffer.getvalue()


DAMAGED = "damaged, or no .npz at all"
BAD_FILES: list[tuple[str, str, bytes, str]] = [
    ("empty", "f.npz", b"", "The features file f.npz is empty."),
    ("empty tensors", "f.safetensors", b"", "The features file f.safetensors is empty."),
    ("another ending", "f.csv", b"1,2\n", "The features file f.csv ends neither in .npz nor in .safetensors."),
    ("one array", "f.npy", one_array(), "f.npy ends neither in .npz nor in .safetensors."),
    ("weights", "f.pt", b"PK", "f.pt ends neither in .npz nor in .safetensors."),
    ("garbage", "f.npz", b"\x93garbage" * 50, DAMAGED),
    ("one array by another name", "f.npz", one_array(), DAMAGED),
    ("truncated", "f.npz", good()[:-100], DAMAGED),
    ("half", "f.npz", good()[: len(good()) // 2], DAMAGED),
    ("truncated, compressed", "f.npz", good(compressed=True)[:-100], DAMAGED),
    ("turned bits", "f.npz", flipped(good()), "train_x in f.npz is damaged"),
    ("encrypted", "f.npz", encrypted(good()), "train_x in f.npz is damaged"),
    ("no header", "f.npz", train_x(b"text"), "train_x in f.npz is damaged"),
    ("huge shape", "f.npz", train_x(header(f"({10**9}, {10**9})")), "train_x in f.npz is damaged"),
    ("huger shape", "f.npz", train_x(header(f"({10**30}, {10**30})")), "train_x in f.npz is damaged"),
    ("negative shape", "f.npz", train_x(header("(-3, -4)") + bytes(48)), "train_x in f.npz is damaged"),
    ("fewer bytes", "f.npz", train_x(header("(12, 5)") + bytes(236)), "header says (12, 5) of float32, but it has 236"),
    ("more bytes", "f.npz", train_x(header("(12, 5)") + bytes(244)), "header says (12, 5) of float32, but it has 244"),
    ("nested header", "f.npz", train_x(header("(" * 500)), "train_x in f.npz is damaged"),
    ("columns", "f.npz", train_x(header("(12,)", "[('a', '<f4')]", (3, 0))), "for arrays with named columns"),
    ("garbage tensors", "f.safetensors", b"garbage" * 50, "damaged, or no .safetensors at all"),
    ("archive as tensors", "f.safetensors", good(), "damaged, or no .safetensors at all"),
    ("header too long", "f.safetensors", struct.pack("<Q", 1 << 60), "damaged, or no .safetensors at all"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "sentence"), [row[1:] for row in BAD_FILES], ids=[r[0] for r in BAD_FILES])
def test_files_that_cannot_be_read_are_refused(name: str, content: bytes, sentence: str) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(sentence)):
        read(Path(name))


def test_truncated_tensors_are_refused() -> None:
    tensors(TENSORS)
    TENSORS.write_bytes(TENSORS.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"damaged, or no \.safetensors at all"):
        read(TENSORS)


def test_a_shape_beyond_the_data_is_refused_in_tensors() -> None:
    description = {"train_x": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}
    text = json.dumps(description).encode()
    TENSORS.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(InputError, match="damaged"):
        read(TENSORS)


def test_what_no_memory_holds_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a few bytes may unpack to more than there is."""
    monkeypatch.setattr("decompose_cli.storage.array_files.free_memory", lambda: 1e6)
    x = np.zeros((300_000, 2), F32)
    np.savez_compressed(NPZ, **arrays(train_x=x, train_y=np.zeros(len(x), np.int8), test_x=np.ones((6, 2), F32)))
    assert NPZ.stat().st_size < 10_000
    with pytest.raises(InputError, match=r"holds 0\.0 GB in train_x, test_x, which is more than the 0\.0 GB of memory"):
        read(NPZ)
    assert read(NPZ, needs=("test",), optional=())[0].num_features == 2, "what is not read needs no memory"


def test_what_finds_no_memory_in_the_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    npz(NPZ)
    monkeypatch.setattr(np.lib.format, "read_array", full)
    with pytest.raises(InputError, match=r"train_y in features\.npz does not fit into memory"):
        read(NPZ)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize <= 8, reason="no numbers are longer than 64 bits here")
def test_numbers_that_torch_does_not_have_are_refused() -> None:
    with pytest.raises(InputError, match=r"train_x holds float\d+ instead of real numbers"):
        read(npz(NPZ, train_x=np.ones((12, 5), np.longdouble)))


def test_this_machine_says_how_much_memory_it_has() -> None:
    from decompose_cli.storage.memory import free_memory

    assert 1e8 < free_memory() < 1e15


@pytest.mark.parametrize("name", ["train_x", "train_y", "class_names"])
def test_objects_are_refused_and_nothing_is_executed(name: str) -> None:
    shape: tuple[int, ...] = {"train_x": (12, 5), "train_y": (12,), "class_names": (4,)}[name]
    values = np.empty(shape, dtype=object)
    values.fill(Hostile())
    npz(NPZ, **{name: values})
    before = sorted(Path().iterdir())
    with pytest.raises(
        UnsafeFileError, match=f"{name} in features.npz holds Python objects, which could only be read by"
    ):
        read(NPZ)
    assert sorted(Path().iterdir()) == before


def test_what_is_no_file_is_refused() -> None:
    with pytest.raises(InputError, match=r"The features file none\.npz does not exist\."):
        read(Path("none.npz"))
    Path("folder.npz").mkdir()
    with pytest.raises(InputError, match=r"folder\.npz is a folder or a device, not a file\."):
        read(Path("folder.npz"))
    os.mkfifo("pipe.npz")
    with pytest.raises(InputError, match=r"pipe\.npz is a folder or a device, not a file\."):
        read(Path("pipe.npz"))


@pytest.mark.skipif(os.geteuid() == 0, reason="an administrator may read everything")
def test_a_file_that_may_not_be_read_is_refused() -> None:
    npz(NPZ).chmod(0)
    with pytest.raises(InputError, match=r"The features file features\.npz cannot be read: Permission denied\."):
        read(NPZ)


def test_no_split_at_all_is_refused() -> None:
    save_file({"weight": torch.zeros(2)}, TENSORS)
    with pytest.raises(InputError, match=r"has no split to read: it has weight\."):
        read(TENSORS, needs=(), optional=ALL)
