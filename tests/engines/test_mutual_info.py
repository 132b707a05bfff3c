"""The overlap of the classes' feature sets, against scikit-learn and plain sets."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import mutual_info_score, normalized_mutual_info_score

from decompose_cli.decomposition.index_set import IndexSet, write_index_set
from decompose_cli.decomposition.overlap_results import MutualInfoResults, SetOverlap
from decompose_cli.decomposition.ranking import RANKINGS, data_for, select
from decompose_cli.engines.mutual_info import MutualInfoSettings, mutual_info
from decompose_cli.errors import InputError
from decompose_cli.features.study import Inputs, Study
from decompose_cli.storage.result_document import ResultDocument

WITHOUT_GATES = [name for name, one in RANKINGS.items() if not one.is_fitted and name != "csg"]
EVEN = ((0, 1, 2), (2, 3, 4), (5, 0, 2), (7, 8, 9))
RAGGED = ((0, 1, 2, 3), (2, 3), (5,), (0, 1, 2, 3))


def write(name: str, classes: Sequence[Sequence[int]], num_features: int | None = None) -> str:
    """An index file; it says D if that is given."""
    index_set = IndexSet(tuple(map(tuple, classes)), num_features)
    write_index_set(Path(name), index_set, document=num_features is not None)
    return name


def write_gates(matrix: torch.Tensor, name: str = "gates.pth") -> str:
    torch.save({"csg": matrix, "linear.weight": torch.ones(1)}, name)
    return name


def check(found: SetOverlap, classes: Sequence[Sequence[int]], num_features: int) -> None:
    """Everything said of a set, computed pair by pair."""
    members = [[int(j in row) for j in range(num_features)] for row in classes]
    count = len(classes)
    pairs = list(itertools.product(range(count), repeat=2))
    different = [(a, b) for a, b in pairs if a != b]
    information = {(a, b): mutual_info_score(members[a], members[b]) for a, b in pairs}
    normalized = {(a, b): normalized_mutual_info_score(members[a], members[b]) for a, b in pairs}
    jaccard = {
        (a, b): len(set(classes[a]) & set(classes[b])) / len(set(classes[a]) | set(classes[b])) for a, b in pairs
    }
    assert found.mean == pytest.approx(sum(information.values()) / count**2, abs=1e-12)
    for value, table in (
        (found.off_diagonal_mean, information),
        (found.normalized_mean, normalized),
        (found.jaccard_mean, jaccard),
    ):
        assert value == pytest.approx(sum(table[pair] for pair in different) / len(different), abs=1e-12)
    for matrix, table in (
        (found.matrix, information),
        (found.normalized_matrix, normalized),
        (found.jaccard_matrix, jaccard),
    ):
        assert [len(row) for row in matrix] == [count] * count
        for a, b in pairs:
            assert matrix[a][b] == pytest.approx(table[a, b], abs=5.1e-7)
    users = [sum(column) for column in zip(*members, strict=True)]
    assert (found.unused, found.exclusive, found.shared) == (
        users.count(0),
        users.count(1),
        sum(number > 1 for number in users),
    )
    assert found.num_features == num_features
    assert found.features_per_class == (min(map(len, classes)), max(map(len, classes)))


# ------------------------------------------------------------------------------------------------------- index files


@pytest.mark.parametrize(("classes", "k"), [(EVEN, "3"), (RAGGED, "1-4")])
@pytest.mark.parametrize("num_features", [10, 64])
def test_a_file_against_scikit_learn(classes: tuple[tuple[int, ...], ...], k: str, num_features: int) -> None:
    results = mutual_info(
        Inputs(), MutualInfoSettings(indices=[f"mine={write('x.json', classes)}"], num_features=num_features)
    ).results
    assert list(results.sets) == ["mine"]
    assert list(results.sets["mine"]) == [k]
    check(results.sets["mine"][k], classes, num_features)
    assert results.sets["mine"][k].source == "x.json"


def test_files_are_named_by_the_user_or_by_their_stem_and_kept_apart_by_k() -> None:
    files = [f"a={write('1.json', EVEN)}", write("plain.json", RAGGED), f"a={write('2.json', [r[:2] for r in EVEN])}"]
    sets = mutual_info(Inputs(), MutualInfoSettings(indices=files, num_features=12)).results.sets
    assert {name: list(by_k) for name, by_k in sets.items()} == {"a": ["3", "2"], "plain": ["1-4"]}
    check(sets["a"]["2"], [row[:2] for row in EVEN], 12)


def test_entries_of_matrices_have_at_most_six_digits_and_means_all_of_them() -> None:
    found = mutual_info(Inputs(), MutualInfoSettings(indices=[write("x.json", EVEN)], num_features=10)).results.sets[
        "x"
    ]["3"]
    for matrix in (found.matrix, found.normalized_matrix, found.jaccard_matrix):
        assert all(value == round(value, 6) for row in matrix for value in row)
    assert found.mean != round(found.mean, 6)


def test_a_single_class_has_no_pairs() -> None:
    found = mutual_info(Inputs(), MutualInfoSettings(indices=[write("x.json", [[0, 1]])], num_features=4)).results.sets[
        "x"
    ]["2"]
    assert (found.off_diagonal_mean, found.normalized_mean, found.jaccard_mean) == (None, None, None)
    assert found.mean == pytest.approx(0.6931471805599453)


def test_files_need_neither_a_network_nor_images() -> None:
    document = mutual_info(Inputs(), MutualInfoSettings(indices=[write("x.json", EVEN)], num_features=10))
    assert (document.model, document.dataset, document.cache) == (None, None, None)


def test_two_sets_of_the_same_name_and_k_are_refused() -> None:
    files = [f"a={write('1.json', EVEN)}", f"a={write('2.json', EVEN[::-1])}"]
    with pytest.raises(InputError, match=r"'a'.*k = 3.*1\.json.*2\.json"):
        mutual_info(Inputs(), MutualInfoSettings(indices=files, num_features=12))


# -------------------------------------------------------------------------------------------------- how many features


def test_how_many_features_there_are_is_said_by_the_file() -> None:
    assert (
        mutual_info(Inputs(), MutualInfoSettings(indices=[write("x.json", EVEN, 17)]))
        .results.sets["x"]["3"]
        .num_features
        == 17
    )


def test_how_many_features_there_are_is_said_by_the_network_without_its_weights(
    forbid_forward_passes: Callable[[], None],
) -> None:
    forbid_forward_passes()
    sets = mutual_info(Inputs(model="resnet56"), MutualInfoSettings(indices=[write("x.json", EVEN)])).results.sets
    check(sets["x"]["3"], EVEN, 64)
    assert (
        mutual_info(Inputs(model="resnet50"), MutualInfoSettings(indices=["x.json"]))
        .results.sets["x"]["3"]
        .num_features
        == 2048
    )


def test_how_many_features_there_are_is_said_by_the_gates() -> None:
    gates = write_gates(torch.rand(4, 13))
    assert (
        mutual_info(Inputs(), MutualInfoSettings(indices=[write("x.json", EVEN)], csg=gates))
        .results.sets["x"]["3"]
        .num_features
        == 13
    )


def test_a_file_that_does_not_say_how_many_features_there_are_is_refused_with_a_way_out() -> None:
    with pytest.raises(InputError, match=r"x\.json does not say how many features") as caught:
        mutual_info(Inputs(), MutualInfoSettings(indices=[write("x.json", EVEN)]))
    assert "give num_features" in str(caught.value.hint)


@pytest.mark.parametrize("number", [0, -3, 1_000_001])
def test_a_number_of_features_that_no_network_has_is_refused(number: int) -> None:
    with pytest.raises(InputError, match=f"^num_features {number} is not between 1 and 1,000,000"):
        mutual_info(Inputs(), MutualInfoSettings(indices=[write("x.json", EVEN)], num_features=number))


def test_a_number_of_features_that_the_file_denies_is_refused() -> None:
    with pytest.raises(InputError, match=r"x\.json is for 17 features, but num_features is 16"):
        mutual_info(Inputs(), MutualInfoSettings(indices=[write("x.json", EVEN, 17)], num_features=16))


def test_a_network_that_the_file_or_the_number_denies_is_refused() -> None:
    with pytest.raises(InputError, match=r"x\.json is for 17 features, but resnet56 has 64"):
        mutual_info(Inputs(model="resnet56"), MutualInfoSettings(indices=[write("x.json", EVEN, 17)]))
    with pytest.raises(InputError, match=r"^num_features 17 contradicts resnet56, which has 64"):
        mutual_info(Inputs(model="resnet56"), MutualInfoSettings(indices=["x.json"], num_features=17))


@pytest.mark.parametrize("inputs", [Inputs(weights="default"), Inputs(model="resnet56", dataset="digits")])
def test_what_files_have_no_use_for_changes_nothing(inputs: Inputs) -> None:
    settings = MutualInfoSettings(indices=[write("x.json", EVEN, 64)])
    document = mutual_info(inputs, settings)
    assert document.results == mutual_info(Inputs(), settings).results
    assert document.arguments["weights"] is document.arguments["dataset"] is None


@pytest.mark.parametrize("options", [{"k": [3]}, {"method": "mean"}, {"k": [3], "method": "csg"}])
def test_sizes_and_methods_are_refused_where_all_sets_are_files(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^k and method have no effect: every feature set is given as a file"):
        mutual_info(Inputs(), MutualInfoSettings(indices=[write("x.json", EVEN, 17)], **options))


@pytest.mark.parametrize("with_files", [True, False])
@pytest.mark.parametrize("method", ["mean", "csg"])
def test_a_method_is_refused_where_only_gates_are_ranked(with_files: bool, method: Any) -> None:
    files = [write("x.json", EVEN, 17)] if with_files else []
    with pytest.raises(InputError, match=r"^method has no effect: gates are ranked") as caught:
        mutual_info(Inputs(), MutualInfoSettings(indices=files, csg=write_gates(torch.rand(4, 17)), method=method))
    assert ("MODEL" in str(caught.value.hint)) is not with_files


def test_gates_are_ranked_without_images(forbid_forward_passes: Callable[[], None]) -> None:
    forbid_forward_passes()
    settings = MutualInfoSettings(csg=write_gates(torch.rand(10, 64)))
    assert mutual_info(Inputs(dataset="digits"), settings).results == mutual_info(Inputs(), settings).results


@pytest.mark.usefixtures("no_forward_pass")
@pytest.mark.parametrize("named", [{"model": "resnet20-digits"}, {"weights": "default"}])
def test_images_and_methods_are_for_a_network_beside_gates(named: dict[str, str]) -> None:
    gates = write_gates(torch.rand(10, 64))
    sets = mutual_info(
        Inputs(dataset="digits", **named), MutualInfoSettings(csg=gates, k=[3], method="mean")
    ).results.sets  # type: ignore[arg-type]
    assert {name: list(by_k) for name, by_k in sets.items()} == {"ours": ["3"], "csg": ["3"]}


def test_sizes_are_for_gates_beside_files() -> None:
    sets = mutual_info(
        Inputs(), MutualInfoSettings(indices=[write("x.json", EVEN)], csg=write_gates(torch.rand(4, 12)), k=[2, 7])
    ).results.sets
    assert {name: list(by_k) for name, by_k in sets.items()} == {"x": ["3"], "csg": ["2", "7"]}


def test_an_order_without_gates_is_refused() -> None:
    for files in ((), [write("x.json", EVEN, 17)]):
        with pytest.raises(InputError, match="order lowest has no effect: no gates"):
            mutual_info(Inputs(), MutualInfoSettings(indices=files, order="lowest"))


def test_a_number_of_features_without_files_is_refused() -> None:
    with pytest.raises(InputError, match=r"^num_features is for index files, and there is none"):
        mutual_info(Inputs(), MutualInfoSettings(num_features=64))


@pytest.mark.parametrize(("shape", "says"), [((4, 17), False), ((5, 17), True), ((4, 18), True)])
def test_sets_of_networks_of_other_sizes_are_compared_with_a_warning(
    shape: tuple[int, int], says: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "decompose_cli"):
        sets = mutual_info(
            Inputs(), MutualInfoSettings(indices=[write("x.json", EVEN, 17)], csg=write_gates(torch.rand(shape)))
        ).results.sets
    assert [sets["x"]["3"].num_features, sets["csg"]["3"].num_features] == [17, shape[1]]
    assert [len(sets["x"]["3"].matrix), len(sets["csg"]["3"].matrix)] == [4, shape[0]]
    warnings = [message for message in caplog.messages if "different numbers of classes or features" in message]
    assert len(warnings) == says


def test_an_index_beyond_the_features_is_refused() -> None:
    with pytest.raises(InputError, match=r"x\.json: class 3 has the index 9"):
        mutual_info(Inputs(), MutualInfoSettings(indices=[write("x.json", EVEN)], num_features=9))


# -------------------------------------------------------------------------------------------------------------- gates


@pytest.mark.parametrize("order", ["highest", "lowest"])
def test_gates_are_ranked_for_the_sizes_asked_for(order: Any) -> None:
    matrix = torch.rand(4, 25, generator=torch.Generator().manual_seed(0))
    document = mutual_info(Inputs(), MutualInfoSettings(csg=write_gates(matrix), k=[2, 7], order=order))
    assert {name: list(by_k) for name, by_k in document.results.sets.items()} == {"csg": ["2", "7"]}
    for k in (2, 7):
        rows = [sorted(range(25), key=row.__getitem__, reverse=order == "highest")[:k] for row in matrix.tolist()]
        check(document.results.sets["csg"][str(k)], rows, 25)
    assert document.model is None


def test_gates_alone_are_ranked_for_five_ten_and_twenty() -> None:
    assert list(mutual_info(Inputs(), MutualInfoSettings(csg=write_gates(torch.rand(3, 64)))).results.sets["csg"]) == [
        "5",
        "10",
        "20",
    ]


def test_gates_beside_files_get_the_sizes_of_the_files() -> None:
    files = [f"a={write('1.json', EVEN)}", f"b={write('2.json', RAGGED)}"]
    sets = mutual_info(Inputs(), MutualInfoSettings(indices=files, csg=write_gates(torch.rand(4, 12)))).results.sets
    assert {name: list(by_k) for name, by_k in sets.items()} == {"a": ["3"], "b": ["1-4"], "csg": ["3", "4"]}


def test_more_gates_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match=r"^k 14 is more than the 13 features"):
        mutual_info(Inputs(), MutualInfoSettings(csg=write_gates(torch.rand(4, 13)), k=[14]))


def test_a_checkpoint_without_gates_is_refused() -> None:
    torch.save({"linear.weight": torch.ones(2, 2)}, "plain.pth")
    with pytest.raises(InputError, match=r"plain\.pth .*'csg'"):
        mutual_info(Inputs(), MutualInfoSettings(csg="plain.pth"))


# -------------------------------------------------------------------------------------------------------- ranked here


@pytest.mark.usefixtures("no_forward_pass")
def test_without_files_the_shipped_network_is_ranked_on_its_training_images() -> None:
    document = mutual_info(Inputs())
    assert document.model is not None
    assert document.dataset is not None
    assert (document.model.name, document.dataset.name, document.dataset.split) == (
        "resnet20-digits",
        "digits",
        "train",
    )
    data = data_for(Study(Inputs(), ("train",)), ["frequency"])
    assert {name: list(by_k) for name, by_k in document.results.sets.items()} == {"ours": ["5", "10", "20"]}
    for k, found in document.results.sets["ours"].items():
        check(found, select(data, "frequency", int(k)).classes, 64)


@pytest.mark.usefixtures("no_forward_pass")
@pytest.mark.parametrize("method", [*WITHOUT_GATES, "backward"])
def test_every_method_and_size_comes_from_the_same_features(method: Any) -> None:
    document = mutual_info(Inputs(), MutualInfoSettings(k=[3, 64], method=method))
    assert document.cache is not None
    assert document.cache.features == ("off" if method == "weight" else "hit")  # weights need no features
    data = data_for(Study(Inputs(), ("train",)), [method])
    check(document.results.sets["ours"]["3"], select(data, method, 3).classes, 64)
    whole = document.results.sets["ours"]["64"]
    assert (whole.mean, whole.jaccard_mean, whole.shared) == (0, 1, 64)


@pytest.mark.usefixtures("no_forward_pass")
def test_a_named_network_is_compared_with_gates_at_the_same_sizes() -> None:
    gates = write_gates(torch.rand(10, 64))
    sets = mutual_info(Inputs(model="resnet20-digits"), MutualInfoSettings(csg=gates)).results.sets
    assert {name: list(by_k) for name, by_k in sets.items()} == {"ours": ["5", "10", "20"], "csg": ["5", "10", "20"]}


@pytest.mark.usefixtures("no_forward_pass")
def test_more_features_than_the_network_has_is_refused() -> None:
    with pytest.raises(InputError, match=r"^k 65 is more than the 64 features"):
        mutual_info(Inputs(), MutualInfoSettings(k=[65]))


def test_first_a_miss_then_a_hit_with_the_same_results(few: str, forbid_forward_passes: Callable[[], None]) -> None:
    inputs = Inputs(model="resnet20-digits", dataset=few)
    first = mutual_info(inputs)
    forbid_forward_passes()
    second = mutual_info(inputs)
    assert first.cache is not None
    assert second.cache is not None
    assert (first.cache.features, second.cache.features) == ("miss", "hit")
    assert first.results == second.results
    with pytest.raises(AssertionError, match="a forward pass was made"):
        mutual_info(dataclasses.replace(inputs, use_cache=False))


# ----------------------------------------------------------------------------------------------------------- document


@pytest.mark.usefixtures("no_forward_pass")
@pytest.mark.parametrize("with_files", [True, False])
def test_the_document_survives_json(with_files: bool) -> None:
    files = [write("x.json", RAGGED, 12)] if with_files else []
    document = mutual_info(
        Inputs(), MutualInfoSettings(indices=files, csg=write_gates(torch.rand(4, 12)), order="lowest")
    )
    content = json.loads(document.to_json())
    assert ResultDocument[MutualInfoResults].model_validate(content) == document
    assert content["command"] == "mutual-info"
    assert content["arguments"]["order"] == "lowest"
    assert list(content["results"]["sets"]) == (["x", "csg"] if with_files else ["csg"])
    for by_k in content["results"]["sets"].values():
        for found in by_k.values():
            assert {"mean", "off_diagonal_mean", "normalized_mean", "jaccard_mean", "matrix"} <= set(found)


# ---------------------------------------------------------------------------------------------------------- published


def test_published_files_give_the_published_numbers(reference_dir: Path) -> None:
    weights = reference_dir / "weights"
    stems = {"5": "", "10": "_10_10", "20": "_20_20"}
    files = [f"ours={weights / f'resnet20_cifar-10{stem}_indices.json'}" for stem in stems.values()]
    files.append(f"file={weights / 'resnet20_cifar-10_csg_indices.json'}")
    sets = mutual_info(
        Inputs(), MutualInfoSettings(indices=files, csg=str(weights / "best_save_CSG.pth"), order="lowest")
    ).results.sets
    reference = json.loads((reference_dir / "reference" / "published-code-on-shared-data.json").read_text())
    published = {
        "ours": {"5": 0.03453776, "10": 0.05704999, "20": 0.07080315},
        "csg": {"5": 0.03750908, "10": 0.05403595, "20": 0.08174422},
    }
    for name, values in published.items():
        for k, value in values.items():
            assert sets[name][k].mean == pytest.approx(reference["mutual_info"][name][k], abs=1e-12)
            assert sets[name][k].mean == pytest.approx(value, abs=1e-8)
    assert sets["file"]["5"].mean == pytest.approx(sets["csg"]["5"].mean, abs=1e-15)
