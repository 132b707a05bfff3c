"""Noise on features: counts against a slow twin in float64, against simulations of their own, and on paper."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from decompose_cli.decomposition import essentiality as module
from decompose_cli.decomposition import noisy_logits
from decompose_cli.decomposition.essentiality import (
    DETERMINISTIC,
    NOISES,
    ClassEssentiality,
    Noise,
    essentiality,
    overall_controls,
    permutation_p,
    summarize,
)

RANDOM = [noise for noise in NOISES if noise not in DETERMINISTIC]


@dataclass(frozen=True)
class Case:
    """Arguments of :func:`essentiality`."""

    features: Tensor
    labels: Tensor
    weight: Tensor
    bias: Tensor
    classes: tuple[tuple[int, ...], ...]

    def run(self, noise: Noise = "gaussian", **options: Any) -> dict[int, ClassEssentiality]:
        return essentiality(self.features, self.labels, self.weight, self.bias, self.classes, noise=noise, **options)


def make_case(seed: int = 0, n: int = 90, d: int = 13, c: int = 4, sizes: Sequence[int] = (3, 5, 1, 8)) -> Case:
    """Features that agree with their labels rather often, so that noise has something to destroy; ragged sets."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(c, d, generator=generator)
    bias = torch.randn(c, generator=generator) * 0.3
    labels = torch.cat([torch.arange(c), torch.randint(0, c, (n - c,), generator=generator)])
    features = (torch.randn(n, d, generator=generator) + 0.6 * weight[labels]).relu()
    classes = tuple(tuple(torch.randperm(d, generator=generator)[:size].tolist()) for size in sizes)
    return Case(features, labels, weight, bias, classes)


def hand_made(
    rows: list[list[float]], labels: list[int], weight: list[list[float]], bias: list[float], classes: list[list[int]]
) -> Case:
    tensors = torch.tensor(rows), torch.tensor(labels), torch.tensor(weight), torch.tensor(bias)
    return Case(*tensors, tuple(map(tuple, classes)))


# ------------------------------------------------------------------------------------------------------------- twin


def first_largest(logits: Sequence[float]) -> int:
    return max(range(len(logits)), key=lambda number: (logits[number], -number))


def twin_class(case: Case, image: Sequence[float]) -> int:
    """What the full head says, one product at a time."""
    weight, bias = case.weight.double().numpy(), case.bias.double().numpy()
    return first_largest([float(np.dot(row, np.asarray(image)) + b) for row, b in zip(weight, bias, strict=True)])


def twin_kept(case: Case, number: int, x: Sequence[float], z: Sequence[float], chosen: Iterable[int]) -> list[bool]:
    """Whether the image stays in the class with noise on the chosen features, and with noise on the others."""
    chosen = set(chosen)
    at = [z[j] if j in chosen else x[j] for j in range(len(x))]
    elsewhere = [x[j] if j in chosen else z[j] for j in range(len(x))]
    return [twin_class(case, at) == number, twin_class(case, elsewhere) == number]


@dataclass
class Twin:
    """Counts of one class; ``scores`` are those of the own set and of the controls, times repeats and images."""

    clean: int
    at: list[int]
    elsewhere: list[int]
    image_scores: list[float]
    scores: list[int]


def twin(case: Case, noise: Noise, repeats: int, controls: int, seed: int) -> dict[int, Twin]:
    """Image by image in float64, with the very noise and the very random sets of the module."""
    rows = case.features.double().numpy()
    mean, std = rows.mean(0), rows.std(0, ddof=0)
    constants = torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
    labels = case.labels.tolist()
    repeats = 1 if noise in ("zero", "mean") else repeats
    result = {}
    for number in sorted(set(labels)):
        own = case.features[[i for i, label in enumerate(labels) if label == number]]
        drawer = module._Drawer(noise, *constants, own, module._generator(seed, number, 0))
        sets = module._sets(case.classes[number], rows.shape[1], controls, module._generator(seed, number, 1)).tolist()
        assert sets[0] == list(case.classes[number])
        images = own.double().tolist()
        found = Twin(0, [0] * repeats, [0] * repeats, [0.0] * len(images), [0] * len(sets))
        found.clean = sum(twin_class(case, x) == number for x in images)
        for repeat in range(repeats):
            drawer.start()
            drawn = drawer.rows(slice(0, len(images)), own).double().tolist()
            for i, (x, z) in enumerate(zip(images, drawn, strict=True)):
                for position, chosen in enumerate(sets):
                    at, elsewhere = twin_kept(case, number, x, z, chosen)
                    found.scores[position] += elsewhere - at
                    if position == 0:
                        found.at[repeat] += at
                        found.elsewhere[repeat] += elsewhere
                        found.image_scores[i] += (elsewhere - at) / repeats
        result[number] = found
    return result


