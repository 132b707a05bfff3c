"""Features on disk: kept, found, checked, and shared by several processes."""

from __future__ import annotations

import errno
import json
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from safetensors.torch import save_file

from decompose_cli.errors import DecomposeError
from decompose_cli.features import cache as feature_cache
from decompose_cli.features.bank import BankFolder, FeatureBank
from decompose_cli.features.cache import alone, clear, entries, entry_path, features_folder, load, started
from decompose_cli.models.network import HeadTensors
from decompose_cli.storage.fingerprints import digest_of

KEY = {"weights": "abc", "precision": "32", "dataset": "def"}


def make_bank(kind: str = "dense", seed: int = 0, n: int = 2050) -> FeatureBank:
    """Three chunks of features."""
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


def keep(key: dict[str, Any], bank: FeatureBank, description: str = "", *, chunks: int | None = None) -> BankFolder:
    """Put a bank into the cache, or its first chunks."""
    path = entry_path(key)
    folder = BankFolder.create(path, bank.labels, bank.head, key=key, description=description, computed_on="cpu")
    with folder.writer() as writer:
        for number, rows in enumerate(folder.chunks[:chunks]):
            writer.write(number, bank.features[rows.start : rows.stop])
    return folder


def assert_same(found: BankFolder | None, expected: FeatureBank) -> None:
    assert found is not None
    bank = found.bank()
    assert torch.equal(bank.features, expected.features)
    assert torch.equal(bank.labels, expected.labels)
    assert bank.features.dtype == torch.float32
    assert bank.labels.dtype == torch.int64
    for part in ("kind", "name", "num_features"):
        assert getattr(bank.head, part) == getattr(expected.head, part)
    for part in ("weight", "bias", "indices", "mask", "reference", "reference_bias"):
        one, other = getattr(bank.head, part), getattr(expected.head, part)
        assert (one is None) == (other is None)
        assert one is None or (torch.equal(one, other) and one.dtype == other.dtype)


def names() -> list[str]:
    return sorted(path.name for path in features_folder().iterdir())


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


# ----------------------------------------------------------------------------------------------------- hit and miss


def test_nothing_is_found_before_something_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    assert load(KEY) is None
    assert started(KEY, "cpu") is None
    assert entries() == []
    assert clear() == (0, 0)
    assert caplog.messages == []


@pytest.mark.parametrize("kind", ["dense", "decomposed", "subspaces", "sparse"])
def test_what_is_kept_is_found(caplog: pytest.LogCaptureFixture, tmp_path: Path, kind: str) -> None:
    keep(KEY, make_bank(kind), "net on images test")
    assert_same(load(KEY), make_bank(kind))
    assert_same(load(KEY), make_bank(kind))
    assert_same(started(KEY, "cpu"), make_bank(kind))
    assert caplog.messages == []
    assert names() == [entry_path(KEY).name]
    assert features_folder() == tmp_path / "cache" / "features"


def test_the_order_of_a_key_does_not_matter_but_each_part_does() -> None:
    keep(KEY, make_bank())
    assert load(dict(reversed(list(KEY.items())))) is not None
    for name in KEY:
        assert load({**KEY, name: "other"}) is None
        assert load({part: value for part, value in KEY.items() if part != name}) is None
    assert load({**KEY, "more": None}) is None


def test_entries_of_another_format_are_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(KEY, make_bank())
    monkeypatch.setattr(feature_cache, "FORMAT_VERSION", feature_cache.FORMAT_VERSION + 1)
    assert load(KEY) is None


def test_tensors_that_are_views_are_kept() -> None:
    bank = make_bank()
    head = HeadTensors("dense", "linear", bank.head.weight.t().contiguous().t(), bank.head.bias, 5)
    keep(KEY, FeatureBank(bank.features.t().contiguous().t(), bank.labels, head))
    assert_same(load(KEY), bank)


def test_the_cache_follows_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keep(KEY, make_bank())
    monkeypatch.setenv("DECOMPOSE_CACHE", str(tmp_path / "elsewhere"))
    assert load(KEY) is None


def test_what_was_begun_is_no_hit_and_is_gone_on_with(caplog: pytest.LogCaptureFixture) -> None:
    keep(KEY, make_bank(), chunks=2)
    assert load(KEY) is None
    bank = started(KEY, "cpu")
    assert bank is not None
    assert bank.pending() == [2]
    assert caplog.messages == []


