"""Counts, losses and comparisons against scikit-learn and plain float64 loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, top_k_accuracy_score
from torch import Tensor

from decompose_cli.decomposition.metrics import (
    Evaluation,
    Predictions,
    changes_by_class,
    compare,
    evaluate_head,
    losses_of,
    predict,
    worst_change,
    worst_of,
)
from decompose_cli.decomposition.result_types import difference_of
from decompose_cli.features import blocks
from decompose_cli.statistics import paired_difference_interval


def make_case(num_classes: int, n: int = 300, d: int = 7) -> tuple[torch.nn.Linear, Tensor, Tensor]:
    torch.manual_seed(num_classes)
    head = torch.nn.Linear(d, num_classes)
    features = torch.randn(n, d) * 2
    labels = (head(features).detach() + torch.randn(n, num_classes)).argmax(1)
    return head, features, labels


def outcome(pattern: str) -> Evaluation:
    """A two-class evaluation that is right at every 1 of the pattern."""
    right = torch.tensor([int(sign) for sign in pattern])
    labels = torch.zeros(len(pattern), dtype=torch.int64)
    confusion, shares = torch.zeros(2, 2, dtype=torch.int64), right.double()
    return Evaluation(1 - right, labels, confusion, None, 0.0, shares, shares, 0.0)


@pytest.mark.parametrize("num_classes", [2, 5, 10, 11, 40])
def test_counts_against_scikit_learn(num_classes: int) -> None:
    head, features, labels = make_case(num_classes)
    found = evaluate_head(head, features, labels, num_classes)
    logits = head(features).detach().double().numpy()
    predicted, truth = logits.argmax(1), labels.numpy()
    assert found.predictions.tolist() == predicted.tolist()
    assert found.predictions.dtype == torch.int64
    assert found.labels.tolist() == truth.tolist()
    assert found.total == 300
    assert found.correct == round(300 * accuracy_score(truth, predicted))
    assert found.confusion.tolist() == confusion_matrix(truth, predicted, labels=range(num_classes)).tolist()
    if num_classes <= 10:
        assert found.top5 is None
    else:
        share = top_k_accuracy_score(truth, logits, k=5, labels=range(num_classes))
        assert found.top5 == round(300 * share)
        assert found.correct < found.top5 < 300


@pytest.mark.parametrize("num_classes", [2, 11])
def test_loss_against_a_plain_loop(num_classes: int) -> None:
    head, features, labels = make_case(num_classes)
    total = 0.0
    for row, label in zip(head(features).tolist(), labels.tolist(), strict=True):
        largest = max(row)
        total += largest + math.log(math.fsum(math.exp(value - largest) for value in row)) - row[label]
    assert evaluate_head(head, features, labels, num_classes).loss == pytest.approx(total / len(labels), rel=1e-12)


def test_confidence_is_the_probability_of_the_prediction() -> None:
    features = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(4.0)], [1000.0, 0.0]])
    found = evaluate_head(lambda x: x, features, torch.tensor([1, 1, 0]), 2)
    assert found.confidence.tolist() == pytest.approx([0.75, 0.8, 1.0], rel=1e-6)


@pytest.mark.parametrize("at_once", [7, 1 << 24])
def test_losses_of_single_images_against_a_plain_loop(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(blocks, "VALUES_AT_ONCE", at_once)
    head, features, labels = make_case(5)
    expected = [
        math.log(math.fsum(map(math.exp, row))) - row[label]
        for row, label in zip(head(features).tolist(), labels.tolist(), strict=True)
    ]
    assert losses_of(head, features, labels, 5).tolist() == pytest.approx(expected, abs=2e-6)


def test_loss_of_very_sure_logits_is_exact() -> None:
    features = torch.tensor([[1000.0, 0.0], [0.0, 1000.0], [0.0, 0.0]])
    found = evaluate_head(lambda x: x, features, torch.tensor([0, 0, 1]), 2)
    assert found.loss == pytest.approx((1000 + math.log(2)) / 3, rel=1e-12)


def test_confusion_has_true_classes_in_rows_and_all_classes() -> None:
    logits = torch.tensor([[9.0, 0, 0, 0], [0, 9, 0, 0], [0, 9, 0, 0]])
    found = evaluate_head(lambda x: x, logits, torch.tensor([0, 0, 2]), 4)
    assert found.confusion.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert found.is_correct.tolist() == [True, False, False]


def test_among_equal_logits_the_lowest_class_is_predicted() -> None:
    found = evaluate_head(lambda x: x, torch.tensor([[1.0, 3, 3], [2, 2, 2], [0, 1, 1]]), torch.tensor([1, 0, 2]), 3)
    assert found.predictions.tolist() == [1, 0, 1]


@pytest.mark.parametrize("num_classes", [5, 11])
@pytest.mark.parametrize("rows", [1, 3, 64, 299, 300, 1000])
def test_block_size_changes_nothing(monkeypatch: pytest.MonkeyPatch, num_classes: int, rows: int) -> None:
    head, features, labels = make_case(num_classes)
    whole = evaluate_head(head, features, labels, num_classes)
    monkeypatch.setattr(blocks, "VALUES_AT_ONCE", rows * max(num_classes, 7))
    sizes = []

    def counting(block: Tensor) -> Tensor:
        sizes.append(len(block))
        return head(block)

    found = evaluate_head(counting, features, labels, num_classes)
    assert sizes == [rows] * (300 // rows) + [300 % rows] * (300 % rows > 0)
    assert torch.equal(found.predictions, whole.predictions)
    assert torch.equal(found.confusion, whole.confusion)
    assert found.top5 == whole.top5
    assert found.loss == pytest.approx(whole.loss, rel=1e-6)


def test_more_classes_than_logits_at_once_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    head, features, labels = make_case(11)
    whole = evaluate_head(head, features, labels, 11)
    monkeypatch.setattr(blocks, "VALUES_AT_ONCE", 4)
    assert evaluate_head(head, features, labels, 11).correct == whole.correct


def test_no_gradient_is_recorded() -> None:
    head, features, labels = make_case(3)
    evaluate_head(head, features, labels, 3)
    assert head.weight.grad is None
    assert torch.is_grad_enabled()
    seen = []
    evaluate_head(lambda x: (seen.append(torch.is_grad_enabled()), F.linear(x, head.weight))[1], features, labels, 3)
    assert seen == [False]


# ---------------------------------------------------------------------------------------------------------- predict


@pytest.mark.parametrize("num_classes", [1, 2, 5, 40])
def test_predictions_against_scikit_learn_and_the_full_evaluation(num_classes: int) -> None:
    head, features, labels = make_case(num_classes)
    found = predict(head, features, labels, num_classes)
    predicted = head(features).detach().double().numpy().argmax(1)
    assert found.predictions.tolist() == predicted.tolist()
    assert found.predictions.dtype == torch.int64
    assert found.labels is labels
    assert found.total == 300
    assert found.correct == round(300 * accuracy_score(labels.numpy(), predicted))
    assert found.is_correct.dtype == torch.bool
    assert found.is_correct.tolist() == [a == b for a, b in zip(predicted.tolist(), labels.tolist(), strict=True)]
    evaluation = evaluate_head(head, features, labels, num_classes)
    assert isinstance(evaluation, Predictions)
    assert torch.equal(evaluation.predictions, found.predictions)


@pytest.mark.parametrize("rows", [1, 3, 64, 299, 300, 1000])
def test_predictions_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    head, features, labels = make_case(5)
    whole = predict(head, features, labels, 5)
    monkeypatch.setattr(blocks, "VALUES_AT_ONCE", rows * 7)
    sizes = []

    def counting(block: Tensor) -> Tensor:
        sizes.append(len(block))
        return head(block)

    assert torch.equal(predict(counting, features, labels, 5).predictions, whole.predictions)
    assert sizes == [rows] * (300 // rows) + [300 % rows] * (300 % rows > 0)
    monkeypatch.setattr(blocks, "VALUES_AT_ONCE", 4)  # fewer than one image has
    assert torch.equal(predict(head, features, labels, 5).predictions, whole.predictions)


def test_the_lowest_class_among_equal_logits_is_predicted() -> None:
    logits = torch.tensor([[1.0, 3, 3], [2, 2, 2], [0, 1, 1]])
    found = predict(lambda x: x, logits, torch.tensor([1, 0, 2]), 3)
    assert found.predictions.tolist() == [1, 0, 1]
    assert (found.correct, found.total) == (2, 3)


def test_predicting_records_no_gradient() -> None:
    head, features, labels = make_case(3)
    seen = []
    found = predict(lambda x: (seen.append(torch.is_grad_enabled()), head(x))[1], features, labels, 3)
    assert seen == [False]
    assert torch.is_grad_enabled()
    assert not found.predictions.requires_grad


@pytest.mark.parametrize(
    ("predictions", "labels", "correct"), [([0, 1, 2], [0, 1, 2], 3), ([1, 2, 0], [0, 1, 2], 0), ([1], [1], 1)]
)
def test_right_answers_are_counted(predictions: list[int], labels: list[int], correct: int) -> None:
    found = Predictions(torch.tensor(predictions), torch.tensor(labels))
    assert (found.correct, found.total) == (correct, len(labels))
    assert type(found.correct) is int


# ---------------------------------------------------------------------------------------------------------- compare


def test_comparison_counts_image_by_image() -> None:
    first, second = outcome("1111100000"), outcome("1110011100")
    found = compare(first, second)
    assert (found.only_first, found.only_second) == (2, 3)
    assert found.points == pytest.approx(10.0)
    assert found.mcnemar_p == pytest.approx(binomtest(2, 5).pvalue)
    low, high = paired_difference_interval(3, 2, 3, 2)
    assert found.ci95 == pytest.approx((100 * low, 100 * high))
    assert found.ci95[0] < found.points < found.ci95[1]


def test_comparison_the_other_way_round_is_mirrored() -> None:
    random = np.random.default_rng(0)
    patterns = ["".join(str(bit) for bit in random.integers(0, 2, 50)) for _ in range(2)]
    one = compare(outcome(patterns[0]), outcome(patterns[1]))
    other = compare(outcome(patterns[1]), outcome(patterns[0]))
    assert other.points == -one.points
    assert other.ci95 == pytest.approx((-one.ci95[1], -one.ci95[0]))
    assert other.mcnemar_p == one.mcnemar_p
    assert (other.only_first, other.only_second) == (one.only_second, one.only_first)


@pytest.mark.parametrize("pattern", ["1", "0", "1111", "1010"])
def test_a_classifier_does_not_differ_from_itself(pattern: str) -> None:
    found = compare(outcome(pattern), outcome(pattern))
    assert (found.points, found.only_first, found.only_second, found.mcnemar_p) == (0, 0, 0, 1)
    assert found.ci95[0] < 0 < found.ci95[1]


def test_two_wrong_answers_need_not_be_the_same_one() -> None:
    labels = torch.zeros(4, dtype=torch.int64)
    confusion = torch.zeros(3, 3, dtype=torch.int64)
    rest = None, 0.0, torch.ones(4), torch.ones(4), 0.0
    first = Evaluation(torch.tensor([1, 0, 0, 0]), labels, confusion, *rest)
    second = Evaluation(torch.tensor([2, 0, 0, 0]), labels, confusion, *rest)
    assert compare(first, second).points == 0
    assert (compare(first, second).only_first, compare(first, second).only_second) == (0, 0)


def test_bare_predictions_are_compared_like_full_evaluations() -> None:
    first, second = outcome("1111100000"), outcome("1110011100")
    bare = [Predictions(evaluation.predictions, evaluation.labels) for evaluation in (first, second)]
    assert compare(bare[0], bare[1]) == compare(first, second)


# ------------------------------------------------------------------------------------------------------------- classes


def random_pair(seed: int, classes: int) -> tuple[Predictions, Predictions]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, 400)
    labels[labels == 1] = 0  # a class without images
    first = np.where(random.random(400) < 0.1, (labels + 1) % classes, labels)
    lost = random.random(400) < 0.05 + 0.6 * (labels == classes - 1)
    second = np.where(lost, (labels + 2) % classes, first)
    truth = torch.from_numpy(labels)
    return Predictions(torch.from_numpy(first), truth), Predictions(torch.from_numpy(second), truth)


@pytest.mark.parametrize("classes", [3, 10])
@pytest.mark.parametrize("seed", range(4))
def test_changes_by_class_against_a_plain_loop(seed: int, classes: int) -> None:
    first, second = random_pair(seed, classes)
    found = changes_by_class(first, second)
    present = sorted(set(first.labels.tolist()))
    assert [one.number for one in found] == present
    for one in found:
        pairs = [
            (a == label, b == label)
            for a, b, label in zip(
                first.predictions.tolist(), second.predictions.tolist(), first.labels.tolist(), strict=True
            )
            if label == one.number
        ]
        counts = [pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
        low, high = paired_difference_interval(*counts, 1 - 0.05 / len(present))
        assert (one.images, one.before, one.after) == (len(pairs), counts[0] + counts[1], counts[0] + counts[2])
        assert one.points == pytest.approx(100 * (counts[2] - counts[1]) / len(pairs), abs=1e-12)
        assert one.ci95 == pytest.approx((100 * low, 100 * high), abs=1e-9)
        assert one.is_halved == (2 * one.after < one.before and high < 0)
    worst = worst_of(found)
    assert worst is not None
    assert worst.number == classes - 1
    assert worst.points == min(one.points for one in found)


def test_no_class_is_worst_where_none_loses() -> None:
    first, _ = random_pair(0, 5)
    assert worst_of(changes_by_class(first, first)) is None
    assert worst_of(changes_by_class(first, Predictions(first.labels, first.labels))) is None


def test_a_class_that_is_lost_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """200 of 321 right become 198, which hides a class that goes from 45 to 0."""
    labels = torch.tensor([0] * 45 + [1] * 276)
    first, second = labels.clone(), labels.clone()
    first[45 + 155 :] = 0
    second[:45] = 1
    second[45 + 198 :] = 0
    pair = Predictions(first, labels), Predictions(second, labels)
    difference = difference_of(*pair, ["cat", "dog"])
    assert (pair[0].correct, pair[1].correct) == (200, 198)
    assert difference.worst_class is not None
    assert (difference.worst_class.number, difference.worst_class.before, difference.worst_class.after) == (0, 45, 0)
    assert [one.number for one in difference.halved_classes] == [0]
    assert "The decomposed head gets 0 of 45 images of cat right instead of 45." in caplog.text
    few = [Predictions(torch.tensor(values), torch.zeros(3, dtype=torch.int64)) for values in ([0, 0, 0], [1, 1, 0])]
    assert difference_of(*few, ["cat"]).halved_classes == [], "three images show nothing"


def test_many_lost_classes_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    labels = torch.arange(9).repeat_interleave(100)
    found = difference_of(Predictions(labels, labels), Predictions((labels + 1) % 9, labels), list("abcdefghi"))
    assert len(found.halved_classes) == 9
    assert caplog.text.count("right instead of") == 5
    assert "4 more classes" in caplog.text


def test_intervals_of_classes_hold_together() -> None:
    """Where nothing changes but by chance, the interval of the class picked for its loss holds in 19 of 20 draws."""
    random = np.random.default_rng(0)
    labels = torch.arange(10).repeat_interleave(60)
    missed = 0
    for _ in range(600):
        first, second = (
            Predictions(torch.where(torch.from_numpy(random.random(600) < 0.2), -1, labels), labels) for _ in range(2)
        )
        worst = min(changes_by_class(first, second), key=lambda one: one.points)
        missed += not worst.ci95[0] <= 0 <= worst.ci95[1]
    assert missed / 600 < 0.05


@pytest.mark.parametrize("seed", range(20))
def test_the_worst_class_by_itself_is_that_of_all(seed: int) -> None:
    """Few images of many classes, so that classes lose alike."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 12, (60,), generator=generator) * 2
    first, second = (
        Predictions(torch.where(torch.rand(60, generator=generator) < share, labels, labels + 1), labels)
        for share in (0.8, 0.6)
    )
    assert worst_change(first, second) == worst_of(changes_by_class(first, second))
    assert worst_change(first, first) is None
