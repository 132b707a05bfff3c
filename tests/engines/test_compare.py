"""Index sets and heads side by side, against sets and sums in plain Python."""

from __future__ import annotations

import itertools
import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import content, run

from decompose_cli.decomposition.compare_results import CompareResults, HeadDifference
from decompose_cli.decomposition.compared_files import read_entries
from decompose_cli.decomposition.index_set import ALL, IndexSet, read_index_set, write_index_set
from decompose_cli.engines.compare import compare
from decompose_cli.errors import InputError
from decompose_cli.features.study import Inputs, Study
from decompose_cli.models.checkpoint import read_checkpoint

DIGITS = Inputs(model="resnet20-digits")
ONE = ((0, 1, 2), (2, 3, 4), (), (7, 8, 9), (5,))
OTHER = ((0, 1, 2), (4, 5), (), (10, 11), (5, 6))

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def files(made_once: Callable[..., Path], warm_cache: Path) -> Path:
    """The working directory with index files, and results of every command that can be compared."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            shutil.copytree(warm_cache, folder / "cache")
            patch.setenv("DECOMPOSE_CACHE", str(folder / "cache"))
            run("extract-indices", "-k", "5", "-o", "k5.json", "-q")
            run("extract-indices", "-k", "2,4", "--method", "weight", "-o", "both", "-q")
            run("sparsify", "-k", "3,5", "--method", "contribution", "-o", "sparse", "-q")
            run("sweep", "--methods", "frequency", "--ks", "1-6", "--max-drop", "3", "-o", "sweep", "-q")
            run("validate", "-i", "k5.json", "-o", "decomposed.json", "-q")
            run("validate", "-o", "full.json", "-q")
            run("finetune", "-i", "k5.json", "--epochs", "1", "-o", "tuned", "-q")
            shutil.rmtree(folder / "cache")

    shutil.copytree(made_once("compared", make), Path.cwd(), dirs_exist_ok=True)
    return Path.cwd()


def results_of(*given: str, inputs: Inputs | None = None) -> CompareResults:
    return compare(inputs or Inputs(), given).results


def correct_by_loops(
    weight: Sequence[Sequence[float]], bias: Sequence[float], rows: Sequence[Sequence[int]], study: Study
) -> list[bool]:
    """Which images a head with these features of each class gets right, sum by sum in float64."""
    right = []
    for x, label in zip(study.bank.features.double().tolist(), study.labels.tolist(), strict=True):
        logits = []
        for number, row in enumerate(rows):
            total = bias[number]
            for feature in row:
                total += weight[number][feature] * x[feature]
            logits.append(total)
        right.append(logits.index(max(logits)) == label)
    return right


def newcombe(first: list[bool], second: list[bool], z: float = 1.959963984540054) -> tuple[float, float]:
    """Method 10 of Newcombe (1998) from the four counts, in points."""
    n = len(first)
    a, b, c = (
        sum(one is x and two is y for one, two in zip(first, second, strict=True))
        for x, y in ((True, True), (True, False), (False, True))
    )
    d = n - a - b - c

    def wilson(count: int) -> tuple[float, float]:
        p = count / n
        centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (centre - half) / (1 + z * z / n), min(1.0, (centre + half) / (1 + z * z / n))

    (l1, u1), (l2, u2) = wilson(a + b), wilson(a + c)
    p1, p2 = (a + b) / n, (a + c) / n
    product = (a + b) * (c + d) * (a + c) * (b + d)
    over = a * d - b * c
    over = max(over - n / 2, 0) if over > 0 else over
    phi = over / math.sqrt(product) if product else 0.0
    low = math.sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
    high = math.sqrt((u2 - p2) ** 2 - 2 * phi * (u2 - p2) * (p1 - l1) + (p1 - l1) ** 2)
    return 100 * (p2 - p1 - low), 100 * (p2 - p1 + high)


def check_difference(found: HeadDifference, first: list[bool], second: list[bool], labels: Sequence[int]) -> None:
    """Everything said of two heads, counted image by image."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    assert (found.only_first_correct, found.only_second_correct) == (only_first, only_second)
    assert found.points == pytest.approx(100 * (sum(second) - sum(first)) / len(first), abs=1e-9)
    assert found.ci95 == pytest.approx(newcombe(first, second), abs=1e-6)
    discordant = only_first + only_second
    tail = sum(math.comb(discordant, i) for i in range(min(only_first, only_second) + 1)) / 2**discordant
    assert found.mcnemar_p == pytest.approx(min(1.0, 2 * tail), abs=1e-9)
    losses = []
    for number in sorted(set(labels)):
        images = [i for i, label in enumerate(labels) if label == number]
        before, after = (sum(right[i] for i in images) for right in (first, second))
        losses.append((100 * (after - before) / len(images), after - before, number))
    worst = min(losses)
    if worst[1] >= 0:
        assert found.worst_class is None
    else:
        assert found.worst_class is not None
        assert (found.worst_class.number, found.worst_class.points) == (worst[2], pytest.approx(worst[0]))


