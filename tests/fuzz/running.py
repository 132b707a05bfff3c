"""Run cases in copies (forks) of a process that has imported everything, with limits on what they may take.

A copy costs more than most cases, so one can run several, one after the other. What goes wrong there is run once more,
alone. The process that started the copy sees to the limits: it knows which case runs, and ends a copy that takes too
long or too much memory.
"""

from __future__ import annotations

import functools
import gc
import io
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fuzz.case import CACHE, TEMPORARY, WORK, Case, state_of
from fuzz.cases import Cases
from fuzz.judging import Said, judged

SECONDS, BYTES = 20.0, 2 << 30
"""What a case may take: time on the clock, and memory beyond what the copied process has."""
_NEVER = 4 << 30  # so much more than the limit is never given, for the sake of the machine
_BROKEN = 99
"""The exit code of a copy in which these files have failed, not the program."""
_PAGE = resource.getpagesize()


@dataclass
class Outcome:
    """What came of a case."""

    seed: int
    mutator: str
    reader: str
    line: str
    code: int | None
    seconds: float
    memory: int
    findings: list[str] = field(default_factory=list)
    said: str = ""


def import_all() -> None:
    """Import the program, and call it where tests do not wait for the disk and make its commands once."""
    import typer.main

    os.environ.setdefault("MPLBACKEND", "agg")
    import decompose_cli.cli.app  # noqa: F401

    # Typer makes all commands, with their seven hundred options, anew for each call: 15 ms of the same.
    typer.main.get_command = functools.cache(typer.main.get_command)
    os.fsync = lambda _: None  # type: ignore[assignment]  # nobody's work is lost


def warmed(seeds: Path, modules: Sequence[str]) -> None:
    """Import and prepare all that commands do, so that their copies have it, and keep the collector from it.

    Args:
        seeds: The folder of the seeds.
        modules: Names of all modules that making the seeds has needed.
    """
    import importlib

    for name in modules:
        with suppress(Exception):  # such as only scripts import
            importlib.import_module(name)
    from decompose_cli.models.sources import source_digest
    from decompose_cli.page.report import report

    report(seeds / "results", with_images=False)  # which compiles the templates of the page
    source_digest("fuzz")  # which looks where every module lies, and keeps that
    gc.collect()
    gc.freeze()


