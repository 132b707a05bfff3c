"""The smallest index set, against a twin that builds the head anew for every candidate."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor

from decompose_cli.decomposition.metrics import Predictions
from decompose_cli.decomposition.shrinking import Shrunk, class_loss_bound, loss_bound, shrink, smallest_k
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.network import HeadTensors
from decompose_cli.statistics import paired_difference_interval

Case = tuple[Tensor, Predictions, HeadTensors, list[list[int]]]


def make_case(seed: int, c: int = 4, d: int = 8, n: int = 90, levels: int = 5, ragged: bool = False) -> Case:
    """Features, weights and bias are multiples of 1/8, so sums are exact; equal counts and logits abound."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % c
    centres = torch.randint(0, levels, (c, d), generator=generator) / 8
    noise = torch.randint(-3, 4, (n, d), generator=generator) / 8
    features = (centres[labels] + noise).relu()
    weight = centres * 2 + torch.randint(-1, 2, (c, d), generator=generator) / 8
    bias = -torch.randint(0, levels, (c,), generator=generator) / 8
    head = HeadTensors("dense", "fc", weight, bias, d)
    full = Predictions((features @ weight.T + bias).argmax(1), labels)
    rows = [torch.randperm(d, generator=generator).tolist() for _ in range(c)]
    if ragged:
        lengths = torch.randint(1, d + 1, (c,), generator=generator).tolist()
        rows = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    return features, full, head, rows


def outcomes(features: Tensor, labels: Tensor, head: HeadTensors, rows: list[list[int]]) -> list[bool]:
    with torch.no_grad():
        predicted = DecomposedLinear.from_dense(head.weight, head.bias, rows)(features).argmax(1)
    return [a == b for a, b in zip(predicted.tolist(), labels.tolist(), strict=True)]


def plain_outcomes(features: Tensor, labels: Tensor, head: HeadTensors, rows: list[list[int]]) -> list[bool]:
    """With loops, in double precision; the first of equal logits."""
    weight, bias, found = head.weight.double().tolist(), head.bias.double().tolist(), []
    for image, label in zip(features.double().tolist(), labels.tolist(), strict=True):
        logits = [bias[c] + sum(weight[c][j] * image[j] for j in row) for c, row in enumerate(rows)]
        found.append(logits.index(max(logits)) == label)
    return found


