"""The documentation says what the program does: options, outputs, figures, links."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers.command_line import COMMANDS, run

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TOGETHER = dict.fromkeys(("models", "layers", "datasets", "cache"), "models-and-data")
LISTS = (
    *(
        "README",
        "bring-your-own",
        "configuration",
        "own-images",
        "own-networks",
        "python",
        "clusters",
        "commands",
        "files",
        "method",
    ),
    *("reliability", "reproduce", "scale"),
)


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


update = _module("update")


def page_of(command: str) -> Path:
    return DOCS / f"{TOGETHER.get(command, command)}.md"


def test_every_command_has_a_page_and_every_page_is_listed() -> None:
    pages = {page_of(command) for command in COMMANDS} | {DOCS / f"{name}.md" for name in LISTS}
    assert pages == set(DOCS.glob("*.md"))
    listed = (DOCS / "README.md").read_text(encoding="utf-8")
    for page in pages - {DOCS / "README.md"}:
        assert f"({page.name})" in listed, page.name


def test_the_reference_is_what_the_program_says() -> None:
    (pinned,) = re.findall(
        r"^typer==(.+)$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert importlib.metadata.version("typer") == pinned, (
        f"docs/commands.md is made with typer {pinned}, and other versions word it otherwise: install that one "
        "(pip install -r requirements-dev.txt), or pin the new one in requirements.txt and run 'make docs'"
    )
    assert (DOCS / "commands.md").read_text(encoding="utf-8") == update.reference(), "run 'make docs'"


RUNS = [
    pytest.param(page, match["command"], match["output"], id=f"{page.stem}: {match['command'].split()[0]}")
    for page in update.pages()
    for match in update.BLOCK.finditer(page.read_text(encoding="utf-8"))
]


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the page about one's own images and networks works on."""
    folder = tmp_path_factory.mktemp("digits")
    update.write_digits(folder)
    return folder


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(("page", "command", "output"), RUNS)
def test_the_output_on_a_page_is_real(
    page: Path, command: str, output: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("COLUMNS", str(update.WIDTH))
    if page.stem == "bring-your-own":
        for file in request.getfixturevalue("digit_files").iterdir():
            Path(file.name).symlink_to(file)
    needed = [setup for setup in update.SETUP if setup.split()[-1] in command.split() or "k5.json" in setup]
    for setup in needed if re.search(r"k5\.json|validate\.json| sweep", command) else []:
        run(*setup.split())
    result = run(*command.split())
    printed = iter(update.shown(result.stderr).splitlines())
    wanted = [line for line in output.splitlines() if line.strip() and line != update.GAP]
    assert len(wanted) >= 2
    for line in wanted:
        assert line in printed, f"'{command}' does not print (in this order): {line!r}; run 'make docs'"


def test_the_pages_with_runs_are_those_of_the_commands_that_need_no_training() -> None:
    assert {param.values[0].stem for param in RUNS} == {
        "atlas",
        "bring-your-own",
        "configuration",
        "compare",
        "essential",
        "explain",
        "extract-indices",
        "filters",
        "models-and-data",
        "mutual-info",
        "report",
        "selectivity",
        "sweep",
        "validate",
    }


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}, target


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "docker" / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.stem
)
def test_no_page_has_a_gap_to_fill_in(page: Path) -> None:
    """Words in angle brackets, but for the parts of names of files."""
    text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.findall(r"<(?:this|your|the|url|repository)\b[^>]*>", text, flags=re.IGNORECASE)


def test_the_site_has_every_page_in_the_order_of_the_list() -> None:
    site = _module("build_site")
    shown = [path for entry in site.navigation() for path in _paths(entry)]
    assert len(shown) == len(set(shown))
    assert set(shown) == {path.as_posix() for path in site.sources() if path.suffix == ".md"}
    assert {page.relative_to(ROOT).as_posix() for page in DOCS.glob("*.md")} <= set(shown)
    assert shown[:3] == ["README.md", "docs/README.md", "docs/demo.md"]
    assert {"docker/README.md", "CHANGELOG.md"} <= set(shown)


def _paths(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [path for inner in (entry.values() if isinstance(entry, dict) else entry) for path in _paths(inner)]


@pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="mkdocs-material is not installed")
def test_the_site_can_be_built() -> None:
    assert _module("build_site").main() == 0
    assert (ROOT / "build" / "site" / "docs" / "configuration.html").exists()


def _anchor(heading: str) -> str:
    """As GitHub makes it."""
    kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.stem)
