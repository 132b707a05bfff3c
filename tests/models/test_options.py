"""Options of a network: chosen by hand, told by a checkpoint, or seen in the names of its weights."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from decompose_cli.errors import InputError
from decompose_cli.models.checkpoint import Metadata, write_checkpoint
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.models.classifier import open_classifier
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.registry import DEFAULT_MODEL, get_entry, registered_models
from decompose_cli.models.tracing import example_images
from decompose_cli.models.weights import read_weights

SIZE = (32, 32)


def projected_weights(depth: int = 20, num_classes: int = 10) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return CifarResNet(depth, num_classes, shortcut="projection").state_dict()


def description(model: str = "resnet20", **more: object) -> Metadata:
    return Metadata(model=model, num_classes=10, **more)  # type: ignore[arg-type]


PROJECTION = {"shortcut": "projection"}


@pytest.mark.parametrize("name", [DEFAULT_MODEL, "resnet20", "resnet110", "resnet14"])
def test_chosen_option_is_built_and_known(name: str) -> None:
    entry = get_entry(name)
    chosen = entry.configured(shortcut="projection")
    assert "layer2.0.downsample.0.weight" in chosen.build(3).state_dict()
    assert chosen.chosen == PROJECTION
    assert chosen.architecture == {**entry.architecture, "shortcut": "projection"}
    assert (chosen.weights, chosen.sha256, chosen.parameters, chosen.accuracy) == (None, None, None, None)
    kept = ("name", "dataset", "num_classes", "preprocessing", "num_features", "options", "recognise")
    assert all(getattr(chosen, attribute) == getattr(entry, attribute) for attribute in kept)
    assert entry.chosen == {}
    assert "layer2.0.downsample.0.weight" not in entry.build(3).state_dict()


@pytest.mark.parametrize("options", [{}, {"shortcut": "identity"}])
def test_defaults_change_nothing(options: dict[str, str]) -> None:
    entry = get_entry("resnet20")
    assert entry.configured(**options) is entry
    assert entry.architecture == {"family": "cifar_resnet", "depth": 20}


def test_choosing_again() -> None:
    chosen = get_entry("resnet20").configured(shortcut="projection")
    assert chosen.configured() is chosen
    assert chosen.configured(shortcut="projection") is chosen
    back = chosen.configured(shortcut="identity")
    assert (back.chosen, back.architecture) == ({}, get_entry("resnet20").architecture)
    assert "linear.weight" in back.build(3).state_dict()


@pytest.mark.parametrize("name", ["resnet164", "preresnet20", "preresnet164", "preresnet14"])
def test_networks_with_one_kind_of_shortcut(name: str) -> None:
    entry = get_entry(name)
    assert entry.configured(shortcut="projection") is entry
    with pytest.raises(InputError, match=f"^shortcut 'identity' is not known to {name}; choose projection"):
        entry.configured(shortcut="identity")


def test_unknown_value_is_refused_with_the_choices() -> None:
    with pytest.raises(InputError) as refusal:
        get_entry("resnet20").configured(shortcut="none")
    assert refusal.value.message == "shortcut 'none' is not known to resnet20; choose identity, projection."


@pytest.mark.parametrize("name", ["resnet50", "vit_b_16", "custom_resnet", "resnet34_32x32"])
def test_network_without_the_option_is_refused_with_those_that_have_it(name: str) -> None:
    with pytest.raises(InputError) as refusal:
        get_entry(name).configured(shortcut="identity")
    assert refusal.value.message.startswith(f"{name} has no shortcut option; networks with it: resnet20, resnet32, ")
    assert refusal.value.message.endswith(" and others.")


@pytest.mark.parametrize(("name", "own"), [("preresnet20", "shortcut, block"), ("resnet50", "none")])
def test_option_of_no_network_is_refused_with_those_there_are(name: str, own: str) -> None:
    with pytest.raises(InputError) as refusal:
        get_entry(name).configured(some_thing="x")
    assert refusal.value.message == f"{name} has no some_thing option; its options: {own}."


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(entry, marks=[pytest.mark.slow] if entry.name == "resnet1202" else [])
        for entry in registered_models()
        if entry.options
    ],
    ids=lambda e: e.name,
)
def test_every_registered_option_can_be_built(entry) -> None:
    for name, values in entry.options.items():
        two_way = "exclusive-tube-3x3"
        gates = {"gate_loss": "softmax", "gate_map": "entropy", "gate_scale": two_way, "gate_output": two_way}
        gate = gates.get(name)
        # Those of the family differ in their depth, which decides about the kinds of blocks alone.
        for value in values if entry.name in (DEFAULT_MODEL, "resnet20") or name == "block" else values[-1:]:
            with torch.device("meta"):
                chosen = entry.configured(
                    **{name: "2" if value == "..." else value}, **({"gate": gate} if gate else {})
                )
                model = chosen.build(5)
            in_features = next(reversed(list(model.children()))).in_features
            assert in_features == (chosen.num_features or {64: 256, 256: 64}[entry.num_features])


def test_facts_list_the_options() -> None:
    options = get_entry("resnet20").facts()["options"]
    assert options["shortcut"] == ["identity", "projection"]
    assert options["block"] == ["basic", "bottleneck"]
    assert list(options) == ["shortcut", "block", "gate", "gate_map", "gate_loss", "gate_scale", "gate_output"]
    assert get_entry("resnet44").facts()["options"]["block"] == ["basic"]
    assert get_entry("resnet50").facts()["options"] == {}


@pytest.mark.parametrize("model", [None, "resnet20"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_checkpoint_with_options_computes_what_was_saved(model: str | None, suffix: str) -> None:
    entry = get_entry("resnet20").configured(shortcut="projection")
    torch.manual_seed(4)
    trained = entry.build(10).eval()
    metadata = description(model_options=entry.chosen)
    path = Path("net" + suffix)
    if suffix == ".pt":
        torch.save({"decompose": metadata.model_dump_json(), "state_dict": trained.state_dict()}, path)
    else:
        write_checkpoint(path, trained.state_dict(), metadata)
    classifier = open_classifier(model, str(path))
    network = classifier.load(SIZE)
    assert classifier.entry.chosen == PROJECTION
    assert classifier.name == "resnet20"
    assert network.head.name == "fc"
    assert not classifier.uses_default_weights
    assert classifier.identity["architecture"] == {"family": "cifar_resnet", "depth": 20, "shortcut": "projection"}
    images = example_images(SIZE, seed=2)
    with torch.no_grad():
        assert torch.equal(network.module(images), trained(images))


def test_decomposed_checkpoint_with_options() -> None:
    torch.manual_seed(4)
    model = CifarResNet(20, 3, shortcut="projection").eval()
    model.fc = DecomposedLinear.from_dense(torch.randn(3, 64), torch.randn(3), [[1, 2], [63], [0, 5]])
    metadata = Metadata(model="resnet20", num_classes=3, model_options=PROJECTION)
    write_checkpoint(Path("net.safetensors"), model.state_dict(), metadata)
    network = open_classifier(None, "net.safetensors").load(SIZE)
    assert network.tensors.kind == "decomposed"
    with torch.no_grad():
        torch.testing.assert_close(network.module(example_images(SIZE)), model(example_images(SIZE)))


def test_options_are_written_only_where_there_are_any() -> None:
    assert "model_options" not in description().model_dump_json(exclude_none=True)
    assert description(model_options=PROJECTION).model_dump()["model_options"] == PROJECTION


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"shortcut": "none"}, "shortcut 'none' is not known to resnet20"),
        ({"norm": "online"}, "resnet20 has no norm option"),
        ({"self": "x"}, "resnet20 has no self option"),
    ],
)
@pytest.mark.parametrize("model", [None, "resnet20"])
def test_checkpoint_with_options_that_do_not_exist(model: str | None, options: dict[str, str], sentence: str) -> None:
    write_checkpoint(Path("net.safetensors"), projected_weights(), description(model_options=options))
    with pytest.raises(InputError, match=rf"The description inside net\.safetensors does not fit: {sentence}"):
        open_classifier(model, "net.safetensors")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "net."])
@pytest.mark.parametrize("model", ["resnet20", DEFAULT_MODEL])
def test_projections_are_recognised_by_their_names(prefix: str, model: str, caplog: pytest.LogCaptureFixture) -> None:
    state = projected_weights(num_classes=4)
    torch.save({"state_dict": {prefix + name: value for name, value in state.items()}}, "foreign.pth")
    with caplog.at_level(logging.INFO, "decompose_cli"):
        classifier = open_classifier(model, "foreign.pth")
    assert classifier.entry.chosen == PROJECTION
    assert "The names in foreign.pth are those of " + model + " with shortcut 'projection'" in caplog.text
    network = classifier.load(SIZE)
    assert torch.equal(network.tensors.weight, state["fc.weight"])


def test_description_of_another_network_leaves_it_to_the_names() -> None:
    write_checkpoint(Path("net.safetensors"), projected_weights(), description(model_options=PROJECTION))
    classifier = open_classifier(DEFAULT_MODEL, "net.safetensors")
    assert classifier.entry.chosen == PROJECTION
    assert classifier.load(SIZE).head.name == "fc"
    write_checkpoint(Path("net.safetensors"), projected_weights(), description("resnet50", model_options={"a": "b"}))
    assert open_classifier("resnet20", "net.safetensors").entry.chosen == PROJECTION


def test_identity_shortcuts_are_recognised_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    torch.save(CifarResNet(20).state_dict(), "net.pth")
    with caplog.at_level(logging.INFO, "decompose_cli"):
        assert open_classifier("resnet20", "net.pth").entry is get_entry("resnet20")
        assert open_classifier("resnet20-digits", None).entry is get_entry("resnet20-digits")
    assert "By the names" not in caplog.text


@pytest.mark.usefixtures("pooled_weights")
def test_names_of_another_kind_of_network_are_not_taken_for_projections() -> None:
    torch.save(get_entry("resnet18").build(10).state_dict(), "net.pth")
    classifier = open_classifier("resnet20", "net.pth")
    assert classifier.entry.chosen == {}
    with pytest.raises(InputError, match=r"net\.pth does not fit resnet20") as refusal:
        classifier.load(SIZE)
    assert refusal.value.hint == "These weights fit resnet18."


@pytest.mark.parametrize(
    ("build", "asked", "fits"),
    [
        (lambda: CifarResNet(32, shortcut="projection"), "resnet20", "resnet32"),
        (lambda: CifarResNet(20, shortcut="projection"), "preresnet20", "resnet20"),
        (lambda: get_entry("preresnet20").build(5), "resnet20", "preresnet20"),
        (lambda: get_entry("custom_resnet").build(5), "resnet18_32x32", "custom_resnet"),
    ],
)
@pytest.mark.usefixtures("pooled_weights")
def test_the_network_that_would_fit_is_named_whatever_its_options(build, asked: str, fits: str) -> None:
    torch.save(build().state_dict(), "net.pth")
    with pytest.raises(InputError) as refusal:
        open_classifier(asked, "net.pth").load(SIZE)
    assert refusal.value.hint == f"These weights fit {fits}."


@pytest.mark.parametrize("weights", [None, "default"])
@pytest.mark.parametrize("name", ["preresnet20", "custom_resnet", "resnet14"])
def test_network_without_default_weights_says_how_to_get_some(name: str, weights: str | None) -> None:
    with pytest.raises(InputError) as refusal:
        open_classifier(name, weights)
    assert refusal.value.message == f"{name} has no default weights; give a file or a URL with weights."
    assert refusal.value.hint == f"Or train one with 'decompose train {name}'."


def test_chosen_options_have_no_default_weights() -> None:
    with pytest.raises(InputError, match="resnet20 has no default weights"):
        read_weights(get_entry("resnet20").configured(shortcut="projection"), None)