@pytest.fixture(params=["in full", "by bounds"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the logits of sets are compared: all of them, as of few classes, or by bounds, as of many."""
    if request.param == "by bounds":
        monkeypatch.setattr(noisy_logits, "_FEW_CLASSES", 0)
    return str(request.param)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.usefixtures("way")
def test_counts_against_the_twin(noise: Noise) -> None:
    for seed, sizes in ((0, (3, 5, 1, 8)), (5, (3, 0, 1, 8))):
        case = make_case(seed, n=70, sizes=sizes)
        found = case.run(noise, repeats=3, controls=4, seed=seed)
        expected = twin(case, noise, repeats=3, controls=4, seed=seed)
        assert list(found) == [0, 1, 2, 3]
        for number, slow in expected.items():
            fast, images = found[number], case.labels.tolist().count(number)
            assert (fast.images, fast.clean) == (images, slow.clean)
            assert fast.at_features.tolist() == slow.at
            assert fast.elsewhere.tolist() == slow.elsewhere
            assert fast.image_scores.tolist() == pytest.approx(slow.image_scores, abs=1e-12)
            shares = [score / (len(slow.at) * images) for score in slow.scores]
            assert fast.score == pytest.approx(shares[0], abs=1e-12)
            assert fast.control_scores.tolist() == pytest.approx(shares[1:], abs=1e-12)
        assert len({total for slow in expected.values() for total in slow.scores}) > 5  # it was worth counting


def test_shapes_and_types() -> None:
    case = make_case()
    found = case.run(repeats=6, controls=7)[1]
    assert found.images == case.labels.tolist().count(1)
    assert found.at_features.shape == found.elsewhere.shape == (6,)
    assert found.at_features.dtype == found.elsewhere.dtype == torch.int64
    assert found.image_scores.shape == (found.images,)
    assert found.control_scores.shape == (7,)
    assert found.image_scores.dtype == found.control_scores.dtype == torch.float64
    difference = (found.elsewhere - found.at_features).double().mean() / found.images
    assert found.score == pytest.approx(float(difference), abs=1e-12)


def test_clean_counts_are_the_accuracy_of_the_head() -> None:
    case = make_case(3)
    predicted = (case.features.double() @ case.weight.double().t() + case.bias.double()).argmax(1)
    for number, found in case.run(repeats=1, controls=0).items():
        assert found.clean == int(((predicted == number) & (case.labels == number)).sum())


# ------------------------------------------------------------------------------------------------- other simulations


def simulate(case: Case, noise: Noise, draws: int, controls: int, seed: int) -> dict[int, list[np.ndarray]]:
    """Per class the counts of each draw, for noise at the features and elsewhere, and scores of random sets.

    Everything comes from NumPy, the two kinds of noise are drawn apart as in the published code, and each random set
    meets noise of its own.
    """
    random = np.random.default_rng(seed)
    rows, labels = case.features.double().numpy(), case.labels.numpy()
    weight, bias = case.weight.double().numpy(), case.bias.double().numpy()
    result = {}
    for number in sorted(set(labels.tolist())):
        own = rows[labels == number]

        def draw(own: np.ndarray = own) -> np.ndarray:
            if noise == "permute":
                return own[random.permutation(len(own))]
            z = random.standard_normal(own.shape)
            return z * rows.std(0) + rows.mean(0) if noise == "matched" else z

        def count(replaced: np.ndarray, own: np.ndarray = own, number: int = number) -> int:
            noisy = np.where(replaced, draw(own), own)
            return int(((noisy @ weight.T + bias).argmax(1) == number).sum())

        mask = np.isin(np.arange(rows.shape[1]), case.classes[number])
        at = np.array([count(mask) for _ in range(draws)])
        elsewhere = np.array([count(~mask) for _ in range(draws)])
        scores = []
        for _ in range(controls):
            shuffled = random.permutation(mask)
            scores.append((count(~shuffled) - count(shuffled)) / len(own))
        result[number] = [at, elsewhere, np.array(scores)]
    return result


@pytest.mark.parametrize("noise", RANDOM)
def test_means_agree_with_an_independent_simulation(noise: Noise) -> None:
    case = make_case(1, n=160)
    fast = case.run(noise, repeats=400, controls=400, seed=11)
    slow = simulate(case, noise, draws=400, controls=1000, seed=12)
    for number, found in fast.items():
        for ours, theirs in zip((found.at_features, found.elsewhere), slow[number][:2], strict=True):
            counts = ours.double().numpy()
            error = math.sqrt(counts.var(ddof=1) / 400 + theirs.var(ddof=1) / 400)
            assert abs(counts.mean() - theirs.mean()) < 4 * max(error, 0.02)
            assert error < 0.03 * found.images  # small enough to notice something
        controls, theirs = found.control_scores.numpy(), slow[number][2]
        error = math.sqrt(controls.var(ddof=1) / len(controls) + theirs.var(ddof=1) / len(theirs))
        assert abs(controls.mean() - theirs.mean()) < 4 * error
        assert error < 0.03


def test_counts_vary_as_much_as_in_an_independent_simulation() -> None:
    """Images meet noise of their own: with one draw for all of a class, counts would vary far more."""
    case = make_case(2, n=200)
    fast = case.run(repeats=400, controls=0, seed=3)
    slow = simulate(case, "gaussian", draws=400, controls=0, seed=4)
    for number, found in fast.items():
        for ours, theirs in zip((found.at_features, found.elsewhere), slow[number][:2], strict=True):
            assert 0.6 < (float(ours.double().var()) + 0.1) / (float(theirs.var(ddof=1)) + 0.1) < 1.67


@pytest.mark.parametrize(("noise", "limit"), [("gaussian", 1.0), ("matched", 1.5)])
def test_share_of_images_kept_on_paper(noise: Noise, limit: float) -> None:
    """The class keeps x up to a limit. The features 0 and 2 have mean 1 and (population) standard deviation 1."""
    case = hand_made([[0.0], [2.0]], [0, 0], [[-1.0], [1.0]], [2 * limit, 0.0], [[0], [0]])
    share = (NormalDist(0, 1) if noise == "gaussian" else NormalDist(1, 1)).cdf(limit)
    found = case.run(noise, repeats=8000, controls=0)[0]
    kept = float(found.at_features.double().mean()) / 2
    assert kept == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 16000))


def test_matched_noise_on_a_feature_that_never_changes_is_that_feature() -> None:
    case = make_case(4)
    case.features[:, :] = torch.arange(13) / 4
    for found in case.run("matched", repeats=3, controls=5).values():
        assert found.at_features.tolist() == found.elsewhere.tolist() == [found.clean] * 3
        assert found.control_scores.tolist() == [0] * 5


@pytest.mark.parametrize("noise", ["matched", "mean"])
def test_mean_and_deviation_are_those_of_all_images(noise: Noise) -> None:
    """Alone, class 0 would meet the mean 0 and no deviation, and would stay; the images of class 1 move the mean."""
    rows = [[0.0]] * 4 + [[100.0]] * 4
    case = hand_made(rows, [0] * 4 + [1] * 4, [[-1.0], [1.0]], [2.0, 0.0], [[0], [0]])
    found = case.run(noise, repeats=50, controls=0)[0]
    assert found.clean == 4
    shares = found.at_features.double() / 4
    if noise == "mean":
        assert shares.tolist() == [0]
    else:  # normal with mean 50 and standard deviation 50: at most 1 in 16.4% of all cases
        assert float(shares.mean()) == pytest.approx(NormalDist(50, 50).cdf(1.0), abs=4 * math.sqrt(0.137 / 200))
    alone = replace(case, features=case.features[:4], labels=case.labels[:4])
    assert alone.run(noise, repeats=50, controls=0)[0].at_features.unique().tolist() == [4]


# --------------------------------------------------------------------------------------------------------- on paper


PAPER = hand_made(
    [[4.0, 0.0, 1.0], [1.0, 0.0, 5.0], [3.0, 1.0, 0.0], [0.0, 2.0, 0.0], [2.0, 2.0, 2.0]],
    [0, 0, 0, 1, 1],
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.5]],
    [0.0, 0.25],
    [[0], [1, 2]],
)


def test_zero_on_paper() -> None:
    """Logits (x0, x1 + x2 / 2 + 1/4): class 0 keeps images 0 and 2; without x0 none; without x1 and x2 all three."""
    found = PAPER.run("zero", repeats=9, controls=0)
    assert (found[0].clean, found[0].at_features.tolist(), found[0].elsewhere.tolist()) == (2, [0], [3])
    assert found[0].image_scores.tolist() == [1.0, 1.0, 1.0]
    # Class 1: images 3 and 4 (2.25, 3.25 against 0, 2) are right. Without x1, x2: 0 < 1/4 stays, 2 > 1/4 goes.
    assert (found[1].clean, found[1].at_features.tolist(), found[1].elsewhere.tolist()) == (2, [1], [2])
    assert found[1].image_scores.tolist() == [0.0, 1.0]
    assert (found[0].score, found[1].score) == (1.0, 0.5)


def test_mean_on_paper() -> None:
    """The means are 2, 1 and 1.6. Class 0 with x0 = 2: against 0.75, 2.75, 1.25; with x1, x2 = 1, 1.6: 2.05."""
    found = PAPER.run("mean", repeats=9, controls=0)
    assert (found[0].at_features.tolist(), found[0].elsewhere.tolist()) == ([2], [2])
    assert found[0].image_scores.tolist() == [0.0, 0.0, 0.0]
    # Class 1 with x1, x2 = 1, 1.6: 2.05 against 0 and 2; with x0 = 2: 2.25 and 3.25 against 2.
    assert (found[1].at_features.tolist(), found[1].elsewhere.tolist()) == ([2], [2])


def test_the_first_among_equal_logits_counts() -> None:
    case = hand_made([[1.0, 1.0], [1.0, 1.0]], [0, 1], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0], [[0], [1]])
    found = case.run("mean", controls=0)
    assert (found[0].clean, found[0].at_features.tolist(), found[0].elsewhere.tolist()) == (1, [1], [1])
    assert (found[1].clean, found[1].at_features.tolist(), found[1].elsewhere.tolist()) == (0, [0], [0])


@pytest.mark.parametrize("noise", DETERMINISTIC)
def test_noise_that_is_not_random_is_computed_once(noise: Noise) -> None:
    case = make_case()
    first, second = case.run(noise, repeats=30, controls=3, seed=1), case.run(noise, repeats=1, controls=3, seed=2)
    for number in first:
        assert first[number].at_features.shape == (1,)
        assert torch.equal(first[number].at_features, second[number].at_features)
        assert torch.equal(first[number].elsewhere, second[number].elsewhere)


# ---------------------------------------------------------------------------------------------------------- permute


def test_permute_keeps_rows_whole() -> None:
    """Features 1 and 2 are equal in each image. Only of different images would their difference outweigh the bias."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(40, generator=generator) * 9
    features = torch.stack([torch.ones(40), values, values], 1)
    weight = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, -1.0], [0.0, -1.0, 1.0]])
    case = Case(features, torch.zeros(40).long(), weight, torch.tensor([0.01, 0.0, 0.0]), ((0,), (1,), (2,)))
    found = case.run("permute", repeats=20, controls=0)[0]
    assert found.elsewhere.tolist() == [40] * 20
    split = replace(case, classes=((1,), (1,), (2,))).run("permute", repeats=20, controls=0)[0]
    assert max(split.at_features.tolist()) < 15  # so the rows did trade places


