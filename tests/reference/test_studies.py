"""The numbers of the published studies on the published checkpoints, through the command line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from decompose_cli.cli.app import app

ORIGINAL, GATED = "resnet20-12fca82f.th", "best_save_CSG.pth"
INDEX_FILES = {
    "5": "resnet20_cifar-10_indices.json",
    "10": "resnet20_cifar-10_10_10_indices.json",
    "20": "resnet20_cifar-10_20_20_indices.json",
}
LOWEST_GATES = "resnet20_cifar-10_csg_indices.json"
README = Path(__file__).parents[2] / "README.md"
REPEATS = 30
NOISES = ("noise_at_inf", "noise_at_noninf")  # on the class's features, on all others

Run = Callable[..., Any]
Study = Callable[..., dict[str, Any]]


@pytest.fixture
def run(reference_dir: Path) -> Run:
    """Run a command line; ``{w}`` in it is the folder of the published checkpoints and index files."""

    def invoke(*arguments: str) -> Any:
        weights = reference_dir / "weights"
        result = CliRunner().invoke(app, [argument.replace("{w}", str(weights)) for argument in arguments])
        assert result.exit_code == 0, result.stderr
        return result

    return invoke


@pytest.fixture
def study(reference_dir: Path, run: Run) -> Callable[..., dict[str, Any]]:
    """The result document of a command about a published network and the published images."""

    def invoke(command: str, weights: str, *more: str) -> dict[str, Any]:
        images = f"folder:{reference_dir / 'data' / 'cifar10-lossless'}"
        result = run(command, "resnet20", "-w", f"{{w}}/{weights}", "--dataset", images, "--json", "--quiet", *more)
        document: dict[str, Any] = json.loads(result.stdout)
        return document

    return invoke


def index_files(name: str) -> list[str]:
    """The three published files under one name, each for its own k."""
    return [argument for file in INDEX_FILES.values() for argument in ("-i", f"{name}={{w}}/{file}")]


# --- mutual information -----------------------------------------------------------------------------------------------


@pytest.fixture
def overlap(run: Run) -> dict[str, dict[str, dict[str, Any]]]:
    """Of the published index files and of as many of the lowest gates, which is what the publication compares."""
    result = run(
        "mutual-info", *index_files("ours"), "--csg", f"{{w}}/{GATED}", "--order", "lowest", "--json", "--quiet"
    )
    sets: dict[str, dict[str, dict[str, Any]]] = json.loads(result.stdout)["results"]["sets"]
    return sets


@pytest.mark.parametrize("name", ["ours", "csg"])
def test_mutual_information_is_the_published_one(
    overlap: dict[str, dict[str, dict[str, Any]]], published: dict[str, Any], name: str
) -> None:
    expected = published["mutual_info"][name]
    assert set(overlap[name]) == set(expected) == set(INDEX_FILES)
    for k, value in expected.items():
        assert overlap[name][k]["mean"] == pytest.approx(value, rel=0, abs=1e-8), k


def test_mutual_information_is_printed_with_the_published_digits(run: Run) -> None:
    said = run("mutual-info", *index_files("ours"), "--csg", f"{{w}}/{GATED}", "--order", "lowest").stderr
    rows = re.findall(r"^ *(\d+) +(0\.\d{8}) +(0\.\d{8}) *$", said, flags=re.MULTILINE)
    assert rows == [
        ("5", "0.03453776", "0.03750908"),
        ("10", "0.05704999", "0.05403595"),
        ("20", "0.07080315", "0.08174422"),
    ]


def test_published_file_of_gates_has_the_lowest_five(run: Run, published: dict[str, Any]) -> None:
    result = run(
        "mutual-info", "-i", f"file={{w}}/{LOWEST_GATES}", "--csg", f"{{w}}/{GATED}", "--order", "lowest", "--json"
    )  # fmt: skip
    sets = json.loads(result.stdout)["results"]["sets"]
    assert sets["file"]["5"]["mean"] == pytest.approx(published["mutual_info"]["csg"]["5"], rel=0, abs=1e-8)
    assert set(sets["csg"]) == {"5"}  # as many as the file has
    assert sets["file"]["5"]["matrix"] == sets["csg"]["5"]["matrix"]


def test_highest_gates_overlap_differently_from_the_lowest(run: Run, published: dict[str, Any]) -> None:
    result = run("mutual-info", "--csg", f"{{w}}/{GATED}", "-k", "5", "--json", "-q")
    highest = json.loads(result.stdout)["results"]["sets"]["csg"]["5"]["mean"]
    assert abs(highest - published["mutual_info"]["csg"]["5"]) > 1e-4


# --- noise on features ------------------------------------------------------------------------------------------------


def essential(study: Study, *more: str) -> dict[str, Any]:
    """``ours`` with the published features, ``csg`` with as many gates."""
    results: dict[str, Any] = study(
        "essential", ORIGINAL, "-i", f"{{w}}/{INDEX_FILES['5']}", "--csg", f"{{w}}/{GATED}", "--controls", "9", *more
    )["results"]
    return results


@pytest.mark.parametrize("seed", ["0", "1"])
def test_images_kept_under_noise_are_the_published_ones(study: Study, published: dict[str, Any], seed: str) -> None:
    """All 40 class means; the published ones are over 30 runs of the published code, ours over 30 draws."""
    results = essential(study, "--order", "lowest", "--seed", seed)
    assert (results["noise"], results["repeats"]) == ("gaussian", REPEATS)
    compared = 0
    for method in ("ours", "csg"):
        reference = published["essential_30_seeds"][method]
        assert set(results[method]) == set(reference)
        for number, expected in reference.items():
            found = results[method][number]
            assert found["images"] == expected["n"]
            for noise in NOISES:
                spread = max(0.5, found[f"{noise}_se"] * math.sqrt(REPEATS))
                reference_spread = max(0.5, expected[f"{noise}_std"])
                allowed = 4 * math.sqrt(spread**2 / REPEATS + reference_spread**2 / REPEATS)
                difference = found[noise] - expected[f"{noise}_mean"]
                assert abs(difference) <= allowed, (method, number, noise, found[noise], expected, allowed)
                compared += 1
    assert compared == 40


def kept(results: dict[str, Any], method: str, noise: str) -> float:
    """Percent of all images still assigned to their class."""
    rows = results[method].values()
    assert sum(row["images"] for row in rows) == 1000
    return 100 * sum(row[noise] for row in rows) / 1000


def test_noise_on_the_highest_gates_takes_most_images_away_and_on_the_published_lowest_hardly_any(study: Study) -> None:
    highest, lowest = essential(study), essential(study, "--order", "lowest")
    assert 22 < kept(highest, "csg", "noise_at_inf") < 26
    assert kept(highest, "csg", "noise_at_noninf") > 90
    assert 90 < kept(lowest, "csg", "noise_at_inf") < 94
    assert kept(lowest, "csg", "noise_at_noninf") < 6
    assert kept(highest, "ours", "noise_at_inf") == kept(lowest, "ours", "noise_at_inf")  # which gates is csg's affair
    for results in (highest, lowest):
        for method in ("ours", "csg"):
            assert results["summary"][method]["noise_at_inf"] == pytest.approx(
                10 * kept(results, method, "noise_at_inf")
            )
    assert highest["summary"]["csg"]["essentiality"] > 60
    assert lowest["summary"]["csg"]["essentiality"] < -80


def test_table_shows_highest_and_lowest_gates_side_by_side(reference_dir: Path, run: Run) -> None:
    said = run(
        "essential", "resnet20", "-w", f"{{w}}/{ORIGINAL}", "-i", f"{{w}}/{INDEX_FILES['5']}", "--controls", "0",
        "--dataset", f"folder:{reference_dir / 'data' / 'cifar10-lossless'}", "--csg", f"{{w}}/{GATED}",
        "--method", f"lowest={{w}}/{GATED},{{w}}/{LOWEST_GATES}",
    ).stderr  # fmt: skip
    assert "csg: features from" in said
    assert "highest gates, k=5" in said
    rows = dict(
        re.findall(r"^ *(ours|csg|lowest)(?: \(highest gates\))? +5 +[\d.]+ +([\d.]+) ±", said, flags=re.MULTILINE)
    )
    assert 45 < float(rows["ours"]) < 49
    assert 22 < float(rows["csg"]) < 26
    assert 90 < float(rows["lowest"]) < 94


# --- highest gates ----------------------------------------------------------------------------------------------------


def test_highest_gates_are_those_of_the_reference_and_decompose_to_its_count(
    study: Study, published: dict[str, Any]
) -> None:
    expected = published["csg_top5_highest_gate"]
    extracted = study("extract-indices", GATED, "--method", "csg", "-k", "5", "--split", "test", "-o", "highest.json")
    assert extracted["results"]["5"]["indices"] == expected["indices"]
    assert json.loads(Path("highest.json").read_text(encoding="utf-8")) == expected["indices"]
    document = study("validate", GATED, "-i", "highest.json", "--split", "test")
    assert document["results"]["decomposed"]["correct"] == expected["decomposed_correct"] == 836


def test_lowest_gates_are_those_of_the_published_file(reference_dir: Path, study: Study) -> None:
    theirs = json.loads((reference_dir / "weights" / LOWEST_GATES).read_text(encoding="utf-8"))
    extracted = study("extract-indices", GATED, "--method", "csg", "--order", "lowest", "-k", "5", "--split", "test")
    assert extracted["results"]["5"]["indices"] == theirs


# --- selectivity ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def computed() -> dict[str, Any]:
    """What takes seconds and is looked at by more than one test."""
    return {}


@pytest.fixture
def last_unit(study: Study, computed: dict[str, Any]) -> dict[str, Any]:
    """Selectivity of ``layer3.2`` on the first 4000 training images."""
    if not computed:
        document = study("selectivity", ORIGINAL, "--layers", "layer3.2", "--fraction", "0.5")
        assert (document["dataset"]["split"], document["dataset"]["images"]) == ("train", 4000)
        computed.update(document["results"]["layers"]["layer3.2"])
    return computed


def test_selectivity_of_the_last_unit_is_that_of_the_later_repository(last_unit: dict[str, Any]) -> None:
    layer = last_unit
    assert layer["psi_mean"] == pytest.approx(0.80704, rel=0, abs=1e-4)
    assert layer["psi_median"] == pytest.approx(0.809375, rel=0, abs=1e-4)
    assert layer["class_selectivity"] == pytest.approx(0.46227, rel=0, abs=1e-4)


# --- sweep ------------------------------------------------------------------------------------------------------------


def test_sweep_has_a_point_for_each_published_index_file(study: Study, published: dict[str, Any]) -> None:
    document = study("sweep", ORIGINAL, "--methods", "weight", "--ks", "5", *index_files("published"))
    found = {k: point["correct"] for k, point in document["results"]["curves"]["published"].items()}
    assert found == {"5": 883, "10": 910, "20": 918}
    for k, file in INDEX_FILES.items():
        assert found[k] == published["validate"][f"{ORIGINAL} + {file}"]["correct"]
    assert document["results"]["original"]["correct"] == published["validate"][ORIGINAL]["correct"] == 915


# --- README -----------------------------------------------------------------------------------------------------------


class Row:
    """A row of the README's table of other figures."""

    def __init__(self, start: str) -> None:
        table = README.read_text(encoding="utf-8").split("| other figures | published code | decompose |\n")[1]
        (line,) = [line for line in table.split("\n\n")[0].splitlines() if line.startswith(f"| {start}")]
        self.published, self.ours = line.strip("|").split("|")[1:]

    def check(self, published: list[float], ours: list[float], form: str) -> None:
        """Our figures are in the README's last cell, or within what it says of the published ones."""
        assert self.published.strip() in ("", form.format(*published))
        if agreement := re.fullmatch(r" the same to (1e-\d) ", self.ours):
            assert ours == pytest.approx(published, rel=0, abs=float(agreement[1]))
        else:
            assert self.ours.strip() == form.format(*ours)


