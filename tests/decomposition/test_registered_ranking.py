"""A ranking of a program's own, which every command then takes by its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from decompose_cli.cli.app import app
from decompose_cli.decomposition.ranking import RANKINGS, Ranking, register, scored
from decompose_cli.features.labelled import LabelledFeatures


def spread(data: LabelledFeatures, _: int | float) -> Tensor:
    """Standard deviation of each feature over the images of each class."""
    return torch.stack([data.features[data.labels == c].double().std(0) for c in range(data.num_classes)])


@pytest.fixture
def mine() -> Iterator[Ranking]:
    """A ranking that is registered during the test."""
    ranking = scored("spread", "standard deviation of the feature over the images of the class", spread)
    register(ranking)
    yield ranking
    del RANKINGS["spread"]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.usefixtures("mine", "warm")
def test_features_are_chosen_by_it() -> None:
    result = run("extract-indices", "--method", "spread", "-k", "3", "-o", "sets.json")
    assert result.exit_code == 0, result.stderr
    from decompose_cli.features.study import Inputs, Study

    study = Study(Inputs(), ("train",))
    scores = spread(study.labelled(), 3)
    expected = [row.argsort(descending=True)[:3].tolist() for row in scores]
    written = json.loads(Path("sets.json").read_text())
    assert list(written.values()) == expected


@pytest.mark.usefixtures("mine", "warm")
def test_it_is_swept_beside_others() -> None:
    result = run("sweep", "--methods", "spread,frequency", "--ks", "2,5", "--json")
    assert result.exit_code == 0, result.stderr
    curves = json.loads(result.stdout)["results"]["curves"]
    assert {name: list(points) for name, points in curves.items()} == {"spread": ["2", "5"], "frequency": ["2", "5"]}
    assert curves["spread"]["5"]["correct"] != curves["frequency"]["5"]["correct"]


@pytest.mark.usefixtures("mine")
def test_texts_name_it() -> None:
    refused = run("extract-indices", "--method", "scatter")
    assert refused.exit_code == 2
    assert list(RANKINGS)[-1] == "spread"
    assert f"choose {', '.join(RANKINGS)}." in refused.stderr


def test_it_is_gone_when_it_has_been_removed() -> None:
    refused = run("extract-indices", "--method", "spread")
    assert (refused.exit_code, "'spread' is unknown" in refused.stderr) == (2, True)


def test_a_name_that_is_taken_is_refused(mine: Ranking) -> None:
    before = dict(RANKINGS)
    for name in ("spread", "frequency"):
        with pytest.raises(ValueError, match=f"a ranking named '{name}' is registered already"):
            register(scored(name, "", spread))
    assert before == RANKINGS
