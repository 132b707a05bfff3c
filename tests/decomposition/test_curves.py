"""Accuracy by number of features per class, against ranking and evaluating each number on its own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor

from decompose_cli.decomposition import curves, scores
from decompose_cli.decomposition.growing_sets import predictions_of_orders
from decompose_cli.decomposition.metrics import Predictions, evaluate_head, predict
from decompose_cli.decomposition.ranking import RANKINGS, select
from decompose_cli.decomposition.scores import frequency_orders
from decompose_cli.errors import InputError
from decompose_cli.features import blocks
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.network import HeadTensors

C, D = 4, 9
SCORED = [name for name, ranking in RANKINGS.items() if not ranking.is_fitted]
FITTED = [name for name, ranking in RANKINGS.items() if ranking.is_fitted]
Case = tuple[LabelledFeatures, Tensor, Tensor, HeadTensors]


def accuracy_by_k(*arguments: Any) -> dict[int, Predictions]:
    return dict(curves.accuracy_by_k(*arguments))


def nested_predictions(features: Tensor, head: HeadTensors, order: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
    """Predictions of the heads that keep the first k features of each class's order."""
    return dict(predictions_of_orders(features, head, ((k, order[:, :k]) for k in ks)))


def make_case() -> Case:
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(C, D, generator=generator) * 3
    labels, other = torch.arange(80) % C, torch.arange(60) % C
    features = (centres[labels] + torch.randn(80, D, generator=generator)).relu()
    others = (centres[other] + torch.randn(60, D, generator=generator)).relu()
    gates = torch.rand(C, D, generator=generator)
    head = HeadTensors("dense", "fc", centres, -(centres**2).sum(1) / 2, D)
    return LabelledFeatures(features, labels, centres, list("abcd"), gates), others, other, head


def make_ties(seed: int, levels: int, c: int = 5, d: int = 11) -> Case:
    """Few values, all multiples of 1/8: many features, scores and logits are equal, and every sum is exact."""
    generator = torch.Generator().manual_seed(seed)

    def values(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator) / 8

    features, others = values(0, levels, 16 * c, d), values(0, levels, 70, d)
    weight, bias, gates = values(-4, 5, c, d), values(-2, 3, c), values(0, 4, c, d)
    labels, other = torch.arange(16 * c) % c, torch.randint(0, c, (70,), generator=generator)
    head = HeadTensors("dense", "fc", weight, bias, d)
    return LabelledFeatures(features, labels, weight, [f"c{i}" for i in range(c)], gates), others, other, head


def make_zeros(seed: int, c: int = 6, d: int = 10) -> Case:
    """Four of five features are zero and there is no bias, so that many images have the logit zero in many classes."""
    generator = torch.Generator().manual_seed(seed)
    labels, other = torch.arange(10 * c) % c, torch.randint(0, c, (90,), generator=generator)
    features = torch.randn(10 * c, d, generator=generator).sub(0.85).relu()
    others = torch.randn(90, d, generator=generator).sub(0.85).relu()
    weight = torch.randn(c, d, generator=generator)
    head = HeadTensors("dense", "fc", weight, torch.zeros(c), d)
    gates = torch.rand(c, d, generator=generator)
    return LabelledFeatures(features, labels, weight, [f"c{i}" for i in range(c)], gates), others, other, head


def numbers(method: str, most: int) -> list[int]:
    """From one feature to all; of rankings that fit heads for each number, which takes longer, two of these."""
    return [1, 4] if method in FITTED else list(range(1, most + 1))


def applied(case: Case, classes: Sequence[Sequence[int]]) -> Tensor:
    """What the head that keeps these features of each class says of all images."""
    _, features, _, head = case
    with torch.no_grad():
        return DecomposedLinear.from_dense(head.weight, head.bias, classes)(features).argmax(1)


def one_by_one(case: Case, method: str, k: int) -> Tensor:
    """Rank for this k alone, build the head, apply it to all images."""
    return applied(case, select(case[0], method, k).classes)


