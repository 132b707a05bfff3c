"""Files of safetensors in folders of any name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from helpers.command_line import document_of, run
from helpers.feature_files import tensors
from safetensors import SafetensorError, safe_open

from decompose_cli.models.registry import DEFAULT_MODEL
from decompose_cli.storage.tensor_files import readable_path, write_tensors

NAMES = (b"plain", "n\u00fcn \U0001f4a5".encode(), b"n\xfcn \xff")


@pytest.fixture(params=NAMES, ids=repr)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / os.fsdecode(request.param)
    try:
        path.mkdir()
    except OSError:  # macOS has names of UTF-8 alone
        pytest.skip("no file of this system can have such a name")
    return path


def test_what_was_written_is_read(folder: Path) -> None:
    path, values = folder / "x.safetensors", torch.arange(3.0)
    write_tensors(path, {"x": values}, {"a": "b"})
    with readable_path(path) as name, safe_open(name, framework="pt") as handle:
        assert handle.get_tensor("x").equal(values)
        assert handle.metadata() == {"a": "b"}
    assert [file.name for file in folder.iterdir()] == [path.name]


def test_a_file_that_is_missing(folder: Path) -> None:
    with (
        pytest.raises(FileNotFoundError),
        readable_path(folder / "x.safetensors") as name,
        safe_open(name, framework="pt"),
    ):
        pass


def test_commands_in_such_a_folder(folder: Path, few: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features in the cache and from elsewhere, sparse heads, weights: all of them are safetensors."""
    monkeypatch.setenv("DECOMPOSE_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)
    features = str(tensors(folder / "features.safetensors"))
    run("sparsify", "--features", features, "-k", "2", "-o", "sparse")
    run("validate", "--features", features, "-w", str(folder / "sparse" / "k2" / "sparse.safetensors"))
    run("export", DEFAULT_MODEL, "-o", "weights.safetensors")
    weights = ("validate", "-w", str(folder / "weights.safetensors"), "--dataset", few, "-j", "0")
    assert [document_of(*weights)["cache"]["features"] for _ in range(2)] == ["miss", "hit"]


def test_a_full_disk_is_said_as_by_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_tensors(Path("x.safetensors"), {"x": torch.zeros(3)}, {})
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == "x.safetensors"
    assert run("sparsify", "-o", "sparse", code=1).stderr.count("No space left on the disk") == 1
    assert not Path("sparse").exists()