def test_permute_uses_each_image_of_the_class_once_and_none_of_others() -> None:
    """One image of ten has what leads away from class 0, so nine are kept each time; class 1 has plenty of it."""
    rows = [[0.0, 0.0]] * 9 + [[0.0, 5.0]] + [[0.0, 5.0]] * 10
    case = hand_made(rows, [0] * 10 + [1] * 10, [[0.0, 0.0], [0.0, 1.0]], [1.0, 0.0], [[0], [1]])
    found = case.run("permute", repeats=60, controls=0, seed=5)
    assert found[0].elsewhere.tolist() == [9] * 60
    assert found[0].at_features.tolist() == [9] * 60  # feature 0 is zero everywhere
    assert len(set(found[0].image_scores.tolist())) > 4  # the bright one came to many images
    assert found[1].at_features.tolist() == [10] * 60


@pytest.mark.parametrize("noise", NOISES)
def test_one_image_per_class(noise: Noise) -> None:
    case = make_case(6, n=4)
    found = case.run(noise, repeats=5, controls=3, seed=2)
    expected = twin(case, noise, repeats=5, controls=3, seed=2)
    for number, one in found.items():
        assert one.images == 1
        assert one.at_features.tolist() == expected[number].at
        assert one.elsewhere.tolist() == expected[number].elsewhere
        if noise == "permute":
            assert one.at_features.tolist() == one.elsewhere.tolist() == [one.clean] * 5
            assert one.control_scores.tolist() == [0, 0, 0]


