"""The commands that look at images, as functions of what is in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from decompose_cli.api.indices import Indices
from decompose_cli.api.inputs import ClassMapping, Images, check_model, given_set, image_inputs, with_document
from decompose_cli.api.model import Model
from decompose_cli.decomposition.atlas_results import AtlasResults
from decompose_cli.decomposition.selectivity_results import SelectivityResults
from decompose_cli.engines import atlas as atlas_engine
from decompose_cli.engines import explain as explain_engine
from decompose_cli.engines import filters as filters_engine
from decompose_cli.engines import selectivity as selectivity_engine
from decompose_cli.engines.atlas import DEFAULT_IMAGES, AtlasSettings
from decompose_cli.engines.explain import ExplainResults, ExplainSettings
from decompose_cli.engines.filters import FiltersResults, FiltersSettings
from decompose_cli.storage.files import user_path


def selectivity(
    model: Model,
    images: Images,
    *,
    layers: Sequence[str] = ("all",),
    fraction: float = 0.5,
    compare: Mapping[str, Model] | None = None,
    class_map: ClassMapping | None = None,
    device: str = "auto",
    batch_size: int = 256,
    workers: int = 0,
    precision: str = "32",
) -> SelectivityResults:
    """Measure how few filters of each layer respond to an image, and how much they prefer one class.

    >>> results = selectivity(load_model(), load_dataset("digits", "test"), layers=["layer3.2"])
    >>> 0 < results.layers["layer3.2"].psi_mean < 1
    True

    Args:
        model: The network; left as it was.
        images: A data set, or batches, which are read once and kept.
        layers: Submodules, ``stem``, or ``all``: the stem and every residual unit.
        fraction: Share of the activation, strictly between 0 and 1.
        compare: Networks of the same architecture, by name, measured in the same way.
        class_map: Which class of the network a class of a data set is.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        batch_size: Images that a GPU works on at a time.
        workers: Processes that decode images of a data set.
        precision: ``32``, ``bf16`` or ``auto``.

    Raises:
        InputError: There is no such layer, or something given is out of range.
    """
    options = {"device": device, "batch_size": batch_size, "workers": workers, "precision": precision}
    inputs = image_inputs(model, {"train": images}, class_map, **options)
    others = []
    for name, other in (compare or {}).items():
        check_model(other)
        others.append((name, image_inputs(other, {"train": inputs.splits["train"]}, class_map, **options)))
    settings = selectivity_engine.SelectivitySettings(layers=tuple(layers), fraction=fraction, compare=others)
    return with_document(selectivity_engine.selectivity(inputs, settings))


def explain(
    model: Model,
    images: Images | Sequence[str | Path],
    *,
    numbers: Sequence[int] | None = None,
    worst: int | None = None,
    indices: Indices | None = None,
    k: int | None = None,
    layer: str | None = None,
    class_map: ClassMapping | None = None,
    device: str = "auto",
    seed: int = 0,
) -> ExplainResults:
    """Draw, for each image, Grad-CAM and the map of the predicted class's own filters beside that of all others.

    >>> results = explain(load_model(), load_dataset("digits", "test"), numbers=[0])
    >>> results.explanations[0].predicted_name
    '0'
    >>> results.figure().axes[0].get_images()[0].get_array().shape[2]
    3

    Args:
        model: The network; left as it was.
        images: A data set, or batches, which are read once and kept; or paths of image files.
        numbers: Which images of them, from 0. Either these or ``worst`` is given, unless there are paths.
        worst: How many to take, those with the highest loss.
        indices: The filters of each class; by default those with its k highest weights.
        k: Filters per class where ``indices`` says none; 5 by default.
        layer: Layer of Grad-CAM; by default the last with maps larger than a pixel.
        class_map: Which class of the network a class of a data set is.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        seed: Of the order in which pixels are deleted at random.

    Raises:
        InputError: It is not said which images, or something given cannot be used.
    """
    check_model(model)
    paths: Sequence[Path] = ()
    if isinstance(images, Sequence) and images and all(isinstance(each, str | Path) for each in images):
        paths = [user_path(each) for each in images if isinstance(each, str | Path)]
    index_set = given_set(indices, model.num_classes, model.num_features)
    settings = ExplainSettings(images=paths, indices_of=numbers, worst=worst, indices=index_set, k=k, layer=layer)
    options = {"device": device, "seed": seed, "workers": 0}
    if paths:
        inputs = image_inputs(model, {}, class_map, **options)
    else:
        inputs = image_inputs(model, {"test": images}, class_map, **options)  # type: ignore[dict-item]
    with tempfile.TemporaryDirectory() as folder:
        document = explain_engine.explain(inputs, settings, folder=Path(folder))
        pictures = _pictures(Path(folder))
    for explanation in document.results.explanations:
        explanation.file = _name_of(explanation.file)
    document.results.sheet = _name_of(document.results.sheet)
    return with_document(document, pictures)


def filters(
    model: Model,
    images: Images,
    class_name: str | int,
    *,
    indices: Indices | None = None,
    k: int | None = None,
    count: int = 8,
    against: str | int | None = None,
    class_map: ClassMapping | None = None,
    device: str = "auto",
    workers: int = 0,
) -> FiltersResults:
    """Show the filters of a class by the images that they respond to most.

    >>> results = filters(load_model(), load_dataset("digits", "test"), "4", k=3)
    >>> [(one.rank, len(one.images)) for one in results.filters]
    [(1, 8), (2, 8), (3, 8)]

    Args:
        model: The network; left as it was.
        images: A data set, or batches, which are read once and kept.
        class_name: Name of the class, or its number.
        indices: The filters of each class; by default those with its k highest weights.
        k: Filters per class where ``indices`` says none; 5 by default.
        count: Number of images for each filter.
        against: Name or number of a class to set it beside.
        class_map: Which class of the network a class of a data set is.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        workers: Processes that decode images of a data set.

    Raises:
        InputError: There is no such class, or something given is out of range.
    """
    inputs = image_inputs(model, {"test": images}, class_map, device=device, workers=workers)
    index_set = given_set(indices, model.num_classes, model.num_features)
    settings = FiltersSettings(str(class_name), index_set, k, count, None if against is None else str(against))
    with tempfile.TemporaryDirectory() as folder:
        document = filters_engine.filters(inputs, settings, folder=Path(folder))
        pictures = _pictures(Path(folder))
    document.results.sheet = _name_of(document.results.sheet)
    return with_document(document, pictures)


def atlas(
    model: Model,
    images: Images,
    *,
    indices: Indices | None = None,
    k: int | None = None,
    classes: Sequence[str | int] = (),
    count: int = DEFAULT_IMAGES,
    class_map: ClassMapping | None = None,
    device: str = "auto",
    workers: int = 0,
) -> AtlasResults:
    """Look at each feature that classes use: its images, its classes, and what is lost where it alone is left out.

    >>> results = atlas(load_model(), load_dataset("digits", "test"), k=2, classes=["4"])
    >>> [(one.feature, one.used_by[0].class_name, one.lost.correct < results.head.correct) for one in results.features]
    [(33, '4', True), (23, '4', True)]

    Args:
        model: The network; left as it was.
        images: A data set, or batches, which are read once and kept.
        indices: The features of each class; by default those with its k highest weights.
        k: Features per class where ``indices`` says none; 5 by default.
        classes: Names or numbers of the classes whose features are looked at; by default all.
        count: Number of images for each feature.
        class_map: Which class of the network a class of a data set is.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        workers: Processes that decode images of a data set.

    Raises:
        InputError: There is no such class, there are more than 300 features, or something given is out of range.
    """
    inputs = image_inputs(model, {"test": images}, class_map, device=device, workers=workers)
    index_set = given_set(indices, model.num_classes, model.num_features)
    settings = AtlasSettings(index_set, k, [str(each) for each in classes], count)
    with tempfile.TemporaryDirectory() as folder:
        document = atlas_engine.atlas(inputs, settings, folder=Path(folder))
        pictures = _pictures(Path(folder))
    document.results.sheet = _name_of(document.results.sheet)
    return with_document(document, pictures)


def _pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def _name_of(path: str | None) -> str | None:
    return None if path is None else Path(path).name
