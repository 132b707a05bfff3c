"""Rankings of features, each method against a slow twin written with plain loops."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from decompose_cli.decomposition.ranking import RANKINGS, parse_method, parse_order, select
from decompose_cli.decomposition.scores import frequencies, largest_features, leading_features
from decompose_cli.decomposition.sizes import parse_k
from decompose_cli.errors import InputError
from decompose_cli.features import blocks
from decompose_cli.features.labelled import ORDERS, LabelledFeatures, Order, check_classes

SCORED = [name for name, ranking in RANKINGS.items() if not ranking.is_fitted]
"""Fitted rankings are in test_fitted_rankings.py."""


def make_data(seed: int = 0, n: int = 60, d: int = 12, c: int = 4, levels: int | None = None) -> LabelledFeatures:
    """Random non-negative features, half of them zero; with ``levels``, few different values and so many ties."""
    generator = torch.Generator().manual_seed(seed)
    if levels is None:
        features = torch.randn(n, d, generator=generator).relu()
    else:
        features = torch.randint(0, levels, (n, d), generator=generator) / 4
    labels = torch.cat([torch.arange(c), torch.randint(0, c, (n - c,), generator=generator)])
    weight, gates = torch.randn(c, d, generator=generator), torch.rand(c, d, generator=generator)
    return LabelledFeatures(features, labels, weight, [f"c{i}" for i in range(c)], gates)


def hand_made(rows: list[list[float]], labels: list[int], weight: list[list[float]] | None = None) -> LabelledFeatures:
    names = [f"c{number}" for number in range(max(labels) + 1)]
    return LabelledFeatures(
        torch.tensor(rows, dtype=torch.float64),
        torch.tensor(labels),
        None if weight is None else torch.tensor(weight),
        names,
    )


# ------------------------------------------------------------------------------------------------------------- twin


def twin_scores(data: LabelledFeatures, method: str, k: int | float) -> list[list[float]]:
    rows, labels = data.features.double().tolist(), data.labels.tolist()
    weight = None if data.weight is None else data.weight.double().tolist()
    c, d = len(data.class_names), len(rows[0])
    scores = []
    for number in range(c):
        mine = [row for row, label in zip(rows, labels, strict=True) if label == number]
        score = [0.0] * d
        for row in mine:
            if method == "frequency":
                largest = sorted(range(d), key=lambda j, row=row: (-row[j], -j))[: k if isinstance(k, int) else 5]
                for j in largest:
                    score[j] += 1
            elif method == "mass":
                total = math.fsum(row)
                for j in range(d):
                    score[j] += row[j] / total / len(mine) if total else 0.0
            else:
                for j in range(d):
                    score[j] += row[j] / len(mine)
        if method not in ("frequency", "mean", "mass", "contribution", "weight", "csg"):
            pytest.fail(f"{method} has no twin: write its score here, in plain loops")
        if method == "contribution":
            score = [weight[number][j] * score[j] for j in range(d)]
        if method == "weight":
            score = list(weight[number])
        if method == "csg":
            assert data.gates is not None
            sign = -1 if data.order == "lowest" else 1
            score = [sign * gate for gate in data.gates.double()[number].tolist()]
        scores.append(score)
    return scores


def twin_select(data: LabelledFeatures, method: str, k: int | float) -> tuple[tuple[int, ...], ...]:
    chosen = []
    for score in twin_scores(data, method, k):
        order = sorted(range(len(score)), key=lambda j, score=score: (-score[j], -j))
        if isinstance(k, float):
            length = 1
            while math.fsum(score[j] for j in order[:length]) < k * math.fsum(score) - 1e-12:
                length += 1
        else:
            length = k
        chosen.append(tuple(order[:length]))
    return tuple(chosen)


@pytest.mark.parametrize("k", [1, 2, 5, 11, 12])
@pytest.mark.parametrize("method", SCORED)
def test_whole_numbers_against_the_twin(method: str, k: int) -> None:
    for seed in range(4):
        data = make_data(seed)
        found = select(data, method, k)
        assert found.classes == twin_select(data, method, k)
        assert found.num_features == 12


@pytest.mark.parametrize("k", [0.01, 0.3, 0.5, 0.77, 0.95, 0.999])
@pytest.mark.parametrize("method", ["frequency", "mean", "mass"])
def test_fractions_against_the_twin(method: str, k: float) -> None:
    for seed in range(4):
        data = make_data(seed)
        assert select(data, method, k).classes == twin_select(data, method, k)


@pytest.mark.parametrize("k", [1, 3, 5, 11, 12, 0.6])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_frequency_with_many_ties_against_the_twin(levels: int, k: int | float) -> None:
    """Ties both inside an image and between counts; with one level all features of all images are equal."""
    for seed in range(4):
        data = make_data(seed, levels=levels)
        assert select(data, "frequency", k).classes == twin_select(data, "frequency", k)


@pytest.mark.parametrize("method", ["mean", "contribution", "weight"])
def test_other_methods_with_ties_against_the_twin(method: str) -> None:
    """Sixteen images a class and values in quarters, so that all sums are exact and equal means are equal."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randint(0, 2, (64, 10), generator=generator) / 4
    weight = torch.randint(-1, 2, (4, 10), generator=generator).float()
    data = LabelledFeatures(features, torch.arange(64) % 4, weight, list("abcd"))
    for k in (1, 4, 10):
        assert select(data, method, k).classes == twin_select(data, method, k)


