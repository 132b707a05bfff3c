"""Many cases: the command line of the fuzzer, its table, and what it keeps."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from fuzz.case import state_of
from fuzz.cases import Cases
from fuzz.every_value import EveryValue
from fuzz.running import Outcome, Runner, import_all, warmed
from fuzz.seeds import make_seeds

_KEPT = Path(tempfile.gettempdir()) / "decompose-fuzz"


def main() -> int:
    """Run what the command line asks for; 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=50_000, help="cases")
    parser.add_argument("--seed", type=int, default=0, help="of the first case; each has the next number")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--together", type=int, default=20, help="cases that a copy of the process runs in turn")
    parser.add_argument(
        "--every",
        type=_positive,
        metavar="N",
        help="change every N-th value of all documents instead",
    )
    parser.add_argument("--case", type=int, action="append", help="run this case alone; repeatable")
    parser.add_argument("--keep", type=Path, default=_KEPT, help="folder for the inputs of cases with findings")
    parser.add_argument(
        "--serve", type=Path, metavar="SEEDS", help="run ranges of cases that stdin names (for the tests)"
    )
    asked = parser.parse_args()
    import_all()
    if asked.serve:
        return _served(asked.serve, asked.together)
    asked.keep.mkdir(parents=True, exist_ok=True)
    with _folder() as root:
        seeds = root / "seeds"
        in_copy(lambda: make_seeds(seeds))
        cases, whole = _ready(seeds, every=asked.every is not None), state_of(seeds)
        if asked.case:
            outcomes = list(Runner(cases, _new(root / "alone")).run(asked.case))
            for outcome in outcomes:
                print(described(outcome, cases))
                print(f"    exit code {outcome.code}, {outcome.seconds:.2f} s; it said:\n{outcome.said}")
        else:
            numbers = range(asked.seed, asked.seed + asked.count)
            if isinstance(cases, EveryValue):
                numbers = range(asked.seed, cases.count, asked.every)
            print(f"{len(numbers):,} cases from seed {asked.seed} on, {asked.jobs} processes", flush=True)
            outcomes = list(_shared(cases, numbers, asked.jobs, asked.together, root))
            print(table(outcomes))
            print(f"{sum(os.times()[:4]):.0f} s of processor time, of all processes")
        found = [outcome for outcome in outcomes if outcome.findings]
        if found:
            kept(root, found, asked.keep)
            print(f"{len(found)} of {len(outcomes):,} cases have findings; their inputs are in {asked.keep}")
        if changed := {path for path, state in state_of(seeds).items() if whole.get(path) != state}:
            print(f"The seeds have been changed, so later cases were others: {sorted(changed)}")
    return 1 if found or changed else 0


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _shared(cases: Cases, numbers: range, jobs: int, together: int, root: Path) -> Iterator[Outcome]:
    """The outcomes of all cases, each of several processes with its part of them; findings are shown at once."""
    files = [root / f"outcomes-{job}" for job in range(jobs)]
    begun = time.monotonic()
    for job, file in enumerate(files):
        if not os.fork():
            with file.open("w") as told:
                for outcome in Runner(cases, _new(root / f"job-{job}"), together).run(numbers[job::jobs]):
                    if outcome.findings:
                        print(described(outcome, cases), flush=True)
                    told.write(json.dumps(asdict(outcome)) + "\n")
            os._exit(0)
    ended = [os.wait()[1] for _ in files]
    if any(ended):
        raise SystemExit("A process of the fuzzer has failed.")
    print(f"{time.monotonic() - begun:.0f} s")
    for file in files:
        yield from (Outcome(**json.loads(line)) for line in file.read_text().splitlines())


def _served(seeds: Path, together: int) -> int:
    """Run what each line of stdin asks for, and print what was found as a line of JSON.

    A line is ``[first, last, folder to keep inputs in]``, or ``[first, end, folder, step]`` for
    cases in which every value is changed, of which the end is not looked at.
    """
    if not seeds.exists():
        unfinished = seeds.with_suffix(".unfinished")
        in_copy(lambda: make_seeds(unfinished))
        unfinished.rename(seeds)
    cases = _ready(seeds)
    with _folder() as root:
        for line in sys.stdin:
            first, end, keep, *every = json.loads(line)
            those, numbers = cases, range(first, end)
            if every:
                those = EveryValue(seeds)
                (step,) = every
                numbers = range(first, those.count, step)
            outcomes = list(Runner(those, _new(root / "cases"), together).run(numbers))
            found = [outcome for outcome in outcomes if outcome.findings]
            kept(root, found, Path(keep))
            print(json.dumps([len(outcomes), [described(outcome, those) for outcome in found]]), flush=True)
            shutil.rmtree(root / "cases")
    return 0


def _ready(seeds: Path, *, every: bool = False) -> Cases:
    warmed(seeds, json.loads((seeds / "modules.json").read_text()))
    return EveryValue(seeds) if every else Cases(seeds)


def in_copy(act: object) -> None:
    """Call something in a copy (fork) of this process, which it may change as it likes."""
    process = os.fork()
    if not process:
        code = 1
        try:
            act()  # type: ignore[operator]
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        raise SystemExit("The seeds could not be made.")


@contextmanager
def _folder() -> Iterator[Path]:
    memory = Path("/dev/shm")  # making and removing folders on a disk takes longer than most commands
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > 2 << 30
    root = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if has_room else None))
    try:
        yield _new(root / "inside")  # paths of cases that lead upwards end below the root too
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def described(outcome: Outcome, cases: Cases) -> str:
    """A case, what was found, and how it is run again."""
    parts = [f"seed {outcome.seed}: {outcome.mutator}, {outcome.reader}: {outcome.line}"]
    parts += [f"    {ascii(finding)[1:-1]}" for finding in outcome.findings]
    return "\n".join([*parts, f"    again: {cases.again} {outcome.seed}"])


def kept(root: Path, found: Iterable[Outcome], keep: Path) -> None:
    """Move the folders of cases with findings to where they stay; the seeds go with them, once."""
    keep.mkdir(parents=True, exist_ok=True)
    for outcome in found:
        for folder in root.glob(f"*/case-{outcome.seed}"):
            target = keep / folder.name
            shutil.rmtree(target, ignore_errors=True)
            shutil.move(folder, target)


def table(outcomes: Sequence[Outcome]) -> str:
    """By mutator: cases, exit codes, the slowest, the most memory, findings."""
    head = "| changed | cases | exit 0 | 1 | 2 | 130 | mean s | slowest s | most MB | findings |"
    lines = [head, "| --- |" + " --- |" * 9]
    names = sorted({outcome.mutator for outcome in outcomes})
    for name in [*names, "all"]:
        those = [one for one in outcomes if name in (one.mutator, "all")]
        codes = Counter(one.code for one in those)
        cells = [name, f"{len(those):,}", *(f"{codes[code]:,}" for code in (0, 1, 2, 130))]
        cells += [f"{sum(one.seconds for one in those) / max(1, len(those)):.3f}"]
        cells += [f"{max(one.seconds for one in those):.1f}", f"{max(one.memory for one in those) >> 20:,}"]
        lines.append(f"| {' | '.join([*cells, str(sum(bool(one.findings) for one in those))])} |")
    return "\n".join(lines)
