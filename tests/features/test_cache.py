"""Features on disk: kept, found, checked, and shared by several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import decompose_cli
from decompose_cli.features import cache as feature_cache
from decompose_cli.features.cache import (
    FeatureBank,
    clear,
    entries,
    entry_path,
    features_folder,
    load,
    store,
)
from decompose_cli.models.network import HeadTensors

KEY = {"weights": "abc", "precision": "32", "dataset": "def"}


def make_bank(kind: str = "dense", seed: int = 0, n: int = 7) -> FeatureBank:
    generator = torch.Generator().manual_seed(seed)
    more: dict[str, Any] = {}
    width = 5 if kind == "dense" else 2
    if kind == "decomposed":
        more = {
            "indices": torch.tensor([[4, 0], [1, 1], [3, 2]]),
            "mask": torch.tensor([[True, True], [True, False], [True, True]]),
        }
    if kind == "sparse":
        kind = "decomposed"
        more |= {
            "indices": torch.tensor([[4, 0], [0, 0], [3, 2]]),
            "mask": torch.tensor([[True, True], [False, False], [True, True]]),
            "reference": torch.randn(3, 5, generator=generator),
            "reference_bias": torch.randn(3, generator=generator),
        }
    if kind == "subspaces":
        more = {"reference": torch.randn(3, 5, generator=generator)}
    head = HeadTensors(
        kind, "linear", torch.randn(3, width, generator=generator), torch.randn(3, generator=generator), 5, **more
    )
    return FeatureBank(torch.randn(n, 5, generator=generator), torch.arange(n) % 3, head)


def assert_same(found: FeatureBank | None, expected: FeatureBank) -> None:
    assert found is not None
    assert torch.equal(found.features, expected.features)
    assert torch.equal(found.labels, expected.labels)
    assert found.features.dtype == torch.float32
    assert found.labels.dtype == torch.int64
    for part in ("kind", "name", "num_features"):
        assert getattr(found.head, part) == getattr(expected.head, part)
    for part in ("weight", "bias", "indices", "mask", "reference", "reference_bias"):
        one, other = getattr(found.head, part), getattr(expected.head, part)
        assert (one is None) == (other is None)
        assert one is None or (torch.equal(one, other) and one.dtype == other.dtype)


def names() -> list[str]:
    return sorted(path.name for path in features_folder().iterdir())


# ----------------------------------------------------------------------------------------------------- hit and miss


def test_nothing_is_found_before_something_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    assert load(KEY) is None
    assert entries() == []
    assert clear() == (0, 0)
    assert caplog.messages == []


@pytest.mark.parametrize("kind", ["dense", "decomposed", "subspaces", "sparse"])
def test_what_is_kept_is_found(caplog: pytest.LogCaptureFixture, tmp_path: Path, kind: str) -> None:
    store(KEY, make_bank(kind), "net on images test")
    assert_same(load(KEY), make_bank(kind))
    assert_same(load(KEY), make_bank(kind))
    assert caplog.messages == []
    assert names() == [entry_path(KEY).name]
    assert features_folder() == tmp_path / "cache" / "features"


def test_the_order_of_a_key_does_not_matter_but_each_part_does() -> None:
    store(KEY, make_bank(), "")
    assert load(dict(reversed(list(KEY.items())))) is not None
    for name in KEY:
        assert load({**KEY, name: "other"}) is None
        assert load({part: value for part, value in KEY.items() if part != name}) is None
    assert load({**KEY, "more": None}) is None


def test_entries_of_another_format_are_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    store(KEY, make_bank(), "")
    monkeypatch.setattr(feature_cache, "FORMAT_VERSION", feature_cache.FORMAT_VERSION + 1)
    assert load(KEY) is None


def test_keeping_again_replaces() -> None:
    store(KEY, make_bank(seed=0), "")
    store(KEY, make_bank(seed=1, n=9), "")
    assert_same(load(KEY), make_bank(seed=1, n=9))
    assert len(names()) == 1


def test_tensors_that_are_views_are_kept() -> None:
    bank = make_bank()
    head = HeadTensors("dense", "linear", bank.head.weight.t().contiguous().t(), bank.head.bias, 5)
    store(KEY, FeatureBank(bank.features, bank.labels, head), "")
    assert_same(load(KEY), bank)


def test_the_cache_follows_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store(KEY, make_bank(), "")
    monkeypatch.setenv("DECOMPOSE_CACHE", str(tmp_path / "elsewhere"))
    assert load(KEY) is None


# ---------------------------------------------------------------------------------------------------------- damage


def keep_and_spoil(spoil: Any) -> Path:
    store(KEY, make_bank(), "net on images test")
    path = entry_path(KEY)
    content = path.read_bytes()
    path.write_bytes(spoil(content))
    return path


DAMAGE = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "header only": lambda content: content[: 8 + int.from_bytes(content[:8], "little")],
    "cut in the middle": lambda content: content[: len(content) // 2],
    "last byte lost": lambda content: content[:-1],
    "a byte too many": lambda content: content + b"\0",
    "other bytes": lambda content: b"\xff" * len(content),
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"hello " * 50,
    "huge header": lambda content: (2**62).to_bytes(8, "little") + content[8:],
    "first tensor byte": lambda content: content[:-200] + bytes([content[-200] ^ 1]) + content[-199:],
    "last tensor byte": lambda content: content[:-1] + bytes([content[-1] ^ 128]),
    "description not JSON": lambda content: content.replace(b'\\"kind', b"  kind"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_noticed_removed_and_made_anew(caplog: pytest.LogCaptureFixture, damage: str) -> None:
    path = keep_and_spoil(DAMAGE[damage])
    assert load(KEY) is None
    assert caplog.messages == [f"The cached features {path} are damaged and are computed again."]
    assert not path.exists()
    store(KEY, make_bank(), "")
    assert_same(load(KEY), make_bank())
    assert len(caplog.messages) == 1


def test_an_entry_under_the_name_of_another_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    store(KEY, make_bank(), "")
    other = {**KEY, "weights": "other"}
    entry_path(KEY).rename(entry_path(other))
    assert load(other) is None
    assert len(caplog.messages) == 1


def test_an_entry_whose_description_is_nested_too_deep_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    path = entry_path(KEY)
    path.parent.mkdir(parents=True)
    deep = {"decompose": '{"description": ' + "[" * 100_000 + "]" * 100_000 + "}"}
    save_file({"features": torch.zeros(2, 3)}, path, metadata=deep)
    assert [entry.description for entry in entries()] == ["damaged"]
    assert load(KEY) is None
    assert len(caplog.messages) == 1
    assert not path.exists()


def test_an_entry_of_another_user_is_left_alone_and_made_anew(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(KEY, make_bank(), "")
    owner = entry_path(KEY).stat().st_uid
    if owner == 0:  # whom everybody trusts
        os.chown(entry_path(KEY), 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert load(KEY) is None
    assert caplog.messages == [
        f"The cached features {entry_path(KEY)} cannot be used (owned by another user) and are computed again."
    ]
    assert entry_path(KEY).exists()


@pytest.mark.parametrize("call", ["is_file", "stat"])
def test_a_cache_that_may_not_be_read_costs_a_warning(
    call: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(KEY, make_bank(), "")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, call, refuse)
        assert load(KEY) is None
        if call == "stat":
            assert entries() == []
            assert clear() == (0, 0)
    used, *listed = caplog.messages
    assert used == f"The cached features {entry_path(KEY)} cannot be used (Permission denied) and are computed again."
    assert listed == [f"The cache {features_folder()} cannot be read: Permission denied."] * (2 * (call == "stat"))


def test_a_link_to_itself_is_no_entry() -> None:
    features_folder().mkdir(parents=True)
    loop = features_folder() / "x.safetensors"
    loop.symlink_to(loop)
    assert entries() == []


@pytest.mark.parametrize(
    "metadata",
    [None, {}, {"decompose": ""}, {"decompose": "[]"}, {"decompose": "{}"}, {"decompose": '"x"'}, {"other": "{}"}],
)
def test_a_safetensors_file_of_another_kind_is_noticed(
    caplog: pytest.LogCaptureFixture, metadata: dict[str, str] | None
) -> None:
    path = entry_path(KEY)
    path.parent.mkdir(parents=True)
    save_file({"features": torch.zeros(2, 3)}, path, metadata=metadata)
    assert load(KEY) is None
    assert len(caplog.messages) == 1
    assert not path.exists()


def test_a_checksum_that_is_right_does_not_excuse_missing_tensors(caplog: pytest.LogCaptureFixture) -> None:
    path = entry_path(KEY)
    path.parent.mkdir(parents=True)
    tensors = {"features": torch.zeros(2, 3)}
    header: dict[str, object] = {"kind": "dense", "head": "fc", "num_features": 3}
    header["checksum"] = feature_cache._checksum(header, tensors)
    save_file(tensors, path, metadata={"decompose": json.dumps(header)})
    assert load(KEY) is None
    assert len(caplog.messages) == 1


def test_no_flipped_bit_of_the_tensors_goes_unnoticed() -> None:
    store(KEY, make_bank(), "")
    path = entry_path(KEY)
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for position in range(start, len(content)):
        spoiled = bytearray(content)
        spoiled[position] ^= 1 << (position % 8)
        path.write_bytes(spoiled)
        assert load(KEY) is None, position


def test_no_flipped_bit_of_the_header_changes_what_is_found() -> None:
    """Names, types, shapes and the facts about the head are under the header's protection too."""
    store(KEY, make_bank(), "")
    path = entry_path(KEY)
    content = path.read_bytes()
    for position in range(8 + int.from_bytes(content[:8], "little")):
        for bit in range(8):
            spoiled = bytearray(content)
            spoiled[position] ^= 1 << bit
            path.write_bytes(spoiled)
            found = load(KEY)
            if found is not None:
                assert_same(found, make_bank())


