"""The estimator: scikit-learn's contract, and the fits that the package makes."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
from helpers.processes import python
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import decompose_cli as dc
from decompose_cli.api import estimator

SparseLinearClassifier = estimator.SparseLinearClassifier


@parametrize_with_checks([SparseLinearClassifier(), SparseLinearClassifier(values="nonnegative")])
def test_scikit_learn_finds_nothing_wrong(estimator: Any, check: Any) -> None:
    check(estimator)


def images(count: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = generator.standard_normal((3, 8))
    return (centres[labels] + generator.standard_normal((count, 8))) * np.logspace(-2, 2, 8) + 5, labels


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / x.std(0)


OTHERS = [
    *(SparseLinearClassifier(values=values) for values in ("ternary", "binary")),
    *(SparseLinearClassifier(method=method) for method in ("splicing", "elastic-net", "magnitude")),
]


@pytest.mark.slow
@parametrize_with_checks(OTHERS)
def test_scikit_learn_finds_nothing_wrong_with_any_method(estimator: Any, check: Any) -> None:
    check(estimator)


def test_with_all_features_it_is_logistic_regression() -> None:
    x, labels = images()
    ours = SparseLinearClassifier(k=100, l2=0.01).fit(x, labels)
    theirs = LogisticRegression(C=1 / (len(x) * 0.01), tol=1e-9, max_iter=2000).fit(standardised(x), labels)
    assert ours.support_.all(), "k is clipped to the features there are"
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(standardised(x)), atol=1e-3)
    np.testing.assert_allclose(ours.coef_ * x.std(0), theirs.coef_, atol=5e-3)
    assert ours.score(x, labels) == theirs.score(standardised(x), labels)


def test_each_class_has_its_k_largest_weights_refitted() -> None:
    x, labels = images()
    ours = SparseLinearClassifier(k=3, l2=0.01, method="magnitude").fit(x, labels)
    dense = LogisticRegression(C=1 / (len(x) * 0.01), tol=1e-9, max_iter=2000).fit(standardised(x), labels)
    for number, weights in enumerate(dense.coef_):
        largest = sorted(range(8), key=lambda f, weights=weights: -abs(weights[f]))[:3]
        assert sorted(np.flatnonzero(ours.support_[number])) == sorted(largest)
    assert not ours.coef_[~ours.support_].any()
    # At a minimum over the chosen weights and the biases no gradient is left in them.
    residual = ours.predict_proba(x) - np.eye(3)[labels]
    gradient = residual.T @ standardised(x) / len(x) + 0.01 * ours.coef_ * x.std(0)
    assert np.abs(gradient[ours.support_]).max() < 1e-3 < 1e-2 < np.abs(gradient[~ours.support_]).max()
    assert np.abs(residual.mean(0)).max() < 1e-3


def test_nonnegative_weights_speak_for_their_class_only() -> None:
    x, labels = images()
    weights = SparseLinearClassifier(k=4, values="nonnegative").fit(x, labels).coef_
    assert weights.min() == 0 < weights.max()
    assert SparseLinearClassifier(k=4).fit(x, labels).coef_.min() < 0


def test_the_support_says_which_features_are_used() -> None:
    x, labels = images()
    ours = SparseLinearClassifier(k=3, values="nonnegative").fit(x, labels)
    assert (ours.support_ == (ours.coef_ > 0)).all()
    assert ours.support_.sum(1).min() < 3, "a weight that would be negative is zero"


def test_only_the_proportions_of_weights_matter() -> None:
    x, labels = images()
    weights, counts = np.array([1.0, 2.0, 0.5]), 1.0 + np.arange(len(x)) % 2
    usual, large = (
        SparseLinearClassifier(k=3, class_weight=dict(enumerate(factor * weights)))
        .fit(x, labels, sample_weight=factor * counts)
        .decision_function(x)
        for factor in (1.0, 1e307)
    )
    np.testing.assert_allclose(large, usual, atol=1e-9)


def test_the_strongest_penalty_leaves_what_the_classes_share() -> None:
    x, labels = images()
    ours = SparseLinearClassifier(k=3, l2=1e12).fit(x, labels)
    np.testing.assert_allclose(ours.predict_proba(x), 1 / 3, atol=1e-6)


@pytest.mark.parametrize("values", ["ternary", "binary"])
def test_few_values_are_few_and_have_one_size(values: str) -> None:
    x, labels = images()
    ours = SparseLinearClassifier(k=3, values=values).fit(x, labels)
    on_z = ours.coef_ * x.std(0)
    np.testing.assert_allclose(np.abs(on_z[ours.support_]), ours.scale_, rtol=1e-9)
    assert ours.support_.sum(1).tolist() == [3, 3, 3]
    assert (on_z.min() < 0) == (values == "ternary")
    assert len({tuple(row) for row in ours.support_}) == 3
    assert ours.score(x, labels) > 0.7


def test_a_search_fits_better_than_the_largest_weights() -> None:
    x, labels = images(seed=4)

    def objective(method: str) -> float:
        ours = SparseLinearClassifier(k=2, method=method, l2=1e-2).fit(x, labels)
        on_z = ours.coef_ * x.std(0)
        return float(-np.log(ours.predict_proba(x)[np.arange(len(x)), labels]).mean() + 5e-3 * (on_z**2).sum())

    assert objective("splicing") <= objective("backward") + 1e-9
    assert objective("splicing") < objective("magnitude")


def test_binary_weights_clip_k_to_where_every_class_has_a_set_of_its_own() -> None:
    x, labels = images()
    assert SparseLinearClassifier(k=3, values="binary").fit(x[:, -3:], labels).support_.sum(1).tolist() == [2, 2, 2]
    alone = SparseLinearClassifier(k=3, values="binary").fit(x[:, -1:], labels)
    np.testing.assert_allclose(
        alone.predict_proba(x[:, -1:]), 1 / 3, atol=1e-6, err_msg="one feature cannot make three sets: classes share it"
    )


def test_an_image_counts_as_often_as_its_weight_says() -> None:
    x, labels = images()
    counts = np.random.default_rng(1).integers(0, 4, len(x))
    weighted = SparseLinearClassifier(k=3).fit(x, labels, sample_weight=counts)
    repeated = SparseLinearClassifier(k=3).fit(np.repeat(x, counts, 0), np.repeat(labels, counts))
    assert (weighted.support_ == repeated.support_).all()
    np.testing.assert_allclose(weighted.decision_function(x), repeated.decision_function(x), atol=1e-6)


@pytest.mark.parametrize("scaled", [1.0, 1e-4])
def test_balanced_classes_count_the_same(scaled: float) -> None:
    x, labels = images()
    few = np.flatnonzero((labels != 1) | (np.arange(len(x)) < 30))
    x, labels = x[few], labels[few]
    share = {number: scaled / (labels == number).sum() for number in range(3)}
    balanced = SparseLinearClassifier(k=3, class_weight="balanced").fit(x, labels)
    given = SparseLinearClassifier(k=3, class_weight=share).fit(x, labels)
    np.testing.assert_allclose(given.decision_function(x), balanced.decision_function(x), atol=1e-6)
    weights = [share[number] for number in labels]
    mean = np.average(balanced.predict_proba(x), axis=0, weights=weights)
    np.testing.assert_allclose(mean, 1 / 3, atol=1e-3)


def test_labels_may_be_text_and_two_classes_have_one_decision() -> None:
    x, numbers = images()
    labels = np.array(["cat", "dog", "dog"])[numbers]
    ours = SparseLinearClassifier(k=3).fit(x, labels)
    assert ours.classes_.tolist() == ["cat", "dog"]
    assert ours.support_.sum(1).tolist() == [3, 3]
    decision = ours.decision_function(x)
    assert decision.shape == (len(x),)
    assert (ours.predict(x) == np.where(decision > 0, "dog", "cat")).all()
    np.testing.assert_allclose(ours.predict_proba(x)[:, 1], 1 / (1 + np.exp(-decision)))


def test_constant_features_are_never_chosen_and_copies_do_no_harm() -> None:
    x, labels = images()
    more = np.column_stack([np.full(len(x), 3.0), x, x[:, 2]])
    ours = SparseLinearClassifier(k=20).fit(more, labels)
    assert not ours.support_[:, 0].any()
    assert ours.support_[:, 1:].all()
    few = SparseLinearClassifier(k=1).fit(np.column_stack([x[:, :1], x[:, :1]]), labels)
    assert few.support_.sum(1).tolist() == [1, 1, 1]
    np.testing.assert_allclose(
        few.decision_function(np.column_stack([x[:, :1], x[:, :1]])),
        SparseLinearClassifier(k=1).fit(x[:, :1], labels).decision_function(x[:, :1]),
        atol=1e-2,
    )
    nothing = SparseLinearClassifier(k=2).fit(np.ones((9, 2)), np.arange(9) % 3)
    assert not nothing.support_.any()
    np.testing.assert_allclose(nothing.predict_proba(np.ones((1, 2))), 1 / 3)


def test_separable_images_have_finite_weights() -> None:
    ours = SparseLinearClassifier(k=1, l2=1e-6).fit([[-1.0], [1.0]] * 20, [0, 1] * 20)
    assert np.isfinite(ours.coef_).all()
    assert ours.score([[-1.0], [1.0]], [0, 1]) == 1


def test_it_is_searched_over_as_any_other() -> None:
    x, labels = images()
    search = GridSearchCV(make_pipeline(StandardScaler(), dc.SparseLinearClassifier()), {
        "sparselinearclassifier__k": [1, 8], "sparselinearclassifier__l2": [1e-3, 1e-1]
    }, cv=3).fit(x, labels)  # fmt: skip
    assert search.best_params_["sparselinearclassifier__k"] == 8


@pytest.mark.parametrize(
    ("parameters", "arguments", "sentence"),
    [
        ({"k": 0}, {}, "k 0 is not a whole number of at least 1"),
        ({"k": 2.5}, {}, r"k 2\.5 is not"),
        ({"k": True}, {}, "k True is not"),
        ({"l2": 0}, {}, "l2 0 is not a positive number"),
        ({"l2": float("nan")}, {}, "l2 nan is not"),
        ({"l2": "weak"}, {}, "l2 'weak' is not"),
        ({"l2": 1e300}, {}, r"l2 1e\+300 is more than 1e\+12"),
        ({"l2": float("inf")}, {}, r"l2 inf is more than 1e\+12"),
        ({"method": "magic"}, {}, "method 'magic' is unknown; choose magnitude"),
        ({"values": "complex"}, {}, "values 'complex' is unknown; choose real, nonnegative"),
        ({"class_weight": "fair"}, {}, "class_weight"),
        ({"class_weight": {0: -1.0, 1: 1, 2: 1}}, {}, "class_weight has values that are negative or not finite"),
        ({"class_weight": {0: float("inf"), 1: 1, 2: 1}}, {}, "class_weight has values that are negative or not"),
        ({"class_weight": {0: 0.0, 1: 0, 2: 0}}, {}, "class_weight is zero for every class that has images"),
        (
            {"class_weight": {0: 0, 1: 0, 2: 1}},
            {"sample_weight": np.arange(240) % 3 < 2},
            "class_weight is zero for every class that has images",
        ),
        (
            {"method": "elastic-net"},
            {"X": np.tile([[-1.0], [1.0]], (120, 1)), "y": np.arange(240) // 120},
            "No feature tells the classes apart",
        ),
        ({}, {"X": np.full((240, 8), np.nan)}, "contains NaN"),
        ({}, {"y": np.zeros(240, int)}, "one class only; a classifier needs two"),
        ({}, {"y": np.linspace(0, 1, 240)}, "Unknown label type"),
        ({}, {"sample_weight": np.arange(240) % 3 == 0}, "one class only"),
        ({}, {"sample_weight": np.zeros(240)}, "sample_weight is zero for every image"),
        ({}, {"sample_weight": -np.ones(240)}, "negative or not finite"),
        ({}, {"sample_weight": np.ones(7)}, r"sample_weight has the shape \(7,\); 240 images need \(240,\)"),
    ],
)
def test_what_cannot_be_used_is_refused(parameters: dict[str, Any], arguments: dict[str, Any], sentence: str) -> None:
    x, labels = images()
    with pytest.raises(ValueError, match=sentence):
        SparseLinearClassifier(**parameters).fit(**{"X": x, "y": labels, **arguments})


def test_the_example_in_the_docstring_is_true() -> None:
    assert doctest.testmod(estimator) == (0, 5)


def test_scikit_learn_is_loaded_for_the_estimator_only() -> None:
    done = python(
        "import sys, decompose_cli as dc; dc.Model; print('sklearn' in sys.modules);"
        "dc.SparseLinearClassifier; print('sklearn' in sys.modules)"
    )
    assert (done.stdout, done.returncode) == ("False\nTrue\n", 0), done.stderr
