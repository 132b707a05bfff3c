"""What ``sparsify`` says in its result document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel
from typing_extensions import override

from decompose_cli.decomposition.choosing import ChosenOn
from decompose_cli.decomposition.index_set import Layout
from decompose_cli.decomposition.metrics import Predictions, compare
from decompose_cli.decomposition.result_types import Paired, Point, by_class
from decompose_cli.decomposition.sparse_heads import SparseHead
from decompose_cli.reporting.findings import Findings, Row, accuracy_cells, difference_cells
from decompose_cli.reporting.plots import Curve, accuracy_figure
from decompose_cli.sparse.elastic_net import Path
from decompose_cli.sparse.measures import Measures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Versus(Paired):
    """A sparse head minus a baseline on the same test images: points, 95% interval, exact McNemar p."""

    points: float
    ci95: tuple[float, float]
    mcnemar_p: float
    only_baseline_correct: int
    only_sparse_correct: int


class SearchedOn(ChosenOn):
    """The images on which methods and strengths were chosen.

    ``searched``: training images on which the chosen method looked for features. ``fitted_in_the_end``: those on which
    the final weights were fitted: all, or of very many a part drawn by class; null in results of before, for all.
    ``chosen``: what was chosen: ``method``,
    ``strength``, ``k``; none where all of it was given.
    """

    searched: int
    fitted_in_the_end: int | None = None
    chosen: list[str]


class Baseline(BaseModel):
    """The full head fitted anew in the same way: its accuracy on the test images, and the strength it has.

    ``versus_original`` is null for features that came without a head.
    """

    point: Point
    l2: float
    versus_original: Versus | None


class Tried(BaseModel):
    """A method at one k on the choosing images: right ones, mean cross-entropy, and the strength that was chosen.

    ``l2`` is null for published cuts, which are not fitted anew.
    """

    method: str
    correct: int
    loss: float
    l2: float | None


class Shared(BaseModel):
    """The smallest, the mean and the largest number of classes that use a feature which is used at all."""

    min: int
    mean: float
    max: int


class OneDifference(BaseModel):
    """Two classes that differ in one feature: their numbers, and the feature that only the first, the second has."""

    classes: tuple[int, int]
    features: tuple[int, int]


class SparseMeasures(BaseModel):
    """The field's measures beside accuracy, over the features in use; null where one is not defined.

    ``sid5`` is of the images that are reported on and needs maps; the others are of training images.
    """

    features_used: int
    classes_per_feature: Shared | None
    class_independence: float | None
    contrastiveness: float | None
    correlation: float | None
    sid5: float | None
    one_difference: int
    pairs: list[OneDifference]


class Sparse(BaseModel):
    """A sparse head: its accuracy on the test images, and what it was compared with.

    ``cut``: the same features with the weights of the full head, and its bias. ``candidates``: every method that was
    tried, best first. ``weights``: per class the weights on standardised features, in the order of ``indices``;
    ``biases`` beside them. ``scale``: the one size of ternary and binary weights. ``bias_alone``: classes without any
    feature; ``kept_whole``: classes without training images, which keep their rows of the full head.
    """

    method: str
    k: int
    values: str
    l2: float | None
    point: Point
    loss: float
    cut: Point
    versus_original: Versus | None
    versus_refitted: Versus
    features: int
    features_per_class: tuple[int, int]
    bias_alone: list[int]
    kept_whole: list[int]
    indices: Layout
    weights: dict[str, list[float]]
    biases: list[float]
    scale: float | None
    measures: SparseMeasures
    checkpoint: str | None
    candidates: list[Tried]


class PathRow(BaseModel):
    """A point of the elastic-net path: strength, mean cross-entropy, objective, its certificate, weights.

    The objective is at most ``gap`` above its minimum; ``relative_gap`` is that as a share of the objective.
    """

    strength: float
    loss: float
    objective: float
    gap: float
    relative_gap: float
    weights: int


class Few(BaseModel):
    """Accuracy in percent at 5, 10, 15, 20, 25, 30 features per class (null above D), and the mean of those."""

    accuracy: dict[str, float | None]
    mean: float | None


class Nec(BaseModel):
    """NEC accuracy: of the elastic-net path (point nearest the mean number), and of these heads at exactly k.

    ``means``: the mean numbers of features per class that the points of the path have; where that is more than a tenth
    off, as where the path ends before, the accuracy is null.
    """

    elastic_net: Few
    sparse: Few
    means: dict[str, float]


class Smallest(BaseModel):
    """The smallest k whose one-sided 95% bound of the loss on the choosing images is within ``max_drop`` points.

    ``max_class_drop``: the same of each class alone, all together with 95%; ``tried_by_class`` has the largest of them.

    ``tried``: the bounds by k, against the full head fitted anew on the same images.
    """

    max_drop: float
    k: int
    tried: dict[str, float]
    max_class_drop: float | None = None
    tried_by_class: dict[str, float] | None = None


class SparsifyResults(Findings):
    """``original``: the full head; ``refitted``: the full head fitted anew; ``heads``: sparse heads by k.

    All figures but those under ``candidates``, ``measures``, ``path`` and ``smallest`` are of the test images, which
    chose nothing. ``original`` is null for features that came without a head. ``path`` is there where the elastic-net
    path was computed, on the training images.
    """

    total: int
    original: Point | None
    refitted: Baseline
    chosen_on: SearchedOn
    heads: dict[str, Sparse]
    smallest: Smallest | None = None
    nec: Nec | None = None
    path: list[PathRow] | None = None
    locality: bool | None = None
    feature_names: list[str] | None = None

    @override
    def tables(self) -> Mapping[str, list[Row]]:
        named = [("full", None, self.original), ("refitted", None, self.refitted.point)]
        points = [*named, *((one.method, one, one.point) for one in self.heads.values())]
        return {
            "heads": [
                {"head": name, "k": None if one is None else one.k}
                | accuracy_cells(point.correct, self.total, point.top1, point.top1_ci95)
                | ({} if one is None else {"values": one.values, "l2": one.l2, "cut": one.cut.correct})
                for name, one, point in points
                if point is not None
            ],
            "differences": [
                {"head": one.method, "k": one.k, "versus": versus} | difference_cells(v.points, v.ci95, v.mcnemar_p)
                for one in self.heads.values()
                for versus, v in (("full", one.versus_original), ("refitted", one.versus_refitted))
                if v is not None
            ],
            "candidates": [
                {"k": one.k} | tried.model_dump() for one in self.heads.values() for tried in one.candidates
            ],
            "weights": [
                {"k": one.k, "class": self.called(number), "feature": feature, "weight": weight}
                for one in self.heads.values()
                for number, row in one.indices.items()
                if row != "all"
                for feature, weight in zip(row, one.weights[number], strict=True)
            ],
        }

    @override
    def drawn(self) -> Figure | None:
        cut, fitted = (
            Curve(
                [one.k for one in self.heads.values()],
                [point.top1 for point in points],
                [point.top1_ci95[0] for point in points],
                [point.top1_ci95[1] for point in points],
                is_line=len(points) > 1,
            )
            for points in ([one.cut for one in self.heads.values()], [one.point for one in self.heads.values()])
        )
        full = None if self.original is None else self.original.top1
        curves = {"the same features, cut from the full head": cut, "sparse head": fitted}
        anew = {"full head, fitted anew": (self.refitted.point.top1, self.refitted.point.top1_ci95)}
        return accuracy_figure("A few features per class, chosen and fitted anew", curves, full, levels=anew)


def versus(baseline: Predictions, head: Predictions) -> Versus:
    """Compare a head with a baseline."""
    found = compare(baseline, head)
    return Versus(
        **by_class(baseline, head),
        points=found.points,
        ci95=found.ci95,
        mcnemar_p=found.mcnemar_p,
        only_baseline_correct=found.only_first,
        only_sparse_correct=found.only_second,
    )


def measures_of(found: Measures) -> SparseMeasures:
    """Measures as results hold them."""
    spread = found.classes_per_feature
    return SparseMeasures(
        features_used=found.features_used,
        classes_per_feature=None if spread is None else Shared(min=spread.min, mean=spread.mean, max=spread.max),
        class_independence=found.class_independence,
        contrastiveness=found.contrastiveness,
        correlation=found.correlation,
        sid5=found.sid5,
        one_difference=found.one_difference,
        pairs=[OneDifference(classes=pair.classes, features=pair.features) for pair in found.pairs],
    )


def rows_of(path: Path) -> list[PathRow]:
    """The points of a path as results hold them."""
    return [
        PathRow(
            strength=point.strength,
            loss=point.loss,
            objective=point.objective,
            gap=point.gap,
            relative_gap=point.relative_gap,
            weights=point.weights,
        )
        for point in path.points
    ]


def weights_of(head: SparseHead) -> dict[str, list[float]]:
    """Per class its weights on standardised features, in the order of its features; of whole classes none."""
    on_z, index_set = head.on_z, head.index_set
    rows = ((number, () if number in index_set.whole else row) for number, row in enumerate(index_set.classes))
    return {str(number): on_z[number, list(row)].tolist() for number, row in rows}