# ------------------------------------------------------------------------------------------------------ special sets


def test_all_features_as_own_set() -> None:
    """Noise elsewhere is no noise, and noise on the features leaves nothing of the image."""
    case = replace(make_case(7), classes=tuple(tuple(range(13)) for _ in range(4)))
    for number, found in case.run(repeats=4, controls=3).items():
        assert found.elsewhere.tolist() == [found.clean] * 4
        assert torch.allclose(found.control_scores, torch.tensor(found.score, dtype=torch.float64))
        expected = twin(case, "gaussian", 4, 0, 0)[number]
        assert found.at_features.tolist() == expected.at
    constant = case.run("mean", controls=0)
    winner = twin_class(case, case.features.double().mean(0).tolist())
    for number, found in constant.items():
        assert found.at_features.tolist() == [found.images if number == winner else 0]


def test_the_order_of_a_set_changes_nothing() -> None:
    case = make_case(8)
    turned = replace(case, classes=tuple(row[::-1] for row in case.classes))
    first, second = case.run(repeats=3, controls=3), turned.run(repeats=3, controls=3)
    assert as_lists(first) == as_lists(second)


def test_a_head_with_a_single_class_keeps_everything() -> None:
    case = make_case(0, n=20, c=1, sizes=(4,))
    found = case.run(repeats=3, controls=2)
    assert list(found) == [0]
    assert found[0].at_features.tolist() == found[0].elsewhere.tolist() == [20] * 3
    assert (found[0].clean, found[0].score, found[0].control_scores.tolist()) == (20, 0.0, [0.0, 0.0])


