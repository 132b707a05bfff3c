"""Where data sets are looked for. Free of torch, so that listing them is quick."""

from __future__ import annotations

from pathlib import Path

CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


def cifar_places(name: str, data_dir: Path) -> list[Path]:
    """Where the unpacked batch files may be: below the data folder, or the data folder itself."""
    folder = CIFAR_FOLDERS[name]
    return [data_dir / folder, data_dir / name / folder, *([data_dir] if data_dir.name == folder else [])]


def imagenet_places(data_dir: Path) -> list[Path]:
    """Folders that may hold ``train`` and ``val``."""
    return [data_dir / "imagenet" / "ILSVRC", data_dir / "ILSVRC", data_dir / "imagenet"]


def tiny_imagenet_places(data_dir: Path) -> list[Path]:
    """Folders that may be the unpacked Tiny ImageNet."""
    return [data_dir / "tiny-imagenet-200"]


def find_cifar(name: str, data_dir: Path) -> Path | None:
    """The folder of batch files, or None."""
    return next((place for place in cifar_places(name, data_dir) if place.is_dir()), None)


def find_imagenet(data_dir: Path) -> Path | None:
    """The folder with ``train`` or ``val`` in it, or None."""
    places = imagenet_places(data_dir)
    return next((place for place in places if (place / "train").is_dir() or (place / "val").is_dir()), None)


def find_tiny_imagenet(data_dir: Path) -> Path | None:
    """The unpacked archive, or None."""
    return next((place for place in tiny_imagenet_places(data_dir) if place.is_dir()), None)
