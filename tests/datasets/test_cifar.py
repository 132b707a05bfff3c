"""CIFAR batch files: read as they were published, refused where reading would run code, unpacked from the archive."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import tarfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from decompose_cli.datasets.cifar import ARCHIVES, CIFAR10_CLASSES, CIFAR100_CLASSES, open_cifar
from decompose_cli.errors import DownloadError, InputError
from decompose_cli.messages import use_reporter


class Recorder:
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def track(self, *_: Any) -> AbstractContextManager:
        return nullcontext(lambda _: None)


def batch(name: str, seed: int, n: int = 4, **changes: Any) -> bytes:
    """A batch file as Python 2 wrote it."""
    random = np.random.default_rng(seed)
    labels = [int(label) for label in random.integers(0, len(ARCHIVES[name].classes), n)]
    content = {
        "data": random.integers(0, 256, (n, 3072), dtype=np.uint8),
        ARCHIVES[name].label_key: labels,
        "filenames": [f"{i}.png" for i in range(n)],
    }
    return _python2(content | changes)


class _Python2Pickler(pickle._Pickler):
    """Writes text and bytes alike as the byte strings that Python 2 had, and NumPy under its old name."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, value: str | bytes) -> None:
        content = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def _python2(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def write_all(folder: Path, name: str) -> dict[str, bytes]:
    folder.mkdir(parents=True)
    files = [file for split in ARCHIVES[name].files.values() for file in split]
    contents = {file: batch(name, seed) for seed, file in enumerate(files)}
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    return contents


@pytest.fixture
def accept_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sums of the files that the tests write count as the published ones."""
    for name, archive in ARCHIVES.items():
        files = [file for split in archive.files.values() for file in split]
        sums = {file: hashlib.md5(batch(name, seed)).hexdigest() for seed, file in enumerate(files)}
        patched = {split: {file: sums[file] for file in of} for split, of in archive.files.items()}
        monkeypatch.setitem(ARCHIVES, name, replace(archive, files=patched))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("place", ["{folder}", "{name}/{folder}"])
@pytest.mark.usefixtures("accept_all")
def test_batches_are_read_in_the_published_layout(name: str, place: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    contents = write_all(root / place.format(name=name, folder=ARCHIVES[name].folder), name)
    recorder = Recorder()
    with use_reporter(recorder):
        for split, files in ARCHIVES[name].files.items():
            dataset = open_cifar(name, split, root, False)
            pixels, labels = dataset.pixels_and_labels
            stored = [pickle.loads(contents[file], encoding="bytes") for file in files]
            rows = np.concatenate([part[b"data"] for part in stored])
            expected = [label for part in stored for label in part[ARCHIVES[name].label_key.encode()]]
            assert labels.tolist() == expected
            assert len(dataset) == len(expected) == 4 * len(files)
            # A row is 1024 red, 1024 green, 1024 blue values, each channel row by row.
            assert int(pixels[1, 2, 3, 5]) == rows[1, 2 * 1024 + 3 * 32 + 5]
            assert np.array_equal(pixels.reshape(len(rows), -1).numpy(), rows)
            assert dataset.class_names == tuple(ARCHIVES[name].classes)
    assert recorder.warnings == []


@pytest.mark.usefixtures("accept_all")
def test_data_folder_may_be_the_batch_folder_itself(tmp_path: Path) -> None:
    folder = tmp_path / ARCHIVES["cifar10"].folder
    write_all(folder, "cifar10")
    assert len(open_cifar("cifar10", "test", folder, False)) == 4


def test_files_with_another_md5_are_used_with_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / ARCHIVES["cifar10"].folder
    write_all(folder, "cifar10")
    recorder = Recorder()
    with use_reporter(recorder):
        assert open_cifar("cifar10", "test", tmp_path, False).pixels_and_labels[0].shape == (4, 3, 32, 32)
    assert len(recorder.warnings) == 1
    assert str(folder / "test_batch") in recorder.warnings[0]
    assert "md5 differs" in recorder.warnings[0]


@pytest.mark.parametrize("place", [".", "cifar10"])
def test_files_of_an_archive_that_have_another_md5_are_refused(place: str, tmp_path: Path) -> None:
    """Beside the archive they are what came of a download, and no images of the user's."""
    root = tmp_path / place
    write_all(root / ARCHIVES["cifar10"].folder, "cifar10")
    (root / "cifar-10-python.tar.gz").write_bytes(b"any")
    with pytest.raises(InputError, match=r"test_batch is damaged: its md5 is not the published one") as refusal:
        open_cifar("cifar10", "test", tmp_path, False).pixels_and_labels  # noqa: B018
    assert str(root / "cifar-10-python.tar.gz") in refusal.value.message
    assert str(root / ARCHIVES["cifar10"].folder) in (refusal.value.hint or "")


def test_fingerprint_changes_with_the_images(tmp_path: Path) -> None:
    folder = tmp_path / ARCHIVES["cifar10"].folder
    write_all(folder, "cifar10")
    before = open_cifar("cifar10", "test", tmp_path, False).fingerprint()
    assert open_cifar("cifar10", "test", tmp_path, False).fingerprint() == before
    (folder / "test_batch").write_bytes(batch("cifar10", 99))
    assert open_cifar("cifar10", "test", tmp_path, False).fingerprint() != before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\x80\x02",
        batch("cifar10", 0)[:-1000],
        pickle.dumps([1, 2], protocol=2),
        _python2({"labels": [1]}),
        batch("cifar10", 0, labels=[1]),
        batch("cifar10", 0, labels=[0, 1, 2, 10]),
        batch("cifar10", 0, labels=[0, 1, 2, -1]),
        batch("cifar10", 0, labels=["a", "b", "c", "d"]),
        batch("cifar10", 0, labels=None),
        batch("cifar10", 0, data=np.zeros((4, 3071), dtype=np.uint8)),
        batch("cifar10", 0, data=np.zeros((4, 3072), dtype=np.float32)),
        batch("cifar10", 0, data=[1, 2, 3, 4]),
        batch("cifar10", 0, n=0),
        batch("cifar100", 0),
    ],
    ids=[
        *("empty", "garbage", "start", "cut off", "list", "no data", "too few labels", "large label", "negative"),
        *("words", "none", "short rows", "float", "no array", "no images", "the other set"),
    ],
)
def test_damaged_batches_are_refused_by_name(content: bytes, tmp_path: Path) -> None:
    folder = tmp_path / ARCHIVES["cifar10"].folder
    write_all(folder, "cifar10")
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(InputError, match=r"test_batch is damaged: it does not hold cifar10 images") as refusal:
        open_cifar("cifar10", "test", tmp_path, False).pixels_and_labels  # noqa: B018 - reading is what is tested
    assert "Move " in (refusal.value.hint or "")