def test_classes_without_images_are_left_out() -> None:
    case = make_case(9)
    some = (case.labels == 1) | (case.labels == 2)
    part = replace(case, features=case.features[some], labels=case.labels[some])
    told: list[int] = []
    found = part.run(repeats=2, controls=2, advance=told.append)
    assert list(found) == [1, 2]
    assert sum(told) == 2 * int(some.sum())  # each image once per repeat
    assert essentiality(torch.zeros(0, 13), torch.zeros(0).long(), case.weight, case.bias, case.classes) == {}


# ------------------------------------------------------------------------------------------------------- invariance


def as_lists(found: dict[int, ClassEssentiality]) -> list[Any]:
    return [
        [number, one.images, one.clean]
        + [part.tolist() for part in (one.at_features, one.elsewhere, one.image_scores, one.control_scores)]
        for number, one in found.items()
    ]


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.usefixtures("way")
def test_how_the_work_is_blocked_changes_nothing(noise: Noise) -> None:
    case = make_case(10, n=250)  # classes of some 60 images, so four blocks of 16 rows
    whole = as_lists(case.run(noise, repeats=3, controls=6))
    for values_at_once in (1, 13 * 16, 13 * 32, 13 * 48, 1000, 3000, 10_000):
        assert as_lists(case.run(noise, repeats=3, controls=6, values_at_once=values_at_once)) == whole


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.usefixtures("way")
def test_everything_is_made_where_it_was_asked_for(noise: Noise) -> None:
    """A default device that holds no values changes nothing."""
    case = make_case(20)
    expected = as_lists(case.run(noise, repeats=3, controls=4))
    with torch.device("meta"):
        found = case.run(noise, repeats=3, controls=4, device="cpu")
    assert as_lists(found) == expected