def test_features_of_several_devices_are_not_mixed() -> None:
    """What one device has finished serves all; what it has begun is begun anew by another."""
    keep(KEY, make_bank())
    assert load(KEY) is not None
    keep(other := {**KEY, "split": "train"}, make_bank(), chunks=2)
    assert started(other, "cuda (a card)") is None
    assert not entry_path(other).exists()


# ---------------------------------------------------------------------------------------------------------- damage

FEATURES, HEAD, HEADER, DONE = "features.f32", "head.safetensors", "header.json", "done/lines"
CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "cut in the middle": lambda content: content[: len(content) // 2],
    "last bytes lost": lambda content: content[:-2],
    "bytes too many": lambda content: content + b"x\0",
    "other bytes": lambda content: b"\xff" * len(content),
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"hello " * 50,
    "first bit": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "last bit": lambda content: content[:-2] + bytes([content[-2] ^ 128]) + content[-1:],
    "huge header": lambda content: (2**62).to_bytes(8, "little") + content[8:],
}
ONLY_LONGER = {(DONE, "bytes too many")}
"""Damage that changes nothing: what follows the last line is one that was cut."""


def keep_one() -> Path:
    """An entry, whose lines are in a file of a known name."""
    path = keep(KEY, make_bank(), "net on images test").path
    (file,) = (path / "done").iterdir()
    file.rename(path / DONE)
    return path


def assert_made_anew(path: Path) -> None:
    """The entry gives nothing wrong, and what is missing can be put in its place."""
    with alone(KEY):
        bank = started(KEY, "cpu")
        if bank is None:
            assert not path.exists()
            keep(KEY, make_bank())
        else:
            expected = make_bank().features
            assert bank.pending()
            with bank.writer() as writer:
                for number in bank.pending():
                    writer.write(number, expected[bank.chunks[number].start : bank.chunks[number].stop])
    assert_same(load(KEY), make_bank())


@pytest.mark.parametrize("damage", CONTENTS)
@pytest.mark.parametrize("name", [FEATURES, HEAD, HEADER, DONE])
def test_a_damaged_file_is_noticed_and_made_anew(caplog: pytest.LogCaptureFixture, name: str, damage: str) -> None:
    path = keep_one()
    file = path / name
    file.write_bytes(CONTENTS[damage](file.read_bytes()))
    found = load(KEY)
    if (name, damage) in ONLY_LONGER:
        assert_same(found, make_bank())
        return
    assert found is None
    is_part = name == FEATURES and file.stat().st_size == 2050 * 5 * 4
    if name == DONE:
        assert caplog.messages == []  # as if those chunks had never been written
    elif is_part:
        images = {"first bit": 1024, "huge header": 1024, "last bit": 2}.get(damage, 2050)
        expected = f"Of the cached features {path} those of {images:,} images are damaged and are computed again."
        assert caplog.messages == [expected]
    else:
        assert caplog.messages == [f"The cached features {path} are damaged and are computed again."]
    assert path.exists(), "only who keeps others out changes anything"
    assert_made_anew(path)
    assert len(caplog.messages) == (name != DONE)


@pytest.mark.parametrize("stand_in", ["nothing", "folder", "full folder", "link to nothing", "link to itself"])
@pytest.mark.parametrize("name", [FEATURES, HEAD, HEADER, DONE, "done"])
def test_something_else_in_the_place_of_a_file_is_noticed(name: str, stand_in: str) -> None:
    path = keep_one()
    file = path / name
    file.rename(path.parent / "away")
    if "folder" in stand_in:
        file.mkdir()
    if stand_in == "full folder":
        (file / "more").write_text("x")
    if stand_in.startswith("link"):
        file.symlink_to("nowhere" if stand_in == "link to nothing" else file.name)
    assert load(KEY) is None
    assert_made_anew(path)


def test_a_file_or_a_link_in_the_place_of_an_entry_makes_room(tmp_path: Path) -> None:
    path = keep_one()
    path.rename(tmp_path / "elsewhere")
    for put in (lambda: path.write_text("x"), lambda: path.symlink_to(tmp_path / "nowhere")):
        put()
        assert load(KEY) is None
        assert started(KEY, "cpu") is None
        assert not os.path.lexists(path)
    path.symlink_to(tmp_path / "elsewhere")  # whoever keeps features on another disk
    assert_same(load(KEY), make_bank())


def test_an_empty_folder_in_the_place_of_an_entry_makes_room() -> None:
    entry_path(KEY).mkdir(parents=True)
    assert load(KEY) is None
    assert_made_anew(entry_path(KEY))