def plain_predictions(features: Tensor, head: HeadTensors, classes: Sequence[Sequence[int]]) -> list[int]:
    """The definition with loops, in double precision; the first of equal logits."""
    weight, bias, found = head.weight.double().tolist(), head.bias.double().tolist(), []
    for image in features.double().tolist():
        logits = [bias[c] + sum(weight[c][j] * image[j] for j in row) for c, row in enumerate(classes)]
        found.append(logits.index(max(logits)))
    return found


def loop_correct(ranked: LabelledFeatures, features: Tensor, labels: Tensor, head: HeadTensors, k: int) -> int:
    """Rank by mean activation and count, with plain loops in float64."""
    kept = []
    for number in range(C):
        mine = ranked.features[ranked.labels == number].double().tolist()
        mean = [sum(row[j] for row in mine) / len(mine) for j in range(D)]
        kept.append(sorted(range(D), key=lambda j, mean=mean: (-mean[j], -j))[:k])
    found = plain_predictions(features, head, kept)
    return sum(a == b for a, b in zip(found, labels.tolist(), strict=True))


# ------------------------------------------------------------------------------------------------- accuracy for all k


def test_every_k_against_a_plain_loop() -> None:
    ranked, features, labels, head = make_case()
    found = accuracy_by_k(ranked, features, labels, head, range(1, D + 1), "mean")
    assert list(found) == list(range(1, D + 1))
    expected = {k: loop_correct(ranked, features, labels, head, k) for k in found}
    assert {k: predictions.correct for k, predictions in found.items()} == expected
    assert len(set(expected.values())) > 2  # the case can tell the ks apart
    assert all(predictions.total == 60 for predictions in found.values())


@pytest.mark.parametrize("method", RANKINGS)
def test_every_k_is_what_ranking_for_it_alone_gives(method: str) -> None:
    case = make_case()
    found = accuracy_by_k(*case, numbers(method, D), method)
    assert list(found) == numbers(method, D)
    for k, predictions in found.items():
        assert isinstance(predictions, Predictions)
        assert predictions.predictions.dtype == torch.int64
        assert predictions.predictions.tolist() == one_by_one(case, method, k).tolist()
        assert predictions.labels.tolist() == case[2].tolist()


@pytest.mark.parametrize(
    ("levels", "method"),
    [*itertools.product((1, 2, 3, 6), SCORED), (1, "backward"), (1, "splicing"), *itertools.product([3], FITTED)],
)
def test_every_k_with_many_equal_features_scores_and_logits(levels: int, method: str) -> None:
    for seed in range(1 if method in FITTED else 3):
        case = make_ties(seed, levels)
        found = accuracy_by_k(*case, numbers(method, 11), method)
        for k, predictions in found.items():
            classes = select(case[0], method, k).classes
            assert predictions.predictions.tolist() == applied(case, classes).tolist()
            assert predictions.predictions.tolist() == plain_predictions(case[1], case[3], classes)


@pytest.mark.parametrize("method", SCORED)
def test_every_k_where_most_features_are_zero(method: str) -> None:
    for seed in range(3):
        case = make_zeros(seed)
        for k, predictions in accuracy_by_k(*case, range(1, 11), method).items():
            assert predictions.predictions.tolist() == one_by_one(case, method, k).tolist()


@pytest.mark.parametrize("case", [make_ties(0, 1), make_ties(0, 4, c=1)], ids=["equal features", "one class"])
def test_a_path_needs_features_that_tell_classes_apart(case: Case) -> None:
    with pytest.raises(InputError, match=r"^No feature tells the classes apart: its mean is the same"):
        accuracy_by_k(*case, [1], "elastic-net")


@pytest.mark.parametrize(
    ("ks", "method"),
    [*itertools.product([[1], [D], [1, D], [2, 5, 6], [3, 8]], SCORED), *itertools.product([[3, 8]], FITTED)],
    ids=str,
)
def test_numbers_with_gaps_between_them(ks: list[int], method: str) -> None:
    case = make_case()
    found = accuracy_by_k(*case, ks, method)
    assert list(found) == ks
    for k in ks:
        assert found[k].predictions.tolist() == one_by_one(case, method, k).tolist()


