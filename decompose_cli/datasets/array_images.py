"""Images in arrays: ``npz:FILE``, as MedMNIST, Keras and one's own scripts keep them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from decompose_cli.datasets.base import InMemoryImages
from decompose_cli.datasets.labels import Labels
from decompose_cli.datasets.listed_once import once
from decompose_cli.datasets.patterns import files_by_split
from decompose_cli.datasets.pixels import Numbers, grey_levels
from decompose_cli.datasets.source import Source
from decompose_cli.datasets.splits import SPELLINGS, SPLITS, in_preferred_order, say_others
from decompose_cli.datasets.stored import SMALL_SIDE, usual_preprocessing_of
from decompose_cli.errors import InputError, first_few, param
from decompose_cli.storage.array_files import REAL, TEXT, WHOLE, ArrayFile, open_arrays
from decompose_cli.storage.fingerprints import content_sample, file_stamp

SUFFIXES = (".npz",)
_CLASS_NAMES = ("class_names", "classes", "label_names", "categories", "names")
_PAIRS = (
    ("{split}_images", "{split}_labels"), ("x_{split}", "y_{split}"), ("X_{split}", "y_{split}"),
    ("{split}_x", "{split}_y"), ("{split}_X", "{split}_y"), ("{split}_data", "{split}_labels"),
)  # fmt: skip
_UNSPLIT = (("images", "labels"), ("x", "y"), ("X", "y"), ("data", "labels"), ("image", "label"))
_HINT = (
    "Arrays are train_images and train_labels, val_..., test_...; or x_train and y_train; or images and labels alone. "
    f"{param('columns')} image=NAME,label=NAME says others, with {{split}} for the split in a name."
)


class ArrayImages(InMemoryImages):
    """Images of one size; large ones are resized one by one by Pillow, as those of files are.

    Args:
        file: The file that they are in, whose images decided the preprocessing.
        pixels_and_labels: The images, uint8 (N, 3, H, W), and their labels, int64 (N,).
        class_names: Names of the classes.
        class_ids: Their WordNet ids, where there are any.
        is_numbered: Whether the names are only the numbers of the classes.
    """

    def __init__(
        self,
        name: str,
        split: str,
        file: Path,
        pixels_and_labels: tuple[Tensor, Tensor],
        class_names: Sequence[str],
        stamp: object,
        *,
        class_ids: tuple[str, ...] | None = None,
        is_numbered: bool = False,
    ) -> None:
        height, width = pixels_and_labels[0].shape[2:]
        usual = usual_preprocessing_of(width, height)
        super().__init__(name, split, class_names, usual, lambda: pixels_and_labels, stamp)
        self.decided_by, self.class_ids, self.is_numbered = file, class_ids, is_numbered

    @property
    def _is_small(self) -> bool:
        return max(self.pixels_and_labels[0].shape[2:]) <= SMALL_SIDE

    @override
    def in_memory(self) -> Tensor | None:  # type: ignore[override]
        return super().in_memory() if self._is_small else None

    @override
    def subset(self, numbers: Tensor) -> ArrayImages:
        pixels, labels = self.pixels_and_labels
        stamp = [self._stamp, numbers.tolist()]
        assert isinstance(self.decided_by, Path)
        chosen = ArrayImages(
            self.name, self.split, self.decided_by, (pixels[numbers], labels[numbers]), self.class_names, stamp,
            class_ids=self.class_ids, is_numbered=self.is_numbered,
        )  # fmt: skip
        chosen.chosen = self.chosen
        return chosen


class ArrayFiles:
    """The arrays of ``.npz`` files: those of all splits in one, or one file for each split.

    Args:
        source: The file, a pattern with ``{split}``, or a folder of files.

    Raises:
        InputError: A file is missing or damaged, or has no arrays of images and labels that can be told.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._places = once(f"npz {source.key}", source.path, lambda: _places(source))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are arrays of."""
        return in_preferred_order(self._places)

    def open(self, split: str) -> ArrayImages:
        """The images of a split.

        Raises:
            InputError: An array is of a wrong shape or kind, or has numbers that are no pixels or no labels.
        """
        file, images, labels = self._places[split]
        with open_arrays(file, (images, labels, *_CLASS_NAMES), "The file") as opened:
            _check(opened, images, labels)
            names = _class_names(opened)
            truth = _label_texts(opened, labels)
            training = self._places.get("train") if split != "train" else None
            numbers, classes = truth.numbered(None if training is None else lambda: _labels_in(*training), names)
            # The pixels are scaled when all else is known to be right.
            pixels = _pixels(opened.read([images])[images], opened.stored[images].kind, f"{images} in {file}")
        stamp = ["arrays", file_stamp([file], file.parent), content_sample([file]), images, labels]
        return ArrayImages(
            self.source.name, split, file, (pixels, numbers), classes.names, stamp,
            class_ids=classes.ids, is_numbered=classes.are_numbers,
        )  # fmt: skip


_Place = tuple[Path, str, str]


def _places(source: Source) -> dict[str, _Place]:
    """The file of each split, and the names of its images and labels there."""
    found: dict[str, _Place] = {}
    for split, files in files_by_split(source, SUFFIXES, "arrays").items():
        if len(files) > 1:
            raise InputError(
                f"{param('dataset')} {source.name} has several files of the split {split}: {first_few(files)}.",
                hint="Name one of them.",
            )
        with open_arrays(files[0], (), "The file") as opened:
            names = set(opened.names)
        for own, pair in _pairs(names, split, files[0], source.columns).items():
            if own in found:
                raise InputError(f"{files[0]} and {found[own][0]} both have images of the split {own}.")
            found[own] = (files[0], *pair)
    return found


def _pairs(names: set[str], split: str, file: Path, columns: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The names of images and labels by split; arrays that name none are of ``split``."""
    pairs: Sequence[tuple[str, str]] = (*_PAIRS, *_UNSPLIT)
    if columns.keys() & {"image", "label"}:
        if not {"image", "label"} <= columns.keys():
            raise InputError(
                f"{param('columns')} names only one of image and label, and {file} needs both.", hint=_HINT
            )
        pairs = [(columns["image"], columns["label"])]
    halves = []
    for images, labels in pairs:
        if "{split}" not in images:
            if {images, labels} <= names:
                return {split: (images, labels)}
            halves += [name for name in (images, labels) if name in names]
            continue
        found = {}
        for own in SPLITS:
            spelled = [(images.replace("{split}", each), labels.replace("{split}", each)) for each in SPELLINGS[own]]
            whole = [each for each in spelled if {*each} <= names]
            if whole:
                found[own] = whole[0]
                say_others(whole[0][0], [each[0] for each in whole], own, file)
            halves += [name for each in spelled for name in each if name in names and each not in whole]
        if found:
            return found
    has = f"it has {first_few(sorted(names), 10)}" if names else "it is empty"
    what = f"only half of a pair, {halves[0]}" if halves else "no arrays of images and labels that are known by name"
    raise InputError(f"{file} has {what}; {has}.", hint=_HINT)


