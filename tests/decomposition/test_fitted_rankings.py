"""Rankings that are made of fits: what sets they give, and that these are better than sets by a simple score."""

from __future__ import annotations

import pytest
import torch

from decompose_cli.decomposition.ranking import RANKINGS, select
from decompose_cli.decomposition.sparse_heads import fit_head, mask_of
from decompose_cli.errors import InputError
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.sparse.problem import Problem
from decompose_cli.sparse.refit import refit

FITTED = [name for name, ranking in RANKINGS.items() if ranking.is_fitted]
CLASSES, FEATURES = 4, 12


def features(seed: int = 0, count: int = 400) -> LabelledFeatures:
    """Features of which some say something of a class, some are noise, and two are copies."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    centres = torch.randn(CLASSES, FEATURES, generator=generator) * (torch.arange(FEATURES) < 7)
    x = centres[labels] + torch.randn(count, FEATURES, generator=generator)
    x[:, 11] = x[:, 0]
    weight = centres + 0.3 * torch.randn(CLASSES, FEATURES, generator=generator)
    names = [f"c{number}" for number in range(CLASSES)]
    return LabelledFeatures(x.relu(), labels, weight, names, bias=torch.zeros(CLASSES))


def loss_at(data: LabelledFeatures, classes: tuple[tuple[int, ...], ...]) -> float:
    support = torch.zeros(CLASSES, FEATURES, dtype=torch.bool)
    for number, row in enumerate(classes):
        support[number, list(row)] = True
    return refit(Problem(data.features, data.labels, CLASSES), support, data.l2, tolerance=1e-9).objective


@pytest.mark.parametrize("method", FITTED)
def test_sets_have_k_features_each_and_lose_less_than_those_of_a_score(method: str) -> None:
    ours = theirs = 0.0
    for seed in range(3):
        data = features(seed)
        sets = list(RANKINGS[method].sets(data, [1, 3, FEATURES]))
        assert [found.sizes for found in sets] == [(1, 1), (3, 3), (FEATURES, FEATURES)]
        assert all(found.num_features == FEATURES for found in sets)
        if seed == 0:
            assert select(data, method, 3).classes == sets[1].classes, "one k alone gives the same"
        by_score = select(data, "mean", 3)
        ours, theirs = ours + loss_at(data, sets[1].classes), theirs + loss_at(data, by_score.classes)
        head = fit_head(data, sets[1], "real", data.l2)
        sizes = (head.weight.abs() * data.features.double().std(0, correction=0)).gather(
            1, torch.tensor(sets[1].classes)
        )
        assert bool((sizes[:, :-1] >= sizes[:, 1:] - 1e-4).all()), "the strongest first"
    assert ours < theirs


@pytest.mark.parametrize("method", FITTED)
def test_a_network_without_a_full_head_gets_one_fitted(method: str) -> None:
    data = features()
    bare = LabelledFeatures(data.features, data.labels, None, data.class_names)
    assert select(bare, method, 2).sizes == (2, 2)


@pytest.mark.parametrize("method", FITTED)
def test_fractions_and_classes_without_images_are_refused(method: str) -> None:
    data = features()
    with pytest.raises(InputError, match=f"'{method}' has no scores, so there is no fraction"):
        select(data, method, 0.5)
    few = data.labels != 2
    with pytest.raises(InputError, match="no images in this split for 1 of the network's 4 classes"):
        select(LabelledFeatures(data.features[few], data.labels[few], data.weight, data.class_names), method, 2)


@pytest.mark.parametrize("values", ["real", "nonnegative", "ternary", "binary"])
def test_heads_have_the_values_that_they_promise(values: str) -> None:
    data = features()
    index_set = select(data, "contribution", 3)
    head = fit_head(data, index_set, values, 1e-3)  # type: ignore[arg-type]
    on_z = head.weight * data.features.double().std(0, correction=0)
    kept = on_z[mask_of(head.index_set, FEATURES)]
    assert not on_z[~mask_of(head.index_set, FEATURES)].any()
    if values == "nonnegative":
        assert float(kept.min()) >= 0
    if values in ("ternary", "binary"):
        assert head.values is not None
        a = float(head.values.scale)
        torch.testing.assert_close(kept.abs(), torch.full_like(kept, a))
        torch.testing.assert_close(head.values.folded(), head.weight)
        assert set(head.values.integers.unique().tolist()) <= ({0, 1} if values == "binary" else {-1, 0, 1})
    if values == "binary":
        assert len({frozenset(row) for row in head.index_set.classes}) == CLASSES
        assert head.index_set.sizes == (3, 3)
    logits = data.features.double() @ head.weight.t() + head.bias
    assert head.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, data.labels)), rel=1e-6)


def test_more_classes_than_sets_are_refused_for_binary_weights() -> None:
    data = features()
    two = LabelledFeatures(data.features[:, :3], data.labels, data.weight[:, :3], data.class_names)  # type: ignore[index]
    with pytest.raises(InputError, match="values binary"):
        fit_head(two, select(two, "mean", 3), "binary", 1e-3)
