"""What compare cannot compare: one sentence each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import saved
from helpers.command_line import REFUSED, refused, run
from helpers.inputs import document, published
from helpers.rows import Rows, cases, results, table, words

PLAIN = "compare {m}/plain.json"
KNOWN = "compare --model resnet20-digits {m}/plain.json"

FILES: Rows = [
    ("nothing", "compare", "There is nothing to compare."),
    ("one file", PLAIN, "There is nothing to compare", "plain.json with"),
    ("missing", f"{PLAIN} {{m}}/none.json", "none.json does not exist"),
    ("missing without an ending", f"{PLAIN} {{m}}/none", "none does not exist"),
    ("empty", f"{PLAIN} {{m}}/empty.json", "empty.json is empty"),
    ("truncated", f"{PLAIN} {{m}}/half.json", "half.json is not valid JSON"),
    ("empty weights", f"{PLAIN} {{m}}/empty.pth", "empty.pth is empty"),
    ("truncated weights", f"{PLAIN} {{m}}/half.pth", "half.pth is damaged or truncated"),
    ("hostile pickle", f"{PLAIN} {{m}}/hostile.pth", "hostile.pth"),
    ("hostile archive", f"{PLAIN} {{m}}/hostile_archive.pth", "hostile_archive.pth"),
    ("pipe", f"{PLAIN} {{m}}/pipe", "pipe is a pipe, not a file"),
    ("folder without a result", f"{PLAIN} {{m}}/taken", "holds no result.json"),
    ("image", f"{PLAIN} {{m}}/one_each/test/3/1.png", "1.png is"),
    ("same name twice", "compare a={m}/plain.json a={m}/document.json", "Two are named 'a'"),
    ("same stem twice", f"{PLAIN} {{m}}/plain.json", "Two are named 'plain'"),
    ("no name", f"{PLAIN} ={{m}}/document.json", "is neither FILE nor NAME=FILE"),
    ("no file", f"{PLAIN} b=", "'b=' is neither FILE nor NAME=FILE"),
    ("empty text", f"{PLAIN} ''", "'' is neither FILE nor NAME=FILE"),
    ("URL", f"{PLAIN} https://host/k.json", "https://host/k.json is a URL"),
    ("too long a name", f"{PLAIN} {'n' * 300}", "cannot be read: File name too long"),
    ("other number of classes", f"{PLAIN} {{m}}/nine.json", "plain.json has 10 classes, but", "nine.json has 9"),
    ("other number of features", "compare {m}/document.json {m}/wide.json", "is for 64 features, but", "is for 128"),
    ("fewer classes than the network", f"{KNOWN} {{m}}/nine.json", "nine.json has 9 classes, but the network has 10"),
    ("wider than the network", f"{KNOWN} {{m}}/wide.json", "wide.json is for 128 features, but the network has 64"),
    ("index beyond the network", f"{KNOWN} {{m}}/beyond.json", "class 3", "0 to 63"),
    ("index twice", f"{PLAIN} {{m}}/twice.json", "class 3 has the index 5 twice"),
    ("weights of nobody", f"{PLAIN} w={{m}}/plain.pth", "plain.pth does not say which network it belongs to"),
    (
        "weights of another network",
        f"{PLAIN} --model resnet8 -w random --dataset digits w={{m}}/plain.pth",
        "plain.pth",
        "resnet8",
    ),
    ("head without its indices", f"{KNOWN} {{m}}/published.pth", "without the indices that belong to it"),
    ("unknown network", f"{PLAIN} {{m}}/nine.json --model nosuch", "There is no model 'nosuch'"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(FILES))
def test_what_cannot_be_compared(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    refused(words(line, material), REFUSED, *fragments)


@pytest.mark.parametrize("name", ["log.csv", "notes.txt", "page.html", "nothing_said"])
def test_text_of_another_kind_is_not_called_a_damaged_checkpoint(material: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Größe,5\r\n\t<p>class</p>\n", "utf-8")
    refused(["compare", f"{material}/plain.json", str(tmp_path / name)], REFUSED, f"{name} is text, but neither")


def test_the_full_head_keeps_its_name(material: Path) -> None:
    arguments = ["compare", f"full head={material}/plain.json", f"{material}/document.json"]
    refused(arguments, REFUSED, "cannot be named 'full head'")


@pytest.mark.parametrize(
    "line",
    [
        "compare {m}/plain.json {m}/document.json",
        "compare {m}/plain.json {m}/document.json --model resnet20-digits",
        "compare {m}/plain.json {m}/decomposed.pth w={m}/plain.pth b={m}/csg.pth --model resnet20-digits",
    ],
)
def test_what_is_good_in_the_table_works(material: Path, line: str) -> None:
    found, _ = results(line, material)
    assert found["sets"]


def changed(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """A change of fields of a document, by their path with ``__`` between names."""

    def change(content: dict[str, Any]) -> None:
        for path, value in changes.items():
            *inner, last = path.split("__")
            place: Any = content
            for name in inner:
                place = place[name]
            place[last] = value

    return change


DOCUMENTS = [
    ("another command", changed(command="mutual-info"), "is a result of 'mutual-info', which has neither sets"),
    ("no command", changed(command=None), "is a result of None"),
    ("command of another type", changed(command=[1]), "is a result of [1]"),
    ("later version", changed(schema_version=2), "was written by another version of decompose (schema 2)"),
    ("version as text", changed(schema_version="1"), "schema_version: Input should be a valid integer"),
    ("results as a list", changed(results=[]), "results: Input should be a valid dictionary"),
    ("no model", changed(model=None), "is about features without a network"),
    ("model as text", changed(model="net"), "model: Input should be a valid dictionary"),
    ("arguments of another type", changed(arguments__mean=3), "arguments.mean: Input should be a valid string"),
    (
        "indices that are gone",
        changed(results__indices__source="gone.json"),
        "index file gone.json, which is not there",
    ),
    ("indices that have changed", changed(results__indices__sha256="0" * 64), "which has changed since"),
    ("unknown network", changed(model__name="nosuch"), "There is no model 'nosuch'"),
    ("other images", changed(dataset__fingerprint="0" * 64), "is of other images"),
    ("images that are gone", changed(dataset__name="folder:gone"), "gone"),
    ("weights that are gone", changed(arguments__weights="gone.pth"), "gone.pth does not exist"),
]


@pytest.mark.parametrize(("change", "fragment"), table(DOCUMENTS))
def test_a_document_that_cannot_be_used(inputs: Path, change: Callable[..., None], fragment: str) -> None:
    (inputs / "k.json").write_text(json.dumps(published()), encoding="utf-8")
    run("validate", "-i", str(inputs / "k.json"), "-o", str(inputs / "v.json"), "-q")
    content = json.loads((inputs / "v.json").read_text(encoding="utf-8"))
    change(content)
    (inputs / "v.json").write_text(json.dumps(content), encoding="utf-8")
    said = refused(["compare", str(inputs / "k.json"), str(inputs / "v.json")], REFUSED, fragment)
    assert "_" not in said.partition("should be")[2].partition(".")[0], "no name of a class of ours"


def test_numbers_that_are_none(inputs: Path) -> None:
    """NaN among indices, in a document and among weights."""
    (inputs / "k.json").write_text(json.dumps(document()), encoding="utf-8")
    (inputs / "nan.json").write_text('{"0": [NaN]}', encoding="utf-8")
    (inputs / "nan.pth").write_bytes(saved({"linear.weight": torch.tensor([float("nan")])}))
    for name, said in (("nan.json", "NaN is not a JSON number"), ("nan.pth", "linear.weight contains NaN")):
        refused(["compare", str(inputs / "k.json"), str(inputs / name)], REFUSED, said)


def test_a_document_imports_no_code(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of a user's own is not imported because a file names it."""
    (inputs / "k.json").write_text(json.dumps(published()), encoding="utf-8")
    run("validate", "-i", str(inputs / "k.json"), "-o", str(inputs / "v.json"), "-q")
    content = json.loads((inputs / "v.json").read_text(encoding="utf-8"))
    content["model"]["name"] = "evil:net"
    (inputs / "v.json").write_text(json.dumps(content), encoding="utf-8")
    Path("evil.py").write_text("open('imported', 'w')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    said = run("compare", str(inputs / "k.json"), str(inputs / "v.json"), "--json").stderr
    assert "evil:net, Python code of its own: --model names it" in said
    assert not Path("imported").exists()
    content["results"]["indices"] = None
    (inputs / "v.json").write_text(json.dumps(content), encoding="utf-8")
    refused(["compare", str(inputs / "k.json"), str(inputs / "v.json")], REFUSED, "evil:net, which is Python code")
    assert not Path("imported").exists()
