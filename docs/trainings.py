"""The tables of trainings in ``reproduce.md``, from the result documents in ``results/``.

``python docs/trainings.py FILE...`` takes result documents in: ``results/sparse-norm-batch-0.json`` of
``.../sparse/norm-batch-0/result.json`` by ``sparse-norm-batch-0=.../result.json``. What they say of the machine's
folders is left out. ``make docs`` puts the tables into the page.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from decompose_cli.statistics import mean_interval

RESULTS = Path(__file__).with_name("results")
MODES = ("batch", "online", "group", "layer", "instance", "none")
PUBLISHED_NORMS = {"batch": "92.2", "online": "92.3", "group": "90.3", "layer": "87.4", "instance": "90.4"}
"""Top-1 % after 250 epochs, best epoch of the test images; experiments/ExpReproducibility.md of the published code."""
FAMILIES = (
    *((f"norm-{mode}", f"`--norm-mode {mode}`") for mode in MODES),
    ("gate-baseline", "baseline of the gate"),
    ("gate", "gate `entropy-classifier`"),
    ("custom", "`custom_resnet`"),
    ("custom-ricap", "`custom_resnet --mix ricap`"),
)
"""Trainings by the name of their document, and what tables call them."""
COMPARISONS = (
    ("norm-compare", "batch", "online"),
    ("gate-compare", "baseline", "gate"),
)
K_TUNED = 5
TRAINING_IMAGES = 45_000
"""Images of CIFAR-10 that are trained on where a tenth is held out."""


@cache
def document(name: str) -> Any:
    """A tracked result document; None where there is none yet."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def runs_of(name: str) -> list[Any]:
    """The results of a training by seed, in ascending order."""
    found = document(name)
    if found is None:
        return []
    runs = found["results"].get("runs", [found["results"]])
    return sorted(runs, key=lambda run: int(run["seed"]))


def kept(run: Any) -> Any:
    """The scores of the weights that a run keeps: of the best epoch on held-out images, else of the last."""
    return run["best"] or run["last"]


def points(values: Sequence[float]) -> str:
    """Percentages, and of several the mean with Student's interval."""
    mean, _, interval = mean_interval(list(values))
    if interval is None:
        return f"{mean:.2f}"
    return f"{mean:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def listed(values: Sequence[float], form: str = ".2f") -> str:
    """Values by seed."""
    return ", ".join(f"{value:{form}}" for value in values)


def signed(low_high: Sequence[float]) -> str:
    """An interval of a difference."""
    return f"[{low_high[0]:+.2f}, {low_high[1]:+.2f}]"


def conditions() -> dict[str, Any]:
    """How each training was shortened."""
    rows = []
    for name, title in FAMILIES:
        found = document(name)
        if found is None:
            continue
        settings, runs = found["arguments"]["settings"], runs_of(name)
        drops = settings["milestones"]
        rows.append(
            [
                title,
                f"`{found['arguments']['recipe']}`",
                settings["scale_epochs"],
                settings["epochs"],
                ", ".join(map(str, drops)) if settings["schedule"] == "steps" else settings["schedule"],
                settings["lr"],
                settings["batch_size"],
                settings["precision"] + (", compiled" if settings["compile"] else ""),
                ", ".join(str(run["seed"]) for run in runs),
            ]
        )
    columns = [
        "training",
        "recipe",
        "`--scale-epochs`",
        "epochs",
        "rate drops after",
        "rate",
        "batch",
        "precision",
        "seeds",
    ]
    return {"columns": columns, "rows": rows}


def accuracies() -> dict[str, Any]:
    """Test accuracy and losses of every training."""
    rows = []
    for name, title in FAMILIES:
        runs = runs_of(name)
        if not runs:
            continue
        tests = [kept(run)["test"] for run in runs]
        mode = name.removeprefix("norm-")
        rows.append(
            [
                title,
                listed([test["top1"] for test in tests]),
                points([test["top1"] for test in tests]),
                f"{sum(test['loss'] for test in tests) / len(tests):.3f}",
                f"{sum(run['epochs'][-1]['train']['loss'] for run in runs) / len(runs):.3f}",
                PUBLISHED_NORMS.get(mode, "-") if name.startswith("norm-") else "-",
            ]
        )
    columns = ["training", "test images right, % by seed", "mean", "test loss", "training loss, last epoch"]
    return {"columns": [*columns, "published, % after the whole training"], "rows": rows}


def found_by(first: str, second: str, difference: Any) -> str:
    """The shortest true sentence on two trainings."""
    low, high = difference["ci95"]
    if low <= 0 <= high:
        return f"no difference between {first} and {second} is shown"
    return f"{second} is {'better' if low > 0 else 'worse'} than {first}"