def slow_bound(full: list[bool], other: list[bool]) -> float:
    """Newcombe's method 10 for full minus other, in its own letters; the upper limit with 5% above it, in points."""
    pairs = list(zip(full, other, strict=True))
    e, f, g, h = (pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False)))
    n, z = len(pairs), NormalDist().inv_cdf(0.95)

    def limits(x: int) -> tuple[float, float]:
        root = z * math.sqrt(z**2 + 4 * x * (n - x) / n)
        return (2 * x + z**2 - root) / (2 * (n + z**2)), (2 * x + z**2 + root) / (2 * (n + z**2))

    p1, p2 = (e + f) / n, (e + g) / n
    u1, l2 = limits(e + f)[1], limits(e + g)[0]
    product = (e + f) * (g + h) * (e + g) * (f + h)
    numerator = float(e * h - f * g)
    if numerator > 0:
        numerator = max(0.0, numerator - n / 2)
    phi = numerator / math.sqrt(product) if product else 0.0
    square = (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2
    return 100 * min(1.0, p1 - p2 + math.sqrt(max(0.0, square)))


def slow_class_bound(full: list[bool], other: list[bool], labels: list[int]) -> float:
    """The largest bound of a class, each from a paired interval of its images alone, by Bonferroni."""
    present = sorted(set(labels))
    bounds = []
    for number in present:
        mine = [place for place, label in enumerate(labels) if label == number]
        pairs = [(full[place], other[place]) for place in mine]
        counts = [pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
        low, _ = paired_difference_interval(*counts, 1 - 2 * 0.05 / len(present))
        bounds.append(-100 * low)
    return max(bounds)


def slow_shrink(case: Case, max_drop: float, max_class_drop: float | None = None) -> tuple[list[list[int]], list[int]]:
    """Every step builds the head without the last feature of each class; returns the sets and the classes shortened."""
    features, full, head, classes = case
    rows, path = [list(row) for row in classes], []
    right, labels = full.is_correct.tolist(), full.labels.tolist()
    stays: set[int] = set()
    while True:
        best: tuple[int, int, list[bool]] | None = None
        for number, row in enumerate(rows):
            if len(row) == 1 or number in stays:
                continue
            candidate = [row[:-1] if other == number else rows[other] for other in range(len(rows))]
            found = outcomes(features, full.labels, head, candidate)
            if best is None or sum(found) > best[0]:
                best = (sum(found), number, found)
        if best is None or slow_bound(right, best[2]) > max_drop:
            return rows, path
        if max_class_drop is not None and slow_class_bound(right, best[2], labels) > max_class_drop:
            stays.add(best[1])
            continue
        rows[best[1]].pop()
        path.append(best[1])


def assert_as_the_slow_twin(case: Case, max_drop: float) -> Shrunk:
    steps: list[int] = []
    found = shrink(*case, max_drop, steps.append)
    rows, path = slow_shrink(case, max_drop)
    assert [list(row) for row in found.classes] == rows
    assert steps == [1] * len(path)
    features, full, head, _ = case
    assert found.predictions.is_correct.tolist() == plain_outcomes(features, full.labels, head, rows)
    assert found.predictions.labels.tolist() == full.labels.tolist()
    return found


# ----------------------------------------------------------------------------------------------------------- shrinking


@pytest.mark.parametrize("max_drop", [1.0, 4.0, 7.0, 12.0, 25.0, 100.0])
@pytest.mark.parametrize("seed", range(6))
def test_every_step_against_the_slow_twin(seed: int, max_drop: float) -> None:
    assert_as_the_slow_twin(make_case(seed), max_drop)


@pytest.mark.parametrize("max_drop", [5.0, 15.0, 30.0])
@pytest.mark.parametrize("seed", range(4))
def test_many_equal_logits_and_counts_against_the_slow_twin(seed: int, max_drop: float) -> None:
    """Features of two values and few images: most candidates cost the same."""
    assert_as_the_slow_twin(make_case(seed, c=6, d=6, n=40, levels=2), max_drop)


@pytest.mark.parametrize("max_drop", [6.0, 20.0, 100.0])
@pytest.mark.parametrize("seed", range(5))
def test_classes_with_different_numbers_of_features_against_the_slow_twin(seed: int, max_drop: float) -> None:
    assert_as_the_slow_twin(make_case(seed, c=5, ragged=True), max_drop)


@pytest.mark.parametrize("c", [2, 3, 9])
@pytest.mark.parametrize("max_drop", [8.0, 100.0])
def test_few_and_many_classes_against_the_slow_twin(c: int, max_drop: float) -> None:
    for seed in range(3):
        assert_as_the_slow_twin(make_case(seed, c=c, d=6, n=54), max_drop)


def test_negative_weights_and_equal_logits_against_the_slow_twin() -> None:
    """Here logits also rise when a feature goes, and often to just that of another class."""
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        features = torch.randint(0, 2, (30, 5), generator=generator).float()
        weight = torch.randint(-1, 2, (4, 5), generator=generator).float()
        labels = torch.randint(0, 4, (30,), generator=generator)
        head = HeadTensors("dense", "fc", weight, torch.zeros(4), 5)
        full = Predictions((features @ weight.T).argmax(1), labels)
        rows = [torch.randperm(5, generator=generator).tolist() for _ in range(4)]
        for max_drop in (12.0, 18.0, 24.0):
            assert_as_the_slow_twin((features, full, head, rows), max_drop)


def test_features_of_real_numbers_against_the_slow_twin() -> None:
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(120) % 5
        weight = torch.randn(5, 10, generator=generator)
        features = weight[labels] + torch.randn(120, 10, generator=generator)
        bias = -(weight**2).sum(1) / 2
        head = HeadTensors("dense", "fc", weight, bias, 10)
        full = Predictions((features @ weight.T + bias).argmax(1), labels)
        rows = weight.abs().argsort(1, descending=True).tolist()
        for max_drop in (5.0, 20.0):
            assert_as_the_slow_twin((features, full, head, rows), max_drop)


def test_steps_change_what_is_taken_next() -> None:
    """The cases above are worth comparing: classes alternate, and the bound decides how far it goes."""
    path = slow_shrink(make_case(0), 100.0)[1]
    assert len(path) == 4 * 7
    assert path != sorted(path)
    lengths = [len(slow_shrink(make_case(0), max_drop)[1]) for max_drop in (1.0, 7.0, 25.0, 100.0)]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) == 4


@pytest.mark.parametrize("seed", range(4))
def test_every_class_keeps_its_best_feature(seed: int) -> None:
    case = make_case(seed)
    found = shrink(*case, 100.0)
    assert found.classes == tuple((row[0],) for row in case[3])


def test_what_is_left_is_the_beginning_of_each_class() -> None:
    case = make_case(1, ragged=True)
    found = shrink(*case, 15.0)
    for row, kept in zip(case[3], found.classes, strict=True):
        assert tuple(row[: len(kept)]) == kept


@pytest.mark.parametrize("max_drop", [6.0, 12.0, 25.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_bound_holds_for_what_is_left_and_breaks_with_one_less(seed: int, max_drop: float) -> None:
    case = make_case(seed)
    features, full, head, classes = case
    found = shrink(*case, max_drop)
    right = full.is_correct.tolist()
    if found.classes != tuple(map(tuple, classes)):
        assert slow_bound(right, found.predictions.is_correct.tolist()) <= max_drop
    rows = [list(row) for row in found.classes]
    shorter = [[*rows[:c], rows[c][:-1], *rows[c + 1 :]] for c in range(len(rows)) if len(rows[c]) > 1]
    best = max((outcomes(features, full.labels, head, candidate) for candidate in shorter), key=sum, default=None)
    assert best is None or slow_bound(right, best) > max_drop


def three_alike() -> Case:
    """Class c has the features 2c and 2c + 1; the second of them is all that ten of its hundred images have."""
    labels = torch.arange(300) // 100
    features = torch.zeros(300, 6)
    for image, label in enumerate(labels.tolist()):
        if image % 100 < 10:
            features[image, 2 * label + 1] = 1
            features[image, 2 * ((label + 1) % 3)] = 0.5
        else:
            features[image, 2 * label] = 1
    rows = [[0, 1], [2, 3], [4, 5]]
    head = HeadTensors("dense", "fc", torch.eye(3).repeat_interleave(2, 1), torch.zeros(3), 6)
    return features, Predictions(labels, labels), head, rows


def test_among_equals_the_lower_class_loses_a_feature() -> None:
    features, full, head, rows = three_alike()
    once, twice = (slow_bound([True] * 300, [True] * (300 - 10 * losses) + [False] * 10 * losses) for losses in (1, 2))
    max_drop = (once + twice) / 2
    assert shrink(features, full, head, rows, max_drop).classes == ((0,), (2, 3), (4, 5))
    assert shrink(features, full, head, rows, twice + 1e-9).classes == ((0,), (2,), (4, 5))
    assert shrink(features, full, head, [[0], [2, 3], [4, 5]], max_drop).classes == ((0,), (2, 3), (4, 5))
    assert shrink(features, full, head, rows, once - 0.01).classes == ((0, 1), (2, 3), (4, 5))


def test_the_class_whose_removal_costs_least_goes_first() -> None:
    """Of class 2 one image is easier than of the others: it has also its first feature."""
    features, full, head, rows = three_alike()
    features[200, 4] = 1
    nine = slow_bound([True] * 300, [True] * 291 + [False] * 9)
    assert shrink(features, full, head, rows, nine + 1e-9).classes == ((0, 1), (2, 3), (4,))


def test_nothing_is_dropped_where_the_first_step_breaks_the_bound() -> None:
    case = make_case(0)
    steps: list[int] = []
    found = shrink(*case, 0.0, steps.append)
    assert found.classes == tuple(map(tuple, case[3]))
    assert steps == []


def test_a_single_class_is_shrunk_to_one_feature_if_the_bound_allows_it() -> None:
    labels = torch.zeros(50, dtype=torch.int64)
    features = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    head = HeadTensors("dense", "fc", torch.ones(1, 3), torch.zeros(1), 3)
    full = Predictions(labels, labels)
    bound = slow_bound([True] * 50, [True] * 50)
    assert 0 < bound < 10
    assert shrink(features, full, head, [[2, 0, 1]], bound + 1e-9).classes == ((2,),)
    assert shrink(features, full, head, [[2, 0, 1]], bound - 1e-9).classes == ((2, 0, 1),)


@pytest.mark.parametrize("rows", [[[0], [1]], [[1], [1]]])
def test_sets_of_one_feature_stay_as_they_are(rows: list[list[int]]) -> None:
    features, full, head, _ = make_case(0, c=2)
    found = shrink(features, full, head, rows, 100.0)
    assert found.classes == tuple(map(tuple, rows))
    assert found.predictions.is_correct.tolist() == plain_outcomes(features, full.labels, head, rows)


def test_one_image_is_enough() -> None:
    labels = torch.tensor([1])
    head = HeadTensors("dense", "fc", torch.eye(2), torch.zeros(2), 2)
    case = (torch.tensor([[0.0, 1.0]]), Predictions(labels, labels), head, [[0, 1], [1, 0]])
    assert_as_the_slow_twin(case, 100.0)
    assert_as_the_slow_twin(case, 50.0)


def test_inputs_are_left_as_they_were() -> None:
    features, full, head, rows = make_case(2)
    tensors = (features, full.predictions, full.labels, head.weight, head.bias)
    before, copied = [tensor.clone() for tensor in tensors], [list(row) for row in rows]
    shrink(features, full, head, rows, 25.0)
    assert all(torch.equal(old, new) for old, new in zip(before, tensors, strict=True))
    assert rows == copied


# ---------------------------------------------------------------------------------------------------------- loss bound


def flags(pattern: str) -> Tensor:
    return torch.tensor([sign == "1" for sign in pattern])


@pytest.mark.parametrize("seed", range(8))
def test_the_bound_is_the_lower_end_of_the_paired_interval_with_its_sign_changed(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 200))
    full = random.random(n) < 0.8
    other = np.where(random.random(n) < 0.15, ~full, full)
    both, first, second = int((full & other).sum()), int((full & ~other).sum()), int((other & ~full).sum())
    low, high = paired_difference_interval(both, first, second, n - both - first - second, 0.90)
    found = loss_bound(torch.from_numpy(full), torch.from_numpy(other))
    assert found == pytest.approx(-100 * low, abs=1e-9)
    assert found == pytest.approx(slow_bound(full.tolist(), other.tolist()), abs=1e-9)
    mirrored = loss_bound(torch.from_numpy(other), torch.from_numpy(full))
    assert mirrored == pytest.approx(100 * high, abs=1e-9)


def test_the_bound_is_above_the_loss_itself() -> None:
    assert loss_bound(flags("1" * 10), flags("1" * 8 + "0" * 2)) > 20
    assert loss_bound(flags("1" * 10), flags("1" * 10)) > 0
    assert loss_bound(flags("0" * 500), flags("1" * 500)) < 0
    assert loss_bound(flags("1" * 5), flags("0" * 5)) <= 100


def test_the_bound_counts_images_and_not_just_shares() -> None:
    """The same accuracies, but other images: more disagreement is a wider interval."""
    full = flags("1" * 90 + "0" * 10)
    same, elsewhere = flags("1" * 88 + "0" * 12), flags("0" * 10 + "1" * 88 + "0" * 2)
    assert loss_bound(full, same) < loss_bound(full, elsewhere)


@pytest.mark.parametrize(("only_full", "only_other", "neither", "n"), [(0.05, 0.02, 0.05, 300), (0.15, 0.1, 0.2, 80)])
def test_the_true_loss_is_below_the_bound_about_nineteen_times_of_twenty(
    only_full: float, only_other: float, neither: float, n: int
) -> None:
    random = np.random.default_rng(0)
    both = 1 - only_full - only_other - neither
    # Outcomes as two bits: full right, other right.
    cells = torch.tensor([3, 2, 1, 0])
    tables = random.multinomial(n, [both, only_full, only_other, neither], size=2000)
    below = 0
    for table in tables:
        images = cells.repeat_interleave(torch.from_numpy(table))
        below += 100 * (only_full - only_other) <= loss_bound(images >= 2, images % 2 == 1)
    assert 0.93 < below / 2000 < 0.975


@pytest.mark.parametrize("seed", range(8))
def test_the_bound_of_the_worst_class_against_the_slow_twin(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 120))
    full = random.random(n) < 0.8
    other = np.where(random.random(n) < 0.2, ~full, full)
    labels = torch.from_numpy(random.integers(0, 9, n))  # some classes have no images
    found = class_loss_bound(torch.from_numpy(full), torch.from_numpy(other), labels)
    assert found == pytest.approx(slow_class_bound(full.tolist(), other.tolist(), labels.tolist()), abs=1e-9)


@pytest.mark.parametrize("max_class_drop", [10.0, 20.0, 30.0, 45.0])
@pytest.mark.parametrize("seed", range(6))
def test_shrinking_within_the_bound_of_classes_against_the_slow_twin(seed: int, max_class_drop: float) -> None:
    features, full, head, classes = make_case(seed, c=4, n=120)
    found = shrink(features, full, head, classes, 25.0, max_class_drop=max_class_drop)
    rows, _ = slow_shrink((features, full, head, classes), 25.0, max_class_drop)
    assert [list(row) for row in found.classes] == rows


def test_the_bound_of_classes_leaves_more_features() -> None:
    """A class that may lose nothing keeps what it has, while the others are shrunk on."""
    sizes = []
    for max_class_drop in (None, 45.0, 30.0):
        case = make_case(1, c=4, n=120)
        found = shrink(*case, 25.0, max_class_drop=max_class_drop)
        sizes.append(sum(map(len, found.classes)))
        if max_class_drop is not None and sizes[-1] < sum(map(len, case[3])):
            full = case[1]
            assert class_loss_bound(full.is_correct, found.predictions.is_correct, full.labels) <= max_class_drop
    assert sizes[0] < sizes[-1]
    assert sizes == sorted(sizes)


# ----------------------------------------------------------------------------------------------------------- smallest k


def predictions_of(pattern: str) -> Predictions:
    return Predictions((~flags(pattern)).long(), torch.zeros(len(pattern), dtype=torch.int64))


def test_the_smallest_number_within_the_bound_is_found() -> None:
    full = predictions_of("1" * 190 + "0" * 10)
    by_k = {
        k: predictions_of("1" * right + "0" * (200 - right)) for k, right in [(1, 60), (2, 150), (3, 180), (7, 189)]
    }
    bounds = {k: slow_bound(full.is_correct.tolist(), found.is_correct.tolist()) for k, found in by_k.items()}
    assert list(bounds.values()) == sorted(bounds.values(), reverse=True)
    for k, bound in bounds.items():
        assert smallest_k(full, by_k.items(), bound + 1e-9) == k
    assert smallest_k(full, by_k.items(), bounds[3] - 1e-9) == 7
    assert smallest_k(full, by_k.items(), 100.0) == 1


def test_no_number_may_be_within_the_bound() -> None:
    full = predictions_of("1" * 20)
    assert smallest_k(full, [(1, predictions_of("0" * 20)), (2, predictions_of("1" * 20))], 0.0) is None
    assert smallest_k(full, [], 100.0) is None


def test_no_number_is_tried_beyond_the_answer() -> None:
    full = predictions_of("1" * 20)
    tried = iter([(2, predictions_of("0" * 20)), (10, full), (30, full)])
    assert smallest_k(full, tried, 50.0) == 10
    assert [k for k, _ in tried] == [30]


def test_a_smaller_number_within_the_bound_is_taken_even_if_a_larger_one_is_not() -> None:
    full = predictions_of("1" * 100)
    assert smallest_k(full, [(3, full), (4, predictions_of("0" * 100)), (5, full)], 10.0) == 3


def test_a_bound_that_is_met_exactly_is_enough() -> None:
    full, other = predictions_of("1" * 50), predictions_of("1" * 45 + "0" * 5)
    assert smallest_k(full, [(4, other)], loss_bound(full.is_correct, other.is_correct)) == 4


def test_sets_left_out_of_sums_leave_no_rounding_behind() -> None:
    """No bias and silent features: the logits of many images are exactly zero in several classes, before and after."""
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(300) % 5
        centres = torch.randn(5, 12, generator=generator).relu()
        features = ((centres[labels] + 0.6 * torch.randn(300, 12, generator=generator)) - 0.5).relu()
        weight = torch.randn(5, 12, generator=generator) * 0.3 + centres
        head = HeadTensors("dense", "fc", weight, torch.zeros(5), 12)
        full = Predictions((features @ weight.T).argmax(1), labels)
        means = torch.stack([features[labels == c].mean(0) for c in range(5)])
        rows = (weight * means).argsort(1, descending=True)[:, :6].tolist()
        found = assert_as_the_slow_twin((features, full, head, rows), 20.0)
        assert slow_bound(full.is_correct.tolist(), found.predictions.is_correct.tolist()) <= 20.0


def test_the_smallest_number_has_to_be_within_the_bound_of_classes_too() -> None:
    """k = 2 loses little in all, and all of it in one class."""
    labels = torch.arange(4).repeat_interleave(100)
    full = Predictions(labels, labels)
    one_class, evenly = labels.clone(), labels.clone()
    one_class[:20] = 1
    evenly[::20] = (labels[::20] + 1) % 4
    by_k = [(2, Predictions(one_class, labels)), (3, Predictions(evenly, labels))]
    assert smallest_k(full, by_k, 10) == 2
    assert smallest_k(full, by_k, 10, 20) == 3
    assert smallest_k(full, by_k, 10, 1) is None
