"""Two thousand cases of the fuzzer, and that it sees what is wrong.

``python tests/fuzz --case SEED`` runs one of them again; the inputs of those with findings are kept in the folder that
the failure names.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.processes import environment

CASES, BLOCKS = 2000, 20
HERE = Path(__file__).parent
STEP, SHARES = 37 * 8, 8
Ran = Callable[..., list[str]]


@pytest.fixture(scope="module")
def ran(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Iterator[Ran]:
    """Runs the cases of a range of seeds in a process that has imported everything; gives what was found."""
    shared = made_once("fuzzed", lambda folder: None)
    kept = Path(tempfile.gettempdir()) / "decompose-fuzz"
    command = [sys.executable, str(HERE), "--serve", str(shared / "seeds"), "--together", "100"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment()) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def run(first: int, last: int, *step: int) -> list[str]:
            server.stdin.write(json.dumps([first, last, str(kept), *step]) + "\n")
            server.stdin.flush()
            count, found = json.loads(server.stdout.readline())
            assert count == last - first or (step and count > 0)
            return [*found, f"inputs are in {kept}"] if found else []

        yield run
        server.stdin.close()


@pytest.mark.parametrize("block", range(BLOCKS))
def test_nothing_unforeseen(block: int, ran: Ran) -> None:
    each = CASES // BLOCKS
    found = ran(block * each, (block + 1) * each)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("share", range(SHARES))
def test_values_of_documents_that_are_of_another_kind(share: int, ran: Ran) -> None:
    found = ran(share * 37, 0, STEP)
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_every_value_of_every_document(share: int, ran: Ran) -> None:
    found = ran(share, 0, SHARES)
    assert not found, "\n".join(found)
