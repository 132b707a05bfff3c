"""Banks of features on disk against an independent reader: where chunks lie, what counts, what is done again."""

from __future__ import annotations

import faulthandler
import json
import os
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from decompose_cli.errors import DecomposeError
from decompose_cli.features import bank as bank_module
from decompose_cli.features.bank import DAMAGED, BankFolder, chunk_size, chunks_of, remove
from decompose_cli.models.network import HeadTensors
from decompose_cli.storage.fingerprints import digest_of

COUNT, SIZE = 2100, 5  # 1024 images a chunk, and the last one is short


def make_features(count: int = COUNT, size: int = SIZE) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(count + size))


def make(path: Path, count: int = COUNT, size: int = SIZE) -> BankFolder:
    head = HeadTensors("dense", "fc", torch.ones(3, size), torch.arange(3.0), size)
    labels = torch.arange(count) % 3
    return BankFolder.create(path, labels, head, key={"a": 1}, description="net on images", computed_on="cpu")


def write(bank: BankFolder, features: Tensor, numbers: Sequence[int], unreadable: Sequence[int] = ()) -> None:
    with bank.writer() as writer:
        for number in numbers:
            chunk = bank.chunks[number]
            writer.write(number, features[chunk.start : chunk.stop], [each for each in unreadable if each in chunk])


def filled(path: Path) -> BankFolder:
    bank = make(path)
    write(bank, make_features(), range(len(bank.chunks)))
    return bank


# ----------------------------------------------------------------------------------------------------------- format


def test_the_files_are_what_the_format_says(tmp_path: Path) -> None:
    """Read with numpy and zlib alone."""
    features = make_features()
    bank = make(tmp_path / "x.bank")
    write(bank, features, [2, 0])
    write(bank, features, [1], unreadable=[1024, 1030])
    assert sorted(path.name for path in bank.path.iterdir()) == [
        "done",
        "features.f32",
        "head.safetensors",
        "header.json",
    ]
    raw = np.fromfile(bank.path / "features.f32", dtype="<f4").reshape(COUNT, SIZE)
    assert raw.tobytes() == features.numpy().tobytes()
    found = {}
    for file in (bank.path / "done").iterdir():
        for line in file.read_text().splitlines():
            body, checksum = line.rsplit(" ", 1)
            assert int(checksum, 16) == zlib.crc32(body.encode())
            number, crc, *unreadable = map(int, body.split())
            found[number] = unreadable
            assert crc == zlib.crc32(raw[number * 1024 : (number + 1) * 1024].tobytes())
    assert found == {0: [], 1: [1024, 1030], 2: []}
    header = json.loads((bank.path / "header.json").read_text())
    assert (header["images"], header["features"], header["computed_on"]) == (COUNT, SIZE, "cpu")
    assert header["head_checksum"] == zlib.crc32((bank.path / "head.safetensors").read_bytes())
    assert len(list((bank.path / "done").iterdir())) == 2


def test_what_was_written_is_read(tmp_path: Path) -> None:
    opened = BankFolder(filled(tmp_path / "x.bank").path)
    assert opened.pending() == opened.damaged() == []
    bank = opened.bank()
    assert torch.equal(bank.features, make_features())
    assert bank.features.dtype == torch.float32
    assert torch.equal(bank.labels, torch.arange(COUNT) % 3)
    assert torch.equal(bank.head.bias, torch.arange(3.0))
    assert (bank.head.kind, bank.head.name, bank.head.num_features) == ("dense", "fc", SIZE)


@pytest.mark.parametrize(
    ("size", "expected"), [(1, 1024), (3, 1024), (5, 1024), (6, 512), (64, 256), (512, 256), (2048, 256), (2047, 1024)]
)
def test_chunks_begin_on_pages(size: int, expected: int) -> None:
    assert chunk_size(size) == expected
    for count in (1, expected - 1, expected, expected + 1, 3 * expected + 7):
        chunks = chunks_of(count, size)
        assert [number for chunk in chunks for number in chunk] == list(range(count))
        assert all(chunk.start * size * 4 % 4096 == 0 for chunk in chunks)
        assert {len(chunk) for chunk in chunks[:-1]} <= {expected}
        assert 0 < len(chunks[-1]) <= expected


