"""``lr-find``: the learning-rate range test (arXiv 1506.01186)."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tempfile
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import nn

from decompose_cli.datasets.training_images import TrainingImages
from decompose_cli.errors import InputError
from decompose_cli.features.study import Inputs
from decompose_cli.models.gated_resnet import GatedNetwork
from decompose_cli.progress import track
from decompose_cli.reporting.training_plots import lr_curve
from decompose_cli.storage.files import cores, write_files
from decompose_cli.storage.result_document import ResultDocument, Stopwatch, WeightsInfo, describe_environment
from decompose_cli.training.devices import Machines, start
from decompose_cli.training.fit import Trainer
from decompose_cli.training.gating.runner import GateObjective, GateTraining
from decompose_cli.training.lr_range import diverged, ramp, smooth, suggest
from decompose_cli.training.objective import Objective
from decompose_cli.training.run_folder import RunFolder
from decompose_cli.training.settings import Settings
from decompose_cli.training.setup import (
    announce,
    configure,
    describe_images,
    describe_network,
    make_job,
    open_learner,
)

DEFAULT_LOWEST, DEFAULT_HIGHEST, DEFAULT_STEPS = 1e-6, 10.0, 100


class LrFindResults(BaseModel):
    """``lr``: the suggestion, where the averaged loss falls most steeply over log(rate).

    ``minimum_tenth``: a tenth of the rate with the lowest loss. ``still_falling``: whether that is at the end of the
    range. ``diverged``: whether the test stopped there. ``worse_than_guessing``: whether the loss at the suggested rate
    is above log(C), so that it falls from the initial weights to chance there. ``plot``: null if none was written.
    """

    lr: float
    minimum_tenth: float
    still_falling: bool
    diverged: bool
    worse_than_guessing: bool
    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    plot: str | None


def lr_find(
    inputs: Inputs,
    *,
    overrides: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    model_options: Mapping[str, str] | None = None,
    lowest: float = DEFAULT_LOWEST,
    highest: float = DEFAULT_HIGHEST,
    steps: int = DEFAULT_STEPS,
    folder: Path | None = None,
) -> ResultDocument[LrFindResults]:
    """Train for a few steps, each at a higher rate than the one before, and see where the loss falls fastest.

    Args:
        inputs: Which network, which images.
        overrides: Settings of the recipe that were given.
        recipe: Preset of the settings.
        model_options: Options of the network.
        lowest: First rate.
        highest: Last rate.
        steps: How many.
        folder: Gets ``result.json`` and ``curve.png``, both or none.

    Raises:
        InputError: Something given cannot be used.
        DecomposeError: The losses allow no suggestion.
    """
    watch = Stopwatch()
    rates = ramp(lowest, highest, steps)
    overrides = {"seed": inputs.seed, **(overrides or {})}
    for name in ("lr", "schedule", "epochs", "iterations", "ema_decay", "val_split"):
        if name in overrides:
            raise InputError(f"--{name.replace('_', '-')} has no effect here: rates go from --lowest to --highest.")
    filled, settings, config = configure(inputs, overrides, recipe, model_options or {})
    settings = settings.model_copy(
        update={"schedule": "constant", "warmup_epochs": 0, "epochs": None, "iterations": steps, "val_split": 0.0}
    )
    fabric = start(inputs.device, Machines(devices=1), settings.precision)
    found = open_learner(filled, config["model_options"] or {}, settings.seed)
    announce(config, found, settings)
    asked = {**dataclasses.asdict(filled), "command": "train", "overrides": overrides}
    job = make_job({**config, **asked}, found, settings)
    workers = min(8, cores()) if inputs.workers is None else inputs.workers
    images = TrainingImages(
        found.train,
        found.preprocessing,
        settings.augmentation,
        seed=settings.seed,
        device=fabric.device,
        workers=workers,
    )
    data = job.data
    with tempfile.TemporaryDirectory() as nowhere:
        trainer = Trainer(
            fabric,
            job.module,
            settings,
            images,
            data.indices,
            data.labels,
            num_classes=len(found.class_names),
            folder=RunFolder(Path(nowhere)),
            metadata=job.metadata,
            objective=_objective(job.module, settings),
        )
        losses: list[float] = []
        with track("Rates", steps, "steps") as advance:
            for loss in _losses(trainer, rates):
                losses.append(loss)
                advance(1)
                if diverged(losses):
                    break
    has_diverged = diverged(losses)
    suggestion = suggest(rates[: len(losses)], losses)
    losses = list(itertools.takewhile(math.isfinite, losses))
    rates, smoothed = rates[: len(losses)], smooth(losses)
    plot = folder / "curve.png" if folder is not None else None
    results = LrFindResults(
        lr=suggestion.rate,
        minimum_tenth=suggestion.minimum_tenth,
        still_falling=suggestion.still_falling,
        diverged=has_diverged,
        worse_than_guessing=smoothed[bisect(rates, suggestion.rate) - 1] > math.log(len(found.class_names)),
        rates=rates,
        losses=losses,
        smoothed=smoothed,
        plot=str(plot) if plot is not None else None,
    )
    classifier = found.classifier
    weights = WeightsInfo(source=classifier.weights_source, sha256=classifier.weights_sha256)
    document = ResultDocument(
        command="lr-find",
        arguments={
            **dataclasses.asdict(filled),
            "data_dir": str(filled.data_dir) if filled.data_dir else None,
            **config,
            "settings": settings.model_dump(mode="json"),
            "lowest": lowest,
            "highest": highest,
            "steps": steps,
        },
        model=describe_network(found, settings.seed, weights),
        dataset=describe_images(found),
        environment=describe_environment(str(fabric.device), settings.seed),
        started_at=watch.started_at,
        seconds=watch.seconds(),
        results=results,
    )
    if folder is not None and plot is not None:
        title = f"{filled.model} on {found.train.name.rsplit('/', 1)[-1]}"
        picture = lr_curve(title, rates, losses, smoothed, suggestion.rate)
        write_files({plot: picture, folder / "result.json": document.to_json()})
    return document


def _losses(trainer: Trainer, rates: Sequence[float]) -> Iterator[float]:
    """The loss of the batch before each step, the step being made at the rate."""
    trainer.learning_mode()
    done = 0
    for epoch in itertools.count():
        for batches in trainer.steps(epoch, 0, min(trainer.steps_per_epoch, len(rates) - done)):
            for group in trainer.parts[0].optimizer.param_groups:  # classifiers of gates keep their own
                group["lr"] = rates[done]
            yield float(trainer.step(batches))
            done += 1
            if done == len(rates):
                return


def _objective(module: nn.Module, settings: Settings) -> Objective | None:
    """Of a network with gates: their losses too, as ``train-gate`` weighs them by default."""
    if not isinstance(module, GatedNetwork):
        return None
    return GateObjective(settings.label_smoothing, module, GateTraining(module.gate_name).complete())