def check_sets(found: CompareResults, sets: dict[str, Sequence[Sequence[int]]]) -> None:
    """Everything said of every two sets, feature by feature."""
    pairs = list(itertools.combinations(sets, 2))
    assert [(one.first, one.second) for one in found.set_differences] == pairs
    for one, (a, b) in zip(found.set_differences, pairs, strict=True):
        jaccards = []
        for row, first, second in zip(one.classes, sets[a], sets[b], strict=True):
            both = [feature for feature in sorted(first) if feature in second]
            either = sorted(set(list(first) + list(second)))
            assert row.both == both
            assert row.only_first == [feature for feature in sorted(first) if feature not in second]
            assert row.only_second == [feature for feature in sorted(second) if feature not in first]
            jaccards.append(len(both) / len(either) if either else 1.0)
            assert row.jaccard == pytest.approx(jaccards[-1], abs=1e-12)
        assert one.jaccard_mean == pytest.approx(sum(jaccards) / len(jaccards), abs=1e-12)
        assert one.equal_classes == sum(sorted(x) == sorted(y) for x, y in zip(sets[a], sets[b], strict=True))
        used = [{feature for row in sets[name] for feature in row} for name in (a, b)]
        assert one.used_by_both == sorted(used[0] & used[1])
        assert one.used_by_first == sorted(used[0] - used[1])
        assert one.used_by_second == sorted(used[1] - used[0])


def write(name: str, rows: Sequence[Sequence[int]], num_features: int | None = None) -> str:
    index_set = IndexSet(tuple(map(tuple, rows)), num_features)
    write_index_set(Path(name), index_set, document=num_features is not None)
    return name


# ----------------------------------------------------------------------------------------------------------------- sets


def test_sets_alone_are_those_of_plain_python(caplog: pytest.LogCaptureFixture) -> None:
    third = ((20,), (21,), (22,), (23,), (24,))
    for name, rows in (("a", ONE), ("b", OTHER), ("c", third)):
        write(f"{name}.json", rows)
    with caplog.at_level(logging.INFO):
        document = compare(Inputs(), ["a.json", "b.json", "x=c.json"])
    assert "No file says which network it is of, so sets are compared alone" in caplog.text
    found = document.results
    check_sets(found, {"a": ONE, "b": OTHER, "x": third})
    assert (document.model, document.dataset, found.total) == (None, None, None)
    assert (found.heads, found.differences) == ({}, [])
    assert set(found.unmeasured) == {"a", "b", "x"}
    assert found.sets["a"].features == 9
    assert found.sets["a"].features_per_class == (0, 3)
    assert found.sets["b"].indices["3"] == [10, 11]


def test_classes_that_keep_all_features_are_left_out() -> None:
    rows = tuple(tuple(range(12)) if number == 3 else row for number, row in enumerate(ONE))
    write_index_set(Path("a.json"), IndexSet(rows, 12, whole=frozenset({3})))
    write("b.json", OTHER)
    found = results_of("a.json", "b.json")
    (one,) = found.set_differences
    assert [row.number for row in one.classes] == [0, 1, 2, 4]
    assert one.used_by_second == [6], "10 and 11 are of the class that is left out"
    assert one.jaccard_mean == pytest.approx((1 + 1 / 4 + 1 + 1 / 2) / 4)
    assert found.sets["a"].indices["3"] == ALL
    assert (found.sets["a"].features, found.sets["b"].num_features) == (6, 12)


# ---------------------------------------------------------------------------------------------------------------- heads