@pytest.mark.parametrize(("row", "name"), [("published indices, k", "ours"), ("lowest gates (as published), k", "csg")])
def test_mutual_information_in_the_readme(
    overlap: dict[str, dict[str, dict[str, Any]]], published: dict[str, Any], row: str, name: str
) -> None:
    expected, found = published["mutual_info"][name], overlap[name]
    Row(f"mutual information, {row} = 5, 10, 20 |").check(
        [expected[k] for k in INDEX_FILES], [found[k]["mean"] for k in INDEX_FILES], "{:.4f}, {:.4f}, {:.4f}"
    )


@pytest.mark.parametrize(
    ("row", "name", "order"),
    [
        ("kept with Gaussian noise on the five features / on all others, ResNet-20 |", "ours", "lowest"),
        ("the same, network with gates, lowest gates (as published) |", "csg", "lowest"),
        ("the same, highest gates |", "csg", "highest"),
    ],
)
def test_images_kept_in_the_readme(study: Study, published: dict[str, Any], row: str, name: str, order: str) -> None:
    reference = published["essential_30_seeds"][name].values()  # of the lowest gates
    theirs = [sum(found[f"{noise}_mean"] for found in reference) / 10 for noise in NOISES]
    results = essential(study, "--order", order)
    Row(row).check(theirs, [kept(results, name, noise) for noise in NOISES], "{:.1f}% / {:.1f}%")


