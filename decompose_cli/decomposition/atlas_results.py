"""What ``atlas`` says in its result document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel
from typing_extensions import override

from decompose_cli.decomposition.metrics import Predictions, changes_by_class, compare
from decompose_cli.decomposition.result_types import ClassLoss, Paired, Point, by_class
from decompose_cli.decomposition.strongest_images import FilterImage
from decompose_cli.reporting.atlas_sheet import SHEET
from decompose_cli.reporting.findings import Findings, Row, difference_cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FeatureUse(BaseModel):
    """A class that uses a feature.

    ``rank``: place, from 1, of the feature among those of the class by ``contribution``, its weight times the mean of
    the feature over the images of the class; by weight where the class has no images, and ``contribution`` is null.
    """

    class_number: int
    class_name: str
    weight: float
    rank: int
    contribution: float | None


class LeftOut(Paired):
    """The head without a feature minus the head as it stands, in points, image by image, as :class:`.Difference`.

    ``correct``: images that are right without it. ``classes``: those of which more or fewer are right.
    """

    correct: int
    points: float
    ci95: tuple[float, float]
    mcnemar_p: float
    only_with_correct: int
    only_without_correct: int
    classes: list[ClassLoss]


class AtlasFeature(BaseModel):
    """A feature that at least one class uses.

    ``used_by``: the classes that do, those that it gives most first. ``lost``: what changes where it alone is left out
    of all of them. ``selectivity``: its class selectivity index over the test images, 0 to 1; null where the feature is
    negative somewhere, or where there are images of fewer than two classes. ``images``: those with its highest values,
    ``of_users`` of which are of classes that use it.
    """

    feature: int
    used_by: list[FeatureUse]
    lost: LeftOut
    selectivity: float | None
    images: list[FilterImage]
    of_users: int


class AtlasResults(Findings):
    """The features that classes use, those first whose loss costs most.

    ``total``: number of test images. ``head``: what the head gets right with all features. ``classes``: the classes
    whose features these are, where some were chosen. ``kept_whole``: classes that keep all features for want of images;
    no feature is left out of them. ``sheet``: a picture with a row for each feature, in their order.
    """

    total: int
    head: Point
    indices: str
    classes: list[str] | None
    kept_whole: list[str]
    features: list[AtlasFeature]
    sheet: str | None

    @override
    def tables(self) -> Mapping[str, list[Row]]:
        return {
            "features": [_row(one) for one in self.features],
            "classes": [{"feature": one.feature} | use.model_dump() for one in self.features for use in one.used_by],
            "lost": [
                {"feature": one.feature, "class": self.called(lost.number)} | lost.model_dump(exclude={"number"})
                for one in self.features
                for lost in one.lost.classes
            ],
            "images": [{"feature": one.feature} | image.model_dump() for one in self.features for image in one.images],
        }

    @override
    def drawn(self) -> Figure | None:
        return self.picture(SHEET)


def left_out_of(whole: Predictions, without: Predictions) -> LeftOut:
    """Compare a head without a feature with the head as it stands, on the same images."""
    found = compare(whole, without)
    changes = [change for change in changes_by_class(whole, without) if change.after != change.before]
    return LeftOut(
        **by_class(whole, without),
        correct=without.correct,
        points=found.points,
        ci95=found.ci95,
        mcnemar_p=found.mcnemar_p,
        only_with_correct=found.only_first,
        only_without_correct=found.only_second,
        classes=[ClassLoss(**vars(change)) for change in changes],
    )


def _row(one: AtlasFeature) -> Row:
    lost = one.lost
    return {
        "feature": one.feature,
        "used_by": [use.class_name for use in one.used_by],
        "correct_without": lost.correct,
        **difference_cells(lost.points, lost.ci95, lost.mcnemar_p),
        "selectivity": one.selectivity,
        "of_users": one.of_users,
    }