class Hostile:
    def __reduce__(self) -> Any:
        return open, ("executed", "w")


class HostileNumpy:
    def __reduce__(self) -> Any:
        return np.save, ("executed", 1)


@pytest.mark.parametrize("payload", [Hostile, HostileNumpy])
def test_hostile_batch_is_refused_and_not_executed(payload: type, tmp_path: Path) -> None:
    folder = tmp_path / ARCHIVES["cifar10"].folder
    write_all(folder, "cifar10")
    (folder / "test_batch").write_bytes(batch("cifar10", 0, extra=payload()))
    with pytest.raises(InputError, match="would execute code"):
        open_cifar("cifar10", "test", tmp_path, False).pixels_and_labels  # noqa: B018
    assert not list(Path().glob("executed*"))


def test_missing_batch_file(tmp_path: Path) -> None:
    folder = tmp_path / ARCHIVES["cifar10"].folder
    write_all(folder, "cifar10")
    (folder / "data_batch_3").unlink()
    with pytest.raises(InputError, match="lacks the file data_batch_3 of cifar10"):
        open_cifar("cifar10", "train", tmp_path, False)
    assert len(open_cifar("cifar10", "test", tmp_path, False)) == 4


def test_downloads_switched_off(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"cifar10 is not in {tmp_path} and downloads are off") as failure:
        open_cifar("cifar10", "test", tmp_path, False)
    assert ARCHIVES["cifar10"].url in (failure.value.hint or "")
    assert "data_dir" in (failure.value.hint or "")


def test_archive_that_is_damaged(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "cifar-10-python.tar.gz").write_bytes(b"half an archive")
    with pytest.raises(InputError, match="its md5 is not the published one") as refusal:
        open_cifar("cifar10", "test", root, True)
    assert refusal.value.hint == f"Move {root / 'cifar-10-python.tar.gz'} away, and it is fetched or unpacked anew."
    assert [path.name for path in root.iterdir()] == ["cifar-10-python.tar.gz"]


