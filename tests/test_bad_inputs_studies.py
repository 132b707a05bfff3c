"""Bad inputs of the studies: each gives its exit code and one sentence, or a documented result, and leaves nothing.

Rows are command lines. ``{m}`` is the folder of the material that :func:`material` makes, ``{images}`` stands for
``--dataset folder:`` before one of its folders of images.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import test_bad_inputs as base
import torch
from safetensors.torch import load_file
from test_bad_inputs import CLASSES, FAILED, FEATURES, REFUSED, Hostile, saved, table
from typer.testing import CliRunner

from decompose_cli.cli.app import app
from decompose_cli.models.registry import DEFAULT_MODEL, get_entry
from decompose_cli.models.weights import shipped_weights

inputs = base.inputs  # a fixture

NETWORKS = (
    base.NETWORKS
    + """

def not_on_random_images(x, value):
    # The value for photographs, zero for the random numbers with which the head is looked for.
    return torch.where(x.amin((1, 2, 3)) > -2, value, 0.0)

class NotANumber(Net):
    def forward(self, x):
        return self.out(self.body(x) + not_on_random_images(x, float("nan"))[:, None])

class Odd(nn.Module):
    def forward(self, x):
        return x.abs() + not_on_random_images(x, float("nan"))[:, None, None, None]

class Pairs(nn.Module):
    def forward(self, x):
        return x, x

class Beside(Net):
    # A layer whose outputs nobody uses.
    def __init__(self, layer):
        super().__init__()
        self.beside = layer

    def forward(self, x):
        self.beside(x)
        return super().forward(x)

def odd(): return Beside(Odd())
def pairs(): return Beside(Pairs())
def tokens(): return Beside(nn.Sequential(nn.Flatten(2), nn.ReLU()))

class Twice(Net):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        return super().forward(self.relu(self.relu(x)))

def without_relu(): return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))

def dead():
    net = Net()
    nn.init.zeros_(net.body[2].weight)
    nn.init.constant_(net.body[2].bias, -1.0)
    return net
