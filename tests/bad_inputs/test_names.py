"""Names of sets, of networks and of files in options that take several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import REFUSED, refused
from helpers.rows import Rows, cases, results, words

TINY = "{images}/one_each resnet20-digits"

NAMES: Rows = [
    (
        "mutual-info: two of one name and k",
        "mutual-info resnet20-digits -i a={m}/plain.json -i a={m}/document.json",
        "Two index sets are named 'a' and have k = 3",
        "plain.json and",
    ),
    (
        "mutual-info: two files of one stem",
        "mutual-info resnet20-digits -i {m}/plain.json -i {m}/plain.json",
        "Two index sets are named 'plain'",
    ),
    (
        "mutual-info: the name of gates",
        "mutual-info -i csg={m}/document.json --csg {m}/csg.pth",
        "cannot be named 'csg' beside --csg",
    ),
    ("mutual-info: no name", "mutual-info -i ={m}/document.json", "-i '=", "is neither FILE nor NAME=FILE"),
    ("mutual-info: no file", "mutual-info -i a=", "-i 'a=' is neither FILE nor NAME=FILE"),
    ("mutual-info: nothing", "mutual-info -i ''", "-i '' is neither FILE nor NAME=FILE"),
    ("sweep: two of one name and k", "sweep --ks 1 --methods weight -i a={m}/plain.json -i a={m}/document.json", "'a'"),
    (
        "sweep: name and k of a method",
        "sweep --ks 3 --methods weight -i weight={m}/plain.json",
        "plain.json: 'weight' is the name of a ranking",
    ),
    (
        "sweep: name of a method that is not tried",
        "sweep --ks 1 --methods weight -i mass={m}/plain.json",
        "plain.json: 'mass' is the name of a ranking",
    ),
    ("sweep: no name", "sweep -i ={m}/plain.json", "-i '=", "is neither FILE nor NAME=FILE"),
    ("sweep: no file", "sweep -i a=", "-i 'a=' is neither FILE nor NAME=FILE"),
    ("essential: repeats", "essential --method repeats={m}/plain.pth", "cannot be named 'repeats'"),
    ("essential: noise", "essential --method noise={m}/plain.pth", "cannot be named 'noise'"),
    ("essential: controls", "essential --method controls={m}/plain.pth", "cannot be named 'controls'"),
    ("essential: summary", "essential --method summary={m}/plain.pth", "cannot be named 'summary'"),
    (
        "essential: ours",
        "essential --method ours={m}/plain.pth",
        "--method cannot be named 'ours'",
        "MODEL and --weights",
    ),
    (
        "essential: csg beside gates",
        "essential --method csg={m}/csg.pth --csg {m}/csg.pth",
        "--method cannot be named 'csg', which is the network of --csg",
    ),
    ("essential: csg", "essential --method csg={m}/csg.pth", "--method cannot be named 'csg'"),
    ("essential: one name twice", "essential --method a={m}/plain.pth --method a={m}/csg.pth", "methods are named 'a'"),
    ("essential: no sign", "essential --method {m}/plain.pth", "is not NAME=WEIGHTS or NAME=WEIGHTS,INDICES"),
    ("essential: no name", "essential --method ={m}/plain.pth", "is not NAME=WEIGHTS"),
    ("essential: no weights", "essential --method a=", "--method 'a=' is not NAME=WEIGHTS"),
    ("essential: no weights before indices", "essential --method a=,{m}/plain.json", "is not NAME=WEIGHTS"),
    ("essential: no indices", "essential --method a={m}/plain.pth,", "is not NAME=WEIGHTS or NAME=WEIGHTS,INDICES"),
    ("essential: indices only", "essential --method a={m}/plain.json", "plain.json is a text", "not a checkpoint"),
    ("essential: nothing", "essential --method ''", "--method '' is not NAME=WEIGHTS"),
    ("selectivity: one stem twice", "selectivity --compare {m}/plain.pth --compare {m}/plain.pth", "named 'plain'"),
    ("selectivity: one name twice", "selectivity --compare a={m}/plain.pth --compare a={m}/csg.pth", "are named 'a'"),
    (
        "selectivity: no name",
        "selectivity --compare ={m}/plain.pth",
        "--compare '=",
        "is neither WEIGHTS nor NAME=WEIGHTS",
    ),
    ("selectivity: no weights", "selectivity --compare a=", "--compare 'a=' is neither WEIGHTS nor NAME=WEIGHTS"),
    ("selectivity: nothing", "selectivity --compare ''", "--compare '' is neither WEIGHTS nor NAME=WEIGHTS"),
    ("selectivity: this", "selectivity --compare this={m}/plain.pth", "--compare cannot name 'this'"),
    ("selectivity: this by stem", "selectivity --compare this.pth", "--compare cannot name 'this'"),
    ("mutual-info: address", "mutual-info -i https://host/i.json", "-i takes a file on this machine, not a URL"),
    ("mutual-info: named address", "mutual-info -i a=https://host/i.json", "-i takes a file on this machine"),
    ("mutual-info: address of gates", "mutual-info --csg https://host/g.pth", "--csg takes a file on this machine"),
    ("mutual-info: no gates", "mutual-info --csg ''", "--csg names no file"),
    ("essential: address of gates", "essential --csg https://host/g.pth", "--csg takes a file on this machine"),
    ("essential: no gates", "essential -i {m}/plain.json --csg ''", "--csg names no file"),
    ("sweep: address", "sweep -i https://host/i.json", "-i takes a file on this machine, not a URL"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(NAMES))
def test_bad_name(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    refused(words(line, material), REFUSED, *fragments)


def test_names_are_refused_before_any_weights_are_read(material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_nothing(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read before the names were looked at")

    monkeypatch.setattr("decompose_cli.models.classifier.read_weights", read_nothing)
    for line in (
        "essential --method summary={m}/plain.pth",
        "essential --method a={m}/plain.pth --method a={m}/csg.pth",
        "selectivity --compare a={m}/plain.pth --compare a={m}/csg.pth",
    ):
        refused(words(line, material), REFUSED, "named")


def test_names_and_gates_are_refused_before_the_work(material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work_nothing(*_: Any, **__: Any) -> None:
        raise AssertionError("there was work before the input was looked at")

    monkeypatch.setattr("decompose_cli.engines.sweep.accuracy_by_k", work_nothing)
    monkeypatch.setattr("decompose_cli.features.extraction.features_of_chunks", work_nothing)
    two = "-i a={m}/plain.json -i a={m}/document.json"
    gates = f"{TINY} -w {{m}}/csg_rows.pth --no-cache"
    for line, fragment in (
        (f"sweep --ks 1 --methods weight {two}", "two curves 'a' with a point at k = 3"),
        ("sweep --ks 1 --methods weight -i weight={m}/plain.json", "'weight' is the name of a ranking"),
        (f"mutual-info {gates} --method csg", "(9, 64)"),
        (f"sweep {gates} --methods csg --ks 1", "(9, 64)"),
        (f"extract-indices {gates} --method csg", "(9, 64)"),
        ("essential {images}/one_each --no-cache --csg {m}/csg_rows.pth", "(9, 64)"),
    ):
        refused(words(line, material), REFUSED, fragment)


def test_names_are_shown_as_they_are_in_both_tables(material: Path) -> None:
    _, said = results("mutual-info resnet20-digits -i [red]={m}/plain.json", material)
    assert said.count("[red]") == 2
