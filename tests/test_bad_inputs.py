"""A folder of bad inputs: each gives its exit code and one sentence, and leaves nothing behind.

Every row of a table is one command line. ``{name}`` in it is the path of something that the row's builder has put into
the folder of inputs; what is expected is a part of the sentence, naming what is wrong and where.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from decompose_cli.cli.app import app
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.models.registry import DEFAULT_MODEL, get_entry
from decompose_cli.models.weights import shipped_weights

FAILED, REFUSED = 1, 2
CLASSES, FEATURES = 10, 64
TMP_LEFTOVERS = ("*.tmp", "*.part", ".unpacking-*")


@pytest.fixture
def inputs(tmp_path: Path, warm_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of inputs; features are cached, and whatever a user's module puts into ``sys`` is taken out again."""
    monkeypatch.setenv("DECOMPOSE_CACHE", str(warm_cache))
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules, threads = set(sys.modules), torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other gain nothing here
    folder = tmp_path / "inputs"
    folder.mkdir()
    yield folder
    torch.set_num_threads(threads)
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def snapshot(*folders: Path) -> dict[str, tuple[int, str]]:
    """Modification time and content of every file, and which folders there are."""
    found = {}
    for root in folders:
        for path in sorted(root.rglob("*")):
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            found[str(path)] = (path.lstat().st_mtime_ns if path.is_file() else 0, content)
    return found


def refused(arguments: list[str], code: int, *fragments: str) -> str:
    """Run a command that must fail as documented and leave nothing behind; returns what it said."""
    work, everything = Path.cwd(), Path.cwd().parent
    before = snapshot(work, everything / "inputs")
    result = CliRunner().invoke(app, arguments)
    said = result.stderr
    lines = said.splitlines()
    assert result.exit_code == code, said
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.stdout == ""
    assert "Traceback" not in said
    assert "unforeseen" not in said
    errors = [line for line in lines if line.startswith("Error: ")]
    assert len(errors) == 1, said
    assert all(fragment in errors[0] for fragment in fragments), said
    assert lines.index(errors[0]) >= len(lines) - 2, f"more than a hint follows the sentence:\n{said}"
    assert snapshot(work, everything / "inputs") == before, "files were left behind or changed"
    for folder in (everything, Path(os.environ["DECOMPOSE_CACHE"])):
        assert not [path for pattern in TMP_LEFTOVERS for path in folder.rglob(pattern)]
    return said


def table(rows: list[tuple[Any, ...]]) -> Any:
    """Parametrise a test over rows whose first entry is their name."""
    names = [row[0] for row in rows]
    assert len(set(names)) == len(names), "two rows have one name"
    return [pytest.param(*row[1:], id=row[0].replace(" ", "_")) for row in rows]


# --- index files ------------------------------------------------------------------------------------------------------


def published(**changes: Any) -> dict[str, Any]:
    """A valid file's content, with changes by class: ``c3=[...]``; None takes the class out."""
    content: dict[str, Any] = {str(number): [number, number + 10, number + 20] for number in range(CLASSES)}
    for name, value in changes.items():
        content.pop(name[1:]) if value is None else content.update({name[1:]: value})
    return content


def document(**changes: Any) -> dict[str, Any]:
    """The content of our own layout, with changes; None takes a field out."""
    content = {
        "format": "decompose-index-set",
        "format_version": 1,
        "num_features": FEATURES,
        "provenance": {},
        "classes": list(published().values()),
        **changes,
    }
    return {name: value for name, value in content.items() if value is not None}


ROWS = list(published().values())

INDEX_FILES = [
    # name, content (text and bytes as they are, anything else as JSON), part of the sentence
    ("empty", "", "is empty"),
    ("blank", " \n\t\n", "is empty"),
    ("truncated", '{"0": [1, 2', "not valid JSON"),
    ("prose", "class 0: 1, 2, 3", "not valid JSON"),
    ("comment", "{} // none", "not valid JSON"),
    ("two values", "{} {}", "not valid JSON"),
    ("byte order mark", b"\xef\xbb\xbf" + json.dumps(ROWS).encode(), "not valid JSON"),
    ("not UTF-8", b'{"0": [1, 2], "\xff": 1}', "not a JSON text file"),
    ("UTF-16", json.dumps(ROWS).encode("utf-16"), "not a JSON text file"),
    ("binary", bytes(range(256)), "not a JSON text file"),
    ("deep nesting of lists", "[" * 200_000, "not valid JSON"),
    ("deep nesting of mappings", '{"a":' * 200_000, "not valid JSON"),
    ("number of 5000 digits", f"[[{'9' * 5000}]]", "not valid JSON"),
    ("NaN", '{"0": [NaN]}', "NaN is not a JSON number"),
    ("Infinity", '{"0": [Infinity]}', "Infinity is not a JSON number"),
    ("minus Infinity", '{"0": [1, -Infinity]}', "-Infinity is not a JSON number"),
    ("duplicate key", '{"0": [1], "1": [2], "0": [3]}', "the key '0' stands twice"),
    ("duplicate key below", '{"0": {"a": 1, "a": 2}}', "the key 'a' stands twice"),
    ("a number", 7, "holds 7, not a mapping"),
    ("a text", '"indices"', "not a mapping of classes to indices"),
    ("null", None, "holds null"),
    ("true", True, "holds true"),
    ("no class in a mapping", {}, "has no classes"),
    ("no class in a list", [], "has no classes"),
    ("class is a number", published(c3=7), "class 3 has 7, not a list"),
    ("class is null", [*ROWS[:4], None, *ROWS[5:]], "class 4 has null, not a list"),
    ("class is a mapping", published(c3={"0": 1}), 'class 3 has {"0": 1}, not a list'),
    ("class is a text", published(c3="7, 23"), "class 3 has '7, 23', not a list"),
    ("empty class", published(c3=[]), "class 3 has no indices"),
    ("boolean", published(c3=[1, True]), "class 3 has true, which is not a whole number"),
    ("float", published(c3=[1.0]), "class 3 has 1.0, which is not a whole number"),
    ("text for an index", published(c3=["5"]), "class 3 has '5', which is not a whole number"),
    ("null for an index", published(c3=[None]), "class 3 has null, which is not a whole number"),
    ("list for an index", published(c3=[[5]]), "class 3 has [5], which is not a whole number"),
    ("negative", published(c3=[1, -1]), "class 3 has the index -1"),
    ("as large as D", published(c3=[1, 64]), "class 3 has the index 64, which is not one of 0 to 63"),
    ("huge", published(c3=[10**30]), "class 3 has the index 1000"),
    ("duplicate in a class", published(c3=[5, 6, 5]), "class 3 has the index 5 twice"),
    ("missing class", {**published(c3=None), "10": [1]}, "must be numbered 0 to 9, but '10' is there"),
    ("too few classes", published(c9=None), "has 9 classes, but the network has 10"),
    ("too many classes", published(c10=[1]), "has 11 classes, but the network has 10"),
    ("too many classes in a list", [*ROWS, [1]], "has 11 classes, but the network has 10"),
    ("class with a leading zero", {**published(c3=None), "03": [1]}, "but '03' is there"),
    ("class by name", {**published(c3=None), "three": [1]}, "but 'three' is there"),
    ("negative class", {**published(c3=None), "-1": [1]}, "but '-1' is there"),
    ("lone surrogate", '{"\\ud800": [1]}', "is there"),
    ("result document", {"schema_version": 1, "command": "validate", "results": {}}, "result document of 'validate'"),
    ("document of another format", document(format="other"), "is a 'other' file, not an index set"),
    ("document whose format is no text", document(format=[1]), "is a [1] file, not an index set"),
    ("document of another version", document(format_version=2), "has format version 2"),
    ("document without version", document(format_version=None), "has format version null"),
    ("document whose version is true", document(format_version=True), "has format version true"),
    ("document for another D", document(num_features=128), "is for 128 features, but the network has 64"),
    ("document with D as text", document(num_features="64"), "num_features is '64'"),
    ("document with D true", document(num_features=True), "num_features is true"),
    ("document with D zero", document(num_features=0), "num_features is 0"),
    ("document with D too small", document(num_features=20), "class 0 has the index 20, which is not one of 0 to 19"),
    ("document without classes", document(classes=None), "has no list of classes"),
    ("document with a mapping", document(classes=published()), "has no list of classes"),
    ("document with odd provenance", document(provenance=[1]), "provenance is [1]"),
]


