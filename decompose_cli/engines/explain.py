"""``explain``: where in an image the network looks, and what the filters of its class see there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import BaseModel

from decompose_cli.decomposition.chosen_images import ChosenImage, from_dataset, from_files
from decompose_cli.decomposition.explaining import DeletionFigures, Explainer, Explanation, ImageMaps
from decompose_cli.decomposition.heads import check_index_request, resolve_heads
from decompose_cli.decomposition.index_set import IndexSet, read_index_set
from decompose_cli.decomposition.inputs import Inputs
from decompose_cli.decomposition.ranking import DEFAULT_K, LabelledFeatures, select
from decompose_cli.decomposition.study import Study, class_names_of, open_network, seen_by
from decompose_cli.errors import InputError
from decompose_cli.files import sha256_of, write_files
from decompose_cli.models.classifier import Classifier, Network
from decompose_cli.models.head import last_map_layer, trace_layers
from decompose_cli.preprocessing import CIFAR, IMAGENET, Preprocessing
from decompose_cli.progress import note, track
from decompose_cli.reporting.explain_plots import Panel, Picture, picture_row, picture_sheet
from decompose_cli.results import (
    DatasetInfo,
    ModelInfo,
    ResultDocument,
    Stopwatch,
    WeightsInfo,
    describe_environment,
    file_stem,
)

MOST_IMAGES = 40
_AT_ONCE = 16
SHEET = "sheet.png"


class ExplainResults(BaseModel):
    """``layer``: of Grad-CAM. ``indices``: where the filters of each class are from."""

    layer: str
    indices: str | None
    explanations: list[Explanation]
    deletion: list[DeletionFigures]
    sheet: str | None


@dataclass(frozen=True)
class _Opened:
    classifier: Classifier
    preprocessing: Preprocessing
    network: Network
    names: tuple[str, ...]
    images: list[ChosenImage]
    dataset: DatasetInfo


def explain(
    inputs: Inputs,
    files: Sequence[Path] = (),
    *,
    numbers: Sequence[int] | None = None,
    worst: int | None = None,
    indices: Path | IndexSet | None = None,
    k: int = DEFAULT_K,
    layer: str | None = None,
    folder: Path | None = None,
) -> ResultDocument[ExplainResults]:
    """Draw, for each image, Grad-CAM and the map of the predicted class's own filters beside that of all others.

    Args:
        inputs: Which network; where no files are given, which images.
        files: Image files.
        numbers: Of images in the data set's test images (or the split of ``inputs``), from 0.
        worst: So many images of that split with the highest loss.
        indices: The filters of each class; by default those with its k highest weights.
        k: See there.
        layer: Of Grad-CAM, by default the last with maps larger than a pixel.
        folder: Gets a PNG file for each image and one with all of them.

    Raises:
        InputError: Something given cannot be used.
    """
    watch = Stopwatch()
    if sum((bool(files), numbers is not None, worst is not None)) != 1:
        raise InputError("Say which images: files, --indices-of NUMBERS or --worst N, and one of these only.")
    index_set = read_index_set(indices) if isinstance(indices, Path) else indices
    found = _of_files(inputs, files) if files else _of_dataset(inputs, numbers, worst, index_set)
    check_index_request(found.classifier.checkpoint, index_set)
    tensors = found.network.tensors
    if index_set is None and tensors.kind == "dense":
        empty = torch.zeros(0, tensors.num_features), torch.zeros(0, dtype=torch.int64)
        index_set = select(LabelledFeatures(*empty, tensors.weight, found.names), "weight", k)
        note(f"No index file was given: the filters of a class are the {k} with its highest weights.")
    heads = resolve_heads(tensors, index_set)
    module = found.network.module
    _, calls = trace_layers(module, torch.zeros(2, 3, *found.preprocessing.crop))
    chosen = layer or last_map_layer(calls)
    if chosen is None:
        raise InputError(f"{found.classifier.name} has no layer with maps, which Grad-CAM needs.")
    shapes = {call.name: call.output_shape for call in calls}
    if len(shapes.get(chosen) or ()) != 4:
        raise InputError(
            f"{chosen!r} is no layer of {found.classifier.name} with maps.", hint="'decompose layers MODEL' lists them."
        )
    explained = Explainer(found.network, found.preprocessing, found.names, heads, chosen, inputs.seed)
    explanations, pictures = [], []
    with track("Explanations", len(found.images)) as advance:
        for start in range(0, len(found.images), _AT_ONCE):
            part = found.images[start : start + _AT_ONCE]
            for image, (explanation, maps) in zip(part, explained.explain(part), strict=True):
                explanations.append(explanation)
                pictures.append(_picture(explanation, image, maps))
                advance(1)
    if explained.lacks_maps:
        note(
            f"The features of {found.classifier.name} are no means of maps over positions, so there are no maps of "
            "filters that add up to a logit; Grad-CAM is drawn alone."
        )
    sheet = None
    if folder is not None:
        sheet = str(folder / SHEET)
        content = {Path(sheet): picture_sheet(pictures)}
        for number, (explanation, picture) in enumerate(zip(explanations, pictures, strict=True)):
            path = folder / f"{number + 1:02d}-{file_stem(Path(explanation.image).stem)}.png"
            content[path] = picture_row(picture)
            explanation.file = str(path)
        write_files(content)
    source = index_set.source if index_set is not None else found.classifier.weights_source
    return ResultDocument(
        command="explain",
        arguments={
            **inputs.as_arguments(),
            "files": [str(path) for path in files],
            "indices_of": list(numbers) if numbers is not None else None,
            "worst": worst,
            "indices": index_set.source if index_set is not None else None,
            "k": k,
            "layer": layer,
        },
        model=ModelInfo(
            name=found.classifier.name,
            num_classes=tensors.num_classes,
            num_features=tensors.num_features,
            head=tensors.name,
            options=dict(found.classifier.entry.chosen),
            weights=WeightsInfo(source=found.classifier.weights_source, sha256=found.classifier.weights_sha256),
        ),
        dataset=found.dataset,
        environment=describe_environment("cpu", inputs.seed),
        started_at=watch.started_at,
        seconds=watch.seconds(),
        results=ExplainResults(
            layer=chosen,
            indices=source if heads.decomposed is not None else None,
            explanations=explanations,
            deletion=explained.figures(),
            sheet=sheet,
        ),
    )


def _check_count(count: int) -> None:
    if not 1 <= count <= MOST_IMAGES:
        raise InputError(f"{count} images cannot be explained at a time; choose 1 to {MOST_IMAGES}.")


def _of_files(inputs: Inputs, files: Sequence[Path]) -> _Opened:
    _check_count(len(files))
    if inputs.dataset is not None or inputs.split is not None:
        raise InputError("--dataset and --split mean nothing for image files; leave them out.")
    classifier = open_network(inputs)
    fallback = IMAGENET if classifier.entry.dataset == "imagenet" else CIFAR
    preprocessing = seen_by(classifier, inputs, fallback)
    images = from_files(files, preprocessing)
    network = classifier.load(preprocessing.crop)
    known = class_names_of(classifier)
    count = network.tensors.num_classes
    names = tuple(known.names) if known is not None and len(known.names) == count else tuple(map(str, range(count)))
    digest = hashlib.sha256("".join(sha256_of(path) for path in files).encode()).hexdigest()
    dataset = DatasetInfo(
        name="image files",
        split="",
        images=len(files),
        fingerprint=digest,
        classes=list(names),
        mean=list(preprocessing.mean),
        std=list(preprocessing.std),
        **preprocessing.geometry(),
    )
    return _Opened(classifier, preprocessing, network, names, images, dataset)


def _of_dataset(
    inputs: Inputs, numbers: Sequence[int] | None, worst: int | None, index_set: IndexSet | None
) -> _Opened:
    _check_count(len(numbers) if numbers is not None else worst or 0)
    study = Study(inputs, ("test", "val"))
    network = study.classifier.load(study.preprocessing.crop)
    if numbers is None:
        check_index_request(study.classifier.checkpoint, index_set)
        heads = resolve_heads(study.head, index_set)
        head = heads.original or heads.decomposed
        assert head is not None
        losses = F.cross_entropy(head(study.bank.features), study.labels, reduction="none")
        numbers = losses.argsort(descending=True, stable=True)[:worst].tolist()
    images = from_dataset(study, numbers)
    return _Opened(
        study.classifier, study.preprocessing, network, study.class_map.names, images, study.describe_dataset()
    )


def _picture(found: Explanation, image: ChosenImage, maps: ImageMaps) -> Picture:
    """The image and its maps, with what each head says beside them."""
    panels = [Panel(f"Grad-CAM, predicted\n{found.predicted_name}", maps.predicted, signed=False)]
    if maps.true is not None:
        panels.append(Panel(f"Grad-CAM, true\n{found.label_name}", maps.true, signed=False))
    sums = found.sums
    if maps.own is not None and sums is not None:
        title = f"{len(sums.filters)} filters of {found.predicted_name}\n{sums.own:+.2f}"
        panels.append(Panel(title, maps.own, signed=True))
    if maps.others is not None and sums is not None and sums.others is not None:
        panels.append(Panel(f"all other filters\n{sums.others:+.2f}", maps.others, signed=True))
    lines = []
    for what, scores in (("full head", found.original), ("decomposed", found.decomposed)):
        if scores is not None:
            lines += [what, *(f"{100 * score.probability:5.1f}%  {score.name}" for score in scores), ""]
    wrong = f" (is {found.label_name})" if maps.true is not None else ""
    return Picture(f"{Path(found.image).name}: {found.predicted_name}{wrong}", image.pixels, panels, lines[:-1])