def test_features_are_mapped_read_only_and_aligned(tmp_path: Path) -> None:
    features = filled(tmp_path / "x.bank").bank().features
    assert features.data_ptr() % 64 == 0
    assert str(tmp_path / "x.bank" / "features.f32") in Path("/proc/self/maps").read_text(errors="replace")
    assert not np.memmap(tmp_path / "x.bank" / "features.f32", dtype="<f4", mode="r").flags.writeable
    process = os.fork()
    if process == 0:
        faulthandler.disable()
        features[0, 0] = 1.0
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) < 0, "writing to it must end the process"
    assert torch.equal(features, make_features())


def test_the_features_outlive_their_bank(tmp_path: Path) -> None:
    bank = filled(tmp_path / "x.bank")
    features = bank.bank().features
    remove(bank.path)
    assert not bank.path.exists()
    assert torch.equal(features, make_features())


# ---------------------------------------------------------------------------------------------------- gone on with


@pytest.mark.parametrize("seed", range(8))
def test_any_chunks_may_be_missing_and_the_bytes_are_the_same_in_the_end(tmp_path: Path, seed: int) -> None:
    features, chances = make_features(9 * 1024 + 3), random.Random(seed)
    bank = make(tmp_path / "x.bank", len(features))
    first = [number for number in range(10) if chances.random() < 0.5]
    chances.shuffle(first)
    write(bank, features, first)
    again = BankFolder(bank.path)
    assert again.pending() == [number for number in range(10) if number not in first]
    pending = again.pending()
    write(again, features, pending[0::2])
    write(again, features, pending[1::2])
    assert BankFolder(bank.path).pending() == []
    assert (bank.path / "features.f32").read_bytes() == features.numpy().tobytes()
    assert bank.damaged() == []


def test_a_line_that_is_cut_anywhere_does_not_count(tmp_path: Path) -> None:
    """As is one that was written while the process ended; those before it count."""
    bank = filled(tmp_path / "x.bank")
    (file,) = (bank.path / "done").iterdir()
    content = file.read_bytes()
    ends = [place for place, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content)):
        file.write_bytes(content[:length])
        # The line break itself says nothing: without it the line is there.
        assert len(bank.written().checksums) == sum(end <= length for end in ends), length
    file.write_bytes(content[: ends[0] + 9])  # another process goes on in a file of its own
    write(bank, make_features(), bank.pending())
    assert bank.pending() == bank.damaged() == []


@pytest.mark.parametrize("bit", range(8))
def test_a_line_with_a_flipped_bit_does_not_count(tmp_path: Path, bit: int) -> None:
    bank = filled(tmp_path / "x.bank")
    (file,) = (bank.path / "done").iterdir()
    content, before = file.read_bytes(), bank.written()
    for place in range(len(content)):
        spoiled = bytearray(content)
        spoiled[place] ^= 1 << bit
        file.write_bytes(spoiled)
        found = bank.written()
        assert found.checksums.items() < before.checksums.items(), place


def test_chunks_that_are_forgotten_are_missing_again(tmp_path: Path) -> None:
    features = make_features()
    bank = make(tmp_path / "x.bank")
    write(bank, features, [0])
    write(bank, features, [1, 2], unreadable=[2050])
    bank.forget([])
    assert len(list((bank.path / "done").iterdir())) == 2
    bank.forget([1])
    assert bank.pending() == [1]
    assert bank.written().unreadable == {0: [], 2: [2050]}
    assert len(list((bank.path / "done").iterdir())) == 1
    write(bank, features, [1])
    assert bank.pending() == bank.damaged() == []


def test_lines_are_read_while_another_process_forgets_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = filled(tmp_path / "x.bank")
    read, other = Path.read_bytes, BankFolder(bank.path)

    def meanwhile(path: Path) -> bytes:
        monkeypatch.setattr(Path, "read_bytes", read)
        other.forget([0])
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", meanwhile)
    assert bank.pending() == [0]


def test_damaged_chunks_are_found(tmp_path: Path) -> None:
    bank = filled(tmp_path / "x.bank")
    with (bank.path / "features.f32").open("r+b") as file:
        for place in (0, COUNT * SIZE * 4 - 1):
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 16]))
    assert BankFolder(bank.path).damaged() == [0, 2]


# ----------------------------------------------------------------------------------------------------------- errors


def header_with(bank: BankFolder, **changes: Any) -> None:
    """A header that says something else, with the right checksum."""
    header = json.loads((bank.path / "header.json").read_text())
    del header["checksum"]
    header |= changes
    (bank.path / "header.json").write_text(json.dumps({**header, "checksum": digest_of(header)}))


