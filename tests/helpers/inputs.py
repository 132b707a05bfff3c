"""Index files, images and networks of a user's, good and bad."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from decompose_cli.datasets.reading import ImageFiles

CLASSES, FEATURES = 10, 64  # of the shipped network


def published(**changes: Any) -> dict[str, Any]:
    """A valid file's content, with changes by class: ``c3=[...]``; None takes the class out."""
    content: dict[str, Any] = {str(number): [number, number + 10, number + 20] for number in range(CLASSES)}
    for name, value in changes.items():
        content.pop(name[1:]) if value is None else content.update({name[1:]: value})
    return content


def document(**changes: Any) -> dict[str, Any]:
    """The content of our own layout, with changes; None takes a field out."""
    content = {
        "format": "decompose-index-set",
        "format_version": 1,
        "num_features": FEATURES,
        "provenance": {},
        "classes": list(published().values()),
        **changes,
    }
    return {name: value for name, value in content.items() if value is not None}


ROWS = list(published().values())


def noise(side: int, kind: str) -> bytes:
    """The file of an image that hardly compresses, so that half of it is missing when half of the file is."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def jpeg(side: int) -> bytes:
    return noise(side, "JPEG")


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


GOOD = noise(32, "PNG")

ALL_DIGITS: dict[str, bytes] = {f"{split}/{c}/1.png": GOOD for split in ("train", "test") for c in range(CLASSES)}


def put(root: Path, files: Mapping[str, bytes | None]) -> None:
    """Write files below a folder; None makes a folder."""
    root.mkdir(exist_ok=True)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if content is None else path.write_bytes(content)


NETWORKS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=10, end=None):
        super().__init__()
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8), nn.ReLU())
        self.out = nn.Linear(8, classes)
        self.end = end or nn.Identity()

    def forward(self, x):
        return self.end(self.out(self.body(x)))

def good(): return Net()
def seven(): return Net(7)
def softmax(): return Net(end=nn.Softmax(1))
def relu(): return Net(end=nn.ReLU())
def needs(classes): return Net(classes)
def fails(): raise ValueError("no such thing")
def fails_silently(): raise ValueError
def gives_none(): return None
def gives_class(): return Net
def no_head(): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
def maps(): return nn.Conv2d(3, 10, 1)
def leaves(): raise SystemExit(0)

class Failing(Net):
    def forward(self, x):
        raise RuntimeError("broken inside\\nmore")

class Infinite(Net):
    # Overflows on photographs, but not on the random numbers with which the head is looked for.
    def forward(self, x):
        return self.out(self.body(x) + torch.where(x.amin((1, 2, 3)) > -2, float("inf"), 0.0)[:, None])

class Pair(Net):
    def forward(self, x):
        return super().forward(x), x

word = "text"

def not_on_random_images(x, value):
    # The value for photographs, zero for the random numbers with which the head is looked for.
    return torch.where(x.amin((1, 2, 3)) > -2, value, 0.0)

class NotANumber(Net):
    def forward(self, x):
        return self.out(self.body(x) + not_on_random_images(x, float("nan"))[:, None])

class Odd(nn.Module):
    def forward(self, x):
        return x.abs() + not_on_random_images(x, float("nan"))[:, None, None, None]

class Pairs(nn.Module):
    def forward(self, x):
        return x, x

class Beside(Net):
    # A layer whose outputs nobody uses.
    def __init__(self, layer):
        super().__init__()
        self.beside = layer

    def forward(self, x):
        self.beside(x)
        return super().forward(x)

def odd(): return Beside(Odd())
def pairs(): return Beside(Pairs())
def pieces(): return Beside(nn.Sequential(nn.Flatten(0, 1), nn.ReLU()))
def spectrum(): return Beside(Spectrum())

class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.fftn(x, dim=(1, 2, 3)).abs()

class Twice(Net):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        return super().forward(self.relu(self.relu(x)))

def without_relu(): return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))

def dead():
    net = Net()
    nn.init.zeros_(net.body[2].weight)
    nn.init.constant_(net.body[2].bias, -1.0)
    return net
"""

MODULES: dict[str, bytes] = {
    "networks.py": NETWORKS.encode(),
    "raises.py": b"1 / 0\n",
    "garbled.py": b"def net(:\n",
    "needy.py": b"import not_installed_anywhere\n",
    "exits.py": b"import sys\nsys.exit(0)\n",
}
"""Networks of a user's, and modules that cannot be imported."""


def read_rgb(path: Path) -> Image.Image:
    """One file as data sets and explanations read it."""
    return ImageFiles([path]).read(0)