@pytest.mark.parametrize("noise", ["gaussian", "zero", "permute"])
def test_other_classes_change_nothing(noise: Noise) -> None:
    case = make_case(11)
    whole = case.run(noise, repeats=4, controls=4)
    for number in range(4):
        mine = case.labels == number
        alone = replace(case, features=case.features[mine], labels=case.labels[mine])
        assert as_lists(alone.run(noise, repeats=4, controls=4)) == as_lists({number: whole[number]})


@pytest.mark.parametrize("noise", NOISES)
def test_controls_change_nothing_about_the_own_set(noise: Noise) -> None:
    case = make_case(12)
    without, with_some = case.run(noise, repeats=3, controls=0), case.run(noise, repeats=3, controls=9)
    for number, found in without.items():
        assert found.control_scores.shape == (0,)
        assert permutation_p(found.score, found.control_scores.tolist()) is None
        assert torch.equal(found.at_features, with_some[number].at_features)
        assert torch.equal(found.elsewhere, with_some[number].elsewhere)
        assert torch.equal(found.image_scores, with_some[number].image_scores)


def test_fewer_repeats_are_the_first_of_more() -> None:
    case = make_case(13)
    few, many = case.run(repeats=2, controls=0), case.run(repeats=5, controls=0)
    for number in few:
        assert few[number].at_features.tolist() == many[number].at_features.tolist()[:2]
        assert few[number].elsewhere.tolist() == many[number].elsewhere.tolist()[:2]


def test_repeats_and_classes_meet_different_noise() -> None:
    """The same images and the same question, once as class 0 and once as class 1."""
    case = make_case(14, n=200)
    rows, labels = case.features[:50], torch.zeros(50).long()
    weight, bias, classes = case.weight[:2], case.bias[:2], case.classes[1:2] * 2
    first = Case(rows, labels, weight, bias, classes).run(repeats=40, controls=20)[0]
    second = Case(rows, labels + 1, weight.flip(0), bias.flip(0), classes).run(repeats=40, controls=20)[1]
    assert first.clean == second.clean
    assert len(set(first.at_features.tolist())) > 3
    assert first.at_features.tolist() != second.at_features.tolist()
    assert sorted(first.control_scores.tolist()) != sorted(second.control_scores.tolist())


@pytest.mark.parametrize("noise", RANDOM)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(noise: Noise) -> None:
    case = make_case(15)

    def bytes_of(seed: int) -> bytes:
        found = case.run(noise, repeats=5, controls=5, seed=seed).values()
        parts = [(one.at_features, one.elsewhere, one.image_scores, one.control_scores) for one in found]
        return b"".join(part.numpy().tobytes() for part in itertools.chain.from_iterable(parts))

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = bytes_of(7)
    assert torch.equal(torch.get_rng_state(), state)  # and nothing else draws from it
    torch.manual_seed(2)
    assert bytes_of(7) == first
    assert len({first, bytes_of(8), bytes_of(9), bytes_of(2**63 - 1)}) == 4


def test_another_seed_means_other_random_sets() -> None:
    case = make_case(16)
    first, second = case.run("zero", controls=12, seed=0), case.run("zero", controls=12, seed=1)
    assert any(first[number].control_scores.tolist() != second[number].control_scores.tolist() for number in first)


