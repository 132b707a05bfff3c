"""``models --search``: names of this project's networks, torchvision's and timm's."""

from __future__ import annotations

import json
import sys
from fnmatch import fnmatch

import pytest
from helpers.command_line import refused, run
from torchvision import models as torchvision_models

from decompose_cli.engines.models import find_models
from decompose_cli.models.registry import registered_models


def names(pattern: str) -> list[str]:
    return [facts["name"] for facts in find_models(pattern).models]


def without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)


def test_a_search_goes_through_all_names_of_ours_and_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    without_timm(monkeypatch)
    known = [entry.name for entry in registered_models()]
    classifiers = torchvision_models.list_models(module=torchvision_models)
    everything = [*known, *(name for name in classifiers if name not in known)]
    assert names("*") == everything
    assert names("ResNet") == [name for name in everything if "resnet" in name]
    assert names("resnet?0*") == [name for name in everything if fnmatch(name, "resnet?0*")]
    assert "resnet50" in names("resnet?0")
    assert names("no such network") == []
    assert find_models("vit").not_installed == ["timm"]
    (vit,) = find_models("vit_b_16").models
    assert (vit["source"], vit["parameters"], vit["num_classes"]) == ("torchvision", 86_567_656, 1000)
    assert "pip install 'decompose-cli[timm]'" in run("models", "--search", "vit").stderr


def test_a_search_finds_timms_networks_with_their_weights() -> None:
    timm = pytest.importorskip("timm")
    found = {facts["name"]: facts for facts in find_models("timm:vit_small_patch14*").models}
    assert set(found) == {f"timm:{name}" for name in timm.list_pretrained("vit_small_patch14*")}
    for name, facts in found.items():
        of_weights = timm.get_pretrained_cfg(name.removeprefix("timm:"))
        assert facts["num_classes"] == of_weights.num_classes
        assert facts["weights"] == of_weights.hf_hub_id
    assert names("vit_small_patch14") == list(found)
    untrained = next(name for name in timm.list_models() if not timm.list_pretrained(f"{name}.*"))
    (facts,) = [facts for facts in find_models(untrained).models if facts["name"] == f"timm:{untrained}"]
    assert facts["weights"] is None
    listed = json.loads(run("models", "--search", "vit_small_patch14", "--json").stdout)
    assert listed == list(found.values())
    assert "none" in run("models", "--search", "vit_small_patch14_reg4").stderr  # no classifier


def test_a_search_for_nothing_is_refused_and_one_that_finds_nothing_says_so() -> None:
    refused(["models", "--search", " "], 2, "--search is empty")
    assert "has a name like 'no such network'" in run("models", "--search", "no such network").stderr
