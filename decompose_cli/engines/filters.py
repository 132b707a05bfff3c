"""``filters``: what the filters of a class respond to, and which other classes share them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field
from torch import Tensor
from typing_extensions import override

from decompose_cli.decomposition.beside import Beside, Neighbour, SharedFeature, beside, neighbours
from decompose_cli.decomposition.class_filters import check_images, class_filters, class_number, strength
from decompose_cli.decomposition.heads import check_index_request
from decompose_cli.decomposition.index_set import IndexSet, read_index_set
from decompose_cli.decomposition.sizes import check_filters
from decompose_cli.decomposition.strongest_images import FilterImage, seen_images, strongest_images
from decompose_cli.errors import InputError, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import Study
from decompose_cli.reporting.filter_plots import MOST_ROWS, FilterRow, Response, filter_sheet
from decompose_cli.reporting.findings import Findings, Row
from decompose_cli.storage.file_sets import Content, write_result
from decompose_cli.storage.names import RESULT
from decompose_cli.storage.result_document import ResultDocument, Stopwatch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHEET = "filters.png"


class FilterInfo(BaseModel):
    """One filter of the class.

    ``rank``: place, from 1, among the filters of the class by ``contribution``, weight times mean (in index files the
    order need not mean anything). ``weight``: weight in the class's head (null, as ``contribution``, where there is no
    head, and the mean on the class's images minus that on others ranks). ``mean``: mean of the feature over the images
    of the class, ``mean_elsewhere`` over all others (null where there are none). ``shared_with``: other classes that
    have the filter. ``images``: the images with its highest values, ``of_class`` of which are of the class. ``scale``:
    the lowest and the highest value of its colours in the picture, if it is there with its maps.
    """

    feature: int
    rank: int
    weight: float | None
    contribution: float | None
    mean: float | None
    mean_elsewhere: float | None
    shared_with: list[str]
    images: list[FilterImage]
    of_class: int
    scale: tuple[float, float] | None = None


class FiltersResults(Findings):
    """The filters of one class, the strongest first; ``sheet`` has pictures of the first 40.

    ``neighbours``: the classes whose features differ least from those of this class, at most 20. ``beside``: this class
    beside another, where one was named; ``others`` are the filters that the other class alone has.
    """

    class_number: int
    class_name: str
    indices: str
    filters: list[FilterInfo]
    neighbours: list[Neighbour] = Field(default_factory=list)
    beside: Beside | None = None
    others: list[FilterInfo] = Field(default_factory=list)
    sheet: str | None

    @override
    def tables(self) -> Mapping[str, list[Row]]:
        return {
            "filters": [one.model_dump(exclude={"images"}) for one in self.filters],
            "neighbours": [one.model_dump() for one in self.neighbours],
            "beside": [] if self.beside is None else [_row(one) for one in self.beside.features],
            "images": [{"feature": one.feature} | image.model_dump() for one in self.filters for image in one.images],
        }

    @override
    def drawn(self) -> Figure | None:
        return self.picture(SHEET)


@dataclass(frozen=True)
class FiltersSettings:
    """Which filters are shown, and how many images of each.

    Attributes:
        class_name: Name of the class, or its number.
        indices: The filters of each class; by default those with its k highest weights.
        k: Filters per class where ``indices`` says none; 5 by default.
        images: Number of images for each filter.
        against: Name or number of a class to set it beside.

    Raises:
        InputError: A number is out of range, or both ``indices`` and ``k`` say which filters.
    """

    class_name: str
    indices: Path | IndexSet | None = None
    k: int | None = None
    images: int = 8
    against: str | None = None

    def __post_init__(self) -> None:
        check_images(self.images)
        check_filters(self.indices, self.k)


def filters(inputs: Inputs, settings: FiltersSettings, *, folder: Path | None = None) -> ResultDocument[FiltersResults]:
    """Show the filters of a class by the images that they respond to most.

    Args:
        inputs: The network and the images (``test``, else ``val``).
        settings: Which class, and how it is shown.
        folder: Gets the PNG file ``filters.png`` with the strongest filters, at most 40, and the document as
            ``result.json``, both or none.

    Raises:
        InputError: Something given cannot be used.
    """
    watch = Stopwatch()
    wanted, indices, k, images = settings.class_name, settings.indices, settings.k, settings.images
    given = read_index_set(indices) if isinstance(indices, Path) else indices
    study = Study(inputs, ("test", "val"))
    check_index_request(study.classifier.checkpoint, given)
    c = class_number(wanted, study.class_map.names)
    other = None if settings.against is None else class_number(settings.against, study.class_map.names)
    if other == c:
        raise InputError(f"{param('against')} {settings.against} is the class itself; name another one.")
    lacks_head = study.classifier.lacks_head
    if given is None and lacks_head:
        raise InputError(
            f"filters needs {param('indices')} here: {study.classifier.name} was taken without a classifier, so no "
            "weights say which features a class has.",
            hint="'decompose extract-indices' chooses some, and 'decompose sparsify' fits a head.",
        )
    if other is not None and lacks_head:
        raise InputError(f"{param('against')} needs a head, and {study.classifier.name} was taken without one.")
    found = class_filters(study, given, k)
    rows, whole = found.rows, found.whole
    if not rows[c]:
        raise InputError(f"The class {study.class_map.names[c]} has no filters to show: its head is its bias alone.")
    features, labels, names = study.bank.features, study.labels, study.class_map.names
    sharers = _sharers(rows, c, whole)
    watched = _Watched(study, c, images, {feature: [names[n] for n in others] for feature, others in sharers.items()})
    infos = [watched.info(feature, weight) for feature, weight in zip(rows[c], found.weights_of(c), strict=True)]
    infos.sort(key=lambda info: strength(info.weight, info.mean, info.mean_elsewhere), reverse=True)
    for rank, info in enumerate(infos, 1):
        info.rank = rank
    compared, others = None, list[FilterInfo]()
    if other is not None:
        assert found.head is not None
        compared = beside(found.head, features, labels, c, other, names)
        others = [watched.info(one.feature, None) for one in compared.features if one.used_by == "second"]
        for rank, info in enumerate(others, 1):
            info.rank = rank
    pictures: dict[Path, Content] = {}
    if folder is not None:
        where = f"{study.dataset.name.rsplit('/', 1)[-1]} {study.dataset.split}"
        drawn = [*infos, *others][:MOST_ROWS]
        count = len(infos) + len(others)
        some = f", the first {len(drawn)} of {count}" if len(drawn) < count else ""
        title = f"Filters of {names[c]}: {study.classifier.name} on {where}{some}"
        alone = {info.feature: names[other] for info in others} if other is not None else {}
        sheet = filter_sheet(title, _pictures(study, drawn, c, alone))
        pictures[folder / SHEET] = sheet.content
        for info, boxes, scale in zip(drawn, sheet.boxes, sheet.scales, strict=True):
            info.scale = scale
            for image, box in zip(info.images, boxes, strict=True):
                image.box = box
    document = study.document(
        "filters",
        {
            "class": wanted,
            "against": settings.against,
            "indices": given.source if given is not None else None,
            "k": k,
            "images": images,
        },
        FiltersResults(
            class_number=c,
            class_name=names[c],
            indices=found.source,
            filters=infos,
            neighbours=neighbours(rows, c, names, whole),
            beside=compared,
            others=others,
            sheet=str(folder / SHEET) if folder is not None else None,
        ),
        watch,
    )
    if folder is not None:
        write_result(document, folder / RESULT, pictures)
    return document


@dataclass
class _Watched:
    """The images of a study, by what features make of them.

    Attributes:
        study: The network and the images.
        c: The class that is looked at.
        images: How many images of each feature are kept.
        sharers: Names of the other classes that have a feature of the class.
    """

    study: Study
    c: int
    images: int
    sharers: Mapping[int, list[str]]

    def info(self, feature: int, weight: float | None) -> FilterInfo:
        """What a feature responds to; without a weight of the class in its head what it gives is not known."""
        values, is_own = self.study.bank.features[:, feature], self.study.labels == self.c
        mean = _mean(values[is_own])
        images = strongest_images(self.study, values, self.images)
        return FilterInfo(
            feature=feature,
            rank=0,
            weight=weight,
            contribution=None if mean is None or weight is None else weight * mean,
            mean=mean,
            mean_elsewhere=_mean(values[~is_own]),
            shared_with=self.sharers.get(feature, []),
            images=images,
            of_class=sum(image.label == self.c for image in images),
        )


def _row(one: SharedFeature) -> Row:
    return {
        "feature": one.feature,
        "used_by": one.used_by,
        "weight_first": one.weights[0],
        "weight_second": one.weights[1],
        "to_first_on_first": one.to_first.first,
        "to_first_on_second": one.to_first.second,
        "to_second_on_first": one.to_second.first,
        "to_second_on_second": one.to_second.second,
        "apart": one.apart,
    }


def _sharers(rows: Sequence[Sequence[int]], c: int, whole: Collection[int]) -> dict[int, list[int]]:
    """For each filter of a class the other classes that have it, in their order.

    Classes that keep all features (``whole``) share none more than others, and are left out.
    """
    sharers: dict[int, list[int]] = {feature: [] for feature in rows[c]}
    for other, row in enumerate(rows):
        for feature in row if other != c and other not in whole else ():
            if feature in sharers:
                sharers[feature].append(other)
    return sharers


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None


def _pictures(study: Study, infos: list[FilterInfo], c: int, alone: Mapping[int, str]) -> list[FilterRow]:
    """The images of each filter, with its map where features are means of maps; each image runs once.

    ``alone`` says of filters that the class does not have whose they are.
    """
    numbers = {image.image for info in infos for image in info.images}
    seen = {one.number: one for one in seen_images(study, numbers, [info.feature for info in infos])}
    rows = []
    for place, info in enumerate(infos):
        responses = []
        for image in info.images:
            one = seen[image.image]
            title = f"{image.label_name} {image.value:.2f}"
            values = None if one.maps is None else one.maps[place]
            responses.append(Response(one.pixels, values, title, image.label == c))
        shared = f"shared with {', '.join(info.shared_with)}" if info.shared_with else "of this class alone"
        if info.feature in alone:
            shared = f"of {alone[info.feature]}, not of this class"
        weight = "" if info.weight is None else f"weight {info.weight:+.3f}\n"
        rows.append(FilterRow(f"{info.rank}. filter {info.feature}\n{weight}{shared}", responses))
    return rows
