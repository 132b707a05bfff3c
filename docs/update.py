"""Bring the documentation up to date with the program: ``make docs``.

- ``commands.md``: every option of every command, by Typer's own generator.
- What follows ``<!-- run: ... -->`` in a page: the output of that command, where the page shows all of it.
- The tables of ``reproduce.md``: from ``reproduced.json``.

Tests compare all of it (tests/test_docs.py).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
WIDTH = 110
SETUP = (
    "extract-indices -k 5 -o k5.json",
    "validate -i k5.json -o validate.json",
    "sweep --max-drop 1 -o sweep",
)
"""Run before any command of a page, in the same folder."""
BLOCK = re.compile(r"(?P<head><!-- run: (?P<command>.+?) -->\n\n```text\n)(?P<output>.*?)(?P<tail>```)", re.DOTALL)
GAP = "[...]"


def pages() -> list[Path]:
    """The pages that may show output."""
    return sorted(DOCS.glob("*.md"))


def reference() -> str:
    """The text of ``commands.md``."""
    command = [sys.executable, "-m", "typer", "decompose_cli.cli.app", "utils", "docs", "--name", "decompose"]
    command += ["--title", "Commands and options"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    intro = "Made by `make docs` from the program itself; each command has a [page](README.md) that says more.\n"
    title, _, rest = done.stdout.partition("\n")
    return f"{title}\n\n{intro}{rest.rstrip()}\n".replace("&#x27;", "'").replace("&quot;", '"')


def run(command: str, folder: Path) -> str:
    """What a command prints, without trailing blanks and without where this copy of the project is."""
    environment = {**os.environ, "COLUMNS": str(WIDTH), "NO_COLOR": "1", "DECOMPOSE_CACHE": str(folder / ".cache")}
    environment["DECOMPOSE_DATA"] = str(folder / "data")
    arguments = [sys.executable, "-m", "decompose_cli", *command.split()]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=folder, env=environment, check=True)
    return shown(done.stdout + done.stderr)


def shown(output: str) -> str:
    """The lines that are the same wherever the program is."""
    lines = (line.rstrip() for line in output.splitlines())
    kept = [
        line for line in lines if str(ROOT) not in line and not line.startswith(("No model was named", "Features  "))
    ]
    return "\n".join(kept).strip("\n") + "\n"


def with_outputs(text: str, folder: Path) -> str:
    """A page with the output of its commands; an excerpt, which has a line ``[...]``, stays as it is."""

    def replaced(match: re.Match[str]) -> str:
        if GAP in match["output"].splitlines():
            return match[0]
        return match["head"] + run(match["command"], folder) + match["tail"]

    return BLOCK.sub(replaced, text)


def tables() -> dict[str, str]:
    """The tables of ``reproduce.md``, by name."""
    found = json.loads((DOCS / "reproduced.json").read_text(encoding="utf-8"))
    return {name: table(content["columns"], content["rows"]) for name, content in found["tables"].items()}


def table(columns: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def with_tables(text: str) -> str:
    """``reproduce.md`` with its tables."""
    for name, content in tables().items():
        pattern = re.compile(rf"(<!-- table: {re.escape(name)} -->\n\n).*?\n\n", re.DOTALL)
        text, count = pattern.subn(lambda match, content=content: f"{match[1]}{content}\n", text)
        assert count == 1, name
    return text


def main() -> None:
    """Write what has changed."""
    (DOCS / "commands.md").write_text(reference(), encoding="utf-8")
    path = DOCS / "reproduce.md"
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command in SETUP:
            run(command, folder)
        for page in pages():
            text = page.read_text(encoding="utf-8")
            updated = with_outputs(text, folder)
            if updated != text:
                page.write_text(updated, encoding="utf-8")
                print(f"updated {page.name}")


if __name__ == "__main__":
    main()
