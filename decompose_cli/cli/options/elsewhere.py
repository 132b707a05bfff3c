"""Options that come from elsewhere than the command line: ``--config``, and variables of the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

from decompose_cli.cli.options.declaration import COMPUTING, Declared, option
from decompose_cli.cli.options.inputs import INPUTS

CONFIG: tuple[Any, Any] = (
    Annotated[
        Optional[Path],
        option(
            "--config",
            metavar="FILE",
            panel=COMPUTING,
            help="Take options from a .toml or .json file, or from a result or run of this command, which is then repeated. What is typed comes first.",
        ),
    ],
    None,
)
_WITHOUT = {"model", "data_dir", "gpu"}
"""MODEL may be code; the folder of data sets has a variable of its own, $DECOMPOSE_DATA; --gpu is short for --device."""
_MEAN_OTHERWISE_IN_TRAINING = {"batch_size", "precision"}

VARIABLES = {name: f"DECOMPOSE_{name.upper()}" for name in (*INPUTS.options, "quiet", "debug") if name not in _WITHOUT}
"""The variables, by name of the option."""


def variable_of(name: str, declared: Declared) -> str | None:
    """The variable for an option of a command; None where there is none, or where the option means something else."""
    is_other = name in _MEAN_OTHERWISE_IN_TRAINING and declared[0] is not INPUTS.options[name][0]
    return None if is_other else VARIABLES.get(name)
