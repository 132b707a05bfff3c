"""Images, their features, and what features are good for: index sets and accuracies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from decompose_cli.api.model import Indices, Model, index_set_of
from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.registry import available_splits, default_data_dir, open_dataset
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.ranking import DEFAULT_METHOD, parse_method, select
from decompose_cli.engines.validate import ValidateResults, measure
from decompose_cli.errors import InputError
from decompose_cli.features.device import resolve_device
from decompose_cli.features.extraction import extract_features as features_of_dataset
from decompose_cli.features.extraction import features_of_batches
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.labelled import LabelledFeatures, Order, check_classes
from decompose_cli.features.seen import matched
from decompose_cli.models.network import HeadTensors
from decompose_cli.preprocessing import check_image_options
from decompose_cli.storage.files import user_path


@dataclass(frozen=True)
class Features:
    """Penultimate features of labelled images, and the head that they enter.

    Attributes:
        values: Values of the features, float32 (N, D).
        labels: The network's class numbers, int64 (N,).
        head: Parameters of the head.
        class_names: Names of the C classes.
        gates: Class-specific gates (C, D) of the weights file, if it has any.
    """

    values: Tensor
    labels: Tensor
    head: HeadTensors
    class_names: tuple[str, ...]
    gates: Tensor | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Features({len(self):,} images, {self.values.shape[1]} features, {len(self.class_names)} classes)"


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
) -> ImageDataset:
    """Open one split of a data set.

    >>> images = load_dataset("digits", "test")
    >>> len(images), images.class_names[:3]
    (360, ('0', '1', '2'))

    Args:
        name: A name from ``decompose datasets``, or ``folder:PATH`` with ``PATH/train|val|test/<class>/<image>``.
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

    Raises:
        InputError: There is no such data set or split, or an option is out of range.
        DownloadError: The data set cannot be fetched.
    """
    chosen = check_image_options(
        mean=mean, std=std, input_size=input_size, resize=resize, crop=crop, interpolation=interpolation
    )
    folder = default_data_dir() if data_dir is None else user_path(data_dir)
    if split is None:
        available = available_splits(name)
        if not available:
            raise InputError(f"{name} has none of the folders train, val and test.")
        split = available[0]
    images = open_dataset(name, split, folder, allow_download=allow_download)
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
) -> Features:
    """Run every image through the network once and keep what enters its head.

    >>> extract_features(load_model(), load_dataset("digits", "test"))
    Features(360 images, 64 features, 10 classes)

    Args:
        model: The network; left as it was.
        images: A data set, whose classes are matched to the network's by name where both have names; or batches, such
            as a ``DataLoader`` yields: images (n, 3, H, W) as the network takes them, and their class numbers (n,).
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``32`` or ``bf16``; features are float32 either way.
        batch_size: Images of a data set that are read at a time.
        workers: Processes that decode images of a data set.

    Raises:
        InputError: The classes do not fit, or ``images`` is neither a data set nor batches.
        DecomposeError: A feature is NaN or infinite, or the device runs out of memory.
    """
    Inputs(precision=precision, batch_size=batch_size, workers=workers)  # checks them
    where = resolve_device(device)
    network = model.network.as_it_is()
    head = network.tensors
    if not isinstance(images, ImageDataset):
        names = model.class_names or tuple(map(str, range(head.num_classes)))
        values, labels = features_of_batches(network, images, device=where, precision=precision)
        return Features(values, labels, head, names, model.gates)
    classes = matched(images, images.labels, model.name, model.classes, head.num_classes)
    values, labels = features_of_dataset(
        network,
        images,
        model.preprocessing_of(images),
        device=where,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
    )
    return Features(values, torch.tensor(classes.outputs)[labels], head, classes.names, model.gates)


def extract_indices(
    features: Features, k: int | float = 5, method: str = DEFAULT_METHOD, *, order: Order = "highest"
) -> IndexSet:
    """Find the k features that each class uses most, in the order of the ranking (of equals the higher index first).

    >>> indices = extract_indices(extract_features(load_model(), load_dataset("digits", "train")), k=5)
    >>> indices.num_classes, indices.largest_k
    (10, 5)

    Args:
        features: Features of training images of all classes.
        k: Features per class, or a fraction of the class's total (see
            :func:`decompose_cli.decomposition.ranking.select`).
        method: ``frequency`` (arXiv 2112.07719), ``mean``, ``mass``, ``contribution``, ``weight`` or ``csg``.
        order: Which gates ``csg`` takes, ``highest`` or ``lowest``.

    Raises:
        InputError: k is out of range, a class has no images, or the method needs something that ``features`` lack.
    """
    check_classes(features.labels, features.class_names)
    full = features.head.full
    weight = full.weight if full is not None else None
    ranked = LabelledFeatures(features.values, features.labels, weight, features.class_names, features.gates, order)
    return select(ranked, parse_method(method), k)


def validate(features: Features, indices: Indices | None = None) -> ValidateResults:
    """Measure a classifier with its full head, and with a few features per class; no image is looked at again.

    >>> model = load_model()
    >>> indices = extract_indices(extract_features(model, load_dataset("digits", "train")), k=5)
    >>> results = validate(extract_features(model, load_dataset("digits", "test")), indices)
    >>> results.original.correct, results.decomposed.correct, results.total
    (358, 351, 360)

    Args:
        features: Features of test images. Those of a decomposed model bring its own head, and need no indices.
        indices: The features that each class keeps.

    Raises:
        InputError: The index set does not fit, or there is no image.
    """
    head = features.head
    if head.kind == "decomposed" and indices is not None:
        raise InputError("The model is decomposed already; its features are validated without indices.")
    if head.kind == "subspaces" and indices is None:
        raise InputError("The decomposed head of these weights is without its indices; give the file it was made with.")
    index_set = None if indices is None else index_set_of(indices, head.num_classes, head.num_features)
    return measure(head, features.values, features.labels, features.class_names, index_set)
