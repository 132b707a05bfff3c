"""Which number format a device gains by, and what is said of one that only makes it slower."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from decompose_cli.messages import LoggingReporter, use_reporter
from decompose_cli.models.precision import settled_precision

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
WITH = [{"avx512_bf16": True}, {"avx512_bf16": False, "amx_bf16": True}, {"bf16": True}, {"sve_bf16": True}]
WITHOUT: list[dict[str, Any]] = [{"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, {"dot": True}, {}]


class Heard(LoggingReporter):
    """What was warned of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture
def heard() -> Any:
    reporter = Heard()
    with use_reporter(reporter):
        yield reporter.warnings


@pytest.mark.parametrize("capabilities", WITH + WITHOUT, ids=str)
def test_a_cpu_takes_bfloat16_only_with_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, heard: list[str], capabilities: dict[str, Any]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    has_instructions = capabilities in WITH
    assert settled_precision("auto", CPU) == ("bf16" if has_instructions else "32")
    assert heard == [], "nothing is lost by what auto takes"
    assert [settled_precision(name, CPU) for name in ("32", "16", "bf16", "bf16")] == ["32", "16", "bf16", "bf16"]
    assert len(heard) == (0 if has_instructions else 1), "once"
    assert has_instructions or "This CPU has no instructions for bfloat16" in heard[0]


@pytest.mark.parametrize(("avx512", "amx"), [(True, False), (False, True), (False, False)])
def test_a_version_of_torch_without_the_table_of_capabilities(
    monkeypatch: pytest.MonkeyPatch, avx512: bool, amx: bool
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert settled_precision("auto", CPU) == ("bf16" if avx512 or amx else "32")


@pytest.mark.parametrize("has_units", [True, False])
def test_a_gpu_takes_bfloat16_where_it_is_no_emulation(
    monkeypatch: pytest.MonkeyPatch, heard: list[str], has_units: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or has_units)
    assert settled_precision("auto", CUDA) == ("bf16" if has_units else "32")
    assert settled_precision("bf16", CUDA) == "bf16"
    assert settled_precision("auto", MPS) == "32"
    assert heard == []