class Runner:
    """Runs cases below a folder.

    Args:
        cases: Makes them.
        root: An empty folder; the folders of cases with findings stay there.
        together: How many cases a copy runs, one after the other.
    """

    def __init__(self, cases: Cases, root: Path, together: int = 1) -> None:
        self._cases, self._root, self._together, self._alone = cases, root, together, together == 1

    def run(self, seeds: Sequence[int]) -> Iterator[Outcome]:
        """The outcomes of cases, in their order."""
        left = list(seeds)
        while left:
            several = left[: self._together]
            outcomes = self._copied(several)
            left = left[len(outcomes) :]
            for outcome in outcomes:
                if outcome.findings and len(several) > 1:
                    (alone,) = self._copied([outcome.seed])
                    if not alone.findings:
                        before = several[: several.index(outcome.seed)]
                        alone.findings = [f"together: only after {before}: {one}" for one in outcome.findings]
                    outcome = alone
                yield outcome

    def _copied(self, seeds: Sequence[int]) -> list[Outcome]:
        """The outcomes of the first of some cases, up to one that does not come to an end, in a copy of their own."""
        reads, writes = os.pipe()
        process = os.fork()
        if not process:
            own = os.dup(2)
            try:
                os.close(reads)
                os.setsid()
                self._all(seeds, lambda what: os.write(writes, what.encode() + b"\n"))
            except BaseException:
                os.write(own, traceback.format_exc().encode())
                os._exit(_BROKEN)
            os._exit(0)
        os.close(writes)
        with os.fdopen(reads, "rb", buffering=0) as pipe:
            return self._watched(process, pipe, seeds)

    def _watched(self, process: int, pipe: io.FileIO, seeds: Sequence[int]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        text, begun, most, why, own = b"", time.monotonic(), 0, "", _anonymous(os.getpid())
        while not why:
            ready, _, _ = select.select([pipe], [], [], 0.05)
            if ready:
                piece = pipe.read(1 << 16)
                if not piece:
                    break
                *lines, text = (text + piece).split(b"\n")
                for one in lines:
                    outcomes.append(Outcome(**json.loads(one)))
                    begun, most = time.monotonic(), 0
            else:
                most = max(most, _anonymous(process) - own)
            if time.monotonic() - begun > SECONDS:
                why = f"hang: {SECONDS:.0f} seconds were not enough"
            elif most > BYTES:
                why = f"memory: more than {BYTES >> 20:,} MB"
        if why:
            os.killpg(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # what it has left running
        if len(outcomes) < len(seeds):
            seed = seeds[len(outcomes)]
            ended = os.waitstatus_to_exitcode(status)
            if ended == _BROKEN:
                why = "fuzzer: it has failed itself; its traceback is on stderr"
                outcomes.append(Outcome(seed, "none", "", "", None, 0.0, 0, [why]))
            else:
                case, took = self._cases.of(seed), time.monotonic() - begun
                why = why or f"died: {_name_of(ended)}: {self._tail(seed)}"
                outcomes.append(Outcome(seed, case.mutator, case.reader, case.line(), None, took, most, [why]))
        return outcomes

    def _tail(self, seed: int) -> str:
        with suppress(OSError):
            return (self._root / f"case-{seed}" / "stderr").read_text(errors="replace")[-300:]
        return ""

    # --- in the copy ---

    def _all(self, seeds: Sequence[int], tell: Callable[[str], object]) -> None:
        own = _status("VmRSS")  # less than that of the copied process, whose pages of files are not copied
        cache = self._root / f"cache-{os.getpid()}"
        shutil.copytree(self._cases.seeds / "cache", cache)
        sys.path.insert(0, str(self._cases.seeds))
        sys.dont_write_bytecode = True
        resource.setrlimit(resource.RLIMIT_AS, (_virtual() + _NEVER, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        plain = _plain_environment(cache)
        for seed in seeds:
            tell(json.dumps(asdict(self._one(seed, plain, own))))
        shutil.rmtree(cache, ignore_errors=True)

    def _one(self, seed: int, plain: dict[str, str], own: int) -> Outcome:
        case = self._cases.of(seed)
        folder = self._root / f"case-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        case.fill(folder, self._cases.seeds)
        before = state_of(folder)
        used = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(
            resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + SECONDS + 2), resource.RLIM_INFINITY)
        )
        Path("/proc/self/clear_refs").write_text("5")  # what was the most memory is forgotten
        begun = time.monotonic()
        os.environ.clear()
        os.environ.update({**plain, "TMPDIR": str(folder / TEMPORARY), **_own_cache(folder), **case.environment})
        for name in case.unset:
            os.environ.pop(name, None)
        said = spoken(case.arguments, folder, case.environment.get("PYTHONIOENCODING", "utf-8"))
        seconds, memory = time.monotonic() - begun, _status("VmHWM") - own
        os.environ.clear()
        os.environ.update(plain)
        os.chdir(self._root)
        findings = judged(case, said, folder, before)
        if memory > BYTES:
            findings.append(f"memory: {memory >> 20:,} MB")
        if findings:
            keep(case, said, folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        return Outcome(
            seed,
            case.mutator,
            case.reader,
            case.line(),
            said.code,
            seconds,
            memory,
            findings,
            said.stderr[-2000:] if self._alone else "",
        )


def spoken(arguments: Sequence[str], folder: Path, encoding: str) -> Said:
    """Call the program in this process as if it had been started in the folder."""
    import tempfile

    import torch

    from decompose_cli.cli.app import main

    tempfile.tempdir = None
    torch.set_num_threads(1)
    names = [folder / "stdout", folder / "stderr"]
    os.chdir(folder / WORK)
    for number, path in enumerate(names, 1):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding=encoding, errors=errors, line_buffering=True)
        for number, errors in ((1, "strict"), (2, "backslashreplace"))
    )
    sys.argv = ["decompose", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        main()
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 0 if done.code is None else 1
    except BaseException:
        sys.stderr.write(traceback.format_exc())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
    texts = [path.read_bytes().decode(encoding, "backslashreplace") for path in names]
    for path in names:
        path.unlink(missing_ok=True)
    return Said(code, *texts)


def keep(case: Case, said: Said, folder: Path) -> None:
    """Write down how the case is run again, and what it said, beside its files."""
    words = {"arguments": case.arguments, "environment": dict(case.environment), "unset": case.unset}
    (folder / "case.json").write_text(json.dumps({"seed": case.seed, **words, **asdict(said)}, indent=1))


def _own_cache(folder: Path) -> dict[str, str]:
    return {"DECOMPOSE_CACHE": str(folder / CACHE)} if (folder / CACHE).exists() else {}


def _plain_environment(cache: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "OMP_NUM_THREADS") if name in os.environ}
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    own = {"DECOMPOSE_CACHE": str(cache), "DECOMPOSE_DATA": str(cache.parent / "no-data")}
    return {**kept, **nowhere, **own, "NO_COLOR": "1", "COLUMNS": "200", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}


def _anonymous(process: int) -> int:
    """Bytes that a process has in memory and that are of no file, as a copy has all of its original."""
    with suppress(OSError, IndexError):
        resident, of_files = map(int, Path(f"/proc/{process}/statm").read_bytes().split()[1:3])
        return (resident - of_files) * _PAGE
    return 0


def _virtual() -> int:
    return int(Path("/proc/self/statm").read_bytes().split()[0]) * _PAGE


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0


def _name_of(ended: int) -> str:
    return signal.Signals(-ended).name if ended < 0 else f"exit code {ended}"
