"""The program in a copy of this process with little processor time and memory beyond what the libraries take."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from helpers.command_line import only_error

SECONDS, BYTES = 2, 500_000_000


@dataclass(frozen=True)
class Limited:
    """How a command ended within its limits: its exit code (the signal, negative, that killed it), and what it said."""

    code: int
    said: str


def limited(*arguments: str) -> Limited:
    """Call the program with 2 seconds of processor time and 500 MB more than this process has."""

    def call() -> None:
        from decompose_cli.cli.app import main

        sys.argv = ["decompose", *arguments]
        main()

    return _forked(call)


def sentence_within_limits(*arguments: str, code: int = 2) -> str:
    """What a command says that has to fail with this code, in one sentence, within the limits."""
    ended = limited(*arguments)
    assert ended.code == code, f"{ended.code}: {ended.said}"
    assert "Traceback" not in ended.said
    assert "unforeseen" not in ended.said
    return only_error(ended.said)


def _forked(call: Callable[[], None]) -> Limited:
    said = Path(os.environ["DECOMPOSE_CACHE"]).parent / "said.txt"
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number in (1, 2):
                os.dup2(handle, number)
            sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
            resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, size + BYTES))
            signal.alarm(30)  # what waits for a pipe takes no time of the processor
            call()
            code = 0
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else 0 if done.code is None else 1
        except BaseException as error:
            os.write(2, f"Traceback: {error!r}".encode())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(process, 0)
    return Limited(os.waitstatus_to_exitcode(status), said.read_text(errors="replace"))
