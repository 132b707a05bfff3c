"""Images, their features, and what features are good for: index sets and accuracies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from decompose_cli.api.model import Model
from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.batches import UNCHANGED, name_of
from decompose_cli.datasets.class_map import read_class_map
from decompose_cli.datasets.registry import available_splits, default_data_dir, open_dataset
from decompose_cli.datasets.source import parse_columns
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.ranking import DEFAULT_METHOD, RANKINGS, parse_method, select
from decompose_cli.errors import InputError
from decompose_cli.features.elsewhere import SPLITS, read_feature_file, split_of
from decompose_cli.features.extraction import Computing, features_of_batches
from decompose_cli.features.extraction import extract_features as features_of_dataset
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.labelled import LabelledFeatures, Order
from decompose_cli.features.seen import matched
from decompose_cli.models.network import HeadTensors
from decompose_cli.models.precision import settled_precision
from decompose_cli.preprocessing import Preprocessing, check_image_options
from decompose_cli.processes.device import resolve_device
from decompose_cli.storage.files import user_path


@dataclass(frozen=True)
class Taken:
    """Where features were taken from.

    Attributes:
        model: The network.
        name: What the images are called.
        seen: What happened to the images before the network saw them; for batches nothing that is known.
        images: The data set; None for batches, which are not kept.
    """

    model: Model
    name: str
    seen: Preprocessing
    images: ImageDataset | None = None


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Features:
    """Features of labelled images: those of a network, with the head that they enter, or those of anything else.

    >>> Features([[0.5, 1.0], [2.0, 0.0], [1.5, 0.5]], [0, 1, 1], class_names=["cat", "dog"])
    Features(3 images, 2 features, 2 classes)

    Args:
        values: Values of the features, (N, D): a tensor, a NumPy array, or what can be made one.
        labels: Class numbers 0..C-1, (N,), of the same kinds. A class may be without images.
        class_names: Names of the C classes; by default the numbers from 0 to the largest label, or those of the head.
        feature_names: Names of the D features.
        head: Parameters of the head that they enter, as :func:`extract_features` finds it.
        gates: Class-specific gates (C, D).
        taken: The network and the images, as :func:`extract_features` writes them down.

    Attributes:
        values: As given, float32 (N, D).
        labels: As given, int64 (N,).
        class_names: Names of the C classes.
        feature_names: Names of the D features, where they have some.
        head: Parameters of the head; None for features without one.
        gates: Class-specific gates (C, D) of the weights file, if it has any.
        taken: The network and the images that they were taken from; None where they are of another origin.

    Raises:
        InputError: Something given is of a wrong kind or shape, is not finite, or does not fit the rest.
    """

    values: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    feature_names: tuple[str, ...] | None
    head: HeadTensors | None
    gates: Tensor | None
    taken: Taken | None

    def __init__(
        self,
        values: Tensor | ArrayLike,
        labels: Tensor | ArrayLike,
        *,
        class_names: Sequence[str] | None = None,
        feature_names: Sequence[str] | None = None,
        head: HeadTensors | None = None,
        gates: Tensor | None = None,
        taken: Taken | None = None,
    ) -> None:
        if class_names is None and head is not None:
            class_names = tuple(map(str, range(head.num_classes)))
        classes = _names(class_names, "class_names")
        split = split_of(values, labels, None if classes is None else len(classes))
        columns, width = _names(feature_names, "feature_names"), split.features.shape[1]
        if columns is not None and len(columns) != width:
            raise InputError(f"feature_names has {len(columns):,} names for {width:,} features.")
        if classes is None:
            classes = tuple(map(str, range(int(split.labels.max()) + 1)))
        if head is not None and (head.num_classes, head.num_features) != (len(classes), width):
            raise InputError(
                f"head takes {head.num_features:,} features into {head.num_classes:,} classes, but there "
                f"are {width:,} and {len(classes):,}."
            )
        set_attribute = partial(object.__setattr__, self)  # as the class is frozen
        set_attribute("values", split.features)
        set_attribute("labels", split.labels)
        set_attribute("class_names", classes)
        set_attribute("feature_names", columns)
        set_attribute("head", head)
        set_attribute("gates", gates)
        set_attribute("taken", taken)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Features({len(self):,} images, {self.values.shape[1]} features, {len(self.class_names)} classes)"


def _names(names: Sequence[str] | None, name: str) -> tuple[str, ...] | None:
    if names is None:
        return None
    found = () if isinstance(names, str) else tuple(names)
    if not found or not all(isinstance(each, str) for each in found):
        raise InputError(f"{name} is no list of names.")
    return tuple(map(str, found))  # as plain text, also where NumPy's was given


def load_features(path: str | Path) -> dict[str, Features]:
    """Read features that were made elsewhere, and their labels, from a ``.npz`` or ``.safetensors`` file.

    The file has arrays ``train_x`` (N, D) and ``train_y`` (N,), likewise for ``val`` and ``test``, and perhaps
    ``class_names`` and ``feature_names`` (see :func:`decompose_cli.features.elsewhere.read_feature_file`).

    >>> import numpy as np
    >>> np.savez("features.npz", train_x=np.eye(4), train_y=[0, 1, 2, 2], test_x=np.eye(4), test_y=[0, 1, 2, 2])
    >>> load_features("features.npz")
    {'train': Features(4 images, 4 features, 3 classes), 'test': Features(4 images, 4 features, 3 classes)}

    Args:
        path: The file.

    Returns:
        The features of each split that is in the file; of ``train``, ``val`` and ``test`` one at least.

    Raises:
        InputError: The file cannot be read, or what is in it cannot be used; the sentence says what and where.
    """
    file = read_feature_file(user_path(path), needs=(), optional=SPLITS)
    return {
        name: Features(split.features, split.labels, class_names=file.class_names, feature_names=file.feature_names)
        for name, split in file.splits.items()
    }


def load_dataset(
    name: str = "digits",
    split: str | None = None,
    *,
    data_dir: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | tuple[int, int] | None = None,
    resize: int | tuple[int, int] | None = None,
    crop: int | tuple[int, int] | None = None,
    interpolation: str | None = None,
    allow_download: bool = True,
    columns: str | None = None,
) -> ImageDataset:
    """Open one split of a data set.

    >>> images = load_dataset("digits", "test")
    >>> len(images), images.class_names[:3]
    (360, ('0', '1', '2'))

    Args:
        name: A name from ``decompose datasets``, or ``folder:PATH`` with ``PATH/train|val|test/<class>/<image>``, or
            another kind: ``csv:FILE``, ``npz:FILE``, ``wds:PATTERN``, ``hf:NAME|PATH`` (``docs/models-and-data.md``).
        split: ``train``, ``val`` or ``test``; by default the first of ``test``, ``val`` and ``train`` that there is.
        data_dir: Where data sets are kept; ``$DECOMPOSE_DATA``, else ``data``, by default.
        mean: Mean per channel that pixel values in [0, 1] are normalised with, for every network that sees the images.
            This and the following are the options of the commands; without them, the network and the data set decide
            (:meth:`Model.preprocessing_of`).
        std: Standard deviation per channel.
        input_size: Pixels that the network takes, or (height, width).
        resize: Pixels of the shorter side before the crop, or (height, width).
        crop: Pixels of the centre crop, or (height, width).
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``.
        allow_download: Whether the data set may be fetched.
        columns: Columns of the data set, ``image=NAME,label=NAME,split=NAME``, where they are not guessed right.

    Raises:
        InputError: There is no such data set or split, or an option is out of range.
        DownloadError: The data set cannot be fetched.
    """
    chosen = check_image_options(
        mean=mean, std=std, input_size=input_size, resize=resize, crop=crop, interpolation=interpolation
    )
    folder = default_data_dir() if data_dir is None else user_path(data_dir)
    named = parse_columns(columns)
    if split is None:
        available = available_splits(name, named, allow_download=allow_download)
        if not available:
            raise InputError(f"{name} has none of the folders train, val and test.")
        split = available[0]
    images = open_dataset(name, split, folder, allow_download=allow_download, columns=named)
    images.chosen = chosen
    return images


def extract_features(
    model: Model,
    images: ImageDataset | Iterable[tuple[Tensor, Tensor]],
    *,
    device: str = "auto",
    precision: str = "32",
    batch_size: int = 256,
    workers: int = 0,
    class_map: Mapping[str, str | int] | str | Path | None = None,
) -> Features:
    """Run every image through the network once and keep what enters its head.

    >>> extract_features(load_model(), load_dataset("digits", "test"))
    Features(360 images, 64 features, 10 classes)

    Args:
        model: The network; left as it was.
        images: A data set, whose classes are matched to the network's by name where both have names; or batches, such
            as a ``DataLoader`` yields: images (n, 3, H, W) as the network takes them, and their class numbers (n,).
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``32``, ``bf16`` or ``auto``; features are float32 either way.
        batch_size: Images of a data set that are read at a time.
        workers: Processes that decode images of a data set.
        class_map: Which class of the network (name, id or number) a class of the data set is, by name, or a file that
            says so, as ``--class-map`` takes; for the others their names say it.

    Raises:
        InputError: The classes do not fit, or ``images`` is neither a data set nor batches.
        DecomposeError: A feature is NaN or infinite, or the device runs out of memory.
    """
    Inputs(precision=precision, batch_size=batch_size, workers=workers)  # checks them
    where = resolve_device(device)
    precision = settled_precision(precision, where)
    network = model.network.as_it_is()
    count = network.tensors.num_classes
    head = None if network.tensors.kind == "absent" else network.tensors
    if not isinstance(images, ImageDataset):
        names = model.class_names or tuple(map(str, range(count)))
        values, labels = features_of_batches(network, images, device=where, precision=precision)
        (mean, std), size = UNCHANGED, network.input_size
        taken = Taken(model, name_of(images), Preprocessing(mean=mean, std=std, resize=size, crop=size))
        return Features(values, labels, class_names=names, head=head, gates=model.gates, taken=taken)
    given = read_class_map(user_path(class_map)) if isinstance(class_map, (str, Path)) else class_map
    classes = matched(images, images.labels, model.name, model.classes, count, given)
    computing = Computing(where, precision, batch_size, workers, torch.get_num_threads())
    seen = model.preprocessing_of(images)
    values, unreadable = features_of_dataset(network, images, seen, computing)
    if unreadable:
        images.refuse(unreadable)
    outputs = torch.tensor(classes.outputs)[images.labels]
    taken = Taken(model, images.name, seen, images)
    return Features(values, outputs, class_names=classes.names, head=head, gates=model.gates, taken=taken)


def extract_indices(
    features: Features, k: int | float = 5, method: str = DEFAULT_METHOD, *, order: Order = "highest"
) -> IndexSet:
    """Find the k features that each class uses most, in the order of the ranking (of equals the higher index first).

    >>> indices = extract_indices(extract_features(load_model(), load_dataset("digits", "train")), k=5)
    >>> indices.num_classes, indices.largest_k
    (10, 5)

    Args:
        features: Features of training images. Classes without any keep all features, where there is a full head.
        k: Features per class, or a fraction of the class's total (see
            :func:`decompose_cli.decomposition.ranking.select`).
        method: ``frequency`` (arXiv 2112.07719), ``mean``, ``mass``, ``contribution``, ``weight``, ``csg``,
            ``backward``, ``splicing`` or ``elastic-net``.
        order: Which gates ``csg`` takes, ``highest`` or ``lowest``.

    Raises:
        InputError: k is out of range, a class has no images, or the method needs something that ``features`` lack.
    """
    full = features.head.full if features.head is not None else None
    name = parse_method(method)
    if features.head is None and RANKINGS[name].needs_head:
        raise InputError(
            f"The method {name!r} needs the full head, and there is none in features.",
            hint="Rank them by another method, or give features that extract_features has taken from a network.",
        )
    weight, bias = (None, None) if full is None else (full.weight, full.bias)
    ranked = LabelledFeatures(
        features.values, features.labels, weight, features.class_names, features.gates, order, bias
    ).holding_empty()
    return select(ranked.for_fits() if RANKINGS[name].is_fitted else ranked, name, k)
