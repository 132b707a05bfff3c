"""The results of a run, and of several with different seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, SerializeAsAny

from decompose_cli.training.records import EpochRecord, Score


class Measured(BaseModel):
    """The scores of the network after an epoch: on the images that chose the epoch, and on images it never saw."""

    epoch: int
    val: Score | None
    test: Score | None


class RunResults(BaseModel):
    """``best``: scores after the epoch with most held-out images correct; null where none are held out.

    ``checkpoints``: files, by ``last``, ``best`` and the formats that were exported. ``export_errors``: largest
    relative difference of logits between the exported program and the network.
    """

    seed: int
    epochs: list[EpochRecord]
    last: Measured
    best: Measured | None
    checkpoints: dict[str, str]
    export_errors: dict[str, float] = {}


class Spread(BaseModel):
    """How one number varies over several runs; ``std`` is the sample standard deviation."""

    what: str
    values: list[float]
    median: float
    min: float
    max: float
    mean: float
    std: float


class RepeatedResults(BaseModel):
    """The same training with several seeds."""

    runs: Sequence[SerializeAsAny[RunResults]]
    summary: list[Spread]


def spread(what: str, values: Sequence[float]) -> Spread:
    """Median, range, mean and standard deviation of at least two numbers."""
    return Spread(
        what=what,
        values=list(values),
        median=statistics.median(values),
        min=min(values),
        max=max(values),
        mean=statistics.fmean(values),
        std=statistics.stdev(values),
    )


def all_results(
    runs: Sequence[RunResults], figures: Mapping[str, Sequence[float | None]] | None = None
) -> RunResults | RepeatedResults:
    """The results of one run, or of several with the spread of their accuracies and of figures that all have."""
    if len(runs) == 1:
        return runs[0]
    spreads = []
    for which in ("last", "best"):
        for split in ("val", "test"):
            scores = [score for run in runs if (score := getattr(getattr(run, which), split, None)) is not None]
            if len(scores) == len(runs):
                spreads.append(spread(f"{which} {scores[0].split} top1", [score.top1 for score in scores]))
    for what, values in (figures or {}).items():
        known = [value for value in values if value is not None]
        if len(known) == len(runs):
            spreads.append(spread(what, known))
    return RepeatedResults(runs=runs, summary=spreads)