def test_options_on_a_page_exist(page: Path) -> None:
    """Long options in commands that are indented as code."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for command, rest in re.findall(r"^ {4}decompose ([a-z][a-z-]*)([^#\n]*)", text, flags=re.MULTILINE):
        assert command in COMMANDS, command
        known = {option for parameter in COMMANDS[command].params for option in parameter.opts}
        for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest):
            assert option in known, f"{command} has no {option}"


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_pages_do_not_name_a_machine(page: Path) -> None:
    assert not re.search(r"/(?:home|work|root|tmp|Users)/", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("extract-indices", "rankings"),
        ("train-gate", "gates"),
        ("models-and-data", "datasets"),
        ("configuration", "variables"),
    ],
)
def test_rankings_gates_and_data_sets_are_those_of_the_program(page: str, name: str) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert update.with_tables(text, update.tables_of_the_program()) == text, "run 'make docs'"
    assert update.tables_of_the_program()[name] in text


@pytest.mark.parametrize("page", ["docs/reproduce.md", "docs/sparsify.md", "docs/scale.md", "README.md"])
def test_the_tables_of_measured_numbers_are_those_measured(page: str) -> None:
    text = (DOCS.parent / page).read_text(encoding="utf-8")
    named = [name for name in update.tables() if f"<!-- table: {name} -->" in text]
    assert named
    assert all(update.tables()[name] in text for name in named), "run 'make docs'"
    assert update.with_tables(text, update.tables()) == text, "run 'make docs'"


def test_published_numbers_are_met() -> None:
    text = (DOCS / "reproduce.md").read_text(encoding="utf-8")
    found = json.loads((DOCS / "reproduced.json").read_text(encoding="utf-8"))["tables"]
    marks = re.findall("<!-- table: (.+) -->", text)
    assert len(marks) == len(set(marks))
    assert set(found) < set(marks) <= set(update.tables())
    assert all(row[1] == row[2] for row in found["counts"]["rows"])


@pytest.fixture
def example_block() -> str:
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- example:.*?```text\n(.*?)```", text, flags=re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_on_the_page_is_the_one_that_is_run(example_block: str) -> None:
    """Figures may differ a little between machines (tests/api runs it); what is said does not."""
    source = (ROOT / "examples" / "own_network.py").read_text(encoding="utf-8")
    for said in ("with head", "instead of", "trained further", "hardest digit", "written to digits-k2.safetensors"):
        assert said in example_block
        assert said in source


def test_code_on_the_page_for_python_uses_what_is_exported() -> None:
    import decompose_cli as dc

    for page in (ROOT / "README.md", *(DOCS / f"{name}.md" for name in ("bring-your-own", "python", "sparsify"))):
        text = page.read_text(encoding="utf-8")
        assert set(re.findall(r"\bdc\.([a-z_]+)", text)) <= set(dc.__all__)
    table = (DOCS / "python.md").read_text(encoding="utf-8")
    named: Any = set(re.findall(r"`([A-Za-z_]+)`", table))
    assert set(dc.__all__) - {"__version__"} <= named


@pytest.mark.parametrize("page", ["python.md", "sparsify.md"])
def test_the_code_on_the_page_that_says_so_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- code: tests/test_docs.py runs it -->\n\n```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    for code in blocks:
        exec(compile(code, page, "exec"), {})
        assert capsys.readouterr().out.strip() == code.strip().rpartition("# ")[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "first"),
    [("bring-your-own", "decompose train resnet18"), ("own-networks", "decompose layers mynet:net")],
)
def test_ones_own_images_lead_to_a_decomposed_network(page: str, first: str, make_images: Any) -> None:
    """The commands of the page as they stand, with a single epoch."""
    text = (DOCS / "own-networks.md").read_text(encoding="utf-8")
    (module,) = re.findall(r"^ {4}# mynet\.py\n(.*?)\n\n(?=\S)", text, flags=re.MULTILINE | re.DOTALL)
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^ {4}decompose .*\n)+", text, flags=re.MULTILINE)
    (block,) = [block for block in blocks if block.strip().startswith(first)]
    Path("mynet.py").write_text(re.sub(r"^ {4}", "", module, flags=re.MULTILINE), encoding="utf-8")
    make_images(Path("images"), ["cat", "dog"], n=24, side=32)
    for line in block.splitlines():
        command = re.sub(r"--epochs \d+", "--epochs 1", line.split("#")[0]).split()[1:]
        run(*command)
    assert Path("indices.json").exists()
