"""Networks of every kind that people bring, against the commands: right numbers, or a sentence that says what it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import network_kinds
from helpers.command_line import document_of, invoke, only_error, run
from PIL import Image
from torch import Tensor

from decompose_cli.models.classifier import open_classifier
from decompose_cli.models.completing import completed
from decompose_cli.models.copying import in_float32, number_type
from decompose_cli.models.logits import logits_of
from decompose_cli.models.tracing import evaluating, example_images
from decompose_cli.training.learnable import check_learns

KINDS = [name for name, value in vars(network_kinds).items() if hasattr(value, "__wrapped__")]
NO_HEAD = {
    "dynamic": "is quantised: the weights of 'head' (torch.ao.nn.quantized.dynamic.Linear)",
    "static": "is quantised: the weights of 'inner.0'",
    "ensemble": "are made by 2 heads together ('members.0.head', 'members.1.head')",
    "two_heads": "are made by 2 heads together ('head', 'second')",
    "complex_head": "is of complex numbers, and features have to be real",
    "meta": "has tensors without numbers, on the device meta: body.first.weight",
    "partly_meta": "has tensors without numbers, on the device meta: head.weight, head.bias",
    "scripted": "is a ScriptModule",
    "traced": "is a ScriptModule",
    "saved_script": "is a ScriptModule",
    "scripted_head": "has a ScriptModule 'head'",
    "frozen_script": "cannot be put into training or evaluation mode",
    "exported": "cannot be put into training or evaluation mode (NotImplementedError",
    "autocast_bfloat16": "computes 'head' in bfloat16, though its weights are float32",
    "autocast_half": "computes 'head' in float16, though its weights are float32",
    "gives_tuple": "returns a tuple, not logits",
    "gives_other_dict": "returns a dict of 'first', 'second', not logits",
    "by_name": "'head' (TakesByName), which cannot be called with features alone: it raises TypeError",
    "needs_labels": "its forward raises TypeError",
    "dropout": "it draws random numbers (the operation bernoulli_, as dropout does)",
    "dropout_at_logits": "it draws random numbers (the operation bernoulli_, as dropout does)",
    "dropout_inside": "it draws random numbers in 'body.last.1' (the operation bernoulli_, as dropout does)",
    "noise": "it draws random numbers (the operation randn_like)",
    "cosine": "'head' (Cosine), which looks at the direction of the features",
    "cosine_by_hand": "'head' (CosineByHand), which looks at the direction of the features",
    "distances": "'head' (Distances), which is not linear",
    "twice": "uses 'head' (Linear) 2 times for an image",
    "for_positions": "makes scores for each of 9 positions, and the logits are their means",
    "pooled_scores": "makes scores for each of 9 positions, and the logits are their means",
    "hidden_head": "never calls its linear layers ('head')",
    "sigmoid": "after it comes 'end' (Sigmoid)",
    "softmax": "after it comes 'end' (Softmax)",
    "log_softmax": "after it comes 'end' (LogSoftmax)",
    "sigmoid_function": "but the sigmoid of it",
    "softmax_function": "but the softmax of it",
    "log_softmax_function": "but the log-softmax of it",
    "log_sigmoid_function": "but the log-sigmoid of it",
    "tanh_function": "but the tanh of it",
    "two_classes_by_one": "gives one number for an image",
    "raises_in_hook": "its forward raises KeyError: 'layer9'",
    "fails": "its forward raises ValueError: no such thing.",
    "exits": "its forward raises SystemExit: 3",
    "needs_size": "its forward raises RuntimeError",
    "of_grey": "its forward raises RuntimeError",
    "negative_variance": "body.norm.running_var holds a negative variance (-1)",
    "nan_weight": "body.second.weight holds NaN or infinity",
    "infinite_bias": "head.bias holds NaN or infinity",
    "not_copied": "cannot be copied, which is needed to leave it as it is: copy.deepcopy raises RuntimeError",
}
"""Parts of the sentence of networks whose head cannot be found, or that cannot be read at all."""
NOT_TRAINED = {
    "frozen": "has no parameter that learns",
    "half": "does not work on images of 8x8 pixels",
    "double": "does not work on images of 8x8 pixels",
    "all_under_no_grad": "gives logits without gradients",
    "all_under_inference_mode": "gives logits without gradients",
    "under_inference_mode": "its forward raises RuntimeError: Inference tensors",
    "dynamic": "is quantised",
    "static": "is quantised",
    "meta": "has tensors without numbers",
    "fails": "its forward raises ValueError: no such thing.",
    "exits": "its forward raises SystemExit: 3",
    "nan_weight": "body.second.weight holds NaN or infinity",
    "negative_variance": "body.norm.running_var holds a negative variance",
    "not_copied": "cannot be copied",
}
NOT_EXPLAINED = {
    "flips": "after the operation flip",
    "rolls": "after the operation roll",
    "flips_images": "its images are in another order after the operation flip",
    "under_inference_mode": "it is computed under torch.inference_mode",
    "through_numpy": "No gradient of the logits",
    "scripted_body": "has no layer with maps",
}
LIKE_PLAIN = (
    *("nested", "parallel", "compiled_in_place", "frozen", "integer_buffers", "graph", "under_no_grad"),
    *("all_under_no_grad", "detached", "detached_maps", "gives_dict", "gives_named_tuple", "keyword_forward", "double"),
    *("two_names", "off_the_way", "auxiliary", "keeps_maps", "remembers", "gradients_in_training"),
)
"""Networks that compute what the plain one does; those with further layers have drawn these last."""


def some(kinds: Iterable[str]) -> list[Any]:
    """Kinds to test; compilers take seconds."""
    slow = ("compiled", "exported")
    return [pytest.param(kind, marks=[pytest.mark.slow] if kind.startswith(slow) else []) for kind in kinds]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path_factory.mktemp("kinds") / "images", list(map(str, range(10))), n=2, side=8)


def line(command: str, kind: str, images: Path) -> list[str]:
    more = {
        "explain": ["--indices-of", "0,1", "-k", "3", "-o", "maps"],
        "filters": ["--class", "3", "-k", "2", "-o", "filters"],
        "atlas": ["--class", "3", "-k", "2", "--images", "2", "-o", "atlas"],
        "essential": ["-k", "3", "--repeats", "2"],
        "extract-indices": ["-k", "3"],
        "mutual-info": ["-k", "3"],
        "compare": ["a=rows.json", "b=rows.json"],
        "sweep": ["--ks", "1-3"],
        "sparsify": ["-k", "3", "--method", "contribution", "-o", "sparse"],
        "train": ["-b", "8", "--epochs", "1", "--device", "cpu", "--lr", "0.01", "-o", "run"],
        "finetune": ["-k", "3", "-b", "8", "--epochs", "1", "--device", "cpu", "--lr", "0.01", "-o", "tuned"],
        "lr-find": ["--set", "batch_size=8"],
        "bf16": ["--precision", "bf16"],
    }.get(command, [])
    named = [command.replace("bf16", "validate"), f"helpers.network_kinds:{kind}"]
    if command == "compare":
        named.insert(1, "--model")
        Path("rows.json").write_text(json.dumps([[number % 3] for number in range(10)]), encoding="utf-8")
    if command in ("layers", "export"):
        return [*named, "--input-size", "8", *(["-o", "net.safetensors"] if command == "export" else [])]
    return [*named, "--dataset", f"folder:{images}", "--input-size", "8", "-j", "0", *more]


def seen(images: Path, described: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Images as networks are given them, and their classes."""
    paths = sorted((images / "test").rglob("*.png"))
    pixels = [torch.frombuffer(bytearray(Image.open(path).tobytes()), dtype=torch.uint8) for path in paths]
    rows = torch.stack([one.reshape(8, 8, 3).permute(2, 0, 1) for one in pixels]) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (described["mean"], described["std"]))
    return (rows - mean) / std, torch.tensor([int(path.parent.name) for path in paths])