def differences() -> dict[str, Any]:
    """Trainings with several seeds against each other."""
    rows = []
    for name, first, second in COMPARISONS:
        found = document(name)
        for one in found["results"]["seed_differences"] if found is not None else []:
            assert (one["first"], one["second"]) == (first, second), name
            rows.append(
                [
                    f"{second} minus {first}",
                    f"{one['points']:+.2f} {signed(one['ci95'])}",
                    signed(one["ci95_seeds"]),
                    signed(one["ci95_images"]),
                    listed(one["by_seed"], "+.2f"),
                    found_by(first, second, one),
                ]
            )
    columns = ["points", "mean, 95% interval", "of seeds alone", "of images alone", "by seed", "so, at this length"]
    return {"columns": columns, "rows": rows}


def of_networks(kind: str, name: str) -> list[Any]:
    """The results of a command for the networks of a training, by seed, where there are all of them."""
    found = [document(f"{kind}-{name}-{run['seed']}") for run in runs_of(name)]
    return [one["results"] for one in found if one is not None] if all(found) else []


def few_features() -> dict[str, Any]:
    """How many features a class needs in each network, and what decomposing and a little fine-tuning costs."""
    rows = []
    for name, title in FAMILIES:
        sparse, tuned = of_networks("sparse", name), of_networks("tuned", name)
        if not sparse and not tuned:
            continue
        chosen = [one["smallest"]["k"] for one in sparse]
        heads = [one["heads"][str(k)] for one, k in zip(sparse, chosen, strict=True)]
        rows.append(
            [
                title,
                listed(chosen, "d") or "-",
                listed([head["versus_original"]["points"] for head in heads], "+.2f") or "-",
                listed([one["smallest"]["tried"][str(K_TUNED)] for one in sparse]) or "-",
                listed([one["before"]["top1"] - one["original"]["top1"] for one in tuned], "+.2f") or "-",
                listed([one["difference"]["points"] for one in tuned], "+.2f") or "-",
            ]
        )
    columns = [
        "network",
        "smallest k within a point, by seed",
        "that head minus full head, points of the test images",
        f"loss at k = {K_TUNED}, upper bound on the choosing images",
        f"cut to k = {K_TUNED}, minus full head",
        "the same after an epoch of `finetune`",
    ]
    return {"columns": columns, "rows": rows}


def needs() -> dict[str, Any]:
    """Differences, paired by seed, in how much is lost with few features."""
    rows = []
    for first, second in (("norm-batch", "norm-online"), ("gate-baseline", "gate")):
        titles = dict(FAMILIES)
        pairs = [of_networks("sparse", name) for name in (first, second)]
        tuned = [of_networks("tuned", name) for name in (first, second)]
        if not all(pairs) or not all(tuned):
            continue
        figures = {
            "smallest k": [[one["smallest"]["k"] for one in each] for each in pairs],
            f"loss at k = {K_TUNED}": [[one["smallest"]["tried"][str(K_TUNED)] for one in each] for each in pairs],
            f"points lost by the cut to k = {K_TUNED}": [
                [one["original"]["top1"] - one["before"]["top1"] for one in each] for each in tuned
            ],
            "points lost after an epoch of `finetune`": [
                [-one["difference"]["points"] for one in each] for each in tuned
            ],
        }
        for what, (ours, theirs) in figures.items():
            mean, _, interval = mean_interval([b - a for a, b in zip(ours, theirs, strict=True)])
            assert interval is not None
            is_shown = not interval[0] <= 0 <= interval[1]
            rows.append(
                [
                    f"{titles[second]} minus {titles[first]}",
                    what,
                    f"{mean:+.2f} {signed(interval)}",
                    "a difference is shown" if is_shown else "none is shown",
                ]
            )
    return {"columns": ["networks", "figure", "mean over seeds, 95% interval", "so"], "rows": rows}


def speed() -> dict[str, Any]:
    """Images per second, and the share of bare steps."""
    found = document("speed")
    rows = [] if found is None else [
        [name, f"`{one['network']}`", f"{one['images_per_second']:,.0f}", f"{one['share']:.2f}"]
        for name, one in found["rows"].items()
    ]  # fmt: skip
    return {"columns": ["recipe", "network", "images/s", "share of bare steps"], "rows": rows}


def hours(row: str, epochs: int, images: int) -> str:
    """How long a training takes at the measured speed."""
    found = document("speed")
    if found is None:
        return "days"
    seconds = epochs * images / found["rows"][row]["images_per_second"]
    return f"{seconds / 3600:,.0f} hours" if seconds < 100 * 3600 else f"{seconds / 86400:,.0f} days"


def shortened(name: str) -> str:
    """How much shorter a training was that has been run."""
    found = document(name)
    settings = found["arguments"]["settings"]
    return f"{settings['epochs']} epochs, {len(runs_of(name))} seed{'s' if len(runs_of(name)) > 1 else ''}"


