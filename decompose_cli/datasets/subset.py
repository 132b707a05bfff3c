"""Make a data set of some of the images of another."""

from __future__ import annotations

from torch import Tensor

from decompose_cli.datasets.base import ImageDataset, InMemoryImages
from decompose_cli.datasets.folders import FolderImages
from decompose_cli.storage.fingerprints import digest_of


def subset(dataset: ImageDataset, indices: Tensor) -> ImageDataset:
    """The images with these numbers, in this order, as a data set.

    Args:
        dataset: N images in memory, or a list of N files.
        indices: Numbers of images, int64, in 0..N-1.
    """
    pixels = dataset.in_memory()
    if pixels is not None:
        stamp = ["subset", dataset.fingerprint(), digest_of(indices.tolist())]
        return InMemoryImages(
            dataset.name,
            dataset.split,
            dataset.class_names,
            dataset.preprocessing,
            lambda: (pixels[indices], dataset.labels[indices]),
            stamp,
            len(indices),
        )
    if not isinstance(dataset, FolderImages):
        raise TypeError(f"a {type(dataset).__name__} has neither pixels nor files")
    files = [dataset.files[number] for number in indices.tolist()]
    return FolderImages(
        dataset.name,
        dataset.split,
        dataset.root,
        files,
        dataset.labels[indices].tolist(),
        dataset.class_names,
        dataset.class_ids,
        dataset.preprocessing,
    )
