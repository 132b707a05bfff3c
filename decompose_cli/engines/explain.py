"""``explain``: where in an image the network looks, and what the filters of its class see there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from typing_extensions import override

from decompose_cli.datasets.batches import shown_levels
from decompose_cli.datasets.registry import usual_preprocessing
from decompose_cli.decomposition.chosen_images import ChosenImage, from_dataset, from_files
from decompose_cli.decomposition.explaining import DeletionFigures, Explainer, Explanation, ImageMaps, MapShown
from decompose_cli.decomposition.heads import (
    Heads,
    check_index_request,
    check_made_from,
    highest_weights,
    of_studied_classes,
    resolve_heads,
)
from decompose_cli.decomposition.index_set import IndexSet, read_index_set
from decompose_cli.decomposition.metrics import losses_of
from decompose_cli.decomposition.ranking import DEFAULT_K
from decompose_cli.decomposition.sizes import check_filters
from decompose_cli.errors import InputError, param
from decompose_cli.features.extraction import device_memory
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.seen import class_names_of, settled
from decompose_cli.features.study import Study, open_network
from decompose_cli.messages import note, track, warn
from decompose_cli.models.cam_layer import CamLayer, cam_layer, default_cam_layer
from decompose_cli.models.classifier import Classifier
from decompose_cli.models.network import HeadTensors
from decompose_cli.models.outputs import passed_over, trace_outputs, warn_of_passed_over
from decompose_cli.models.tracing import example_images
from decompose_cli.preprocessing import Preprocessing, Size
from decompose_cli.printable import counted, printable
from decompose_cli.processes.device import resolve_device
from decompose_cli.reporting.explain_plots import Panel, Picture, Whole, largest_values, picture_row, picture_sheet
from decompose_cli.reporting.findings import Findings, Row
from decompose_cli.storage.file_sets import Content, check_replaceable, write_result
from decompose_cli.storage.files import file_stem, sha256_of
from decompose_cli.storage.names import RESULT
from decompose_cli.storage.result_document import (
    DatasetInfo,
    ModelInfo,
    ResultDocument,
    Stopwatch,
    WeightsInfo,
    describe_environment,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OF_DATA_SETS = ("dataset", "columns", "split", "classes", "class_map", "data_dir", "skip_unreadable")
MOST_IMAGES = 40
_AT_ONCE = 16
SHEET = "sheet.png"


class ExplainResults(Findings):
    """``layer``: the layer of Grad-CAM, whose maps are in what it yields, or in what it is given (``layer_is_given``).

    ``indices``: where the filters of each class are from.
    """

    layer: str
    layer_is_given: bool = False
    indices: str | None
    explanations: list[Explanation]
    deletion: list[DeletionFigures]
    sheet: str | None

    @override
    def tables(self) -> Mapping[str, list[Row]]:
        return {
            "images": [
                {
                    "image": one.image,
                    "label": one.label_name,
                    "predicted": one.predicted_name,
                    "full": None if one.original is None else one.original[0].name,
                    "decomposed": None if one.decomposed is None else one.decomposed[0].name,
                }
                for one in self.explanations
            ],
            "deletion": [one.model_dump() for one in self.deletion],
        }

    @override
    def drawn(self) -> Figure | None:
        return self.picture(SHEET)


@dataclass(frozen=True)
class _Opened:
    classifier: Classifier
    preprocessing: Preprocessing
    names: tuple[str, ...]
    study: Study | None


@dataclass(frozen=True)
class ExplainSettings:
    """Which images are explained, and by which filters.

    Attributes:
        images: Image files. One of these, ``indices_of`` and ``worst`` is given.
        indices_of: Numbers of images, from 0, in the split of the inputs (``test``, else ``val``).
        worst: How many images of that split to take, those with the highest loss.
        indices: The filters of each class; by default those with its k highest weights.
        k: Filters per class where ``indices`` says none; 5 by default.
        layer: Layer of Grad-CAM; by default the last with maps larger than a pixel.

    Raises:
        InputError: Not exactly one attribute says which images, there are too many, or two say which filters.
    """

    images: Sequence[Path] = ()
    indices_of: Sequence[int] | None = None
    worst: int | None = None
    indices: Path | IndexSet | None = None
    k: int | None = None
    layer: str | None = None

    def __post_init__(self) -> None:
        if sum((bool(self.images), self.indices_of is not None, self.worst is not None)) != 1:
            raise InputError(
                f"Say which images: files, {param('indices_of')} NUMBERS or {param('worst')} N, and one of these only."
            )
        _check_count(len(self.images) or (len(self.indices_of) if self.indices_of is not None else self.worst or 0))
        check_filters(self.indices, self.k)


def explain(
    inputs: Inputs, settings: ExplainSettings, *, folder: Path | None = None, overwrite: bool = False
) -> ResultDocument[ExplainResults]:
    """Draw, for each image, Grad-CAM and the map of the predicted class's own filters beside that of all others.

    Args:
        inputs: The network; and the images, where no files are given.
        settings: Which images are explained, and by which filters.
        folder: Gets a PNG file for each image, one with all of them, and the document as ``result.json``.
        overwrite: Whether files may be replaced; those that an earlier explanation left in the folder are then removed.

    Raises:
        InputError: Something given cannot be used; nothing has been written.
        DecomposeError: The work failed; nothing has been written.
    """
    document, pictures = explanation(inputs, settings, folder=folder, overwrite=overwrite)
    if folder is not None:
        write_result(document, folder / RESULT, pictures)
    return document


def explanation(
    inputs: Inputs, settings: ExplainSettings, *, folder: Path | None = None, overwrite: bool = False
) -> tuple[ResultDocument[ExplainResults], dict[Path, Content]]:
    """Explain images as :func:`explain` does, but leave it to the caller to write the pictures and the document."""
    watch = Stopwatch()
    files, numbers, worst = settings.images, settings.indices_of, settings.worst
    indices, k, layer = settings.indices, settings.k, settings.layer
    device = resolve_device(inputs.device)
    index_set = read_index_set(indices) if isinstance(indices, Path) else indices
    opened = _opened(inputs, files)
    check_index_request(opened.classifier.checkpoint, index_set)
    if index_set is not None and opened.study is not None:
        index_set = of_studied_classes(index_set, opened.study)
    network = opened.classifier.load(opened.preprocessing.crop)
    heads, source = _heads(opened, network.tensors, index_set, k)
    module = network.module
    chosen = _layer(module, opened, layer)
    images = _images(opened, heads, files, numbers, worst)
    targets = (
        [folder / f"{n:02d}-{file_stem(Path(image.file or image.name).stem)}.png" for n, image in enumerate(images, 1)]
        if folder
        else []
    )
    if folder is not None:
        _check_targets([*targets, folder / SHEET, folder / RESULT], files, overwrite=overwrite)
    explained = Explainer(network, opened.preprocessing, opened.names, heads, chosen, inputs.seed, device)
    explanations, pictures = [], []
    at_once = min(_AT_ONCE, inputs.batch_size)
    with track("Explanations", len(images)) as advance, device_memory(device):
        for start in range(0, len(images), at_once):
            part = images[start : start + at_once]
            for image, (explanation, maps) in zip(part, explained.explain(part), strict=True):
                explanations.append(explanation)
                pictures.append(picture := _picture(explanation, image, maps, opened.preprocessing))
                explanation.maps, explanation.has_whole = _shown(picture.panels), picture.whole is not None
                advance(1)
    if explained.lacks_maps:
        note(
            f"No maps larger than 1x1 were found whose means the features of {opened.classifier.name} are, so there "
            "are no maps of filters that add up to a logit; Grad-CAM is drawn alone."
        )
    for explanation, target in zip(explanations, targets, strict=False):
        explanation.file = str(target)
    results = ExplainResults(
        layer=chosen.name,
        layer_is_given=chosen.is_given,
        indices=source,
        explanations=explanations,
        deletion=explained.figures(),
        sheet=str(folder / SHEET) if folder is not None else None,
    )
    arguments = {
        "files": [printable(str(path)) for path in files],
        "indices_of": list(numbers) if numbers is not None else None,
        "worst": worst,
        "indices": index_set.source if index_set is not None else None,
        "k": k,
        "layer": layer,
    }
    document = _document(opened, network.tensors, inputs, arguments, files, device, results, watch)
    if folder is None:
        return document, {}
    rows = [picture_row(picture) for picture in pictures]
    return document, {**dict(zip(targets, rows, strict=True)), folder / SHEET: picture_sheet(rows)}


def _check_count(count: int) -> None:
    if not 1 <= count <= MOST_IMAGES:
        raise InputError(f"{count} images cannot be explained at a time; choose 1 to {MOST_IMAGES}.")


def _opened(inputs: Inputs, files: Sequence[Path]) -> _Opened:
    if not files:
        study = Study(inputs, ("test", "val"))
        return _Opened(study.classifier, study.preprocessing, study.class_map.names, study)
    inputs = inputs.without(_OF_DATA_SETS, "with image files, which belong to no data set")
    classifier = open_network(inputs)
    fallback = usual_preprocessing(classifier.entry.dataset)
    options = classifier.image_options, inputs.image_options()
    preprocessing = settled(classifier.name, options, fallback)
    if classifier.entry.preprocessing is None and inputs.input_size is None and inputs.crop is None:
        height, width = preprocessing.crop
        warn(f"Images are made {height}x{width} pixels; {param('input_size')} says otherwise.")
    known = class_names_of(classifier)
    count = classifier.load(preprocessing.crop).tensors.num_classes
    names = tuple(known.names) if known is not None and len(known.names) == count else tuple(map(str, range(count)))
    return _Opened(classifier, preprocessing, names, None)


def _heads(opened: _Opened, tensors: HeadTensors, index_set: IndexSet | None, k: int | None) -> tuple[Heads, str]:
    """The heads, and where the filters of each class are from."""
    if index_set is not None:
        check_made_from(index_set, opened.classifier)
        return resolve_heads(tensors, index_set), index_set.source
    if tensors.kind != "dense":
        if k is not None:
            raise InputError(
                f"{param('k')} has no effect here: the weights have a decomposed head, with filters of its own."
            )
        return resolve_heads(tensors, None), opened.classifier.weights_source
    count = DEFAULT_K if k is None else k
    chosen = highest_weights(tensors, opened.names, count)
    if k is None:
        features = counted(count, "feature")
        note(f"No index file was given: a class's filters are the {features} with its highest weights.")
    return resolve_heads(tensors, chosen), f"the {count} highest weights of each class"


def _layer(module: nn.Module, opened: _Opened, layer: str | None) -> CamLayer:
    """The layer of Grad-CAM, with its maps."""
    name = opened.classifier.name
    images = example_images(opened.preprocessing.crop, model=module)
    outputs = trace_outputs(module, images)
    chosen = layer or default_cam_layer(module, images, outputs)
    if chosen is None:
        later = passed_over(outputs)
        why = f": of {later.layer!r}, {later.values.obstacle}" if later is not None and later.values is not None else ""
        raise InputError(
            f"{name} has no layer with maps of which it can be told what their axes are{why}; Grad-CAM needs one."
        )
    if layer is None:
        warn_of_passed_over(outputs, chosen, name)
    found = cam_layer(module, images, outputs, chosen, name)
    if found.is_given:
        note(
            f"Grad-CAM looks at the tokens that enter {chosen!r}: of those that leave it, {name} reads only such as "
            "are no positions of the image, like that of the class."
        )
    return found


def _images(
    opened: _Opened, heads: Heads, files: Sequence[Path], numbers: Sequence[int] | None, worst: int | None
) -> list[ChosenImage]:
    if opened.study is None:
        return from_files(files, opened.preprocessing)
    study = opened.study
    if numbers is None:
        assert worst is not None
        if worst > len(study.dataset):
            raise InputError(
                f"{study.dataset.name} {study.dataset.split} has only {len(study.dataset)} images, not {worst}."
            )
        losses = losses_of(heads.own, study.bank.features, study.labels, study.head.num_classes, study.device)
        numbers = study.in_split(losses.argsort(descending=True, stable=True)[:worst].tolist())
    return from_dataset(study, numbers)


def _check_targets(targets: Sequence[Path], files: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse to replace what must stay; the last target is the document."""
    inputs = {path.resolve() for path in files}
    for target in targets:
        if target.resolve() in inputs:
            raise InputError(
                f"{target} is one of the images that are to be explained; choose another {param('output')}."
            )
    check_replaceable(targets, targets[-1], overwrite=overwrite)