@pytest.mark.parametrize("method", [method for method in RANKINGS if method != "elastic-net"])
def test_a_single_class_is_always_predicted(method: str) -> None:
    case = make_ties(0, 4, c=1)
    for predictions in accuracy_by_k(*case, [1, 2, 11], method).values():
        assert predictions.predictions.tolist() == [0] * 70
        assert predictions.correct == 70


@pytest.mark.parametrize("method", RANKINGS)
def test_all_features_give_the_full_head(method: str) -> None:
    ranked, features, labels, head = make_case()
    full = evaluate_head(torch.nn.Identity(), features @ head.weight.T + head.bias, labels, C)
    found = accuracy_by_k(ranked, features, labels, head, [D], method)[D]
    assert torch.equal(found.predictions, full.predictions)
    assert found.correct == full.correct


def test_the_method_matters() -> None:
    case = make_case()
    found = {method: accuracy_by_k(*case, [2], method)[2].predictions.tolist() for method in RANKINGS}
    assert len({tuple(predictions) for predictions in found.values()}) >= 3


def test_the_lowest_gates_are_another_choice_than_the_highest() -> None:
    ranked, features, labels, head = make_case()
    lowest = LabelledFeatures(ranked.features, ranked.labels, None, list("abcd"), ranked.gates, "lowest")
    found = accuracy_by_k(lowest, features, labels, head, [3], "csg")[3].predictions
    assert ranked.gates is not None
    rows = [sorted(range(D), key=lambda j, row=row: row[j])[:3] for row in ranked.gates.tolist()]
    assert found.tolist() == plain_predictions(features, head, rows)
    assert found.tolist() != accuracy_by_k(ranked, features, labels, head, [3], "csg")[3].predictions.tolist()


@pytest.mark.parametrize("method", ["mean", "frequency"])
def test_indices_come_from_the_training_images_alone(method: str) -> None:
    """Images on which every feature is silent have the bias for logits, whatever has been chosen."""
    ranked, features, labels, head = make_case()
    silent = torch.zeros_like(features)
    found = accuracy_by_k(ranked, silent, labels, head, [3], method)[3]
    assert found.correct == int((labels == int(head.bias.argmax())).sum())


@pytest.mark.parametrize("method", RANKINGS)
def test_each_finished_k_is_told(method: str) -> None:
    told: list[int] = []
    accuracy_by_k(*make_case(), [7, 8, 9], method, told.append)
    assert sum(told) == 3
    assert min(told) > 0


@pytest.mark.parametrize("method", RANKINGS)
def test_inputs_are_left_as_they_were(method: str) -> None:
    ranked, features, labels, head = make_case()
    assert ranked.gates is not None
    tensors = (ranked.features, ranked.labels, ranked.gates, features, labels, head.weight, head.bias)
    before = [tensor.clone() for tensor in tensors]
    accuracy_by_k(ranked, features, labels, head, numbers(method, D), method)
    assert all(torch.equal(old, new) for old, new in zip(before, tensors, strict=True))


@pytest.mark.parametrize("method", RANKINGS)
def test_more_features_than_there_are_is_refused(method: str) -> None:
    with pytest.raises(InputError, match=r"^k 10 is more than the 9 features"):
        accuracy_by_k(*make_case(), [1, D + 1], method)


@pytest.mark.parametrize("method", ["frequency", "mean", "mass", "contribution"])
def test_a_class_without_images_to_rank_from_is_refused(method: str) -> None:
    ranked, features, labels, head = make_case()
    kept = ranked.labels != 2
    fewer = LabelledFeatures(ranked.features[kept], ranked.labels[kept], ranked.weight, ranked.class_names)
    with pytest.raises(InputError, match=r"no images in this split for 1 of the network's 4 classes \(c\)"):
        accuracy_by_k(fewer, features, labels, head, [2], method)


def test_a_method_without_what_it_needs_is_refused() -> None:
    ranked, features, labels, head = make_case()
    bare = LabelledFeatures(ranked.features, ranked.labels, None, ranked.class_names)
    with pytest.raises(InputError, match="needs the full head"):
        accuracy_by_k(bare, features, labels, head, [2], "contribution")
    with pytest.raises(InputError, match="needs class-specific gates"):
        accuracy_by_k(bare, features, labels, head, [2], "csg")


