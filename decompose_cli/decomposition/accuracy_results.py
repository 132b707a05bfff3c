"""What ``validate`` says in its result document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field
from typing_extensions import override

from decompose_cli.decomposition.calibration import Adjusted, AdjustedHead, HeadCalibration
from decompose_cli.decomposition.index_set import Layout
from decompose_cli.decomposition.reasons import Reason
from decompose_cli.decomposition.refitting import Refitting
from decompose_cli.decomposition.result_types import Difference, Gain
from decompose_cli.errors import InputError
from decompose_cli.reporting.findings import Findings, Row, accuracy_cells, difference_cells
from decompose_cli.reporting.study_plots import interval_figure, reliability_figure
from decompose_cli.reporting.style import WIDE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ClassAccuracy(BaseModel):
    """Images of one class, and how many a head gets right."""

    name: str
    correct: int
    total: int


class HeadAccuracy(BaseModel):
    """How one head does: ``top1``, its Wilson interval and ``top5`` in percent, ``loss`` as mean cross-entropy in nats.

    ``calibration`` says how far its probabilities are to be believed; null in results of before.

    ``confusion`` counts images by (true class, predicted class). ``top5`` is null for up to ten classes.
    """

    correct: int
    top1: float
    top1_ci95: tuple[float, float]
    top5: float | None
    loss: float
    per_class: list[ClassAccuracy]
    confusion: list[list[int]]
    calibration: HeadCalibration | None = None


class RefittedHead(HeadAccuracy):
    """The head of the same features with weights that were fitted anew, and how.

    ``difference``: this head minus the full head; ``gain``: this head minus the decomposed one, which keeps weights of
    the full head.
    """

    refitting: Refitting
    difference: Difference
    gain: Gain


class IndicesInfo(BaseModel):
    """The index set that was used; ``k`` is the smallest and largest number of features per class.

    ``features``: the features of each class, in the order of the set; null in results of before.
    """

    source: str
    sha256: str | None
    k: tuple[int, int]
    features: Layout | None = None


class Guess(BaseModel):
    """What a head takes an image for, and with which softmax probability."""

    predicted: int
    probability: float


class Mistake(BaseModel):
    """An image that a head gets wrong: its number in the split, from 0, its class, and each head's guess (or null).

    ``name``: its file, relative to the data set, where it has one. ``reasons``: of the head that gets it wrong, what
    does most to put the predicted class above its own.
    """

    image: int
    name: str | None = None
    label: int
    original: Guess | None
    decomposed: Guess | None
    reasons: list[Reason] = Field(default_factory=list)


class ValidateResults(Findings):
    """``original`` is null for a checkpoint that has no full head, ``decomposed`` is null without indices.

    ``refitted`` is null unless it was asked for.

    ``adjusted``: temperature and prediction sets, where these were asked for.

    ``mistakes``: up to 24 images that the decomposed head gets wrong, or the full one where that is all there is: first
    those that only the full head gets right, and of these and of the others the most confident errors first.
    """

    total: int
    original: HeadAccuracy | None
    decomposed: HeadAccuracy | None
    difference: Difference | None
    refitted: RefittedHead | None = None
    indices: IndicesInfo | None
    mistakes: list[Mistake] = Field(default_factory=list)
    adjusted: Adjusted | None = None

    @property
    def heads(self) -> dict[str, HeadAccuracy]:
        """The heads that were measured, by name."""
        found = {"full": self.original, "decomposed": self.decomposed, "refitted": self.refitted}
        return {name: head for name, head in found.items() if head is not None}

    @override
    def tables(self) -> Mapping[str, list[Row]]:
        compared = {
            "decomposed": self.difference,
            "refitted": None if self.refitted is None else self.refitted.difference,
        }
        return {
            "heads": [
                {"head": name}
                | accuracy_cells(head.correct, self.total, head.top1, head.top1_ci95)
                | {"loss": head.loss, "top5": head.top5}
                for name, head in self.heads.items()
            ],
            "calibration": [
                {"head": name} | head.calibration.model_dump(include={"ece", "brier", "nll"})
                for name, head in self.heads.items()
                if head.calibration is not None
            ],
            "adjusted": []
            if self.adjusted is None
            else [_adjusted(name, one) for name, one in self.adjusted.heads.items()],
            "differences": [
                {"head": name, "versus": "full"} | difference_cells(one.points, one.ci95, one.mcnemar_p)
                for name, one in compared.items()
                if one is not None
            ],
            "classes": [
                {"head": name, "class": row.name, "correct": row.correct, "total": row.total}
                for name, head in self.heads.items()
                for row in head.per_class
            ],
            "mistakes": [
                {
                    "image": one.image,
                    "name": one.name,
                    "label": self.called(one.label),
                    **{
                        f"{name} {what}": value
                        for name, guess in (("full", one.original), ("decomposed", one.decomposed))
                        if guess is not None
                        for what, value in (
                            ("predicted", self.called(guess.predicted)),
                            ("probability", guess.probability),
                        )
                    },
                }
                for one in self.mistakes
            ],
        }

    def reliability(self, width: float = WIDE) -> Figure:
        """How often each head is right at each confidence, in 15 bins of as many images each.

        Args:
            width: Of the figure, in inches.

        Raises:
            InputError: The results are of an earlier version, which did not say it.
        """
        found = {name: head.calibration for name, head in self.heads.items()}
        curves = {
            name: [(one.confidence, one.accuracy, one.images) for one in known.bins]
            for name, known in found.items()
            if known is not None
        }
        if not curves:
            raise InputError("These results do not say how well the heads are calibrated.")
        return reliability_figure(curves, width)

    @override
    def drawn(self) -> Figure | None:
        rows = [(name, head.top1, head.top1_ci95) for name, head in self.heads.items()]
        return interval_figure("top-1 accuracy (%), with 95% interval", rows)


def _adjusted(name: str, one: AdjustedHead) -> Row:
    row: Row = {"head": name, "ece": one.before.ece, "nll": one.before.nll}
    if one.after is not None:
        row |= {"temperature": one.temperature, "ece after": one.after.ece, "nll after": one.after.nll}
    if one.sets is not None:
        low, high = one.sets.coverage_ci95
        row |= {"coverage": one.sets.coverage, "low": low, "high": high, "mean_size": one.sets.mean_size}
    return row
