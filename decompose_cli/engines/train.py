"""``train``: a network from scratch, or from given weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from typing_extensions import override

from decompose_cli.decomposition.refitting import Refitting
from decompose_cli.errors import InputError
from decompose_cli.features.study import Inputs, Study
from decompose_cli.models.entry import ModelEntry
from decompose_cli.models.new_head import NewHead
from decompose_cli.processes.team import on_first
from decompose_cli.storage.result_document import ResultDocument
from decompose_cli.training.config import shown_command
from decompose_cli.training.configure import configure
from decompose_cli.training.job import Job
from decompose_cli.training.outcome import RepeatedResults, RunResults
from decompose_cli.training.run_folder import RunFolder
from decompose_cli.training.runner import Files, Finished, LearnerTraining, run_training
from decompose_cli.training.session import Request, Session
from decompose_cli.training.settings import Settings
from decompose_cli.training.setup import make_job
from decompose_cli.training.transfer import Transfer as Transfer
from decompose_cli.training.transfer import fitted_new_head


def train(
    request: Request,
    *,
    recipe: str | None = None,
    model_options: Mapping[str, str] | None = None,
    transfer: Transfer | None = None,
) -> ResultDocument[Any]:
    """Train a network; its checkpoints, logs and result are in the run folder.

    Args:
        request: The network, the images, how it is trained, and where the run is kept.
        recipe: Preset of the settings; by default the one that suits network and images.
        model_options: Options of the network, such as its shortcuts.
        transfer: How training goes on from given weights: with which head, and what of it is trained.

    Returns:
        A document with :class:`TrainResults`, or :class:`RepeatedResults` where several runs were asked for.

    Raises:
        InputError: Something given cannot be used; nothing has been changed.
        StoppedError: A signal came; the run can be resumed.
        DecomposeError: The work failed; the last checkpoint is still there.
    """
    options = dict(model_options or {})
    choices: dict[str, Any] = {} if recipe is None else {"recipe": recipe}
    transfer = transfer or Transfer()
    request = dataclasses.replace(request, choices={**choices, **options, **transfer.choices(), **request.choices})
    return run_training(_Train(request.overrides, recipe, options, transfer), request)


class TrainResults(RunResults):
    """``refitting``: how the head was fitted that training began with; null where none was."""

    refitting: Refitting | None = None


AnyTraining = TrainResults | RepeatedResults
"""The results of one run, or of several with different seeds."""


class _Train(LearnerTraining[TrainResults]):
    command = "train"
    results = TrainResults

    def __init__(
        self, overrides: Mapping[str, Any], recipe: str | None, options: Mapping[str, str], transfer: Transfer
    ) -> None:
        self._overrides, self._recipe, self._options, self._transfer = overrides, recipe, options, transfer

    @override
    def configure(self, inputs: Inputs) -> tuple[Inputs, Settings, Mapping[str, Any]]:
        def check(entry: ModelEntry) -> None:
            if "gate" in entry.chosen:
                raise InputError("This network has gates, which 'decompose train-gate' trains.")

        return configure(inputs, self._overrides, self._recipe, self._options, self._transfer, check)

    @override
    def own_options(self, config: Mapping[str, Any]) -> dict[str, Any]:
        names = ("new_head", "only", "refit", "l2")
        given = {name: config[name] for name in names if config[name] not in (None, False, "all")}
        return {**super().own_options(config), **given}

    @override
    def job(self, session: Session, settings: Settings) -> Job:
        self._refitting: Refitting | None = None
        command = shown_command(session.config, settings.seed, self.own_options(session.config))
        inputs = dataclasses.replace(session.inputs, seed=settings.seed)

        def fit(images: Tensor) -> NewHead:
            def work() -> tuple[NewHead, Refitting]:
                train, measured = (
                    Study(inputs, splits, self.learner.classifier) for splits in (("train",), ("test", "val", "train"))
                )
                return fitted_new_head(measured, train, session.config["l2"], images)

            new, self._refitting = on_first(session.fabric, work)
            return new

        return make_job(session.config, self.learner, settings, command, fit if session.config["refit"] else None)

    @override
    def finish(
        self, session: Session, folder: RunFolder, settings: Settings, trained: Finished, files: Files
    ) -> TrainResults:
        return TrainResults(**dict(trained[0]), refitting=self._refitting)
