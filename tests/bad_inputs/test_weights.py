"""Weights that cannot be used: damaged, hostile, of another network, decomposed in a way that does not fit."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import (
    Hostile,
    changed,
    decomposed,
    hostile_archive,
    indices_at,
    other_network,
    renamed_decomposed_head,
    safetensors,
    saved,
    script,
    with_one,
    with_published_head,
    zip_of_text,
)
from helpers.command_line import FAILED, REFUSED, refused, run
from helpers.inputs import CLASSES, FEATURES, published
from helpers.rows import Rows, cases, results, table, words
from torch import Tensor, nn

from decompose_cli.models.registry import DEFAULT_MODEL

NAN, INFINITY = float("nan"), float("inf")
DAMAGED = "is damaged or truncated, or not a checkpoint at all"
WRONG_PARTS = "the parts of the decomposed head do not fit each other or the network"

WEIGHTS = [
    # name, file name, content (bytes, or a function of the shipped weights), more arguments, part of the sentence
    ("empty", "w.pth", b"", [], "is empty"),
    ("empty safetensors", "w.safetensors", b"", [], "is empty"),
    ("garbage", "w.pth", b"\x93garbage" * 50, [], DAMAGED),
    ("text", "w.th", b"these are no weights\n", [], DAMAGED),
    ("JSON", "w.pt", b'{"0": [1, 2]}', [], "is a text, such as JSON, not a checkpoint"),
    ("zip of something else", "w.pth", zip_of_text, [], DAMAGED),
    ("truncated", "w.pth", lambda state: saved(state)[:-5000], [], DAMAGED),
    ("first 100 bytes", "w.pth", lambda state: saved(state)[:100], [], DAMAGED),
    ("garbage safetensors", "w.safetensors", b"garbage" * 50, [], "damaged or not safetensors"),
    ("truncated safetensors", "w.safetensors", lambda s: safetensors()(s)[:-9], [], "damaged or not safetensors"),
    ("safetensors header too long", "w.safetensors", struct.pack("<Q", 1 << 60), [], "damaged or not safetensors"),
    ("truncated torch file called safetensors", "w.safetensors", lambda s: saved(s)[:-5000], [], DAMAGED),
    ("truncated safetensors called bin", "w.bin", lambda s: safetensors()(s)[:-9], [], "damaged or not safetensors"),
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
    (
        "counter that is no number of steps",
        "w.pth",
        changed(bn1__num_batches_tracked=torch.tensor(1j)),
        [],
        "bn1.num_batches_tracked holds complex numbers (complex64)",
    ),
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
        "own decomposition with all classes masked out",
        "w.pth",
        decomposed(mask=torch.zeros(CLASSES, 3, dtype=torch.bool)),
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
        run("validate", DEFAULT_MODEL, "--json", "-w", str(inputs / name))


WEIGHTS_ARGUMENTS = [
    # name, arguments of validate, exit code, part of the sentence
    ("missing file", ["-w", "{inputs}/none.pth"], REFUSED, "none.pth does not exist"),
    ("folder", ["-w", "{inputs}"], REFUSED, "that is a folder, not a file"),
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
    (
        "key of no place",
        [DEFAULT_MODEL, "-w", "{plain}", "--weights-key", "ema"],
        REFUSED,
        "nothing at --weights-key ema",
    ),
    ("key without text", [DEFAULT_MODEL, "-w", "{plain}", "--weights-key", ""], REFUSED, "names no place in the file"),
    ("key without a file", [DEFAULT_MODEL, "--weights-key", "ema"], REFUSED, "--weights-key needs a file or URL"),
    ("key and averages", [DEFAULT_MODEL, "-w", "{plain}", "--weights-key", "a", "--ema"], REFUSED, "both say which"),
    ("no host", [DEFAULT_MODEL, "-w", "http:///w.pth"], REFUSED, "http:///w.pth"),
    ("bad port", [DEFAULT_MODEL, "-w", "http://127.0.0.1:port/w.pth"], REFUSED, "http://127.0.0.1:port/w.pth"),
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


# --- of the studies ---------------------------------------------------------------------------------------------------


BAD_CHECKPOINTS = [
    # file, part of the sentence
    ("none.pth", "none.pth does not exist"),
    ("empty.pth", "empty.pth is empty"),
    ("half.pth", "half.pth is damaged or truncated"),
    ("plain.json", "plain.json is a text, such as JSON, not a checkpoint"),
    ("taken", "taken: that is a folder, not a file"),
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


# Every file for gates, which are read from it alone, and for a network; the others show that they read it so, too.
CHECKPOINT_FILES = [
    (option, file, fragment)
    for option in CHECKPOINT_OPTIONS
    for file, fragment in BAD_CHECKPOINTS
    if option in ("mutual-info --csg {file}", "essential --method a={file}") or file in ("none.pth", "hostile.pth")
]


@pytest.mark.parametrize(("option", "file", "fragment"), CHECKPOINT_FILES)
def test_bad_checkpoint(material: Path, option: str, file: str, fragment: str) -> None:
    refused(words(option.replace("{file}", f"{{m}}/{file}"), material), REFUSED, fragment)


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
    refused(words(line, material), REFUSED, *fragments)


def test_layers_of_decomposed_checkpoints_are_compared(material: Path) -> None:
    """The layers before the head are there, and here they are the same as the original's."""
    compare = "--compare own={m}/decomposed.pth --compare theirs={m}/published.pth"
    found, _ = results(f"selectivity {{images}}/one_each --layers layer3.2 {compare}", material)
    for name in ("own", "theirs"):
        assert found["compared"][name]["layers"] == found["layers"]


def test_features_of_a_decomposed_checkpoint_are_ranked(material: Path) -> None:
    found, _ = results(f"mutual-info {OWN} {{images}}/one_each -k 3", material)
    assert set(found["sets"]["ours"]) == {"3"}
