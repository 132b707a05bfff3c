"""The tables of trainings in docs/reproduce.md, computed again from the tracked documents in another way."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import run
from helpers.markdown import table_after
from PIL import Image
from scipy import stats

from decompose_cli.reporting.training_plots import trainings_figure

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


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        patch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)
    return module


trainings = _module(DOCS / "trainings.py")


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
    expected = []
    for name in trained():
        arguments = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["arguments"]
        settings = arguments["settings"]
        drops = ", ".join(map(str, settings["milestones"])) if settings["schedule"] == "steps" else settings["schedule"]
        precision = settings["precision"] + (", compiled" if settings["compile"] else "")
        row = [NAMES[name], f"`{arguments['recipe']}`", str(settings["scale_epochs"]), str(settings["epochs"]), drops]
        clipped = "" if settings["clip_norm"] is None else f", gradients up to {settings['clip_norm']:g}"
        row += [
            f"{settings['lr']}{clipped}",
            str(settings["batch_size"]),
            precision,
            ", ".join(map(str, sorted(runs(name)))),
        ]
        expected.append(row)
        assert all(len(one["epochs"]) == settings["epochs"] for one in runs(name).values())
    assert rows_of("training conditions") == expected
    text = " ".join(PAGE.split())
    none, batch = (
        json.loads((RESULTS / f"norm-{mode}.json").read_text(encoding="utf-8"))["arguments"]["settings"]
        for mode in ("none", "batch")
    )
    assert f"with `--lr {none['lr']} --clip-norm {none['clip_norm']:g}`" in text
    assert none["lr"] == pytest.approx(batch["lr"] / 10)
    assert batch["clip_norm"] is None


def test_images_are_divided_as_the_page_says() -> None:
    text = " ".join(PAGE.split())
    for name in trained():
        for one in runs(name).values():
            (images,) = {record["train"]["images"] for record in one["epochs"]}
            (held,) = {record["val"]["images"] for record in one["epochs"]}
            assert (images + held, held, one["best"]["test"]["images"]) == (50_000, 5_000, 10_000), name
    assert "of 50,000 training images a tenth is held out and chooses the epoch, and the 10,000 test images are" in text
    for path in RESULTS.glob("sparse-*.json"):
        chosen_on = json.loads(path.read_text(encoding="utf-8"))["results"]["chosen_on"]
        assert (chosen_on["split"], chosen_on["images"]) == ("train", 10_000), path.name
        assert chosen_on["fitted_in_the_end"] == 50_000, path.name
    assert "bound of at most a point, on 10,000 training images that its heads are not fitted to" in text
    assert "The head of that k is then fitted to all 50,000." in text


@pytest.mark.parametrize(
    ("document", "first", "second"),
    [
        one
        for one in (("norm-compare", "batch", "online"), ("gate-compare", "baseline", "gate"))
        if (RESULTS / f"{one[0]}.json").is_file()
    ],
)
def test_differences_follow_from_the_counts_of_every_pair(document: str, first: str, second: str) -> None:
    """Covariances over images follow from how many of them only one of two networks gets right."""
    found = results(document)
    images = found["total"]
    right = {name: head["correct"] / images for name, head in found["heads"].items()}
    both = {(name, name): share for name, share in right.items()}
    for pair in found["differences"]:
        shared = right[pair["first"]] - pair["only_first_correct"] / images
        both[pair["first"], pair["second"]] = both[pair["second"], pair["first"]] = shared
    trainings = {name: runs(document.replace("compare", name).replace("gate-gate", "gate")) for name in (first, second)}
    seeds = sorted(trainings[first])
    weights = {f"{name} seed {seed}": sign / len(seeds) for name, sign in ((first, -1), (second, 1)) for seed in seeds}
    mean = sum(weight * right[name] for name, weight in weights.items())
    square = sum(a * b * both[one, other] for one, a in weights.items() for other, b in weights.items())
    of_images = 1e4 * (square - mean**2) / (images - 1)
    by_seed = [100 * (right[f"{second} seed {seed}"] - right[f"{first} seed {seed}"]) for seed in seeds]
    _, low, high = interval(by_seed)
    of_seeds = ((high - low) / 2 / stats.t.ppf(0.975, len(seeds) - 1)) ** 2
    reach = stats.t.ppf(0.975, len(seeds) - 1) * math.sqrt(of_images + of_seeds)
    narrow = stats.t.ppf(0.975, images - 1) * math.sqrt(of_images)
    mean *= 100
    is_shown = not mean - reach <= 0 <= mean + reach
    said = f"{second} is {'better' if mean > 0 else 'worse'} than {first}"
    whole = f"{mean:+.2f} [{mean - reach:+.2f}, {mean + reach:+.2f}]"
    said = said if is_shown else f"no difference between {first} and {second} is shown"
    expected = [f"{second} minus {first}", whole, f"[{low:+.2f}, {high:+.2f}]"]
    expected.append(f"[{mean - narrow:+.2f}, {mean + narrow:+.2f}]")
    assert [*expected, ", ".join(f"{points:+.2f}" for points in by_seed), said] in rows_of("training differences")
    assert any(f"{said} ({whole} points)" in row[2] for row in rows_of("status"))
    for name, training in trainings.items():
        for seed, one in training.items():
            counted = found["heads"][f"{name} seed {seed}"]["correct"]
            assert counted == pytest.approx((one["best"] or one["last"])["test"]["correct"], abs=5), (name, seed)


def test_group_and_layer_norm_begin_worse_than_guessing() -> None:
    losses = [runs(f"norm-{mode}")[0]["epochs"][0]["train"]["loss"] for mode in ("group", "layer")]
    assert min(losses) > math.log(10)
    said = f"their training loss is {losses[0]:.2f} and {losses[1]:.2f}, more than the {math.log(10):.2f} of guessing"
    assert said in " ".join(PAGE.split())
    (left,) = {len(runs(f"norm-{mode}")[0]["epochs"]) - 1 for mode in ("group", "layer")}
    assert left == 9
    assert "of guessing, and nine epochs make up for a part of it" in " ".join(PAGE.split())
    plain = runs("norm-none")[0]["epochs"][0]["train"]["loss"]
    assert f"`none` begins at {plain:.2f}, at a tenth of the rate." in PAGE
    assert all(one["epochs"][0]["train"]["loss"] < math.log(10) for one in runs("norm-batch").values())


@pytest.mark.skipif(not (RESULTS / "custom-compare.json").is_file(), reason="these have not been compared")
def test_the_difference_of_single_runs_follows_from_their_counts() -> None:
    found = results("custom-compare")
    (pair,) = found["differences"]
    counts = {name: head["correct"] for name, head in found["heads"].items()}
    assert list(counts) == ["plain", "ricap"]
    gained, images = pair["only_second_correct"], found["total"]
    lost = pair["only_first_correct"]
    assert counts["ricap"] - counts["plain"] == gained - lost
    mean = (gained - lost) / images
    # Newcombe's interval, in its simple form: the counts are large here.
    reach = stats.norm.ppf(0.975) * math.sqrt(((gained + lost) / images - mean**2) / images)
    (row,) = [row for row in rows_of("training differences") if row[0] == "ricap minus plain"]
    assert row[1] == row[4] == f"{100 * mean:+.2f}"
    limits = [float(value) for value in row[3].strip("[]").split(", ")]
    assert limits == pytest.approx([100 * (mean - reach), 100 * (mean + reach)], abs=0.03)
    kinds = "worse" if limits[1] < 0 else "better"
    is_shown = limits[0] > 0 or limits[1] < 0
    said = f"this run of ricap is {kinds} than that of plain"
    assert row[5] == (said if is_shown else "no difference between these runs of plain and ricap is shown")
    (status,) = [one[2] for one in rows_of("status") if one[0].startswith("custom ResNet")]
    right = {name: (one["best"] or one["last"])["test"]["correct"] / 100 for name, one in singles().items()}
    epochs = len(singles()["custom"]["epochs"])
    assert (
        f"; after {epochs} epochs {right['custom']:.2f}% of the JPEG images, with RICAP {right['custom-ricap']:.2f}%: "
        in status
    )
    assert status.endswith(f"{row[5]} ({row[1]} {row[3]} points)")
    for name, entry in (("custom", "plain"), ("custom-ricap", "ricap")):
        assert counts[entry] == pytest.approx(100 * right[name], abs=5)


def singles() -> dict[str, Any]:
    """The one run of each training of the custom network."""
    found = {}
    for name in ("custom", "custom-ricap"):
        (found[name],) = runs(name).values()
    return found


def of_networks(kind: str, name: str) -> list[Any]:
    """The results for every seed of a training; none where one is missing."""
    paths = [f"{kind}-{name}-{seed}" for seed in sorted(runs(name))]
    return [results(path) for path in paths] if all((RESULTS / f"{path}.json").is_file() for path in paths) else []


def test_few_features_are_those_of_the_documents() -> None:
    found = {row[0]: row[1:] for row in rows_of("few features")}
    for name in trained():
        sparse, tuned = (of_networks(kind, name) for kind in ("sparse", "tuned"))
        assert (NAMES[name] in found) == bool(sparse or tuned)
        if sparse:
            chosen = [min(int(k) for k, loss in one["smallest"]["tried"].items() if loss <= 1) for one in sparse]
            lost = [
                100 * (one["heads"][str(k)]["point"]["correct"] - one["original"]["correct"]) / one["total"]
                for one, k in zip(sparse, chosen, strict=True)
            ]
            bounds = [one["smallest"]["tried"]["5"] for one in sparse]
            refitted = [one["refitted"]["point"]["correct"] - one["original"]["correct"] for one in sparse]
            assert found[NAMES[name]][:4] == [
                ", ".join(map(str, chosen)),
                ", ".join(f"{points:+.2f}" for points in lost),
                ", ".join(f"{100 * more / one['total']:+.2f}" for more, one in zip(refitted, sparse, strict=True)),
                ", ".join(f"{bound:.2f}" for bound in bounds),
            ]
        for column, when in ((4, "before"), (5, "after")):
            counts = [(one[when]["correct"] - one["original"]["correct"], one["original"]["images"]) for one in tuned]
            shown = ", ".join(f"{100 * more / images:+.2f}" for more, images in counts)
            assert not tuned or found[NAMES[name]][column] == shown
        assert all(one["features_per_class"] == [5, 5] for one in tuned)


def test_the_numbers_of_features_that_were_tried_are_those_that_the_page_names() -> None:
    text = " ".join(PAGE.split())
    assert "With three seeds every k from 5 to the answer was tried;" in text
    assert "With one seed only 5, 10, 15, 20 and 30" in text
    for name in trained():
        for path in RESULTS.glob(f"sparse-{name}-[0-9].json"):
            document = json.loads(path.read_text(encoding="utf-8"))
            tried, k = document["arguments"]["k"], document["results"]["smallest"]["k"]
            several = len(runs(name)) > 1
            assert set(range(5, k + 1)) <= set(tried) if several else tried == [5, 10, 15, 20, 30], path.name


@pytest.mark.parametrize(("first", "second"), [("norm-batch", "norm-online"), ("gate-baseline", "gate")])
def test_needs_are_paired_by_seed(first: str, second: str) -> None:
    figures: dict[str, tuple[str, Callable[[Any], float]]] = {
        "smallest k": ("sparse", lambda one: one["smallest"]["k"]),
        "loss at k = 5, upper bound": ("sparse", lambda one: one["smallest"]["tried"]["5"]),
        "points lost by the cut to k = 5": (
            "tuned",
            lambda one: (one["original"]["correct"] - one["before"]["correct"]) / 100,
        ),
        "points lost after an epoch of `finetune`": (
            "tuned",
            lambda one: (one["original"]["correct"] - one["after"]["correct"]) / 100,
        ),
    }
    if not {first, second} <= set(trained()) or not all(
        of_networks(kind, name) for name in (first, second) for kind in ("sparse", "tuned")
    ):
        pytest.skip("not all of these networks have been decomposed")
    rows = {row[1]: row for row in rows_of("needs of features") if NAMES[second] in row[0]}
    assert rows.keys() == figures.keys()
    for what, (kind, figure) in figures.items():
        sides = [[figure(one) for one in of_networks(kind, name)] for name in (first, second)]
        values = [b - a for a, b in zip(*sides, strict=True)]
        assert rows[what][2] == ", ".join(f"{value:+.2f}" for value in values)
        same = len(set(values)) == 1
        assert rows[what][3] == (f"{values[0]:+.2f}" if same else with_interval(values, "+"))
        _, low, high = interval(values)
        assert rows[what][4] == ("yes" if not same and (low > 0 or high < 0) else "no")


def test_the_features_that_classes_need_in_words() -> None:
    chosen = {
        name: [one["smallest"]["k"] for one in of_networks("sparse", name)]
        for name in ("gate", "gate-baseline", "norm-online", "norm-batch")
    }
    words = {name: "{}, {} and {}".format(*found) for name, found in chosen.items()}
    page = " ".join(PAGE.split())
    assert f"So the smallest k that passes is {words['gate']} with the gate, by seed," in page
    assert f"and {words['gate-baseline']} with its baseline." in page
    assert f"It is {words['norm-online']} with online normalisation and {words['norm-batch']} with batch norm;" in page
    shown = {row[1]: row[4] for row in rows_of("needs of features") if "online" in row[0]}
    assert [what for what, is_shown in shown.items() if is_shown == "yes"] == ["loss at k = 5, upper bound"]
    assert len(shown) == 4
    assert "Of the four figures for that pair only one differs by its interval, the bound on the loss at k = 5." in page


def test_speeds_are_those_of_the_document() -> None:
    document = json.loads((RESULTS / "speed.json").read_text(encoding="utf-8"))
    found = document["rows"]
    expected = [
        [name, f"`{one['network']}`", f"{one['images_per_second']:,.0f}", f"{one['share']:.2f}"]
        for name, one in found.items()
    ]
    assert rows_of("training speed") == expected
    (rounds,) = re.findall(r"median of (\d+) interleaved", " ".join(document["conditions"]))
    assert rounds == "3"
    assert "Each row is the median of three rounds;" in " ".join(PAGE.split())
    for one in found.values():
        ours, bare = one["images_per_second"], one["bare_images_per_second"]
        rounding = 0.05 / ours + 0.05 / bare  # relative; ImageNet's recipe makes 17 images a second
        assert one["share"] == pytest.approx(ours / bare, abs=ours / bare * rounding + 5.1e-4)


def test_every_published_figure_has_a_status() -> None:
    rows = rows_of("status")
    assert len(rows) >= 7
    for row in rows:
        assert re.match(r"(reproduced: |not reproduced: |not run: needs )", row[2]), row
    speeds = json.loads((RESULTS / "speed.json").read_text(encoding="utf-8"))["rows"]
    modes = ("group", "layer", "instance")
    for start, trainings in (
        ("ResNet-20 from scratch", [("cifar-resnet", 200 * 50 / 45)]),  # on all images
        ("custom ResNet", [("custom-resnet", 24)]),
        ("online normalisation, 92.3%", [("online-norm, batch", 1250), ("online-norm, online", 1250)]),
        ("group (90.3%)", [(f"online-norm, {mode}", 250) for mode in modes]),
        ("soft gates, 333", [("soft-gates, entropy-classifier, depth 110", 333)]),
    ):
        (said,) = [row[2] for row in rows if row[0].startswith(start)]
        hours = sum(epochs * 45_000 / speeds[row]["images_per_second"] for row, epochs in trainings) / 3600
        assert f", and {hours:,.0f} hours on" in said or (hours >= 100 and f", and {hours / 24:,.0f} days on" in said)
    if {f"norm-{mode}" for mode in ("batch", *modes)} <= set(trained()):
        right = {
            mode: [100 * one["best"]["test"]["correct"] / 10_000 for _, one in sorted(runs(f"norm-{mode}").items())]
            for mode in ("batch", *modes)
        }
        (said,) = [row[2] for row in rows if row[0].startswith("group (90.3%)")]
        is_behind = all(max(right[mode]) < min(right["batch"]) for mode in modes)
        assert (" not all behind: " in said) != is_behind
        assert said.endswith(f"the worst seed of batch {min(right['batch']):.2f}")
        assert ", ".join(f"{mode} {right[mode][0]:.2f}" for mode in modes) in said
        order = sorted(modes, key=lambda mode: -right[mode][0])
        assert (f"in another order than published: {', '.join(order)}" in said) == (
            order != ["instance", "group", "layer"]
        )


def test_what_is_compared_with_published_code_is_reproduced() -> None:
    """Counted again from the tables of the page, which the reference tests compute anew."""
    found = {row[0].split(",")[0].split(" ")[0]: row[2] for row in rows_of("status") if "published" in row[0]}
    counts, overlaps, indices = (rows_of(name) for name in ("counts", "overlap", "indices"))
    assert all(row[1] == row[2] for row in (*counts, *overlaps))
    assert found["images"] == f"reproduced: {len(counts)} of {len(counts)} counts are equal"
    assert found["mutual"] == f"reproduced: {len(overlaps)} of {len(overlaps)} are equal to eight decimals"
    theirs, ours, whole = (
        sum(int(row[column].split(" of ")[part]) for row in indices) for column, part in ((1, 0), (2, 0), (2, 1))
    )
    assert found["index"] == f"reproduced: {ours} of {whole} of their features, by that code {theirs}"
    near = [
        abs(float(a) - float(b)) / math.hypot(float(of_a), float(of_b))
        for row in rows_of("essential")
        for cell in row[1:]
        for (a, of_a), (b, of_b) in [[mean.split(" ± ") for mean in cell.split(" / ")]]
    ]
    within = sum(one <= 2 for one in near)
    assert found["essentiality"] == f"reproduced: {within} of {len(near)} pairs within twice their common error"
    assert (within, len(near)) == (38, 40)
    largest = max(float(cell) for row in rows_of("online norm") for cell in row[1:])
    assert found["online"] == f"reproduced: no difference above {largest:.0e} of the largest value"
    assert all(abs(float(row[1]) - float(row[2])) < 5.1e-6 for row in rows_of("selectivity"))
    assert found["selectivity"] == "reproduced: 3 of 3 are equal to five decimals"


def test_a_count_that_differs_is_not_reproduced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    document = json.loads((DOCS / "reproduced.json").read_text(encoding="utf-8"))
    document["tables"]["counts"]["rows"][0][2] += 1
    document["tables"]["online norm"]["rows"][0][1] = "2e-03"
    path = tmp_path / "reproduced.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setattr(trainings, "REPRODUCED", path)
    said = [row[2] for row in trainings.on_the_same_images()]
    assert said[0] == "not reproduced: 8 of 9 counts are equal"
    assert said[-1] == "not reproduced: no difference above 2e-03 of the largest value"
    assert [one.startswith("reproduced: ") for one in said[1:-1]] == [True] * 4


def test_documents_are_of_this_program_and_name_no_machine() -> None:
    assert len(DOCUMENTS) > 10
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/\w", re.sub(r"https?://\S+", "", text)), path.name
        if path.name != "speed.json":
            environment = json.loads(text)["environment"]
            assert environment["working_directory"] == "."
            assert environment["command_line"].startswith("decompose ")


def test_the_picture_shows_the_documents() -> None:
    """Its description is a hash of the curves: pixels differ with the version of matplotlib."""
    shown: list[dict[str, Any]] = [{}, {}]
    for name in trained():
        title = NAMES[name].replace("`", "").replace("--norm-mode ", "")
        epochs = [one["epochs"] for _, one in sorted(runs(name).items())]
        shown[0][title] = [{one["epoch"]: one["train"]["loss"] for one in seed} for seed in epochs]
        shown[1][title] = [{one["epoch"]: one["val"]["top1"] for one in seed} for seed in epochs]
    expected = hashlib.sha256(json.dumps([trainings.DRAWING, shown]).encode()).hexdigest()
    with Image.open(DOCS / "images" / "trainings.png") as picture:
        assert picture.info["Description"] == expected, "run 'make docs'"
    upper, lower = trainings_figure("", *trainings.learning_curves(), "held-out images").axes
    for axes, values in ((lower, shown[0]), (upper, shown[1])):
        drawn = [list(line.get_ydata()) for line in axes.get_lines()]
        seeds = [list(seed.values()) for one in values.values() for seed in one]
        assert all(seed in drawn for seed in seeds)
        means = [sum(column) / len(column) for column in zip(*seeds[:3], strict=True)]
        assert any(line == pytest.approx(means) for line in drawn)


@pytest.mark.parametrize(
    ("ci95", "of_many", "of_one"),
    [
        ([-2.0, -1.0], "b is worse than a", "this run of b is worse than that of a"),
        ([0.5, 1.0], "b is better than a", "this run of b is better than that of a"),
        ([-0.5, 1.0], "no difference between a and b is shown", "no difference between these runs of a and b is shown"),
        ([0.0, 1.0], "no difference between a and b is shown", "no difference between these runs of a and b is shown"),
    ],
)
def test_the_sentence_on_a_difference(ci95: list[float], of_many: str, of_one: str) -> None:
    assert trainings.found_by("a", "b", {"ci95": ci95}) == of_many
    assert trainings.found_by_one({"first": "a", "second": "b", "ci95": ci95}) == of_one


def test_the_status_of_the_custom_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(top1: float) -> Any:
        found = {"seed": 0, "best": {"test": {"top1": top1}}, "epochs": []}
        return {"results": found, "arguments": {"settings": {"epochs": 7}}}

    documents: dict[str, Any] = {}
    monkeypatch.setattr(trainings, "document", documents.get)
    assert trainings.custom() == "not run at a shorter length either"
    documents["custom"] = one(91.5)
    assert trainings.custom() == "after 7 epochs 91.50% of the JPEG images"
    documents["custom-ricap"] = one(90.25)
    difference = {"first": "plain", "second": "ricap", "points": -1.25, "ci95": [-1.75, -0.75]}
    documents["custom-compare"] = {"results": {"differences": [difference]}}
    assert trainings.custom() == (
        "after 7 epochs 91.50% of the JPEG images, with RICAP 90.25%: this run of ricap is worse than that of plain "
        "(-1.25 [-1.75, -0.75] points)"
    )


def test_networks_behind_another_and_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    right = {"batch": [80.0, 79.0], "group": [70.0], "layer": [60.0], "instance": [75.0]}
    found = {
        f"norm-{mode}": {
            "results": {
                "runs": [{"seed": seed, "best": {"test": {"top1": top1}}} for seed, top1 in enumerate(values)],
            },
            "arguments": {"settings": {"epochs": 10}},
        }
        for mode, values in right.items()
    }
    monkeypatch.setattr(trainings, "document", found.get)
    others = ("group", "layer", "instance")
    figures = "group 70.00, layer 60.00, instance 75.00"
    worst = "the worst seed of batch 79.00"
    assert trainings.behind("batch", others) == f"after 10 epochs all behind: {figures}; {worst}"
    found["norm-instance"]["results"]["runs"][0]["best"]["test"]["top1"] = 79.0  # type: ignore[index]
    assert trainings.behind("batch", others).startswith("after 10 epochs not all behind: ")
    found["norm-layer"]["results"]["runs"][0]["best"]["test"]["top1"] = 71.0  # type: ignore[index]
    assert "in another order than published: instance, layer, group" in trainings.behind("batch", others)
    del found["norm-layer"]
    assert trainings.behind("batch", others) == "not run at a shorter length either"


def test_all_recipes_that_are_measured_are_in_the_table() -> None:
    bench = _module(DOCS.parent / "benchmarks" / "bench_recipes.py")
    assert [row.name for row in bench.ROWS] == [row[0] for row in rows_of("training speed")]


def test_the_files_of_the_command_that_makes_a_page_are_there() -> None:
    (command,) = re.findall(r"decompose report (.*) -o trainings.html", PAGE)
    shown = {path for pattern in command.split() for path in DOCS.parent.glob(pattern)}
    assert all(list(DOCS.parent.glob(pattern)) for pattern in command.split())
    assert {path.stem for path in shown} >= set(trained())


def test_a_page_has_their_learning_curves(tmp_path: Path) -> None:
    names = [name for name in trained() if name.startswith("norm-")][:2]
    run("report", *(str(RESULTS / f"{name}.json") for name in names), "-o", str(tmp_path / "page.html"), "-q")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for name in names:
        for one in runs(name).values():
            for record in one["epochs"]:
                assert f"{record['val']['loss']:.4f}" in page