def test_an_entry_under_the_name_of_another_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    keep(KEY, make_bank())
    other = {**KEY, "weights": "other"}
    entry_path(KEY).rename(entry_path(other))
    assert load(other) is None
    assert len(caplog.messages) == 1
    assert started(other, "cpu") is None


@pytest.mark.parametrize(
    "changes",
    [
        *({"images": 10**12}, {"images": 1e999}, {"features": 2**40}, {"images": "[" * 9}, {"images": True}),
        *({"head": 3}, {"kind": None}, {"computed_on": ["cpu"]}, {"stamps": "x"}, {"description": {}}, {"key": []}),
        *({"head_checksum": "0"}, {"format": "4"}),
    ],
)
def test_a_header_that_lies_with_the_right_checksum_is_noticed(
    caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    path = keep_one()
    header = json.loads((path / HEADER).read_text())
    del header["checksum"]
    header |= changes
    (path / HEADER).write_text(json.dumps({**header, "checksum": digest_of(header)}))
    begun = time.monotonic()
    assert load(KEY) is None
    assert [entry.description for entry in entries()] == ["damaged"]
    assert time.monotonic() - begun < 2, "nothing of the size that the header says may be made"
    assert len(caplog.messages) == 1
    assert_made_anew(path)


def test_lines_that_another_command_takes_away_meanwhile_are_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    path = keep_one()
    there = BankFolder._writers
    monkeypatch.setattr(BankFolder, "_writers", lambda bank: [*there(bank), path / "done" / "gone"])
    assert BankFolder(path).header["images"] > 0


def test_a_header_that_is_nested_too_deep_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    path = keep_one()
    (path / HEADER).write_text('{"description": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert [entry.description for entry in entries()] == ["damaged"]
    assert load(KEY) is None
    assert len(caplog.messages) == 1
    assert_made_anew(path)


def test_an_entry_of_another_user_is_not_read(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(KEY, make_bank())
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


@pytest.mark.parametrize("call", ["read_text", "is_dir", "stat"])
def test_a_cache_that_may_not_be_read_costs_a_warning(
    call: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(KEY, make_bank())

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
    assert set(listed) <= {f"The cache {features_folder()} cannot be read: Permission denied."}
    assert entry_path(KEY).exists()


def test_a_link_to_itself_is_no_entry() -> None:
    features_folder().mkdir(parents=True)
    loop = features_folder() / "x.bank"
    loop.symlink_to(loop)
    assert entries() == []


def test_no_flipped_bit_of_an_entry_goes_unnoticed() -> None:
    """Of any file; a bit that changes nothing that is read is no damage."""
    bank = make_bank(n=6)
    path = keep(KEY, bank).path
    for file in [path / name for name in (FEATURES, HEAD, HEADER)] + list((path / "done").iterdir()):
        content = file.read_bytes()
        for position in range(0, len(content), 3 if file.name == HEAD else 1):
            spoiled = bytearray(content)
            spoiled[position] ^= 1 << (position % 8)
            file.write_bytes(spoiled)
            if (found := load(KEY)) is not None:
                assert_same(found, bank)
                assert file.name == HEADER, "bytes of features and head all count"
        file.write_bytes(content)
    assert_same(load(KEY), bank)


def test_safetensors_of_another_kind_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """Also where the checksum is theirs."""
    path = keep_one()
    save_file({"features": torch.zeros(2, 3)}, path / HEAD)
    header = json.loads((path / HEADER).read_text())
    del header["checksum"]
    header["head_checksum"] = zlib.crc32((path / HEAD).read_bytes())
    (path / HEADER).write_text(json.dumps({**header, "checksum": digest_of(header)}))
    assert load(KEY) is None
    assert len(caplog.messages) == 1
    assert_made_anew(path)


def test_a_damaged_entry_that_cannot_be_removed_costs_only_the_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = keep_one()
    (path / HEADER).write_text("")

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    assert load(KEY) is None
    assert started(KEY, "cpu") is None
    assert len(caplog.messages) == 1


# ------------------------------------------------------------------------------------------------ unwritable caches


def test_a_cache_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("DECOMPOSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="directory"), alone(KEY):
        pass
    assert load(KEY) is None
    assert entries() == []
    assert (tmp_path / "file").read_text() == "not a folder"


def test_lines_that_cannot_be_written_leave_the_entry_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    path = keep_one()
    (path / FEATURES).write_bytes(bytes(2050 * 5 * 4))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(DecomposeError, match="No space left on the disk"):
        started(KEY, "cpu")
    assert len(BankFolder(path).written().checksums) == 3


# ------------------------------------------------------------------------------------------------------------ locks


def test_one_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    with alone(KEY):
        assert [path.suffix for path in features_folder().iterdir()] == [".lock"]
        with alone({**KEY, "split": "train"}):
            pass
        process = os.fork()
        if process == 0:
            with pytest.raises(filelock.Timeout):
                filelock.FileLock(entry_path(KEY).with_suffix(".lock")).acquire(timeout=0)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7
    assert names() == []
    assert caplog.messages == []


@pytest.mark.parametrize("error", [NotImplementedError(), OSError(errno.ENOLCK, "x"), OSError(errno.ENOSYS, "x")])
def test_without_locks_everybody_is_let_in(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with alone(KEY), alone(KEY):
        keep(KEY, make_bank())
    with pytest.raises(ZeroDivisionError), alone(KEY):
        raise ZeroDivisionError


def test_what_a_killed_process_left_while_it_made_the_entry_is_removed() -> None:
    path = keep_one()
    path.rename(path.with_name(f"{path.name}.0123abcd.tmp"))
    other = path.with_name(f"{'0' * 40}.bank.0123abcd.tmp")
    other.mkdir()
    assert started(KEY, "cpu") is None
    assert names() == [other.name]


# ------------------------------------------------------------------------------------------------ listing, clearing


def keep_aged(number: int, age_in_days: float = 0) -> Path:
    key = {"number": number}
    path = keep(key, make_bank(seed=number), f"net {number} on images").path
    then = time.time() - 86400 * age_in_days
    os.utime(path, (then, then))
    return path


def test_entries_are_listed_most_recent_first() -> None:
    paths = [keep_aged(0, 2), keep_aged(1, 1), keep_aged(2, 3)]
    found = entries()
    assert [entry.path for entry in found] == [paths[1], paths[0], paths[2]]
    assert [entry.description for entry in found] == ["net 1 on images", "net 0 on images", "net 2 on images"]
    assert [entry.size for entry in found] == [size_of(path) for path in (paths[1], paths[0], paths[2])]
    assert [entry.modified for entry in found] == [path.stat().st_mtime for path in (paths[1], paths[0], paths[2])]


def test_entries_say_what_is_missing_and_what_is_none() -> None:
    keep(KEY, make_bank(), "net on images", chunks=1)
    broken = keep_aged(1)
    (broken / HEADER).write_bytes(b"broken")
    (features_folder() / "0.safetensors").write_text("of an earlier version")
    (features_folder() / "1.lock").write_text("")
    earlier = "left by an earlier version, or by a command that was stopped"
    assert {entry.path.name: entry.description for entry in entries()} == {
        entry_path(KEY).name: "net on images, 1,026 still to be computed",
        broken.name: "damaged",
        "0.safetensors": earlier,
    }


def test_clearing_deletes_everything_and_says_how_much() -> None:
    sizes = [size_of(keep_aged(number)) for number in range(3)]
    (features_folder() / "x.safetensors").write_bytes(b"12345")
    (features_folder() / "x.lock").write_bytes(b"")
    (features_folder() / "y.bank.1.tmp").mkdir()
    assert clear() == (5, sum(sizes) + 5)
    assert names() == []
    assert clear() == (0, 0)


def test_clearing_may_spare_recent_entries() -> None:
    old, recent = keep_aged(0, 8), keep_aged(1, 6)
    size = size_of(old)
    assert clear(older_than_days=7) == (1, size)
    assert names() == [recent.name]
    assert load({"number": 1}) is not None


def test_clearing_touches_nothing_else_in_the_cache_folder(tmp_path: Path) -> None:
    keep_aged(0)
    other = tmp_path / "cache" / "weights" / "net.pth"
    other.parent.mkdir()
    other.write_text("kept")
    clear()
    assert other.read_text() == "kept"


def test_what_another_command_is_computing_is_not_cleared(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path = keep_aged(1)
    with feature_cache.alone({"number": 1}):
        assert clear() == (0, 0)
        assert path.exists()
    assert caplog.messages == [f"{path.name} stays: another command is computing it."]
    assert clear()[0] == 1
    assert not path.exists()


def test_what_cannot_be_removed_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    path = keep_aged(1)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(feature_cache, "FileLock", refuse)
    assert clear() == (0, 0)
    assert caplog.messages == [f"{path} cannot be removed: {os.strerror(errno.EROFS)}."]