def test_fractions_for_contribution_and_weight_where_nothing_is_negative() -> None:
    data = make_data(1)
    assert data.weight is not None
    data = LabelledFeatures(data.features, data.labels, data.weight.abs(), data.class_names)
    for method in ("contribution", "weight"):
        assert select(data, method, 0.8).classes == twin_select(data, method, 0.8)


# ---------------------------------------------------------------------------------------------- numbers on paper


def test_numbers_that_can_be_checked_on_paper() -> None:
    rows = [[1.0, 0.0, 3.0, 4.0], [9.0, 0.0, 1.0, 0.0], [0.0, 2.0, 1.0, 0.0]]
    data = hand_made(rows, [0, 0, 1], [[0.5, 9.0, 1.0, -1.0], [9.0, 1.0, 3.0, 0.0]])
    assert select(data, "mean", 4).classes == ((0, 3, 2, 1), (1, 2, 3, 0))  # 5, 0, 2, 2 and 0, 2, 1, 0
    assert select(data, "mass", 4).classes == ((0, 3, 2, 1), (1, 2, 3, 0))  # .5125, 0, .2375, .25
    assert select(data, "contribution", 4).classes == ((0, 2, 1, 3), (2, 1, 3, 0))  # 2.5, 0, 2, -2 and 0, 2, 3, 0
    assert select(data, "weight", 4).classes == ((1, 2, 0, 3), (0, 2, 1, 3))
    assert frequencies(data, 2).tolist() == [[1, 0, 2, 1], [0, 1, 1, 0]]
    assert select(data, "frequency", 2).classes == ((2, 3), (2, 1))


def test_ties_inside_an_image_go_to_the_higher_index() -> None:
    assert sorted(largest_features(torch.tensor([[5.0, 7.0, 5.0, 5.0, 1.0]]), 2)[0].tolist()) == [1, 3]
    assert sorted(largest_features(torch.zeros(1, 6), 3)[0].tolist()) == [3, 4, 5]
    assert sorted(largest_features(torch.tensor([[0.0, -0.0, 0.0, -1.0]]), 2)[0].tolist()) == [1, 2]


def test_ties_between_frequencies_go_to_the_higher_index() -> None:
    data = hand_made([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], [0, 0, 0])
    assert select(data, "frequency", 1).classes == ((2,),)


def test_ties_between_scores_go_to_the_higher_index() -> None:
    for method in ("mean", "mass"):
        assert select(hand_made([[1, 2, 2, 1]], [0]), method, 4).classes == ((2, 1, 3, 0),)