"""
)


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Index files, checkpoints, images and Python code, good and bad; no test changes it."""
    folder = tmp_path_factory.mktemp("material")
    weights = get_entry(DEFAULT_MODEL).weights
    assert isinstance(weights, Path)
    state = load_file(shipped_weights(weights))
    gates = torch.rand(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
    with_nan = gates.clone()
    with_nan[3, 7] = math.nan

    def gated(matrix: torch.Tensor) -> bytes:
        return saved({**state, "csg": matrix})

    indices = {
        "plain": base.published(),
        "document": base.document(),
        "wide": base.document(num_features=128),
        "beyond": base.published(c3=[1, FEATURES]),
        "nine": base.published(c9=None),
        "twice": base.published(c3=[5, 5]),
    }
    files: dict[str, bytes | None] = {f"{name}.json": json.dumps(content).encode() for name, content in indices.items()}
    files |= {
        "empty.json": b"",
        "half.json": b'{"0": [1, 2',
        "plain.pth": saved(state),
        "csg.pth": gated(gates),
        "csg_rows.pth": gated(gates[:9]),
        "csg_columns.pth": gated(torch.cat([gates, gates[:, :1]], 1)),
        "csg_flat.pth": gated(gates.flatten()),
        "csg_nothing.pth": gated(gates[:0]),
        "csg_nan.pth": gated(with_nan),
        "csg_negative.pth": gated(gates - 0.5),
        "csg_zero.pth": gated(torch.zeros(CLASSES, FEATURES)),
        "csg_whole.pth": gated((10 * gates).long()),
        "csg_alone.pth": saved({"csg": gates}),
        "decomposed.pth": base.decomposed()(state),
        "published.pth": base.with_published_head(torch.zeros(CLASSES, 3), torch.zeros(CLASSES))(state),
        "hostile.pth": pickle.dumps(Hostile(), protocol=2),
        "hostile_archive.pth": base.hostile_archive(state),
        "empty.pth": b"",
        "half.pth": gated(gates)[:-5000],
        "code/networks.py": NETWORKS.encode(),
        "taken/file.json": b"mine",
        "curve/curve.png": b"mine",
        "result/result.json": b"mine",
        "chosen/indices.json": b"mine",
    }
    images = base.ALL_DIGITS
    for name, chosen in {
        "one_each": images,
        "lacks_3": {path: content for path, content in images.items() if "/3/" not in path},
        "test_lacks_3": {path: content for path, content in images.items() if path != "test/3/1.png"},
        "no_train": {path: content for path, content in images.items() if path.startswith("test/")},
        "no_test": {path: content for path, content in images.items() if path.startswith("train/")},
        "single": {path: content for path, content in images.items() if "/3/" in path},
    }.items():
        files |= {f"{name}/{path}": content for path, content in chosen.items()}
    base.put(folder, files)
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture(autouse=True)
def unchanged(material: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The networks of the user's are on the Python path; the material is afterwards as it was."""

    def stand() -> list[tuple[str, int]]:
        return [(str(path), path.lstat().st_mtime_ns) for path in sorted(material.rglob("*"))]

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(material / "code"))
    monkeypatch.delitem(sys.modules, "networks", raising=False)
    before = stand()
    yield
    sys.modules.pop("networks", None)
    assert stand() == before


def words(line: str, material: Path) -> list[str]:
    """The arguments of a row; ``''`` is the empty text."""
    line = line.replace("{images}", "--dataset folder:{m}")
    return [word.replace("{m}", str(material)).replace("''", "") for word in line.split(" ")]


def results(line: str, material: Path) -> tuple[dict[str, Any], str]:
    """What a command that works gives, and what it says; nothing in it is NaN or infinite."""
    result = CliRunner().invoke(app, [*words(line, material), "--json"])
    assert result.exit_code == 0, result.stderr

    def refuse(constant: str) -> None:
        raise AssertionError(f"the result holds {constant}")

    found: dict[str, Any] = json.loads(result.stdout, parse_constant=refuse)["results"]
    return found, result.stderr


Rows = list[tuple[str, ...]]  # name, command line, parts of the sentence


def cases(rows: Rows) -> Any:
    return table([(row[0], row[1], row[2:]) for row in rows])


# --- index sets for another network -----------------------------------------------------------------------------------

INDEX_SETS: Rows = [
    (
        "mutual-info: more features than said",
        "mutual-info -i {m}/wide.json --num-features 64",
        "wide.json is for 128 features, but --num-features is 64",
    ),
    (
        "mutual-info: fewer features than said",
        "mutual-info -i {m}/document.json --num-features 128",
        "is for 64 features, but --num-features is 128",
    ),
    ("mutual-info: index beyond the model", "mutual-info resnet20-digits -i {m}/beyond.json", "class 3", "0 to 63"),
    ("mutual-info: index beyond the number", "mutual-info -i {m}/plain.json --num-features 20", "class 0", "0 to 19"),
    ("mutual-info: index beyond the gates", "mutual-info -i {m}/beyond.json --csg {m}/csg.pth", "class 3", "0 to 63"),
    (
        "mutual-info: number of features 0",
        "mutual-info -i {m}/plain.json --num-features 0",
        "--num-features 0 is not between 1 and",
    ),
    (
        "mutual-info: negative number",
        "mutual-info -i {m}/plain.json --num-features -1",
        "--num-features -1 is not between 1 and 1,000,000",
    ),
    (
        "mutual-info: number too large",
        "mutual-info -i {m}/plain.json --num-features 99999999999",
        "--num-features 99999999999 is not between 1 and 1,000,000",
    ),
    ("mutual-info: number for no file", "mutual-info --num-features 64", "--num-features is for index files"),
    (
        "mutual-info: number for gates only",
        "mutual-info --csg {m}/csg.pth --num-features 64",
        "--num-features is for index files, and there is none",
    ),
    (
        "mutual-info: other D than the model",
        "mutual-info resnet20-digits -i {m}/wide.json",
        "wide.json is for 128 features, but resnet20-digits has 64",
    ),
    (
        "mutual-info: other number than the model",
        "mutual-info resnet20-digits -i {m}/plain.json --num-features 100",
        "--num-features 100 contradicts resnet20-digits, which has 64",
    ),
    ("mutual-info: nobody knows D", "mutual-info -i {m}/plain.json", "plain.json does not say how many features"),
    (
        "mutual-info: one of two files does not say D",
        "mutual-info -i a={m}/document.json -i b={m}/plain.json",
        "plain.json does not say how many features",
    ),
    ("mutual-info: index twice", "mutual-info resnet20-digits -i {m}/twice.json", "class 3 has the index 5 twice"),
    ("mutual-info: unknown model", "mutual-info networks:nobody -i {m}/plain.json", "no callable 'nobody'"),
    ("mutual-info: model without a head", "mutual-info networks:no_head -i {m}/plain.json", "no linear layer"),
    ("essential: other D", "essential -i {m}/wide.json", "wide.json is for 128 features, but the network has 64"),
    ("essential: index beyond D", "essential -i {m}/beyond.json", "class 3 has the index 64"),
    ("essential: other C", "essential -i {m}/nine.json", "nine.json has 9 classes, but the network has 10"),
    ("method: other D", "essential --method a={m}/plain.pth,{m}/wide.json", "wide.json is for 128 features"),
    ("method: index beyond D", "essential --method a={m}/plain.pth,{m}/beyond.json", "class 3 has the index 64"),
    ("method: other C", "essential --method a={m}/plain.pth,{m}/nine.json", "nine.json has 9 classes"),
    ("sweep: other D", "sweep -i {m}/wide.json", "wide.json is for 128 features, but the network has 64"),
    ("sweep: index beyond D", "sweep -i {m}/beyond.json", "class 3 has the index 64"),
    ("sweep: other C", "sweep -i {m}/nine.json", "nine.json has 9 classes, but the network has 10"),
    ("sweep: second file is for another C", "sweep -i {m}/plain.json -i {m}/nine.json", "nine.json has 9 classes"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(INDEX_SETS))
def test_index_set_for_another_network(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    base.refused(words(line, material), REFUSED, *fragments)


# --- gates ------------------------------------------------------------------------------------------------------------

NO_GATES = "plain.pth holds no class-specific gates"
WHOLE_NUMBERS = "csg_whole.pth: 'csg' holds int64, not floating-point gates"
ONE_DIMENSION = "csg_flat.pth: 'csg' has the shape (640,), not (classes, features)"
GATES_NAN = "csg_nan.pth are not finite: csg contains NaN"
FITS = "but the network has 10 classes and 64 features"
TINY = "{images}/one_each resnet20-digits"

GATES: Rows = [
    ("mutual-info: none", "mutual-info --csg {m}/plain.pth", NO_GATES),
    ("mutual-info: one-dimensional", "mutual-info --csg {m}/csg_flat.pth", ONE_DIMENSION),
    ("mutual-info: whole numbers", "mutual-info --csg {m}/csg_whole.pth", WHOLE_NUMBERS),
    ("mutual-info: no class", "mutual-info --csg {m}/csg_nothing.pth", "'csg' has the shape (0, 64)"),
    ("mutual-info: NaN", "mutual-info --csg {m}/csg_nan.pth", GATES_NAN),
    ("mutual-info: more than D of them", "mutual-info --csg {m}/csg.pth -k 65", "-k 65 is more than the 64 features"),
    ("mutual-info: fraction of negative ones", "mutual-info --csg {m}/csg_negative.pth -k 0.5", "not negative", "csg"),
    (
        "mutual-info: fraction of the lowest",
        "mutual-info --csg {m}/csg.pth -k 0.5 --order lowest",
        "of the lowest gates",
    ),
    ("mutual-info: fraction of zero", "mutual-info --csg {m}/csg_zero.pth -k 0.5", "class 0", "are zero"),
    ("mutual-info: no weights to rank by", "mutual-info --method csg", "'csg' needs class-specific gates"),
    (
        "mutual-info: ranked by those of other classes",
        f"mutual-info {TINY} -w {{m}}/csg_rows.pth --method csg",
        "csg_rows.pth have the shape (9, 64), but the network has 10 classes and 64 features",
    ),
    (
        "mutual-info: ranked by one-dimensional ones",
        f"mutual-info {TINY} -w {{m}}/csg_flat.pth --method csg",
        "csg_flat.pth have the shape (640,), but the network has 10 classes and 64 features",
    ),
    ("mutual-info: ranked by NaN", f"mutual-info {TINY} -w {{m}}/csg_nan.pth --method csg", GATES_NAN),
    ("essential: none", "essential --csg {m}/plain.pth", NO_GATES),
    ("essential: one-dimensional", "essential --csg {m}/csg_flat.pth", ONE_DIMENSION),
    ("essential: of other classes", "essential --csg {m}/csg_rows.pth", f"csg_rows.pth have the shape (9, 64), {FITS}"),
    (
        "essential: of other features",
        "essential --csg {m}/csg_columns.pth",
        f"csg_columns.pth have the shape (10, 65), {FITS}",
    ),
    ("essential: NaN", "essential --csg {m}/csg_nan.pth", GATES_NAN),
    ("essential: without a network", "essential --csg {m}/csg_alone.pth", "csg_alone.pth does not fit", "97 missing"),
    ("essential: more than D of them", "essential -i {m}/plain.json --csg {m}/csg.pth -k 65", "-k 65 is more than"),
    ("essential: decomposed", "essential --csg {m}/decomposed.pth", "decomposed.pth holds no class-specific gates"),
    ("sweep: none", "sweep --methods csg --ks 1", "'csg' needs class-specific gates"),
    ("sweep: of other classes", f"sweep {TINY} -w {{m}}/csg_rows.pth --methods csg --ks 1", "have the shape (9, 64)"),
    ("sweep: of other features", f"sweep {TINY} -w {{m}}/csg_columns.pth --methods csg --ks 1", "the shape (10, 65)"),
    ("sweep: one-dimensional", f"sweep {TINY} -w {{m}}/csg_flat.pth --ks 1", "have the shape (640,)"),
    ("sweep: NaN", f"sweep {TINY} -w {{m}}/csg_nan.pth --ks 1", GATES_NAN),
    ("sweep: of a network without", f"sweep {TINY} --methods weight,csg --ks 1", "'csg' needs class-specific gates"),
    ("extract-indices: none", "extract-indices --method csg", "'csg' needs class-specific gates"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(GATES))
def test_bad_gates(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    base.refused(words(line, material), REFUSED, *fragments)


# --- missing, empty, truncated and hostile files ----------------------------------------------------------------------

BAD_CHECKPOINTS = [
    # file, part of the sentence
    ("none.pth", "none.pth does not exist"),
    ("empty.pth", "empty.pth is empty"),
    ("half.pth", "half.pth is damaged or truncated"),
    ("plain.json", "plain.json is damaged or truncated, or not a checkpoint"),
    ("taken", "taken are a folder, not a file"),
    ("hostile.pth", "hostile.pth is refused: reading it would execute code"),
    ("hostile_archive.pth", "hostile_archive.pth is refused: reading it would execute code"),
]
CHECKPOINT_OPTIONS = [
    "mutual-info --csg {file}",
    "mutual-info -i {m}/document.json --csg {file}",
    "essential --csg {file}",
    "essential --method a={file}",
    "selectivity --compare {file}",
    "selectivity --compare a={file}",
    "selectivity resnet20-digits -w {file}",
    "sweep resnet20-digits -w {file}",
    "mutual-info resnet20-digits -w {file}",
    "essential resnet20-digits -w {file}",
]
CHECKPOINT_FILES = [(option, file, fragment) for option in CHECKPOINT_OPTIONS for file, fragment in BAD_CHECKPOINTS]


@pytest.mark.parametrize(("option", "file", "fragment"), CHECKPOINT_FILES)
def test_bad_checkpoint(material: Path, option: str, file: str, fragment: str) -> None:
    base.refused(words(option.replace("{file}", f"{{m}}/{file}"), material), REFUSED, fragment)


BAD_INDEX_FILES = [
    # file, part of the sentence
    ("none.json", "none.json does not exist"),
    ("empty.json", "empty.json is empty"),
    ("half.json", "half.json is not valid JSON"),
    ("hostile.pth", "hostile.pth is not"),
    ("taken", "taken is a folder, not a file"),
]
INDEX_OPTIONS = [
    "mutual-info -i {file}",
    "mutual-info -i a={m}/document.json -i b={file}",
    "essential -i {file}",
    "essential --method a={m}/plain.pth,{file}",
    "sweep -i {file}",
    "sweep -i a={m}/document.json -i b={file}",
]
INDEX_FILES = [(option, file, fragment) for option in INDEX_OPTIONS for file, fragment in BAD_INDEX_FILES]


@pytest.mark.parametrize(("option", "file", "fragment"), INDEX_FILES)
def test_bad_index_file(material: Path, option: str, file: str, fragment: str) -> None:
    base.refused(words(option.replace("{file}", f"{{m}}/{file}"), material), REFUSED, fragment)


# --- names ------------------------------------------------------------------------------------------------------------

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
    ("essential: indices only", "essential --method a={m}/plain.json", "plain.json is damaged", "not a checkpoint"),
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
    base.refused(words(line, material), REFUSED, *fragments)


def test_names_are_refused_before_any_weights_are_read(material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_nothing(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read before the names were looked at")

    monkeypatch.setattr("decompose_cli.models.classifier.read_weights", read_nothing)
    for line in (
        "essential --method summary={m}/plain.pth",
        "essential --method a={m}/plain.pth --method a={m}/csg.pth",
        "selectivity --compare a={m}/plain.pth --compare a={m}/csg.pth",
    ):
        base.refused(words(line, material), REFUSED, "named")


def test_names_and_gates_are_refused_before_the_work(material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work_nothing(*_: Any, **__: Any) -> None:
        raise AssertionError("there was work before the input was looked at")

    monkeypatch.setattr("decompose_cli.engines.sweep.accuracy_by_k", work_nothing)
    monkeypatch.setattr("decompose_cli.features.study.extract_features", work_nothing)
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
        base.refused(words(line, material), REFUSED, fragment)


# --- numbers and words ------------------------------------------------------------------------------------------------

ARGUMENTS: Rows = [
    *((f"essential: k {k}", f"essential -k {k}", f"-k '{k}' is neither") for k in ("0", "-5", "five", "1.5", "nan")),
    *(
        (f"mutual-info: k {k}", f"mutual-info -k {k}", f"-k '{k}' is neither")
        for k in ("0", "-5", "five", "1.5", "inf")
    ),
    ("essential: k above D", "essential -k 65", "-k 65 is more than the 64 features"),
    ("essential: two k", "essential -k 5,10", "one k at a time"),
    ("essential: k beside a file", "essential -i {m}/plain.json -k 5", "-k 5 has no effect"),
    (
        "essential: k beside files only",
        "essential -i {m}/plain.json --method a={m}/plain.pth,{m}/plain.json -k 5",
        "-k 5 has no effect: every feature set is given as a file",
    ),
    ("essential: k without end", "essential -k 5,", "-k '' is neither"),
    ("mutual-info: k above D", "mutual-info -k 5,65", "-k 65 is more than the 64 features"),
    ("mutual-info: k without end", "mutual-info -k 5,", "-k '' is neither"),
    ("mutual-info: no k", "mutual-info -k ''", "-k '' is neither"),
    *(
        (f"sweep: ks {ks}", f"sweep --ks {ks}", f"--ks '{ks}' is neither a whole number nor a range")
        for ks in ("1-", "-5", "1-2-3", "five", "1.5", "0.5", "nan", "²")
    ),
    *((f"sweep: ks {ks}", f"sweep --ks {ks}", f"--ks '{ks}' starts below 1") for ks in ("0", "0-3")),
    ("sweep: ks 5-1", "sweep --ks 5-1", "--ks '5-1' ends before it starts"),
    ("sweep: ks without end", "sweep --ks 1,", "--ks '' is neither"),
    ("sweep: no ks", "sweep --ks ''", "--ks '' is neither"),
    ("sweep: ks above D", "sweep --ks 65", "--ks 65 is more than the 64 features"),
    ("sweep: range beyond D", "sweep --ks 1-65", "--ks 65 is more than the 64 features"),
    ("sweep: endless range", "sweep --ks 1-999999999", "--ks 1-999999999 is more than any network has"),
    ("sweep: range of six digits", "sweep --ks 1-999999", "--ks 65 is more than the 64 features"),
    ("sweep: number of no end", f"sweep --ks {base.DIGITS}", "--ks", "is more than any network has features"),
    ("essential: unknown noise", "essential --noise salt", "--noise 'salt' is unknown; choose gaussian"),
    ("essential: noise in capitals", "essential --noise Gaussian", "--noise 'Gaussian' is unknown"),
    ("essential: no noise", "essential --noise ''", "--noise '' is unknown"),
    *(
        (f"{command}: order of no gates", f"{command} --order lowest", "--order lowest has no effect: no gates")
        for command in ("essential", "mutual-info", "mutual-info -i {m}/document.json", "extract-indices")
    ),
    ("sweep: order of no gates", "sweep --methods weight --ks 1 --order lowest", "--order lowest has no effect"),
    ("mutual-info: weights beside a file", "mutual-info -i {m}/document.json -w {m}/plain.pth", "--weights and --data"),
    ("mutual-info: images beside a file", "mutual-info {images}/one_each -i {m}/document.json", "have no effect"),
    ("essential: unknown order", "essential --order upwards", "--order 'upwards' is unknown; choose highest, lowest"),
    ("mutual-info: unknown order", "mutual-info --order upwards", "--order 'upwards' is unknown"),
    ("sweep: unknown order", "sweep --order upwards", "--order 'upwards' is unknown"),
    ("extract-indices: unknown order", "extract-indices --order upwards", "--order 'upwards' is unknown"),
    ("mutual-info: unknown method", "mutual-info --method best", "--method 'best' is unknown; choose frequency"),
    ("mutual-info: no method", "mutual-info --method ''", "--method '' is unknown; choose frequency"),
    ("sweep: unknown method", "sweep --methods best", "--methods 'best' is unknown; choose frequency"),
    ("sweep: second method is unknown", "sweep --methods weight,best", "--methods 'best' is unknown"),
    ("sweep: methods without end", "sweep --methods weight,", "--methods '' is unknown"),
    ("sweep: no methods", "sweep --methods ''", "--methods '' is unknown"),
    *(
        (f"selectivity: fraction {f}", f"selectivity --fraction {f}", f"--fraction {float(f)} is not between 0 and 1")
        for f in ("0", "1", "nan", "inf", "-0.5", "50")
    ),
    ("essential: repeats 0", "essential --repeats 0", "--repeats 0 is not at least 1"),
    ("essential: repeats -1", "essential --repeats -1", "--repeats -1 is not at least 1"),
    ("essential: controls -1", "essential --controls -1", "--controls -1 is negative"),
    *(
        (f"sweep: max-drop {d}", f"sweep --max-drop {d}", f"--max-drop {float(d)} is not between 0 and 100")
        for d in ("-1", "nan", "inf", "-inf", "100")
    ),
    ("sweep: chosen and reported on one split", "sweep --split train --max-drop 1", "cannot be reported on them"),
    ("sweep: unknown split", "sweep --split val", "digits has no split 'val'"),
    ("selectivity: no layer", "selectivity --layers ''", "--layers names no layer; give all, or names"),
    ("selectivity: comma for a layer", "selectivity --layers ,", "--layers names no layer; give all, or names"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(ARGUMENTS))
def test_bad_argument(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    base.refused(words(line, material), REFUSED, *fragments)


USAGE = [
    # command line, the option that the parser names
    ("essential --repeats many", "--repeats"),
    ("essential --repeats 2.5", "--repeats"),
    ("essential --controls many", "--controls"),
    ("selectivity --fraction half", "--fraction"),
    ("sweep --max-drop much", "--max-drop"),
    ("mutual-info --num-features some", "--num-features"),
    ("essential --csg", "--csg"),
    ("selectivity --csg x", "--csg"),
]


@pytest.mark.parametrize(("line", "fragment"), USAGE)
def test_wrong_usage(line: str, fragment: str) -> None:
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == REFUSED
    assert result.stdout == ""
    assert fragment in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(Path.cwd().iterdir())


# --- layers -----------------------------------------------------------------------------------------------------------

LAYERS: Rows = [
    ("convolution", "selectivity --layers conv1", "'conv1' has negative outputs"),
    ("normalisation", "selectivity --layers layer3.2.bn2", "'layer3.2.bn2' has negative outputs"),
    ("head", "selectivity --layers linear", "'linear' has negative outputs"),
    ("second is negative", "selectivity --layers layer3.2,bn1", "'bn1' has negative outputs"),
    ("all and a negative one", "selectivity --layers all,conv1", "'conv1' has negative outputs"),
    ("all and an unknown one", "selectivity --layers nowhere,all", "no layer 'nowhere'"),
    ("unknown", "selectivity --layers nowhere", "no layer 'nowhere'"),
    ("second is unknown", "selectivity --layers layer3.2,layer3.9", "no layer 'layer3.9'"),
    ("all in capitals", "selectivity --layers ALL", "no layer 'ALL'"),
    ("used twice", "selectivity networks:Twice --dataset digits --layers relu", "'relu' is used 2 times"),
    ("pair", "selectivity networks:pairs --dataset digits --layers beside", "'beside' yields a tuple"),
    (
        "tokens",
        "selectivity networks:tokens --dataset digits --layers beside",
        "'beside' yields values of shape (3, 10",
    ),
    ("no unit, no ReLU", "selectivity networks:without_relu --dataset digits", "neither residual units nor ReLU"),
    ("no stem", "selectivity networks:without_relu --dataset digits --layers stem", "no layer 'stem'"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(LAYERS))
def test_bad_layer(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    base.refused(words(line, material), REFUSED, *fragments)


# --- features that cannot be used -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["essential", "mutual-info", "sweep", "sweep --methods weight --ks 1"])
def test_features_with_nan_are_a_failure_of_the_work(material: Path, command: str) -> None:
    line = f"{command} networks:NotANumber --dataset digits --no-cache"
    base.refused(words(line, material), FAILED, "NaN or infinite features for image number 0 of digits")


def test_features_with_nan_are_not_kept(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECOMPOSE_CACHE", str(tmp_path / "other-cache"))
    for _ in range(2):  # the second time nothing is found that the first has kept
        base.refused(words("mutual-info networks:NotANumber --dataset digits", material), FAILED, "NaN or infinite")


def test_layer_with_nan_is_a_failure_of_the_work(material: Path) -> None:
    line = "selectivity networks:odd --dataset digits --layers beside"
    base.refused(words(line, material), FAILED, "'beside' yields NaN or infinity")


def test_activations_that_are_all_zero_count_as_needing_no_filter(material: Path) -> None:
    found, _ = results("selectivity networks:dead --dataset digits --layers body.3", material)
    layer = found["layers"]["body.3"]
    assert (layer["psi_mean"], layer["psi_median"], layer["class_selectivity"]) == (1, 1, 0)
    assert len(layer["per_class"]) == CLASSES
    assert all(row["silent"] == row["images"] > 0 for row in layer["per_class"].values())


def test_silent_images_are_reported(material: Path) -> None:
    line = "selectivity networks:dead --dataset digits --layers body.3 -o result.json"
    said = CliRunner().invoke(app, words(line, material)).stderr
    assert "body.3: no filter responds to 1437 images" in said


@pytest.mark.parametrize("noise", ["gaussian", "matched", "zero", "mean", "permute"])
def test_noise_on_features_that_are_all_zero(material: Path, noise: str) -> None:
    line = f"essential networks:dead --dataset digits -k 3 --repeats 2 --controls 3 --noise {noise}"
    found, _ = results(line, material)
    assert set(found["ours"]) == {str(number) for number in range(CLASSES)}
    for row in found["ours"].values():
        if noise != "gaussian":  # every other noise is as zero as the features
            assert row["noise_at_inf"] == row["noise_at_noninf"] == row["clean"]
            assert (row["essentiality"], row["p"]) == (0, 1)


def test_sets_of_features_that_are_all_zero_are_the_same_for_each_class(material: Path) -> None:
    for method in ("frequency", "mean", "mass"):
        found, _ = results(f"mutual-info networks:dead --dataset digits -k 3 --method {method}", material)
        row = found["sets"]["ours"]["3"]
        assert (row["jaccard_mean"], row["normalized_mean"]) == (1, 1)
        assert (row["unused"], row["exclusive"], row["shared"]) == (5, 0, 3)


def test_fraction_of_features_that_are_all_zero_is_refused(material: Path) -> None:
    line = "mutual-info networks:dead --dataset digits -k 0.5 --method mean"
    base.refused(words(line, material), REFUSED, "All features of class 0 (0) are zero")


def test_sweep_over_features_that_are_all_zero(material: Path) -> None:
    found, _ = results("sweep networks:dead --dataset digits --ks 1-8 --max-drop 50", material)
    assert {point["correct"] for curve in found["curves"].values() for point in curve.values()} == {
        found["original"]["correct"]
    }
    assert (found["chosen"]["k"], found["chosen"]["features"]) == (1, CLASSES)


def test_sets_of_all_features_share_no_information_and_everything_else(material: Path) -> None:
    """Membership that never varies has no entropy to divide by."""
    found, _ = results("mutual-info --csg {m}/csg.pth -k 64", material)
    row = found["sets"]["csg"]["64"]
    assert (row["mean"], row["normalized_mean"], row["jaccard_mean"]) == (0, 1, 1)
    assert (row["unused"], row["shared"]) == (0, FEATURES)


def test_gates_that_are_all_equal_are_taken_from_the_end(material: Path) -> None:
    found, _ = results("mutual-info --csg {m}/csg_zero.pth -k 5", material)
    row = found["sets"]["csg"]["5"]
    assert (row["jaccard_mean"], row["unused"], row["shared"]) == (1, FEATURES - 5, 5)


# --- few images -------------------------------------------------------------------------------------------------------


def test_essential_leaves_out_classes_without_images_and_says_so(material: Path) -> None:
    found, said = results("essential {images}/test_lacks_3 -i {m}/plain.json --repeats 2 --controls 2", material)
    assert set(found["ours"]) == {str(number) for number in range(CLASSES)} - {"3"}
    assert found["summary"]["ours"]["images"] == CLASSES - 1
    warnings = [line for line in said.splitlines() if line.startswith("Warning: ")]
    assert len(warnings) == 1
    assert "has no images of 1 of the 10 classes (3); they are left out" in warnings[0]


def test_selectivity_leaves_out_classes_without_images_and_says_so(material: Path) -> None:
    found, said = results("selectivity {images}/lacks_3 --layers layer3.2", material)
    layer = found["layers"]["layer3.2"]
    assert set(layer["per_class"]) == {str(number) for number in range(CLASSES)} - {"3"}
    warnings = [line for line in said.splitlines() if line.startswith("Warning: ")]
    assert len(warnings) == 1
    assert "lacks_3 train has no images of 1 of the 10 classes (3); they are left out" in warnings[0]
    rows = layer["per_class"].values()
    assert layer["psi_mean"] == pytest.approx(sum(row["psi_mean"] for row in rows) / len(rows))


def test_selectivity_of_a_single_class_has_no_index(material: Path) -> None:
    found, _ = results("selectivity {images}/single --layers layer3.2", material)
    layer = found["layers"]["layer3.2"]
    assert set(layer["per_class"]) == {"3"}
    assert layer["class_selectivity"] is None
    assert 0 < layer["psi_mean"] <= 1


RANKED: Rows = [
    ("extract-indices", "extract-indices {images}/lacks_3"),
    ("mutual-info", "mutual-info {images}/lacks_3"),
    ("mutual-info by mass", "mutual-info {images}/lacks_3 --method mass"),
    ("sweep", "sweep {images}/lacks_3 --ks 1"),
    ("sweep by mean", "sweep {images}/lacks_3 --ks 1 --methods mean"),
    ("essential", "essential {images}/lacks_3"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(RANKED))
def test_features_are_not_ranked_for_classes_without_images(
    material: Path, line: str, fragments: tuple[str, ...]
) -> None:
    said = base.refused(words(line, material), REFUSED, "no images in this split for 1 of the network's 10 classes (3)")
    assert "Hint: Use images of all classes; 'extract-indices --method weight' needs none." in said


def test_rankings_that_need_no_images_work_for_classes_without(material: Path) -> None:
    found, _ = results("sweep {images}/lacks_3 --ks 1,2 --methods weight -i {m}/plain.json", material)
    assert {name: set(points) for name, points in found["curves"].items()} == {"weight": {"1", "2"}, "plain": {"3"}}


@pytest.mark.parametrize("noise", ["gaussian", "matched", "zero", "mean", "permute"])
def test_one_image_per_class_has_counts_but_no_interval_over_images(material: Path, noise: str) -> None:
    line = f"essential {{images}}/one_each -i {{m}}/plain.json --repeats 3 --controls 4 --noise {noise}"
    found, _ = results(line, material)
    assert len(found["ours"]) == CLASSES
    for row in found["ours"].values():
        assert row["images"] == 1
        assert row["essentiality_ci95"] is None
        assert row["noise_at_inf_ci95"] is not None
        assert 0.2 <= row["p"] <= 1
        if noise == "permute":  # the only image of a class trades places with itself
            assert row["noise_at_inf"] == row["noise_at_noninf"] == row["clean"]
    assert found["summary"]["ours"]["essentiality_ci95"] is not None


def test_one_repeat_without_controls_has_neither_error_nor_p(material: Path) -> None:
    found, _ = results("essential {images}/one_each -i {m}/plain.json --repeats 1 --controls 0", material)
    for row in [*found["ours"].values(), found["summary"]["ours"]]:
        for name in ("noise_at_inf_se", "noise_at_inf_ci95", "noise_at_noninf_se", "control_mean", "p"):
            assert row[name] is None, name


def test_one_image_in_all(material: Path) -> None:
    found, said = results("essential {images}/single -i {m}/plain.json --repeats 2 --controls 2", material)
    assert set(found["ours"]) == {"3"}
    assert "has no images of 9 of the 10 classes (0, 1, 2, ...)" in said


def test_one_image_per_class_is_enough_for_the_others(material: Path) -> None:
    found, _ = results("sweep {images}/one_each --ks 1-3", material)
    assert found["total"] == CLASSES
    found, _ = results("selectivity {images}/one_each --layers layer3.2", material)
    assert all(row["psi_mean"] == row["psi_median"] for row in found["layers"]["layer3.2"]["per_class"].values())
    found, _ = results("mutual-info {images}/one_each -k 2", material)
    assert set(found["sets"]["ours"]) == {"2"}


SPLITS: Rows = [
    ("essential", "essential {images}/no_train", "Features are ranked over training images, and", "no_train has none"),
    ("mutual-info", "mutual-info {images}/no_train", "no_train has no split train; it has test"),
    ("sweep", "sweep {images}/no_train --ks 1", "Features are ranked over training images, and", "no_train has none"),
    ("selectivity", "selectivity {images}/no_train", "no_train has no split train; it has test"),
    ("extract-indices", "extract-indices {images}/no_train", "no_train has no split train; it has test"),
    ("essential: nothing to look at", "essential {images}/no_test", "no_test has no split test or val; it has train"),
    ("sweep: nothing to look at", "sweep {images}/no_test", "no_test has no split test or val; it has train"),
    ("selectivity: no images at all", "selectivity {images}/taken", "has none of the folders train, val and test"),
    ("essential: no folder", "essential {images}/nowhere", "nowhere", "does not exist"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(SPLITS))
def test_folder_without_the_split(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    base.refused(words(line, material), REFUSED, *fragments)


@pytest.mark.parametrize("line", ["essential {images}/no_train", "sweep {images}/no_train --split test --ks 1"])
def test_hint_for_a_folder_without_training_images_is_of_use(material: Path, line: str) -> None:
    said = base.refused(words(line, material), REFUSED, "no_train has none")
    assert "Hint: Add a folder 'train' with images, or look at index files made elsewhere with -i." in said
    assert "--split test" not in said


def test_folder_without_training_images_is_enough_where_none_are_needed(material: Path) -> None:
    found, _ = results("essential {images}/no_train -i {m}/plain.json --repeats 1 --controls 0", material)
    assert found["summary"]["ours"]["images"] == CLASSES
    found, _ = results("selectivity {images}/no_train --split test --layers layer3.2", material)
    assert found["layers"]["layer3.2"]["filters"] == FEATURES


# --- decomposed checkpoints -------------------------------------------------------------------------------------------

OWN, PUBLISHED = "resnet20-digits -w {m}/decomposed.pth", "resnet20-digits -w {m}/published.pth"
NO_FULL_HEAD = "needs the full head, which"
WHOSE = "decomposed.pth no longer has"

DECOMPOSED: Rows = [
    ("essential", f"essential {OWN}", "essential " + NO_FULL_HEAD, WHOSE),
    ("essential with indices", f"essential {OWN} -i {{m}}/plain.json", "essential " + NO_FULL_HEAD, WHOSE),
    ("essential: published", f"essential {PUBLISHED}", "essential " + NO_FULL_HEAD, "published.pth"),
    ("essential: published with indices", f"essential {PUBLISHED} -i {{m}}/plain.json", NO_FULL_HEAD),
    ("method", "essential --method a={m}/decomposed.pth", "essential " + NO_FULL_HEAD, WHOSE),
    (
        "method with indices",
        "essential --method a={m}/decomposed.pth,{m}/plain.json",
        "essential " + NO_FULL_HEAD,
        WHOSE,
    ),
    ("method: published", "essential --method a={m}/published.pth,{m}/plain.json", NO_FULL_HEAD, "published.pth"),
    ("sweep", f"sweep {OWN}", "sweep " + NO_FULL_HEAD, WHOSE),
    ("sweep with indices", f"sweep {OWN} -i {{m}}/plain.json", "sweep " + NO_FULL_HEAD),
    ("sweep: published", f"sweep {PUBLISHED}", "sweep " + NO_FULL_HEAD),
    ("sweep: published with indices", f"sweep {PUBLISHED} -i {{m}}/plain.json", "sweep " + NO_FULL_HEAD),
    ("mutual-info by weight", f"mutual-info {OWN} {{images}}/one_each --method weight", "'weight' needs the full head"),
    (
        "mutual-info by contribution",
        f"mutual-info {PUBLISHED} {{images}}/one_each --method contribution",
        "'contribution' needs the full head",
    ),
]


@pytest.mark.parametrize(("line", "fragments"), cases(DECOMPOSED))
def test_decomposed_checkpoint_has_no_full_head(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    base.refused(words(line, material), REFUSED, *fragments)


def test_layers_of_decomposed_checkpoints_are_compared(material: Path) -> None:
    """The layers before the head are there, and here they are the same as the original's."""
    compare = "--compare own={m}/decomposed.pth --compare theirs={m}/published.pth"
    found, _ = results(f"selectivity {{images}}/one_each --layers layer3.2 {compare}", material)
    for name in ("own", "theirs"):
        assert found["compared"][name]["layers"] == found["layers"]


def test_features_of_a_decomposed_checkpoint_are_ranked(material: Path) -> None:
    found, _ = results(f"mutual-info {OWN} {{images}}/one_each -k 3", material)
    assert set(found["sets"]["ours"]) == {"3"}


# --- output -----------------------------------------------------------------------------------------------------------

COMMANDS = ["mutual-info -i {m}/document.json", "essential", "selectivity", "sweep"]
OUTPUTS: Rows = [
    *((f"{command}: exists", f"{command} -o {{m}}/taken/file.json", "file.json") for command in COMMANDS),
    *((f"{command}: in a file", f"{command} -o {{m}}/taken/file.json/new", "is not a folder") for command in COMMANDS),
    *((f"{command}: far down", f"{command} -o {{m}}/taken/file.json/a/b", "is not a folder") for command in COMMANDS),
    *((f"{command}: folder", f"{command} -o {{m}}/taken", "taken: it is a folder") for command in COMMANDS[:3]),
    *((f"{command}: pipe", f"{command} -o {{m}}/pipe --overwrite", "pipe") for command in COMMANDS),
    *((f"{command}: name too long", f"{command} -o {'n' * 300}", "nnn", "File name too long") for command in COMMANDS),
    ("sweep: result there", "sweep -o {m}/result", "result.json exists already"),
    ("sweep: curve there", "sweep -o {m}/curve", "curve.png exists already"),
    ("sweep: indices there", "sweep --max-drop 1 -o {m}/chosen", "indices.json exists already"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(OUTPUTS))
def test_bad_output(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    base.refused(words(line, material), REFUSED, *fragments)


@pytest.mark.parametrize("command", COMMANDS)
def test_output_is_refused_before_any_work_is_done(
    material: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def work_nothing(*_: Any, **__: Any) -> None:
        raise AssertionError("something was read before the output was looked at")

    monkeypatch.setattr("decompose_cli.models.classifier.read_weights", work_nothing)
    monkeypatch.setattr("decompose_cli.decomposition.index_set.read_json", work_nothing)
    base.refused(words(f"{command} -o {{m}}/taken/file.json", material), REFUSED, "file.json")


def test_failed_sweep_leaves_no_folder(material: Path) -> None:
    for line in (
        "sweep --ks 65",
        "sweep --ks 65 -o new",
        "sweep --ks 3 --methods weight -i weight={m}/plain.json",
        "sweep --ks 1 networks:NotANumber --dataset digits --no-cache",
    ):
        assert CliRunner().invoke(app, words(line, material)).exit_code in (REFUSED, FAILED)
        assert not list(Path.cwd().iterdir()), line


def test_overwritten_sweep_that_chooses_nothing_leaves_no_set_of_the_one_before(material: Path) -> None:
    results("sweep --methods weight --ks 64 --max-drop 50 -o run", material)
    assert sorted(path.name for path in Path("run").iterdir()) == ["curve.png", "indices.json", "result.json"]
    found, _ = results("sweep --methods weight --ks 1 --max-drop 0 -o run --overwrite", material)
    assert found["chosen"] is None
    assert sorted(path.name for path in Path("run").iterdir()) == ["curve.png", "result.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to this user")
@pytest.mark.parametrize("command", COMMANDS)
def test_output_that_may_not_be_written(material: Path, inputs: Path, command: str) -> None:
    folder = inputs / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    base.refused([*words(command, material), "-o", str(folder / "new")], REFUSED, "permission denied")


# --- what is said on the way ------------------------------------------------------------------------------------------


def test_warning_is_given_once(material: Path) -> None:
    _, said = results("essential networks:good --dataset digits --repeats 1 -k 3", material)
    assert said.count("It is not known how") == 1


@pytest.mark.parametrize(
    ("line", "widths", "counts"),
    [
        ("mutual-info -i a={m}/document.json --csg {m}/csg_columns.pth", [64, 65], [10, 10]),
        ("mutual-info -i a={m}/nine.json --csg {m}/csg.pth", [64, 64], [9, 10]),
        ("mutual-info -i a={m}/wide.json --csg {m}/csg.pth", [128, 64], [10, 10]),
    ],
)
def test_sets_of_networks_of_other_sizes_are_compared_with_a_warning(
    material: Path, line: str, widths: list[int], counts: list[int]
) -> None:
    found, said = results(line, material)
    assert [found["sets"][name]["3"]["num_features"] for name in ("a", "csg")] == widths
    assert [len(found["sets"][name]["3"]["matrix"]) for name in ("a", "csg")] == counts
    warnings = [line for line in said.splitlines() if line.startswith("Warning: ")]
    assert warnings == ["Warning: These index sets are of networks with different numbers of classes or features."]


def test_names_are_shown_as_they_are_in_both_tables(material: Path) -> None:
    _, said = results("mutual-info resnet20-digits -i [red]={m}/plain.json", material)
    assert said.count("[red]") == 2


@pytest.mark.parametrize("order", ["highest", "lowest"])
def test_order_of_gates_is_shown(material: Path, order: str) -> None:
    line = "essential {images}/one_each -i {m}/plain.json --csg {m}/csg.pth --repeats 1 --controls 0"
    found, said = results(f"{line} --order {order}", material)
    assert order in found["summary"]["csg"]["indices"]
    (shown,) = [line for line in said.splitlines() if line.startswith("csg: features from ")]
    assert order in shown


# --- counter-examples -------------------------------------------------------------------------------------------------

GOOD = [
    "mutual-info -i {m}/document.json",
    "mutual-info resnet20-digits -i a={m}/plain.json -i b={m}/document.json --csg {m}/csg.pth",
    "mutual-info -i {m}/plain.json --num-features 64",
    "mutual-info --csg {m}/csg_alone.pth -k 5",
    "mutual-info --csg {m}/csg.pth -k 0.5",
    "essential {images}/one_each -i {m}/plain.json --csg {m}/csg.pth --method a={m}/plain.pth,{m}/document.json",
    "essential {images}/one_each resnet20-digits -w {m}/csg.pth --method controls2={m}/plain.pth --repeats 1",
    "selectivity {images}/one_each --layers layer3.2,stem --compare {m}/plain.pth --compare csg={m}/csg.pth",
    "sweep {images}/one_each resnet20-digits -w {m}/csg.pth --methods csg,weight --ks 1,3-5 -i {m}/plain.json",
    "sweep --methods weight --ks 64 --max-drop 0",
]


@pytest.mark.parametrize("line", GOOD)
def test_what_is_good_in_the_tables_works(material: Path, line: str) -> None:
    found, _ = results(line, material)
    assert found
