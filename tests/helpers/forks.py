"""The program in several processes at once, copied from one that has imported it, as that takes most of the time.

They are those of a SLURM job of several tasks; :func:`forked` is for other work.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.processes import environment

_SERVER = """
import gc, json, os, signal, sys, time

import decompose_cli.cli.app
import decompose_cli.engines.explain, decompose_cli.engines.essential, decompose_cli.engines.filters
import decompose_cli.engines.mutual_info, decompose_cli.engines.selectivity, decompose_cli.engines.sparsify
import decompose_cli.engines.sweep, decompose_cli.engines.validate, decompose_cli.processes.launch
import lightning_fabric, torch.distributed

gc.freeze()


def start(job, environment, said):
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.chdir(job["folder"])
        os.environ.clear()
        os.environ.update(environment)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{said}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        signal.alarm(job["seconds"])
        if job["code"]:
            exec(job["code"], globals())  # where pickle finds it
        else:
            sys.argv = ["decompose", *job["arguments"]]
            decompose_cli.cli.app.main()
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 0 if done.code is None else 1
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        import atexit
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


for line in sys.stdin:
    job = json.loads(line)
    processes = [start(job, each, f"{job['said']}{number}") for number, each in enumerate(job["environments"])]
    if job["killed"]:
        number, file, size, seconds = job["killed"]
        late = time.monotonic() + 20
        while size and time.monotonic() < late and not (os.path.exists(file) and os.path.getsize(file) >= size):
            time.sleep(0.002)
        time.sleep(seconds)
        os.kill(processes[number], signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    print(json.dumps(codes), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """A process that has come to its end: its exit code, and what it said."""

    code: int
    stdout: str
    stderr: str


class Forks:
    """Runs the program, or a script, in several processes at once."""

    def __init__(self, server: subprocess.Popen[str], folder: Path) -> None:
        self._server, self._folder = server, folder

    def program(
        self, *arguments: str, processes: int = 2, killed: tuple[int, str, int, float] | None = None
    ) -> list[Ended]:
        """The program, as so many tasks of SLURM start it; or alone, as one.

        Args:
            arguments: Of the program.
            processes: How many.
            killed: Which of them is killed, how long a file has to be for that, and how many seconds later.
        """
        return self._ended(slurm_tasks(processes), arguments=arguments, killed=killed)

    def script(self, code: str, processes: int = 2) -> list[Ended]:
        """A script, as so many tasks of SLURM start it."""
        return self._ended(slurm_tasks(processes), code=code)

    def _ended(
        self,
        environments: list[dict[str, str]],
        arguments: Sequence[str] = (),
        code: str | None = None,
        killed: tuple[int, str, int, float] | None = None,
    ) -> list[Ended]:
        job: dict[str, Any] = {
            "arguments": arguments,
            "code": code,
            "environments": environments,
            "folder": str(Path.cwd()),
            "said": str(self._folder / "said"),
            "seconds": 60,
            "killed": killed,
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        codes = json.loads(self._server.stdout.readline())
        said = [[(self._folder / f"said{n}.{kind}").read_text() for kind in ("out", "err")] for n in range(len(codes))]
        return [Ended(number, *texts) for number, texts in zip(codes, said, strict=True)]


@contextmanager
def forks(folder: Path) -> Iterator[Forks]:
    """Start the process that is copied."""
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        yield Forks(server, folder)
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait(timeout=60)


def slurm_tasks(count: int, **changes: str) -> list[dict[str, str]]:
    """The environment of each task of a SLURM job on this machine."""
    if count == 1:
        return [environment(**changes)]
    common = {"SLURM_NTASKS": str(count), "SLURM_NNODES": "1", "SLURM_JOB_ID": "7", "MASTER_PORT": str(free_port())}
    return [environment(**common, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), **changes) for rank in range(count)]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