def _document(
    opened: _Opened,
    tensors: HeadTensors,
    inputs: Inputs,
    arguments: dict[str, Any],
    files: Sequence[Path],
    device: torch.device,
    results: ExplainResults,
    watch: Stopwatch,
) -> ResultDocument[ExplainResults]:
    if opened.study is not None:
        return opened.study.document("explain", arguments, results, watch)
    seen, classifier = opened.preprocessing, opened.classifier
    return ResultDocument(
        command="explain",
        arguments={**inputs.as_arguments(), **arguments},
        model=ModelInfo(
            name=classifier.name,
            num_classes=tensors.num_classes,
            num_features=tensors.num_features,
            head=tensors.name,
            options=dict(classifier.entry.chosen),
            weights=WeightsInfo(source=classifier.weights_source, sha256=classifier.weights_sha256),
        ),
        dataset=DatasetInfo(
            name="image files",
            split="",
            images=len(files),
            fingerprint=hashlib.sha256("".join(sha256_of(path) for path in files).encode()).hexdigest(),
            classes=list(opened.names),
            mean=list(seen.mean),
            std=list(seen.std),
            **seen.geometry(),
        ),
        environment=describe_environment(str(device), inputs.seed),
        started_at=watch.started_at,
        seconds=watch.seconds(),
        results=results,
    )


