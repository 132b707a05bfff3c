"""What a command may say and leave, whatever it was given."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from fuzz.case import INPUTS, TEMPORARY, WORK, Case, State, state_of

CODES = (0, 1, 2, 130)
_LEFT = re.compile(r"\.decompose-.*|\.lock|.*\.(tmp|part|incomplete)|\.unpacking-.*")
_BOX = "╭─ Error"
_DRAWN = re.compile(r"\x1b\[\??[0-9;]*[A-Za-z]|\r")  # where a terminal is feigned
_OF_PYTHON = re.compile(r"^\S+\.py:\d+: \w*Warning: |^Exception ignored|^Fatal Python error", re.MULTILINE)
_JOINERS = "\u200c\u200d\u00ad"
_OF_CACHE = re.compile(r"/features\b|/fingerprints\b|/decompose\b|/\.cache$|/work/[^/]+$")
_LONGEST = 4_000


@dataclass(frozen=True)
class Said:
    """How a command came to its end."""

    code: int
    stdout: str
    stderr: str


def judged(case: Case, said: Said, folder: Path, before: State) -> list[str]:
    """What is wrong, each with the word that tells its kind first.

    Args:
        case: The case.
        said: How it ended.
        folder: Of the case.
        before: The state of the folder before the command.
    """
    return [*_of_words(case, said), *_of_stdout(case, said), *_of_files(case, said, folder, before)]


def _of_words(case: Case, said: Said) -> list[str]:
    text = _DRAWN.sub("", said.stderr) if "FORCE_COLOR" in case.environment else said.stderr
    found = []
    if said.code not in CODES:
        found.append(f"code: the exit code is {said.code}")
    if "Traceback" in said.stderr + said.stdout:
        found.append(f"traceback: {_last_line(said.stderr)}")
    if "unforeseen" in said.stderr:
        found.append(f"unforeseen: {_line_with(said.stderr, 'unforeseen')}")
    if match := _OF_PYTHON.search(text):
        found.append(f"python: {_line_with(text, match[0].strip())}")
    odd = {letter for line in text.split("\n") for letter in line if not _can_be_seen(letter)}
    if odd:
        found.append(f"printable: {sorted(map(ascii, odd))} in {next(_lines_with(text, odd))!r}"[:400])
    if any(len(line) > _LONGEST for line in text.splitlines()):
        found.append("long: a line of more than 4,000 letters")
    if _is_other_process(case):
        return found
    if said.code in (1, 2) and case.arguments:
        found += _of_error(text)
    if not said.stderr.strip() and not said.stdout.strip() and not {"-q", "--quiet"} & {*case.arguments}:
        found.append("silent: nothing was said")
    return found


def _can_be_seen(letter: str) -> bool:
    return letter.isprintable() or letter in _JOINERS or unicodedata.category(letter) == "Zs"


def _is_other_process(case: Case) -> bool:
    """Whether this is one of several processes, of which the first alone talks."""
    ranks = (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))
    return any(0 < _whole(case, rank, 0) < _whole(case, count, 1 << 99) for rank, count in ranks)


def _whole(case: Case, name: str, usual: int) -> int:
    try:
        return int(case.environment.get(name) or usual)
    except ValueError:
        return 0


def _of_error(text: str) -> list[str]:
    """A failure is one sentence, with at most a hint after it."""
    lines = text.splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
    if _BOX in text:
        return ["sentence: the parser has drawn its box, where commands say a sentence"]
    if text.lstrip().startswith("Usage:") or any("Usage:" in line for line in lines[:3]):
        return []
    if len(errors) != 1:
        return [f"sentence: {len(errors)} lines begin with 'Error:': {text[-300:]!r}"]
    sentence, rest = lines[errors[0]].removeprefix("Error: "), lines[errors[0] + 1 :]
    if rest and not (len(rest) == 1 and rest[0].startswith("Hint: ")):
        return [f"sentence: more than a hint follows: {rest!r}"[:400]]
    if not re.search(r"[.?!)\"']$", sentence) or len(sentence) < 10:
        return [f"sentence: this is none: {sentence!r}"[:400]]
    return []


def _of_stdout(case: Case, said: Said) -> list[str]:
    if (
        any(word in case.arguments for word in ("--help", "-h", "--version"))
        or not case.arguments
        or _is_other_process(case)
    ):
        return []
    if said.code != 0:
        return [f"stdout: a failure printed {said.stdout[:100]!r}"] if said.stdout else []
    if "--json" not in case.arguments:
        return [f"stdout: {said.stdout[:100]!r}"] if said.stdout else []
    try:
        json.loads(said.stdout, parse_constant=_refuse)
    except ValueError as error:
        return [f"json: {error}: {said.stdout[:100]!r}"]
    return []


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _of_files(case: Case, said: Said, folder: Path, before: State) -> list[str]:
    after = state_of(folder)
    found = []
    mine = {path: state for path, state in before.items() if f"{folder}/{INPUTS}" in path}
    changed = [path for path, state in mine.items() if after.get(path) != state]
    changed += [path for path in after if path.startswith(f"{folder}/{INPUTS}/") and path not in before]
    if changed:
        found.append(f"inputs: {sorted(changed)} changed"[:400])
    new = [path for path in after if path not in before]
    left = [path for path in new if _LEFT.fullmatch(path.rpartition("/")[2])]
    left += [path for path in new if path.startswith(f"{folder}/{TEMPORARY}/")]
    if left:
        found.append(f"left: {sorted(set(left))}"[:400])
    outputs = [path for path in new if path.startswith(f"{folder}/{WORK}/") and path not in left]
    if {"DECOMPOSE_CACHE", "XDG_CACHE_HOME", "HOME"} & case.environment.keys():
        outputs = [path for path in outputs if not _OF_CACHE.search(path)]
    if said.code != 0 and outputs and not _is_run(case, outputs):
        found.append(f"outputs: {sorted(outputs)} after a failure"[:400])
    return found


def _is_run(case: Case, outputs: list[str]) -> bool:
    """Whether a training has failed that had begun: its run stays, to be gone on with."""
    is_training = case.arguments[:1] in (["train"], ["train-gate"], ["finetune"])
    return is_training and ("--resume" in case.arguments or any(path.endswith("/config.json") for path in outputs))


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _line_with(text: str, part: str) -> str:
    return next((line for line in text.splitlines() if part in line), part)[:300]


def _lines_with(text: str, letters: set[str]) -> filter[str]:
    return filter(lambda line: any(letter in letters for letter in line), text.split("\n"))
