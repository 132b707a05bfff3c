"""The normalisation of a network as plain data, without torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from decompose_cli.errors import InputError, one_of, param
from decompose_cli.messages import warn_no_effect
from decompose_cli.printable import shortest

NormMode = Literal["batch", "group", "layer", "instance", "online", "none"]
NORM_MODES: tuple[NormMode, ...] = get_args(NormMode)
ErrorCompensation = Literal["ac", "ls", "none"]
COMPENSATIONS: tuple[ErrorCompensation, ...] = get_args(ErrorCompensation)

_OPTIONS_OF: dict[str, tuple[str, ...]] = {"group": ("gn_num_groups",), "online": ("afwd", "abkw", "ecm")}
NORM_OPTIONS = ("norm_mode", *(name for names in _OPTIONS_OF.values() for name in names))
"""Names of the options of every network that choose its normalisation."""


@dataclass(frozen=True)
class Norm:
    """The normalisation of a network.

    Attributes:
        mode: ``batch``, ``group``, ``layer`` (over channels and positions, each with a weight and a bias of its own),
            ``instance`` (with weight and bias), ``online`` or ``none``.
        num_groups: Number of groups of ``group``.
        alpha_fwd: Decay of mean and variance per sample of ``online``.
        alpha_bkw: Decay of the control process per sample of ``online``.
        ecm: Error compensation of ``online``: ``ac``, ``ls`` or ``none``.

    Raises:
        InputError: A value is unknown or out of range.
    """

    mode: NormMode = "batch"
    num_groups: int = 8
    alpha_fwd: float = 0.999
    alpha_bkw: float = 0.99
    ecm: ErrorCompensation = "ac"

    def __post_init__(self) -> None:
        one_of(self.mode, NORM_MODES, "norm_mode")
        one_of(self.ecm, COMPENSATIONS, "ecm")
        for name, value in (("afwd", self.alpha_fwd), ("abkw", self.alpha_bkw)):
            if not 0 < value < 1:
                raise InputError(f"{param(name)} {shortest(value)} is not between 0 and 1.")
        if self.num_groups < 1:
            raise InputError(f"{param('gn_num_groups')} {self.num_groups} is not at least 1.")

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> Norm:
        """Read the normalisation from options; those that are not given or of another mode are at their defaults.

        Raises:
            InputError: A value is unknown, not a number or out of range.
        """
        mode = one_of(options.get("norm_mode", "batch"), NORM_MODES, "norm_mode")
        plain = cls(mode)
        read = cls(
            mode,
            int(_number(options, "gn_num_groups", plain.num_groups, whole=True)),
            _number(options, "afwd", plain.alpha_fwd),
            _number(options, "abkw", plain.alpha_bkw),
            one_of(options.get("ecm", plain.ecm), COMPENSATIONS, "ecm"),
        )
        owners = {name: owner for owner, names in _OPTIONS_OF.items() for name in names}
        idle = [name for name in owners if name in options and owners[name] != mode]
        for name in idle:
            warn_no_effect([name], f"with {_described(mode)}; it is of {param('norm_mode')} {owners[name]}")
        return cls.parse({name: value for name, value in options.items() if name not in idle}) if idle else read

    def options(self) -> dict[str, str]:
        """The options that choose it, of its mode only; none for batch norm, which networks have by themselves."""
        values = {
            "gn_num_groups": self.num_groups,
            "afwd": self.alpha_fwd,
            "abkw": self.alpha_bkw,
            "ecm": self.ecm,
        }
        own = {name: str(values[name]) for name in _OPTIONS_OF.get(self.mode, ())}
        return {} if self.mode == "batch" else {"norm_mode": self.mode, **own}


def shown_norm(names: Collection[str]) -> dict[str, str]:
    """The options that the names in a state dict show: online normalisation has state that no other has.

    The weights do not say which error compensation was used; the published command line says ``ls``.
    """
    return {"norm_mode": "online", "ecm": "ls"} if any(name.endswith(".norm.m") for name in names) else {}


def _described(mode: NormMode) -> str:
    return "no normalisation" if mode == "none" else f"{mode} norm"


def read_decay(text: str, parameter: str) -> str:
    """Read a number such as ``0.999`` or ``1023/1024``; return it as text that says it exactly.

    Raises:
        InputError: The text is no such number.
    """
    try:
        return str(float(Fraction(text)) if "/" in text else float(text))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"{param(parameter)} {text!r} is not a number such as 0.999 or 1023/1024.") from error


def _number(options: Mapping[str, str], name: str, default: float, *, whole: bool = False) -> float:
    if name not in options:
        return default
    try:
        return int(options[name]) if whole else float(options[name])
    except ValueError as error:
        raise InputError(f"{param(name)} {options[name]!r} is not a number.") from error