def test_selectivity_in_the_readme(last_unit: dict[str, Any]) -> None:
    later_repository = [0.80704, 0.80938, 0.46227]
    found = [last_unit[field] for field in ("psi_mean", "psi_median", "class_selectivity")]
    Row("selectivity of `layer3.2`").check(later_repository, found, "{:.5f}, {:.5f}, {:.5f}")


def test_every_row_of_the_readme_is_looked_at() -> None:
    table = README.read_text(encoding="utf-8").split("| other figures |")[1].split("\n\n")[0]
    assert len(table.splitlines()) == 2 + 6


# --- one forward pass -------------------------------------------------------------------------------------------------


def test_studies_of_the_same_network_and_images_share_one_forward_pass(
    reference_dir: Path, run: Run, forbid_forward_passes: Callable[[], None], tmp_path: Path
) -> None:
    """The first command runs the images through the network; whatever is asked afterwards reads its features."""
    for folder in (reference_dir / "data" / "cifar10-lossless" / "test").iterdir():
        target = tmp_path / "few" / "test" / folder.name
        target.mkdir(parents=True)
        for file in sorted(folder.iterdir())[:4]:
            (target / file.name).symlink_to(file)
    network = ["resnet20", "-w", f"{{w}}/{ORIGINAL}", "--dataset", f"folder:{tmp_path / 'few'}", "--json", "--quiet"]
    files = ["-i", f"{{w}}/{INDEX_FILES['5']}"]
    first = run("validate", *network, *files, "--split", "test")
    assert json.loads(first.stdout)["cache"]["features"] == "miss"

    forbid_forward_passes()
    for more in (["--noise", "zero"], ["--repeats", "3", "--seed", "1"], ["--noise", "permute", "--controls", "3"]):
        again = run("essential", *network, *files, *more)
        assert json.loads(again.stdout)["cache"]["features"] == "hit"
