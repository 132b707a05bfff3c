"""Small fits take one thread, and leave the number of threads as it was."""

from __future__ import annotations

import pytest
import torch

from decompose_cli.sparse import threads
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.threads import in_few_threads


def test_small_fits_run_alone_and_large_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        problem = Problem(torch.randn(20, 3), torch.arange(20) % 2, 2)
        seen = []

        @in_few_threads
        def fit(problem: Problem, *, fails: bool = False) -> int:
            seen.append(torch.get_num_threads())
            if fails:
                raise ValueError("it failed")
            return problem.num_classes

        assert fit(problem) == 2
        with pytest.raises(ValueError, match="it failed"):
            fit(problem, fails=True)
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(threads, "_ALONE", 1)
        fit(problem)
        assert seen == [1, 1, 2]
    finally:
        torch.set_num_threads(before)
