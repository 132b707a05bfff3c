"""``lr-find``: the learning-rate range test (arXiv 1506.01186)."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tempfile
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import nn

from decompose_cli.errors import InputError, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.messages import note, track, warn
from decompose_cli.models.gated_resnet import GatedNetwork
from decompose_cli.printable import counted
from decompose_cli.processes.cluster import Machines, processes_of
from decompose_cli.reporting.training_plots import lr_curve
from decompose_cli.storage.file_sets import write_result
from decompose_cli.storage.names import RESULT
from decompose_cli.storage.result_document import ResultDocument, Stopwatch, WeightsInfo, describe_environment
from decompose_cli.training.configure import configure
from decompose_cli.training.fit import Trainer
from decompose_cli.training.gating.objective import GateObjective
from decompose_cli.training.gating.settings import GateSettings
from decompose_cli.training.job import Upkeep
from decompose_cli.training.lr_range import diverged, ramp, smooth, suggest
from decompose_cli.training.objective import Objective
from decompose_cli.training.session import Request, opened
from decompose_cli.training.settings import Settings
from decompose_cli.training.setup import (
    TrainConfig,
    announce,
    describe_images,
    describe_network,
    make_job,
    open_for,
)

DEFAULT_LOWEST, DEFAULT_HIGHEST, DEFAULT_STEPS = 1e-6, 10.0, 100
CURVE = "curve.png"
MOST_PASSES = 20
"""Passes over the training images from which on a falling loss tells of these images rather than of the rate."""
_VARIED = (
    *("lr", "schedule", "milestones", "gamma", "epochs", "iterations", "scale_epochs", "start_epoch"),
    *("warmup_epochs", "warmup_lr", "rise", "start_divisor", "end_divisor", "anneal", "cycle_momentum"),
    *("ema_decay", "val_split"),
)
"""Settings that the test decides itself, or that say when something happens in a run of many epochs."""
_CHOICES = ("recipe", "model_options", "overrides", "training_images", "starting_weights")


class LrFindResults(BaseModel):
    """``lr``: the suggestion, where the averaged loss falls most steeply over log(rate).

    ``minimum_tenth``: a tenth of the rate with the lowest loss. ``still_falling``: whether it is lowest at the end of
    the range. ``diverged``: whether the test stopped because the loss diverged. ``worse_than_guessing``: whether the
    loss at the suggested rate is above log(C), so that it falls from the initial weights to chance there. ``plot``:
    null if none was written.
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


@dataclass(frozen=True)
class LrFindSettings:
    """Which rates are tried, and in which training.

    Attributes:
        recipe: Preset of the settings; by default the one that suits network and images.
        model_options: Options of the network, such as its shortcuts.
        lowest: Learning rate of the first step.
        highest: Learning rate of the last step.
        steps: Number of steps.
        overrides: Settings of the recipe that were given, by name.

    Raises:
        InputError: A setting was given that the test itself varies, or the range cannot be used.
    """

    recipe: str | None = None
    model_options: Mapping[str, str] = field(default_factory=dict)
    lowest: float = DEFAULT_LOWEST
    highest: float = DEFAULT_HIGHEST
    steps: int = DEFAULT_STEPS
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rates()
        for name in _VARIED:
            if name in self.overrides:
                raise InputError(
                    f"{param(name)} has no effect here: rates go from {param('lowest')} to {param('highest')}."
                )

    def rates(self) -> list[float]:
        """The rates, from the lowest to the highest."""
        return ramp(self.lowest, self.highest, self.steps)


