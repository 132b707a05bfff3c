"""Accuracy by number of features per class."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from decompose_cli.decomposition.curves import accuracy_by_k
from decompose_cli.decomposition.metrics import evaluate_head
from decompose_cli.decomposition.ranking import LabelledFeatures, Method
from decompose_cli.errors import InputError
from decompose_cli.models.classifier import HeadTensors

C, D = 4, 9


def make_case() -> tuple[LabelledFeatures, Tensor, Tensor, HeadTensors]:
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(C, D, generator=generator) * 3
    labels, other = torch.arange(80) % C, torch.arange(60) % C
    features = (centres[labels] + torch.randn(80, D, generator=generator)).relu()
    others = (centres[other] + torch.randn(60, D, generator=generator)).relu()
    head = HeadTensors("dense", "fc", centres, -(centres**2).sum(1) / 2, D)
    return LabelledFeatures(features, labels, centres, list("abcd")), others, other, head


def loop_correct(ranked: LabelledFeatures, features: Tensor, labels: Tensor, head: HeadTensors, k: int) -> int:
    """Rank by mean activation and count, with plain loops in float64."""
    weight, bias = head.weight.double().tolist(), head.bias.double().tolist()
    kept = []
    for number in range(C):
        mine = ranked.features[ranked.labels == number].double().tolist()
        mean = [sum(row[j] for row in mine) / len(mine) for j in range(D)]
        kept.append(sorted(range(D), key=lambda j, mean=mean: (-mean[j], -j))[:k])
    correct = 0
    for image, label in zip(features.double().tolist(), labels.tolist(), strict=True):
        logits = [bias[c] + sum(weight[c][j] * image[j] for j in kept[c]) for c in range(C)]
        correct += logits.index(max(logits)) == label
    return correct


def test_every_k_against_a_plain_loop() -> None:
    ranked, features, labels, head = make_case()
    found = accuracy_by_k(ranked, features, labels, head, range(1, D + 1), "mean")
    assert list(found) == list(range(1, D + 1))
    expected = {k: loop_correct(ranked, features, labels, head, k) for k in found}
    assert {k: evaluation.correct for k, evaluation in found.items()} == expected
    assert len(set(expected.values())) > 2  # the case can tell the ks apart
    assert all(evaluation.total == 60 for evaluation in found.values())


def test_all_features_give_the_full_head() -> None:
    ranked, features, labels, head = make_case()
    full = evaluate_head(torch.nn.Identity(), features @ head.weight.T + head.bias, labels, C)
    for method in ("frequency", "mean", "mass", "contribution", "weight"):
        found = accuracy_by_k(ranked, features, labels, head, [D], method)[D]
        assert torch.equal(found.predictions, full.predictions)
        assert found.loss == pytest.approx(full.loss, rel=1e-5)


def test_ks_come_back_in_the_order_asked_for() -> None:
    ranked, features, labels, head = make_case()
    assert list(accuracy_by_k(ranked, features, labels, head, [7, 2, 5], "frequency")) == [7, 2, 5]


def test_the_method_matters() -> None:
    ranked, features, labels, head = make_case()
    methods: tuple[Method, ...] = ("mean", "weight", "frequency")
    losses = {method: accuracy_by_k(ranked, features, labels, head, [2], method)[2].loss for method in methods}
    assert len({round(loss, 6) for loss in losses.values()}) > 1


def test_indices_come_from_the_training_images_alone() -> None:
    """Shuffling the evaluated images' features between columns must not change which columns are used."""
    ranked, features, labels, head = make_case()
    silent = torch.zeros_like(features)
    found = accuracy_by_k(ranked, silent, labels, head, [3], "mean")[3]
    assert found.correct == int((labels == int(head.bias.argmax())).sum())


def test_more_features_than_there_are_is_refused() -> None:
    ranked, features, labels, head = make_case()
    with pytest.raises(InputError, match=r"-k 10 is more than the 9 features"):
        accuracy_by_k(ranked, features, labels, head, [D + 1], "mean")
