"""What the parser refuses is one sentence, and a hint where one helps."""

from __future__ import annotations

import pytest
from helpers.command_line import invoke, refused, run

REFUSED = [
    ("validate --batch-size many", "--batch-size 'many' is not a whole number."),
    ("validate -b 2.5", "--batch-size '2.5' is not a whole number."),
    ("validate -b=", "--batch-size '' is not a whole number."),
    ("train --lr 3 --lr=fast", "--lr 'fast' is not a number."),
    ("cache --older-than -1", "--older-than '-1' cannot be: "),
    ("validate --dataset", "Option '--dataset' requires an argument."),
    ("datasets --data-dir --json",
     "--data-dir needs a value, and --json after it is an option."),
    ("validate -o -q", "-o needs a value, and -q after it is an option."),
    ("train --epochs 3 --lr-milestones --seed 3",
     "--lr-milestones needs a value, and --seed after it is an option."),
    ("validate -i -h", "-i needs a value, and -h after it is an option."),
    ("validate -qo --json", "-o needs a value, and --json after it is an option."),
    ("cache --older-than --json", "--older-than needs a value, and --json after it is an option."),
    ("validate --quiet=3", "Option '--quiet' does not take a value."),
    ("validate one two", "Got unexpected extra argument(s) (two)."),
    ("--frobnicate", "decompose has no option --frobnicate."),
    ("frobnicate", "No such command 'frobnicate'."),
    ("validat", "No such command 'validat'. Did you mean 'validate'?"),
    ("validate --datset x", "validate has no option --datset. Did you mean --dataset?"),
    ("validate --frobnicate", "validate has no option --frobnicate. 'decompose validate --help' lists the options."),
    ("explain --class cat",
     "explain has no option --class. Did you mean --classes or --class-map? --class is an option of filters, atlas."),
    ("selectivity --layer x",
     "selectivity has no option --layer. Did you mean --layers? --layer is an option of explain."),
    ("export --precisio 32", "export has no option --precisio. 'decompose export --help' lists the options."),
]  # fmt: skip


@pytest.mark.parametrize(("line", "sentence"), REFUSED, ids=[line for line, _ in REFUSED])
def test_the_parser_refuses_in_a_sentence(line: str, sentence: str) -> None:
    said = refused(line.split(), 2).removeprefix("Error: ").replace("\nHint: ", " ").strip()
    assert said.startswith(sentence), said
    assert said == sentence or sentence.endswith(": "), "nothing else is said"


def test_help_is_no_error() -> None:
    assert "Usage" in run("validate", "--help").stdout
    shown = invoke()
    assert shown.exit_code in (0, 2)
    assert "Error" not in shown.output
    assert "validate" in shown.output
