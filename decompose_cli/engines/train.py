"""``train``: a network from scratch, or from given weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decompose_cli.errors import InputError
from decompose_cli.features.study import Inputs
from decompose_cli.reporting.training_plots import training_curves
from decompose_cli.storage.files import write_files
from decompose_cli.storage.result_document import ResultDocument, Stopwatch
from decompose_cli.training.devices import on_first
from decompose_cli.training.outcome import RepeatedResults, RunResults, all_results
from decompose_cli.training.records import curves
from decompose_cli.training.run_folder import RunFolder
from decompose_cli.training.seeds import repeated
from decompose_cli.training.session import Request, check_same, opened, train_job
from decompose_cli.training.settings import Settings
from decompose_cli.training.setup import (
    TrainConfig,
    announce,
    configure,
    make_job,
    open_learner,
    training_document,
)


def train(
    request: Request, *, recipe: str | None = None, model_options: Mapping[str, str] | None = None
) -> ResultDocument[Any]:
    """Train a network; its checkpoints, logs and result are in the run folder.

    Args:
        request: What to train, on what, and where.
        recipe: Preset of the settings; by default the one that suits network and images.
        model_options: Options of the network, such as its shortcuts.

    Returns:
        A document with :class:`RunResults`, or :class:`RepeatedResults` where several runs were asked for.

    Raises:
        InputError: Something given cannot be used; nothing has been changed.
        StoppedError: A signal came; the run can be resumed.
        DecomposeError: The work failed; the last checkpoint is still there.
    """
    watch = Stopwatch()
    choices: dict[str, Any] = {}
    if recipe is not None:
        choices["recipe"] = recipe
    request = dataclasses.replace(request, choices={**choices, **(model_options or {}), **request.choices})

    def settle(inputs: Inputs) -> tuple[Inputs, Settings, Mapping[str, Any]]:
        inputs, settings, choices = configure(inputs, request.overrides, recipe, model_options or {})
        if "gate" in (choices["model_options"] or {}):
            raise InputError("This network has gates, which it is 'decompose train-gate' that trains.")
        return inputs, settings, choices

    with opened("train", request, settle, TrainConfig) as session:
        config = session.config
        found = open_learner(session.inputs, config["model_options"] or {}, session.settings.seed)
        weights = found.classifier.weights_sha256 if session.inputs.weights is not None else None
        check_same(session, training_images=found.train.fingerprint(), starting_weights=weights)
        announce(config, found, session.settings)

        def run(folder: RunFolder, settings: Settings) -> RunResults:
            results, _ = train_job(session, folder, settings, make_job(config, found, settings))
            title = f"{found.classifier.name} on {found.train.name.rsplit('/', 1)[-1]}, seed {settings.seed}"
            drawn = training_curves(title, **curves(results.epochs))
            on_first(session.fabric, lambda: write_files({folder.curve: drawn}))
            return results

        def document(results: RunResults | RepeatedResults) -> ResultDocument[Any]:
            return training_document(session, found, results, watch)

        def write(path: Path, results: RunResults) -> None:
            document(results).write(path)

        runs = repeated(session, run, RunResults, write)
        whole = on_first(session.fabric, lambda: document(all_results(runs)))
        on_first(session.fabric, lambda: whole.write(session.folder.result))
    return whole