@pytest.mark.parametrize("noise", NOISES)
def test_what_is_given_is_left_as_it_was(noise: Noise) -> None:
    case = make_case(17)
    before = [tensor.clone() for tensor in (case.features, case.labels, case.weight, case.bias)]
    case.run(noise, repeats=2, controls=2)
    for old, new in zip(before, (case.features, case.labels, case.weight, case.bias), strict=True):
        assert torch.equal(old, new)


class LargestTensor(TorchDispatchMode):
    """Remembers how many elements the largest tensor has that an operation yields."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor) and not any(value is given for given in args):
                self.largest = max(self.largest, value.numel())
        return result


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("d", "c"), [(6, 30), (24, 4)])
def test_temporary_tensors_stay_within_the_limit(noise: Noise, d: int, c: int) -> None:
    case = make_case(18, n=300, d=d, c=c, sizes=(3,) * c)
    case = replace(case, labels=torch.zeros(300).long())
    limit = 16 * max(d, c)
    with LargestTensor() as watch:
        case.run(noise, repeats=2, controls=9, values_at_once=limit)
    assert watch.largest <= max(limit, 300 * d, 10 * 3 * c)  # the images of the class, and the columns of all sets
    with LargestTensor() as watch:
        case.run(noise, repeats=2, controls=9)
    width = max(3, c) if noise in ("gaussian", "matched", "permute") else max(d, c)
    assert watch.largest == 10 * 300 * width  # all at once otherwise


# ---------------------------------------------------------------------------------------------------- permutation p


@pytest.mark.parametrize(
    ("observed", "controls", "p"),
    [
        (0.5, [0.1, 0.2, 0.3], 1 / 4),
        (0.2, [0.1, 0.2, 0.3], 3 / 4),
        (0.0, [0.1, 0.2, 0.3], 1.0),
        (0.5, [0.5], 1.0),
        (0.5, [0.4], 0.5),
        (0.1 + 0.2, [0.3, 0.0], 2 / 3),  # 0.30000000000000004: equal but for rounding
        (0.3, [0.3 - 1e-6] * 99, 1 / 100),
        (-0.2, [-0.3, -0.1], 2 / 3),
    ],
)
def test_permutation_p_on_paper(observed: float, controls: list[float], p: float) -> None:
    assert permutation_p(observed, controls) == pytest.approx(p, abs=1e-15)


def test_permutation_p_without_controls_is_none() -> None:
    assert permutation_p(0.5, []) is None


def test_permutation_p_is_calibrated_where_the_own_set_is_random() -> None:
    ps = []
    for seed in range(150):
        case = make_case(1000 + seed, n=150, d=16, c=5, sizes=(3, 4, 5, 6, 2))
        for found in case.run(repeats=4, controls=19, seed=seed).values():
            p = permutation_p(found.score, found.control_scores.tolist())
            assert p is not None
            ps.append(p)
    assert len(ps) == 750
    assert abs(sum(p <= 0.1 for p in ps) / 750 - 0.1) < 4 * math.sqrt(0.09 / 750)
    assert abs(sum(p > 0.5 for p in ps) / 750 - 0.5) < 4 * math.sqrt(0.25 / 750)


def test_a_set_that_decides_alone_has_the_smallest_p() -> None:
    """The class depends on features 0 and 1 only: with noise elsewhere nothing is lost, with noise there much is."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(60, 20, generator=generator)
    features[:, 0] = 10
    weight = torch.zeros(2, 20)
    weight[0, :2] = 1
    case = Case(features, torch.zeros(60).long(), weight, torch.tensor([0.0, 1.0]), ((0, 1), (2, 3)))
    found = case.run(repeats=5, controls=50)[0]
    assert found.elsewhere.tolist() == [60] * 5
    assert found.score > 0.5
    sharing = int((found.control_scores > found.score - 1e-9).sum())
    assert permutation_p(found.score, found.control_scores.tolist()) == pytest.approx((1 + sharing) / 51)
    assert sharing < 10  # those that hold feature 0


# --------------------------------------------------------------------------------------------------- random sets


def test_noise_and_random_sets_of_all_classes_come_from_different_streams() -> None:
    streams = itertools.product((0, 1, 2), range(10), (0, 1))
    drawn = {tuple(torch.rand(4, generator=module._generator(*stream)).tolist()) for stream in streams}
    assert len(drawn) == 60


