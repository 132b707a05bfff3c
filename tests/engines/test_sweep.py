"""Accuracy for every number of features, against one evaluation at a time; the smallest set within a loss."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.pictures import legend_of, points
from matplotlib.figure import Figure
from torch import Tensor

from decompose_cli.decomposition.accuracy_results import RefittedHead
from decompose_cli.decomposition.index_set import IndexSet, read_index_set, write_index_set
from decompose_cli.decomposition.ranking import RANKINGS, data_for, select
from decompose_cli.decomposition.sampling import searched_numbers
from decompose_cli.decomposition.smallest import Chosen
from decompose_cli.decomposition.sweep_results import SweepResults
from decompose_cli.engines.extract_indices import ExtractSettings, extract_indices
from decompose_cli.engines.sweep import SweepSettings, parse_ks, parse_methods, sweep
from decompose_cli.engines.validate import validate
from decompose_cli.errors import InputError
from decompose_cli.features.labelled import DEFAULT_L2
from decompose_cli.features.study import Inputs, Study
from decompose_cli.models.checkpoint import read_checkpoint
from decompose_cli.models.registry import DEFAULT_MODEL
from decompose_cli.storage.result_document import ResultDocument

WITHOUT_FITS = [method for method, ranking in RANKINGS.items() if not ranking.is_fitted]
WITHOUT_GATES = [method for method in WITHOUT_FITS if method != "csg"]
FITTED = [method for method, ranking in RANKINGS.items() if ranking.is_fitted]


def write_weights_with_gates(gates: Tensor, name: str = "gates.pth") -> str:
    shipped = read_checkpoint(Path(Study(Inputs(), ("test",)).classifier.weights_source))
    torch.save({**shipped.state_dict, "csg": gates}, name)
    return name


def write(name: str, classes: Sequence[Sequence[int]]) -> str:
    write_index_set(Path(name), IndexSet(tuple(map(tuple, classes)), 64))
    return name


def files_below() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def validated(index_set: IndexSet, inputs: Inputs | None = None) -> int:
    """What ``validate -i`` says of a set."""
    decomposed = validate(inputs or Inputs(), index_set).results.decomposed
    assert decomposed is not None
    return decomposed.correct


def wilson(successes: int, total: int) -> tuple[float, float]:
    """In percent."""
    z, p = 1.959963984540054, successes / total
    centre, root = p + z * z / (2 * total), z * math.sqrt(p * (1 - p) / total + (z / (2 * total)) ** 2)
    low, high = (100 * (centre - root) / (1 + z * z / total), 100 * (centre + root) / (1 + z * z / total))
    return low, high


# ------------------------------------------------------------------------------------------------------------- curves


@pytest.mark.usefixtures("no_forward_pass")
@pytest.mark.parametrize(
    ("method", "ks"),
    # All fitted rankings are swept alike, and elimination is the quickest.
    [*((method, [1, 2, 3, 7, 20, 63, 64]) for method in WITHOUT_GATES), ("backward", [1, 3, 64])],
)
def test_each_point_is_what_validate_says_of_the_same_set(method: Any, ks: list[int]) -> None:
    l2 = DEFAULT_L2 if RANKINGS[method].is_fitted else None  # at which select() fits too
    curves = sweep(Inputs(), SweepSettings(methods=[method], ks=ks, l2=l2)).results.curves
    assert {name: list(points) for name, points in curves.items()} == {method: [str(k) for k in ks]}
    ranked = data_for(Study(Inputs(), ("train",)), [method])
    expected = {str(k): validated(select(ranked, method, k)) for k in ks}
    assert {k: point.correct for k, point in curves[method].items()} == expected
    assert len(set(expected.values())) > 2, "the case can tell the ks apart"
    found = validate(Inputs(), select(ranked, method, ks[0])).results
    assert found.difference is not None
    assert found.difference.worst_class is not None
    assert curves[method][str(ks[0])].worst_class == found.difference.worst_class


def test_gates_in_the_weights_are_a_method_too(few: str) -> None:
    weights = write_weights_with_gates(torch.rand(10, 64, generator=torch.Generator().manual_seed(0)))
    inputs, found = Inputs(model=DEFAULT_MODEL, weights=weights, dataset=few), []
    for order in ("highest", "lowest"):
        results = sweep(inputs, SweepSettings(ks=[2, 30], order=order)).results  # type: ignore[arg-type]
        assert list(results.curves) == WITHOUT_FITS
        ranked = data_for(Study(inputs, ("train",)), ["csg"], order)  # type: ignore[arg-type]
        expected = {str(k): validated(select(ranked, "csg", k), inputs) for k in (2, 30)}
        found.append({k: point.correct for k, point in results.curves["csg"].items()})
        assert found[-1] == expected
    assert found[0] != found[1], "the case can tell the orders apart"


@pytest.mark.usefixtures("no_forward_pass")
def test_without_options_every_scored_method_that_fits_is_tried_from_1_to_64() -> None:
    document = sweep(Inputs())
    results = document.results
    assert list(results.curves) == WITHOUT_GATES
    assert all(list(points) == [str(k) for k in range(1, 65)] for points in results.curves.values())
    assert document.dataset is not None
    assert (document.dataset.name, document.dataset.split) == ("digits", "test")
    original = validate(Inputs()).results.original
    assert original is not None
    assert (results.original.correct, results.total) == (original.correct, 360)
    assert {points["64"].correct for points in results.curves.values()} == {original.correct}
    assert (results.chosen, results.plot, results.refitting, results.refitted) == (None, None, None, {})
    for point in [results.original, *results.curves["mean"].values()]:
        assert point.top1 == pytest.approx(100 * point.correct / 360)
        assert point.top1_ci95 == pytest.approx(wilson(point.correct, 360))
    assert not list(Path.cwd().iterdir())


@pytest.mark.usefixtures("no_forward_pass")
def test_index_files_are_points_at_their_own_k() -> None:
    even = [[(7 * c + 5 * j) % 64 for j in range(4)] for c in range(10)]
    ragged = [row[: 1 + c % 4] for c, row in enumerate(even)]
    files = [f"mine={write('1.json', even)}", f"mine={write('2.json', ragged)}", write("plain.json", even[::-1])]
    results = sweep(Inputs(), SweepSettings(methods=["weight"], ks=[1, 2], indices=files)).results
    assert {name: list(points) for name, points in results.curves.items()} == {
        "weight": ["1", "2"],
        "mine": ["4", "1-4"],
        "plain": ["4"],
    }
    for name, k, file in (("mine", "4", "1.json"), ("mine", "1-4", "2.json"), ("plain", "4", "plain.json")):
        assert results.curves[name][k].correct == validated(read_index_set(Path(file)))


@pytest.mark.usefixtures("no_forward_pass")
def test_two_points_of_the_same_name_and_k_are_refused() -> None:
    files = [f"mine={write('1.json', [[1]] * 10)}", f"mine={write('2.json', [[2]] * 10)}"]
    with pytest.raises(InputError, match="'mine' with a point at k = 1"):
        sweep(Inputs(), SweepSettings(methods=["weight"], ks=[1], indices=files))
    with pytest.raises(InputError, match=r"^indices weight=1\.json: 'weight' is the name of a ranking") as caught:
        sweep(Inputs(), SweepSettings(methods=["mean"], ks=[2], indices=["weight=1.json"]))
    assert "indices OTHER_NAME=FILE" in str(caught.value.hint)


@pytest.mark.usefixtures("no_forward_pass")
def test_the_split_is_the_users_and_features_are_ranked_on_the_training_images() -> None:
    inputs = Inputs(split="train")
    results = sweep(inputs, SweepSettings(methods=["mean"], ks=[3])).results
    expected = validated(select(data_for(Study(Inputs(), ("train",)), ["mean"]), "mean", 3), inputs)
    assert (results.total, results.curves["mean"]["3"].correct) == (1437, expected)


def test_first_a_miss_then_a_hit_for_whatever_sizes_and_methods(
    few: str, forbid_forward_passes: Callable[[], None]
) -> None:
    inputs = Inputs(model=DEFAULT_MODEL, dataset=few)
    first = sweep(inputs, SweepSettings(ks=[1, 2]))
    forbid_forward_passes()
    second = sweep(inputs, SweepSettings(ks=[1, 2]))
    assert first.cache is not None
    assert second.cache is not None
    assert (first.cache.features, second.cache.features) == ("miss", "hit")
    assert first.results == second.results
    sweep(inputs, SweepSettings(methods=["weight", "frequency"], ks=[5, 64], max_drop=5))
    with pytest.raises(AssertionError, match="a forward pass was made"):
        sweep(dataclasses.replace(inputs, use_cache=False), SweepSettings(ks=[1]))


# --------------------------------------------------------------------------------------------- weights fitted anew


def of_validate(index_set: IndexSet, l2: float) -> RefittedHead:
    """What ``validate -i --refit`` says of a set."""
    refitted = validate(Inputs(), index_set, refit=True, l2=l2).results.refitted
    assert refitted is not None
    return refitted


@pytest.mark.usefixtures("no_forward_pass")
def test_with_refit_each_curve_is_there_twice_and_both_are_those_of_validate() -> None:
    document = sweep(Inputs(), SweepSettings(methods=["mean", "weight"], refit=True, l2=3e-3))
    results = document.results
    few = [1, 2, 3, 5, 10, 20, 30, 50, 64]
    assert document.arguments["ks"] == few
    names = {name: [str(k) for k in few] for name in ("mean", "weight")}
    assert {name: list(points) for name, points in results.curves.items()} == names
    assert {name: list(points) for name, points in results.refitted.items()} == names
    ranked = data_for(Study(Inputs(), ("train",)), ["weight"])
    for k in (1, 3, 20):
        index_set = select(ranked, "weight", k)
        found, expected = results.refitted["weight"][str(k)], of_validate(index_set, 3e-3)
        assert results.curves["weight"][str(k)].correct == validated(index_set)
        assert found.correct == expected.correct
        assert found.difference == expected.difference
        assert found.top1_ci95 == pytest.approx(wilson(found.correct, 360))
    assert results.refitted["weight"]["1"].correct > results.curves["weight"]["1"].correct + 30
    ends = {points["64"].correct for points in results.refitted.values()}
    assert len(ends) == 1, "with all features both are the full head, fitted anew"
    assert results.refitting is not None
    assert (results.refitting.l2, results.refitting.fitted, results.refitting.chosen_on) == (3e-3, 1437, None)


@pytest.mark.usefixtures("no_forward_pass")
@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name == "backward" else pytest.mark.slow) for name in FITTED]
)
def test_methods_that_fit_are_swept_where_they_are_named(method: str) -> None:
    settings = SweepSettings(methods=[method, "weight"], ks=[2, 5], l2=0.3, refit=method == "backward")
    results = sweep(Inputs(), settings).results
    ranked = dataclasses.replace(Study(Inputs(), ("train",)).labelled(), l2=0.3)
    sets = dict(zip([2, 5], RANKINGS[method].sets(ranked, [2, 5]), strict=True))
    assert {k: point.correct for k, point in results.curves[method].items()} == {
        str(k): validated(index_set) for k, index_set in sets.items()
    }
    assert list(results.refitted) == ([method, "weight"] if settings.refit else [])
    if settings.refit:
        assert results.refitted[method]["2"].correct == of_validate(sets[2], 0.3).correct
    usual = next(RANKINGS[method].sets(dataclasses.replace(ranked, l2=1e-3), [2]))
    assert (usual.classes == sets[2].classes) == (method == "elastic-net"), "the case can tell strengths apart"


@pytest.mark.usefixtures("no_forward_pass")
def test_without_sizes_heads_are_fitted_at_a_few_and_rankings_tried_at_all() -> None:
    document = sweep(Inputs(), SweepSettings(methods=["weight", "backward"], l2=1e-3))
    sizes = {name: list(points) for name, points in document.results.curves.items()}
    assert sizes["weight"] == [str(k) for k in range(1, 65)]
    assert sizes["backward"] == ["1", "2", "3", "5", "10", "20", "30", "50", "64"]
    assert document.arguments["ks"] == list(range(1, 65))
    assert document.results.refitted == {}
    assert document.results.refitting is not None


@pytest.mark.usefixtures("no_forward_pass")
def test_index_files_are_fitted_at_their_own_features() -> None:
    ragged = [[(7 * c + 5 * j) % 64 for j in range(1 + c % 4)] for c in range(10)]
    file = write("ragged.json", ragged)
    results = sweep(Inputs(), SweepSettings(methods=["weight"], ks=[1], indices=[file], refit=True, l2=1e-2)).results
    expected = of_validate(read_index_set(Path(file)), 1e-2)
    assert {k: point.correct for k, point in results.refitted["ragged"].items()} == {"1-4": expected.correct}
    assert expected.correct != results.curves["ragged"]["1-4"].correct


@pytest.mark.usefixtures("no_forward_pass")
def test_the_strength_is_chosen_once_whatever_is_swept() -> None:
    found = [
        sweep(Inputs(), SweepSettings(methods=methods, ks=ks, refit=True)).results.refitting
        for methods, ks in ((["weight"], [1]), (["mean", "contribution"], [30]))
    ]
    assert found[0] is not None
    assert found[0] == found[1]
    chosen = found[0].chosen_on
    assert chosen is not None
    assert (chosen.split, chosen.part_of_training, chosen.images + chosen.fitted) == ("train", True, 1437)
    assert abs(chosen.images / 1437 - 0.2) < 0.01


@pytest.mark.usefixtures("no_forward_pass")
def test_of_a_method_that_fits_the_smallest_set_is_among_those_that_were_measured() -> None:
    settings = SweepSettings(methods=["backward"], ks=[2, 5, 10], max_drop=10.0, l2=1e-3)
    chosen = sweep(Inputs(), settings).results.chosen
    assert chosen is not None
    assert chosen.k < 10, "the case can tell the k apart"
    ranked = dataclasses.replace(Study(Inputs(), ("train",)).labelled(), l2=1e-3)
    common = select(ranked, chosen.method, chosen.k).classes
    assert all(set(row) <= set(whole) for row, whole in zip(chosen.indices.values(), common, strict=True))
    assert chosen.chosen_on.common_correct == int(correct(common, "train")[1].sum())


@pytest.mark.usefixtures("no_forward_pass")
def test_refitted_curves_are_dashed_lines_of_the_same_colour(figures: list[Figure]) -> None:
    settings = SweepSettings(methods=["mean", "weight"], ks=[1, 5, 20], refit=True, l2=1e-3)
    results = sweep(Inputs(), settings, folder=Path("out")).results
    (axes,) = figures[0].axes
    mean, weight, mean_anew, weight_anew, floor, _ = axes.get_lines()
    for cut, anew, name in ((mean, mean_anew, "mean"), (weight, weight_anew, "weight")):
        assert cut.get_color() == anew.get_color()
        assert (cut.is_dashed(), anew.is_dashed()) == (False, True)
        full = results.original.top1
        assert points(anew) == [(int(k), point.top1 - full) for k, point in results.refitted[name].items()]
        assert points(cut) == [(int(k), point.top1 - full) for k, point in results.curves[name].items()]
    assert mean.get_color() != weight.get_color()
    random = "random features: mean and range"
    assert list(legend_of(axes)) == ["mean", "weight", "the same, weights fitted anew", random, "full head: 99.44%"]
    assert results.random is not None
    assert points(floor) == [(int(k), drawn.mean - full) for k, drawn in results.random.by_k.items()]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["20", "10", "5", "2", "1"]


# ------------------------------------------------------------------------------------------------- the smallest set


def bound(full: Tensor, other: Tensor) -> float:
    """One-sided 95% upper bound of the loss in points: Newcombe's tenth method, written out."""
    n, z = len(full), 1.6448536269514722
    a, b = int((full & other).sum()), int((full & ~other).sum())
    c, d = int((other & ~full).sum()), int((~full & ~other).sum())

    def limits(successes: int) -> tuple[float, float]:
        p = successes / n
        root = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (p + z * z / (2 * n) - root) / (1 + z * z / n), (p + z * z / (2 * n) + root) / (1 + z * z / n)

    product = (a + b) * (c + d) * (a + c) * (b + d)
    over = a * d - b * c
    phi = 0.0 if product == 0 else (max(over - n / 2, 0) if over > 0 else over) / math.sqrt(product)
    p1, p2 = (a + b) / n, (a + c) / n
    up, down = limits(a + b)[1] - p1, p2 - limits(a + c)[0]
    return 100 * (p1 - p2 + math.sqrt(down**2 - 2 * phi * down * up + up**2))


