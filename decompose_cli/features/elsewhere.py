"""Features that were made elsewhere, by any network: files of them, with labels, split by split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from decompose_cli.datasets.labels import warn_of_numbers_from_1
from decompose_cli.errors import InputError, first_few, first_line
from decompose_cli.messages import note, warn
from decompose_cli.models.checkpoint import kind_of as kind_of_tensor
from decompose_cli.storage.array_files import (
    REAL,
    TEXT,
    WHOLE,
    ArrayFile,
    Stored,
    kind_of,
    open_arrays,
    tensor_of,
)
from decompose_cli.storage.result_document import FeaturesInfo

SPLITS = ("train", "val", "test")
MOST_CLASSES = 1 << 20
"""A label from here on is no class number, where no names say how many classes there are."""
_NAMES = ("class_names", "feature_names")
_ARRAYS = tuple(f"{split}_{part}" for split in SPLITS for part in "xy")
_VALUES_AT_ONCE = 1 << 22
_WHAT = "The features file"
_CLASS_NUMBERS = "Labels are class numbers, 0 to C - 1; names of classes go into class_names."


@dataclass(frozen=True)
class Split:
    """Features of the images of a split, float32 (N, D), and their labels, int64 (N,)."""

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class FeatureFile:
    """A file of features, of which some splits were read.

    Attributes:
        path: The file.
        sha256: SHA-256 of its bytes.
        splits: What was read, by name of the split; all have D features.
        class_names: Names of the C classes; their numbers where the file has no names.
        feature_names: Names of the D features, if the file has some.
        has_class_names: Whether the file has names of classes.
    """

    path: Path
    sha256: str
    splits: Mapping[str, Split]
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...] | None = None
    has_class_names: bool = False

    @property
    def num_features(self) -> int:
        """Number of features D."""
        return next(iter(self.splits.values())).features.shape[1]

    def describe(self, split: str, class_names: Sequence[str] | None = None) -> FeaturesInfo:
        """A split of the file, for the result document; its fingerprint is the SHA-256 of the file.

        Args:
            split: Name of the split.
            class_names: Names of the outputs of a head, where it has other ones than the file.
        """
        return FeaturesInfo(
            name=str(self.path),
            split=split,
            images=len(self.splits[split].labels),
            fingerprint=self.sha256,
            classes=list(class_names or self.class_names),
        )


@dataclass(frozen=True)
class Described:
    """How many features and classes something has, and what it calls them.

    Attributes:
        what: What it is, for messages.
        num_features: Number of features D.
        num_classes: Number of classes C.
        class_names: Names of the classes, where it has some.
        feature_names: Names of the features, where it has some.
    """

    what: str
    num_features: int
    num_classes: int
    class_names: Sequence[str] | None = None
    feature_names: Sequence[str] | None = None


def check_fits(given: Described, head: Described) -> None:
    """Refuse features that a head does not take: others in number, of other classes, or with other names.

    Features without names of classes may have fewer than the head. Names are compared in order, where both have some;
    the numbers from 0 in place of names are none, unless the others have one of them for a name.

    Args:
        given: The features.
        head: The head.

    Raises:
        InputError: The head does not take them; the sentence says what differs.
    """
    if given.num_features != head.num_features:
        raise InputError(
            f"{given.what} has {given.num_features:,} features, but {head.what} takes {head.num_features:,}."
        )
    is_fewer = given.class_names is not None and given.num_classes < head.num_classes
    if given.num_classes > head.num_classes or is_fewer:
        raise InputError(f"{given.what} has {given.num_classes:,} classes, but {head.what} has {head.num_classes:,}.")
    check_names(given, head)


def check_names(given: Described, head: Described) -> None:
    """Refuse names that are others than a head's or in another order, as :func:`check_fits` does.

    Raises:
        InputError: They are.
    """
    for what, own, theirs in (
        ("class", head.class_names or (), given.class_names or ()),
        ("feature", head.feature_names or (), given.feature_names or ()),
    ):
        if (are_numbers(own) or are_numbers(theirs)) and set(own).isdisjoint(theirs):
            continue
        for number, (mine, other) in enumerate(zip(own, theirs, strict=False)):
            if mine != other:
                raise InputError(f"{given.what} calls {what} {number} {other!r}, but {head.what} {mine!r}.")


def are_numbers(names: Sequence[str]) -> bool:
    """Whether names are the numbers from 0, as they are where none were given."""
    return list(names) == list(map(str, range(len(names))))


def split_of(values: object, labels: object, num_classes: int | None = None) -> Split:
    """Features and labels in memory as a split.

    Args:
        values: Features (N, D): a tensor, an array, or anything that NumPy makes one of; real or whole numbers.
        labels: Whole numbers 0..C-1, (N,), of the same kinds.
        num_classes: C; by default any number that can be one.

    Raises:
        InputError: They are of a wrong kind or shape, do not fit each other, or have a feature or label that is none.
    """
    features, features_kind = _in_memory(values, "values")
    classes, classes_kind = _in_memory(labels, "labels")
    if features_kind not in (REAL, WHOLE):
        raise InputError(f"values holds {features_kind} instead of {REAL}.")
    if classes_kind != WHOLE:
        raise InputError(f"labels holds {classes_kind} instead of {WHOLE}.", hint=_CLASS_NUMBERS)
    _check_shape("values", tuple(features.shape), ("N", "D"))
    _check_shape("labels", tuple(classes.shape), ("N",))
    if len(features) != len(classes):
        raise InputError(f"values has {len(features):,} rows, but labels has {len(classes):,}.")
    if features_kind == WHOLE:
        features = features.double()
    return Split(checked_features(features, "values"), checked_labels(classes, "labels", num_classes))


def _in_memory(values: object, name: str) -> tuple[Tensor, str]:
    """A tensor of numbers on the CPU, and their kind."""
    if isinstance(values, Tensor):
        if values.layout != torch.strided or values.is_meta:
            raise InputError(f"{name} is no ordinary tensor ({values.layout}, {values.device}).")
        kind = kind_of_tensor(values)
        return values.detach().cpu(), {"real": REAL, "whole": WHOLE}.get(kind, f"{kind} numbers")
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is no array of numbers: {first_line(error)}.") from error
    kind = kind_of(array.dtype)
    if kind not in (REAL, WHOLE):
        hint = _CLASS_NUMBERS if name == "labels" else None
        raise InputError(f"{name} holds {kind} instead of numbers.", hint=hint)
    return tensor_of(array), kind


Needs = Sequence[str | tuple[str, ...]]


def read_feature_file(
    path: Path, *, needs: Needs = ("train", "test"), optional: Sequence[str] = ("val",)
) -> FeatureFile:
    """Read features and labels from a ``.npz`` or ``.safetensors`` file without executing anything in it.

    The file has arrays ``train_x`` (N, D) and ``train_y`` (N,), likewise ``val_*`` and ``test_*``. Features are of 16,
    32 or 64 bits and become float32; labels are whole numbers 0..C-1 of any kind. ``class_names`` (C) and
    ``feature_names`` (D) are arrays of text in a ``.npz`` file, and lists in JSON in the metadata of a ``.safetensors``
    file. C is the number of class names, else the largest label of all splits plus one; classes may be without images.

    Args:
        path: The file.
        needs: Splits that have to be there; of a tuple, the first that is there is read and the others are not.
        optional: Splits that are read if they are there.

    Raises:
        InputError: The file is missing, damaged, or of another kind; something needed is not in it; or arrays in it are
            of a wrong kind or shape, do not fit each other, or have a feature or label that is none.
    """
    with open_arrays(path, _ARRAYS, _WHAT, texts=_NAMES) as file:
        present = _splits_in(file)
        chosen = [_needed(file, present, each) for each in needs]
        chosen = [split for split in SPLITS if split in chosen or (split in optional and split in present)]
        if not chosen:
            raise InputError(f"{path} has no split to read: {_has(file)}.", hint=_HINT)
        _check_shapes(file, present)
        unknown = [name for name in file.names if name not in file.stored]
        if unknown:
            note(f"{path} also holds {first_few(unknown)}, which a features file does not have and which is not read.")
        names = {name: tuple(file.read([name])[name]) for name in _NAMES if name in file.stored}
        labels = _labels(file, present, names.get("class_names"))
        arrays = file.read([f"{split}_x" for split in chosen])
        splits = {}
        for split in chosen:
            values = arrays.pop(f"{split}_x")
            values = values if values.is_floating_point() else values.double()
            features = checked_features(values, f"{split}_x in {path}")
            splits[split] = Split(features, labels[split])
    counted = tuple(map(str, range(max(int(each.max()) for each in labels.values()) + 1)))
    classes = names.get("class_names", counted)
    if "class_names" not in names:
        warn_of_numbers_from_1(torch.cat(list(labels.values())), str(path))
    return FeatureFile(path, file.sha256, splits, classes, names.get("feature_names"), "class_names" in names)


def checked_features(values: Tensor, what: str) -> Tensor:
    """Features as float32, unless they are not finite or too large for it.

    Where features of 64 bits differ by less than float32 can tell, so that they become constant, there is a warning.

    Args:
        values: Real numbers (N, D).
        what: What they are, for messages.

    Raises:
        InputError: A feature is NaN, infinite or beyond float32; the sentence says where.
    """
    features = values.float()
    step = max(1, _VALUES_AT_ONCE // features.shape[1])
    for start in range(0, len(features), step):
        finite = torch.isfinite(features[start : start + step])
        if bool(finite.all()):
            continue
        row, column = divmod(int((~finite).flatten().int().argmax()), features.shape[1])
        row += start
        number = f"{values[row, column].item():g}".replace("nan", "NaN")
        reason = "is not finite" if not torch.isfinite(values[row, column]) else "is too large for float32"
        raise InputError(f"{what} has {number} in row {row}, column {column} (counted from 0), which {reason}.")
    if values.dtype == torch.float64:
        varies = [each.amax(0) > each.amin(0) for each in (values, features)]
        lost = (varies[0] & ~varies[1]).nonzero()[:, 0].tolist()
        if lost:
            warn(
                f"{what}: images differ in {len(lost)} feature{'s'[: len(lost) > 1]} ({first_few(lost)}) by less than "
                "float32 can tell, so these become constant; subtract their means and scale them first."
            )
    return features


def checked_labels(values: Tensor, what: str, num_classes: int | None = None) -> Tensor:
    """Labels as int64, unless one is no class number.

    Args:
        values: Whole numbers (N,).
        what: What they are, for messages.
        num_classes: C; by default any number that can be one.

    Raises:
        InputError: A label is negative or too large; the sentence says which.
    """
    labels = values.to(torch.int64)  # of 64 bits without a sign, those that are too large become negative
    count = num_classes or MOST_CLASSES
    bad = (labels < 0) | (labels >= count)
    if bool(bad.any()):
        row = int(bad.int().argmax())
        is_negative = num_classes is None and values[row].item() < 0
        why = "which is negative" if is_negative else f"which is not one of 0 to {count - 1:,}"
        hint = "Take images without a class out; classes are numbered from 0." if is_negative else None
        raise InputError(f"{what} has the label {values[row].item()} in row {row} (counted from 0), {why}.", hint=hint)
    return labels


_HINT = "np.savez(FILE, train_x=..., train_y=..., test_x=..., test_y=...) makes such a file."


def _has(file: ArrayFile) -> str:
    return f"it has {first_few(file.names, 12)}" if file.names else "it has no arrays"


def _splits_in(file: ArrayFile) -> list[str]:
    """The splits of a file, each with features and labels."""
    present = []
    for split in SPLITS:
        parts = [f"{split}_{part}" for part in "xy"]
        there = [name for name in parts if name in file.stored]
        if len(there) == 1:
            (missing,) = set(parts) - set(there)
            raise InputError(f"{file.path} has {there[0]} but no {missing}; {_has(file)}.", hint=_HINT)
        if there:
            present.append(split)
    return present


def _needed(file: ArrayFile, present: Sequence[str], need: str | tuple[str, ...]) -> str:
    splits = (need,) if isinstance(need, str) else need
    for split in splits:
        if split in present:
            return split
    wanted = " or ".join(f"{split}_x and {split}_y" for split in splits)
    raise InputError(f"{file.path} lacks {wanted}; {_has(file)}.", hint=_HINT)


def _check_shapes(file: ArrayFile, present: Sequence[str]) -> None:
    """Refuse arrays of another kind or shape than they should have, or that do not fit each other."""
    widths: dict[str, int] = {}
    for split in present:
        x, y = f"{split}_x", f"{split}_y"
        _check(file, x, WHOLE if file.stored[x].kind == WHOLE else REAL, ("N", "D"))
        _check(file, y, WHOLE, ("N",))
        images, width = file.stored[x].shape
        if images != file.stored[y].shape[0]:
            raise InputError(f"{file.path}: {x} has {images:,} rows, but {y} has {file.stored[y].shape[0]:,} labels.")
        first = next(iter(widths), x)
        if widths.setdefault(x, width) != widths[first]:
            raise InputError(f"{file.path}: {x} has {width:,} features, but {first} has {widths[first]:,}.")
    for name, length in (("class_names", "C"), ("feature_names", "D")):
        if name in file.stored:
            _check(file, name, TEXT, (length,))
    named = file.stored.get("feature_names")
    width = next(iter(widths.values()))
    if named is not None and named.shape[0] != width:
        raise InputError(f"{file.path}: feature_names has {named.shape[0]:,} names for {width:,} features.")


def _check(file: ArrayFile, name: str, kind: str, axes: tuple[str, ...]) -> None:
    array: Stored = file.stored[name]
    if array.kind != kind:
        hint = _CLASS_NUMBERS if kind == WHOLE else None
        raise InputError(f"{file.path}: {name} holds {array.kind} instead of {kind}.", hint=hint)
    _check_shape(f"{name} in {file.path}", array.shape, axes)


def _check_shape(what: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> None:
    if len(shape) != len(axes):
        raise InputError(f"{what} has the shape {shape}, not ({', '.join(axes)}{',' if len(axes) == 1 else ''}).")
    if 0 in shape:
        raise InputError(f"{what} is empty: its shape is {shape}.")


def _labels(file: ArrayFile, present: Sequence[str], class_names: Sequence[str] | None) -> dict[str, Tensor]:
    arrays = file.read([f"{split}_y" for split in present])
    count = None if class_names is None else len(class_names)
    return {split: checked_labels(arrays[f"{split}_y"], f"{split}_y in {file.path}", count) for split in present}