@pytest.mark.parametrize("kind", some(kind for kind in KINDS if kind not in NO_HEAD))
def test_a_network_that_can_be_read_gives_what_a_plain_loop_gives(kind: str, images: Path) -> None:
    found = document_of(*line("validate", kind, images))
    given, labels = seen(images, found["dataset"])
    torch.manual_seed(0)  # by which lazy layers get their weights
    network = completed(vars(network_kinds)[kind](), (8, 8), kind)
    with evaluating(network):
        logits = logits_of(network(given.to(number_type(network)))).double()
    close = {"rel": 2e-2, "abs": 1e-2} if kind in ("half", "bfloat16", "half_head", "half_body") else {"rel": 1e-4}
    original = found["results"]["original"]
    assert original["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), **close)
    if kind not in ("bfloat16", "half_body"):
        assert original["correct"] == int((logits.argmax(1) == labels).sum())


@pytest.mark.parametrize("kind", some(NO_HEAD))
def test_a_network_without_a_head_is_said_to_be_what_it_is(kind: str, images: Path) -> None:
    result = invoke(*line("validate", kind, images))
    assert result.exit_code in (1, 2)
    sentence = only_error(result.stderr)
    assert NO_HEAD[kind] in sentence, sentence
    assert "unforeseen" not in sentence
    assert not list(Path().iterdir())


@pytest.mark.parametrize("kind", NOT_TRAINED)
def test_a_network_that_cannot_learn_is_refused_before_training(kind: str, images: Path) -> None:
    result = invoke(*line("train", kind, images))
    assert result.exit_code == 2
    assert NOT_TRAINED[kind] in only_error(result.stderr)
    assert not Path("run").exists()


@pytest.mark.parametrize("kind", NOT_EXPLAINED)
def test_maps_that_cannot_be_shown_are_refused_by_what_hides_them(kind: str, images: Path) -> None:
    result = invoke(*line("explain", kind, images))
    assert result.exit_code == 2
    assert NOT_EXPLAINED[kind] in only_error(result.stderr)


def explained(kind: str, images: Path) -> list[float]:
    found = document_of(*line("explain", kind, images), "--overwrite")["results"]
    assert found["layer"].split(".")[-1] in ("body", "last"), "the last layer that the logits hear of"
    figures = [one[name] for one in found["deletion"] for name in ("highlighted", "elsewhere")]
    return [*(score["logit"] for one in found["explanations"] for score in one["original"]), *figures]


@pytest.fixture(scope="module")
def plain_explained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("plain"))
        return explained("plain", images)


