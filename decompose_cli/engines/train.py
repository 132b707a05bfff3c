"""``train``: a network from scratch, or from given weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from decompose_cli.decomposition.study import Inputs
from decompose_cli.files import sha256_of, write_files
from decompose_cli.reporting.training_plots import training_curves
from decompose_cli.results import (
    ResultDocument,
    Stopwatch,
    WeightsInfo,
    describe_environment,
)
from decompose_cli.training.devices import on_first
from decompose_cli.training.learner import (
    Learner,
    TrainConfig,
    announce,
    configure,
    describe_images,
    describe_network,
    make_job,
    open_learner,
)
from decompose_cli.training.outcome import RunResults, Spread, spread
from decompose_cli.training.records import curves
from decompose_cli.training.run_folder import RunFolder
from decompose_cli.training.seeds import repeated
from decompose_cli.training.session import Request, Session, check_same, opened, train_job
from decompose_cli.training.settings import Settings


class RepeatedResults(BaseModel):
    """The same training with several seeds."""

    runs: list[RunResults]
    summary: list[Spread]


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
        return configure(inputs, request.overrides, recipe, model_options or {})

    with opened("train", request, settle, TrainConfig) as session:
        config = session.config
        found = open_learner(session.inputs, config["model_options"] or {}, session.settings.seed)
        weights = found.classifier.weights_sha256 if session.inputs.weights is not None else None
        check_same(session, training_images=found.train.fingerprint(), starting_weights=weights)
        announce(config, found, session.settings)

        def run(folder: RunFolder, settings: Settings) -> RunResults:
            results, _ = train_job(session, folder, settings, make_job(config, found, settings))
            title = f"{found.classifier.name} on {found.train.name}, seed {settings.seed}"
            drawn = training_curves(title, **curves(results.epochs))
            on_first(session.fabric, lambda: write_files({folder.curve: drawn}))
            return results

        def document(results: Any) -> ResultDocument[Any]:
            return _document(session, found, results, watch)

        def write(path: Path, results: RunResults) -> None:
            document(results).write(path)

        runs = repeated(session, run, RunResults, write)
        results = runs[0] if len(runs) == 1 else RepeatedResults(runs=runs, summary=_summary(runs))
        whole = on_first(session.fabric, lambda: document(results))
        on_first(session.fabric, lambda: whole.write(session.folder.result))
    return whole


def _summary(runs: list[RunResults]) -> list[Spread]:
    found = []
    for which in ("last", "best"):
        for split in ("val", "test"):
            scores = [score for run in runs if (score := getattr(getattr(run, which), split, None)) is not None]
            if len(scores) == len(runs):
                found.append(spread(f"{which} {scores[0].split} top1", [score.top1 for score in scores]))
    return found


def _document(session: Session, found: Learner, results: Any, watch: Stopwatch) -> ResultDocument[Any]:
    first = results.runs[0] if isinstance(results, RepeatedResults) else results
    source = first.checkpoints.get("best", first.checkpoints["last"])
    weights = WeightsInfo(source=source, sha256=sha256_of(Path(source)))
    return ResultDocument(
        command="train",
        arguments=dict(session.config),
        model=describe_network(found, session.settings.seed, weights),
        dataset=describe_images(found),
        environment=describe_environment(str(session.fabric.device), session.settings.seed),
        started_at=watch.started_at,
        seconds=watch.seconds(),
        results=results,
    )