def test_the_set_is_chosen_anew_for_each_k() -> None:
    """Feature 0 is the largest of two images of five, feature 3 is the second of four: sets need not be nested."""
    rows = [[9, 0, 0, 8], [9, 0, 0, 8], [0, 9, 0, 8], [0, 0, 9, 8], [0, 3, 2, 1]]
    data = hand_made(rows, [0] * 5)
    assert select(data, "frequency", 1).classes == ((1,),)  # features 0 and 1 are each largest in two images
    assert select(data, "frequency", 2).classes == ((3, 2),)
    assert select(data, "frequency", 2).classes == twin_select(data, "frequency", 2)


def test_an_image_without_any_feature_counts_as_zero_mass() -> None:
    data = hand_made([[0, 0, 0], [1, 3, 0]], [0, 0])
    assert select(data, "mass", 0.75).classes == ((1,),)
    assert select(data, "mass", 0.76).classes == ((1, 0),)


def test_a_sum_that_is_exact_but_for_rounding_is_enough() -> None:
    assert 0.4 + 0.3 + 0.2 < 0.9 * (0.1 + 0.2 + 0.3 + 0.4)
    assert select(hand_made([[0.1, 0.2, 0.3, 0.4]], [0]), "mean", 0.9).classes == ((3, 2, 1),)


def test_fractions_may_be_ragged_and_are_the_shortest_prefix() -> None:
    data = hand_made([[1, 1, 1, 1], [0, 8, 1, 1]], [0, 1])
    assert select(data, "mean", 0.5).classes == ((3, 2), (1,))
    assert select(data, "mean", 0.51).classes == ((3, 2, 1), (1,))
    assert select(data, "mean", 0.81).classes == ((3, 2, 1, 0), (1, 3))


def test_frequency_with_a_fraction_counts_at_most_all_features() -> None:
    assert select(make_data(d=3), "frequency", 0.5).classes == twin_select(make_data(d=3), "frequency", 0.5)


@pytest.mark.parametrize("method", [name for name, ranking in RANKINGS.items() if not ranking.needs_images])
def test_some_methods_need_no_images(method: str) -> None:
    eye = torch.eye(3)[:2]
    data = LabelledFeatures(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), eye, ["a", "b"], eye)
    assert select(data, method, 1).classes == ((0,), (1,))


def test_sums_are_kept_in_double_precision() -> None:
    """In float32 the ones would vanish beside the large value, and feature 1 would come first."""
    rows = torch.zeros(4097, 2)
    rows[0] = torch.tensor([2.0**26, 2.0**26 + 2048])
    rows[1:, 0] = 1
    data = LabelledFeatures(rows, torch.zeros(4097, dtype=torch.int64), None, ["a"])
    assert select(data, "mean", 1).classes == ((0,),)


# --------------------------------------------------------------------------------------------------------- blocking