@pytest.fixture(scope="module")
def plain_selected(images: Path) -> list[float]:
    return selected("plain", images)


def selected(kind: str, images: Path) -> list[float]:
    found = document_of(*line("selectivity", kind, images))["results"]["layers"]
    return [layer[name] for layer in found.values() for name in ("psi_mean", "psi_median", "class_selectivity")]


@pytest.mark.parametrize("kind", some(LIKE_PLAIN))
def test_the_same_network_in_another_dress_is_explained_alike(
    kind: str, images: Path, plain_explained: list[float]
) -> None:
    assert explained(kind, images) == pytest.approx(plain_explained, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("kind", some(LIKE_PLAIN))
def test_the_same_network_in_another_dress_is_as_selective(
    kind: str, images: Path, plain_selected: list[float]
) -> None:
    assert len(plain_selected) == 6
    assert selected(kind, images)[:6] == pytest.approx(plain_selected, rel=1e-3)


@pytest.mark.parametrize("kind", ["half", "bfloat16", "half_head", "half_body", "complex_weights"])
@pytest.mark.parametrize("command", ["selectivity", "explain", "filters", "sparsify", "bf16"])
def test_numbers_of_another_kind_are_no_obstacle(command: str, kind: str, images: Path) -> None:
    run(*line(command, kind, images))


@pytest.mark.parametrize("kind", some(["compiled", "compiled_inside", "parallel", "lazy"]))
def test_the_command_that_training_prints_works(kind: str, images: Path) -> None:
    said = run(*line("train", kind, images)).stderr
    (printed,) = [one for one in said.splitlines() if one.startswith("Use it: ")]
    measured = json.loads(run(*printed.removeprefix("Use it: decompose ").split(), "-j", "0", "--json").stdout)
    assert measured["results"]["total"] == 20


@pytest.mark.parametrize("command", ["train", "finetune"])
@pytest.mark.parametrize("kind", ["remembers", "keeps_maps", "gradients_in_training"])
def test_what_a_forward_keeps_or_switches_off_does_not_hinder_training(kind: str, command: str, images: Path) -> None:
    run(*line(command, kind, images))


def test_finding_out_whether_a_network_learns_moves_nothing_in_it() -> None:
    network = network_kinds.gradients_in_training()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check_learns(network, "net", (8, 8))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "flips_maps", "rounds", "hooked", "tied"])
def test_networks_that_were_no_trouble_still_go_through(kind: str, images: Path) -> None:
    for command in ("explain", "selectivity", "finetune"):
        run(*line(command, kind, images))


@pytest.mark.parametrize(("kind", "expected"), [("half", torch.float32), ("half_body", torch.bfloat16)])
def test_copies_are_of_float32_where_the_network_runs_in_it(kind: str, expected: torch.dtype) -> None:
    network = vars(network_kinds)[kind]()
    assert number_type(in_float32(network, example_images((8, 8), model=network))) == expected


def test_a_quantised_network_has_the_same_identity_each_time() -> None:
    first, second = (open_classifier("helpers.network_kinds:dynamic", None).weights_sha256 for _ in range(2))
    assert first == second != open_classifier("helpers.network_kinds:plain", None).weights_sha256


def test_averaged_weights_are_said_to_be_such(images: Path) -> None:
    state = network_kinds.plain().state_dict()
    torch.save({"state_dict": state, "state_dict_ema": {name: 2 * value for name, value in state.items()}}, "both.pt")
    raw, averaged = (run(*line("validate", "plain", images), "-w", "both.pt", *more).stderr for more in ([], ["--ema"]))
    said = [next(one for one in text.splitlines() if one.startswith("Weights")) for text in (raw, averaged)]
    assert (said[1].endswith(", averaged"), said[0].endswith(", averaged")) == (True, False)


ALL = (
    *("layers", "extract-indices", "validate", "bf16", "sweep", "essential", "mutual-info", "selectivity", "sparsify"),
    *("compare", "explain", "filters", "atlas", "finetune", "export", "train", "lr-find"),
)


@pytest.mark.slow
@pytest.mark.parametrize("command", ALL)
@pytest.mark.parametrize("kind", KINDS)
def test_every_command_takes_every_network_or_says_why_not(kind: str, command: str, images: Path) -> None:
    result = invoke(*line(command, kind, images))
    assert result.exit_code in (0, 1, 2), result.stderr
    if result.exit_code:
        sentence = only_error(result.stderr)
        assert "unforeseen" not in sentence
        if kind in NO_HEAD and command not in ("layers", "train", "lr-find"):
            assert NO_HEAD[kind] in sentence
    else:
        assert kind not in NO_HEAD or command in ("layers", "train", "lr-find", "export")
