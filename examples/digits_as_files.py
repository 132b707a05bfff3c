"""Write the handwritten digits in every kind of file that images are read from, to try docs/bring-your-own.md on.

Run: python examples/digits_as_files.py, in an empty folder; about 20 MB are written there.
"""

from __future__ import annotations

import csv
import importlib.util
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

import decompose_cli as dc
from decompose_cli.models.classifier import open_classifier

SPLITS = ("train", "test")
PART = ("3", "5", "9")
MODULE = """\
from torch import nn


def net():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )
"""


def main() -> None:
    """Write images/, part/, images.csv, digits.npz, tables/, digits-{train,test}.tar, trained.ckpt and mynet.py."""
    arrays, rows, encoded = {}, [], {}
    for split in SPLITS:
        images = dc.load_dataset("digits", split)
        labels = images.labels.tolist()
        with tarfile.open(f"digits-{split}.tar", "w") as shard:
            for number, label in enumerate(labels):
                png = BytesIO()
                image = images.image(number)
                image.save(png, "png")
                encoded.setdefault(split, []).append(png.getvalue())
                for folder in ["images"] + ["part"] * (str(label) in PART):
                    path = Path(folder, split, str(label), f"{number:04}.png")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(png.getvalue())
                rows.append((f"images/{split}/{label}/{number:04}.png", label, split))
                for ending, content in (("png", png.getvalue()), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{number:04}.{ending}")
                    member.size = len(content)
                    shard.addfile(member, BytesIO(content))
        arrays[f"{split}_images"] = np.stack([np.asarray(images.image(n)) for n in range(len(labels))])
        arrays[f"{split}_labels"] = np.array(labels)
    np.savez("digits.npz", **arrays)
    if importlib.util.find_spec("pyarrow") is not None:  # comes with decompose-cli[hf]
        import pyarrow as pa
        import pyarrow.parquet as pq

        Path("tables").mkdir()
        for split in SPLITS:
            columns = {"image": encoded[split], "label": arrays[f"{split}_labels"]}
            pq.write_table(pa.table(columns), f"tables/{split}.parquet")
    with Path("images.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    # The weights that ship with decompose, as PyTorch Lightning would have saved them.
    module = open_classifier("resnet20-digits", None).load((32, 32)).module
    state = {f"model.{name}": value for name, value in module.state_dict().items()}
    beside = {"epoch": 29, "hyper_parameters": {"out": Path("logs")}, "optimizer_states": [], "lr_schedulers": []}
    torch.save({"state_dict": state | {"criterion.weight": torch.ones(10)}, **beside}, "trained.ckpt")
    Path("mynet.py").write_text(MODULE, encoding="utf-8")


if __name__ == "__main__":
    main()
