"""Classes without images, which keep all features: in index sets, rankings, curves, searches and fits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from decompose_cli.decomposition import curves, growing_sets
from decompose_cli.decomposition.curves import accuracy_by_k
from decompose_cli.decomposition.heads import decomposed_head
from decompose_cli.decomposition.index_set import IndexSet, index_set_from_json, index_set_text, read_index_set
from decompose_cli.decomposition.metrics import Predictions, predict
from decompose_cli.decomposition.ranking import RANKINGS, select
from decompose_cli.decomposition.shrinking import shrink
from decompose_cli.decomposition.sparse_heads import fit_head
from decompose_cli.errors import InputError
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.models.network import HeadTensors
from decompose_cli.sparse.searches import dense_start, problem_of, rest_of
from decompose_cli.sparse.strength import losses_of

C, D, N = 6, 9, 90
PRESENT = [1, 4, 5]
FITTED = [name for name, ranking in RANKINGS.items() if ranking.is_fitted]
SCORED = [name for name, ranking in RANKINGS.items() if not ranking.is_fitted]
EVERYTHING = tuple(range(D))


def make_case(seed: int = 0, levels: int | None = None) -> tuple[LabelledFeatures, HeadTensors]:
    """Images of three of six classes; with ``levels`` few values, all multiples of 1/8, so that sums are exact."""
    generator = torch.Generator().manual_seed(seed)
    weight, gates = torch.randn(C, D, generator=generator), torch.rand(C, D, generator=generator)
    labels = torch.tensor(PRESENT)[torch.arange(N) % 3]
    features = (weight[labels] + torch.randn(N, D, generator=generator)).relu()
    bias = torch.randn(C, generator=generator) / 4
    if levels is not None:
        features, weight, bias = ((each * levels).round() / 8 for each in (features, weight, bias))
    data = LabelledFeatures(features, labels, weight, list("abcdef"), gates, bias=bias, l2=1e-2)
    return data.holding_empty(), HeadTensors("dense", "fc", weight, bias, D)


def logits_by_loop(head: HeadTensors, features: Tensor, classes: Any) -> list[list[float]]:
    """The definition with loops, in double precision."""
    weight, bias = head.weight.double().tolist(), head.bias.double().tolist()
    return [
        [bias[c] + sum(weight[c][j] * image[j] for j in row) for c, row in enumerate(classes)]
        for image in features.double().tolist()
    ]


# --------------------------------------------------------------------------------------------------------- index sets


def whole_set() -> IndexSet:
    return IndexSet(((2, 1), (5,)), D, {"method": "x"}, "x").spread(4, [0, 3])


def test_a_set_is_spread_over_more_classes() -> None:
    found = whole_set()
    assert found.classes == ((2, 1), EVERYTHING, EVERYTHING, (5,))
    assert found.whole == {1, 2}
    assert (found.sizes, found.largest_k, found.k_label) == ((1, 2), 2, "1-2")
    again = found.spread(5, [0, 2, 3, 4])
    assert again.classes == ((2, 1), EVERYTHING, EVERYTHING, EVERYTHING, (5,))
    assert again.whole == {1, 2, 3}
    assert found.fitted_to(4, D).whole == {1, 2}


def test_a_set_of_some_classes() -> None:
    found = whole_set().of_classes([3, 2, 0])
    assert (found.classes, found.whole) == (((5,), EVERYTHING, (2, 1)), {1})


def test_a_file_has_a_word_for_a_whole_class(tmp_path: Path) -> None:
    path = tmp_path / "indices.json"
    path.write_text(index_set_text(whole_set()))  # the published layout has no place for D
    content = json.loads(path.read_text())
    assert content["classes"] == [[2, 1], "all", "all", [5]]
    assert (content["num_features"], content["format_version"]) == (D, 2)
    read = read_index_set(path)
    assert (read, read.whole, read.num_features) == (whole_set(), {1, 2}, D)


def test_a_file_without_whole_classes_is_as_it_was() -> None:
    one = IndexSet((EVERYTHING, (1,)), D)
    assert index_set_text(one) == json.dumps({"0": list(EVERYTHING), "1": [1]}) + "\n"
    assert json.loads(index_set_text(one, document=True))["format_version"] == 1


def test_files_of_a_thousand_classes_stay_small() -> None:
    text = index_set_text(IndexSet(((1, 2),) * 3, 2048).spread(1000, [0, 5, 700]))
    assert len(text) < 10_000


@pytest.mark.parametrize(
    ("content", "num_features", "sentence"),
    [
        ([[1], "all"], None, "x: class 1 has all features, but the file does not say how many there are."),
        (["all", "all"], 9, "x has all features of every class, so none were chosen."),
        ([[1], "ALL"], 9, "x: class 1 has 'ALL', not a list of indices."),
        ([[1], "all"], 10**12, "x: num_features is 1,000,000,000,000; no network has so many."),
    ],
)
def test_the_word_where_it_means_nothing(content: Any, num_features: int | None, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        index_set_from_json(content, "x", num_features)
    assert caught.value.message == sentence


def test_a_whole_class_has_all_features_in_their_order() -> None:
    with pytest.raises(InputError, match="class 1 keeps its whole row, but has not all features"):
        IndexSet(((1,), (1, 0)), 2, whole=frozenset({1}))


def test_a_set_of_fewer_classes_says_what_it_goes_with() -> None:
    with pytest.raises(InputError, match="has 2 classes, but the network has 3") as caught:
        IndexSet(((1,), (2,)), D).fitted_to(3, D)
    assert "classes present" in str(caught.value.hint)


# ----------------------------------------------------------------------------------------------------------- rankings


@pytest.mark.parametrize("k", [1, 3, D])
@pytest.mark.parametrize("method", SCORED)
def test_a_ranking_of_the_classes_with_images_alone_and_all_features_of_the_others(method: str, k: int) -> None:
    data, _ = make_case()
    found = select(data, method, k)
    alone = select(data.of_classes(torch.tensor(PRESENT)), method, k)
    assert [found.classes[number] for number in PRESENT] == list(alone.classes)
    assert all(found.classes[number] == EVERYTHING for number in (0, 2, 3))
    assert found.whole == {0, 2, 3}
    assert [one.classes for one in RANKINGS[method].sets(data, [k])] == [found.classes]


def test_a_fraction() -> None:
    data, _ = make_case()
    found, alone = select(data, "mass", 0.5), select(data.of_classes(torch.tensor(PRESENT)), "mass", 0.5)
    assert [found.classes[number] for number in PRESENT] == list(alone.classes)


def test_the_mean_against_a_loop() -> None:
    data, _ = make_case()
    found = select(data, "mean", 2)
    for number in PRESENT:
        mine = data.features[data.labels == number].double().tolist()
        means = [sum(row[j] for row in mine) / len(mine) for j in range(D)]
        assert list(found.classes[number]) == sorted(range(D), key=lambda j, means=means: -means[j])[:2]


@pytest.mark.parametrize("method", FITTED)
def test_rankings_by_fits_leave_the_others_whole(method: str) -> None:
    data, _ = make_case()
    found = select(data.for_fits(), method, 2)
    assert found.whole == {0, 2, 3}
    assert {len(found.classes[number]) for number in PRESENT} == {2}


# ------------------------------------------------------------------------------------------------- curves and searches


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("method", SCORED)
def test_curves_are_those_of_each_head_alone_and_of_a_loop(
    method: str, levels: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, head = make_case(levels=levels)
    found = dict(accuracy_by_k(data, data.features, data.labels, head, range(1, D + 1), method))
    for k, predictions in found.items():
        index_set = select(data, method, k)
        alone = predict(decomposed_head(head, index_set), data.features, data.labels, C)
        assert torch.equal(predictions.predictions, alone.predictions)
        by_loop = [row.index(max(row)) for row in logits_by_loop(head, data.features, index_set.classes)]
        assert predictions.predictions.tolist() == by_loop
    assert len({tuple(one.predictions.tolist()) for one in found.values()}) > 1
    monkeypatch.setattr(growing_sets, "_DENSE_SHARE", 0)  # each head from what the one before gains and loses
    changed = dict(curves.accuracy_by_k(data, data.features, data.labels, head, range(1, D + 1), method))
    for k, predictions in changed.items():
        assert torch.equal(predictions.predictions, found[k].predictions)


def test_shrinking_takes_features_from_chosen_rows_alone() -> None:
    data, head = make_case()
    widest = select(data, "mean", 4)
    full = predict(decomposed_head(head, select(data, "mean", D)), data.features, data.labels, C)
    shrunk = shrink(data.features, full, head, widest.classes, 60.0, held=data.held)
    assert all(shrunk.classes[number] == EVERYTHING for number in (0, 2, 3))
    sizes = {len(shrunk.classes[number]) for number in PRESENT}
    assert max(sizes) <= 4
    assert sum(len(shrunk.classes[number]) for number in PRESENT) < 12
    # Without the mask, rows of classes without images would be cheapest.
    free = shrink(data.features, full, head, widest.classes, 60.0)
    assert any(len(free.classes[number]) < D for number in (0, 2, 3))


# --------------------------------------------------------------------------------------------------------------- fits


def objective(data: LabelledFeatures, weight: Tensor, bias: Tensor, l2: float) -> Tensor:
    """Mean cross-entropy plus the penalty, where labels give up what the full head gives to classes without images."""
    assert data.weight is not None
    assert data.bias is not None
    x = data.features.double()
    full = torch.softmax(x @ data.weight.double().t() + data.bias.double(), 1)
    absent = [0, 2, 3]
    targets = torch.zeros(N, C, dtype=torch.float64)
    for image, label in enumerate(data.labels.tolist()):
        targets[image, absent] = full[image, absent]
        targets[image, label] = 1 - full[image, absent].sum()
    logits = x @ weight.t() + bias
    deviation = x.std(0, correction=0)
    fitted = weight[PRESENT] * deviation
    return -(targets * logits.log_softmax(1)).sum(1).mean() + l2 / 2 * fitted.square().sum()


def test_a_fit_leaves_rows_without_images_and_is_the_minimum_for_the_others() -> None:
    data, head = make_case()
    index_set, l2 = select(data, "mean", 3), 0.02
    found = fit_head(data.for_fits(), index_set, "real", l2)
    assert found.index_set.whole == {0, 2, 3}
    for number in (0, 2, 3):
        assert torch.equal(found.weight[number], head.weight[number].double())
        assert torch.equal(found.bias[number], head.bias[number].double())
    assert float(objective(data, found.weight, found.bias, 0.0)) == pytest.approx(found.loss, rel=1e-6)

    def slope(weight: Tensor, bias: Tensor) -> float:
        """The steepest slope of the objective along a weight or bias that is fitted."""
        weight, bias = weight.double().requires_grad_(), bias.double().requires_grad_()
        by_weight, by_bias = torch.autograd.grad(objective(data, weight, bias, l2), (weight, bias))
        rows = [by_weight[number, list(index_set.classes[number])] for number in PRESENT]
        return float(torch.cat([*rows, by_bias[PRESENT]]).abs().max())

    cut = decomposed_head(head, index_set)
    assert slope(found.weight.clone(), found.bias.clone()) < 1e-3
    assert slope(torch.zeros(C, D).scatter(1, cut.indices, (cut.weight * cut.mask).detach()), cut.bias.detach()) > 0.05
    for number in PRESENT:
        others = [j for j in EVERYTHING if j not in index_set.classes[number]]
        assert not found.weight[number, others].any()
    predicted: Predictions = found.predict(data.features, data.labels)
    assert predicted.correct > 0


@pytest.mark.parametrize("kind", ["labels", "targets"])
def test_a_problem_is_of_the_classes_with_images_beside_all_others(kind: str) -> None:
    """Of some of the images, in their order, and with other rows than those that images were drawn by."""
    data, _ = make_case()
    assert data.weight is not None
    assert data.bias is not None
    numbers = torch.randperm(N, generator=torch.Generator().manual_seed(2))[:40]
    data = dataclasses.replace(data, image_weights=torch.arange(1.0, N + 1))
    some = (data if kind == "labels" else data.for_fits()).of_images(numbers)
    problem = problem_of(some)
    assert problem.num_classes == len(PRESENT)
    value, gradient = problem.value_and_gradient(dense_start(some, problem))
    bias = data.bias.double().requires_grad_()
    x, a = data.features[numbers].double(), torch.arange(1.0, N + 1)[numbers].double()
    logs = (x @ data.weight.double().t() + bias).log_softmax(1)
    targets = torch.nn.functional.one_hot(data.labels[numbers], C).double() if some.targets is None else some.targets
    expected = -(a[:, None] * targets * logs).sum() / a.sum()
    assert value == pytest.approx(float(expected.detach()), rel=1e-6)
    torch.testing.assert_close(gradient[:, -1], torch.autograd.grad(expected, bias)[0][PRESENT], rtol=1e-6, atol=1e-7)


def test_images_that_choose_may_be_of_any_class() -> None:
    data, head = make_case()
    generator = torch.Generator().manual_seed(4)
    x, labels = torch.randn(50, D, generator=generator).double(), torch.arange(50) % C
    problem = problem_of(data.for_fits())
    rest = rest_of(data, x, labels)
    found = losses_of(problem, dense_start(data, problem), x, data.places(labels), rest)
    rows = logits_by_loop(head, x, (EVERYTHING,) * C)
    expected = torch.nn.functional.cross_entropy(torch.tensor(rows, dtype=torch.float64), labels, reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("values", ["real", "nonnegative", "ternary", "binary"])
def test_a_head_is_the_same_on_standardised_features(values: Any) -> None:
    data, head = make_case()
    found = fit_head(data.for_fits(), select(data, "mean", 3), values, 0.02)
    x = data.features.double()
    z = (x - x.mean(0)) / x.std(0, correction=0)
    on_x = x @ found.weight.t() + found.bias
    torch.testing.assert_close(z @ found.on_z[:, :-1].t() + found.on_z[:, -1], on_x, rtol=1e-9, atol=1e-9)
    others = [number for number in range(C) if number not in PRESENT]
    assert torch.equal(found.weight[others], head.weight[others].double())
    if found.values is not None:
        assert not found.values.integers[others].any()
        assert (found.values.integers[PRESENT] != 0).sum(1).tolist() == [3, 3, 3]


def test_rows_that_stay_keep_features_that_no_image_varies() -> None:
    data, head = make_case()
    features = data.features.clone()
    features[:, 2] = 0
    data = dataclasses.replace(data, features=features)
    found = fit_head(data.for_fits(), select(data, "mean", 3), "real", 0.02)
    for number in (0, 2, 3):
        assert torch.equal(found.weight[number], head.weight[number].double())
        assert torch.equal(found.bias[number], head.bias[number].double())


def test_without_a_full_head_a_class_without_images_is_refused() -> None:
    data, _ = make_case()
    with pytest.raises(InputError, match="no images in this split for 3 of the network's 6 classes"):
        LabelledFeatures(data.features, data.labels, None, list("abcdef")).holding_empty()
