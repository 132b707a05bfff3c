"""The measures beside accuracy against their equations, written out in float64 loops."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from decompose_cli.sparse import measures
from decompose_cli.sparse.measures import (
    LocalDiversity,
    OneDifference,
    Spread,
    class_independence,
    classes_per_feature,
    contrastiveness,
    correlation,
    measure,
    nec,
    one_difference,
)

CLASSES, FEATURES, IMAGES = 4, 7, 90


def images(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features that are partly negative, partly cut off at zero; one is constant."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (IMAGES,), generator=generator)
    centres = 2 * torch.randn(CLASSES, FEATURES, generator=generator)
    x = centres[labels] + torch.randn(IMAGES, FEATURES, generator=generator)
    x[:, :3] = x[:, :3].relu()
    x[:, 4] = 0.1
    return x, labels


VARYING = [0, 1, 2, 3, 5, 6]


@pytest.fixture(params=[1 << 22, 20])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "_VALUES_AT_ONCE", request.param)


@pytest.mark.usefixtures("_blocks")
def test_class_independence() -> None:
    x, labels = images()
    largest = []
    for f in VARYING:
        column = [float(value) for value in x[:, f]]
        above = [value - min(column) for value in column]
        of_class = [sum(v for v, y in zip(above, labels.tolist(), strict=True) if y == c) for c in range(CLASSES)]
        largest.append(max(of_class) / sum(above))
    expected = 1 - sum(largest) / len(largest)
    assert class_independence(x, labels, CLASSES) == pytest.approx(expected, rel=1e-12)
    assert class_independence(x, labels, CLASSES + 2) == pytest.approx(expected, rel=1e-12), "classes without images"


def test_class_independence_of_features_that_one_class_or_every_class_has() -> None:
    labels = torch.arange(20) % 4
    own = torch.nn.functional.one_hot(labels, 4).float()
    assert class_independence(own, labels, 4) == 0
    everyones = (torch.arange(20) < 8).float()[:, None]
    assert class_independence(everyones, labels, 4) == pytest.approx(0.75)
    one_image = torch.tensor([[3.0], [1.0], [1.0]])
    assert class_independence(one_image, torch.tensor([2, 0, 0]), 4) == 0


@pytest.mark.usefixtures("_blocks")
def test_correlation() -> None:
    x, _ = images()
    largest = []
    for f in VARYING:
        cosines = []
        for g in VARYING:
            if g != f:
                a, b = x[:, f].tolist(), x[:, g].tolist()
                product = sum(p * q for p, q in zip(a, b, strict=True))
                cosines.append(product / math.sqrt(sum(p * p for p in a) * sum(q * q for q in b)))
        largest.append(max(cosines))
    assert correlation(x) == pytest.approx(sum(largest) / len(largest), rel=1e-12)


def test_features_that_are_the_same_have_a_correlation_of_one() -> None:
    x, _ = images()
    assert correlation(torch.cat([x, 3 * x], 1)) == pytest.approx(1)
    opposite = torch.tensor([[1.0, -1.0], [2.0, -2.0]])
    assert correlation(opposite) == pytest.approx(-1), "signed, as published"


def test_contrastiveness() -> None:
    """From scikit-learn's fits to the raw values, and the integral as a sum over a fine grid."""
    x, _ = images()
    overlaps = []
    for f in VARYING:
        column = x[:, f : f + 1].double().numpy()
        deviation = column.std()
        fitted = GaussianMixture(2, random_state=0, reg_covar=1e-6 * deviation**2).fit(column)
        deviations = np.sqrt(fitted.covariances_.ravel())
        grid = np.linspace(column.min() - 10 * deviation, column.max() + 10 * deviation, 2_000_001)
        densities = [
            np.exp(-(((grid - mean) / s) ** 2) / 2) / (s * math.sqrt(2 * math.pi))
            for mean, s in zip(fitted.means_.ravel(), deviations, strict=True)
        ]
        overlaps.append(np.minimum(*densities).sum() * (grid[1] - grid[0]))
    assert contrastiveness(x) == pytest.approx(1 - np.mean(overlaps), abs=1e-4)


