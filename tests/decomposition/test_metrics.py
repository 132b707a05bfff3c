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

from decompose_cli.decomposition.metrics import Evaluation, Predictions, compare, evaluate_head, losses_of, predict
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
    return Evaluation(1 - right, labels, torch.zeros(2, 2, dtype=torch.int64), None, 0.0, right.double())


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
    first = Evaluation(torch.tensor([1, 0, 0, 0]), labels, confusion, None, 0.0, torch.ones(4))
    second = Evaluation(torch.tensor([2, 0, 0, 0]), labels, confusion, None, 0.0, torch.ones(4))
    assert compare(first, second).points == 0
    assert (compare(first, second).only_first, compare(first, second).only_second) == (0, 0)


def test_bare_predictions_are_compared_like_full_evaluations() -> None:
    first, second = outcome("1111100000"), outcome("1110011100")
    bare = [Predictions(evaluation.predictions, evaluation.labels) for evaluation in (first, second)]
    assert compare(bare[0], bare[1]) == compare(first, second)