@pytest.mark.parametrize(
    "changes",
    [
        {"images": 10**12},
        {"images": 0},
        {"images": -COUNT},
        {"images": "many"},
        {"images": None},
        {"images": float("inf")},
        {"images": [COUNT]},
        {"features": 10**9},
        {"images": SIZE, "features": COUNT},
        {"kind": None},
        {"head_checksum": 0},
    ],
    ids=str,
)
def test_a_header_that_lies_is_an_error(tmp_path: Path, changes: dict[str, Any]) -> None:
    bank = filled(tmp_path / "x.bank")
    if set(changes) != {"kind"}:
        header_with(bank, **changes)
    else:
        text = (bank.path / "header.json").read_text()
        (bank.path / "header.json").write_text(text.replace('"dense"', '"Dense"'))
    with pytest.raises(DAMAGED):
        BankFolder(bank.path).bank()


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", "null", '"x"', '{"checksum": 1}', "[" * 100_000, "{", "\udcff"])
def test_a_header_that_is_none_is_an_error(tmp_path: Path, text: str) -> None:
    bank = filled(tmp_path / "x.bank")
    (bank.path / "header.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DAMAGED):
        BankFolder(bank.path)


@pytest.mark.parametrize("body", ["3 1", "-1 1", "0 1 1024", "0 1 -1", "x", ""])
def test_a_line_that_lies_is_an_error(tmp_path: Path, body: str) -> None:
    """Its checksum is right, and its numbers are none of this bank."""
    bank = filled(tmp_path / "x.bank")
    (bank.path / "done" / "zz").write_text(f"{body} {zlib.crc32(body.encode()):08x}\n")
    with pytest.raises(DAMAGED):
        bank.written()


def test_a_bank_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        make(tmp_path / "x.bank")
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_a_disk_that_reserves_nothing_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unknown)
    assert torch.equal(filled(tmp_path / "x.bank").bank().features, make_features())


def test_a_disk_that_fills_up_keeps_what_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, write_at, calls = make(tmp_path / "x.bank"), os.pwrite, 0

    def filling_up(descriptor: int, data: memoryview, place: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(28, "No space left on device")
        return write_at(descriptor, data[: len(data) // 2 + 1], place)  # and never all at once

    monkeypatch.setattr(os, "pwrite", filling_up)
    with pytest.raises(OSError, match="No space"):
        write(bank, make_features(), range(3))
    monkeypatch.undo()
    assert bank.pending() == [0, 1, 2]
    write(bank, make_features(), [0])
    assert bank.pending() == [1, 2]
    assert bank.damaged() == []


def test_banks_are_removed_whatever_is_in_their_place(tmp_path: Path) -> None:
    bank = filled(tmp_path / "x.bank")
    size = sum(path.stat().st_size for path in bank.path.rglob("*") if path.is_file())
    (bank.path / "header.json").rename(tmp_path / "header")
    (bank.path / "header.json").mkdir()
    (bank.path / "header.json" / "more").write_text("12345")
    assert remove(bank.path) == size - (tmp_path / "header").stat().st_size + 5
    assert not bank.path.exists()
    whole = filled(tmp_path / "y.bank")
    bank.path.symlink_to(whole.path)
    remove(bank.path)
    assert not bank.path.is_symlink()
    assert whole.pending() == []
    bank.path.write_text("123")
    assert remove(bank.path) == 3
    assert not bank.path.exists()
    assert remove(bank.path) == 0


def test_a_bank_without_labels_of_all_images_is_an_error(tmp_path: Path) -> None:
    one, other = filled(tmp_path / "x.bank"), make(tmp_path / "y.bank", COUNT - 1)
    (other.path / "head.safetensors").replace(one.path / "head.safetensors")
    header_with(one, head_checksum=other.header["head_checksum"])
    with pytest.raises(DAMAGED):
        BankFolder(one.path).read_head()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((OSError, DecomposeError)):
        make(tmp_path / "file" / "x.bank")


@pytest.mark.parametrize("most", [0, 1 << 26])
def test_some_rows_of_many_are_a_file_that_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """In a folder that need not be there, and that holds nothing afterwards."""
    monkeypatch.setattr(bank_module, "_MOST_IN_MEMORY", most)
    features = torch.randn(5000, 33, generator=torch.Generator().manual_seed(0))
    wanted = torch.arange(5000) % 7 != 3
    found = bank_module.rows_of(features, wanted, tmp_path / "a" / "b")
    assert torch.equal(found, features[wanted])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_rows_that_find_no_room_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "_MOST_IN_MEMORY", 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(DecomposeError, match=r"file"):
        bank_module.rows_of(torch.ones(3, 2), torch.ones(3, dtype=torch.bool), tmp_path / "file")