def test_contrastiveness_of_switches_and_of_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2000, 1, generator=generator)
    switch = (torch.arange(2000) % 3 == 0).float()[:, None] * 20 + noise
    found = contrastiveness(switch), contrastiveness(noise)
    assert found[0] is not None
    assert found[1] is not None
    assert found[0] > 0.999 > 0.9 > found[1]
    assert contrastiveness(torch.tensor([[0.0], [1.0]])) == pytest.approx(1), "two images"


def test_contrastiveness_is_of_some_images_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = images()
    few = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))[:50].sort().values
    expected = contrastiveness(x[few])
    monkeypatch.setattr(measures, "_IMAGES_OF_MIXTURES", 50)
    assert contrastiveness(x) == expected != contrastiveness(x.flip(0)[:50])
    assert measure(x, labels, torch.ones(CLASSES, FEATURES, dtype=torch.bool)).contrastiveness == expected


def support_of(*classes: tuple[int, ...], features: int = FEATURES) -> Tensor:
    rows = torch.zeros(len(classes), features, dtype=torch.bool)
    for row, own in zip(rows, classes, strict=True):
        row[list(own)] = True
    return rows


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_local_diversity(batch: int) -> None:
    generator = torch.Generator().manual_seed(1)
    count, height, width = 20, 3, 2
    maps = 3 * torch.randn(count, FEATURES, height, width, generator=generator)
    maps[3] = 0
    maps[4] = 1e-7 * maps[4]
    weights = torch.randn(CLASSES, FEATURES, generator=generator)
    weights[2] = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0])  # equal ones: the lower index
    support = support_of((0, 2, 3, 4, 5, 6), (1, 2, 3, 4), tuple(range(FEATURES)), (0, 1, 3, 5, 6))
    predicted = torch.arange(count) % CLASSES
    values = []
    for image, number in zip(maps, predicted.tolist(), strict=True):
        own = support[number].nonzero()[:, 0].tolist()
        if len(own) < 5:
            continue
        five = sorted(own, key=lambda f, number=number: (-float(weights[number, f]), f))[:5]
        shares = []
        for f in five:
            positions = [float(value) for value in image[f].flatten()]
            mean = max(sum(map(abs, positions)) / len(positions), 1e-5)
            powers = [math.exp(value / mean) for value in positions]
            shares.append([power / sum(powers) for power in powers])
        values.append(sum(max(share[p] for share in shares) for p in range(height * width)) / 5)
    diversity = LocalDiversity(weights, support)
    assert diversity.value is None
    for start in range(0, count, batch):
        diversity.add(maps[start : start + batch], predicted[start : start + batch])
    assert diversity.images == len(values) == 15
    assert diversity.value == pytest.approx(sum(values) / len(values), rel=1e-9)


def test_local_diversity_is_between_maps_that_are_alike_and_apart() -> None:
    apart = 1000 * torch.eye(5).view(1, 5, 1, 5)  # each five times its mean at one of five positions
    alike = torch.ones(1, 5, 1, 5)
    for maps, expected in ((apart, math.exp(5) / (math.exp(5) + 4)), (alike, 0.2)):
        diversity = LocalDiversity(torch.ones(1, 5), torch.ones(1, 5, dtype=torch.bool))
        diversity.add(maps, torch.tensor([0]))
        assert diversity.value == pytest.approx(expected)


def test_local_diversity_without_five_features_is_undefined() -> None:
    diversity = LocalDiversity(torch.ones(1, 4), torch.ones(1, 4, dtype=torch.bool))
    diversity.add(torch.rand(3, 4, 2, 2), torch.tensor([0, 0, 0]))
    assert (diversity.value, diversity.images) == (None, 0)


def test_classes_per_feature() -> None:
    assert classes_per_feature(support_of((0, 1), (1, 2), (1,), ())) == Spread(1, 5 / 3, 3)
    assert classes_per_feature(support_of((), ())) is None


