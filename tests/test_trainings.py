"""The tables of trainings in docs/reproduce.md, computed again from the tracked documents in another way."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import run
from helpers.markdown import table_after
from scipy import stats

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "results"
PAGE = (DOCS / "reproduce.md").read_text(encoding="utf-8")
NAMES = {
    **{f"norm-{mode}": f"`--norm-mode {mode}`" for mode in ("batch", "online", "group", "layer", "instance", "none")},
    "gate-baseline": "baseline of the gate",
    "gate": "gate `entropy-classifier`",
    "custom": "`custom_resnet`",
    "custom-ricap": "`custom_resnet --mix ricap`",
}
DOCUMENTS = sorted(RESULTS.glob("*.json"))


def results(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["results"]


def runs(name: str) -> dict[int, Any]:
    found = results(name)
    return {run["seed"]: run for run in found.get("runs", [found])}


def rows_of(table: str) -> list[list[str]]:
    return table_after(PAGE, f"<!-- table: {table} -->")


def interval(values: list[float]) -> tuple[float, float, float]:
    n = len(values)
    mean = sum(values) / n
    reach = stats.t.ppf(0.975, n - 1) * math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)
    return mean, mean - reach, mean + reach


def with_interval(values: list[float], form: str = "") -> str:
    if len(values) == 1:
        return f"{values[0]:{form}.2f}"
    mean, low, high = interval(values)
    return f"{mean:{form}.2f} [{low:{form}.2f}, {high:{form}.2f}]"


def trained() -> list[str]:
    return [name for name in NAMES if (RESULTS / f"{name}.json").is_file()]


def test_accuracies_are_those_of_the_documents() -> None:
    expected = []
    for name in trained():
        kept = [run["best"] or run["last"] for _, run in sorted(runs(name).items())]
        right = [100 * one["test"]["correct"] / one["test"]["images"] for one in kept]
        assert {one["test"]["images"] for one in kept} == {10_000}
        losses = [one["test"]["loss"] for one in kept]
        learned = [run["epochs"][-1]["train"]["loss"] for run in runs(name).values()]
        figures = [", ".join(f"{value:.2f}" for value in right), with_interval(right)]
        figures += [f"{sum(values) / len(values):.3f}" for values in (losses, learned)]
        expected.append([NAMES[name], *figures])
    assert [row[:5] for row in rows_of("training accuracies")] == expected
    assert len(expected) >= 2


def test_the_best_epoch_was_chosen_on_held_out_images() -> None:
    for name in trained():
        for seed, one in runs(name).items():
            held_out = {record["epoch"]: record["val"]["correct"] for record in one["epochs"]}
            assert all(record["test"] is None for record in one["epochs"]), (name, seed)
            assert held_out[one["best"]["epoch"]] == max(held_out.values()), (name, seed)


def test_conditions_are_those_of_the_documents() -> None:
    for row, name in zip(rows_of("training conditions"), trained(), strict=True):
        arguments = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["arguments"]
        settings = arguments["settings"]
        assert row[0] == NAMES[name]
        assert row[1] == f"`{arguments['recipe']}`"
        assert (float(row[2]), int(row[3])) == (settings["scale_epochs"], settings["epochs"])
        assert row[8] == ", ".join(map(str, sorted(runs(name))))


@pytest.mark.parametrize(("document", "first", "second"), [("norm-compare", "batch", "online")])
def test_differences_follow_from_the_counts_of_every_pair(document: str, first: str, second: str) -> None:
    """Covariances over images follow from how many of them only one of two networks gets right."""
    found = results(document)
    images = found["total"]
    right = {name: head["correct"] / images for name, head in found["heads"].items()}
    both = {(name, name): share for name, share in right.items()}
    for pair in found["differences"]:
        shared = right[pair["first"]] - pair["only_first_correct"] / images
        both[pair["first"], pair["second"]] = both[pair["second"], pair["first"]] = shared
    seeds = sorted(runs(f"norm-{first}"))
    weights = {f"{name} seed {seed}": sign / len(seeds) for name, sign in ((first, -1), (second, 1)) for seed in seeds}
    mean = sum(weight * right[name] for name, weight in weights.items())
    square = sum(a * b * both[one, other] for one, a in weights.items() for other, b in weights.items())
    of_images = 1e4 * (square - mean**2) / (images - 1)
    by_seed = [100 * (right[f"{second} seed {seed}"] - right[f"{first} seed {seed}"]) for seed in seeds]
    _, low, high = interval(by_seed)
    of_seeds = ((high - low) / 2 / stats.t.ppf(0.975, len(seeds) - 1)) ** 2
    freedom = (of_images + of_seeds) ** 2 / (of_images**2 / (images - 1) + of_seeds**2 / (len(seeds) - 1))
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(of_images + of_seeds)
    narrow = stats.t.ppf(0.975, images - 1) * math.sqrt(of_images)
    row = next(row for row in rows_of("training differences") if row[0] == f"{second} minus {first}")
    mean *= 100
    assert row[1] == f"{mean:+.2f} [{mean - reach:+.2f}, {mean + reach:+.2f}]"
    assert row[2] == f"[{low:+.2f}, {high:+.2f}]"
    assert row[3] == f"[{mean - narrow:+.2f}, {mean + narrow:+.2f}]"
    assert row[4] == ", ".join(f"{points:+.2f}" for points in by_seed)
    is_shown = not mean - reach <= 0 <= mean + reach
    assert ("no difference" in row[5]) != is_shown
    kept = {f"{name} seed {seed}": one for name in (first, second) for seed, one in runs(f"norm-{name}").items()}
    for name, one in kept.items():
        assert found["heads"][name]["correct"] == pytest.approx(one["best"]["test"]["correct"], abs=5), name


def test_few_features_are_those_of_the_documents() -> None:
    for row in rows_of("few features"):
        name = next(name for name, title in NAMES.items() if title == row[0])
        sparse, tuned = (
            [results(f"{kind}-{name}-{seed}") for seed in sorted(runs(name))] for kind in ("sparse", "tuned")
        )
        chosen = [min(int(k) for k, loss in one["smallest"]["tried"].items() if loss <= 1) for one in sparse]
        assert row[1] == ", ".join(map(str, chosen))
        lost = [
            100 * (one["heads"][str(k)]["point"]["correct"] - one["original"]["correct"]) / one["total"]
            for one, k in zip(sparse, chosen, strict=True)
        ]
        assert row[2] == ", ".join(f"{points:+.2f}" for points in lost)
        assert row[3] == ", ".join(f"{one['smallest']['tried']['5']:.2f}" for one in sparse)
        for column, when in ((4, "before"), (5, "after")):
            points = [
                100 * (one[when]["correct"] - one["original"]["correct"]) / one["original"]["images"] for one in tuned
            ]
            assert row[column] == ", ".join(f"{value:+.2f}" for value in points)
        assert all(one["features_per_class"] == [5, 5] for one in tuned)


def test_needs_are_paired_by_seed() -> None:
    def pairs(kind: str, figure: Callable[[Any], float]) -> list[float]:
        found = [[figure(results(f"{kind}-norm-{mode}-{seed}")) for seed in (0, 1, 2)] for mode in ("batch", "online")]
        return [b - a for a, b in zip(*found, strict=True)]

    expected = {
        "smallest k": pairs("sparse", lambda one: one["smallest"]["k"]),
        "loss at k = 5": pairs("sparse", lambda one: one["smallest"]["tried"]["5"]),
        "points lost by the cut to k = 5": pairs(
            "tuned", lambda one: (one["original"]["correct"] - one["before"]["correct"]) / 100
        ),
        "points lost after an epoch of `finetune`": pairs(
            "tuned", lambda one: (one["original"]["correct"] - one["after"]["correct"]) / 100
        ),
    }
    found = {row[1]: row for row in rows_of("needs of features") if "online" in row[0]}
    assert found.keys() == expected.keys()
    for what, values in expected.items():
        assert found[what][2] == with_interval(values, "+"), what
        _, low, high = interval(values)
        assert found[what][3] == ("none is shown" if low <= 0 <= high else "a difference is shown")


def test_speeds_are_those_of_the_document() -> None:
    found = json.loads((RESULTS / "speed.json").read_text(encoding="utf-8"))["rows"]
    expected = [
        [name, f"`{one['network']}`", f"{one['images_per_second']:,.0f}", f"{one['share']:.2f}"]
        for name, one in found.items()
    ]
    assert rows_of("training speed") == expected
    for one in found.values():
        assert one["share"] == pytest.approx(one["images_per_second"] / one["bare_images_per_second"], abs=2e-3)


def test_every_published_figure_has_a_status() -> None:
    rows = rows_of("status")
    assert len(rows) >= 7
    for row in rows:
        assert re.match(r"(reproduced|not reproduced|not run: needs) ", row[2]), row
    speeds = json.loads((RESULTS / "speed.json").read_text(encoding="utf-8"))["rows"]
    trained_on = 45_000
    for start, row, epochs in (("ResNet-20 from scratch", "cifar-resnet", 200), ("custom ResNet", "custom-resnet", 24)):
        (said,) = [each[2] for each in rows if each[0].startswith(start)]
        hours = epochs * trained_on / speeds[row]["images_per_second"] / 3600
        assert f"{hours:.0f} hours" in said or f"{hours / 24:.0f} days" in said


def test_documents_are_of_this_program_and_name_no_machine() -> None:
    assert len(DOCUMENTS) > 10
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w:.])/(?:home|work|root|tmp|Users|usr|opt)/", text), path.name
        assert path.name == "speed.json" or json.loads(text)["environment"]["working_directory"] == "."


def test_a_page_has_their_learning_curves(tmp_path: Path) -> None:
    names = [str(RESULTS / f"{name}.json") for name in trained()]
    run("report", *names, "-o", str(tmp_path / "page.html"), "-q")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Loss, accuracy and learning rate" in page or "Seed 0" in page
    assert page.count("<svg") + page.count("data:image") >= len(names)
