"""Calibration, temperature and prediction sets, against plain loops, SciPy and what is promised of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from decompose_cli.decomposition.calibration import (
    Adjusting,
    adjusted,
    bins_of,
    calibration_of,
    conformal_threshold,
    fitted_temperature,
    prediction_sets,
)
from decompose_cli.decomposition.metrics import evaluate_head
from decompose_cli.errors import InputError


def case(seed: int, images: int = 400, classes: int = 6, sharpness: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits that are calibrated, times a sharpness: labels are drawn from their softmax."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=random, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=random)[:, 0]
    return (sharpness * logits).float(), labels


def slow_softmax(row: list[float]) -> list[float]:
    largest = max(row)
    parts = [math.exp(value - largest) for value in row]
    total = math.fsum(parts)
    return [part / total for part in parts]


@pytest.mark.parametrize("images", [1, 7, 15, 16, 200])
def test_calibration_against_plain_loops(images: int) -> None:
    logits, labels = case(images, images)
    found = calibration_of(logits, labels)
    rows = [slow_softmax(row) for row in logits.tolist()]
    truth = labels.tolist()
    brier = [math.fsum((p - (c == y)) ** 2 for c, p in enumerate(row)) for row, y in zip(rows, truth, strict=True)]
    assert found.brier == pytest.approx(math.fsum(brier) / images, abs=1e-12)
    nll = [-math.log(row[y]) for row, y in zip(rows, truth, strict=True)]
    assert found.nll == pytest.approx(math.fsum(nll) / images, abs=1e-12)
    sure = sorted((max(row), number) for number, row in enumerate(rows))
    count = min(15, images)
    sizes = [images // count + (place < images % count) for place in range(count)]
    error, start = 0.0, 0
    for size, one in zip(sizes, found.bins, strict=True):
        part, start = sure[start : start + size], start + size
        confidence = math.fsum(p for p, _ in part) / size
        right = sum(rows[number].index(max(rows[number])) == truth[number] for _, number in part) / size
        assert (one.images, one.confidence, one.accuracy) == pytest.approx((size, confidence, right), abs=1e-12)
        error += size * abs(right - confidence)
    assert found.ece == pytest.approx(error / images, abs=1e-12)


def test_an_evaluation_has_the_same_figures() -> None:
    logits, labels = case(3)
    found, expected = evaluate_head(lambda x: x, logits, labels, 6), calibration_of(logits, labels)
    assert found.brier == pytest.approx(expected.brier, abs=1e-12)
    assert found.loss == pytest.approx(expected.nll, abs=1e-12)
    assert bins_of(found.confidence, found.is_correct) == expected.bins


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_is_the_best_one(seed: int, sharpness: float) -> None:
    logits, labels = case(seed, sharpness=sharpness)
    found = fitted_temperature(logits, labels)
    assert found is not None

    def loss(log_t: float) -> float:
        return calibration_of(logits.double() / math.exp(log_t), labels).nll

    best = minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-10})
    assert math.log(found) == pytest.approx(best.x, abs=1e-6)
    assert found == pytest.approx(sharpness, rel=0.25), "what made the logits too sharp is taken back"
    assert calibration_of(logits / found, labels).nll <= calibration_of(logits, labels).nll


def test_a_head_that_is_never_wrong_has_no_best_temperature(caplog: pytest.LogCaptureFixture) -> None:
    labels = torch.arange(40) % 4
    logits = 5 * torch.nn.functional.one_hot(labels, 4).float()
    assert fitted_temperature(logits, labels) is None
    assert fitted_temperature(logits, (labels + 1) % 4) is None
    found = adjusted({"full": lambda x: x}, logits, labels, 4, Adjusting(temperature=True), 0).heads["full"]
    assert "20 images do not tell a temperature for the full head" in caplog.text
    assert found.temperature == 1
    assert found.after == found.before


def test_the_threshold_is_the_order_statistic_that_the_theorem_takes() -> None:
    probabilities = torch.tensor(
        [[p, 1 - p] for p in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)], dtype=torch.float64
    )
    labels = torch.zeros(9, dtype=torch.int64)
    for coverage, place in ((0.5, 5), (0.8, 8), (0.9, 9)):  # ceil(10 c) of the scores 0.1, 0.2, ..., 0.9
        threshold = conformal_threshold(probabilities, labels, coverage)
        assert threshold == pytest.approx(1 - place / 10)
        assert prediction_sets(probabilities, labels, threshold).covered == place, "an image that is just in is in"
    assert conformal_threshold(probabilities, labels, 0.95) == 0, "ten images would be needed"


@pytest.mark.parametrize("seed", range(3))
def test_sets_against_plain_loops(seed: int) -> None:
    logits, labels = case(seed)
    probabilities = logits.double().softmax(1)
    found = prediction_sets(probabilities, labels, 0.2)
    sets = [[c for c, p in enumerate(row) if p >= 0.2] for row in probabilities.tolist()]
    assert found.covered == sum(y in kept for y, kept in zip(labels.tolist(), sets, strict=True))
    assert found.mean_size == pytest.approx(sum(map(len, sets)) / 400)
    assert (found.single, found.empty) == (sum(len(s) == 1 for s in sets), sum(not s for s in sets))


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_coverage_is_what_was_asked_for(coverage: float) -> None:
    """Over many draws of both halves, with a head that is far too sure: the promise does not need a good one."""
    shares = []
    for seed in range(150):
        logits, labels = case(seed, images=240, sharpness=3.0)
        found = adjusted({"full": lambda x: x}, logits, labels, 6, Adjusting(coverage=coverage), seed)
        sets = found.heads["full"].sets
        assert sets is not None
        shares.append(sets.coverage / 100)
        assert abs(found.images - 120) <= 6
    mean, error = float(np.mean(shares)), float(np.std(shares)) / math.sqrt(len(shares))
    assert coverage - 3 * error <= mean <= coverage + 1 / 110 + 3 * error


def test_nothing_is_reported_on_images_that_were_fitted() -> None:
    """Labels of the fitted half that are changed change temperature and threshold, and no figure of before."""
    logits, labels = case(0)
    heads = {"full": lambda x: x}
    both = Adjusting(temperature=True, coverage=0.9)
    found = adjusted(heads, logits, labels, 6, both, 5)
    assert found.temperature_images is not None
    assert found.threshold_images is not None
    assert found.images + found.temperature_images + found.threshold_images == 400
    seen = []

    def spy(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    adjusted({"full": spy}, logits, labels, 6, both, 5)
    reported, fitted = (set(map(tuple, part.tolist())) for part in (seen[0], torch.cat(seen[1:])))
    assert not reported & fitted
    assert len(reported | fitted) == 400
    again = adjusted(heads, logits, labels, 6, both, 5)
    assert again == found
    assert adjusted(heads, logits, labels, 6, both, 6) != found, "the seed divides"


def test_another_split_may_be_fitted_on() -> None:
    logits, labels = case(0)
    val = case(1)
    found = adjusted({"full": lambda x: x}, logits, labels, 6, Adjusting(True, source="val"), 0, val)
    assert (found.images, found.fitted_on, found.temperature_images) == (400, "val", 400)
    assert found.heads["full"].temperature == fitted_temperature(*val)
    assert found.heads["full"].before == calibration_of(logits, labels)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"coverage": 0.0}, "coverage 0 is not between 0 and 1"),
        ({"coverage": 1.0}, "coverage 1 is not between 0 and 1"),
        ({"coverage": math.nan}, "coverage nan is not between 0 and 1"),
        ({"coverage": 0.9, "source": "train"}, "neither half"),
        ({"source": "half"}, "has no effect without"),
    ],
)
def test_what_cannot_be_is_a_sentence(how: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Adjusting(**how)  # type: ignore[arg-type]


def test_a_few_images_cannot_be_divided() -> None:
    logits, labels = case(0, images=3)
    with pytest.raises(InputError, match="too few images"):
        adjusted({"full": lambda x: x}, logits[:1], labels[:1], 6, Adjusting(True, 0.9), 0)


def test_too_few_images_for_a_coverage_are_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "decompose_cli")
    logits, labels = case(0, images=60)
    found = adjusted({"full": lambda x: x}, logits, labels, 6, Adjusting(coverage=0.999), 0)
    assert "are too few for a coverage of 0.999: sets hold every class." in caplog.text
    assert found.heads["full"].sets is not None
    assert found.heads["full"].sets.mean_size == 6