def _pack(path: Path, members: dict[str, bytes | None]) -> None:
    """A gzipped tar; a member without content is a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content or b"")
            info.type = tarfile.REGTYPE if content is not None else tarfile.DIRTYPE
            tar.addfile(info, io.BytesIO(content or b""))


def _archive(root: Path, monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes | None]) -> None:
    """Put an archive into the data folder and let its sum count as the published one."""
    packed = root / "cifar-10-python.tar.gz"
    _pack(packed, members)
    digest = hashlib.md5(packed.read_bytes()).hexdigest()
    monkeypatch.setitem(ARCHIVES, "cifar10", replace(ARCHIVES["cifar10"], md5=digest))


def _members() -> dict[str, bytes | None]:
    files = [file for split in ARCHIVES["cifar10"].files.values() for file in split]
    return {f"cifar-10-batches-py/{file}": batch("cifar10", seed) for seed, file in enumerate(files)}


@pytest.mark.usefixtures("accept_all")
def test_archive_in_the_data_folder_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    outside: dict[str, bytes | None] = {"../escaped": b"x", "cifar-10-batches-py/readme.html": b"x"}
    _archive(root, monkeypatch, _members() | outside)
    recorder = Recorder()
    with use_reporter(recorder):
        train = open_cifar("cifar10", "train", root, False)
        assert len(train) == 20
        assert len(open_cifar("cifar10", "test", root, False)) == 4
    assert recorder.notes == [f"Unpacking {root / 'cifar-10-python.tar.gz'}"]
    assert sorted(path.name for path in root.iterdir()) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]
    assert sorted(path.name for path in (root / "cifar-10-batches-py").iterdir()) == sorted(
        name.split("/")[1] for name in _members()
    )
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("change", ["missing", "folder"])
def test_archive_without_a_batch_file(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    members = _members()
    if change == "missing":
        del members["cifar-10-batches-py/data_batch_2"]
    else:
        members["cifar-10-batches-py/data_batch_2"] = None
    _archive(root, monkeypatch, members)
    with pytest.raises(InputError, match="is damaged and cannot be unpacked"):
        open_cifar("cifar10", "train", root, False)
    assert [path.name for path in root.iterdir()] == ["cifar-10-python.tar.gz"]


def test_archive_that_is_no_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    root.mkdir()
    content = b"no archive at all"
    (root / "cifar-10-python.tar.gz").write_bytes(content)
    digest = hashlib.md5(content).hexdigest()
    monkeypatch.setitem(ARCHIVES, "cifar10", replace(ARCHIVES["cifar10"], md5=digest))
    with pytest.raises(InputError, match="is damaged and cannot be unpacked"):
        open_cifar("cifar10", "train", root, False)
    assert [path.name for path in root.iterdir()] == ["cifar-10-python.tar.gz"]


@pytest.mark.usefixtures("accept_all")
def test_archive_is_fetched_checked_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, asked = tmp_path / "data", []

    def fetch(url: str, target: Path, *, digest: str, algorithm: str, by_hand: str) -> Path:
        asked.append((url, target, digest, algorithm))
        assert url in by_hand
        _pack(target, _members())
        return target

    monkeypatch.setattr("decompose_cli.storage.download.download", fetch)
    assert len(open_cifar("cifar10", "test", root, True)) == 4
    archive = ARCHIVES["cifar10"]
    assert asked == [(archive.url, root / "cifar-10-python.tar.gz", archive.md5, "md5")]


def test_sums_and_classes_are_those_of_torchvision() -> None:
    import decompose_cli  # noqa: F401, I001 - makes torchvision importable beside a CPU-only torch
    from torchvision import datasets

    for name, theirs in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        ours = ARCHIVES[name]
        assert ours.md5 == theirs.tgz_md5
        assert ours.url == theirs.url
        assert ours.folder == theirs.base_folder
        assert list(ours.files["train"].items()) == [tuple(row) for row in theirs.train_list]
        assert list(ours.files["test"].items()) == [tuple(row) for row in theirs.test_list]


def test_class_names() -> None:
    assert len(CIFAR10_CLASSES) == len(set(CIFAR10_CLASSES)) == 10
    assert len(CIFAR100_CLASSES) == len(set(CIFAR100_CLASSES)) == 100
    assert list(CIFAR10_CLASSES) == sorted(CIFAR10_CLASSES)
    assert list(CIFAR100_CLASSES) == sorted(CIFAR100_CLASSES)


def test_pixels_are_bytes(tmp_path: Path) -> None:
    write_all(tmp_path / ARCHIVES["cifar100"].folder, "cifar100")
    assert open_cifar("cifar100", "train", tmp_path, False).pixels_and_labels[0].dtype == torch.uint8