def status() -> dict[str, Any]:
    """What became of each published figure: reproduced, not reproduced, or not run and what that needs."""
    compared = {}
    for name, _, _ in COMPARISONS:
        if (found := document(name)) is not None:
            compared[name] = found["results"]["seed_differences"][0]

    def takes(row: str, epochs: int, more: str = "") -> str:
        time = hours(row, epochs, TRAINING_IMAGES)
        return f"not run: needs the lossless images, and {more}{time} on two of these cores or a GPU"

    rows = [
        [
            "CIFAR-10, 10,000 test images: ResNet-20 91.73% (akamaster/pytorch_resnet_cifar10)",
            "`decompose validate resnet20`",
            "not run: needs the 10,000 lossless images; on 1,000 of them reproduced, see above",
        ],
        [
            "ImageNet, 50,000 images: ResNet-50 76.13% (torchvision), and its decomposition with k = 50",
            "`decompose validate resnet50 -i resnet50_imagenet_indices.json`",
            "not run: needs ImageNet",
        ],
        [
            "ResNet-20 from scratch, 200 epochs: 91.73%",
            "`decompose train resnet20`",
            takes("cifar-resnet", 200),
        ],
        [
            "online normalisation as good as batch norm: 92.3% and 92.2%, 250 epochs, 5 runs each",
            "`decompose train resnet20 --norm-mode online --shortcut projection --runs 5`",
            f"{takes('online-norm, online', 5 * 250)}; {at_this_length(compared, 'norm-compare', 'norm-online')}",
        ],
        [
            "group, layer and instance norm: 90.3, 87.4 and 90.4%, 250 epochs, a run each",
            "`decompose train resnet20 --norm-mode group --shortcut projection`",
            f"{takes('online-norm, group', 3 * 250)}; {ranked(('batch', 'group', 'layer', 'instance'))}",
        ],
        [
            "soft gates, 333 epochs at depth 110, beside the same network without (the source states no accuracy)",
            "`decompose train-gate --dataset cifar10 --depth 110`",
            f"{takes('soft-gates, entropy-classifier', 333, 'several times ')}; "
            f"at depth 20: {at_this_length(compared, 'gate-compare', 'gate')}",
        ],
        [
            "custom ResNet, 24 epochs: 94.12%",
            "`decompose train custom_resnet --dataset cifar10`",
            takes("custom-resnet", 24),
        ],
    ]  # fmt: skip
    return {"columns": ["published", "command", "status"], "rows": rows}


def at_this_length(compared: dict[str, Any], name: str, training: str) -> str:
    """What a shortened comparison says of the published one, which found the second as good as the first."""
    if name not in compared:
        return "not run at a shorter length either"
    one = compared[name]
    verdict = "not reproduced" if one["ci95"][1] < 0 else "reproduced"
    sentence = found_by(one["first"], one["second"], one)
    return f"at {shortened(training)} each {verdict}: {sentence} ({one['points']:+.2f} points)"


def ranked(modes: Sequence[str]) -> str:
    """The order of single runs, best first."""
    found = {mode: [kept(run)["test"]["top1"] for run in runs_of(f"norm-{mode}")][:1] for mode in modes}
    if not all(found.values()):
        return "not run at a shorter length either"
    order = sorted(found, key=lambda mode: -found[mode][0])
    published = sorted(found, key=lambda mode: -float(PUBLISHED_NORMS[mode]))
    verdict = "reproduced" if order == published else "not reproduced"
    return f"at {shortened('norm-group')} each the published order is {verdict}: {', '.join(order)} (seed 0)"


TABLES = {
    "training conditions": conditions,
    "training accuracies": accuracies,
    "training differences": differences,
    "few features": few_features,
    "needs of features": needs,
    "training speed": speed,
    "status": status,
}


def tables() -> dict[str, Any]:
    """All tables of trainings, by name."""
    return {name: make() for name, make in TABLES.items()}


MACHINE_PATH = re.compile(r"(?<![\w.:])/(?:[\w.-]+/)*[\w.-]+")


def without_machine(content: Any) -> Any:
    """A document without the folders of the machine that it was made on.

    Raises:
        SystemExit: An absolute path is still there.
    """
    environment = content["environment"]
    words = environment.get("command_line", "").split(" ")
    environment["command_line"] = " ".join([PurePosixPath(words[0]).name, *words[1:]])
    if words[0].endswith("__main__.py"):
        environment["command_line"] = " ".join(["decompose", *words[1:]])
    environment["working_directory"] = "."
    text = json.dumps(content)
    if found := MACHINE_PATH.search(re.sub(r"https?://\S+", "", text)):
        sys.exit(f"the document names {found[0]}")
    return content


def main() -> None:
    """Take documents in."""
    for given in sys.argv[1:]:
        name, _, path = given.partition("=")
        content = without_machine(json.loads(Path(path).read_text(encoding="utf-8")))
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
