"""What ``finetune`` says in its result document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from typing_extensions import override

from decompose_cli.decomposition.refitting import Refitting
from decompose_cli.decomposition.result_types import Difference
from decompose_cli.reporting.findings import Findings, Row, difference_cells
from decompose_cli.reporting.training_plots import training_figure
from decompose_cli.training.full_head_control import Control
from decompose_cli.training.outcome import RunResults, Spread
from decompose_cli.training.records import EpochRecord, Score, curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class FinetuneResults(RunResults, Findings):
    """``original``: the full head (null where the checkpoint has none); ``before``: decomposed, not yet trained.

    ``new_head``: how the full head was fitted, where it is new; ``original`` is then with it.

    ``cut``: the same features with the weights of the full head, where ``before`` has others: those of ``refitting``.

    ``after``: the network of ``checkpoints``, ``best`` if there is one, else ``last``. ``difference``: after minus
    original. All figures are of the same test images, which chose nothing. ``features_per_class``: smallest and largest
    number. ``control``: the full head trained by the same schedule, where that was asked for.
    """

    original: Score | None
    new_head: Refitting | None = None
    cut: Score | None = None
    refitting: Refitting | None = None
    before: Score
    after: Score
    difference: Difference | None
    indices: str
    features_per_class: tuple[int, int]
    control: Control | None = None

    @override
    def tables(self) -> Mapping[str, list[Row]]:
        scores = {"full": self.original, "cut": self.cut, "before": self.before, "after": self.after}
        differences = {("after", "full"): self.difference}
        if self.control is not None:
            scores["full, trained"] = self.control.score
            differences |= {
                ("full, trained", "full"): self.control.gain,
                ("after", "full, trained"): self.control.versus,
            }
        return {
            "heads": [
                {"head": name, "correct": score.correct, "total": score.images, "top1": score.top1, "loss": score.loss}
                for name, score in scores.items()
                if score is not None
            ],
            "differences": [
                {"head": head, "versus": versus} | difference_cells(one.points, one.ci95, one.mcnemar_p)
                for (head, versus), one in differences.items()
                if one is not None
            ],
            "epochs": [record.flat() for record in self.epochs],
        }

    @override
    def drawn(self) -> Figure | None:
        return _curves(self.epochs)


class RepeatedFinetuning(Findings):
    """The same fine-tuning with several seeds."""

    runs: list[FinetuneResults]
    summary: list[Spread]

    @override
    def tables(self) -> Mapping[str, list[Row]]:
        return {
            "heads": [{"seed": run.seed} | row for run in self.runs for row in run.tables()["heads"]],
            "summary": [one.model_dump(exclude={"values"}) for one in self.summary],
        }

    @override
    def drawn(self) -> Figure | None:
        return _curves(self.runs[0].epochs)


AnyFinetuning = FinetuneResults | RepeatedFinetuning


def _curves(epochs: Sequence[EpochRecord]) -> Figure:
    return training_figure("finetune", **curves(epochs))
