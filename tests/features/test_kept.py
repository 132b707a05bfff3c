"""Features with images that cannot be read, disks that fill up, and commands that wait for one another."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.features import bank as bank_module
from decompose_cli.features import cache as feature_cache
from decompose_cli.features.bank import BankFolder, BankWriter
from decompose_cli.features.forward import Forward, Pending
from decompose_cli.features.study import Inputs, Study

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.stem(x).relu().mean((2, 3)))
"""
EACH, CHUNK = 7, 4  # images of each of three classes; images of a chunk
COUNT, CHUNKS = 21, 6


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "_PAGE", 128)
    monkeypatch.setattr(bank_module, "_USUAL_CHUNK", CHUNK)


@pytest.fixture(autouse=True)
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Path("kept_net.py").write_text(NET)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("kept_net", None)


@pytest.fixture(params=["whole", "streamed", pytest.param("streamed by processes", marks=pytest.mark.slow)])
def kind(request: pytest.FixtureRequest) -> str:
    """Whether images are small and read whole, or are decoded as they are needed."""
    return str(request.param)


@pytest.fixture
def images(kind: str, tmp_path: Path) -> Path:
    """A folder for each class; of the images 5, 6 and 13 of all, three files are damaged."""
    random, side = np.random.default_rng(0), 12 if kind == "whole" else 70
    for number in range(COUNT):
        folder = tmp_path / "images" / "test" / "abc"[number // EACH]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    return tmp_path / "images"


def file_of(images: Path, number: int) -> Path:
    return images / "test" / "abc"[number // EACH] / f"{number:02d}.png"


def damage(images: Path, *numbers: int) -> None:
    for number in numbers:
        file_of(images, number).write_bytes(file_of(images, number).read_bytes()[:100])


def study(images: Path, kind: str, **options: Any) -> Study:
    workers = 2 if kind == "streamed by processes" else 0
    inputs = Inputs(
        model="kept_net:Net", dataset=f"folder:{images}", input_size="12", mean="0,0,0", std="1,1,1", **options,
        workers=workers,
    )  # fmt: skip
    return Study(inputs, ("test",))


class Counted:
    """Chunks that were written, and images that went through the network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written: list[int] = []
        self.images = 0
        write, submit = BankWriter.write, Forward.submit

        def counted_write(writer: BankWriter, number: int, *arguments: Any) -> None:
            write(writer, number, *arguments)
            self.written.append(number)

        def counted_submit(forward: Forward, images: Tensor) -> Pending:
            self.images += len(images)
            return submit(forward, images)

        monkeypatch.setattr(BankWriter, "write", counted_write)
        monkeypatch.setattr(Forward, "submit", counted_submit)

    def taken(self) -> tuple[list[int], int]:
        found = self.written, self.images
        self.written, self.images = [], 0
        return found


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def refused(images: Path, kind: str, **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        _ = study(images, kind, **options).bank
    assert caught.value.exit_code == 2
    return caught.value


# ------------------------------------------------------------------------------------- images that cannot be read


def test_the_run_stops_with_the_name_of_the_image_after_all_others_are_kept(
    images: Path, kind: str, counted: Counted
) -> None:
    damage(images, 5)
    error = refused(images, kind)
    assert str(file_of(images, 5)) in error.message
    assert error.hint == "Mend it, or leave it out with skip_unreadable 1; all others are done."
    assert counted.taken() == ([0, 2, 3, 4, 5], COUNT)
    # The second time only the chunk of that image is tried again.
    assert refused(images, kind).message == error.message
    assert counted.taken() == ([], CHUNK)


def test_several_images_are_counted_and_the_first_is_named(images: Path, kind: str, counted: Counted) -> None:
    damage(images, 5, 6, 13)
    error = refused(images, kind)
    assert error.message.startswith("3 images cannot be read. The first: ")
    assert str(file_of(images, 5)) in error.message
    assert error.hint == "Mend them, or leave them out with skip_unreadable 3; all others are done."
    assert counted.taken()[0] == [0, 2, 4, 5]


def test_an_image_that_can_be_read_again_is_all_that_is_missing(
    images: Path, kind: str, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a disk failed for a moment, so that the file is as it was."""
    expected = study(images, kind, use_cache=False).bank
    file = file_of(images, 5)
    whole, status = file.read_bytes(), file.stat()
    file.write_bytes(b"\0" * len(whole))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    shutil.rmtree(Path(os.environ["DECOMPOSE_CACHE"]) / "fingerprints", ignore_errors=True)
    refused(images, kind)
    counted.taken()
    file.write_bytes(whole)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    found = study(images, kind).bank
    assert torch.equal(found.features, expected.features)
    assert counted.taken()[1] == CHUNK  # the others are copied


def test_of_images_that_were_changed_only_these_are_computed_again(images: Path, kind: str, counted: Counted) -> None:
    """One that was damaged is put right, one is another now, and at the end there are fewer."""
    damage(images, 5)
    refused(images, kind)
    Image.new("RGB", Image.open(file_of(images, 4)).size, (9, 99, 199)).save(file_of(images, 5))
    counted.taken()
    mended = study(images, kind).bank.features
    assert counted.taken() == ([0, 2, 3, 4, 5, 1], CHUNK)  # copied, but for the second
    assert torch.equal(mended, study(images, kind, use_cache=False).bank.features)
    file_of(images, COUNT - 1).unlink()
    Image.new("RGB", Image.open(file_of(images, 4)).size, (1, 2, 3)).save(file_of(images, 13))
    counted.taken()
    fewer = study(images, kind).bank.features
    taken, computed = counted.taken()
    assert len(fewer) == COUNT - 1
    assert sorted(taken) == list(range(CHUNKS - 1))
    assert computed == CHUNK
    assert torch.equal(fewer, study(images, kind, use_cache=False).bank.features)


def test_chunks_that_are_damaged_are_not_taken_over(images: Path, kind: str, counted: Counted) -> None:
    _ = study(images, kind).bank
    (entry,) = feature_cache.entries()
    features = entry.path / "features.f32"
    content = bytearray(features.read_bytes())
    content[-1] ^= 1
    features.write_bytes(content)
    Image.new("RGB", Image.open(file_of(images, 4)).size, (1, 2, 3)).save(file_of(images, 0))
    expected = study(images, kind, use_cache=False).bank.features
    counted.taken()
    assert torch.equal(study(images, kind).bank.features, expected)
    assert counted.taken()[1] > CHUNK


@pytest.mark.parametrize("use_cache", [True, False])
def test_so_many_may_be_left_out_and_every_count_is_without_them(
    images: Path, kind: str, counted: Counted, use_cache: bool, caplog: pytest.LogCaptureFixture
) -> None:
    expected = study(images, kind, use_cache=False).bank
    damage(images, 5, 13)
    counted.taken()
    left_out = study(images, kind, use_cache=use_cache, skip_unreadable=2)
    stays = [number for number in range(COUNT) if number not in (5, 13)]
    assert torch.equal(left_out.bank.features, expected.features[stays])
    assert torch.equal(left_out.bank.labels, expected.labels[stays])
    assert len(left_out.labels) == len(left_out.dataset) == left_out.describe_dataset().images == COUNT - 2
    assert left_out.describe_dataset().unreadable == ["a/05.png", "b/13.png"]
    assert torch.equal(left_out.dataset.labels, expected.labels[stays])
    said = [message for message in caplog.messages if "left out" in message]
    assert said == [f"Images of folder:{images} that cannot be read are left out everywhere: 2 (a/05.png, b/13.png)."]
    assert bool(torch.isfinite(left_out.bank.features).all())
    assert counted.taken() == (list(range(CHUNKS)) if use_cache else [], COUNT)
    again = study(images, kind, use_cache=use_cache, skip_unreadable=5)
    assert torch.equal(again.bank.features, left_out.bank.features)
    assert again.describe_cache().features == ("hit" if use_cache else "off")
    assert again.describe_dataset().unreadable == ["a/05.png", "b/13.png"]
    assert counted.taken()[1] == (0 if use_cache else COUNT)


@pytest.mark.parametrize("use_cache", [True, False])
def test_more_than_may_be_left_out_are_refused_and_nothing_is_lost(
    images: Path, kind: str, counted: Counted, use_cache: bool
) -> None:
    damage(images, 5, 13)
    error = refused(images, kind, use_cache=use_cache, skip_unreadable=1)
    assert error.message.startswith("2 images cannot be read. The first: ")
    kept = "; all others are done." if use_cache else "."
    assert error.hint == f"Mend them, or leave them out with skip_unreadable 2 instead of 1{kept}"
    counted.taken()
    assert len(study(images, kind, use_cache=use_cache, skip_unreadable=2).bank.labels) == COUNT - 2
    assert counted.taken()[1] == (0 if use_cache else COUNT)


def test_a_bank_with_images_left_out_is_refused_without_leave(images: Path, kind: str, counted: Counted) -> None:
    damage(images, 5)
    assert len(study(images, kind, skip_unreadable=1).bank.labels) == COUNT - 1
    counted.taken()
    assert str(file_of(images, 5)) in refused(images, kind).message
    assert counted.taken() == ([], CHUNK), "only the chunk of that image is tried again"
    sentence = f"a/05.png of folder:{images} test cannot be read."
    for times in (1, 0):  # once more for a chunk that was forgotten for the sentence above
        error = refused(images, kind, skip_unreadable=0)
        assert str(file_of(images, 5)) in error.message if times else error.message == sentence
        assert counted.taken() == ([1] * times, CHUNK * times)
    assert len(study(images, kind, skip_unreadable=1).bank.labels) == COUNT - 1


def test_no_image_at_all_can_be_read(images: Path, kind: str) -> None:
    damage(images, *range(COUNT))
    for options in ({}, {"skip_unreadable": COUNT}, {"use_cache": False}):
        assert str(file_of(images, 0)) in refused(images, kind, **options).message


# ------------------------------------------------------------------------------------------------- disks and cache


@pytest.fixture
def plain(tmp_path: Path) -> Callable[..., Study]:
    """A study of small images."""
    random = np.random.default_rng(0)
    for number in range(COUNT):
        folder = tmp_path / "images" / "test" / "abc"[number // EACH]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    return lambda **options: study(tmp_path / "images", "whole", **options)


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("call", range(CHUNKS))
@pytest.mark.parametrize("of", ["pwrite", "write"])
def test_a_disk_that_fills_up_keeps_what_was_finished(
    plain: Callable[..., Study], counted: Counted, monkeypatch: pytest.MonkeyPatch, call: int, of: str
) -> None:
    real, calls = getattr(bank_module.os, of), 0

    def filling_up(descriptor: int, *arguments: Any) -> int:
        nonlocal calls
        calls += 1
        return int(full() or 0) if calls > call else real(descriptor, *arguments)

    with monkeypatch.context() as patch:
        # Only of the bank: everything writes by the same functions.
        patch.setattr(bank_module, "os", Standing(of, filling_up))
        with pytest.raises(DecomposeError) as caught:
            _ = plain().bank
    assert caught.value.exit_code == 1
    (bank,) = feature_cache.features_folder().glob("*.bank")
    assert caught.value.message == f"The features cannot be written to {bank}: No space is left on the disk."
    assert caught.value.hint is not None
    assert "Free some space" in caught.value.hint
    assert counted.taken()[0] == list(range(call))
    found = plain()
    expected = plain(use_cache=False).bank
    assert torch.equal(found.bank.features, expected.features)
    assert counted.written == list(range(call, CHUNKS)), "only what was missing"


class Standing:
    """The module ``os`` with one function of another kind."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name, self._function = name, function

    def __getattr__(self, name: str) -> Any:
        return self._function if name == self._name else getattr(os, name)


def test_a_disk_without_room_for_the_features_costs_only_a_warning(
    plain: Callable[..., Study], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = plain(use_cache=False).bank
    monkeypatch.setattr(os, "posix_fallocate", full)
    found = plain()
    assert torch.equal(found.bank.features, expected.features)
    assert found.describe_cache().features == "off"
    (said,) = [message for message in caplog.messages if message.startswith("The features")]
    assert said.startswith("The features could not be kept for the next time: No space left on the disk")
    assert list(feature_cache.features_folder().iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_may_only_be_read_is_read(plain: Callable[..., Study]) -> None:
    expected = plain().bank.features.clone()
    feature_cache.features_folder().chmod(0o500)
    try:
        found = plain()
        assert found.bank is not None
        assert found.describe_cache().features == "hit"
        assert torch.equal(found.bank.features, expected)
    finally:
        feature_cache.features_folder().chmod(0o700)


def test_a_cache_that_may_only_be_read_costs_only_a_warning(
    plain: Callable[..., Study], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every kind of writing is refused, as to any user but root."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    found = plain()
    assert found.bank is not None
    assert found.describe_cache().features == "off"
    (said,) = [message for message in caplog.messages if message.startswith("The features")]
    assert said.endswith("Permission denied.")


def test_damaged_chunks_alone_are_computed_again(plain: Callable[..., Study], counted: Counted) -> None:
    expected = plain().bank.features.clone()
    counted.taken()
    (path,) = feature_cache.features_folder().iterdir()
    with (path / "features.f32").open("r+b") as file:
        file.seek(2 * CHUNK * 8 * 4)
        file.write(b"\xff\xff")
    found = plain()
    assert torch.equal(found.bank.features, expected)
    assert counted.taken() == ([2], CHUNK)
    assert plain().describe_cache().features == "off"  # nothing was asked of it yet
    assert BankFolder(path).damaged() == []


def test_features_of_another_device_serve_and_are_said(
    plain: Callable[..., Study], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with monkeypatch.context() as patch:
        patch.setattr("decompose_cli.features.kept.describe_device", lambda _: "cuda (a card)")
        expected = plain().bank.features.clone()
    found = plain()
    assert torch.equal(found.bank.features, expected)
    assert found.describe_cache().features == "hit"
    assert found.describe_cache().computed_on == ["cuda (a card)"]
    assert "The features in the cache were computed on cuda (a card)." in caplog.messages


# -------------------------------------------------------------------------------------------------- at the same time


def test_the_second_waits_for_the_first_and_finds_what_it_kept(
    plain: Callable[..., Study], counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is another process, which is held up after its second chunk."""
    write, written = BankWriter.write, 0

    def slowly(writer: BankWriter, *arguments: Any) -> None:
        nonlocal written
        write(writer, *arguments)
        written += 1
        if written == 2:
            Path("under way").touch()
            while not Path("go on").exists():
                time.sleep(0.01)

    process = os.fork()
    if process == 0:
        monkeypatch.setattr(BankWriter, "write", slowly)
        code = 1
        try:
            _ = plain().bank
            code = 0
        finally:
            os._exit(code)
    while not Path("under way").exists():
        time.sleep(0.01)
    said: list[str] = []

    def told(message: str) -> None:
        said.append(message)
        Path("go on").touch()

    monkeypatch.setattr(feature_cache, "note", told)
    found = plain()
    _ = found.bank
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert said == ["Another command is computing these features; waiting for it."]
    assert counted.taken() == ([], 0)
    assert found.describe_cache().features == "hit"
    assert torch.equal(found.bank.features, plain(use_cache=False).bank.features)


def test_who_waits_for_one_that_is_killed_goes_on(
    plain: Callable[..., Study], counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what it had written, the line of the last chunk is cut."""
    write, written = BankWriter.write, 0

    def killed(writer: BankWriter, number: int, *arguments: Any) -> None:
        nonlocal written
        if written == 3:
            os.write(writer._lines, b"3 123")
            os.kill(os.getpid(), 9)
        write(writer, number, *arguments)
        written += 1

    process = os.fork()
    if process == 0:
        monkeypatch.setattr(BankWriter, "write", killed)
        _ = plain().bank
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -9
    found = plain()
    _ = found.bank
    assert counted.taken() == ([3, 4, 5], COUNT - 3 * CHUNK)
    assert found.describe_cache().features == "miss"
    assert torch.equal(found.bank.features, plain(use_cache=False).bank.features)
    assert [path.suffix for path in feature_cache.features_folder().iterdir()] == [".bank"]