def correct(classes: Sequence[Sequence[int]], split: str) -> tuple[Tensor, Tensor]:
    """Which images the full head and the decomposed one get right, in double precision."""
    study = Study(Inputs(), (split,))
    features, head = study.bank.features.double(), study.head
    weight = torch.zeros(10, 64, dtype=torch.float64)
    for number, row in enumerate(classes):
        weight[number, list(row)] = head.weight[number, list(row)].double()
    full, kept = (features @ w.T + head.bias.double() for w in (head.weight.double(), weight))
    return full.argmax(1) == study.labels, kept.argmax(1) == study.labels


def chosen_by(
    max_drop: float, methods: Any = ("frequency", "weight"), folder: Path | None = None, **more: Any
) -> Chosen:
    settings = SweepSettings(methods=methods, ks=list(range(1, 21)), max_drop=max_drop, **more)
    found = sweep(Inputs(), settings, folder=folder).results.chosen
    assert found is not None
    return found


@pytest.mark.usefixtures("no_forward_pass")
@pytest.mark.parametrize("max_drop", [1.0, 3.0])
def test_the_set_is_chosen_on_the_training_images_and_reported_on_the_test_images(max_drop: float) -> None:
    chosen = chosen_by(max_drop)
    rows = list(chosen.indices.values())
    assert list(chosen.indices) == [str(c) for c in range(10)]
    assert chosen.features == sum(map(len, rows))
    assert chosen.features_per_class == (min(map(len, rows)), max(map(len, rows)))
    ranked = data_for(Study(Inputs(), ("train",)), [chosen.method])  # type: ignore[list-item]
    common = select(ranked, chosen.method, chosen.k).classes  # type: ignore[arg-type]
    for loss, split, total in ((chosen.chosen_on, "train", 1437), (chosen.reported_on, "test", 360)):
        full, kept = correct(rows, split)
        assert (loss.split, loss.total) == (split, total)
        assert (loss.full_correct, loss.correct) == (int(full.sum()), int(kept.sum()))
        assert loss.common_correct == int(correct(common, split)[1].sum())
        assert loss.points == pytest.approx(100 * (int(kept.sum()) - int(full.sum())) / total)
        assert loss.ci95[0] <= loss.points <= loss.ci95[1]
        assert loss.loss_bound95 == pytest.approx(bound(full, kept))
        assert 0 <= loss.mcnemar_p <= 1
    assert chosen.chosen_on.loss_bound95 <= max_drop
    assert chosen.max_drop == max_drop


