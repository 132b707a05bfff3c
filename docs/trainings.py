"""The tables of trainings in ``reproduce.md``, from the result documents in ``results/``.

``python docs/trainings.py NAME=FILE...`` takes result documents in, as ``results/NAME.json``. What they say of the
machine's folders is left out. ``make docs`` puts the tables into the page, and draws the learning curves.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from decompose_cli.reporting.style import saved
from decompose_cli.reporting.training_plots import Curve, trainings_figure
from decompose_cli.statistics import mean_interval

RESULTS = Path(__file__).with_name("results")
MODES = ("batch", "online", "group", "layer", "instance", "none")
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
ONE_SEED = (("custom-compare", "plain", "ricap"),)
"""Comparisons of trainings that have a seed each, whose intervals know the images alone."""
K_TUNED, FEWEST_PAIRS = 5, 3
REPRODUCED = Path(__file__).with_name("reproduced.json")
HALF_A_DIGIT, EXACT = 5.01e-6, 1e-12
FEWEST_NEAR = 0.9
"""Share of pairs of means that have to be within twice their common error; of equal ones 0.95 are expected."""
ALL_IMAGES, TRAINING_IMAGES = 50_000, 45_000
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
                str(settings["lr"]) + (f", gradients up to {clip:g}" if (clip := settings["clip_norm"]) else ""),
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
        rows.append(
            [
                title,
                listed([test["top1"] for test in tests]),
                points([test["top1"] for test in tests]),
                f"{sum(test['loss'] for test in tests) / len(tests):.3f}",
                f"{sum(run['epochs'][-1]['train']['loss'] for run in runs) / len(runs):.3f}",
            ]
        )
    columns = ["training", "test images right, % by seed", "mean", "test loss", "training loss, last epoch"]
    return {"columns": columns, "rows": rows}


def found_by(first: str, second: str, difference: Any) -> str:
    """The shortest true sentence on two trainings."""
    low, high = difference["ci95"]
    if low <= 0 <= high:
        return f"no difference between {first} and {second} is shown"
    return f"{second} is {'better' if low > 0 else 'worse'} than {first}"


def found_by_one(difference: Any) -> str:
    """What two trainings of a seed each say of these two networks; it says nothing of other seeds."""
    first, second, (low, high) = difference["first"], difference["second"], difference["ci95"]
    if low <= 0 <= high:
        return f"no difference between these runs of {first} and {second} is shown"
    return f"this run of {second} is {'better' if low > 0 else 'worse'} than that of {first}"


def differences() -> dict[str, Any]:
    """Trainings against each other."""
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
    for name, first, second in ONE_SEED:
        found = document(name)
        for one in found["results"]["differences"] if found is not None else []:
            assert (one["first"], one["second"]) == (first, second), name
            values = f"{one['points']:+.2f}", "one seed each", signed(one["ci95"]), f"{one['points']:+.2f}"
            rows.append([f"{second} minus {first}", *values, found_by_one(one)])
    columns = [
        "trainings",
        "points: mean, 95% interval",
        "of seeds alone",
        "of images alone",
        "by seed",
        "what that shows, at this length",
    ]
    return {"columns": columns, "rows": rows}


def of_networks(kind: str, name: str) -> list[Any]:
    """The results of a command for the networks of a training, by seed, where there are all of them."""
    found = [document(f"{kind}-{name}-{run['seed']}") for run in runs_of(name)]
    return [one["results"] for one in found if one is not None] if all(one is not None for one in found) else []


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
                listed([one["refitted"]["versus_original"]["points"] for one in sparse], "+.2f") or "-",
                listed([one["smallest"]["tried"][str(K_TUNED)] for one in sparse]) or "-",
                listed([one["before"]["top1"] - one["original"]["top1"] for one in tuned], "+.2f") or "-",
                listed([one["difference"]["points"] for one in tuned], "+.2f") or "-",
            ]
        )
    columns = [
        "network",
        "smallest k within a point, by seed",
        "that head minus full head, points of the test images",
        "all features fitted anew, minus full head",
        f"loss at k = {K_TUNED}, upper bound on the choosing images",
        f"cut to k = {K_TUNED}, minus full head",
        "the same after an epoch of `finetune`",
    ]
    return {"columns": columns, "rows": rows}


def needs() -> dict[str, Any]:
    """Differences, paired by seed, in how much is lost with few features."""
    figures = {
        "smallest k": ("sparse", lambda one: one["smallest"]["k"]),
        f"loss at k = {K_TUNED}, upper bound": ("sparse", lambda one: one["smallest"]["tried"][str(K_TUNED)]),
        f"points lost by the cut to k = {K_TUNED}": (
            "tuned",
            lambda one: one["original"]["top1"] - one["before"]["top1"],
        ),
        "points lost after an epoch of `finetune`": ("tuned", lambda one: -one["difference"]["points"]),
    }
    rows, titles = [], dict(FAMILIES)
    for first, second in (("norm-batch", "norm-online"), ("gate-baseline", "gate")):
        for what, (kind, figure) in figures.items():
            sides = [
                {run["seed"]: document(f"{kind}-{name}-{run['seed']}") for run in runs_of(name)}
                for name in (first, second)
            ]
            seeds = [seed for seed in sides[0] if sides[0][seed] is not None and sides[1].get(seed) is not None]
            if len(seeds) < FEWEST_PAIRS:
                continue
            values = [figure(sides[1][seed]["results"]) - figure(sides[0][seed]["results"]) for seed in seeds]
            mean, _, interval = mean_interval(values)
            assert interval is not None
            rows.append(
                [
                    f"{titles[second]} minus {titles[first]}",
                    what,
                    listed(values, "+.2f"),
                    # Equal differences, as of whole numbers, say nothing of how much others would vary.
                    f"{mean:+.2f}" if len(set(values)) == 1 else f"{mean:+.2f} {signed(interval)}",
                    "yes" if len(set(values)) > 1 and not interval[0] <= 0 <= interval[1] else "no",
                ]
            )
    columns = [
        "networks",
        "figure",
        "by seed",
        "mean over seeds, 95% interval",
        "is a difference shown, by this interval?",
    ]
    return {"columns": columns, "rows": rows}


def speed() -> dict[str, Any]:
    """Images per second, and the share of bare steps."""
    found = document("speed")
    rows = [] if found is None else [
        [name, f"`{one['network']}`", f"{one['images_per_second']:,.0f}", f"{one['share']:.2f}"]
        for name, one in found["rows"].items()
    ]  # fmt: skip
    return {"columns": ["recipe", "network", "images/s", "share of bare steps"], "rows": rows}


def hours(trainings: Sequence[tuple[str, int]], images: int) -> str:
    """How long trainings take, rows of the table of speeds and their epochs, at the measured speeds."""
    found = document("speed")
    if found is None:
        return "days"
    seconds = sum(epochs * images / found["rows"][row]["images_per_second"] for row, epochs in trainings)
    return f"{seconds / 3600:,.0f} hours" if seconds < 100 * 3600 else f"{seconds / 86400:,.0f} days"


def shortened(name: str) -> str:
    """How long a training was that has been run."""
    return f"{document(name)['arguments']['settings']['epochs']} epochs"


def on_the_same_images() -> list[list[str]]:
    """What became of each table that compares with the published code, on the same 1,000 and 4,000 images."""
    tables = json.loads(REPRODUCED.read_text(encoding="utf-8"))["tables"]

    def rows(name: str) -> list[list[Any]]:
        return [row[1:] for row in tables[name]["rows"]]

    def judged(is_met: bool, said: str) -> str:
        return f"{'' if is_met else 'not '}reproduced: {said}"

    counts, overlaps = rows("counts"), rows("overlap")
    selectivities = [(float(ours), float(theirs)) for theirs, ours in rows("selectivity")]
    features = [[int(cell.split(" of ")[0]) for cell in row] for row in rows("indices")]
    whole = sum(int(row[0].split(" of ")[1]) for row in rows("indices"))
    theirs, ours = (sum(column) for column in zip(*features, strict=True))
    pairs = [
        [[float(x) for x in one.split(" ± ")] for one in pair.split(" / ")] for r in rows("essential") for pair in r
    ]
    near = sum(abs(a - b) <= 2 * math.hypot(of_a, of_b) for (a, of_a), (b, of_b) in pairs)
    largest = max(float(cell) for row in rows("online norm") for cell in row)
    equal, same = (sum(a == b for a, b in found) for found in (counts, overlaps))
    close = sum(abs(a - b) <= HALF_A_DIGIT for a, b in selectivities)
    of_code = "by the published code, on the same"
    return [
        [
            f"images classified correctly, {of_code} 1,000",
            "`decompose validate resnet20 -i FILE`, and the other networks",
            judged(equal == len(counts), f"{equal} of {len(counts)} counts are equal"),
        ],
        [
            f"index files, made from 50,000 images; {of_code} 4,000",
            "`decompose extract-indices resnet20 -k K`, on the first 4,000 training images",
            judged(all(b >= a for a, b in features), f"{ours} of {whole} of their features, by that code {theirs}"),
        ],
        [
            f"mutual information of index files, {of_code} files",
            "`decompose mutual-info -i FILE`",
            judged(same == len(overlaps), f"{same} of {len(overlaps)} are equal to eight decimals"),
        ],
        [
            f"essentiality, {of_code} 1,000, other noise",
            "`decompose essential resnet20 -i FILE --repeats 30`",
            judged(
                near >= FEWEST_NEAR * len(pairs),
                f"{near} of {len(pairs)} pairs within twice their common error",
            ),
        ],
        [
            f"selectivity, {of_code} 4,000",
            "`decompose selectivity resnet20`",
            judged(close == len(selectivities), f"{close} of {len(selectivities)} are equal to five decimals"),
        ],
        [
            "online normalisation, by the published NumPy code on the same numbers",
            "`--norm-mode online`",
            judged(largest < EXACT, f"no difference above {largest:.0e} of the largest value"),
        ],
    ]


def status() -> dict[str, Any]:
    """What became of each published figure: reproduced, not reproduced, or not run and what that needs."""

    def takes(*trainings: tuple[str, int], images: int = TRAINING_IMAGES) -> str:
        time = hours(trainings, images)
        return f"not run: needs the lossless images, and {time} on two cores, or a GPU"

    norms = ("online-norm, batch", 5 * 250), ("online-norm, online", 5 * 250)
    others = tuple((f"online-norm, {mode}", 250) for mode in ("group", "layer", "instance"))
    rows = [
        *on_the_same_images(),
        [
            "CIFAR-10, 10,000 test images: ResNet-20 91.73% (akamaster/pytorch_resnet_cifar10)",
            "`decompose validate resnet20`",
            "not run: needs the 10,000 lossless images",
        ],
        [
            "ImageNet, 50,000 images: ResNet-50 76.13% (torchvision)",
            "`decompose validate resnet50`",
            "not run: needs ImageNet",
        ],
        [
            "ImageNet: ResNet-50 decomposed by its published index file, k = 50",
            "`decompose validate resnet50 -i resnet50_imagenet_indices.json`",
            "not run: needs ImageNet",
        ],
        [
            "ResNet-20 from scratch, 200 epochs: 91.73%",
            "`decompose train resnet20 --dataset cifar10 --val-split 0`",
            takes(("cifar-resnet", 200), images=ALL_IMAGES),
        ],
        [
            "online normalisation, 92.3%, as good as batch norm, 92.2%: 250 epochs, 5 runs each",
            "`decompose train resnet20 --dataset cifar10 --norm-mode online --shortcut projection --runs 5 "
            "--final-test`, and with `batch`",
            f"{takes(*norms)}; {at_this_length('norm-compare', 'norm-online')}",
        ],
        [
            "group (90.3%), layer (87.4%) and instance norm (90.4%) behind batch norm: 250 epochs, a run each",
            "`decompose train resnet20 --dataset cifar10 --norm-mode group --shortcut projection --final-test`, "
            "and the others",
            f"{takes(*others)}; {behind('batch', ('group', 'layer', 'instance'))}",
        ],
        [
            "online normalisation and the others on CIFAR-100 and ImageNet",
            "`decompose train resnet20 --dataset cifar100 --norm-mode online --shortcut projection --final-test`, "
            "`decompose train resnet50 --dataset imagenet --norm-mode online`",
            "not run: needs CIFAR-100, and ImageNet with a GPU",
        ],
        [
            "soft gates, 333 epochs at depth 110: 93.0 to 94.0% (logs of the original; it has none without gates)",
            "`decompose train-gate --dataset cifar10 --depth 110`",
            f"{takes(('soft-gates, entropy-classifier, depth 110', 333))}; at depth 20 "
            f"{at_this_length('gate-compare', 'gate')}",
        ],
        [
            "soft gates on CIFAR-100, depths 110 and 164: 68 to 74% (logs of the original)",
            "`decompose train-gate --dataset cifar100 --depth 110`",
            "not run: needs CIFAR-100, and days on two cores, or a GPU",
        ],
        [
            "custom ResNet, 24 epochs: 94.12%",
            "`decompose train custom_resnet --dataset cifar10 --final-test`",
            f"{takes(('custom-resnet', 24))}; {custom()}",
        ],
    ]
    return {"columns": ["published", "command", "status"], "rows": rows}


PUBLISHED = {"group": 90.3, "layer": 87.4, "instance": 90.4}
"""Accuracies of a run each after 250 epochs (arXiv 1905.05894), in percent."""
NOT_SHORTER = "not run at a shorter length either"


def at_this_length(name: str, training: str) -> str:
    """What a shortened comparison says; whether the published length says the same is not known."""
    found = document(name)
    if found is None or document(training) is None or not found["results"]["seed_differences"]:
        return NOT_SHORTER
    one = found["results"]["seed_differences"][0]
    sentence = f"{found_by(one['first'], one['second'], one)} ({one['points']:+.2f} {signed(one['ci95'])} points)"
    return f"after {shortened(training)} {sentence}"


def custom() -> str:
    """What the shortened runs of the custom network say, without RICAP and with it."""
    found, plain, ricap = document("custom-compare"), runs_of("custom"), runs_of("custom-ricap")
    if not plain:
        return NOT_SHORTER
    said = f"after {shortened('custom')} {kept(plain[0])['test']['top1']:.2f}% of the JPEG images"
    if found is None or not ricap:
        return said
    one = found["results"]["differences"][0]
    more = f"with RICAP {kept(ricap[0])['test']['top1']:.2f}%: {found_by_one(one)}"
    return f"{said}, {more} ({one['points']:+.2f} {signed(one['ci95'])} points)"


def behind(first: str, others: Sequence[str]) -> str:
    """Which single runs are behind the worst seed of another training; one seed each says no more."""
    found = {mode: [kept(run)["test"]["top1"] for run in runs_of(f"norm-{mode}")] for mode in (first, *others)}
    if not all(found.values()):
        return NOT_SHORTER
    lowest = min(found[first])
    verdict = "all behind" if all(max(found[mode]) < lowest for mode in others) else "not all behind"
    said = ", ".join(f"{mode} {listed(found[mode])}" for mode in others)
    order = sorted(others, key=lambda mode: -found[mode][0])
    if order != sorted(others, key=lambda mode: -PUBLISHED[mode]):
        said += f" (in another order than published: {', '.join(order)})"
    return f"after {shortened(f'norm-{others[0]}')} {verdict}: {said}; the worst seed of {first} {lowest:.2f}"


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


PICTURE = Path(__file__).with_name("images") / "trainings.png"


def learning_curves() -> tuple[dict[str, Curve], dict[str, Curve]]:
    """Training losses and accuracies on held-out images by training, of each seed."""
    losses, right = {}, {}
    for name, title in FAMILIES:
        if found := [run["epochs"] for run in runs_of(name)]:
            title = title.replace("`", "").removeprefix("--norm-mode ")
            losses[title] = Curve([{one["epoch"]: one["train"]["loss"] for one in epochs} for epochs in found])
            right[title] = Curve([{one["epoch"]: one["val"]["top1"] for one in epochs} for epochs in found])
    return losses, right


DRAWING = 2
"""To be raised where the picture is drawn in another way."""


def drawn() -> str:
    """What the picture has to show, in short: it is compared with what the picture says that it shows."""
    shown = [{name: curve.seeds for name, curve in curves.items()} for curves in learning_curves()]
    return hashlib.sha256(json.dumps([DRAWING, shown]).encode()).hexdigest()


def draw() -> None:
    """Write the picture of the learning curves, if it shows anything else."""
    if PICTURE.is_file():
        with Image.open(PICTURE) as picture:
            if picture.info.get("Description") == drawn():
                return
    figure = trainings_figure("", *learning_curves(), "held-out images")
    PICTURE.write_bytes(saved(figure, format="png", metadata={"Description": drawn()}))


MACHINE_PATH = re.compile(r"(?<![\w.])/(?:[\w.-]+/)*[\w.-]+")


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
    environment["platform"] = environment["platform"].split("-")[0]
    text = json.dumps(content)
    if found := MACHINE_PATH.search(re.sub(r"https?://\S+", "", text)):
        sys.exit(f"the document names {found[0]}")
    return content


def main() -> None:
    """Take documents in."""
    for given in sys.argv[1:]:
        name, sign, path = given.partition("=")
        if not sign:
            sys.exit(f"{given} is not NAME=FILE")
        content = without_machine(json.loads(Path(path).read_text(encoding="utf-8")))
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
