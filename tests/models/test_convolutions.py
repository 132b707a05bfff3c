"""Switches of cuDNN: set for as long as they are needed, put back, and no other one touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from decompose_cli.models.convolutions import fastest_algorithms, full_float32, may_choose_algorithms
from decompose_cli.models.tracing import evaluating

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
cudnn: Any = torch.backends.cudnn
OTHERS = ("enabled", "benchmark", "deterministic", "benchmark_limit")


def others() -> dict[str, Any]:
    return {name: getattr(cudnn, name) for name in OTHERS}


def for_all() -> bool | None:
    """``allow_tf32``, or None where torch refuses to tell it."""
    try:
        return bool(cudnn.allow_tf32)
    except RuntimeError:
        return None


def switches() -> tuple[Any, ...]:
    by_operator = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, cudnn.fp32_precision
    return for_all(), *by_operator, torch.backends.fp32_precision


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    before = others()
    yield
    for name, value in before.items():
        setattr(cudnn, name, value)
    torch.backends.fp32_precision = cudnn.fp32_precision = "none"
    cudnn.allow_tf32 = True
    assert switches() == (True, "tf32", "tf32", "none", "none")


def by_operator() -> None:
    cudnn.conv.fp32_precision = "tf32"
    cudnn.rnn.fp32_precision = "ieee"


def everywhere() -> None:
    torch.backends.fp32_precision = "tf32"


def in_cudnn() -> None:
    cudnn.fp32_precision = "tf32"


SET_BEFORE: list[Callable[[], None]] = [
    lambda: None,
    lambda: setattr(cudnn, "allow_tf32", False),
    by_operator,
    everywhere,
    in_cudnn,
]


@pytest.mark.parametrize("set_before", SET_BEFORE)
@pytest.mark.parametrize("benchmark", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_convolutions_get_all_digits_and_nothing_else_changes(
    set_before: Callable[[], None], benchmark: bool, fails: bool
) -> None:
    set_before()
    cudnn.benchmark, cudnn.deterministic, cudnn.benchmark_limit = benchmark, not benchmark, 7
    before, kept = switches(), others()
    try:
        with full_float32(CUDA):
            assert cudnn.conv.fp32_precision in ("ieee", "none")
            assert others() == kept
            assert before[0] is None or before[-2:] != ("none", "none") or for_all() is False, "it can still be read"
            with full_float32(CUDA):
                assert cudnn.conv.fp32_precision in ("ieee", "none")
            assert cudnn.conv.fp32_precision in ("ieee", "none")
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert switches() == before
    assert others() == kept


def test_a_version_of_torch_with_one_switch_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(cudnn=SimpleNamespace(allow_tf32=True, deterministic=True))
    monkeypatch.setattr(torch, "backends", old)
    with full_float32(CUDA):
        assert vars(old.cudnn) == {"allow_tf32": False, "deterministic": True}
    assert vars(old.cudnn) == {"allow_tf32": True, "deterministic": True}


def test_a_cpu_has_no_such_switch() -> None:
    before = switches()
    with full_float32(CPU):
        assert switches() == before


class OnGpu(nn.Module):
    """A network of which torch says that it is on a GPU."""

    def parameters(self, recurse: bool = True) -> Iterator[Any]:
        yield SimpleNamespace(device=CUDA)


def test_whatever_is_evaluated_gets_all_digits() -> None:
    with evaluating(OnGpu()):
        assert for_all() is False
    assert for_all() is True
    for module in (nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False), nn.ReLU()):
        with evaluating(module):
            assert for_all() is True


def test_algorithms_are_timed_on_cuda_unless_the_user_wants_them_fixed() -> None:
    with fastest_algorithms(CPU):
        assert not cudnn.benchmark
    with fastest_algorithms(CUDA):
        assert cudnn.benchmark
        assert may_choose_algorithms(CUDA), "its own setting changes no answer"
    assert not cudnn.benchmark
    cudnn.deterministic = True
    with fastest_algorithms(CUDA):
        assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
    cudnn.deterministic = False
    torch.use_deterministic_algorithms(True)
    try:
        with fastest_algorithms(CUDA):
            assert not cudnn.benchmark
            assert not may_choose_algorithms(CUDA)
    finally:
        torch.use_deterministic_algorithms(False)
    cudnn.benchmark = True
    with fastest_algorithms(CUDA):
        assert cudnn.benchmark
    assert cudnn.benchmark, "the user's own setting stays"
