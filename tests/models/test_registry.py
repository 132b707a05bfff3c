"""The facts of the registered networks, each checked against the network itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from decompose_cli.errors import InputError
from decompose_cli.models import entry as entries
from decompose_cli.models.registry import (
    DEFAULT_MODEL,
    ModelEntry,
    get_entry,
    hash_in_name,
    register,
    registered_models,
)
from decompose_cli.models.weights import shipped_weights
from decompose_cli.preprocessing import CIFAR, IMAGENET

ENTRIES = registered_models()
_RESNETS = [20, 32, 44, 56, 110, 1202]


def _ids(entry: ModelEntry) -> str:
    return entry.name


def _on_meta(entry: ModelEntry, num_classes: int) -> nn.Module:
    with torch.device("meta"):
        return entry.build(num_classes)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.name != "resnet1202"], ids=_ids)
def test_parameter_count_and_number_of_features_are_those_of_the_network(entry: ModelEntry) -> None:
    _check_counts(entry)


@pytest.mark.slow
def test_parameter_count_of_the_deepest_network() -> None:
    _check_counts(get_entry("resnet1202"))


def _check_counts(entry: ModelEntry) -> None:
    model = _on_meta(entry, entry.num_classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == entry.parameters
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    assert (last.in_features, last.out_features) == (entry.num_features, entry.num_classes)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.name != "resnet1202"], ids=_ids)
def test_build_takes_the_number_of_classes(entry: ModelEntry) -> None:
    last = [module for module in _on_meta(entry, 7).modules() if isinstance(module, nn.Linear)][-1]
    assert last.out_features == 7


@pytest.mark.parametrize("entry", ENTRIES, ids=_ids)
def test_every_entry_has_its_facts(entry: ModelEntry) -> None:
    assert entry.dataset in ("cifar10", "imagenet", "digits")
    assert entry.num_classes == {"cifar10": 10, "imagenet": 1000, "digits": 10}[entry.dataset]
    assert entry.preprocessing == (IMAGENET if entry.dataset == "imagenet" else CIFAR)
    assert entry.source
    assert entry.licence
    assert entry.architecture
    if entry.weights is None:
        assert (entry.sha256, entry.accuracy) == (None, None)
    elif isinstance(entry.weights, Path):
        assert shipped_weights(entry.weights).is_file()
    else:
        assert str(entry.weights).startswith("https://")
        assert entry.sha256 is not None
        assert len(entry.sha256) >= 8
        assert entry.sha256 in str(entry.weights)
        assert entry.accuracy is not None
        assert 60 < entry.accuracy < 100


def test_the_networks_of_the_papers_are_registered() -> None:
    names = [entry.name for entry in ENTRIES]
    wanted = [f"resnet{depth}" for depth in (*_RESNETS, 18, 34, 50, 101, 152)]
    wanted += ["resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2", DEFAULT_MODEL]
    wanted += ["resnet164", "preresnet20", "preresnet110", "preresnet164", "custom_resnet"]
    wanted += ["resnet18_32x32", "resnet34_32x32"]
    assert sorted(names) == sorted(wanted)


def test_only_networks_of_one_function_share_an_architecture() -> None:
    owners: dict[str, list[str]] = {}
    for entry in ENTRIES:
        owners.setdefault(str(entry.architecture), []).append(entry.name)
    shared = [names for names in owners.values() if len(names) > 1]
    assert shared == [[DEFAULT_MODEL, "resnet20"]]


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("resnet20", "github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/resnet20-12fca82f.th"),
        (
            "resnet1202",
            "github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/resnet1202-f3b1deed.th",
        ),
        ("resnet50", "download.pytorch.org/models/resnet50-19c8e357.pth"),
        ("wide_resnet101_2", "download.pytorch.org/models/wide_resnet101_2-32ee1156.pth"),
    ],
)
def test_addresses_of_published_weights(name: str, url: str) -> None:
    assert get_entry(name).weights == f"https://{url}"


def test_registering_a_name_twice_raises_and_changes_nothing() -> None:
    before = registered_models()
    with pytest.raises(ValueError, match="resnet20"):
        register(replace(get_entry("resnet20"), source="somebody else"))
    assert registered_models() == before


def test_registering_a_new_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "_NETWORKS", dict(entries._NETWORKS))
    entry = replace(get_entry("resnet20"), name="my-resnet")
    register(entry)
    assert get_entry("my-resnet") is entry
    assert registered_models()[-1] is entry


@pytest.mark.parametrize(
    ("typo", "meant"), [("resnet21", "resnet20"), ("resnet-20", "resnet20"), ("wide_resnet50", "wide_resnet50_2")]
)
def test_unknown_name_suggests_a_similar_one(typo: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"There is no model '{typo}'.*did you mean .*{meant}") as refusal:
        get_entry(typo)
    assert "decompose models" in (refusal.value.hint or "")


@pytest.mark.parametrize("name", ["", "!", "zzzzzzzz", "__import__"])
def test_unlike_names_suggest_nothing(name: str) -> None:
    with pytest.raises(InputError) as refusal:
        get_entry(name)
    assert "did you mean" not in refusal.value.message


@pytest.mark.parametrize(
    ("name", "digits"),
    [
        ("https://host/resnet50-19c8e357.pth", "19c8e357"),
        ("resnet20-12fca82f.th", "12fca82f"),
        ("https://host/resnet50-19c8e357.pth?raw=true", "19c8e357"),
        ("https://host/best-model.pth", None),
        ("https://host/deadbeef.pth", None),
        ("https://host/net-deadbee.pth", None),
        (f"net-{'ab' * 32}.pt", "ab" * 32),
    ],
)
def test_hash_in_a_file_name(name: str, digits: str | None) -> None:
    assert hash_in_name(name) == digits