def test_heads_are_those_of_plain_python(files: Path) -> None:
    """A cut, a sparse head of its own, a fine-tuned network with other features, and the full head."""
    run("extract-indices", "-k", "1", "--method", "weight", "-o", "w1.json", "-q")
    names = {"k5": "k5.json", "w1": "w1.json", "own": "sparse/k3/sparse.safetensors", "tuned": "tuned/last.pt"}
    found = results_of(*(f"{name}={file}" for name, file in names.items()), inputs=DIGITS)
    study = Study(DIGITS, ("test",))
    head = study.head.full
    assert head is not None
    weight, bias = head.weight.double().tolist(), head.bias.double().tolist()
    everything = [range(64)] * 10
    sets: dict[str, Any] = {name: read_index_set(Path(names[name])).classes for name in ("k5", "w1")}
    right = {"full head": correct_by_loops(weight, bias, everything, study)}
    right |= {name: correct_by_loops(weight, bias, rows, study) for name, rows in sets.items()}
    for name in ("own", "tuned"):
        state = read_checkpoint(Path(names[name])).state_dict
        other = Study(Inputs(weights=names[name]), ("test",))
        indices, mask = state["linear.indices"].tolist(), state["linear.mask"].tolist()
        sets[name] = [[f for f, kept in zip(*pair, strict=True) if kept] for pair in zip(indices, mask, strict=True)]
        rows = [
            dict(zip(index, values, strict=True))
            for index, values in zip(indices, state["linear.weight"].double().tolist(), strict=True)
        ]
        right[name] = correct_by_loops(rows, state["linear.bias"].double().tolist(), sets[name], other)  # type: ignore[arg-type]
    assert found.total == len(study.labels) == 360
    assert {name: one.correct for name, one in found.heads.items()} == {name: sum(one) for name, one in right.items()}
    kinds = {name: (one.kind, one.own_features) for name, one in found.heads.items()}
    assert kinds == {
        "full head": ("full", False),
        "k5": ("cut", False),
        "w1": ("cut", False),
        "own": ("own", False),
        "tuned": ("own", True),
    }
    pairs = list(itertools.combinations(right, 2))
    assert [(one.first, one.second) for one in found.differences] == pairs
    for one, (a, b) in zip(found.differences, pairs, strict=True):
        check_difference(one, right[a], right[b], study.labels.tolist())
    check_sets(found, sets)
    assert found.unmeasured == {}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["k5.json", "both"], None),
        (["sparse"], ["sparse k=3", "sparse k=5"]),
        (["both/result.json", "k5.result.json"], ["both k=2", "both k=4", "k5"]),
        (["sweep", "decomposed.json", "full.json"], ["sweep", "decomposed", "full"]),
        (["tuned", "s=sparse/k5/sparse.safetensors"], ["tuned", "s"]),
    ],
)
def test_documents_name_network_and_images(
    files: Path, given: list[str], names: list[str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    if names is None:
        names = ["k5", "both k=2", "both k=4"]
    with caplog.at_level(logging.INFO):
        document = compare(Inputs(), given)
    assert "No model was named: the network is that of " in caplog.text
    assert document.model is not None
    assert document.dataset is not None
    assert (document.model.name, document.dataset.name, document.dataset.split) == ("resnet20-digits", "digits", "test")
    assert list(document.results.heads) == ["full head", *names]
    assert document.results.heads["full head"].correct == 358


def test_heads_do_what_their_documents_say(files: Path) -> None:
    found = results_of("sparse", "sweep", "decomposed.json", "full.json", "tuned")
    sparse = content("sparse/result.json")["results"]["heads"]
    expected = {
        "sparse k=3": sparse["3"]["point"]["correct"],
        "sparse k=5": sparse["5"]["point"]["correct"],
        "sweep": content("sweep/result.json")["results"]["chosen"]["reported_on"]["correct"],
        "decomposed": content("decomposed.json")["results"]["decomposed"]["correct"],
        "full": content("full.json")["results"]["original"]["correct"],
        "tuned": content("tuned/result.json")["results"]["after"]["correct"],
    }
    assert {name: found.heads[name].correct for name in expected} == expected
    versus = sparse["3"]["versus_original"]
    one = found.differences[0]
    assert (one.second, one.points, list(one.ci95)) == ("sparse k=3", versus["points"], versus["ci95"])
    assert "full" not in found.sets, "it keeps all features"


def test_a_folder_that_was_moved_has_its_files_beside_it(files: Path) -> None:
    Path("elsewhere").mkdir()
    for name in ("sparse", "tuned"):
        Path(name).rename(Path("elsewhere", name))
    found = results_of("elsewhere/sparse", "elsewhere/tuned")
    assert set(found.heads) == {"full head", "sparse k=3", "sparse k=5", "tuned"}


def test_a_document_without_its_checkpoint_is_a_set_alone(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree("sparse/k3")
    with caplog.at_level(logging.INFO):
        found = results_of("sparse", "k5.json")
    assert list(found.heads) == ["full head", "sparse k=5", "k5"]
    assert "not their means and deviations, and sparse/k3/sparse.safetensors is not there" in caplog.text
    assert list(found.unmeasured) == ["sparse k=3"]
    assert list(found.sets) == ["sparse k=3", "sparse k=5", "k5"]


def test_a_checkpoint_that_is_not_the_one_of_the_document_is_refused(files: Path) -> None:
    shutil.copy("sparse/k5/sparse.safetensors", "sparse/k3/sparse.safetensors")
    with pytest.raises(InputError, match=r"has other features than sparse/result\.json says"):
        results_of("sparse", "k5.json")


def test_a_network_without_its_full_head_cuts_nothing(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = results_of("tuned/last.pt", "k5.json")
    assert list(found.heads) == ["tuned"]
    assert "would be cut from the full head, which tuned/last.pt no longer has" in caplog.text
    assert found.differences == []
    assert found.set_differences[0].equal_classes == 10


def test_the_network_that_is_named_is_the_one_that_sets_are_cut_from(
    files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = read_checkpoint(Path(Study(Inputs(), ("test",)).classifier.weights_source)).state_dict
    torch.save({name: -value if name == "linear.weight" else value for name, value in state.items()}, "minus.pth")
    inputs = Inputs(model="resnet20-digits", weights="minus.pth")
    with caplog.at_level(logging.WARNING):
        found = results_of("k5.result.json", "both", "full.json", inputs=inputs)
    assert found.heads["k5"].weights == "minus.pth"
    assert found.heads["k5"].correct < 100
    assert found.heads["full"].correct == 358, "a full head is that of its own network"
    assert "k5.result.json was made from other weights" in caplog.text


def test_results_of_several_networks_are_measured_with_their_own(files: Path) -> None:
    state = read_checkpoint(Path(Study(Inputs(), ("test",)).classifier.weights_source)).state_dict
    torch.save({name: -value if name == "conv1.weight" else value for name, value in state.items()}, "minus.pth")
    run("extract-indices", "resnet20-digits", "-w", "minus.pth", "-k", "5", "-o", "m5.json", "-q")
    run("validate", "resnet20-digits", "-w", "minus.pth", "-i", "m5.json", "-o", "minus.json", "-q")
    expected = content("minus.json")["results"]["decomposed"]["correct"]
    found = results_of("decomposed.json", "minus.json")
    assert found.heads["decomposed"].correct == content("decomposed.json")["results"]["decomposed"]["correct"]
    assert (found.heads["minus"].correct, found.heads["minus"].weights) == (expected, "minus.pth")
    assert found.heads["minus"].own_features


def test_the_images_are_those_of_the_documents(files: Path, few: str) -> None:
    run("validate", "resnet20-digits", "--dataset", few, "-i", "k5.json", "-o", "few.json", "-q")
    found = compare(Inputs(), ["few.json", "a=k5.json"])
    assert found.dataset is not None
    assert (found.dataset.name, found.results.total) == (few, 20)
    assert compare(DIGITS, ["few.json", "a=k5.json"]).results.total == 20, "the model alone was named"
    named = Inputs(model="resnet20-digits", weights="default")
    assert compare(named, ["few.json", "a=k5.json"]).results.total == 20, "the weights too"
    with pytest.raises(InputError, match=r"decomposed\.json is of other images"):
        results_of("few.json", "decomposed.json")
    both = results_of("few.json", "decomposed.json", inputs=Inputs(dataset="digits"))
    assert both.total == 360
    document = content("few.json")
    document["dataset"]["fingerprint"] = "0" * 64
    Path("few.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InputError, match=r"few\.json is of other images"):
        results_of("few.json", "a=k5.json")


def test_the_split_is_that_of_the_documents(files: Path) -> None:
    run("validate", "-i", "k5.json", "--split", "train", "-o", "train.json", "-q")
    found = compare(Inputs(), ["train.json", "k5.json"])
    assert found.dataset is not None
    assert found.dataset.split == "train"
    with pytest.raises(InputError, match="other images, digits test"):
        results_of("train.json", "decomposed.json")
    assert results_of("train.json", "decomposed.json", inputs=Inputs(split="test")).total == 360


def test_names_are_those_of_files_and_folders(files: Path) -> None:
    names = ["k5.json", "k5.result.json", "sweep", "sweep/result.json", "tuned/last.pt", "x=tuned", "both"]
    found = [[entry.name for entry in read_entries(name)] for name in names]
    assert found == [["k5"], ["k5"], ["sweep"], ["sweep"], ["tuned"], ["x"], ["both k=2", "both k=4"]]


def test_tables_and_figure(files: Path) -> None:
    document = compare(DIGITS, ["k5.json", "both"])
    found = document.results
    tables = found.tables()
    assert list(tables) == ["differences", "seeds", "sets", "classes", "heads"]
    assert [len(rows) for rows in tables.values()] == [6, 0, 3, 30, 4]
    assert tables["differences"][0]["points"] == found.differences[0].points
    assert tables["sets"][2]["both"] == len(found.set_differences[2].used_by_both)
    figure = found.drawn()
    assert figure is not None
    (axes,) = figure.axes
    names = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    assert names[0] == "k5 minus full head"
    assert len(names) == 6
    write("a.json", ONE)
    write("b.json", OTHER)
    assert results_of("a.json", "b.json").drawn() is None
