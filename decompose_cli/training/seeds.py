"""The same training with several seeds, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from decompose_cli.errors import InputError
from decompose_cli.messages import note
from decompose_cli.processes.team import on_first
from decompose_cli.storage.text_files import read_result
from decompose_cli.training.outcome import RunResults
from decompose_cli.training.run_folder import RunFolder
from decompose_cli.training.session import Session
from decompose_cli.training.settings import Settings

Results = TypeVar("Results", bound=RunResults)


def repeated(
    session: Session, train: Callable[[RunFolder, Settings], Results], kind: type[Results], write: Callable[..., None]
) -> list[Results]:
    """Train once, or once for each of several seeds in a folder of its own; runs that are finished are read.

    Args:
        session: The run as a whole.
        train: Trains with one seed.
        kind: Type of the results that ``train`` returns.
        write: Writes the result of one seed of several into its folder.
    """
    runs = session.config["runs"]
    if runs == 1:
        return [train(session.folder, session.settings)]
    seeds = [session.settings.model_copy(update={"seed": session.settings.seed + number}) for number in range(runs)]
    folders = [RunFolder(session.folder.path / f"seed-{settings.seed}") for settings in seeds]
    # Read before anything is trained: a result that is damaged is not found after hours.
    known = [
        _read_results(folder.result, kind) if session.is_begun and folder.is_finished else None for folder in folders
    ]
    finished = []
    for number, (settings, folder, results) in enumerate(zip(seeds, folders, known, strict=True), 1):
        note(f"Run {number} of {runs}, seed {settings.seed}: {folder.path}")
        if results is None:
            results = train(folder, settings)
            on_first(session.fabric, partial(write, folder.result, results))
        finished.append(results)
    return finished


def _read_results(path: Path, kind: type[Results]) -> Results:
    content = read_result(path)
    try:
        results = kind.model_validate(content["results"])
    except (ValidationError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not the result of a run.", hint="Remove it to train with this seed again."
        ) from error
    # The folder may have been moved since.
    results.checkpoints = {name: str(path.parent / Path(file).name) for name, file in results.checkpoints.items()}
    return results