# ----------------------------------------------------------------------------------------------------- frequency orders


def orders(ranked: LabelledFeatures, ks: list[int]) -> dict[int, list[tuple[int, ...]]]:
    found = list(frequency_orders(ranked, ks))
    assert [tuple(order.shape) for order in found] == [(ranked.num_classes, k) for k in ks]
    assert all(order.dtype == torch.int64 for order in found)
    return {k: [tuple(row) for row in order.tolist()] for k, order in zip(ks, found, strict=True)}


@pytest.mark.parametrize("ks", [list(range(1, 12)), [1], [11], [2, 3, 9], [4, 11]])
@pytest.mark.parametrize("levels", [1, 2, 3, 100])
def test_frequency_orders_are_the_sets_chosen_for_each_k(levels: int, ks: list[int]) -> None:
    for seed in range(3):
        ranked = make_ties(seed, levels)[0]
        expected = {k: list(select(ranked, "frequency", k).classes) for k in ks}
        assert orders(ranked, ks) == expected


def test_frequency_orders_against_counting_with_plain_loops() -> None:
    for seed in range(3):
        ranked = make_zeros(seed)[0]
        found = orders(ranked, [1, 3, 4, 10])
        for k, rows in found.items():
            for number, row in enumerate(rows):
                score = [0] * 10
                for image in ranked.features[ranked.labels == number].tolist():
                    for j in sorted(range(10), key=lambda j, image=image: (-image[j], -j))[:k]:
                        score[j] += 1
                assert list(row) == sorted(range(10), key=lambda j, score=score: (-score[j], -j))[:k]


def test_frequency_orders_need_not_contain_each_other() -> None:
    rows = torch.tensor([[9.0, 0, 0, 8], [9, 0, 0, 8], [0, 9, 0, 8], [0, 0, 9, 8], [0, 3, 2, 1]])
    ranked = LabelledFeatures(rows, torch.zeros(5, dtype=torch.int64), None, ["a"])
    assert orders(ranked, [1, 2]) == {1: [(1,)], 2: [(3, 2)]}


@pytest.mark.parametrize("at_once", [1, 11, 25, 11 * 79, 11 * 80, 11 * 81])
def test_how_ranked_images_are_blocked_changes_nothing(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    ranked = make_ties(1, 3)[0]
    whole = orders(ranked, [1, 2, 7])
    monkeypatch.setattr(blocks, "VALUES_AT_ONCE", at_once)
    assert orders(ranked, [1, 2, 7]) == whole


@pytest.mark.parametrize(("ranks", "passes"), [(1, 11), (4, 3), (10, 2), (11, 1)])
def test_how_many_ranks_are_kept_at_once_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, ranks: int, passes: int
) -> None:
    ranked = make_ties(1, 3)[0]
    ks = [1, 2, 5, 6, 11]
    whole = orders(ranked, ks)
    monkeypatch.setattr(scores, "_POSITIONS_AT_ONCE", ranks * len(ranked.labels))
    monkeypatch.setattr(scores, "leading_features", MagicMock(side_effect=scores.leading_features))
    assert orders(ranked, ks) == whole
    assert scores.leading_features.call_count == passes


# --------------------------------------------------------------------------------------------------- nested predictions


def permutations(seed: int, c: int, d: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(d, generator=generator) for _ in range(c)])


@pytest.mark.parametrize("ks", [list(range(1, 12)), [1], [11], [2, 3, 9]])
@pytest.mark.parametrize("levels", [1, 2, 9])
def test_nested_predictions_against_plain_loops(levels: int, ks: list[int]) -> None:
    _, features, _, head = make_ties(2, levels)
    order = permutations(levels, 5, 11)
    found = nested_predictions(features, head, order, ks)
    assert list(found) == ks
    for k in ks:
        assert found[k].dtype == torch.int64
        assert found[k].tolist() == plain_predictions(features, head, order[:, :k].tolist())


