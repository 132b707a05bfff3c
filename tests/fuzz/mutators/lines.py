"""Option lines: every option of every command, as Typer has them, with values that it takes and that it does not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any

from helpers.command_line import COMMANDS

from fuzz.mutators.values import FLOATS, INTEGERS, TEXTS
from fuzz.readers import IMAGES, NET, SEEDS, SMALL

_FEW = {
    **dict.fromkeys(("train", "train-gate", "finetune", "lr-find", "sweep"), 0.1),
    **dict.fromkeys(("explain", "filters", "atlas", "export"), 0.2),
    "report": 0.2,
    "models": 0.05,
    "demo": 0.01,
}
"""How often a command is taken that takes longer, compared to others."""
_TRAINING = (*IMAGES, *SMALL, "-b", "4", "--lr", "0.05", "--epochs", "1")
_BASES: dict[str, tuple[tuple[str, ...], ...]] = {
    "validate": (NET, (*NET, "-i", f"{SEEDS}/published.json")),
    "extract-indices": ((*NET, "-k", "2", "--method", "weight"),),
    "sweep": ((*NET, "--ks", "1", "--methods", "weight"),),
    "sparsify": (("--features", f"{SEEDS}/features.npz", "-k", "2"),),
    "essential": ((*NET, "--repeats", "1", "--controls", "1"),),
    "mutual-info": (("-i", f"{SEEDS}/published.json"), ("-i", f"a={SEEDS}/document.json")),
    "compare": (
        (f"{SEEDS}/published.json", f"{SEEDS}/document.json"),
        (f"a={SEEDS}/document.json", f"{SEEDS}/sparse-net", "--model", *NET),
    ),
    "selectivity": ((*NET, "--layers", "relu"),),
    "finetune": ((*NET[:3], *_TRAINING),),
    "export": ((*NET[:3], "--input-size", "8"),),
    "train": (("networks:net", *_TRAINING),),
    "train-gate": (("networks:net", *_TRAINING),),
    "lr-find": (("networks:net", *IMAGES, *SMALL, "--set", "batch_size=4", "--steps", "3"),),
    "explain": ((*NET, "--indices-of", "0"),),
    "filters": ((*NET, "--class", "1", "--images", "1"),),
    "atlas": ((*NET, "-k", "1", "--images", "1"),),
    "report": ((f"{SEEDS}/results/validate.json",), (f"{SEEDS}/run", "-o", "x.html")),
    "demo": ((*NET,),),
    "models": ((),),
    "layers": (("networks:net", "--input-size", "8"),),
    "datasets": ((),),
    "cache": ((),),
}
"""What a command is given before: enough for it to do its work in no time."""
_LONG = ("--epochs", "--iterations", "--runs", "--start-epoch", "--devices", "--num-nodes")
"""Options with which a command may take as long as it is told to: only values that it refuses, or small ones."""
_LEFT_OUT = ("debug", "compile", "open_page", "export")
"""A traceback that is asked for, what calls a compiler, a browser."""
MINE = "mine"
"""Copies of the seeds, in the working directory; options may write to what they name."""
_FILES = (
    f"{MINE}/published.json",
    f"{MINE}/state.pt",
    f"{MINE}/features.npz",
    f"{MINE}/images",
    f"{MINE}/run",
    f"{MINE}/map.json",
    f"{MINE}/images/test/cat/0.png",
    "missing/x",
    "new.json",
    "new",
    ".",
)
_LINE = ("--help", "-h", "--version", "--", "-", "", "--json", "-q", "--debug-not", "--no-such", "-x")


def copied(arguments: Sequence[str]) -> list[str]:
    """The seeds, by path, that some arguments name as copies."""
    names = [file.removeprefix(f"{MINE}/") for file in _FILES if file.startswith(f"{MINE}/")]
    return [name for name in names if any(f"{MINE}/{name}" in argument for argument in arguments)]


@cache
def _options() -> dict[str, list[Any]]:
    return {name: [one for one in command.params if one.name != "help"] for name, command in COMMANDS.items()}


def line(random: Random) -> list[str]:
    """A command with some options, of which a few are wrong, contradict each other, or come twice."""
    names = list(_options())
    name = random.choices(names, [_FEW.get(one, 1.0) for one in names])[0]
    base = list(random.choice(_BASES[name]))
    if random.random() < 0.03:
        return random.choice(
            ([], [name[:-1]], [random.choice(TEXTS)], [*base, name], ["--help", name], [name, "--help"])
        )
    options = [one for one in _options()[name] if one.name not in _LEFT_OUT]
    for _ in range(random.choice((1, 1, 2, 3, 5))):
        option = random.choice(options)
        base += _given(random, option)
    if random.random() < 0.1:
        base.insert(random.randint(0, len(base)), random.choice((*_LINE, *TEXTS)))
    if random.random() < 0.3:
        base += ["-q"]
    return [name, *base]


def _given(random: Random, option: Any) -> list[str]:
    """An option with a value, or without, or twice."""
    if option.param_type_name == "argument":
        return [_value(random, option)]
    flag = random.choice([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return [flag] * random.choice((1, 1, 1, 2))
    given = [flag, _value(random, option)]
    kind = random.randrange(12)
    if kind == 0:
        return given[:1]
    if kind == 1:
        return [*given, flag, _value(random, option)]
    if kind == 2 and flag.startswith("--"):
        return ["=".join(given)]
    return given


def _value(random: Random, option: Any) -> str:
    kind = random.randrange(10)
    if set(option.opts) & set(_LONG):
        return random.choice(("0", "-1", "1", "1", "x", "nan", "1e9", "", "1.5", "\0", "9" * 400))
    if kind < 2:
        return random.choice(TEXTS)
    if kind < 4:
        return str(random.choice(INTEGERS if random.random() < 0.7 else FLOATS))
    if kind == 4:
        return random.choice(_FILES)
    if kind == 5:
        return _list(random)
    shown = str(option.metavar or "")
    if "|" in shown and kind < 9:
        return random.choice(shown.split("|"))
    if any(word in shown for word in ("FILE", "PATH", "DIR", "RUN", "WEIGHTS", "CHECKPOINT")):
        return random.choice(_FILES)
    return random.choice(("1", "2", "0", "0.5", "a=b", "1,2", "8", "0.1,0.2,0.3", "none", "all", "default", "random"))


def _list(random: Random) -> str:
    """A list, a range, or a pair of something."""
    parts = [str(random.choice((*INTEGERS[:8], *FLOATS[:6], *TEXTS[:10]))) for _ in range(random.choice((1, 2, 3, 4)))]
    return random.choice((",", "-", "x", "=", ":", " ")).join(parts)[:1000]
