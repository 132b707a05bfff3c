"""CSV files: what spreadsheets would run is text, numbers are numbers."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import torch

import decompose_cli
from decompose_cli.storage.csv_text import csv_text
from decompose_cli.training.gating.start import label_noise_csv

FORMULAS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    '=A("http://x")',
    "-",
    "--",
    "+-1",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_texts_that_are_formulas_get_an_apostrophe(text: str) -> None:
    rows = list(csv.reader(csv_text([text], [[text, 1]]).splitlines(keepends=True)))
    escaped = text.replace("\t", r"\t").replace("\r", r"\r").replace("\n", r"\n")
    assert [row[0] for row in rows] == [f"'{escaped}"] * 2


def test_every_row_is_one_line_of_text() -> None:
    content = csv_text(["file"], [["a\r=1"], ["b\n=1"], [os.fsdecode(b"\xff.png")], ["c\u2028=1"]])
    assert content.encode().splitlines() == [b"file", rb"a\r=1", rb"b\n=1", rb"\udcff.png", rb"c\u2028=1"]


@pytest.mark.parametrize("cell", [-1, -0.5, "-0.5", "+3", "-1e-05", "-inf", "cat", "a=b", "a-b", "'=1", "", " =1"])
def test_numbers_and_other_texts_are_left_alone(cell: object) -> None:
    assert csv_text(["a", "b"], [[cell, 1]]) == f"a,b\n{cell},1\n"


def test_label_noise_names_files_and_classes_that_spreadsheets_would_run() -> None:
    before, after = torch.tensor([0, 1]), torch.tensor([1, 0])
    names, files = ["=cmd", "-dog"], ["@a/0.png", "-1.png"]
    lines = label_noise_csv(torch.tensor([0, 1]), before, after, names, files).splitlines()
    assert lines[1:] == ["0,1,0,'-dog,'=cmd,'@a/0.png", "1,0,1,'=cmd,'-dog,'-1.png"]


def test_every_csv_file_of_the_package_is_written_here() -> None:
    """The counter-example would be a writer of its own."""
    users = [
        path.name
        for path in Path(decompose_cli.__file__).parent.rglob("*.py")
        if "csv.writer" in (text := path.read_text(encoding="utf-8")) or "csv.DictWriter" in text
    ]
    assert users == ["csv_text.py"]
