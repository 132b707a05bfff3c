"""What the commands that train share: the request, the name of the run, the weights of ``--evaluate``."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decompose_cli.cli.flags import flag
from decompose_cli.cli.options.training import SHARED, Tuning
from decompose_cli.cli.output import RunOutput, present
from decompose_cli.errors import InputError, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.messages import warn_no_effect
from decompose_cli.storage.files import file_stem
from decompose_cli.storage.names import LAST

if TYPE_CHECKING:
    from decompose_cli.storage.result_document import ResultDocument
    from decompose_cli.training.session import Request


def make_request(inputs: Inputs, out: RunOutput, tuning: Tuning, command: str) -> Request:
    """The request that the options of a command that trains make."""
    from decompose_cli.processes.cluster import Machines
    from decompose_cli.training.export import check_export
    from decompose_cli.training.session import Request

    if tuning.run_name is not None and (out.path or tuning.resume) is not None:
        raise InputError(
            f"{param('run_name')} names a folder in runs/; with {param('output')} or {param('resume')} there is a "
            "folder already."
        )
    if tuning.run_name is not None and (tuning.run_name in ("", ".", "..") or {"/", os.sep} & {*tuning.run_name}):
        raise InputError(
            f"{param('run_name')} {tuning.run_name!r} is not the name of a folder.",
            hint=f"For a folder elsewhere than in runs/, give its path with {param('output')}.",
        )
    if out.overwrite and tuning.resume is not None:
        raise InputError(
            f"{param('overwrite')} would remove the run that {param('resume')} goes on with; leave one of them out."
        )
    return Request(
        inputs=inputs,
        overrides=tuning.overrides,
        folder=out.path,
        names=partial(_names, command, tuning.run_name),
        resume=tuning.resume,
        overwrite=out.overwrite,
        machines=Machines(**tuning.machines),
        runs=tuning.runs,
        final_test=tuning.final_test,
        checkpoint_every=tuning.checkpoint_every,
        print_freq=tuning.print_freq,
        export=[check_export(kind) for kind in tuning.export],
    )


def _names(command: str, run_name: str | None, model: str, dataset: str) -> Iterator[Path]:
    """``runs/<run-name>``, then the same with -2, -3, ..., to be tried until a name is free."""
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    usual = "-".join([command, file_stem(model), file_stem(dataset), stamp])
    name = file_stem(run_name) if run_name else usual
    yield Path("runs") / name
    for number in itertools.count(2):
        yield Path("runs") / f"{name}-{number}"


def finish_run(out: RunOutput, document: ResultDocument[Any], show: Callable[[], None]) -> None:
    """Show what came of a run; the files of the run are in its folder already."""
    present(out, document, show)


def weights_to_evaluate(
    inputs: Inputs, tuning: Tuning, more: Sequence[str], sources: Sequence[str] = ("weights", "pretrained")
) -> Inputs:
    """The inputs of ``--evaluate``, with the weights that are to be measured.

    Args:
        inputs: Network and images, as given.
        tuning: The options of training, as given.
        more: Names of further options that were given and mean nothing with ``--evaluate``.
        sources: The options, beside ``--resume``, that say which weights.

    Raises:
        InputError: An option means nothing with ``--evaluate``, or the weights are not said, or said twice.
    """
    given = (set(tuning.overrides) | tuning.of_the_run()) - {"batch_size", "seed"}
    if useless := sorted(given - SHARED) + list(more):
        raise InputError(f"{param('evaluate')} trains nothing: leave out {', '.join(map(param, useless))}.")
    if idle := sorted(given & SHARED):
        warn_no_effect(idle, f"with {param('evaluate')}, which trains nothing and measures in float32")
    if tuning.resume is not None:
        if inputs.weights is not None:
            raise InputError(
                f"With {param('evaluate')}, {param('resume')} and {param('weights')} both say which weights; give one "
                "of them."
            )
        checkpoint = tuning.resume / LAST if tuning.resume.is_dir() else tuning.resume
        if not checkpoint.is_file():
            raise InputError(
                f"There is no checkpoint {checkpoint}.",
                hint=f"{param('resume')} takes the folder of a run, or of one seed of several, or a checkpoint.",
            )
        inputs = dataclasses.replace(inputs, weights=str(checkpoint))
    if inputs.weights is None:
        ways = f"{', '.join(map(flag, sources))} or {flag('resume')} RUN"
        raise InputError(f"{param('evaluate')} needs a network that has been trained: {ways}.")
    inputs = dataclasses.replace(inputs, **tuning.machines)
    known = {name: tuning.overrides[name] for name in ("batch_size", "seed") if name in tuning.overrides}
    return dataclasses.replace(inputs, **known)