def test_a_damaged_entry_that_cannot_be_removed_costs_only_the_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keep_and_spoil(DAMAGE["cut in the middle"])

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    assert load(KEY) is None
    assert len(caplog.messages) == 1


# ------------------------------------------------------------------------------------------------ unwritable caches


def test_a_cache_that_cannot_be_written_costs_only_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("DECOMPOSE_CACHE", str(tmp_path / "file"))
    store(KEY, make_bank(), "")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("The features could not be kept for the next time: Cannot write ")
    assert load(KEY) is None
    assert entries() == []
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_costs_only_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    features_folder().mkdir(parents=True)
    features_folder().chmod(0o500)
    store(KEY, make_bank(), "")
    assert len(caplog.messages) == 1
    features_folder().chmod(0o700)
    assert names() == []


def test_a_full_disk_costs_only_a_warning_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_cache, "save_file", fail)
    store(KEY, make_bank(), "")
    assert len(caplog.messages) == 1
    assert "No space left on the disk" in caplog.messages[0]
    assert not features_folder().exists()


def test_a_folder_in_the_place_of_an_entry_costs_only_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    entry_path(KEY).mkdir(parents=True)
    assert load(KEY) is None
    store(KEY, make_bank(), "")
    assert len(caplog.messages) == 1
    assert names() == [entry_path(KEY).name]


