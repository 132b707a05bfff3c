"""``atlas``: each feature that classes use: what it responds to, who uses it, and what is lost without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from decompose_cli.decomposition.atlas_results import AtlasFeature, AtlasResults, FeatureUse, left_out_of
from decompose_cli.decomposition.class_filters import (
    ClassFilters,
    check_images,
    class_filters,
    class_number,
    strength,
)
from decompose_cli.decomposition.heads import check_index_request
from decompose_cli.decomposition.index_set import IndexSet, read_index_set
from decompose_cli.decomposition.left_out import leave_out_each
from decompose_cli.decomposition.result_types import point_of
from decompose_cli.decomposition.scores import class_sums
from decompose_cli.decomposition.selectivity import selectivity_by_filter
from decompose_cli.decomposition.sizes import check_filters
from decompose_cli.decomposition.strongest_images import seen_images, strongest_images
from decompose_cli.errors import InputError, param
from decompose_cli.features.blocks import in_blocks
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import Study
from decompose_cli.models.backbones import no_head
from decompose_cli.models.maps import firing_square
from decompose_cli.reporting.atlas_sheet import SHEET, AtlasSheet
from decompose_cli.storage.file_sets import Content, write_result
from decompose_cli.storage.names import RESULT
from decompose_cli.storage.result_document import ResultDocument, Stopwatch

MOST_FEATURES = 300
"""Features in one atlas; nobody looks at more rows."""
DEFAULT_IMAGES = 9


@dataclass(frozen=True)
class AtlasSettings:
    """Whose features are looked at, and by how many images.

    Attributes:
        indices: The features of each class; by default those with its k highest weights, or those of a decomposed head.
        k: Features per class where ``indices`` says none; 5 by default.
        classes: Names or numbers of the classes whose features are looked at; by default all.
        images: Number of images for each feature.

    Raises:
        InputError: A number is out of range, or both ``indices`` and ``k`` say which features.
    """

    indices: Path | IndexSet | None = None
    k: int | None = None
    classes: Sequence[str] = ()
    images: int = DEFAULT_IMAGES

    def __post_init__(self) -> None:
        check_images(self.images)
        check_filters(self.indices, self.k)


def atlas(
    inputs: Inputs, settings: AtlasSettings | None = None, *, folder: Path | None = None
) -> ResultDocument[AtlasResults]:
    """Look at each feature that classes use: its images, its classes, its selectivity, and what is lost without it.

    Args:
        inputs: The network and the images (``test``, else ``val``).
        settings: Which features, and how many images of each.
        folder: Gets the PNG file ``atlas.png``, with a row for each feature, and the document as ``result.json``, both
            or none.

    Raises:
        InputError: Something given cannot be used, or there are more than 300 features.
    """
    document, contents = atlas_contents(inputs, settings or AtlasSettings(), folder)
    if folder is not None:
        write_result(document, folder / RESULT, contents)
    return document


def atlas_contents(
    inputs: Inputs, settings: AtlasSettings, folder: Path | None
) -> tuple[ResultDocument[AtlasResults], dict[Path, Content]]:
    """What :func:`atlas` writes, without writing it: the document, and what comes into the files beside it.

    Args:
        inputs: The network and the images.
        settings: Which features, and how many images of each.
        folder: Where the files are going to be; without it there are none.

    Raises:
        InputError: As :func:`atlas` says.
    """
    watch = Stopwatch()
    given = read_index_set(settings.indices) if isinstance(settings.indices, Path) else settings.indices
    study = Study(inputs, ("test", "val"))
    check_index_request(study.classifier.checkpoint, given)
    if study.classifier.lacks_head:
        raise no_head("atlas", study.classifier.name)
    names = study.class_map.names
    chosen = list(dict.fromkeys(class_number(wanted, names) for wanted in settings.classes))
    found = class_filters(study, given, settings.k)
    users = _users(found, _wanted(found, chosen, names))
    results = _looked_at(study, found, users, settings.images)
    results.classes = [names[c] for c in chosen] or None
    if folder is not None:
        results.sheet = str(folder / SHEET)
    arguments = {
        "class": list(settings.classes),
        "indices": given.source if given is not None else None,
        "k": settings.k,
        "images": settings.images,
    }
    contents: dict[Path, Content] = {} if folder is None else {folder / SHEET: _sheet(study, results.features)}
    return study.document("atlas", arguments, results, watch), contents


def _wanted(found: ClassFilters, chosen: Sequence[int], names: Sequence[str]) -> list[int]:
    """The features that the chosen classes, or all, have of their own, in ascending order."""
    for c in chosen:
        if c in found.whole:
            raise InputError(f"The class {names[c]} keeps all features, as it has no training images.")
        if not found.rows[c]:
            raise InputError(f"The class {names[c]} has no features to show: its head is its bias alone.")
    classes = chosen or [c for c in range(len(found.rows)) if c not in found.whole]
    features = sorted({feature for c in classes for feature in found.rows[c]})
    if not features:
        raise InputError(f"{found.source} gives no class features of its own, so there are none to show.")
    if len(features) > MOST_FEATURES:
        fewer = "fewer classes" if chosen else "classes"
        raise InputError(
            f"These classes use {len(features):,} features, and an atlas shows at most {MOST_FEATURES}; choose {fewer} "
            f"with {param('class')}."
        )
    return features


def _users(found: ClassFilters, features: Sequence[int]) -> dict[int, dict[int, float]]:
    """For each feature the classes that have it among others of their choice, with its weight."""
    users: dict[int, dict[int, float]] = {feature: {} for feature in features}
    for c, row in enumerate(found.rows):
        if c in found.whole:
            continue
        for feature, weight in zip(row, found.weights_of(c), strict=True):
            if feature in users and weight is not None:
                users[feature][c] = weight
    return users


def _looked_at(study: Study, found: ClassFilters, users: Mapping[int, Mapping[int, float]], count: int) -> AtlasResults:
    """What there is to say of each feature."""
    features, labels, names = study.bank.features, study.labels, study.class_map.names
    assert found.head is not None
    images = torch.bincount(labels, minlength=len(names))
    sums = class_sums(features, labels, len(names), device=study.device)
    uses = _uses(found, users, sums / images[:, None], names)
    values = _columns(features, list(users))
    selectivities = selectivity_by_filter(sums[:, list(users)], images)
    without = leave_out_each(found.head, features, labels, users, study.device)
    infos = []
    for place, (feature, by_class) in enumerate(users.items()):
        strongest = strongest_images(study, values[place], count)
        is_defined = selectivities is not None and float(values[place].min()) >= 0
        infos.append(
            AtlasFeature(
                feature=feature,
                used_by=uses[feature],
                lost=left_out_of(without.whole, without.feature(feature)),
                selectivity=float(selectivities[place]) if is_defined and selectivities is not None else None,
                images=strongest,
                of_users=sum(image.label in by_class for image in strongest),
            )
        )
    infos.sort(key=lambda info: (info.lost.correct, info.feature))
    return AtlasResults(
        total=without.whole.total,
        head=point_of(without.whole),
        indices=found.source,
        classes=None,
        kept_whole=[names[c] for c in sorted(found.whole)],
        features=infos,
        sheet=None,
    )


def _columns(features: Tensor, wanted: Sequence[int]) -> Tensor:
    """The values (F, N) of some features, which are read once from the first image to the last."""
    values = torch.empty(len(wanted), len(features))
    for rows, block in in_blocks(features):
        values[:, rows] = block[:, list(wanted)].t().float()
    return values


def _uses(
    found: ClassFilters, users: Mapping[int, Mapping[int, float]], means: Tensor, names: Sequence[str]
) -> dict[int, list[FeatureUse]]:
    """The classes that use each feature, those that it gives most first.

    Args:
        found: The features of each class.
        users: The features that are looked at, with the weights of the classes that use them.
        means: Means (C, D) of the features over the images of each class; NaN for one without images.
        names: Names of the classes.
    """
    uses: dict[int, list[tuple[float, FeatureUse]]] = {feature: [] for feature in users}
    for c in sorted({c for by_class in users.values() for c in by_class}):
        has_images = not bool(means[c].isnan().any())
        row_means = means[c, list(found.rows[c])].tolist() if has_images else [None] * len(found.rows[c])
        rated = [
            (strength(weight, mean), feature, weight)
            for feature, weight, mean in zip(found.rows[c], found.weights_of(c), row_means, strict=True)
            if weight is not None
        ]
        rated.sort(key=lambda one: one[0], reverse=True)
        for rank, (gain, feature, weight) in enumerate(rated, 1):
            if feature in uses:
                use = FeatureUse(
                    class_number=c,
                    class_name=names[c],
                    weight=weight,
                    rank=rank,
                    contribution=gain if has_images else None,
                )
                uses[feature].append((gain, use))
    return {
        feature: [use for _, use in sorted(rated, key=lambda one: (-one[0], one[1].class_number))]
        for feature, rated in uses.items()
    }


def _sheet(study: Study, infos: Sequence[AtlasFeature]) -> bytes:
    """The picture of all features: the part of each image where the feature fires; each image runs once."""
    places: dict[int, list[tuple[int, int]]] = {}
    for row, info in enumerate(infos):
        for column, image in enumerate(info.images):
            places.setdefault(image.image, []).append((row, column))
    sheet = AtlasSheet([info.feature for info in infos], max(len(info.images) for info in infos))
    for seen in seen_images(study, places.keys(), [info.feature for info in infos]):
        for row, column in places[seen.number]:
            height, width = seen.pixels.shape[1:]
            part = None if seen.maps is None else firing_square(seen.maps[row], height, width)
            sheet.put(row, column, seen.pixels, part)
    return sheet.png()