@pytest.mark.parametrize("at_once", [1, 12, 13, 36, 12 * 59, 12 * 60, 12 * 61])
@pytest.mark.parametrize("levels", [None, 2])
def test_how_rows_are_blocked_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, at_once: int, levels: int | None
) -> None:
    data = make_data(5, levels=levels)
    whole = {method: select(data, method, 4) for method in SCORED}
    counts = frequencies(data, 4)
    monkeypatch.setattr(blocks, "VALUES_AT_ONCE", at_once)
    assert len(list(blocks.in_blocks(data.features))) == math.ceil(60 / max(1, at_once // 12))
    assert {method: select(data, method, 4) for method in SCORED} == whole
    assert torch.equal(frequencies(data, 4), counts)


@pytest.mark.parametrize("negative", [0, 7, 59])
def test_one_negative_feature_of_one_image_is_found(monkeypatch: pytest.MonkeyPatch, negative: int) -> None:
    monkeypatch.setattr(blocks, "VALUES_AT_ONCE", 36)
    data = make_data()
    assert not data.has_negative
    data.features[negative, 5] = -1e-9
    assert dataclasses.replace(data).has_negative


@pytest.mark.parametrize("method", SCORED)
def test_many_numbers_at_once_give_the_sets_of_each_alone(method: str) -> None:
    data, ks = make_data(3, levels=3), [1, 2, 7, 12]
    found = list(RANKINGS[method].sets(data, ks))
    assert found == [select(data, method, k) for k in ks]
    orders = RANKINGS[method].orders(data, ks)
    assert orders is not None
    assert [tuple(map(tuple, order.tolist())) for order in orders] == [one.classes for one in found]


def test_frequencies_count_k_features_of_every_image() -> None:
    data = make_data(2, levels=3)
    counts = frequencies(data, 5)
    assert counts.sum(1).tolist() == (5 * torch.bincount(data.labels)).tolist()
    assert counts.tolist() == twin_scores(data, "frequency", 5)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_largest_features_against_sorting(k: int) -> None:
    features: Tensor = make_data(8, n=200, d=7, levels=3).features
    for row, found in zip(features.tolist(), largest_features(features, k).tolist(), strict=True):
        assert sorted(found) == sorted(sorted(range(7), key=lambda j, row=row: (-row[j], -j))[:k])


def test_inputs_are_left_as_they_were() -> None:
    data = make_data(4)
    assert data.gates is not None
    before = data.features.clone(), data.labels.clone(), data.gates.clone()
    for method in RANKINGS:
        select(data, method, 3)
    assert torch.equal(data.gates, before[2])
    assert torch.equal(data.features, before[0])
    assert torch.equal(data.labels, before[1])


@pytest.mark.parametrize("levels", [1, 2, 3, 50, 5000])
@pytest.mark.parametrize("k", [1, 2, 5, 6, 19, 20])
def test_leading_features_against_sorting(k: int, levels: int) -> None:
    """Unlike the largest features, the leading ones are in order, so ties among them count as well."""
    features = make_data(8, n=200, d=20, levels=levels).features
    found = leading_features(features, k)
    assert found.dtype == torch.int64
    expected = [sorted(range(20), key=lambda j, row=row: (-row[j], -j))[:k] for row in features.tolist()]
    assert found.tolist() == expected


def test_leading_features_of_negative_and_signed_zero_values() -> None:
    rows = torch.tensor([[-2.0, -1.0, -2.0, -3.0], [0.0, -0.0, 0.0, -1.0], [1.0, 2.0, 3.0, 4.0]])
    assert leading_features(rows, 3).tolist() == [[1, 2, 0], [2, 1, 0], [3, 2, 1]]


def test_the_first_of_the_leading_features_do_not_depend_on_how_many_are_asked_for() -> None:
    features = make_data(9, n=100, levels=3).features
    whole = leading_features(features, 12)
    for k in range(1, 12):
        assert torch.equal(leading_features(features, k), whole[:, :k])


# ------------------------------------------------------------------------------------------------------------- gates


def gated(gates: Any, order: Order = "highest", classes: int = 2) -> LabelledFeatures:
    """Features that speak for the highest index throughout, so that only the gates can say otherwise."""
    features = torch.arange(1.0, 5).repeat(classes, 1)
    return LabelledFeatures(
        features, torch.arange(classes), None, [f"c{i}" for i in range(classes)], torch.tensor(gates), order
    )


def test_gates_are_ranked_from_the_highest_unless_told_otherwise() -> None:
    gates = [[0.1, 0.9, 0.0, 0.5], [1.0, 0.2, 0.3, 0.25]]
    assert select(gated(gates), "csg", 3).classes == ((1, 3, 0), (0, 2, 3))
    assert select(gated(gates, "lowest"), "csg", 3).classes == ((2, 0, 3), (1, 3, 2))
    bare = LabelledFeatures(torch.ones(1, 4), torch.tensor([0]), None, ["a"], torch.tensor(gates[:1]))
    assert select(bare, "csg", 1).classes == ((1,),)


@pytest.mark.parametrize("order", ORDERS)
def test_equal_gates_go_to_the_higher_index_in_either_order(order: Order) -> None:
    assert select(gated([[0.5, 0.5, 0.5, 0.5]], order, 1), "csg", 4).classes == ((3, 2, 1, 0),)
    expected = {"highest": (3, 1, 2, 0), "lowest": (2, 0, 3, 1)}[order]
    assert select(gated([[0.0, 1.0, 0.0, 1.0]], order, 1), "csg", 4).classes == (expected,)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("k", [1, 4, 12])
def test_gates_against_the_twin(k: int, order: Order) -> None:
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        gates = torch.randint(-3, 4, (4, 12), generator=generator) / 4
        data = make_data(seed)
        data = LabelledFeatures(data.features, data.labels, data.weight, data.class_names, gates, order)
        assert select(data, "csg", k).classes == twin_select(data, "csg", k)
        assert select(data, "weight", k).classes == twin_select(data, "weight", k)  # the order is about gates alone
        assert select(data, "frequency", k).classes == twin_select(data, "frequency", k)


def test_gates_that_differ_in_double_precision_only_are_told_apart() -> None:
    gates = torch.tensor([[0.5 + 1e-12, 0.5, 0.5 - 1e-12, 0.5 - 2e-12]], dtype=torch.float64)
    data = LabelledFeatures(torch.ones(1, 4), torch.tensor([0]), None, ["a"], gates)
    assert select(data, "csg", 4).classes == ((0, 1, 2, 3),)


def test_a_fraction_of_the_gates() -> None:
    gates = [[0.0, 0.5, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]]
    assert select(gated(gates), "csg", 0.5).classes == ((1,), (0,))
    assert select(gated(gates), "csg", 0.75).classes == ((1, 3), (0,))
    assert select(gated(gates), "csg", 0.76).classes == ((1, 3, 2), (0,))


def test_a_fraction_of_the_lowest_gates_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        select(gated([[0.0, 0.5, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]], "lowest"), "csg", 0.5)
    assert caught.value.message == "There is no fraction of the lowest gates; give a whole number of features."


def test_missing_gates_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        select(hand_made([[1, 2]], [0], [[1.0, 2.0]]), "csg", 1)
    assert caught.value.message == (
        "The method 'csg' needs class-specific gates, a matrix 'csg' in the weights file; there is none."
    )


@pytest.mark.parametrize("shape", [(2, 3), (3, 4), (4, 2), (4,), (2, 4, 1)])
def test_gates_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError) as caught:
        select(gated(torch.zeros(shape).tolist()), "csg", 1)
    assert caught.value.message == (
        f"The gates 'csg' in the weights file have the shape {shape}, but the network has 2 classes and 4 features."
    )


@pytest.mark.parametrize("method", [method for method in SCORED if method != "csg"])
def test_the_other_methods_do_not_look_at_gates(method: str) -> None:
    data = make_data(6)
    odd = LabelledFeatures(data.features, data.labels, data.weight, data.class_names, torch.zeros(1, 1), "lowest")
    assert select(odd, method, 4).classes == twin_select(data, method, 4)


@pytest.mark.parametrize("order", ["highest", "lowest"])
def test_orders_are_known_by_name(order: str) -> None:
    assert parse_order(order) == order


@pytest.mark.parametrize("text", ["", "Highest", "lowest ", "low", "ascending"])
def test_an_order_that_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_order(text)
    assert caught.value.message == f"order {text!r} is unknown; choose highest, lowest."


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("method", RANKINGS)
def test_more_features_than_there_are_is_refused(method: str) -> None:
    with pytest.raises(InputError, match=r"^k 13 is more than the 12 features that there are\.$"):
        select(make_data(), method, 13)


@pytest.mark.parametrize("method", ["frequency", "mean", "mass", "contribution"])
def test_a_class_without_images_is_refused(method: str) -> None:
    data = LabelledFeatures(torch.ones(2, 3), torch.tensor([0, 2]), torch.ones(3, 3), ["cat", "dog", "frog"])
    with pytest.raises(InputError) as caught:
        select(data, method, 1)
    assert caught.value.message == (
        "There are no images in this split for 1 of the network's 3 classes (dog), so features cannot be ranked."
    )


@pytest.mark.parametrize(("missing", "named"), [(3, "b, c, d"), (4, "b, c, d, ...")])
def test_only_the_first_classes_without_images_are_named(missing: int, named: str) -> None:
    with pytest.raises(InputError, match=rf"{missing} of the network's 6 classes \({re.escape(named)}\)"):
        check_classes(torch.tensor([0, *range(missing + 1, 6)]), "abcdef")


@pytest.mark.parametrize("method", ["contribution", "weight"])
def test_a_missing_full_head_is_refused(method: str) -> None:
    with pytest.raises(InputError) as caught:
        select(hand_made([[1, 2]], [0]), method, 1)
    expected = f"The method '{method}' needs the full head, which a decomposed checkpoint no longer has."
    assert caught.value.message == expected


@pytest.mark.parametrize("method", ["frequency", "mean", "mass"])
def test_the_other_methods_need_no_head(method: str) -> None:
    assert select(hand_made([[1, 2]], [0]), method, 1).classes == ((1,),)


def test_mass_of_negative_features_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        select(hand_made([[1, -0.5]], [0]), "mass", 1)
    assert caught.value.message == "The method 'mass' needs features that are not negative, and this network's are."


@pytest.mark.parametrize(
    ("method", "rows", "weight"),
    [("mean", [[1, -0.5]], None), ("weight", [[1, 1]], [[1.0, -1.0]]), ("contribution", [[1, 1]], [[1.0, -1.0]])],
)
def test_a_fraction_of_negative_scores_is_refused(method: Any, rows: list[list[float]], weight: Any) -> None:
    with pytest.raises(InputError) as caught:
        select(hand_made(rows, [0], weight), method, 0.5)
    expected = (
        f"A fraction needs scores that are not negative, and those of '{method}' are; give a whole number of features."
    )
    assert caught.value.message == expected


@pytest.mark.parametrize("method", ["mean", "mass"])
def test_a_fraction_of_nothing_is_refused(method: str) -> None:
    with pytest.raises(InputError) as caught:
        select(hand_made([[1, 2], [0, 0]], [0, 1]), method, 0.5)
    assert caught.value.message == "All features of class 1 (c1) are zero; no fraction can be kept."


# ---------------------------------------------------------------------------------------------------------- parsing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", [5]),
        ("5,10,20", [5, 10, 20]),
        ("20,5,10", [20, 5, 10]),
        (" 5 , 10 ", [5, 10]),
        ("5,5,10,5", [5, 10]),
        ("007", [7]),
        ("0.9", [0.9]),
        (".5,1e-3", [0.5, 0.001]),
        ("5,0.5,0.50", [5, 0.5]),
    ],
)
def test_k_is_read(text: str, expected: list[int | float]) -> None:
    found = parse_k(text)
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", ""),
        ("five", "five"),
        ("0", "0"),
        ("-3", "-3"),
        ("+3", "+3"),
        ("1.0", "1.0"),
        ("0.0", "0.0"),
        ("2.5", "2.5"),
        ("-0.5", "-0.5"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("5,x,10", "x"),
        ("5;10", "5;10"),
        ("\u0665", "\u0665"),
        ("\u00b2", "\u00b2"),
        ("0x10", "0x10"),
        ("1_0", "1_0"),
    ],
)
def test_k_that_is_refused(text: str, named: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_k(text)
    expected = f"k {named!r} is neither a whole number of at least 1 nor a fraction between 0 and 1."
    assert caught.value.message == expected


@pytest.mark.parametrize("text", ["5,", ",5", "5,,10", ","])
def test_a_comma_too_many_is_named_as_one(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_k(text)
    assert caught.value.message == f"k {text!r} has a comma with no number beside it."


@pytest.mark.parametrize("text", ["1000000000", "0001000000000", "9" * 5000])
def test_a_number_beyond_any_network_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^k 0*[19].* is more than any network has features"):
        parse_k(text)


@pytest.mark.parametrize("method", RANKINGS)
def test_methods_are_known_by_name(method: str) -> None:
    assert parse_method(method) == method


@pytest.mark.parametrize("text", ["", "Frequency", "frequency ", "random"])
def test_a_method_that_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_method(text)
    expected = f"method {text!r} is unknown; choose {', '.join(RANKINGS)}."
    assert caught.value.message == expected
