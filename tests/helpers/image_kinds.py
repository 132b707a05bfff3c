"""The same images of a folder in every kind of file that a data set is named by."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from decompose_cli.datasets.folders import FolderImages, Folders
from decompose_cli.datasets.source import Source

CLASSES = ("bird", "cat", "dog")


def png(pixels: np.ndarray) -> bytes:
    """An image of these pixels as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def noise(seed: int, side: int) -> np.ndarray:
    """Random pixels, uint8 (side, side, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write_folder(root: Path, side: int = 32, each: int = 3, splits: Sequence[str] = ("train", "test")) -> Path:
    """A folder with a few images of three classes, all different."""
    seed = 0
    for split in splits:
        for name in CLASSES:
            for number in range(each):
                seed += 1
                place = root / split / name / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(png(noise(seed, side)))
    return root


def open_folder(spec: str, split: str) -> FolderImages:
    """A split of ``folder:PATH``."""
    return Folders(Source(spec, spec.removeprefix("folder:"))).open(split)


def rows(folder: Path) -> list[tuple[str, Path, str]]:
    """Split, file and class of each image of a folder, in the order in which they are read."""
    return [(file.parts[-3], file, file.parts[-2]) for file in sorted(folder.glob("*/*/*"))]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar file with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_csv(path: Path, table: Iterable[Sequence[Any]]) -> Path:
    """A CSV file with these rows, the first of which names the columns."""
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(table)
    return path


def as_csv(folder: Path, out: Path) -> str:
    """One CSV file, with a column of splits."""
    table = [("path", "label", "split"), *((file, name, split) for split, file, name in rows(folder))]
    return f"csv:{write_csv(out / 'images.csv', table)}"


def as_npz(folder: Path, out: Path) -> str:
    """One file with the arrays of all splits, and the names of the classes."""
    arrays: dict[str, Any] = {"class_names": np.array(CLASSES)}
    for split in {split for split, _, _ in rows(folder)}:
        own = [(file, name) for other, file, name in rows(folder) if other == split]
        arrays[f"{split}_images"] = np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in own])
        arrays[f"{split}_labels"] = np.array([[CLASSES.index(name)] for _, name in own], dtype=np.uint8)
    np.savez(out / "images.npz", **arrays)
    return f"npz:{out / 'images.npz'}"


def as_wds(folder: Path, out: Path) -> str:
    """Three shards a split, and the names of the classes beside them."""
    for split in {split for split, _, _ in rows(folder)}:
        own = [(file, name) for other, file, name in rows(folder) if other == split]
        for shard, part in enumerate(np.array_split(np.arange(len(own)), 3)):
            members = []
            for number in part.tolist():
                file, name = own[number]
                members.append((f"{number:06}.png", file.read_bytes()))
                members.append((f"{number:06}.cls", str(CLASSES.index(name)).encode()))
            write_tar(out / "shards" / f"set-{split}-{shard:03}.tar", members)
    (out / "shards" / "classnames.txt").write_text("\n".join(CLASSES))
    return f"wds:{out}/shards/set-{{split}}-{{000..002}}.tar"


def as_parquet(folder: Path, out: Path) -> str:
    """A folder with a Parquet file a split, as the library `datasets` writes them."""
    import datasets

    (out / "tables").mkdir()
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    for split in {split for split, _, _ in rows(folder)}:
        own = [(file, name) for other, file, name in rows(folder) if other == split]
        columns = {
            "image": [{"bytes": file.read_bytes(), "path": file.name} for file, _ in own],
            "label": [CLASSES.index(name) for _, name in own],
        }
        datasets.Dataset.from_dict(columns, features=kinds).to_parquet(
            out / "tables" / f"{split}-00000-of-00001.parquet"
        )
    return f"hf:{out / 'tables'}"


MAKERS: dict[str, Callable[[Path, Path], str]] = {
    "csv": as_csv,
    "npz": as_npz,
    "wds": as_wds,
    "hf": as_parquet,
}
"""Writes the images of a folder as files of a kind below another one, and returns what they are named by."""