@pytest.mark.parametrize("at_once", [1, 3, 1024])
def test_pairs_of_classes_that_differ_in_one_feature(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "_CLASSES_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    support = torch.rand(30, 6, generator=generator) < 0.5
    support[7] = False
    sets = [set(row.nonzero()[:, 0].tolist()) for row in support]
    expected = [
        OneDifference((a, b), (*(sets[a] - sets[b]), *(sets[b] - sets[a])))  # type: ignore[arg-type]
        for a in range(30)
        for b in range(a + 1, 30)
        if len(sets[a] - sets[b]) == len(sets[b] - sets[a]) == 1
    ]
    assert len(expected) > 20
    assert one_difference(support) == (len(expected), tuple(expected[:10]))
    assert one_difference(support, 1000) == (len(expected), tuple(expected))


def test_sets_that_are_equal_or_one_larger_do_not_differ_in_one_feature() -> None:
    assert one_difference(support_of((0, 1), (0, 1), (0, 1, 2), (), ())) == (0, ())
    assert one_difference(support_of((3,), (5,))) == (1, (OneDifference((0, 1), (3, 5)),))
    assert one_difference(support_of((3,))) == (0, ())


def test_all_measures_are_of_the_features_in_use() -> None:
    x, labels = images()
    support = support_of((0, 3), (3, 5), (4, 0), ())
    found = measure(x, labels, support, sid5=0.5)
    used = x[:, [0, 3, 5]]
    assert found == measures.Measures(
        features_used=4,  # one of them constant
        classes_per_feature=Spread(1, 1.5, 2),
        class_independence=class_independence(used, labels, CLASSES),
        contrastiveness=contrastiveness(used),
        correlation=correlation(used),
        sid5=0.5,
        one_difference=2,
        pairs=(OneDifference((0, 1), (0, 5)), OneDifference((0, 2), (3, 4))),
    )


def test_features_in_use_are_copied_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four features in use, one of them constant, 10 images at a time; not all that there are."""
    generator = torch.Generator().manual_seed(4)
    x, labels = torch.rand(200, 9, generator=generator), torch.arange(200) % 3
    x[:, 5] = 1
    support = torch.zeros(3, 9, dtype=torch.bool)
    support[0, [1, 5]] = support[1, [1, 4]] = support[2, 8] = True
    alone = x[:, [1, 4, 5, 8]]
    expected = class_independence(alone, labels, 3), contrastiveness(alone), correlation(alone)
    monkeypatch.setattr(measures, "_VALUES_AT_ONCE", 30)
    rows = [rows for rows, block in measures._blocks(x, torch.tensor([1, 4, 8])) if block.shape == (10, 3)]
    assert len(rows) == 20
    found = measure(x, labels, support)
    assert found.features_used == 4
    assert (found.class_independence, found.contrastiveness, found.correlation) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("classes", "defined"), [((), ()), ((4,), ()), ((4, 3), ("class_independence", "contrastiveness"))]
)
def test_what_is_undefined_is_none(classes: tuple[int, ...], defined: tuple[str, ...]) -> None:
    x, labels = images()
    found = measure(x, labels, support_of(classes, (), (), ()))
    assert found.features_used == len(classes)
    for name in ("class_independence", "contrastiveness", "correlation", "sid5"):
        assert (getattr(found, name) is not None) == (name in defined), name


def test_one_image_defines_nothing() -> None:
    found = measure(torch.rand(1, 3), torch.tensor([0]), torch.ones(2, 3, dtype=torch.bool))
    assert (found.class_independence, found.contrastiveness, found.correlation) == (None, None, None)


def test_accuracy_at_few_features() -> None:
    def accuracy(number: int) -> float:
        return 100 - 60 / number

    found = nec(64, accuracy)
    assert list(found.accuracy) == [5, 10, 15, 20, 25, 30]
    assert found.mean == pytest.approx(sum(100 - 60 / n for n in (5, 10, 15, 20, 25, 30)) / 6)
    few = nec(12, accuracy)
    assert few.accuracy == {5: 88, 10: 94, 15: None, 20: None, 25: None, 30: None}
    assert few.mean == 91
    assert nec(4, accuracy).mean is None
    assert doctest.testmod(measures) == (0, 1)