@pytest.mark.parametrize(("content", "fragment"), table(INDEX_FILES))
def test_bad_index_file(inputs: Path, content: Any, fragment: str) -> None:
    file = inputs / "indices.json"
    if isinstance(content, str):
        content = content.encode()
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    refused(["validate", "-i", str(file)], REFUSED, fragment, str(file))


@pytest.mark.parametrize("classes", [9, 11])
def test_index_file_for_other_classes_is_refused_before_the_images_are_read(
    inputs: Path, forbid_forward_passes: Callable[[], None], classes: int
) -> None:
    """A mistake that the network's head shows should not cost a pass over all images."""
    forbid_forward_passes()
    (inputs / "indices.json").write_text(json.dumps([[1]] * classes), encoding="utf-8")
    arguments = ["validate", "--no-cache", "-i", str(inputs / "indices.json")]
    refused(arguments, REFUSED, f"has {classes} classes, but the network has 10")


def test_index_file_that_is_valid_is_the_counter_example(inputs: Path) -> None:
    """The network and images of the table are fine: with a good file the same command works."""
    for name, content in (("mapping", published()), ("rows", ROWS), ("document", document())):
        (inputs / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        assert CliRunner().invoke(app, ["validate", "--json", "-i", str(inputs / f"{name}.json")]).exit_code == 0


def test_missing_index_file(inputs: Path) -> None:
    refused(["validate", "-i", str(inputs / "none.json")], REFUSED, "none.json does not exist")


def test_index_file_that_is_a_folder(inputs: Path) -> None:
    refused(["validate", "-i", str(inputs)], REFUSED, f"{inputs} is a folder, not a file")


def test_index_file_below_a_file(inputs: Path) -> None:
    (inputs / "file").write_text("x", encoding="utf-8")
    refused(["validate", "-i", str(inputs / "file" / "indices.json")], REFUSED, "indices.json", "Not a directory")


def test_index_file_with_a_name_that_is_too_long(inputs: Path) -> None:
    refused(["validate", "-i", "n" * 300], REFUSED, "cannot be read: File name too long")


def test_index_file_that_is_a_dangling_link(inputs: Path) -> None:
    (inputs / "link.json").symlink_to(inputs / "nowhere.json")
    refused(["validate", "-i", str(inputs / "link.json")], REFUSED, "link.json does not exist")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_index_file_that_may_not_be_read(inputs: Path) -> None:
    (inputs / "secret.json").write_text("{}", encoding="utf-8")
    (inputs / "secret.json").chmod(0)
    refused(["validate", "-i", str(inputs / "secret.json")], REFUSED, "secret.json cannot be read: Permission denied")


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shipped() -> dict[str, Tensor]:
    """The weights of the default network."""
    weights = get_entry(DEFAULT_MODEL).weights
    assert isinstance(weights, Path)
    return load_file(shipped_weights(weights))


class Hostile:
    """Unpickling it would make a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def hostile_archive(_: dict[str, Tensor]) -> bytes:
    return saved({"state_dict": {"linear.weight": torch.zeros(1)}, "more": Hostile()})


def script(_: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def zip_of_text(_: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    return buffer.getvalue()


def changed(**changes: Tensor | None) -> Callable[[dict[str, Tensor]], bytes]:
    """The shipped weights with changes; ``__`` stands for a dot, None takes a tensor out."""

    def make(state: dict[str, Tensor]) -> bytes:
        new = {name.replace("__", "."): value for name, value in changes.items()}
        return saved({name: value for name, value in {**state, **new}.items() if value is not None})

    return make


def with_one(name: str, value: float) -> Callable[[dict[str, Tensor]], bytes]:
    """The shipped weights with one number replaced."""

    def make(state: dict[str, Tensor]) -> bytes:
        tensor = state[name].clone()
        tensor.flatten()[0] = value
        return saved({**state, name: tensor})

    return make


def decomposed(k: int = 3, **changes: Tensor | None) -> Callable[[dict[str, Tensor]], bytes]:
    """A checkpoint with a decomposed head of its own, with changes to its parts; None takes a part out."""

    def make(state: dict[str, Tensor]) -> bytes:
        indices = torch.tensor([[c, c + 10, c + 20][:k] for c in range(CLASSES)])
        parts: dict[str, Tensor | None] = {
            "weight": torch.zeros(CLASSES, k),
            "bias": torch.zeros(CLASSES),
            "indices": indices,
            "mask": torch.ones(CLASSES, k, dtype=torch.bool),
            **changes,
        }
        rest = {name: value for name, value in state.items() if not name.startswith("linear.")}
        return saved({**rest, **{f"linear.{name}": part for name, part in parts.items() if part is not None}})

    return make


def renamed_decomposed_head(state: dict[str, Tensor]) -> bytes:
    content = torch.load(io.BytesIO(decomposed()(state)), weights_only=True)
    return saved({name.replace("linear.", "fc."): value for name, value in content.items()})


def indices_at(value: int, column: int = 0) -> Tensor:
    indices = torch.tensor([[c, c + 10, c + 20] for c in range(CLASSES)])
    indices[3, column] = value
    return indices


def safetensors(**description: Any) -> Callable[[dict[str, Tensor]], bytes]:
    """The shipped weights as safetensors with a description; None takes a field out, ``text`` is the whole of it."""

    def make(state: dict[str, Tensor]) -> bytes:
        fields = {"format_version": 1, "model": DEFAULT_MODEL, "num_classes": CLASSES, **description}
        text = description.get("text") or json.dumps({k: v for k, v in fields.items() if v is not None})
        path = Path("described.safetensors")
        save_file(state, path, metadata={"decompose": text})
        content = path.read_bytes()
        path.unlink()
        return content

    return make


def other_network(depth: int) -> Callable[[dict[str, Tensor]], bytes]:
    return lambda _: saved(CifarResNet(depth, CLASSES).state_dict())


def with_published_head(weight: Tensor | None, bias: Tensor | None = None) -> Callable[[dict[str, Tensor]], bytes]:
    """The shipped weights with ``final_weights`` and ``final_bias``, the authors' fine-tuned layout."""
    return changed(final_weights=weight, final_bias=bias)


NAN, INFINITY = float("nan"), float("inf")
DAMAGED = "is damaged or truncated, or not a checkpoint at all"
WRONG_PARTS = "the parts of the decomposed head do not fit each other or the network"

WEIGHTS = [
    # name, file name, content (bytes, or a function of the shipped weights), more arguments, part of the sentence
    ("empty", "w.pth", b"", [], "is empty"),
    ("empty safetensors", "w.safetensors", b"", [], "is empty"),
    ("garbage", "w.pth", b"\x93garbage" * 50, [], DAMAGED),
    ("text", "w.th", b"these are no weights\n", [], DAMAGED),
    ("JSON", "w.pt", b'{"0": [1, 2]}', [], DAMAGED),
    ("zip of something else", "w.pth", zip_of_text, [], DAMAGED),
    ("truncated", "w.pth", lambda state: saved(state)[:-5000], [], DAMAGED),
    ("first 100 bytes", "w.pth", lambda state: saved(state)[:100], [], DAMAGED),
    ("garbage safetensors", "w.safetensors", b"garbage" * 50, [], "damaged or not safetensors"),
    ("truncated safetensors", "w.safetensors", lambda s: safetensors()(s)[:-9], [], "damaged or not safetensors"),
    ("safetensors header too long", "w.safetensors", struct.pack("<Q", 1 << 60), [], "damaged or not safetensors"),
    ("torch file called safetensors", "w.safetensors", saved, [], "damaged or not safetensors"),
    ("hostile pickle", "w.pth", lambda _: pickle.dumps(Hostile(), protocol=2), [], "would execute code"),
    ("hostile pickle in an archive", "w.pth", hostile_archive, [], "would execute code"),
    ("hostile pickle of a newer protocol", "w.pth", lambda _: pickle.dumps(Hostile(), protocol=5), [], "w.pth"),
    ("pickled module", "w.pth", lambda _: saved(nn.Linear(2, 2)), [], "would execute code (torch.nn.modules.linear"),
    ("TorchScript", "w.pt", script, [], "TorchScript program"),
    ("no mapping but a list", "w.pth", lambda _: saved([torch.zeros(2)]), [], "holds a list, not a state dict"),
    ("no mapping but a tensor", "w.pth", lambda _: saved(torch.zeros(2)), [], "holds a Tensor, not a state dict"),
    ("no mapping but a number", "w.pth", lambda _: saved(7), [], "holds a int, not a state dict"),
    ("empty mapping", "w.pth", lambda _: saved({}), [], "holds no tensors"),
    ("empty state dict", "w.pth", lambda _: saved({"state_dict": {}}), [], "holds no tensors"),
    ("numbers for tensors", "w.pth", lambda _: saved({"linear.weight": [1.0, 2.0]}), [], "holds no tensors"),
    ("numbers for keys", "w.pth", lambda _: saved({0: torch.zeros(1)}), [], "holds no tensors"),
    (
        "non-tensor among tensors",
        "w.pth",
        lambda s: saved({**s, "epoch": 3}),
        [],
        "mixes tensors with other values (ep",
    ),
    ("NaN", "w.pth", with_one("conv1.weight", NAN), [], "conv1.weight contains NaN or infinity"),
    ("infinity", "w.pth", with_one("linear.bias", INFINITY), [], "linear.bias contains NaN or infinity"),
    ("deeper network", "w.pth", other_network(32), [], "does not fit resnet20-digits"),
    ("another kind of network", "w.pth", lambda _: saved(nn.Linear(64, 10).state_dict()), [], "2 unexpected"),
    ("tensor missing", "w.pth", changed(bn1__weight=None), [], "1 missing (bn1.weight)"),
    ("tensor too many", "w.pth", changed(extra__weight=torch.zeros(1)), [], "1 unexpected (extra.weight)"),
    ("tensor of another shape", "w.pth", changed(bn1__bias=torch.zeros(7)), [], "bn1.bias (7,) instead of (16,)"),
    ("head without rows", "w.pth", changed(linear__weight=torch.zeros(0, FEATURES)), [], "head without any class"),
    ("head without features", "w.pth", changed(linear__weight=torch.zeros(CLASSES, 0)), [], "linear.weight (10, 0)"),
    ("head that is one number", "w.pth", changed(linear__weight=torch.tensor(1.0)), [], "linear.weight ()"),
    ("head without bias", "w.pth", changed(linear__bias=None), [], "1 missing (linear.bias)"),
    (
        "head of other classes",
        "w.pth",
        changed(linear__weight=torch.zeros(7, FEATURES), linear__bias=torch.zeros(7)),
        [],
        "the data set has 10 classes, but the network has 7",
    ),
    (
        "published decomposition without indices",
        "w.pth",
        with_published_head(torch.zeros(CLASSES, 3), torch.zeros(CLASSES)),
        [],
        "holds a decomposed head (final_weights) without the indices",
    ),
    (
        "published decomposition of another k",
        "w.pth",
        with_published_head(torch.zeros(CLASSES, 5), torch.zeros(CLASSES)),
        ["-i", "{indices}"],
        "has up to 3 indices per class, but the weights have 5",
    ),
    (
        "published decomposition without bias",
        "w.pth",
        with_published_head(torch.zeros(CLASSES, 3)),
        ["-i", "{indices}"],
        "final_weights and final_bias have shapes (10, 3) and None",
    ),
    (
        "published decomposition without weights",
        "w.pth",
        with_published_head(None, torch.zeros(CLASSES)),
        ["-i", "{indices}"],
        "final_weights and final_bias have shapes None and (10,)",
    ),
    (
        "published decomposition of other classes",
        "w.pth",
        with_published_head(torch.zeros(9, 3), torch.zeros(9)),
        ["-i", "{indices}"],
        "final_weights (9, 3) does not fit a head of 64 features and 10 classes",
    ),
    (
        "published decomposition wider than D",
        "w.pth",
        with_published_head(torch.zeros(CLASSES, 65), torch.zeros(CLASSES)),
        ["-i", "{indices}"],
        "does not fit a head of 64 features",
    ),
    ("own decomposition with indices", "w.pth", decomposed(), ["-i", "{indices}"], "carries its own indices, so -i"),
    ("own decomposition without bias", "w.pth", decomposed(bias=None), [], "lacks its weight, bias, indices or mask"),
    ("own decomposition without weight", "w.pth", decomposed(weight=None), [], "lacks its weight, bias"),
    ("own decomposition without mask", "w.pth", decomposed(mask=None), [], "w.pth"),
    ("own decomposition without indices", "w.pth", decomposed(indices=None), [], "w.pth"),
    ("own decomposition under another name", "w.pth", renamed_decomposed_head, [], "'fc', but the head of this"),
    ("own decomposition beyond D", "w.pth", decomposed(indices=indices_at(FEATURES)), [], WRONG_PARTS),
    ("own decomposition with a negative index", "w.pth", decomposed(indices=indices_at(-1)), [], WRONG_PARTS),
    ("own decomposition with an index twice", "w.pth", decomposed(indices=indices_at(13)), [], "w.pth"),
    ("own decomposition with float indices", "w.pth", decomposed(indices=torch.zeros(CLASSES, 3)), [], WRONG_PARTS),
    ("own decomposition with a number for mask", "w.pth", decomposed(mask=torch.ones(CLASSES, 3)), [], WRONG_PARTS),
    ("own decomposition with a flat weight", "w.pth", decomposed(weight=torch.zeros(CLASSES)), [], WRONG_PARTS),
    ("own decomposition with a short bias", "w.pth", decomposed(bias=torch.zeros(9)), [], WRONG_PARTS),
    (
        "own decomposition with a class masked out",
        "w.pth",
        decomposed(mask=torch.arange(CLASSES)[:, None].expand(-1, 3) != 3),
        [],
        WRONG_PARTS,
    ),
    ("own decomposition of no width", "w.pth", decomposed(k=0), [], WRONG_PARTS),
    ("description is no JSON", "w.safetensors", safetensors(text="model: resnet20"), [], "cannot be understood"),
    ("description is a list", "w.safetensors", safetensors(text="[1]"), [], "cannot be understood"),
    ("description nests deeply", "w.safetensors", safetensors(text="[" * 90_000), [], "cannot be understood"),
    ("description without model", "w.safetensors", safetensors(model=None), [], "cannot be understood"),
    ("description with a stray field", "w.safetensors", safetensors(colour="red"), [], "cannot be understood"),
    ("description with text for a number", "w.safetensors", safetensors(num_classes="10"), [], "cannot be understood"),
    ("description with two means", "w.safetensors", safetensors(mean=[0.5, 0.5]), [], "cannot be understood"),
    ("description with std zero", "w.safetensors", safetensors(std=[0.2, 0.0, 0.2]), [], "cannot be understood"),
    ("description with mean NaN", "w.safetensors", safetensors(mean=[0.5, NAN, 0.5]), [], "cannot be understood"),
    (
        "description of a newer format",
        "w.safetensors",
        safetensors(format_version=2),
        [],
        "by a newer version (format 2)",
    ),
]


@pytest.mark.parametrize(("name", "content", "more", "fragment"), table(WEIGHTS))
def test_bad_weights(
    inputs: Path, shipped: dict[str, Tensor], name: str, content: Any, more: list[str], fragment: str
) -> None:
    file, indices = inputs / name, inputs / "indices.json"
    file.write_bytes(content if isinstance(content, bytes) else content(shipped))
    indices.write_text(json.dumps(published()), encoding="utf-8")
    more = [argument.format(indices=indices) for argument in more]
    said = refused(["validate", DEFAULT_MODEL, "-w", str(file), *more], REFUSED, fragment)
    assert str(inputs) in said or "data set has 10 classes" in said


def test_weights_that_are_valid_are_the_counter_example(inputs: Path, shipped: dict[str, Tensor]) -> None:
    for name, content in (("a.pth", saved(shipped)), ("b.pth", decomposed()(shipped)), ("c.safetensors", None)):
        (inputs / name).write_bytes(safetensors()(shipped) if content is None else content)
        result = CliRunner().invoke(app, ["validate", DEFAULT_MODEL, "--json", "-w", str(inputs / name)])
        assert result.exit_code == 0, result.stderr


WEIGHTS_ARGUMENTS = [
    # name, arguments of validate, exit code, part of the sentence
    ("missing file", ["-w", "{inputs}/none.pth"], REFUSED, "none.pth does not exist"),
    ("folder", ["-w", "{inputs}"], REFUSED, "are a folder, not a file"),
    ("below a file", ["-w", "{plain}/w.pth"], REFUSED, "w.pth"),
    ("name too long", ["-w", "n" * 300], REFUSED, "nnn"),
    ("no text", [DEFAULT_MODEL, "-w", ""], REFUSED, "weights"),
    ("not saying which network", ["-w", "{plain}"], REFUSED, "does not say which network it belongs to"),
    ("description of an unknown network", ["-w", "{unknown}"], REFUSED, "no model 'resnet21'"),
    ("no default", ["resnet20_", "-w", "default"], REFUSED, "no model 'resnet20_'"),
    ("address of another kind", [DEFAULT_MODEL, "-w", "ftp://127.0.0.1/w.pth"], REFUSED, "only http and https"),
    ("address of a file", [DEFAULT_MODEL, "-w", "file:///etc/hostname"], REFUSED, "only http and https"),
    (
        "nobody answers",
        [DEFAULT_MODEL, "-w", "http://127.0.0.1:9/w.pth"],
        FAILED,
        "Cannot download http://127.0.0.1:9/",
    ),
    ("no host", [DEFAULT_MODEL, "-w", "http:///w.pth"], REFUSED, "http:///w.pth"),
    ("bad port", [DEFAULT_MODEL, "-w", "http://127.0.0.1:port/w.pth"], FAILED, "http://127.0.0.1:port/w.pth"),
    ("space in an address", [DEFAULT_MODEL, "-w", "http://127.0.0.1:9/my w.pth"], FAILED, "my w.pth"),
    ("download not allowed", ["resnet20", "--no-download"], FAILED, "not on this machine and downloads are off"),
]


@pytest.mark.parametrize(("arguments", "code", "fragment"), table(WEIGHTS_ARGUMENTS))
def test_bad_weights_argument(
    inputs: Path, shipped: dict[str, Tensor], arguments: list[str], code: int, fragment: str
) -> None:
    (inputs / "plain.pth").write_bytes(saved(shipped))
    (inputs / "unknown.safetensors").write_bytes(safetensors(model="resnet21")(shipped))
    names = {"inputs": inputs, "plain": inputs / "plain.pth", "unknown": inputs / "unknown.safetensors"}
    refused(["validate", *(argument.format(**names) for argument in arguments)], code, fragment)


# --- images -----------------------------------------------------------------------------------------------------------


def noise(side: int, kind: str) -> bytes:
    """The file of an image that hardly compresses, so that half of it is missing when half of the file is."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def jpeg(side: int) -> bytes:
    return noise(side, "JPEG")


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


GOOD = noise(32, "PNG")
ALL_DIGITS: dict[str, bytes] = {f"{split}/{c}/1.png": GOOD for split in ("train", "test") for c in range(CLASSES)}

IMAGES = [
    # name, files (None makes a folder), arguments after the data set, part of the sentence
    ("nothing in the folder", {}, [], "has none of the folders train, val and test"),
    ("no splits", {"3/1.png": GOOD}, [], "has none of the folders train, val and test"),
    ("split that is not there", {"train/3/1.png": GOOD}, ["--split", "val"], "has no folder 'val'"),
    ("split of another name", {"test/3/1.png": GOOD, "x/3/1.png": GOOD}, ["--split", "x"], "has no folder 'x'"),
    ("split that leads elsewhere", {"test/3/1.png": GOOD}, ["--split", "../inputs"], "has no folder '../inputs'"),
    ("split that is a file", {"test": GOOD}, [], "has none of the folders train, val and test"),
    ("split without classes", {"test": None}, [], "has no class folders"),
    ("images without classes", {"test/1.png": GOOD}, [], "has no class folders"),
    ("hidden class only", {"test/.3/1.png": GOOD}, [], "has no class folders"),
    ("class without images", {"test/3/1.png": GOOD, "test/4": None}, [], "class folder", "4 has no images"),
    ("class with texts", {"test/3/1.txt": b"three"}, [], "3 has no images"),
    ("class with a folder called image", {"test/3/1.png": None}, [], "3 has no images"),
    ("class with hidden images", {"test/3/.1.png": GOOD}, [], "3 has no images"),
    (
        "class that train lacks",
        {"train/3/1.png": GOOD, "test/4/1.png": GOOD},
        [],
        "'4' which the training split does not",
    ),
    (
        "classes that train lacks",
        {"train/3/1.png": GOOD, "test/4/1.png": GOOD, "test/5/1.png": GOOD},
        [],
        "'4' and 1 more which the training split does not have",
    ),
    ("class that the network lacks", {"test/cat/1.png": GOOD}, [], "the class 'cat' is not among the network's 10"),
    ("one class that it lacks", {"test/3/1.png": GOOD, "test/cat/1.png": GOOD}, [], "the class 'cat' is not among"),
    ("classes that it lacks", {"test/cat/1.png": GOOD, "test/dog/1.png": GOOD}, [], "the class 'cat' and 1 more are"),
    (
        "eleventh class",
        {**ALL_DIGITS, "train/10/1.png": GOOD, "test/10/1.png": GOOD},
        [],
        "the class '10' is not among",
    ),
    ("not an image", {"test/3/1.png": b"not an image"}, [], "1.png", "is not an image that can be read"),
    ("empty image", {"test/3/1.png": b""}, [], "1.png is not an image that can be read"),
    ("truncated image", {"test/3/1.png": GOOD[:-1500]}, [], "1.png is damaged and cannot be decoded"),
    ("header of an image", {"test/3/1.png": GOOD[:20]}, [], "1.png"),
    ("image without pixels", {"test/3/1.png": png_of_size(32, 32)}, [], "1.png is damaged"),
    ("second image is none", {"test/3/1.png": GOOD, "test/3/2.png": b"x"}, [], "2.png is not an image"),
    ("second image is truncated", {"test/3/1.png": GOOD, "test/3/2.png": GOOD[:-1500]}, [], "2.png is damaged"),
    ("decompression bomb", {"test/3/1.png": png_of_size(60_000, 60_000)}, [], "1.png is not an image that can be read"),
    ("large image truncated", {"test/3/1.jpg": jpeg(100)[:-2000]}, ["-j", "0"], "1.jpg is damaged"),
    ("large image truncated, in a worker", {"test/3/1.jpg": jpeg(100)[:-2000]}, ["-j", "1"], "1.jpg is damaged"),
    ("one size and then damaged", {"test/3/1.png": GOOD, "test/3/2.jpg": jpeg(48)[:-600]}, ["-j", "0"], "2.jpg is"),
]


def put(root: Path, files: dict[str, bytes | None]) -> None:
    root.mkdir(exist_ok=True)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if content is None else path.write_bytes(content)


@pytest.mark.parametrize(("files", "more", "fragments"), table([(row[0], row[1], row[2], row[3:]) for row in IMAGES]))
def test_bad_images(inputs: Path, files: dict[str, bytes | None], more: list[str], fragments: tuple[str, ...]) -> None:
    put(inputs / "images", files)
    refused(["validate", "--no-cache", "--dataset", f"folder:{inputs / 'images'}", *more], REFUSED, *fragments)


def test_images_that_are_valid_are_the_counter_example(inputs: Path) -> None:
    put(inputs / "images", ALL_DIGITS)
    put(inputs / "large", {"test/3/1.jpg": jpeg(100), "test/4/1.png": GOOD})
    for name in ("images", "large"):
        result = CliRunner().invoke(app, ["validate", "--json", "-j", "0", "--dataset", f"folder:{inputs / name}"])
        assert result.exit_code == 0, result.stderr


def test_ranking_needs_images_of_each_class(inputs: Path) -> None:
    put(inputs / "images", {name: content for name, content in ALL_DIGITS.items() if "/3/" not in name})
    arguments = ["extract-indices", "--dataset", f"folder:{inputs / 'images'}"]
    refused(arguments, REFUSED, "no images in this split for 1 of the network's 10 classes (3)")


def test_broken_link_among_the_images(inputs: Path) -> None:
    put(inputs / "images", {"test/3": None})
    (inputs / "images/test/3/1.png").symlink_to(inputs / "nowhere.png")
    refused(["validate", "--dataset", f"folder:{inputs / 'images'}"], REFUSED, "images/test/3 has no images")


def cifar_batch(content: Any) -> dict[str, bytes | None]:
    return {"cifar-10-batches-py/test_batch": content if isinstance(content, bytes) else pickle.dumps(content)}


def tiny(**changes: bytes | None) -> dict[str, bytes | None]:
    """Tiny ImageNet with one image, with changes."""
    files = {
        "wnids.txt": b"n01440764\n",
        "words.txt": b"n01440764\ttench\n",
        "val/val_annotations.txt": b"1.JPEG\tn01440764\t0\t0\t62\t62\n",
        "val/images/1.JPEG": jpeg(64),
    }
    files |= {name.replace("__", "/").replace("_txt", ".txt"): value for name, value in changes.items() if value}
    gone = {name.replace("__", "/").replace("_txt", ".txt") for name, value in changes.items() if value is None}
    return {f"tiny-imagenet-200/{name}": value for name, value in files.items() if name not in gone}


PIXELS = np.zeros((2, 3072), dtype=np.uint8)
NOT_CIFAR = "does not hold cifar10 images"

DATASETS = [
    # name, files in the data folder, data set, more arguments, exit code, part of the sentence
    ("cifar10 without downloads", {}, "cifar10", ["--no-download"], FAILED, "is not in", "downloads are off"),
    ("cifar100 without downloads", {}, "cifar100", ["--no-download"], FAILED, "cifar100 is not in"),
    ("cifar10 without files", {"cifar-10-batches-py": None}, "cifar10", [], REFUSED, "lacks the file test_batch"),
    ("cifar10 is a text", cifar_batch(b"text"), "cifar10", [], REFUSED, "test_batch is damaged: it", NOT_CIFAR),
    ("cifar10 is empty", cifar_batch(b""), "cifar10", [], REFUSED, NOT_CIFAR),
    ("cifar10 is a list", cifar_batch([1, 2]), "cifar10", [], REFUSED, NOT_CIFAR),
    ("cifar10 is hostile", cifar_batch(Hostile()), "cifar10", [], REFUSED, "would execute code (posix.system)"),
    ("cifar10 label", cifar_batch({"data": PIXELS, "labels": [0, 10]}), "cifar10", [], REFUSED, NOT_CIFAR),
    ("cifar10 shape", cifar_batch({"data": PIXELS[:, :9], "labels": [0, 1]}), "cifar10", [], REFUSED, NOT_CIFAR),
    ("cifar10 count", cifar_batch({"data": PIXELS, "labels": [0]}), "cifar10", [], REFUSED, NOT_CIFAR),
    ("cifar10 number type", cifar_batch({"data": PIXELS / 255, "labels": [0, 1]}), "cifar10", [], REFUSED, NOT_CIFAR),
    ("cifar10 archive", {"cifar-10-python.tar.gz": b"half"}, "cifar10", [], REFUSED, "md5 is not the published one"),
    ("imagenet not there", {}, "imagenet", [], REFUSED, "ImageNet is not there; looked for"),
    ("imagenet without val", {"imagenet/train/n01440764/1.JPEG": GOOD}, "imagenet", [], REFUSED, "not there; looked"),
    ("imagenet flat", {"imagenet/val/1.JPEG": GOOD}, "imagenet", [], REFUSED, "is not sorted into class folders"),
    (
        "imagenet class",
        {"imagenet/val/n0/1.JPEG": GOOD},
        "imagenet",
        [],
        REFUSED,
        "class folder 'n0' which is no class",
    ),
    ("tiny not there", {}, "tiny-imagenet", [], REFUSED, "Tiny ImageNet is not there; looked for"),
    ("tiny without wnids", tiny(wnids_txt=None), "tiny-imagenet", [], REFUSED, "wnids.txt is not there or cannot"),
    ("tiny with other wnids", tiny(wnids_txt=b"n1\n"), "tiny-imagenet", [], REFUSED, "names a class that is not in"),
    ("tiny with odd words", tiny(words_txt=b"\xff"), "tiny-imagenet", [], REFUSED, "words.txt is not there or cannot"),
    ("tiny without list", tiny(val__val_annotations_txt=None), "tiny-imagenet", [], REFUSED, "val_annotations.txt is"),
    ("tiny with odd list", tiny(val__val_annotations_txt=b"1.JPEG\n"), "tiny-imagenet", [], REFUSED, "val_annotations"),
    (
        "tiny without an image",
        tiny(val__val_annotations_txt=b"1.JPEG\tn01440764\n2.JPEG\tn01440764\n"),
        "tiny-imagenet",
        [],
        REFUSED,
        "2.JPEG",
    ),
    ("unknown", {}, "cifar11", [], REFUSED, "no data set 'cifar11'"),
    ("unknown split", {}, "digits", ["--split", "val"], REFUSED, "digits has no split 'val'; it has test and train"),
    ("split of another name", {}, "digits", ["--split", "Test"], REFUSED, "has no split 'Test'"),
    ("empty split", {}, "digits", ["--split", ""], REFUSED, "split ''"),
    ("no text", {}, "", [], REFUSED, "data set ''"),
    ("folder without a path", {}, "folder:", [], REFUSED, "of --dataset folder: does not exist"),
    ("folder that is not there", {}, "folder:{inputs}/none", [], REFUSED, "none' of --dataset", "does not exist"),
    ("file for a folder", {"file": b"x"}, "folder:{inputs}/data/file", [], REFUSED, "is a file, not a folder"),
    ("folder with a name too long", {}, "folder:" + "n" * 300, [], REFUSED, "nnn"),
    ("folder of nobody", {}, "folder:~nobody-of-this-name/x", [], REFUSED, "nobody-of-this-name"),
]


@pytest.mark.parametrize(
    ("files", "dataset", "more", "code", "fragments"), table([(*row[:5], row[5:]) for row in DATASETS])
)
def test_bad_dataset(
    inputs: Path,
    files: dict[str, bytes | None],
    dataset: str,
    more: list[str],
    code: int,
    fragments: tuple[str, ...],
) -> None:
    put(inputs / "data", files)
    dataset = dataset.format(inputs=inputs)
    refused(["validate", "--data-dir", str(inputs / "data"), "--dataset", dataset, *more], code, *fragments)


def test_data_folder_that_is_a_file(inputs: Path) -> None:
    (inputs / "file").write_bytes(b"x")
    arguments = ["validate", "--dataset", "cifar10", "--data-dir", str(inputs / "file"), "--no-download"]
    refused(arguments, FAILED, "cifar10 is not in")


# --- arguments --------------------------------------------------------------------------------------------------------

DIGITS = "9" * 5000  # more than Python turns into a number

ARGUMENTS = [
    # name, command line, part of the sentence
    ("a single pixel", "validate --input-size 1", "--input-size '1' is a single pixel"),
    ("unknown model", "validate resnet21", "bottlenecks 9n + 2, 1202 at most (did you mean resnet20 or resnet26?)"),
    ("model in capitals", "validate ResNet20", "no model 'ResNet20'"),
    ("model without a name", ["validate", ""], "no model ''"),
    ("model that is no classifier", "validate fcn_resnet50", "no model 'fcn_resnet50'"),
    ("model that is a path", "validate ./net.pth", "no model './net.pth'"),
    ("layers of an unknown model", "layers resnet21", "no model 'resnet21'"),
    ("layers at a size", "layers resnet20 --input-size 0", "--input-size '0' is out of range"),
    ("layers with an unknown head", "layers resnet20 --head fc", "resnet20 has no module 'fc'"),
    ("unknown precision", "validate --precision 16", "--precision '16' is unknown; choose 32 or bf16"),
    ("unknown device", "validate --device gpu", "--device 'gpu' is unknown"),
    ("device number", "validate --device cuda:x", "--device 'cuda:x' is unknown"),
    ("negative device number", "validate --device cuda:-1", "--device 'cuda:-1' is unknown"),
    ("device that is not there", "validate --device cuda:99", "--device cuda:99 is not available"),
    ("huge device number", "validate --device cuda:99999999999", "--device 'cuda:99999999999' is unknown"),
    ("gpu that is not there", "validate --gpu 99", "cuda:99 is not available: this machine has"),
    ("negative gpu", "validate --gpu -1", "--gpu -1 is negative"),
    ("gpu and device", "validate --gpu 0 --device cpu", "--gpu and --device say the same thing"),
    ("batch size 0", "validate --batch-size 0", "--batch-size 0 is not at least 1"),
    ("negative batch size", "validate -b -4", "--batch-size -4 is not at least 1"),
    ("negative workers", "validate -j -1", "--workers -1 is negative"),
    ("negative seed", "validate --seed -1", "--seed -1 is not between"),
    ("seed too large", "validate --seed 9223372036854775808", "--seed 9223372036854775808 is not between"),
    ("mean of one", "validate --mean 0.5", "--mean '0.5' is not three"),
    ("mean of four", "validate --mean 0.5,0.5,0.5,0.5", "--mean '0.5,0.5,0.5,0.5' is not three"),
    ("mean of words", "validate --mean a,b,c", "--mean 'a,b,c' is not three"),
    ("mean with a gap", "validate --mean 0.5,,0.5", "--mean '0.5,,0.5' is not three"),
    ("mean of no text", ["validate", "--mean", ""], "--mean '' is not three"),
    ("mean NaN", "validate --mean nan,0.5,0.5", "--mean 'nan,0.5,0.5' is not three"),
    ("mean infinite", "validate --mean 0.5,inf,0.5", "--mean '0.5,inf,0.5' is not three"),
    ("std zero", "validate --std 0.2,0,0.2", "--std '0.2,0,0.2' must be positive"),
    ("std negative", "validate --std 0.2,0.2,-0.2", "--std '0.2,0.2,-0.2' must be positive"),
    ("std NaN", "validate --std nan,nan,nan", "--std 'nan,nan,nan' is not three"),
    ("unknown interpolation", "validate --interpolation lanczos", "--interpolation 'lanczos' is unknown"),
    ("input size 0", "validate --input-size 0", "--input-size '0' is out of range"),
    ("input size too large", "validate --input-size 4097", "--input-size '4097' is out of range"),
    ("input size of words", "validate --input-size big", "--input-size 'big' is not a size"),
    ("input size of three", "validate --input-size 32x32x3", "--input-size '32x32x3' is not a size"),
    ("input size of half", "validate --input-size 32x", "--input-size '32x' is not a size"),
    ("input size of superscripts", "validate --input-size 3²", "--input-size '3²' is not a size"),
    ("input size of no end", ["validate", "--input-size", DIGITS], "--input-size"),
    ("negative resize", "validate --resize -32", "--resize '-32' is not a size"),
    ("resize with a point", "validate --resize 32.5", "--resize '32.5' is not a size"),
    ("crop 0", "validate --crop 0x32", "--crop '0x32' is out of range"),
    ("unknown head", "validate --no-cache --head fc", "resnet20-digits has no module 'fc'"),
    ("head that is none", "validate --no-cache --head layer1.0.conv1", "'layer1.0.conv1' is not the head of"),
    ("head without a name", ["validate", "--no-cache", "--head", ""], "''"),
    ("k 0", "extract-indices -k 0", "-k '0' is neither"),
    ("k negative", "extract-indices -k -5", "-k '-5' is neither"),
    ("k above D", "extract-indices -k 65", "-k 65 is more than the 64 features"),
    ("one k above D", "extract-indices -k 5,65", "-k 65 is more than the 64 features"),
    ("k as a word", "extract-indices -k five", "-k 'five' is neither"),
    ("k without end", "extract-indices -k 5,", "-k '' is neither"),
    ("k without text", ["extract-indices", "-k", ""], "-k '' is neither"),
    ("k NaN", "extract-indices -k nan", "-k 'nan' is neither"),
    ("k infinite", "extract-indices -k inf", "-k 'inf' is neither"),
    ("k of no end", ["extract-indices", "-k", DIGITS], "-k"),
    ("fraction 0", "extract-indices -k 0.0", "-k '0.0' is neither"),
    ("fraction 1", "extract-indices -k 1.0", "-k '1.0' is neither"),
    ("fraction above 1", "extract-indices -k 1.5", "-k '1.5' is neither"),
    (
        "fraction of negative scores",
        "extract-indices -k 0.9 --method contribution",
        "needs scores that are not negative",
    ),
    ("fraction of weights", "extract-indices -k 0.9 --method weight", "needs scores that are not negative"),
    ("unknown method", "extract-indices --method best", "--method 'best' is unknown; choose frequency"),
    ("unknown layout", "extract-indices --layout yaml", "--layout 'yaml' is unknown; choose published or document"),
    ("method in capitals", "extract-indices --method Mean", "--method 'Mean' is unknown"),
]


@pytest.mark.parametrize(("arguments", "fragment"), table(ARGUMENTS))
def test_bad_argument(inputs: Path, arguments: str | list[str], fragment: str) -> None:
    refused(arguments.split() if isinstance(arguments, str) else arguments, REFUSED, fragment)


def test_constants_that_overflow_are_a_failure_of_the_work(inputs: Path) -> None:
    put(inputs / "images", {"test/3/1.png": GOOD})
    arguments = ["validate", "--no-cache", "--dataset", f"folder:{inputs / 'images'}", "--std", "1e-300,1,1"]
    refused(arguments, FAILED, "NaN or infinite features for image number 0")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has what the others lack")
def test_device_of_another_kind_of_machine(inputs: Path) -> None:
    refused(["validate", "--device", "mps"], REFUSED, "--device mps is not available on this machine")


USAGE = [
    # name, command line, part of what the parser says
    ("unknown command", "frobnicate", "frobnicate"),
    ("unknown option", "validate --frobnicate", "--frobnicate"),
    ("option without its value", "validate --dataset", "--dataset"),
    ("second model", "validate resnet20 resnet32", "resnet32"),
    ("batch size as a word", "validate --batch-size many", "--batch-size"),
    ("batch size with a point", "validate --batch-size 2.5", "--batch-size"),
    ("workers as a word", "validate -j all", "--workers"),
    ("seed as a word", "validate --seed now", "--seed"),
    ("gpu as a word", "validate --gpu first", "--gpu"),
    ("age as a word", "cache --clear --older-than week", "--older-than"),
    ("negative age", "cache --clear --older-than -1", "--older-than"),
    ("output for a list", "models --output list.json", "--output"),
]


@pytest.mark.parametrize(("arguments", "fragment"), table(USAGE))
def test_wrong_usage(inputs: Path, arguments: str, fragment: str) -> None:
    """What the parser itself refuses: its own wording, the same exit code and the same silence on stdout."""
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == REFUSED, result.output
    assert result.stdout == ""
    assert fragment in result.stderr
    assert result.stderr.count("Error") == 1
    assert "Traceback" not in result.stderr
    assert not list(Path.cwd().iterdir())


OUTPUTS = [
    # name, command line, part of the sentence
    ("folder for a file", "validate -o {folder}", "folder: it is a folder"),
    ("file that exists", "validate -o {file}", "file.json exists already"),
    ("in a file", "validate -o {file}/new.json", "file.json is not a folder"),
    ("far down in a file", "validate -o {file}/a/b/new.json", "file.json is not a folder"),
    ("name too long", "validate -o " + "n" * 300, "nnn"),
    ("neither file nor folder", "validate --overwrite -o {pipe}", "pipe"),
    ("index file that exists", "extract-indices -o {file}", "file.json exists already"),
    ("index file in a file", "extract-indices -o {file}/k5.json", "file.json is not a folder"),
    ("index file in a folder that has it", "extract-indices -o {folder}", "_k5_indices.json exists already"),
    (
        "several index files in a file",
        "extract-indices -k 5,10 -o {file}",
        "file.json is named as a file",
    ),
    ("demo into a file", "demo -o {file}", "file.json is not a folder"),
    ("demo into a full folder", "demo -o {folder}", "folder is not empty"),
]


@pytest.fixture
def taken(inputs: Path) -> dict[str, Path]:
    """A folder, a file and something else that are there already."""
    put(inputs, {"folder/resnet20-digits_digits_k5_indices.json": b"mine", "file.json": b"mine"})
    os.mkfifo(inputs / "pipe")
    return {"folder": inputs / "folder", "file": inputs / "file.json", "pipe": inputs / "pipe"}


@pytest.mark.parametrize(("arguments", "fragment"), table(OUTPUTS))
def test_bad_output(inputs: Path, taken: dict[str, Path], arguments: str, fragment: str) -> None:
    refused(arguments.format(**taken).split(), REFUSED, fragment)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to this user")
@pytest.mark.parametrize("command", ["validate", "extract-indices", "demo"])
def test_output_that_may_not_be_written(inputs: Path, command: str) -> None:
    folder = inputs / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    refused([command, "-o", str(folder / "new")], REFUSED, "permission denied")


def test_output_is_refused_before_any_work_is_done(
    inputs: Path, taken: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_nothing(*_: Any, **__: Any) -> None:
        raise AssertionError("the weights were read before the output was looked at")

    monkeypatch.setattr("decompose_cli.models.classifier.read_weights", read_nothing)
    refused(["validate", "-o", str(taken["file"])], REFUSED, "exists already")


# --- networks of the user's -------------------------------------------------------------------------------------------

NETWORKS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=10, end=None):
        super().__init__()
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8), nn.ReLU())
        self.out = nn.Linear(8, classes)
        self.end = end or nn.Identity()

    def forward(self, x):
        return self.end(self.out(self.body(x)))

def good(): return Net()
def seven(): return Net(7)
def softmax(): return Net(end=nn.Softmax(1))
def relu(): return Net(end=nn.ReLU())
def needs(classes): return Net(classes)
def fails(): raise ValueError("no such thing")
def fails_silently(): raise ValueError
def gives_none(): return None
def gives_class(): return Net
def no_head(): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
def maps(): return nn.Conv2d(3, 10, 1)
def leaves(): raise SystemExit(0)

class Failing(Net):
    def forward(self, x):
        raise RuntimeError("broken inside\\nmore")

class Infinite(Net):
    # Overflows on photographs, but not on the random numbers with which the head is looked for.
    def forward(self, x):
        return self.out(self.body(x) + torch.where(x.amin((1, 2, 3)) > -2, float("inf"), 0.0)[:, None])

class Pair(Net):
    def forward(self, x):
        return super().forward(x), x

word = "text"
"""

USER_NETWORKS = [
    # name, model, part of the sentence
    ("no module", "nowhere:net", "no Python module 'nowhere'"),
    ("no module in a package", "nowhere.inside:net", "no Python module 'nowhere.inside'"),
    ("no callable of that name", "networks:Nothing", "networks has no callable 'Nothing'"),
    ("text for a callable", "networks:word", "networks has no callable 'word'"),
    ("no module before the colon", ":net", "':net' is not package.module:callable"),
    ("nothing after the colon", "networks:", "'networks:' is not package.module:callable"),
    ("two dots for a module", "..:net", "Importing .. failed"),
    ("module that raises", "raises:net", "Importing raises failed: ZeroDivisionError: division by zero"),
    ("module that is no Python", "garbled:net", "Importing garbled failed: SyntaxError"),
    ("module that needs another", "needy:net", "Importing needy failed: No module named 'not_installed_anywhere'"),
    ("module that exits", "exits:net", "Importing exits failed"),
    ("callable that needs arguments", "networks:needs", "networks:needs() failed: TypeError"),
    ("callable that raises", "networks:fails", "networks:fails() failed: ValueError: no such thing"),
    ("callable that raises silently", "networks:fails_silently", "networks:fails_silently() failed: ValueError"),
    ("callable that exits", "networks:leaves", "networks:leaves() failed"),
    ("None", "networks:gives_none", "networks:gives_none() returned a NoneType, not a torch.nn.Module"),
    ("class", "networks:gives_class", "networks:gives_class() returned a type, not a torch.nn.Module"),
    ("no linear layer", "networks:no_head", "has no linear layer that could be its head"),
    ("softmax", "networks:softmax", "after it come 'end' (Softmax)"),
    ("ReLU after the head", "networks:relu", "after it come 'end' (ReLU)"),
    ("maps for logits", "networks:maps", "returns shape (2, 10, 32, 32) for two images, not logits"),
    ("pair for logits", "networks:Pair", "returns a tuple for two images, not logits"),
    ("forward raises", "networks:Failing", "cannot run on RGB images of 32x32 pixels: broken inside"),
    ("other classes", "networks:seven", "the data set has 10 classes, but the network has 7"),
]


@pytest.fixture
def user_modules(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Networks of a user's, on the Python path."""
    folder = inputs / "code"
    put(
        folder,
        {
            "networks.py": NETWORKS.encode(),
            "raises.py": b"1 / 0\n",
            "garbled.py": b"def net(:\n",
            "needy.py": b"import not_installed_anywhere\n",
            "exits.py": b"import sys\nsys.exit(0)\n",
        },
    )
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.mark.parametrize(("model", "fragment"), table(USER_NETWORKS))
def test_bad_network_of_the_users(user_modules: Path, model: str, fragment: str) -> None:
    refused(["validate", model, "--dataset", "digits", "--no-cache"], REFUSED, fragment)


def test_network_that_gives_nan_is_a_failure_of_the_work(user_modules: Path) -> None:
    arguments = ["validate", "networks:Infinite", "--dataset", "digits", "--no-cache"]
    refused(arguments, FAILED, "NaN or infinite features for image number 0 of digits test")


def test_network_of_the_users_needs_a_dataset(user_modules: Path) -> None:
    refused(["validate", "networks:good"], REFUSED, "not known what networks:good was trained on")


def test_network_of_the_users_that_works_is_the_counter_example(user_modules: Path) -> None:
    result = CliRunner().invoke(app, ["validate", "networks:good", "--dataset", "digits", "--json"])
    assert result.exit_code == 0, result.stderr


def test_there_are_at_least_sixty_cases() -> None:
    tables = (INDEX_FILES, WEIGHTS, WEIGHTS_ARGUMENTS, IMAGES, DATASETS, ARGUMENTS, USAGE, OUTPUTS, USER_NETWORKS)
    assert sum(map(len, tables)) >= 60
    assert all(len(rows) >= 10 for rows in tables)
