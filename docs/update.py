"""Bring the documentation up to date with the program: ``make docs``.

- ``commands.md``: every option of every command, by Typer's own generator.
- What follows ``<!-- run: ... -->`` in a page: the output of that command, where the page shows all of it.
- What follows ``<!-- table: ... -->``: in ``reproduce.md`` from ``reproduced.json`` and ``results``, in ``sparsify.md``
  from ``sparse-heads.json``, in ``scale.md`` from ``scale.json``; elsewhere rankings, gates, data
  sets and variables, from the program's own tables of them.

Tests compare all of it (tests/test_docs.py).
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
WIDTH = 110
SETUP = (
    "extract-indices -k 5 -o k5.json",
    "validate -i k5.json -o validate.json",
    "sweep --max-drop 1 -o sweep",
    "extract-indices -k 5 --method weight -o weight.json",
    "sparsify -k 5 --method contribution -o sparse",
)
"""Run before any command of a page, in the same folder."""
BLOCK = re.compile(r"(?P<head><!-- run: (?P<command>.+?) -->\n\n```text\n)(?P<output>.*?)(?P<tail>```)", re.DOTALL)
GAP = "[...]"
PROGRESS = re.compile(r"[A-Z][^:]*: [\d,]+ of [\d,]+ (images|classes|steps|heads|features)(, about .+ left)?")


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


def write_digits(folder: Path) -> None:
    """Write the files that ``bring-your-own.md`` works on."""
    subprocess.run([sys.executable, ROOT / "examples" / "digits_as_files.py"], cwd=folder, check=True)


def shown(output: str) -> str:
    """The lines that are the same wherever the program is."""
    lines = (line.rstrip() for line in output.splitlines())
    kept = [
        line
        for line in lines
        if str(ROOT) not in line
        and not line.startswith(("No model was named", "Features  "))
        and not PROGRESS.fullmatch(line)  # which a slow machine shows
    ]
    return "\n".join(kept).strip("\n") + "\n"


def with_outputs(text: str, folder: Path) -> str:
    """A page with the output of its commands; an excerpt, which has a line ``[...]``, stays as it is."""

    def replaced(match: re.Match[str]) -> str:
        if GAP in match["output"].splitlines():
            return match[0]
        return match["head"] + run(match["command"], folder) + match["tail"]

    return BLOCK.sub(replaced, text)


def trainings() -> ModuleType:
    """The script that makes tables from ``results/``."""
    spec = importlib.util.spec_from_file_location("trainings", DOCS / "trainings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tables() -> dict[str, str]:
    """The tables of ``reproduce.md``, ``sparsify.md`` and ``scale.md``, by name."""
    found: dict[str, Any] = {}
    for file in ("reproduced.json", "sparse-heads.json", "scale.json"):
        found |= json.loads((DOCS / file).read_text(encoding="utf-8"))["tables"]
    found |= trainings().tables()
    return {name: table(content["columns"], content["rows"]) for name, content in found.items()}


def table(columns: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def tables_of_the_program() -> dict[str, str]:
    """The rankings, gates, data sets and kinds of images that the program knows, by what a page calls the table."""
    from decompose_cli.cli.options.elsewhere import VARIABLES
    from decompose_cli.datasets.kinds import KINDS
    from decompose_cli.datasets.registry import DATASETS
    from decompose_cli.decomposition.ranking import RANKINGS
    from decompose_cli.models.gate_kinds import GATES

    def needs(ranking: Any) -> str:
        parts = {"images": ranking.needs_images, "the full head": ranking.needs_head, "gates": ranking.needs_gates}
        parts["features that are not negative"] = ranking.needs_nonnegative
        return ", ".join(name for name, is_needed in parts.items() if is_needed)

    rankings = [
        [f"`{entry.name}`", entry.summary, needs(entry), "yes" if entry.is_nested else "no"]
        for entry in RANKINGS.values()
    ]
    gates = [
        [
            f"`{kind.name}`",
            kind.place.text,
            kind.summary,
            "a classifier, from its own cross-entropy" if kind.has_classifier else "the network's cross-entropy",
            "" if kind.penalty is None else f"{kind.penalty:g}",
        ]
        for kind in GATES.values()
    ]
    datasets = [
        [f"`{entry.name}`", entry.description, ", ".join(entry.splits), entry.how_to_get] for entry in DATASETS.values()
    ]
    variables = [[f"`{variable}`", f"`--{name.replace('_', '-')}`"] for name, variable in sorted(VARIABLES.items())]
    kinds = [[f"`{kind.usage}`".replace("|", "\\|"), kind.description.replace("|", "\\|")] for kind in KINDS.values()]
    columns = ["`--gate`", "where", "g comes from", "learns from", "default `--lambda` of its penalty"]
    return {
        "rankings": table(["`--method`", "score of a feature for a class", "needs", "nested"], rankings),
        "gates": table(columns, gates),
        "datasets": table(["`--dataset`", "images", "splits", "how to get it"], datasets),
        "variables": table(["variable", "option"], variables),
        "kinds": table(["`--dataset`", "what is read"], kinds),
    }


def with_tables(text: str, contents: dict[str, str]) -> str:
    """A page with its tables; only lines of tables are replaced."""
    for name, content in contents.items():
        pattern = re.compile(rf"(<!-- table: {re.escape(name)} -->\n)\n?((?:\|.*\n)*)")
        text = pattern.sub(lambda match, content=content: f"{match[1]}\n{content}" + ("" if match[2] else "\n"), text)
    return text


def main() -> None:
    """Write what has changed."""
    (DOCS / "commands.md").write_text(reference(), encoding="utf-8")
    contents = {**tables(), **tables_of_the_program()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_digits(folder)
        for command in SETUP:
            run(command, folder)
        for page in [*pages(), ROOT / "README.md"]:
            text = page.read_text(encoding="utf-8")
            updated = with_outputs(with_tables(text, contents), folder)
            if updated != text:
                page.write_text(updated, encoding="utf-8")
                print(f"updated {page.name}")
    trainings().draw()


if __name__ == "__main__":
    main()
