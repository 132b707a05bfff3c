"""Where bad inputs lie: a folder for each test, and one that all share and none may change."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import Hostile, decomposed, hostile_archive, saved, with_published_head
from helpers.command_line import run, snapshot
from helpers.inputs import ALL_DIGITS, CLASSES, FEATURES, MODULES, document, published, put
from helpers.power_cut import PowerCut
from helpers.runs import TRAIN
from safetensors.torch import load_file
from torch import Tensor

from decompose_cli.models.registry import DEFAULT_MODEL, get_entry
from decompose_cli.models.weights import shipped_weights


@pytest.fixture(scope="session")
def cache(warm_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of the shipped network, and what the tests add to them."""
    return shutil.copytree(warm_cache, tmp_path_factory.mktemp("cache") / "copy")


@pytest.fixture
def inputs(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for inputs; features of the shipped network are in the cache."""
    monkeypatch.setenv("DECOMPOSE_CACHE", str(cache))
    folder = tmp_path / "inputs"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def shipped() -> dict[str, Tensor]:
    """The weights of the default network."""
    weights = get_entry(DEFAULT_MODEL).weights
    assert isinstance(weights, Path)
    return load_file(shipped_weights(weights))


@pytest.fixture(scope="session")
def all_material(shipped: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Index files, checkpoints, images and Python code, good and bad; no test changes it."""
    folder = tmp_path_factory.mktemp("material")
    gates = torch.rand(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
    with_nan = gates.clone()
    with_nan[3, 7] = math.nan

    def gated(matrix: Tensor) -> bytes:
        return saved({**shipped, "csg": matrix})

    indices = {
        "plain": published(),
        "document": document(),
        "wide": document(num_features=128),
        "beyond": published(c3=[1, FEATURES]),
        "nine": published(c9=None),
        "twice": published(c3=[5, 5]),
    }
    files: dict[str, bytes | None] = {f"{name}.json": json.dumps(content).encode() for name, content in indices.items()}
    files |= {f"code/{name}": source for name, source in MODULES.items()}
    files |= {
        "empty.json": b"",
        "half.json": b'{"0": [1, 2',
        "plain.pth": saved(shipped),
        "csg.pth": gated(gates),
        "csg_rows.pth": gated(gates[:9]),
        "csg_columns.pth": gated(torch.cat([gates, gates[:, :1]], 1)),
        "csg_flat.pth": gated(gates.flatten()),
        "csg_nothing.pth": gated(gates[:0]),
        "csg_nan.pth": gated(with_nan),
        "csg_negative.pth": gated(gates - 0.5),
        "csg_zero.pth": gated(torch.zeros(CLASSES, FEATURES)),
        "csg_whole.pth": gated((10 * gates).long()),
        "csg_alone.pth": saved({"csg": gates}),
        "decomposed.pth": decomposed()(shipped),
        "published.pth": with_published_head(torch.zeros(CLASSES, 3), torch.zeros(CLASSES))(shipped),
        "hostile.pth": pickle.dumps(Hostile(), protocol=2),
        "hostile_archive.pth": hostile_archive(shipped),
        "empty.pth": b"",
        "half.pth": gated(gates)[:-5000],
        "taken/file.json": b"mine",
        "held/resnet20-digits_digits_k5_indices.json": b"mine",
        "curve/curve.png": b"mine",
        "result/result.json": b"mine",
        "chosen/indices.json": b"mine",
    }
    for name, chosen in {
        "one_each": ALL_DIGITS,
        "lacks_3": {path: content for path, content in ALL_DIGITS.items() if "/3/" not in path},
        "test_lacks_3": {path: content for path, content in ALL_DIGITS.items() if path != "test/3/1.png"},
        "no_train": {path: content for path, content in ALL_DIGITS.items() if path.startswith("test/")},
        "no_test": {path: content for path, content in ALL_DIGITS.items() if path.startswith("train/")},
        "single": {path: content for path, content in ALL_DIGITS.items() if "/3/" in path},
    }.items():
        files |= {f"{name}/{path}": content for path, content in chosen.items()}
    put(folder, files)
    os.mkfifo(folder / "pipe")
    before = snapshot(folder)
    yield folder
    assert snapshot(folder) == before, "a test has changed what all share"


@pytest.fixture
def material(all_material: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of material, whose Python code can be imported."""
    monkeypatch.setattr(sys, "path", [str(all_material / "code"), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "networks", raising=False)
    yield all_material
    sys.modules.pop("networks", None)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path], power_cut: PowerCut) -> Path:
    """Images, a finished run and one that was stopped after its first epoch; no test changes them."""
    root = tmp_path_factory.mktemp("made")
    make_images(root / "images", ["a", "b", "c"], n=6, side=8)
    common = [*TRAIN, "-q", "-b", "6", "--val-split", "0.2", "--lr", "0.05", "--epochs", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("DECOMPOSE_CACHE", str(root / "cache"))
        run(*common, "-o", "finished")
        with power_cut("last.pt"):
            run(*common, "-o", "stopped")
        Path("stopped/.lock").unlink()  # of the process that is gone
    return root


@pytest.fixture
def runs(isolated: None, made: Path) -> Path:
    """The working directory, with a copy of these."""
    shutil.copytree(made, Path.cwd(), dirs_exist_ok=True)
    return Path.cwd()