# -------------------------------------------------------------------------------------------------------- processes

WRITER = """
import sys, time
from pathlib import Path
import torch
from decompose_cli.features import cache as feature_cache
from decompose_cli.models.network import HeadTensors

ready, go = Path(sys.argv[1]), Path(sys.argv[2])
head = HeadTensors("dense", "linear", torch.ones(3, 64), torch.zeros(3), 64)
bank = feature_cache.FeatureBank(torch.arange(64.0 * 2000).view(2000, 64), torch.arange(2000) % 3, head)
warnings = []
feature_cache.warn = warnings.append
ready.touch()
while not go.exists():
    time.sleep(0.001)
end = time.time() + 1
rounds = 0
while time.time() < end:
    feature_cache.store({"a": 1}, bank, "by a process")
    found = feature_cache.load({"a": 1})
    assert found is not None and torch.equal(found.features, bank.features), warnings
    rounds += 1
assert rounds > 3 and not warnings, (rounds, warnings)
"""


@pytest.mark.slow
def test_two_processes_filling_one_entry_at_once_leave_a_valid_one(tmp_path: Path) -> None:
    go = tmp_path / "go"
    root = str(Path(decompose_cli.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    ready = [tmp_path / f"ready{number}" for number in range(2)]
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(mark), str(go)], env=environment, stderr=subprocess.PIPE)
        for mark in ready
    ]
    deadline = time.time() + 60
    while not all(mark.exists() for mark in ready) and time.time() < deadline:
        time.sleep(0.01)
    go.touch()
    errors = [process.communicate(timeout=60)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    found = load({"a": 1})
    assert found is not None
    assert torch.equal(found.features, torch.arange(64.0 * 2000).view(2000, 64))
    assert names() == [entry_path({"a": 1}).name]


# ------------------------------------------------------------------------------------------------ listing, clearing


def keep(number: int, age_in_days: float = 0) -> Path:
    key = {"number": number}
    store(key, make_bank(seed=number), f"net {number} on images")
    then = time.time() - 86400 * age_in_days
    os.utime(entry_path(key), (then, then))
    return entry_path(key)


def test_entries_are_listed_most_recent_first() -> None:
    paths = [keep(0, 2), keep(1, 1), keep(2, 3)]
    found = entries()
    assert [entry.path for entry in found] == [paths[1], paths[0], paths[2]]
    assert [entry.description for entry in found] == ["net 1 on images", "net 0 on images", "net 2 on images"]
    assert [entry.size for entry in found] == [path.stat().st_size for path in (paths[1], paths[0], paths[2])]
    assert [entry.modified for entry in found] == [path.stat().st_mtime for path in (paths[1], paths[0], paths[2])]


def test_damaged_entries_are_listed_as_such_and_strangers_are_not() -> None:
    keep(0)
    broken = keep(1)
    broken.write_bytes(b"broken")
    (features_folder() / "notes.txt").write_text("mine")
    found = {entry.path: entry.description for entry in entries()}
    assert set(found.values()) == {"net 0 on images", "damaged"}
    assert found[broken] == "damaged"


def test_clearing_deletes_everything_and_says_how_much() -> None:
    sizes = [keep(number).stat().st_size for number in range(3)]
    leftover = features_folder() / ".x.safetensors.abc.tmp"
    leftover.write_bytes(b"12345")
    assert clear() == (4, sum(sizes) + 5)
    assert names() == []
    assert clear() == (0, 0)


def test_clearing_may_spare_recent_entries() -> None:
    old, recent = keep(0, 8), keep(1, 6)
    size = old.stat().st_size
    assert clear(older_than_days=7) == (1, size)
    assert names() == [recent.name]
    assert load({"number": 1}) is not None


def test_clearing_touches_nothing_else_in_the_cache_folder(tmp_path: Path) -> None:
    keep(0)
    other = tmp_path / "cache" / "weights" / "net.pth"
    other.parent.mkdir()
    other.write_text("kept")
    clear()
    assert other.read_text() == "kept"
