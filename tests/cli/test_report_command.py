"""'decompose report' from end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers import command_line
from helpers.command_line import Result, only_error


def run(*arguments: str, code: int = 0) -> Result:
    return command_line.run("report", *arguments, code=code)


@pytest.fixture
def found(isolated: None, validation: Path) -> Path:
    """A result in the working directory."""
    return Path(shutil.copy(validation, "."))


def test_a_page_is_written_where_it_is_wanted(found: Path) -> None:
    result = run(str(found), "-o", "pages/report.html", "--title", "A <title>")
    text = Path("pages/report.html").read_text(encoding="utf-8")
    assert "<title>A &lt;title&gt;</title>" in text
    assert "358 of 360 test images" in text
    assert result.stdout == ""
    assert result.stderr.splitlines() == ["1 result, 5 sections, 0.1 MB", "Report written to pages/report.html"]
    assert "exists already" in run(str(found), "-o", "pages/report.html", code=2).stderr
    run(str(found), "-o", "pages/report.html", "--overwrite")


def test_without_output_it_gets_a_new_name(found: Path) -> None:
    run(str(found))
    run(str(found))
    assert len(list(Path("results").glob("report-*.html"))) == 2


def test_json_says_what_is_on_the_page(found: Path) -> None:
    document = json.loads(run(str(found), "-o", "page.html", "--json", "-q").stdout)
    assert document["file"] == "page.html"
    assert document["bytes"] == Path("page.html").stat().st_size
    assert document["sections"] == ["glance", "accuracy", "confusion", "mistakes", "provenance"]
    assert document["results"] == [{"file": "validate.json", "command": "validate"}]


def test_open_opens_the_page_or_says_that_it_cannot(found: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or len(opened) == 1)
    assert "No browser" not in run(str(found), "-o", "page.html", "--open").stderr
    assert opened == [Path("page.html").resolve().as_uri()]
    assert "No browser could be started; open two.html" in run(str(found), "-o", "two.html", "--open").stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "There is nothing to report on"),
        (("nowhere.json",), "nowhere.json does not exist"),
        (("empty.json",), "empty.json is empty"),
        (("cut.json",), "cut.json is not valid JSON"),
        (("indices.json",), "indices.json is no result of decompose"),
        (("folder",), "The folder folder holds no results"),
        (("validate.json", "-o", "folder"), "it is a folder"),
        (("validate.json", "-o", "cut.json/page.html"), "cut.json is not a folder"),
    ],
)
def test_one_sentence_and_nothing_written(found: Path, arguments: tuple[str, ...], said: str) -> None:
    Path("empty.json").touch()
    Path("cut.json").write_text(found.read_text(encoding="utf-8")[:500], encoding="utf-8")
    Path("indices.json").write_text('{"0": [1, 2]}', encoding="utf-8")
    Path("folder").mkdir()
    before = sorted(Path.cwd().rglob("*"))
    result = run(*arguments, code=2)
    assert said in only_error(result.stderr)
    assert sorted(Path.cwd().rglob("*")) == before


def test_an_unreadable_neighbour_is_named(found: Path) -> None:
    Path("results").mkdir()
    Path("results/broken.json").write_text("{", encoding="utf-8")
    found.rename("results/validate.json")
    assert "results/broken.json is not valid JSON" in run("results", code=2).stderr
