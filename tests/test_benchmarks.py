"""The figures in benchmarks/README.md are those that the scripts printed, row by row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.markdown import table_after

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
README = (BENCHMARKS / "README.md").read_text(encoding="utf-8")

HELP = "decompose --help against an empty Typer program"
OPENING = "opening a network"
FORWARD = "forward loop of resnet20"
VALIDATE = "validate, 10,000 images of 32x32, whole process"
PNG_FILES = "validate, 10,000 images of 32x32, whole process, as PNG files"
EXTRACT = "extract-indices, 50,000 images"
SWEEP = "sweep, 10,000 images"
ESSENTIAL = "essential, 10,000 images"
TRAINING = "training ResNet-20 with Adam"
NORMS = "online normalisation"
TRAFFIC = "what two passes forward and two backward"
RECIPES = "trainings against bare steps"
DECODING = [f"decoding JPEG files of {size} pixels" for size in ("500 x 375", "1000 x 750")]
BUSY = "forward passes of resnet20"
GATES = "training step of ResNet-20 with soft gates"
SIZES = ("(128, 16, 32, 32)", "(128, 32, 16, 16)", "(128, 64, 8, 8)", "(64, 64, 56, 56)")


@dataclass(frozen=True)
class Printed:
    """A row that a script printed."""

    measured: str
    goal: str
    is_met: bool
    more: str


def sections() -> dict[str, str]:
    """What was printed, by its first line; the same job on other files has that in its name."""
    found = {}
    for block in (BENCHMARKS / "results.txt").read_text(encoding="utf-8").split("\n\n")[1:]:
        title, _, text = block.partition("\n")
        found[title + (", as PNG files" if "as PNG files" in text else "")] = text
    return found


def section(start: str) -> str:
    found = [text for title, text in sections().items() if title == start or title.startswith(start)]
    return found[0] if start == VALIDATE else found[-1]


def printed(start: str, label: str) -> Printed:
    row = rf"^  {re.escape(label)} +([\d.]+x) +([<>]= [\d.]+)x +(met|MISSED) +(.*)$"
    found = re.findall(row, section(start), flags=re.MULTILINE)
    assert len(found) == 1, (start, label)
    ((measured, goal, verdict, more),) = found
    return Printed(measured, goal, verdict == "met", more)


def of_sizes(what: str) -> list[str]:
    return [f"{size}{what}" for size in SIZES]


OF_COMMANDS = [f"decompose {name} --help" for name in ("validate", "extract-indices", "demo")]
BARE = "the same, float32 and bfloat16, against bare"
PLAIN = f"`OnlineNorm2d` / `BatchNorm2d`, forward and backward, {', '.join(SIZES)}"
# How the row of the table begins, what was run, and the labels of its rows there.
ROWS: list[tuple[str, str, list[str]]] = [
    ("`decompose --help`", HELP, ["decompose --help"]),
    (
        "`decompose COMMAND --help`",
        HELP,
        [f"decompose {name} --help" for name in ("validate", "extract-indices", "demo")],
    ),
    (
        "opening a network in Python",
        OPENING,
        [f"{name}, 224x224: opening / a pass over 8 images" for name in ("ResNet-18", "ResNet-50")],
    ),
    ("forward loop, float32", FORWARD, ["fp32 in chunks of 48, eager / ours"]),
    ("forward loop, bfloat16", FORWARD, ["bf16 in chunks of 96, eager / ours"]),
    ("`validate`, 10,000 images in a CIFAR-10 batch file, warm", VALIDATE, ["warm fp32, published / ours"]),
    ("the same, cold cache, float32", VALIDATE, ["cold fp32, published / ours"]),
    ("the same, cold cache, bfloat16", VALIDATE, ["cold bf16, published / ours"]),
    ("the same, peak memory, float32", VALIDATE, ["cold fp32, peak memory"]),
    ("the same, peak memory, bfloat16", VALIDATE, ["cold bf16, peak memory"]),
    ("`validate`, 10,000 PNG files in class folders, warm", PNG_FILES, ["warm fp32, published / ours"]),
    ("the same, cold cache, float32", PNG_FILES, ["cold fp32, published / ours"]),
    ("the same, cold cache, bfloat16", PNG_FILES, ["cold bf16, published / ours"]),
    ("`extract-indices`, 50,000 images", EXTRACT, ["fp32, published / ours"]),
    ("the same, bfloat16", EXTRACT, ["bf16, published / ours"]),
    ("the same, peak memory, float32", EXTRACT, ["fp32, peak memory"]),
    ("the same, peak memory, bfloat16", EXTRACT, ["bf16, peak memory"]),
    ("`sweep`, 10,000 images", SWEEP, ["warm, published / ours"]),
    ("the same, cold cache", SWEEP, ["cold, published / ours"]),
    ("`essential`, two checkpoints", ESSENTIAL, ["no random sets, published / ours"]),
    ("the same, and 100 random sets", ESSENTIAL, ["100 random sets, published without / ours with"]),
    ("training ResNet-20 with Adam, batch 64, float32", TRAINING, ["batch 64, fp32, ours / published"]),
    ("the same, bfloat16", TRAINING, ["batch 64, bf16, ours / published"]),
    (
        "the same, float32 and bfloat16, against bare",
        TRAINING,
        [f"batch 64, {p}, ours / bare step" for p in ("fp32", "bf16")],
    ),
    ("training, batch 128, float32", TRAINING, ["batch 128, fp32, ours / published"]),
    ("the same, bfloat16", TRAINING, ["batch 128, bf16, ours / published"]),
    (
        "the same, float32 and bfloat16, against bare",
        TRAINING,
        [f"batch 128, {p}, ours / bare step" for p in ("fp32", "bf16")],
    ),
    (
        f"`OnlineNorm2d` / `BatchNorm2d`, forward and backward, {', '.join(SIZES)}",
        NORMS,
        of_sizes(": online / batch norm"),
    ),
    ("the same, compiled / `BatchNorm2d` as it is", NORMS, of_sizes(": compiled / batch norm")),
    ("the same, channels last", NORMS, of_sizes(", channels last: online / batch norm")),
    ("the same, channels last, compiled", NORMS, of_sizes(", channels last: compiled / batch norm")),
    (
        "training step of ResNet-20 with a gate over its last stage / without: `entropy-classifier`, `entropy`, `l2`, "
        "`softmax`",
        GATES,
        [f"{gate} / plain" for gate in ("entropy-classifier", "entropy", "l2", "softmax")],
    ),
    ("the same, over its last two: `entropy-classifier-b3b2`", GATES, ["entropy-classifier-b3b2 / plain"]),
    ("a plain loop over the samples / `OnlineNorm2d`", NORMS, of_sizes(": loop / online")),
]
TABLE = table_after(README, "| job | measured | goal |")
MET = {
    "met": lambda met: all(met),
    "missed": lambda met: not any(met),
    "missed but the last": lambda met: not any(met[:-1]) and met[-1],
    "missed the last": lambda met: all(met[:-1]) and not met[-1],
}


def numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text.rstrip(","))]


def test_every_row_of_the_table_is_compared() -> None:
    assert [row[0][: len(start)] for row, (start, _, _) in zip(TABLE, ROWS, strict=True)] == [row[0] for row in ROWS]


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[f"{start} {labels[0]}" for _, start, labels in ROWS])
def test_a_row_of_the_table_is_what_the_script_printed(number: int) -> None:
    _, shown, goals, verdict = TABLE[number]
    _, start, labels = ROWS[number]
    rows = [printed(start, label) for label in labels]
    ratios = re.findall(r"[\d.]+x", shown)
    if " to " in shown:
        assert ratios == [min(row.measured for row in rows), max(row.measured for row in rows)]
    else:
        assert ratios == [row.measured for row in rows]
    for more in re.findall(r"\((.+)\)", shown):
        (unit,) = re.findall(r"[A-Za-z/]+$", more)
        beside = [numbers(of_row)[-1] for row in rows for of_row in re.findall(rf"[\d.,]+ {unit}\b", row.more)[:1]]
        if " of " in more:  # memory: ours of theirs
            assert rows[0].more.startswith(more)
        else:
            assert numbers(more) == ([min(beside), max(beside)] if " to " in more else beside[:1])
    sign, expected = goals.split(" ", 1)
    expected_goals = numbers(expected) if "," in expected else numbers(expected) * len(rows)
    assert [row.goal.split()[0] for row in rows] == [sign] * len(rows)
    assert [float(row.goal.split()[1]) for row in rows] == expected_goals
    assert MET[verdict]([row.is_met for row in rows])


FIGURE = r"([\d,.]*\d)"
# What a sentence beside the table says, and the line that it has it from.
SENTENCES: list[tuple[str, str, str]] = [
    (
        f"Of the largest process alone, a cold `validate` takes {FIGURE}x",
        VALIDATE,
        f"cold fp32, peak memory .* MB, {FIGURE}x",
    ),
    (f"the evaluation took {FIGURE} s instead of", VALIDATE, f"without workers: {FIGURE} s"),
    (f"instead of {FIGURE} s: with two cores", VALIDATE, f"published style, 2 workers: {FIGURE} s"),
    (f"The forward pass runs at {FIGURE} GFLOP/s", FORWARD, f"fp32 in chunks .*, {FIGURE} GFLOP/s"),
    (f"where a matrix product reaches {FIGURE}:", FORWARD, f"matrix product: {FIGURE} GFLOP/s fp32"),
    (f"The eager network at batch 128 makes {FIGURE} images/s", FORWARD, f"eager, fp32, batch 128: {FIGURE} images/s"),
    (
        f"and {FIGURE} images/s with freed memory",
        FORWARD,
        f"with freed memory kept, as ours sets it: {FIGURE} ",
    ),
    (
        f"which make {FIGURE} images/s at batch 128",
        TRAINING,
        f"batch 128, fp32, ours / bare step .* {FIGURE} images/s bare",
    ),
    (f"and {FIGURE} images/s at batch 64", TRAINING, f"batch 64, fp32, ours / bare step .* {FIGURE} images/s bare"),
    *(
        (
            f"and {FIGURE} at {'batch ' * (size == 64)}{size}[,.]",
            TRAINING,
            f"batch {size}, bf16, ours / bare step +{FIGURE}x",
        )
        for size in (64, 128)
    ),
    (f"and {FIGURE} times the published loop", TRAINING, f"batch 128, fp32, ours / published +{FIGURE}x"),
    (f"takes {FIGURE} times as long with online", NORMS, f"batch 128: online / batch norm {FIGURE}x"),
    (f"both compiled {FIGURE} times", NORMS, f"both compiled: online / batch norm {FIGURE}x"),
    (f"backward move .{FIGURE} GB/s", TRAFFIC, f"moves {FIGURE} GB/s"),
    *(
        (before + FIGURE + after, TRAFFIC, rf"{re.escape(size)}, channels last: .* {norm} [\d.]+ ms, {FIGURE}x")
        for norm, start in (("batch norm", "`BatchNorm2d` takes "), ("online", "as long and `OnlineNorm2d` "))
        for number, size in enumerate(SIZES)
        for before in [start + r"[\d.]+(?:, | and )" * number]
        for after in [" times" if number == len(SIZES) - 1 else "(?:,| and)"]
    ),
    (f"then goes at {FIGURE} images/s with online", RECIPES, f"online, compiled .* {FIGURE} images/s"),
    (f"and {FIGURE} images/s with batch norm", RECIPES, f"batch, compiled .* {FIGURE} images/s"),
    (f"`exclusive` takes {FIGURE} times", GATES, f"exclusive / plain: {FIGURE}x"),
    *(
        (f"`{gate}` {FIGURE}[,.]? ", GATES, f"{gate} / plain: {FIGURE}x")
        for gate in ("exclusive-element-1x1", "exclusive-tube-1x1", "exclusive-tube-3x3")
    ),
    (f"`shortcut` {FIGURE}", GATES, f"shortcut / plain: {FIGURE}x"),
    (f"go at {FIGURE}x of the speed of operators", BUSY, f"quiet, now / before +{FIGURE}x"),
    (f"and at {FIGURE}x beside four", BUSY, f"busy, now / before +{FIGURE}x"),
]


@pytest.mark.parametrize(
    ("said", "start", "line"), SENTENCES, ids=[said.replace(FIGURE, "N") for said, _, _ in SENTENCES]
)
def test_a_figure_in_a_sentence_is_what_the_script_printed(said: str, start: str, line: str) -> None:
    ((figure),) = re.findall(said, " ".join(README.split()))
    ((measured),) = re.findall(line, section(start))
    assert figure.rstrip(".,") == measured


def test_runs_of_the_same_script_gave_what_is_said() -> None:
    text = " ".join(README.split()).split("In bfloat16 the same program")[1]
    runs = [*(BENCHMARKS / "repeated_runs.txt").read_text(encoding="utf-8").split("\n\n"), section(TRAINING)]
    repeats = [re.findall(r"median of (\d+) interleaved", run)[0] for run in runs[:-1]]
    assert f"of {numbered(repeats)} repeats" in text
    for said, row in (
        (r"gave ([\d., and]+?) at batch 64,", "batch 64, bf16, ours / bare step"),
        (r"at batch 64, and ([\d., and]+?) at 128", "batch 128, bf16, ours / bare step"),
        (r"they gave ([\d., and]+?) times the published loop at batch 128", "batch 128, fp32, ours / published"),
    ):
        measured = [re.findall(rf"^  {row} +([\d.]+)x", run, flags=re.MULTILINE)[0] for run in runs]
        assert re.findall(said, text) == [numbered(measured)]


def numbered(figures: list[str]) -> str:
    return f"{', '.join(figures[:-1])} and {figures[-1]}"


def test_ways_to_decode_are_as_fast_as_the_script_printed() -> None:
    """Beside their ratios the table says how far the pixels of the first size are from Pillow's."""
    first, second = DECODING
    expected = []
    for way in re.findall(r"^  (\S.*?) +[\d.]+x  >=", section(first), flags=re.MULTILINE):
        row = printed(first, way)
        pixels = row.more.split("images/s, ")[1].removeprefix("pixels differ by ").removesuffix(" pixels")
        expected.append([way, row.measured, printed(second, way).measured, pixels])
    assert table_after(README, "| way to decode |") == expected


def test_every_speed_in_a_sentence_is_compared() -> None:
    """No sentence has a speed that the list above leaves out."""
    text = " ".join(README.split())
    speeds = re.findall(r"[\d,.]*\d(?= (?:images/s|GFLOP/s))", text.split("How to read them")[1])
    known = [figure for said, _, _ in SENTENCES for figure in re.findall(said, text)]
    assert len(speeds) >= 5
    assert [speed for speed in speeds if speed not in known] == []
