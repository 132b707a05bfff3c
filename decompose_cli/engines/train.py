"""``train``: a network from scratch, or from given weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.storage.result_document import ResultDocument
from decompose_cli.training.outcome import RepeatedResults, RunResults
from decompose_cli.training.run_folder import RunFolder
from decompose_cli.training.runner import Files, Finished, LearnerTraining, run_training
from decompose_cli.training.session import Request, Session
from decompose_cli.training.settings import Settings
from decompose_cli.training.setup import configure

AnyTraining = RunResults | RepeatedResults
"""The results of one run, or of several with different seeds."""


def train(
    request: Request, *, recipe: str | None = None, model_options: Mapping[str, str] | None = None
) -> ResultDocument[Any]:
    """Train a network; its checkpoints, logs and result are in the run folder.

    Args:
        request: The network, the images, how it is trained, and where the run is kept.
        recipe: Preset of the settings; by default the one that suits network and images.
        model_options: Options of the network, such as its shortcuts.

    Returns:
        A document with :class:`RunResults`, or :class:`RepeatedResults` where several runs were asked for.

    Raises:
        InputError: Something given cannot be used; nothing has been changed.
        StoppedError: A signal came; the run can be resumed.
        DecomposeError: The work failed; the last checkpoint is still there.
    """
    options = dict(model_options or {})
    choices: dict[str, Any] = {} if recipe is None else {"recipe": recipe}
    request = dataclasses.replace(request, choices={**choices, **options, **request.choices})
    return run_training(_Train(request.overrides, recipe, options), request)


class _Train(LearnerTraining[RunResults]):
    command = "train"
    results = RunResults

    def __init__(self, overrides: Mapping[str, Any], recipe: str | None, options: Mapping[str, str]) -> None:
        self._overrides, self._recipe, self._options = overrides, recipe, options

    @override
    def configure(self, inputs: Inputs) -> tuple[Inputs, Settings, Mapping[str, Any]]:
        inputs, settings, choices = configure(inputs, self._overrides, self._recipe, self._options)
        if "gate" in (choices["model_options"] or {}):
            raise InputError("This network has gates, which 'decompose train-gate' trains.")
        return inputs, settings, choices

    @override
    def finish(
        self, session: Session, folder: RunFolder, settings: Settings, trained: Finished, files: Files
    ) -> RunResults:
        return trained[0]
