"""Small files of every kind that the program reads, made by the program itself, by NumPy, Pillow and torch."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers.command_line import run
from helpers.feature_files import npz, tensors
from helpers.image_kinds import as_csv, as_npz, as_wds, noise, write_folder
from helpers.power_cut import power_cut
from PIL import Image
from safetensors.torch import save_file

NETWORKS = '''
from torch import nn


class Net(nn.Module):
    """Six features of an image, and a head."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, x):
        return self.fc(self.pool(self.relu(self.bn(self.conv(x)))).flatten(1))


def net(num_classes=3):
    return Net(num_classes)


def ten(num_classes=10):
    return Net(num_classes)


def hundred(num_classes=100):
    return Net(num_classes)
'''
DATA = ("--dataset", "folder:images", "--input-size", "8", "-j", "0")
TRAINING = (*DATA, "-q", "-b", "4", "--lr", "0.05", "--device", "cpu")
IMAGES = {
    "png": {},
    "jpg": {},
    "bmp": {},
    "gif": {},
    "webp": {},
    "tif": {"compression": "tiff_lzw"},
    "ppm": {},
    "tiff": {},
}
"""Kinds of images, and how Pillow saves them."""
TIMES = {"started_at": "2026-01-01T00:00:00+00:00", "seconds": 1.0, "images_per_second": 1.0, "trained_at": ""}


def make_seeds(root: Path) -> None:
    """Fill a folder; the working directory, the cache and the path of modules change, so call it in a copy (fork)."""
    root.mkdir(parents=True, exist_ok=True)
    os.chdir(root)
    os.environ.update(DECOMPOSE_CACHE=str(root / "cache"), DECOMPOSE_DATA=str(root / "data"), NO_COLOR="1")
    os.environ["COLUMNS"] = "200"
    sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True
    Path("networks.py").write_text(NETWORKS)
    _images()
    _tables()
    _cifar()
    npz(Path("features.npz"))
    tensors(Path("features.safetensors"))
    _runs()
    _results()
    _normalise()
    names = [name for name, module in sys.modules.items() if getattr(module, "__file__", None)]
    Path("modules.json").write_text(json.dumps([name for name in names if not name.startswith(("networks", "__"))]))


def _images() -> None:
    for file in write_folder(Path("images"), side=8, each=2).glob("*/*/*"):
        os.utime(file, (1_700_000_000, 1_700_000_000))  # which is a part of what tells data sets apart
    Path("kinds").mkdir()
    for kind, how in IMAGES.items():
        Image.fromarray(noise(7, 8)).save(Path("kinds", f"image.{kind}"), **how)
    Image.fromarray(noise(7, 8)).convert("P").save("kinds/palette.png")
    Image.fromarray(noise(7, 8)[..., 0]).save("kinds/grey.png")
    Image.fromarray(np.dstack([noise(7, 8), noise(8, 8)[..., :1]])).save("kinds/alpha.png")


def _tables() -> None:
    folder = Path("images")
    out = Path("tables")
    out.mkdir()
    for make in (as_csv, as_npz, as_wds):
        make(folder, out)
    names = [path.name for path in sorted(Path("images/train").iterdir())]
    Path("map.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    options = {"batch-size": 2, "mean": [0.5, 0.5, 0.5], "no_cache": True, "split": "test", "seed": 3}
    Path("options.json").write_text(json.dumps(options))
    Path("options.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items()))
    Path("map.csv").write_text("dataset,network\n" + "".join(f"{name},{n}\n" for n, name in enumerate(names)))


def _cifar() -> None:
    random = np.random.default_rng(0)
    for name, key, classes in (("cifar-10-batches-py", "labels", 10), ("cifar-100-python", "fine_labels", 100)):
        folder = Path("cifar", name)
        folder.mkdir(parents=True)
        for file in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"] if classes == 10 else ["train", "test"]:
            pixels = random.integers(0, 256, (2, 3072), dtype=np.uint8)
            content = {"batch_label": file, key: [1, 2], "data": pixels, "filenames": ["a.png", "b.png"]}
            (folder / file).write_bytes(pickle.dumps(content, protocol=2))
    folder = Path("cifar-binary", "cifar-10-batches-bin")
    folder.mkdir(parents=True)
    for file in [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]:
        pixels = random.integers(0, 256, (2, 3072), dtype=np.uint8)
        (folder / file).write_bytes(b"".join(struct.pack("B", 3) + row.tobytes() for row in pixels))


def _runs() -> None:
    """Trainings of a tiny network: finished, stopped, of several runs, gated, decomposed."""
    train = ("train", "networks:net", *TRAINING, "--epochs", "2", "--val-split", "0.3")
    run(*train, "-o", "run")
    with power_cut("last.pt"):
        run(*train, "-o", "stopped")
    for lock in Path().rglob("*.lock"):
        lock.unlink()
    state = torch.load("run/last.pt", weights_only=True)["state_dict"]
    torch.save(state, "state.pt")
    save_file({name: value.contiguous() for name, value in state.items()}, "state.safetensors")


NET = ("networks:net", "-w", "state.pt", *DATA, "-q")


def _results() -> None:
    run("extract-indices", *NET, "-k", "2", "--method", "weight", "-o", "published.json")
    run("extract-indices", *NET, "-k", "2", "--method", "mean", "--layout", "document", "-o", "document.json")
    results = Path("results")
    results.mkdir()

    def out(name: str) -> tuple[str, str]:
        return "-o", f"results/{name}.json"

    run("validate", *NET, "-i", "published.json", *out("validate"))
    run("mutual-info", "-i", "a=document.json", "-q", *out("mutual-info"))
    run("compare", "a=document.json", "b=published.json", "--model", *NET, *out("compare"))
    run("essential", *NET, "--repeats", "1", "--controls", "1", "-i", "published.json", *out("essential"))
    run("selectivity", *NET, "--layers", "relu", *out("selectivity"))
    run("sparsify", "--features", "features.npz", "-k", "2", "-q", "-o", "sparse")
    run("sparsify", *NET, "-k", "2", "-q", "-o", "sparse-net")
    run("sweep", *NET, "--ks", "1-2", "--methods", "weight", "-o", "sweep")
    run("explain", *NET, "--indices-of", "0", "-o", "explain")
    run("finetune", *NET, "-i", "published.json", "-b", "4", "--lr", "0.05", "--epochs", "1", "-o", "tuned")


def _normalise() -> None:
    """Let nearly the same files come out every time: times go."""
    for path in sorted(Path().rglob("*.json")):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(_without_times(content), indent=1))
    for path in sorted(Path().glob("*/log.csv")):
        rows = list(csv.DictReader(path.read_text().splitlines()))
        with path.open("w", newline="") as handle:
            table = csv.DictWriter(handle, list(rows[0]))
            table.writeheader()
            table.writerows(_without_times(rows))
    for path in sorted(Path().glob("*/tensorboard")):
        shutil.rmtree(path)
    for path in sorted(Path().glob("*/*.pt")):
        torch.save(_without_times(torch.load(path, weights_only=True)), path)
    shutil.copy("run/last.pt", "last.pt")


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: TIMES.get(name, _without_times(item)) for name, item in value.items()}
    return [_without_times(item) for item in value] if isinstance(value, list) else value
