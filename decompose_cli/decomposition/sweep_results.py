"""What ``sweep`` says in its result document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field
from typing_extensions import override

from decompose_cli.decomposition.random_rankings import RandomRankings
from decompose_cli.decomposition.ranking import RANKINGS
from decompose_cli.decomposition.refitting import Refitting
from decompose_cli.decomposition.result_types import ClassLoss, Difference, Point
from decompose_cli.decomposition.smallest import Chosen
from decompose_cli.features.labelled import Order
from decompose_cli.reporting.findings import Findings, Row, accuracy_cells, difference_cells
from decompose_cli.reporting.plots import Curve, accuracy_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class CurvePoint(Point):
    """``worst_class``: the class that loses most against the full head, or null; also in results of before."""

    worst_class: ClassLoss | None = None


class RefittedPoint(Point):
    """``difference``: the refitted head minus the full head, on the same images."""

    difference: Difference


class SweepResults(Findings):
    """``curves``: by method, name of an index file, or ``own head`` for that of a sparse checkpoint, then by k.

    ``random``: heads of features that were drawn at random; null where no ranking was asked for that cuts the
    full head.

    ``refitted``: the same features with weights that were fitted anew, where asked for. ``refitting``: how; it also
    holds for methods that choose features by fits. ``searched``: of more than 100,000 training images those that such
    methods look at, drawn by class; null where they look at all, or none was asked for. ``chosen``: null if not asked
    for, or out of reach.
    """

    total: int
    original: Point
    curves: dict[str, dict[str, CurvePoint]]
    refitted: dict[str, dict[str, RefittedPoint]] = Field(default_factory=dict)
    random: RandomRankings | None = None
    refitting: Refitting | None = None
    searched: int | None = None
    chosen: Chosen | None
    plot: str | None

    @override
    def tables(self) -> Mapping[str, list[Row]]:
        curves = [
            {"method": name, "weights": weights, "k": k}
            | accuracy_cells(point.correct, self.total, point.top1, point.top1_ci95)
            | self._worst(point)
            for weights, found in (("cut", self.curves), ("refitted", self.refitted))
            for name, points in found.items()
            for k, point in points.items()
        ]
        losses = [] if self.chosen is None else [self.chosen.chosen_on, self.chosen.reported_on]
        return {
            "curves": curves,
            "random": []
            if self.random is None
            else [{"k": k} | drawn.model_dump() for k, drawn in self.random.by_k.items()],
            "chosen": [
                {"split": one.split, "full": one.full_correct, "correct": one.correct, "total": one.total}
                | difference_cells(one.points, one.ci95, one.mcnemar_p)
                for one in losses
            ],
        }

    def _worst(self, point: CurvePoint | RefittedPoint) -> Row:
        """The class that loses most, and by how many points."""
        worst = point.worst_class if isinstance(point, CurvePoint) else point.difference.worst_class
        if worst is None:
            return {"worst_class": None, "worst_points": None}
        return {"worst_class": self.called(worst.number), "worst_points": worst.points}

    @override
    def drawn(self) -> Figure | None:
        document = self._document
        title = "Accuracy with k features per class"
        if document is not None and document.model is not None and document.dataset is not None:
            title = f"{document.model.name} on {document.dataset.name} {document.dataset.split}"
        return self.curves_drawn(title)

    def curves_drawn(self, title: str, order: Order = "highest") -> Figure:
        """The curves in one plot, under this title; rankings by gates say which gates they take."""
        shown = {
            name: f"{name} ({order} gates)" if name in RANKINGS and RANKINGS[name].needs_gates else name
            for name in self.curves
        }
        cut, anew = (
            {shown[name]: curve_of(name, points) for name, points in found.items()}
            for found in (self.curves, self.refitted)
        )
        chosen = self.chosen.k if self.chosen is not None else None
        return accuracy_figure(title, cut, self.original.top1, chosen, anew, floor=self.floor)

    @property
    def floor(self) -> Curve | None:
        """Accuracy of features that were drawn at random: the mean, and the range as the ends."""
        return floor_of(self.random)


def floor_of(random: RandomRankings | None) -> Curve | None:
    """The curve of features that were drawn at random, with the range as the ends; None without any."""
    if random is None:
        return None
    ks, values = [int(k) for k in random.by_k], list(random.by_k.values())
    return Curve(ks, [one.mean for one in values], [one.min for one in values], [one.max for one in values])


def curve_of(name: str, points: Mapping[str, Point]) -> Curve:
    """The curve of a ranking, a line, or of index files, points; a set with several sizes stands at the largest."""
    by_k = sorted(((int(k.rpartition("-")[2]), point) for k, point in points.items()), key=lambda pair: pair[0])
    ks, values = [k for k, _ in by_k], [point for _, point in by_k]
    low, high = ([p.top1_ci95[end] for p in values] for end in (0, 1))
    return Curve(ks, [p.top1 for p in values], low, high, is_line=name in RANKINGS)
