"""How many threads of the processor a fit takes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from decompose_cli.sparse.problem import Problem

_ALONE = 1 << 27  # N D C: 200,000 images of 64 features, 10 classes

Fit = TypeVar("Fit", bound=Callable[..., Any])


def in_few_threads(fit: Fit) -> Fit:
    """Run a fit, whose first argument is the problem, in one thread where that is small.

    Its thousands of operations are over in less time than threads take to meet, and where other programs are at work
    they wait for each other at every one: ten times as long in all.
    """

    @functools.wraps(fit)
    def run(problem: Problem, *args: Any, **more: Any) -> Any:
        with few_threads(problem.features, problem.num_classes):
            return fit(problem, *args, **more)

    return cast(Fit, run)


@contextmanager
def few_threads(features: Tensor, num_classes: int) -> Iterator[None]:
    """One thread for a block, where features (N, D) and classes are few."""
    if features.numel() * num_classes > _ALONE:
        yield
        return
    with one_thread():
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for the operators of a block, such as those on one class of many, which take a millisecond each."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