def _check(file: ArrayFile, images: str, labels: str) -> None:
    shape, of_labels = file.stored[images].shape, file.stored[labels].shape
    if file.stored[images].kind not in (REAL, WHOLE):
        raise InputError(f"{images} in {file.path} holds {file.stored[images].kind}, not pixels.")
    if _channels(shape) is None or 0 in shape:
        raise InputError(
            f"{images} in {file.path} has the shape {shape}, which is none of images.",
            hint="Images are (N, H, W), (N, H, W, 1), (N, H, W, 3), (N, 1, H, W) or (N, 3, H, W).",
        )
    if len(of_labels) not in (1, 2) or (len(of_labels) == 2 and of_labels[1] != 1):
        raise InputError(
            f"{labels} in {file.path} has the shape {of_labels}; labels are (N,) or (N, 1), one class an image."
        )
    if of_labels[0] != shape[0]:
        raise InputError(f"{file.path} has {shape[0]:,} images in {images}, but {of_labels[0]:,} labels in {labels}.")


def _class_names(file: ArrayFile) -> list[str] | None:
    known = [name for name in _CLASS_NAMES if name in file.stored]
    # Under a name that may mean other things, only texts are taken for names.
    called = next((name for name in known if name == _CLASS_NAMES[0] or file.stored[name].kind == TEXT), None)
    if called is None:
        return None
    stored = file.stored[called]
    if stored.kind != TEXT or len(stored.shape) != 1:
        raise InputError(
            f"{called} in {file.path} is {stored.kind} of the shape {stored.shape}, not a list of names.",
            hint="Save it as np.array(names, dtype=str), with a name for each class number.",
        )
    names: list[str] = file.read([called])[called]
    return names


def _channels(shape: Sequence[int]) -> int | None:
    """The axis of colours, 0 where there is none; None where the shape is none of images."""
    if len(shape) == 3:
        return 0
    if len(shape) != 4:
        return None
    return 3 if shape[3] in (1, 3) else 1 if shape[1] in (1, 3) else None


def _labels_in(file: Path, images: str, labels: str) -> Labels:
    with open_arrays(file, (images, labels), "The file") as opened:
        _check(opened, images, labels)
        return _label_texts(opened, labels)


def _label_texts(file: ArrayFile, name: str) -> Labels:
    values, kind = file.read([name])[name], file.stored[name].kind
    if kind == TEXT:
        flat = np.array(values, dtype=str).reshape(-1).tolist()
    elif kind == REAL and not bool((is_whole := values.isfinite() & (values == values.floor())).all()):
        wrong = int((~is_whole).nonzero()[0, 0])
        raise InputError(
            f"Label {wrong} of {name} in {file.path} is {float(values.reshape(-1)[wrong]):g}, which is no class number."
        )
    elif kind in (REAL, WHOLE):
        flat = [str(number) for number in values.reshape(-1).to(torch.int64).tolist()]
    else:
        raise InputError(f"{name} in {file.path} holds {kind}, not labels.")
    return Labels(flat, lambda number: f"image {number} in {name} of {file.path}")


def _pixels(values: Tensor, kind: str, what: str) -> Tensor:
    """Pixels of any kind and order of axes as uint8 (N, 3, H, W); grey ones three times."""
    if values.dtype != torch.uint8:
        numbers = Numbers("real" if kind == REAL else "whole")
        array = values.float().numpy() if kind == REAL else values.numpy()
        values = torch.from_numpy(grey_levels(array, numbers, what))
    axis = _channels(values.shape)
    values = values[:, None] if axis == 0 else values.movedim(3, 1) if axis == 3 else values
    return values.expand(-1, 3, -1, -1).contiguous()