def test_an_order_longer_than_needed_is_cut() -> None:
    _, features, _, head = make_ties(3, 5)
    order = permutations(0, 5, 11)
    long, short = (nested_predictions(features, head, rows, [1, 3])[3] for rows in (order, order[:, :3]))
    assert torch.equal(long, short)


def test_many_classes_and_features_as_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 64, generator=generator).relu()
    head = HeadTensors(
        "dense", "fc", torch.randn(30, 64, generator=generator), torch.randn(30, generator=generator), 64
    )
    order = permutations(1, 30, 64)
    labels = torch.zeros(400, dtype=torch.int64)
    for k, found in nested_predictions(features, head, order, range(1, 65)).items():
        chosen = DecomposedLinear.from_dense(head.weight, head.bias, order[:, :k].tolist())
        assert torch.equal(found, predict(chosen, features, labels, 30).predictions)


@pytest.mark.parametrize("seed", range(5))
def test_logits_equal_but_for_rounding_are_settled_by_the_head_itself(seed: int) -> None:
    """Two classes add up the same products in another order; which is larger is a matter of rounding alone."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(64, 16, generator=generator)
    weight = torch.rand(2, 16, generator=generator)
    weight[1] = weight[0]
    order = permutations(seed, 2, 16)
    head = HeadTensors("dense", "fc", weight, torch.full((2,), 3.0), 16)
    found = nested_predictions(features, head, order, [16])[16]
    chosen = DecomposedLinear.from_dense(weight, head.bias, order.tolist())
    with torch.no_grad():
        expected = chosen(features).argmax(1)
    assert 0 < int(expected.sum()) < 64
    assert torch.equal(found, expected)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_near_ties_do_not_depend_on_the_unit(scale: float) -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        features = torch.rand(64, 16, generator=generator)
        weight = torch.rand(1, 16, generator=generator).repeat(2, 1) * scale
        order = permutations(seed, 2, 16)
        head = HeadTensors("dense", "fc", weight, torch.full((2,), 3 * scale), 16)
        chosen = DecomposedLinear.from_dense(weight, head.bias, order.tolist())
        with torch.no_grad():
            expected = chosen(features).argmax(1)
        assert 0 < int(expected.sum()) < 64
        assert torch.equal(nested_predictions(features, head, order, [16])[16], expected)


def test_images_without_any_feature_go_to_the_lowest_class_of_the_largest_bias() -> None:
    bias = torch.tensor([0.0, 2.0, 1.0, 2.0])
    head = HeadTensors("dense", "fc", torch.ones(4, 3), bias, 3)
    found = nested_predictions(torch.zeros(5, 3), head, permutations(0, 4, 3), [1, 3])
    assert {k: predictions.tolist() for k, predictions in found.items()} == {1: [1] * 5, 3: [1] * 5}


@pytest.mark.parametrize("at_once", [1, 5, 12, 5 * 69, 5 * 70, 5 * 71])
def test_how_images_are_blocked_changes_nothing(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    _, features, _, head = make_ties(4, 6)
    order = permutations(4, 5, 11)
    whole = nested_predictions(features, head, order, [1, 2, 5, 11])
    monkeypatch.setattr(blocks, "VALUES_AT_ONCE", at_once)
    found = nested_predictions(features, head, order, [1, 2, 5, 11])
    assert {k: row.tolist() for k, row in found.items()} == {k: row.tolist() for k, row in whole.items()}


@pytest.mark.parametrize("near", [1, 2, 3])
def test_a_few_near_ties_among_many_images_are_settled_as_among_all(near: int) -> None:
    """Two classes sum the same products in another order on a few images; the others go to a third class."""
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(50, 8, generator=generator).relu()
        features[7 : 7 + near] *= 300
        weight = torch.randn(3, 8, generator=generator)
        weight[1] = weight[0]
        head = HeadTensors("dense", "fc", weight, torch.tensor([0.0, 0.0, 30.0]), 8)
        order = permutations(seed, 3, 8)
        chosen = DecomposedLinear.from_dense(weight, head.bias, order.tolist())
        expected = predict(chosen, features, torch.zeros(50, dtype=torch.int64), 3).predictions
        assert torch.equal(nested_predictions(features, head, order, [8])[8], expected)
