"""Progress of searches, where they take long."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from decompose_cli.messages import Advance, track
from decompose_cli.sparse.problem import Problem

_LONG = 1 << 30  # N D C from which a step of a search takes seconds


def track_long(problem: Problem, description: str, total: int, unit: str) -> AbstractContextManager[Advance]:
    """Follow a loop of a search on a large problem; on a small one, which is over in a moment, show nothing."""
    if problem.features.numel() * problem.num_classes < _LONG:
        return nullcontext(lambda _: None)
    return track(description, total, unit)
