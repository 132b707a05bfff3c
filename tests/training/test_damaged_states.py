"""A run whose state has any one value of another kind goes on as ever, or is refused in a sentence."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from helpers.command_line import invoke, refused, run
from helpers.power_cut import PowerCut
from helpers.runs import TRAIN
from helpers.wrong_values import PLAIN, changed, places
from torch import Tensor

from decompose_cli.training.settings import Settings

WRONG: list[Any] = [*PLAIN, torch.zeros(0), torch.zeros(2, 3)]


@pytest.fixture(scope="module", params=get_args(get_type_hints(Settings)["optimizer"]))
def stopped(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_images: Callable[..., Path],
    power_cut: PowerCut,
) -> Path:
    """A run that was stopped after its first epoch; no test changes it."""
    root = tmp_path_factory.mktemp("stopped")
    make_images(root / "images", ["a", "b"], n=4, side=8)
    how = ("--optimizer", request.param, "--ema-decay", "0.9", "--lr", "0.01", "--val-split", "0.25")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("DECOMPOSE_CACHE", str(root / "cache"))
        with power_cut("last.pt"):
            run(*TRAIN, *how, "-q", "-b", "6", "--epochs", "2", "-o", "run")
        Path("run/.lock").unlink()
    return root


@pytest.mark.parametrize("share", [131, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_a_state_with_one_wrong_value_goes_on_or_is_refused(
    stopped: Path, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.load(stopped / "run/last.pt", weights_only=True)
    found = [place for place in places(whole) if place]
    assert ("training", "optimizers", 0, "param_groups", 0, "lr") in found
    monkeypatch.chdir(stopped)
    cases = [(place, value) for place in found for value in WRONG]
    failed = []
    for place, value in cases[::share]:
        folder = Path("again")
        shutil.copytree("run", folder)
        torch.save(changed(whole, place, value), folder / "last.pt")
        result = invoke("train", "--resume", "again", "-j", "0", "-q")
        if result.exit_code not in (0, 1, 2) or "unforeseen" in result.stderr or "Traceback" in result.stderr:
            failed.append((place, str(value)[:40], result.stderr[-300:]))
        shutil.rmtree(folder)
    assert not failed, f"{len(failed)} of {len(cases)}: {failed[:8]}"


def test_a_parameter_without_state_beside_others_is_gone_on_with(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.load(stopped / "run/last.pt", weights_only=True)
    monkeypatch.chdir(stopped)
    shutil.copytree("run", "again")
    torch.save(changed(whole, ("training", "optimizers", 0, "state", 0), {}), "again/last.pt")
    run("train", "--resume", "again", "-j", "0", "-q")
    shutil.rmtree("again")


@pytest.mark.parametrize("kind", [torch.complex64, torch.int32, torch.bool])
def test_numbers_of_another_kind_are_refused_and_not_cast(
    stopped: Path, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.load(stopped / "run/last.pt", weights_only=True)
    monkeypatch.chdir(stopped)
    states = whole["training"]["optimizers"][0]["state"]
    tensors = [
        *([(("training", "averaged"), whole["training"]["averaged"])] if kind != torch.int32 else []),
        *((("state_dict", name), value) for name, value in list(whole["state_dict"].items())[:1]),
        *((("training", "weights", name), value) for name, value in list(whole["training"]["weights"].items())[:1]),
        *(
            (("training", "optimizers", 0, "state", 0, name), value)
            for name, value in states.get(0, {}).items()
            if isinstance(value, Tensor)
        ),
    ]
    for place, value in tensors:
        shutil.copytree("run", "again")
        torch.save(changed(whole, place, value.to(kind)), "again/last.pt")
        said = refused(["train", "--resume", "again", "-j", "0", "-q"], 2, "again/last.pt")
        assert "Warning: /" not in said
        shutil.rmtree("again")


def test_a_run_of_each_optimizer_is_resumed_whatever_version_of_torch_wrote_its_state(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.load(stopped / "run/last.pt", weights_only=True)
    monkeypatch.chdir(stopped)
    others: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        ((), {}),
        (("foreach", "maximize", "decoupled_weight_decay", "_is_initial"), {"later": True, "step": 3}),
        (("lr",), {}),
    ]
    ends = []
    for without, more in others:
        content = copy.deepcopy(whole)
        for options in (*content["training"]["optimizers"][0]["param_groups"], *content["training"]["schedules"]):
            for name in without:
                options.pop(name, None)
            options |= more
        shutil.copytree("run", "again")
        torch.save(content, "again/last.pt")
        ended = invoke("train", "--resume", "again", "-j", "0", "-q")
        ends.append((ended.exit_code, torch.load("again/last.pt", weights_only=True)["state_dict"]))
        shutil.rmtree("again")
    assert [code for code, _ in ends] == [0, 0, 2]
    assert all(torch.equal(value, ends[1][1][name]) for name, value in ends[0][1].items())
    assert not all(torch.equal(value, whole["state_dict"][name]) for name, value in ends[0][1].items())
