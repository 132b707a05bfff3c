"""How long `decompose --help` takes, against an empty Typer program that prints its own help: whole processes."""

from __future__ import annotations

import argparse
import sys
import sysconfig
import tempfile
from pathlib import Path

import common

GOAL = 2.0
EMPTY = """
import typer

app = typer.Typer()


@app.command()
def main() -> None:
    pass


app()
"""
COMMANDS = ("", "validate", "extract-indices", "demo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30, metavar="N", help="runs of each side (30)")
    given = parser.parse_args()
    script = Path(sysconfig.get_path("scripts")) / "decompose"
    ours = [sys.executable, script] if script.is_file() else common.decompose()
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.py"
        empty.write_text(EMPTY)
        jobs = {name: [*ours, *([name] if name else []), "--help"] for name in COMMANDS}
        jobs["empty Typer program"] = [sys.executable, empty, "--help"]
        jobs["bare Python"] = [sys.executable, "-c", "pass"]
        for command in jobs.values():  # the first run of each writes byte code
            common.run(command)
        runs = common.interleaved(
            given.repeats, {name: lambda command=command: common.run(command) for name, command in jobs.items()}
        )
    base, bare = runs["empty Typer program"], runs["bare Python"]
    common.report(
        "decompose --help against an empty Typer program",
        [
            common.Line(
                f"decompose {name} --help".replace("  ", " "),
                runs[name].median / base.median,
                GOAL,
                at_least=False,
                detail=f"{1000 * runs[name].median:.0f} ms, {runs[name].memory:.0f} MB",
            )
            for name in COMMANDS
        ],
        common.conditions(given.repeats),
        [
            f"empty Typer program {1000 * base.median:.0f} ms, {base.memory:.0f} MB; "
            f"bare Python {1000 * bare.median:.0f} ms, which nothing can undercut"
        ],
    )


if __name__ == "__main__":
    main()
