"""The fuzzer sees what is wrong, whatever it is; otherwise two thousand cases without findings would say nothing."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent.parent)
sys.path.insert(0, HERE)
from fuzz import running  # noqa: E402
from fuzz.case import Case, state_of  # noqa: E402
from fuzz.cases import Cases  # noqa: E402
from fuzz.judging import Said, judged  # noqa: E402
from fuzz.running import Runner  # noqa: E402

sys.path.remove(HERE)

FINE = Said(0, "", "12 images\n")
ERROR = "Error: The file x.json is damaged.\n"
SENTENCES: list[tuple[str, Said, str | None]] = [
    ("", FINE, None),
    ("-q", Said(0, "", ""), None),
    ("--json", Said(0, '{"a": [1.5, null]}\n', "12 images\n"), None),
    ("", Said(2, "", ERROR), None),
    ("", Said(1, "", f"12 images\nWarning: Odd.\n{ERROR}Hint: Make it anew.\n"), None),
    ("", Said(0, "", "cat\u00a0dog\n"), None),
    ("--help", Said(0, "Usage: decompose\n", ""), None),
    ("", Said(3, "", ERROR), "code"),
    ("", Said(-11, "", ""), "code"),
    ("", Said(1, "", "Traceback (most recent call last):\nValueError: x\n"), "traceback"),
    ("", Said(1, "", "Error: Something unforeseen went wrong: KeyError: 3.\n"), "unforeseen"),
    ("", Said(0, "", "/lib/x.py:12: UserWarning: odd\n"), "python"),
    ("", Said(0, "", "Exception ignored in: <function>\n"), "python"),
    ("", Said(0, "", "cat \x1b[2J\n"), "printable"),
    ("", Said(0, "", "cat \u202edog\n"), "printable"),
    ("", Said(0, "", "x" * 5000), "long"),
    ("", Said(2, "", ""), "sentence"),
    ("", Said(2, "", ERROR + ERROR), "sentence"),
    ("", Said(2, "", f"{ERROR}Hint: Do.\nHint: Do not.\n"), "sentence"),
    ("", Said(2, "", "Error: 3\n"), "sentence"),
    ("", Said(0, "", "\n"), "silent"),
    ("", Said(0, "loose", "12 images\n"), "stdout"),
    ("--json", Said(2, "{}", ERROR), "stdout"),
    ("--json", Said(0, '{"a": NaN}', "12 images\n"), "json"),
    ("--json", Said(0, "{} {}", "12 images\n"), "json"),
    ("--json", Said(0, "", "12 images\n"), "json"),
]


@pytest.mark.parametrize(("option", "said", "kind"), SENTENCES)
def test_what_a_command_may_say(tmp_path: Path, option: str, said: Said, kind: str | None) -> None:
    case = Case(0, "bits", "x", ["validate", *([option] if option else [])])
    found = [finding.partition(":")[0] for finding in judged(case, said, tmp_path, state_of(tmp_path))]
    assert (kind in found) if kind else not found


def left(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"new")


LEFT: list[tuple[int, str, str | None]] = [
    (0, "work/result.json", None),
    (0, "cache/features/x.bank/header.json", None),
    (2, "cache/features/x.bank/header.json", None),
    (2, "work/result.json", "outputs"),
    (1, "work/results/x", "outputs"),
    (0, "work/.decompose-ab-1-2-xy.tmp", "left"),
    (0, "cache/features/x.lock.tmp", "left"),
    (0, "work/run/.lock", "left"),
    (0, "tmp/something", "left"),
    (0, "in/x.json", "inputs"),
    (0, "in/new", "inputs"),
]


@pytest.mark.parametrize(("code", "name", "kind"), LEFT)
def test_what_a_command_may_leave(tmp_path: Path, code: int, name: str, kind: str | None) -> None:
    case = Case(0, "bits", "x", ["validate"], {"in/x.json": b"{}"})
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    folder = tmp_path / "case"
    case.fill(folder, seeds)
    before = state_of(folder)
    left(folder, name)
    said = Said(code, "", ERROR if code else "12 images\n")
    assert [finding.partition(":")[0] for finding in judged(case, said, folder, before)] == ([kind] if kind else [])


class FewCases(Cases):
    """Cases that all are the same but for their numbers."""

    def of(self, seed: int) -> Case:
        return Case(seed, "bits", "x", [str(seed)], {"in/x": b"x"})


Acts = dict[int, Callable[[], object]]


def outcomes(acts: Acts, folder: Path, monkeypatch: pytest.MonkeyPatch, together: int) -> list[list[str]]:
    """The kinds of findings of cases that do such things instead of calling the program."""

    def spoken(arguments: list[str], _: Path, __: str) -> Said:
        acts[int(arguments[0])]()
        return FINE

    monkeypatch.setattr(running, "spoken", spoken)
    monkeypatch.setattr(running, "SECONDS", 1.0)
    monkeypatch.setattr(running, "BYTES", 200 << 20)
    (folder / "seeds" / "cache").mkdir(parents=True)
    (folder / "cases").mkdir()
    runner = Runner(FewCases(folder / "seeds"), folder / "cases", together)
    return [[finding.partition(":")[0] for finding in one.findings] for one in runner.run(sorted(acts))]


def hold(size: int) -> None:
    kept = bytearray(b"x") * size
    time.sleep(0.3)
    del kept


@pytest.mark.parametrize("together", [1, 3, 10])
def test_what_a_command_may_take(together: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acts: Acts = {
        0: lambda: None,
        1: lambda: time.sleep(30),
        2: lambda: hold(50 << 20),
        3: lambda: hold(400 << 20),
        4: lambda: os.kill(os.getpid(), signal.SIGKILL),
        5: lambda: os._exit(0),
        6: lambda: None,
    }
    assert outcomes(acts, tmp_path, monkeypatch, together) == [[], ["hang"], [], ["memory"], ["died"], ["died"], []]


def test_what_goes_wrong_only_after_other_cases_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def second() -> None:
        if seen:
            os._exit(1)

    assert outcomes({0: lambda: seen.append(0), 1: second, 2: lambda: None}, tmp_path, monkeypatch, 3) == [
        [],
        ["together"],
        [],
    ]
