"""The images of a run: what is trained on, what is held out, what is tested on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.classes import ClassNames, match_classes
from decompose_cli.datasets.sampling import hold_out
from decompose_cli.errors import InputError, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.printable import shortest
from decompose_cli.training.evaluate import LabelledImages

HELD_OUT = "held-out"
"""Name of the split that is held out of the training images; data sets may have a ``val`` of their own."""


@dataclass(frozen=True)
class TrainingData:
    """Images with the network's class numbers.

    Attributes:
        train: All training images.
        labels: The network's class number of each training image, int64 (N,).
        indices: Numbers of the training images that are trained on, int64.
        val: The training images that are held out, or None.
        test: Test images, or None.
        class_names: Names of the network's outputs.
        preprocessing: The preprocessing of evaluation.
    """

    train: ImageDataset
    labels: Tensor
    indices: Tensor
    val: LabelledImages | None
    test: LabelledImages | None
    class_names: tuple[str, ...]
    preprocessing: Preprocessing


def check_trainable(inputs: Inputs, name: str) -> None:
    """Refuse a data set without training images.

    Raises:
        InputError: The data set has none.
    """
    if "train" not in inputs.splits_of(name):
        raise InputError(
            f"{name} has no training images.", hint="They belong into its folder 'train', one folder a class."
        )


def open_splits(inputs: Inputs, name: str) -> tuple[ImageDataset, ImageDataset | None]:
    """The training images of a data set and, if it has any, its test images (``test``, else ``val``).

    Raises:
        InputError: There is no such data set, or it has no training images.
        DownloadError: The data set is not there and cannot be fetched.
    """
    if inputs.split is not None:
        raise InputError(f"{param('split')} has no effect here: training images are trained on, test images measured.")
    check_trainable(inputs, name)
    train = inputs.open_dataset(name, "train")
    others = [split for split in inputs.splits_of(name) if split != "train"]
    test = inputs.open_dataset(name, others[0]) if others else None
    return train, test


def labels_by_name(train: ImageDataset, test: ImageDataset) -> Tensor:
    """The training images' class number for each test image, matched by name; int64 (N,).

    Raises:
        InputError: A class of the test images is not among those of the training images.
    """
    matched = match_classes(
        test.class_names,
        test.class_ids,
        ClassNames(train.class_names, train.class_ids),
        len(train.class_names),
        what=f"{test.name} {test.split} with {train.split}",
        present=torch.unique(test.labels).tolist(),
    )
    return torch.tensor(matched.outputs)[test.labels]


def divide(
    train: ImageDataset,
    labels: Tensor,
    test: LabelledImages | None,
    class_names: tuple[str, ...],
    preprocessing: Preprocessing,
    *,
    val_split: float,
    seed: int,
) -> TrainingData:
    """Hold out a share of the training images, the same of every class.

    Raises:
        InputError: The share leaves nothing to hold out or to train on.
    """
    indices, val = torch.arange(len(labels)), None
    if val_split > 0:
        indices, held_out = hold_out(labels, val_split, seed)
        if len(held_out) == 0 or len(indices) == 0:
            raise InputError(
                f"{param('val_split')} {shortest(val_split)} of {len(labels)} training images is no usable number."
            )
        val = LabelledImages(HELD_OUT, train.subset(held_out), labels[held_out], preprocessing)
    return TrainingData(train, labels, indices, val, test, class_names, preprocessing)


def never_held_out(labels: Tensor, val_split: float, seeds: Iterable[int]) -> Tensor:
    """Numbers of the training images that runs with several seeds all train on, int64, ascending.

    Args:
        labels: The class number of each training image, int64 (N,).
        val_split: Share that each run holds out, its own images.
        seeds: The seeds of the runs.

    Raises:
        InputError: A class has no such image.
    """
    is_left = torch.ones(len(labels), dtype=torch.bool)
    for seed in seeds if val_split > 0 else ():
        is_left[hold_out(labels, val_split, seed)[1]] = False
    every, left = labels.bincount(), labels[is_left].bincount(minlength=int(labels.max()) + 1)
    if lost := int(((every > 0) & (left == 0)).sum()):
        raise InputError(
            f"A new head is fitted on images that no run holds out, and none are left of {lost} of the classes.",
            hint=f"Choose fewer {param('runs')}, or a smaller {param('val_split')}.",
        )
    return is_left.nonzero()[:, 0]
