"""How parameters are written on the command line."""

from __future__ import annotations

from decompose_cli.errors import shown

# Parameters whose flag is not their name with hyphens.
_OTHERS = {
    "gamma": "--lr-multiplier",
    "k": "-k",
    "indices": "-i",
    "penalty": "--lambda",
}


def flag(parameter: str) -> str:
    """The flag of a parameter, as in ``--batch-size`` for ``batch_size``."""
    return _OTHERS.get(parameter, f"--{parameter.replace('_', '-')}")


def with_flags(sentence: str) -> str:
    """The sentence with its parameters as flags; see :func:`decompose_cli.errors.param`."""
    return shown(sentence, flag)