@pytest.mark.usefixtures("no_forward_pass")
def test_of_very_many_training_images_a_part_is_searched_and_said_to_be(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert chosen_by(3.0).searched is None
    monkeypatch.setattr("decompose_cli.decomposition.sampling.MOST_SEARCHED", 700)
    chosen = chosen_by(3.0)
    drawn = searched_numbers(Study(Inputs(), ("train",)).labels)
    assert drawn is not None
    assert chosen.searched == chosen.chosen_on.total == len(drawn) <= 700
    assert f"The search looks at {len(drawn)} of the 1,437 training images, drawn by class." in caplog.messages
    full, kept = correct(list(chosen.indices.values()), "train")
    assert (chosen.chosen_on.full_correct, chosen.chosen_on.correct) == (int(full[drawn].sum()), int(kept[drawn].sum()))
    assert chosen.chosen_on.loss_bound95 == pytest.approx(bound(full[drawn], kept[drawn]))
    assert chosen.reported_on.total == 360
    ranked = data_for(Study(Inputs(), ("train",)), [chosen.method])  # type: ignore[list-item]
    common = select(ranked, chosen.method, chosen.k).classes  # type: ignore[arg-type]
    assert all(tuple(row) == of_all[: len(row)] for row, of_all in zip(chosen.indices.values(), common, strict=True))


@pytest.mark.usefixtures("no_forward_pass")
@pytest.mark.parametrize("method", ["frequency", "mean"])
def test_sets_that_are_extracted_together_are_those_of_each_k_alone(method: str) -> None:
    found = extract_indices(Inputs(), ExtractSettings(k=[7, 0.5, 2, 64], method=method)).results
    assert list(found) == ["7", "0.5", "2", "64"]
    for k in (7, 0.5, 2, 64):
        alone = extract_indices(Inputs(), ExtractSettings(k=[k], method=method)).results
        assert found[str(k)] == alone[str(k)]


@pytest.mark.usefixtures("no_forward_pass")
def test_methods_that_fit_heads_look_at_a_part_of_very_many_images(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = SweepSettings(methods=["backward"], ks=[2], l2=1e-2)
    whole = sweep(Inputs(), settings).results
    monkeypatch.setattr("decompose_cli.decomposition.sampling.MOST_SEARCHED", 300)
    part = sweep(Inputs(), settings).results
    count = len(searched_numbers(Study(Inputs(), ("train",)).labels))  # type: ignore[arg-type]
    assert (whole.searched, part.searched) == (None, count)
    assert f"backward looks for features on {count} of the 1,437 images." in caplog.messages
    assert sweep(Inputs(), dataclasses.replace(settings, methods=["mean"], l2=None)).results.searched is None
    extracted = extract_indices(Inputs(), ExtractSettings(k=[2], method="backward"))
    assert extracted.results["2"].searched == count
    assert extract_indices(Inputs(), ExtractSettings(k=[2])).results["2"].searched is None


@pytest.mark.usefixtures("no_forward_pass")
def test_the_common_k_is_the_smallest_whose_bound_holds_on_the_training_images() -> None:
    chosen = chosen_by(1.0)
    ranked = data_for(Study(Inputs(), ("train",)), ["frequency", "weight"])
    for method, candidate in chosen.candidates.items():
        bounds = [bound(*correct(select(ranked, method, k).classes, "train")) for k in range(1, 21)]  # type: ignore[arg-type]
        fitting = [k for k, value in enumerate(bounds, start=1) if value <= 1.0]
        assert candidate is not None
        assert candidate.k == fitting[0]
        assert candidate.features <= 10 * candidate.k


@pytest.mark.usefixtures("no_forward_pass")
def test_classes_keep_their_best_features_and_the_next_removal_would_cost_too_much() -> None:
    chosen = chosen_by(1.0)
    rows = list(chosen.indices.values())
    ranked = data_for(Study(Inputs(), ("train",)), [chosen.method])  # type: ignore[list-item]
    common = select(ranked, chosen.method, chosen.k).classes  # type: ignore[arg-type]
    assert all(tuple(row) == full[: len(row)] and row for row, full in zip(rows, common, strict=True))
    assert chosen.features < 10 * chosen.k, "something was dropped"
    outcomes = []
    for number, row in enumerate(rows):
        if len(row) > 1:
            less = [kept[:-1] if other == number else kept for other, kept in enumerate(rows)]
            full, kept = correct(less, "train")
            outcomes.append((int(kept.sum()), bound(full, kept)))
    assert outcomes, "some class has more than one feature"
    best = max(right for right, _ in outcomes)
    assert min(value for right, value in outcomes if right == best) > 1.0


@pytest.mark.usefixtures("no_forward_pass")
@pytest.mark.parametrize("max_drop", [1.0, 20.0])
def test_the_method_with_the_fewest_features_wins_and_the_first_among_equals(max_drop: float) -> None:
    candidates = chosen_by(max_drop, WITHOUT_GATES).candidates
    assert list(candidates) == WITHOUT_GATES
    fewest = min(found.features for found in candidates.values() if found)
    first = next(method for method, found in candidates.items() if found and found.features == fewest)
    assert chosen_by(max_drop, WITHOUT_GATES).method == first
    backwards = chosen_by(max_drop, WITHOUT_GATES[::-1])
    assert backwards.method == [m for m, found in candidates.items() if found and found.features == fewest][-1]
    assert backwards.features == fewest


@pytest.mark.usefixtures("no_forward_pass")
def test_the_written_set_is_ready_for_validate() -> None:
    chosen = chosen_by(2.0, folder=Path("out"))
    assert chosen.file == "out/indices.json"
    assert files_below() == ["out/curve.png", "out/indices.json", "out/result.json"]
    content = json.loads(Path("out/indices.json").read_text(encoding="utf-8"))
    assert content["classes"] == list(chosen.indices.values())
    assert content["num_features"] == 64
    assert content["provenance"]["method"] == chosen.method
    for split, loss in (("test", chosen.reported_on), ("train", chosen.chosen_on)):
        found = validate(Inputs(split=split), Path("out/indices.json")).results
        assert found.original is not None
        assert found.decomposed is not None
        assert found.difference is not None
        assert (found.original.correct, found.decomposed.correct) == (loss.full_correct, loss.correct)
        assert found.difference.points == pytest.approx(loss.points)
        assert found.difference.ci95 == pytest.approx(loss.ci95)
        assert found.difference.mcnemar_p == pytest.approx(loss.mcnemar_p)


@pytest.mark.usefixtures("no_forward_pass")
def test_a_folder_gets_the_result_and_the_curve_and_without_a_choice_no_set(figures: list[Figure]) -> None:
    document = sweep(Inputs(), SweepSettings(methods=["weight"], ks=[1, 2]), folder=Path("out"))
    assert document.results.plot == "out/curve.png"
    assert files_below() == ["out/curve.png", "out/result.json"]
    assert Path("out/result.json").read_text(encoding="utf-8") == document.to_json()
    (axes,) = figures[0].axes
    weight, floor, full = axes.get_lines()
    found = document.results.curves["weight"]
    top1 = document.results.original.top1
    assert points(weight) == [(1, found["1"].top1 - top1), (2, found["2"].top1 - top1)]
    assert set(full.get_ydata()) == {0}
    ends = {(k, value - top1) for k, point in ((1.0, found["1"]), (2.0, found["2"])) for value in point.top1_ci95}
    assert ends <= {tuple(vertex) for vertex in axes.collections[0].get_paths()[0].vertices}
    assert document.results.random is not None
    assert points(floor) == [(int(k), drawn.mean - top1) for k, drawn in document.results.random.by_k.items()]
    lowest = {(int(k), drawn.min - top1) for k, drawn in document.results.random.by_k.items()}
    assert lowest <= {tuple(vertex) for vertex in axes.collections[1].get_paths()[0].vertices}
    assert list(legend_of(axes)) == ["weight", "random features: mean and range", "full head: 99.44%"]
    assert axes.get_title() == "resnet20-digits on digits test"


@pytest.mark.usefixtures("no_forward_pass")
@pytest.mark.parametrize("name", ["result.json", "curve.png", "indices.json"])
def test_a_folder_gets_nothing_unless_it_gets_every_file(name: str) -> None:
    Path("out", name).mkdir(parents=True)
    with pytest.raises(InputError, match=rf"Cannot write out/{name}: Is a directory"):
        chosen_by(5.0, folder=Path("out"))
    assert [path.name for path in Path("out").iterdir()] == [name]
    assert not files_below()


@pytest.mark.usefixtures("no_forward_pass")
def test_a_picture_that_cannot_be_drawn_keeps_what_is_in_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen_by(5.0, folder=Path("out"))
    before = {name: Path(name).read_bytes() for name in files_below()}

    def savefig(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
    with pytest.raises(MemoryError):
        sweep(Inputs(), SweepSettings(methods=["weight"], ks=[1]), folder=Path("out"))
    assert {name: Path(name).read_bytes() for name in files_below()} == before
    assert len(before) == 3


@pytest.mark.usefixtures("no_forward_pass")
def test_a_loss_that_nothing_stays_within_chooses_nothing_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "decompose_cli"):
        results = sweep(Inputs(), SweepSettings(methods=["mean"], ks=[1, 2], max_drop=0.01), folder=Path("out")).results
    assert results.chosen is None
    assert files_below() == ["out/curve.png", "out/result.json"]
    assert any("within 0.01 points" in message for message in caplog.messages)


@pytest.mark.usefixtures("no_forward_pass")
def test_a_method_out_of_reach_is_no_candidate() -> None:
    # With one feature per class the mean costs more than the weight; the limit lies between the two.
    data = data_for(Study(Inputs(), ("train",)), ["mean", "weight"])
    costs = {m: bound(*correct(select(data, m, 1).classes, "train")) for m in ("mean", "weight")}  # type: ignore[arg-type]
    assert costs["weight"] < costs["mean"]
    limit = (costs["weight"] + costs["mean"]) / 2
    chosen = sweep(Inputs(), SweepSettings(methods=["mean", "weight"], ks=[1], max_drop=limit)).results.chosen
    assert chosen is not None
    assert chosen.candidates["mean"] is None
    assert (chosen.method, chosen.k, chosen.features) == ("weight", 1, 10)


def test_choosing_on_the_split_that_is_reported_on_is_refused(forbid_forward_passes: Callable[[], None]) -> None:
    forbid_forward_passes()
    with pytest.raises(InputError, match="chooses on the training images") as caught:
        sweep(Inputs(split="train"), SweepSettings(max_drop=0.5), folder=Path("out"))
    assert "another split" in str(caught.value.hint)
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("max_drop", [-0.1, 100.0, math.nan, math.inf])
def test_losses_that_make_no_sense_are_refused(max_drop: float) -> None:
    with pytest.raises(InputError, match=r"^max_drop .* is not between 0 and 100"):
        sweep(Inputs(), SweepSettings(max_drop=max_drop))


# ----------------------------------------------------------------------------------------------------------- document


@pytest.mark.usefixtures("no_forward_pass")
def test_the_document_survives_json() -> None:
    document = sweep(Inputs(), SweepSettings(methods=["weight"], ks=[1, 2, 3], max_drop=5), folder=Path("out"))
    content = json.loads(document.to_json())
    assert ResultDocument[SweepResults].model_validate(content) == document
    assert content["command"] == "sweep"
    assert {"total", "original", "curves", "chosen"} <= set(content["results"])
    assert content["results"]["curves"]["weight"]["2"]["correct"] == 337
    assert content["results"]["chosen"]["indices"].keys() == {str(c) for c in range(10)}
    arguments = {name: content["arguments"][name] for name in ("methods", "ks", "order", "max_drop")}
    assert arguments == {"methods": ["weight"], "ks": [1, 2, 3], "order": "highest", "max_drop": 5}


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5", [5]), ("1-4", [1, 2, 3, 4]), ("7,1-3, 2 ,5-5", [1, 2, 3, 5, 7]), ("10,9", [9, 10])],
)
def test_sizes_are_read(text: str, expected: list[int]) -> None:
    assert parse_ks(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0", "0-3", "3-1", "-3", "3-", "1-2-3", "1.5", "a", "1,,2", "²", "1-99999999", "9999999999", "+1"]
)
def test_sizes_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^ks "):
        parse_ks(text)


def test_methods_are_read_each_once() -> None:
    assert parse_methods("weight, frequency,weight") == ["weight", "frequency"]
    with pytest.raises(InputError, match=r"^methods 'best' is unknown"):
        parse_methods("weight,best")


def test_more_features_than_the_network_has_is_refused_before_any_image_is_looked_at(
    forbid_forward_passes: Callable[[], None],
) -> None:
    forbid_forward_passes()
    with pytest.raises(InputError, match=r"^ks 65 is more than the 64 features"):
        sweep(Inputs(), SweepSettings(ks=[1, 65]))


@pytest.mark.parametrize(
    ("classes", "sentence"), [([[1]] * 9, "9 classes, but the network has 10"), ([[64]] * 10, "the index 64")]
)
def test_index_files_that_do_not_fit_are_refused_before_any_image_is_looked_at(
    classes: list[list[int]], sentence: str, forbid_forward_passes: Callable[[], None]
) -> None:
    forbid_forward_passes()
    write_index_set(Path("i.json"), IndexSet(tuple(map(tuple, classes))))
    with pytest.raises(InputError, match=sentence):
        sweep(Inputs(), SweepSettings(indices=["i.json"]))


@pytest.mark.usefixtures("no_forward_pass")
def test_gates_that_are_not_there_are_refused() -> None:
    with pytest.raises(InputError, match="'csg'"):
        sweep(Inputs(), SweepSettings(methods=["csg"], ks=[1]))


NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.stem(x).tanh().mean((2, 3)))
"""


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A small network of the user's with negative features, in the current directory."""
    Path("sweep_net.py").write_text(NET, encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield "sweep_net:Net"
    sys.modules.pop("sweep_net", None)


def test_few_and_negative_features_leave_out_what_does_not_fit(
    net: str, tmp_path: Path, make_images: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = make_images(tmp_path / "images", ["a", "b", "c"], n=4, side=12)
    inputs = Inputs(model=net, dataset=f"folder:{root}", workers=0)
    with caplog.at_level(logging.INFO, "decompose_cli"):
        results = sweep(inputs).results
    assert list(results.curves) == ["frequency", "mean", "contribution", "weight"]
    assert all(list(points) == [str(k) for k in range(1, 9)] for points in results.curves.values())
    assert any("'mass' is left out" in message for message in caplog.messages)
    with pytest.raises(InputError, match="'mass'"):
        sweep(inputs, SweepSettings(methods=["mass"]))
