"""Images per second of every recipe and every normalisation, and their share of bare steps.

Each row is the command ``decompose train`` (or ``train-gate``) on images of CIFAR-10's size (224x224 for ImageNet's
recipe), as it measures itself, against bare steps: the same network, memory layout, optimizer, batch and precision on
tensors that are ready, with nothing augmented, mixed or counted. Gates are measured against the same network
without, projections as shortcuts in both.

    python benchmarks/bench_recipes.py [--repeats N] [--images N] [--json FILE]

``--json docs/results/speed.json`` keeps the figures for docs/reproduce.md.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common

GOAL = 0.85
PASSES, FIRST_STEPS = 2, 4
LARGE, LARGE_IMAGES, LARGE_BATCH = 224, 640, 32


@dataclass(frozen=True)
class Row:
    """One training: what it is called, the recipe, its command, and how bare steps are made."""

    name: str
    recipe: str
    network: str = "resnet20"
    command: str = "train"
    options: tuple[str, ...] = ()
    norm: str | None = None

    @property
    def has_projections(self) -> bool:
        """Networks with gates always have projections as shortcuts."""
        return self.norm is not None or self.recipe == "soft-gates"


NORMS = ("batch", "group", "layer", "instance", "online", "none")
ROWS = (
    *(Row(name, name) for name in ("cifar-resnet", "he2015", "digits", "transfer", "finetune")),
    Row("imagenet", "imagenet", "resnet18"),
    Row("custom-resnet", "custom-resnet", "custom_resnet"),
    Row("custom-resnet, RICAP", "custom-resnet", "custom_resnet", options=("--mix", "ricap")),
    Row("soft-gates, no gate", "soft-gates"),
    Row("soft-gates, entropy-classifier", "soft-gates", command="train-gate"),
    Row("soft-gates, entropy-classifier, depth 110", "soft-gates", "resnet110", command="train-gate"),
    *(Row(f"online-norm, {mode}", "online-norm", norm=mode) for mode in NORMS),
    *(Row(f"online-norm, {mode}, compiled", "online-norm", options=("--compile",), norm=mode) for mode in NORMS[::4]),
)


def main() -> None:
    parser = common.speed_options(__doc__, repeats=1, images=2_560)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures")
    parser.add_argument("--only", metavar="TEXT", default="", help="rows whose name has this text")
    parser.add_argument("--bare", metavar="NAME", help="one side, for this script itself")
    given = parser.parse_args()
    if given.bare:
        print(bare(next(row for row in ROWS if row.name == given.bare), given.images))
        return
    rows = [row for row in ROWS if given.only in row.name]
    with tempfile.TemporaryDirectory() as folder:
        inputs = common.make_inputs(Path(folder) / "data", test=256, train=given.images)
        large = large_images(Path(folder) / "large")
        figures: dict[str, Any] = {}
        for row in rows:
            common.say(row.name)
            pairs = []
            for _ in range(given.repeats):
                ours = trained(row, inputs, large, given.images, Path(folder) / "run")
                ready = common.run(
                    common.python(Path(__file__).resolve(), "--bare", row.name, "--images", str(given.images))
                )
                pairs.append((ours, float(ready.output)))
            speed, alone = (statistics.median(side) for side in zip(*pairs, strict=True))
            figures[row.name] = {
                "recipe": row.recipe,
                "network": row.network,
                "images_per_second": round(speed, 1),
                "bare_images_per_second": round(alone, 1),
                "share": round(speed / alone, 3),
            }
    conditions = common.conditions(given.repeats, inputs.description)
    lines = [
        common.Line(name, one["share"], GOAL, detail=f"{one['images_per_second']:,.0f} images/s")
        for name, one in figures.items()
    ]
    common.report("trainings against bare steps, images/s", lines, conditions)
    if given.json:
        content = {"conditions": conditions, "rows": figures}
        given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def steps_of(row: Row, images: int) -> int:
    """Steps of a pass over the images."""
    return -(-(LARGE_IMAGES if row.network == "resnet18" else images) // settings_of(row).batch_size)


def settings_of(row: Row) -> Any:
    from decompose_cli.training.recipes import resolve

    given = {"batch_size": LARGE_BATCH} if row.network == "resnet18" else {}
    return resolve(row.recipe, given, large_images=row.network == "resnet18")


def trained(row: Row, inputs: common.Inputs, large: Path, images: int, run: Path) -> float:
    settings = settings_of(row)
    data = ["--dataset", f"folder:{large}", "-b", str(LARGE_BATCH)] if row.network == "resnet18" else [
        "--dataset", "cifar10", "--data-dir", inputs.data, "--no-download"
    ]  # fmt: skip
    if row.norm is not None:
        data += ["--norm-mode", row.norm]
    if row.has_projections and row.command == "train":
        data += ["--shortcut", "projection"]
    steps = PASSES * steps_of(row, images)
    schedule = [] if settings.schedule == "one-cycle" else ["--schedule", "constant"]
    command = common.decompose(
        row.command, row.network, *data, "--recipe", row.recipe, *schedule, "--lr", "0.0001", *row.options,
        "--iterations", str(steps), "--val-split", "0", "-o", run, "--overwrite", "--json", "-q",
        "--device", "cpu",
    )  # fmt: skip
    epochs = json.loads(common.run(command).output)["results"]["epochs"]
    later = epochs[1:]  # what is compiled is compiled in the first pass
    return float(sum(one["train"]["images"] for one in later) / sum(one["seconds"] for one in later))


def bare(row: Row, images: int) -> float:
    import torch
    import torch.nn.functional as F

    from decompose_cli.features.extraction import keep_freed_memory
    from decompose_cli.models.classifier import find_entry
    from decompose_cli.norms.factory import convert_norm
    from decompose_cli.norms.modes import Norm
    from decompose_cli.training.optimizers import make_optimizer
    from decompose_cli.training.recipes import complete_norm

    keep_freed_memory(at_most=2**31 - 1)
    settings = settings_of(row)
    side = LARGE if row.network == "resnet18" else 32
    entry = find_entry(row.network)
    classes = 10
    if row.has_projections:
        entry = entry.configured(shortcut="projection")
    model = entry.make(classes, (side, side))
    if row.norm is not None:
        options = complete_norm({"norm_mode": row.norm}, "cifar10", large_images=False)
        convert_norm(model, Norm.parse(options), (side, side))
    model = model.to(memory_format=torch.channels_last).train()
    called = torch.compile(model) if "--compile" in row.options else model
    optimizer = make_optimizer(settings.model_copy(update={"lr": 1e-4}), list(model.parameters()))
    batch = torch.randn(settings.batch_size, 3, side, side).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, classes, (settings.batch_size,))
    steps = max(steps_of(row, images), 2 * FIRST_STEPS) + FIRST_STEPS
    start = 0.0
    for number in range(steps):
        if number == FIRST_STEPS:
            start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
            output = called(batch)
        F.cross_entropy(output.float(), labels, label_smoothing=settings.label_smoothing).backward()
        optimizer.step()
        optimizer.zero_grad()
    return settings.batch_size * (steps - FIRST_STEPS) / (time.perf_counter() - start)


def large_images(root: Path) -> Path:
    """Random JPEG files of the size that ImageNet's images are cut to."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(LARGE_IMAGES):
        path = root / "train" / f"class{number % 10}" / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        small.resize((LARGE, LARGE), Image.Resampling.BICUBIC).save(path)
    return root


if __name__ == "__main__":
    sys.exit(main())