def test_random_sets_have_the_size_of_the_own_and_no_feature_twice() -> None:
    sets = module._sets([4, 9, 2], 10, 500, module._generator(3, 1, 1)).tolist()
    assert len(sets) == 501
    assert sets[0] == [4, 9, 2]
    assert all(len(set(row)) == 3 and set(row) <= set(range(10)) for row in sets)
    counts = np.bincount(np.array(sets[1:]).ravel(), minlength=10)
    assert stats.chisquare(counts).pvalue > 1e-4
    assert len({frozenset(row) for row in sets}) > 110  # of 120


def test_overall_controls_weigh_classes_by_their_images() -> None:
    def one(images: int, scores: list[float]) -> ClassEssentiality:
        counts = torch.zeros(1, dtype=torch.int64)
        zeros = torch.zeros(images, dtype=torch.float64)
        return ClassEssentiality(images, 0, counts, counts, zeros, torch.tensor(scores, dtype=torch.float64))

    found = overall_controls({2: one(1, [1.0, 0.0, -1.0]), 5: one(3, [0.0, 0.2, 1.0])})
    assert found == pytest.approx([0.25, 0.15, 0.5], abs=1e-12)
    assert overall_controls({4: one(7, [])}) == []
    assert overall_controls({}) == []


def test_overall_controls_are_scores_over_all_images() -> None:
    case = make_case(19, n=50)
    expected = twin(case, "gaussian", repeats=2, controls=3, seed=4)
    totals = [sum(one.scores[position] for one in expected.values()) / (2 * 50) for position in (1, 2, 3)]
    assert overall_controls(case.run(repeats=2, controls=3, seed=4)) == pytest.approx(totals, abs=1e-12)


# --------------------------------------------------------------------------------------------------------- summaries


def test_summary_on_paper() -> None:
    """Counts 2, 4, 9: mean 5, s^2 = 13, standard error sqrt(13 / 3); t(2) at 97.5% is 4.302653."""
    found = summarize(torch.tensor([2, 4, 9]))
    assert found.mean == 5
    assert found.se == pytest.approx(math.sqrt(13 / 3), rel=1e-12)
    assert found.ci95 == pytest.approx((5 - 4.302653 * math.sqrt(13 / 3), 5 + 4.302653 * math.sqrt(13 / 3)), abs=1e-5)


def test_summary_against_scipy() -> None:
    counts = make_case(20).run(repeats=30, controls=0)[3].at_features
    values = counts.double().numpy()
    error = stats.sem(values)
    found = summarize(counts)
    assert error > 0
    assert (found.mean, found.se) == pytest.approx((values.mean(), error), rel=1e-12)
    assert found.ci95 == pytest.approx(stats.t.interval(0.95, 29, loc=values.mean(), scale=error), rel=1e-9)
    assert summarize(counts.float() / 7).mean == pytest.approx(values.mean() / 7, rel=1e-6)


def test_a_single_repeat_has_no_interval() -> None:
    found = summarize(make_case(21).run(repeats=1, controls=0)[0].at_features)
    assert (found.se, found.ci95) == (None, None)
    assert summarize(torch.tensor([3])).mean == 3


def test_noise_that_is_not_random_has_no_error() -> None:
    found = summarize(torch.tensor([17]), random=False)
    assert (found.mean, found.se, found.ci95) == (17.0, 0.0, (17.0, 17.0))


def test_equal_logits_stay_equal_whatever_the_order_of_the_set() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 64, generator=generator).relu()
    weight = torch.randn(10, 64, generator=generator)
    case = Case(features, torch.arange(200) % 10, weight, torch.zeros(10), (tuple(range(63, -1, -1)),) * 10)
    for number, found in case.run("zero", controls=2).items():
        assert found.at_features.tolist() == [found.images if number == 0 else 0]


def test_seeds_beyond_32_bits_differ() -> None:
    case = make_case()
    assert (
        case.run("gaussian", seed=1)[0].at_features.tolist()
        != case.run("gaussian", seed=1 + 2**32)[0].at_features.tolist()
    )
