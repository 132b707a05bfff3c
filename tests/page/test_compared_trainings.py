"""The section on trainings that were compared, from the comparison of a gate and its baseline that is in the docs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decompose_cli.page.blocks import Chart, Figures, Group, Table, Text
from decompose_cli.page.report import report
from decompose_cli.page.sections import glance

DOCUMENT = Path(__file__).parents[2] / "docs" / "results" / "gate-compare.json"


@pytest.fixture
def blocks(tmp_path: Path) -> Callable[..., list[Any]]:
    def make(change: Callable[[dict[str, Any]], object] | None = None) -> list[Any]:
        document = json.loads(DOCUMENT.read_text(encoding="utf-8"))
        if change is not None:
            change(document["results"])
        path = tmp_path / "compare.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        (group,) = [one for section in report([path]).sections if section.id == "compare" for one in section.blocks]
        assert isinstance(group, Group)
        return list(group.blocks)

    return make


def test_trainings_come_first_then_what_they_differ_in_and_their_networks(blocks: Callable[..., list[Any]]) -> None:
    results = json.loads(DOCUMENT.read_text(encoding="utf-8"))["results"]
    whole, settings, pairs, networks = blocks()
    (one,) = results["seed_differences"]
    assert isinstance(whole, Table)
    (row,) = whole.rows
    assert list(row[:4]) == ["gate minus baseline", 3, one["points"], tuple(one["ci95"])]
    assert row[-1] == "0, 1, 2"
    assert isinstance(settings, Table)
    assert [column.title for column in settings.columns] == ["Setting", "baseline", "gate"]
    assert [list(row) for row in settings.rows][:3] == [
        ["seeds", "0, 1, 2", "0, 1, 2"],
        ["checkpoint", "best", "best"],
        ["command", "train", "train-gate"],
    ]
    assert ["gate", "-", "entropy-classifier"] in [list(row) for row in settings.rows]
    assert isinstance(pairs, Chart)
    assert pairs.title.endswith("(of trainings with common seeds those of one seed; 12 more pairs in the result)")
    assert [row[0] for row in pairs.values.rows] == [
        f"gate seed {seed} minus baseline seed {seed}" for seed in range(3)
    ]
    assert networks.caption == "Accuracy of each network"
    assert [column.title for column in networks.columns][:2] == ["Network", "Correct"]


def test_a_comparison_of_an_earlier_version_shows_all_pairs(blocks: Callable[..., list[Any]]) -> None:
    def earlier(results: dict[str, Any]) -> None:
        del results["trainings"]
        for head in results["heads"].values():
            del head["training"], head["seed"]

    _, pairs, heads = blocks(earlier)
    assert len(pairs.values.rows) == 15
    assert heads.caption == "Accuracy of each head"


def test_a_head_that_is_named_nowhere_harms_nothing(blocks: Callable[..., list[Any]]) -> None:
    *_, pairs, _ = blocks(lambda results: results["heads"].pop("gate seed 2"))
    assert len(pairs.values.rows) == 2 + 5, "those of the head that is not there are shown"


def items_at_a_glance(*paths: Path) -> list[tuple[str, str, str]]:
    (section,) = [one for one in report(list(paths)).sections if one.id == "glance"]
    (figures,) = [block for block in section.blocks if isinstance(block, Figures)]
    return list(figures.items)


def test_what_trainings_differ_by_is_seen_first() -> None:
    one = json.loads(DOCUMENT.read_text(encoding="utf-8"))["results"]["seed_differences"][0]
    low, high = one["ci95"]
    first, *others = items_at_a_glance(DOCUMENT.with_name("gate.json"), DOCUMENT)
    assert first == (
        "gate minus baseline: mean of 3 seeds",
        f"{one['points']:+.2f} points",
        f"95% interval over seeds and images {low:+.2f} to {high:+.2f}",
    )
    assert len(others) == 1


def test_a_network_of_each_training_is_no_mean_over_seeds() -> None:
    found = DOCUMENT.with_name("custom-compare.json")
    (one,) = json.loads(found.read_text(encoding="utf-8"))["results"]["differences"]
    ((what, points, more),) = items_at_a_glance(found)
    assert (what, points) == ("ricap minus plain: a network of each", f"{one['points']:+.2f} points")
    assert more.startswith(f"95% interval over images {one['ci95'][0]:+.2f} to {one['ci95'][1]:+.2f}; McNemar p")


def test_of_several_trainings_the_best_epoch_alone_is_seen_first() -> None:
    group, layer = (DOCUMENT.with_name(f"norm-{mode}.json") for mode in ("group", "layer"))
    assert len(items_at_a_glance(group)) == 2, "the last epoch and the best"
    assert [what.split(": ")[-1].split(",")[0] for what, _, _ in items_at_a_glance(group, layer)] == ["best epoch"] * 2


def test_what_is_too_much_for_a_glance_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [path for name in ("norm", "gate", "custom") for path in sorted(DOCUMENT.parent.glob(f"{name}*.json"))]
    items = items_at_a_glance(*paths)
    for most, shown in ((len(items), len(items)), (len(items) - 1, len(items)), (len(items) - 2, len(items) - 2)):
        monkeypatch.setattr(glance, "_MOST", most)
        (section,) = [one for one in report(paths).sections if one.id == "glance"]
        assert items_at_a_glance(*paths) == items[:shown], "none is hidden alone"
        said = [block.text for block in section.blocks if isinstance(block, Text)]
        assert said == (["2 more figures like these: in the sections below."] if shown < len(items) else [])


def test_many_pairs_of_networks_are_no_differences_of_trainings(tmp_path: Path) -> None:
    document = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    document["results"]["seed_differences"] = []
    path = tmp_path / "compare.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert len(document["results"]["differences"]) > 1
    assert "glance" not in [section.id for section in report([path]).sections]


def test_a_comparison_of_trainings_alone_is_not_introduced_as_one_of_heads() -> None:
    (section,) = [one for one in report([DOCUMENT]).sections if one.id == "glance"]
    assert section.lead.startswith("Networks that were trained")


def test_comparisons_of_like_names_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name / "compare.json" for name in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(DOCUMENT.read_bytes())
    first, second = (what for what, _, _ in items_at_a_glance(*paths))
    assert first != second
    assert all(what.endswith(": gate minus baseline: mean of 3 seeds") for what in (first, second))