def lr_find(
    inputs: Inputs, settings: LrFindSettings | None = None, *, folder: Path | None = None
) -> ResultDocument[LrFindResults]:
    """Train for a few steps, each at a higher rate than the one before, and see where the loss falls fastest.

    Args:
        inputs: The network and the images.
        settings: Which rates are tried, and in which training.
        folder: Gets ``result.json`` and ``curve.png``, both or none.

    Raises:
        InputError: Something given cannot be used.
        DecomposeError: The losses allow no suggestion.
    """
    watch = Stopwatch()
    if (count := processes_of(Machines(inputs.devices, inputs.num_nodes)).count) > 1:
        raise InputError(
            f"A range test trains in one process, not in {count}.",
            hint="Start it alone: batches are the same for any number of processes, and so is the rate.",
        )
    asked = settings or LrFindSettings()
    rates, steps = asked.rates(), asked.steps
    overrides = {"seed": inputs.seed, **asked.overrides}

    def settle(given: Inputs) -> tuple[Inputs, Settings, Mapping[str, Any]]:
        filled, settings, choices = configure(given, overrides, asked.recipe, asked.model_options)
        test = {"schedule": "constant", "warmup_epochs": 0, "epochs": None, "iterations": steps, "val_split": 0.0}
        return filled, settings.model_copy(update=test), choices

    with tempfile.TemporaryDirectory() as nowhere:
        request = Request(inputs, overrides, folder=Path(nowhere) / "run", machines=Machines(devices=1))
        with opened("lr-find", request, settle, TrainConfig) as session:
            learner = open_for(session)
            announce(session.config, learner, session.settings)
            job = make_job(session.config, learner, session.settings)
            job = dataclasses.replace(job, objective=_objective(job.module, session.settings))
            trainer = Trainer(session.fabric, job, session.settings, session.folder, Upkeep(session.workers))
            _say_passes(len(job.data.indices), steps, trainer.steps_per_epoch)
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
    plot = folder / CURVE if folder is not None else None
    results = LrFindResults(
        lr=suggestion.rate,
        minimum_tenth=suggestion.minimum_tenth,
        still_falling=suggestion.still_falling,
        diverged=has_diverged,
        worse_than_guessing=smoothed[bisect(rates, suggestion.rate) - 1] > math.log(len(learner.class_names)),
        rates=rates,
        losses=losses,
        smoothed=smoothed,
        plot=str(plot) if plot is not None else None,
    )
    classifier = learner.classifier
    weights = WeightsInfo(source=classifier.weights_source, sha256=classifier.weights_sha256)
    document = ResultDocument(
        command="lr-find",
        arguments={
            **session.inputs.as_arguments(),
            **{name: session.config[name] for name in _CHOICES},
            "settings": session.settings.model_dump(mode="json"),
            "lowest": asked.lowest,
            "highest": asked.highest,
            "steps": steps,
        },
        model=describe_network(learner, session.settings.seed, weights),
        dataset=describe_images(learner),
        environment=describe_environment(str(session.fabric.device), session.settings.seed),
        started_at=watch.started_at,
        seconds=watch.seconds(),
        results=results,
    )
    if folder is not None and plot is not None:
        title = f"{classifier.name} on {learner.train.name.rsplit('/', 1)[-1]}"
        picture = lr_curve(title, rates, losses, smoothed, suggestion.rate)
        write_result(document, folder / RESULT, {plot: picture})
    return document


def _say_passes(images: int, steps: int, steps_per_epoch: int) -> None:
    """Say how often each image is seen; where that is often, the loss falls as they are learned by heart."""
    passes = -(-steps // steps_per_epoch)
    said = (
        f"{steps} rates, a step each, are {counted(passes, 'pass', 'passes')} over {counted(images, 'training image')}"
    )
    if passes > MOST_PASSES:
        warn(
            f"{said}: the loss falls also because the network knows the images; fewer {param('steps')}, or a smaller "
            f"{param('batch_size')}, tell more."
        )
    else:
        note(f"{said}.")


def _losses(trainer: Trainer, rates: Sequence[float]) -> Iterator[float]:
    """The loss of the batch before each step; every step is made at its own rate."""
    trainer.learning_mode()
    done = 0
    for epoch in itertools.count():
        for batches in trainer.batches.steps(epoch, 0, min(trainer.steps_per_epoch, len(rates) - done)):
            for group in trainer.parts[0].optimizer.param_groups:  # classifiers of gates keep their own
                group["lr"] = rates[done]
            yield float(trainer.step(batches))
            done += 1
            if done == len(rates):
                return


def _objective(module: nn.Module, settings: Settings) -> Objective | None:
    """The objective of a network with gates, whose losses it weighs as ``train-gate`` does; None for other networks."""
    if not isinstance(module, GatedNetwork):
        return None
    return GateObjective(settings.label_smoothing, module, GateSettings().completed(module.gate_name))