def _picture(explanation: Explanation, image: ChosenImage, maps: ImageMaps, seen: Preprocessing) -> Picture:
    """The image and its maps, with what each head says beside them."""
    panels = [Panel(f"Grad-CAM, predicted\n{explanation.predicted_name}", maps.predicted, signed=False)]
    if maps.true is not None:
        panels.append(Panel(f"Grad-CAM, true\n{explanation.label_name}", maps.true, signed=False))
    sums = explanation.sums
    if maps.own is not None and sums is not None:
        title = f"{len(sums.filters)} filters of {explanation.predicted_name}\n{sums.own:+.2f}"
        panels.append(Panel(title, maps.own, signed=True))
    if maps.others is not None and sums is not None and sums.others is not None:
        panels.append(Panel(f"all other filters\n{sums.others:+.2f}", maps.others, signed=True))
    lines = []
    for what, scores in (("full head", explanation.original), ("decomposed", explanation.decomposed)):
        if scores is not None:
            lines += [what, *(f"{100 * score.probability:5.1f}%  {score.name}" for score in scores), ""]
    wrong = f" (is {explanation.label_name})" if maps.true is not None else ""
    name = Path(explanation.shown).name
    title, whole = f"{name}: {explanation.predicted_name}{wrong}", None
    if image.whole is not None:
        title += f"\nas seen: {_pixels(seen.crop)}"
        whole = Whole(f"{name}\n{_pixels(image.size)}", image.whole, seen.seen_part(*image.size))
    return Picture(title, shown_levels(image.pixels), panels, lines[:-1], whole)


def _shown(panels: Sequence[Panel]) -> list[MapShown]:
    return [
        MapShown(what=panel.title.replace("\n", ": "), largest=largest, signed=panel.signed)
        for panel, largest in zip(panels, largest_values(panels), strict=True)
    ]


def _pixels(size: Size) -> str:
    return f"{size[0]}x{size[1]} pixels"
