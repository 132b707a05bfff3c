"""The configuration of a run, by which its folder is known."""

from __future__ import annotations

from pathlib import Path

from decompose_cli.errors import InputError, param
from decompose_cli.storage.names import CONFIG, RESULT
from decompose_cli.storage.text_files import read_json


def has_configuration(folder: Path) -> bool:
    """Whether a folder has the configuration of a run, of whatever version."""
    try:
        content = read_json(folder / CONFIG, "The configuration of the run")
    except InputError:
        return False
    return isinstance(content, dict) and {"command", "recipe", "settings"} <= content.keys()


def unfinished(folder: Path) -> InputError | None:
    """Why the folder of a run that has not come to its end cannot be used; None for other folders."""
    if (folder / RESULT).is_file() or not has_configuration(folder):
        return None
    return InputError(f"The run in {folder} is not finished.", hint=f"Go on with {param('resume')} {folder}.")
