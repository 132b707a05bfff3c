"""Naming a network and reading its weights: every key is accounted for, every failure is a sentence."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from decompose_cli.errors import InputError
from decompose_cli.models.checkpoint import Metadata, write_checkpoint
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.models.classifier import open_classifier
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.network import Network
from decompose_cli.models.registry import get_entry
from decompose_cli.models.tracing import evaluating, example_images, penultimate
from decompose_cli.preprocessing import CIFAR, IMAGENET

SIZE = (32, 32)


def resnet_weights(depth: int = 20, num_classes: int = 10) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return CifarResNet(depth, num_classes).state_dict()


def save(state: dict[str, Tensor], name: str = "net.pth") -> str:
    torch.save(state, name)
    return name


def logits_from(network: Network, images: Tensor) -> Tensor:
    """The logits by the definition of a decomposed head, one class at a time, or by the full matrix."""
    tensors = network.tensors
    with evaluating(network.module):
        features = penultimate(network.module, network.module.get_submodule(network.head.name), images)
    if tensors.indices is None or tensors.mask is None:
        return features @ tensors.weight.t() + tensors.bias
    out = torch.zeros(len(features), tensors.num_classes)
    for c in range(tensors.num_classes):
        for j in range(tensors.weight.shape[1]):
            if tensors.mask[c, j]:
                out[:, c] += tensors.weight[c, j] * features[:, tensors.indices[c, j]]
        out[:, c] += tensors.bias[c]
    return out


def test_weights_are_put_into_the_network() -> None:
    state = resnet_weights()
    network = open_classifier("resnet20", save(state)).load(SIZE)
    assert all(torch.equal(value, state[name]) for name, value in network.module.state_dict().items())
    assert network.head.name == "linear"
    assert torch.equal(network.tensors.weight, state["linear.weight"])
    assert not network.module.training
    images = example_images(SIZE)
    with torch.no_grad():
        torch.testing.assert_close(logits_from(network, images), network.module(images), rtol=1e-5, atol=1e-5)


def test_counters_that_inference_never_reads_may_be_missing() -> None:
    state = {name: value for name, value in resnet_weights().items() if not name.endswith("num_batches_tracked")}
    open_classifier("resnet20", save(state)).load(SIZE)


def test_network_is_built_once_per_size() -> None:
    classifier = open_classifier("resnet20", save(resnet_weights()))
    assert classifier.load(SIZE) is classifier.load(SIZE)


def test_number_of_classes_is_read_from_the_head() -> None:
    state = resnet_weights(num_classes=7)
    network = open_classifier("resnet20", save(state)).load(SIZE)
    assert network.tensors.num_classes == 7
    assert network.module(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert torch.equal(network.tensors.weight, state["linear.weight"])


def _without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: _without(s, "conv1.weight"), r"1 missing \(conv1\.weight\)"),
        (lambda s: _without(s, "linear.weight"), r"1 missing \(linear\.weight\)"),
        (lambda s: {**s, "extra.weight": torch.ones(1)}, r"1 unexpected \(extra\.weight\)"),
        (
            lambda s: {**s, "conv1.weight": torch.ones(16, 1, 3, 3)},
            r"1 of another shape \(conv1\.weight \(16, 1, 3, 3\) instead of \(16, 3, 3, 3\)\)",
        ),
        (lambda s: {**s, "linear.weight": torch.ones(10, 32)}, r"linear\.weight \(10, 32\) instead of \(10, 64\)"),
        (lambda s: {**s, "linear.bias": torch.ones(9)}, r"linear\.bias \(9,\) instead of \(10,\)"),
        (lambda s: {**s, "linear.weight": torch.tensor(1.0)}, r"linear\.weight \(\) instead of \(10, 64\)"),
        (
            lambda s: {**_without(s, "bn1.bias"), "bn1.beta": torch.ones(16), "bn1.weight": torch.ones(17)},
            r"1 missing \(bn1\.bias\); 1 unexpected \(bn1\.beta\); 1 of another shape \(bn1\.weight",
        ),
    ],
)
def test_keys_that_do_not_fit_are_listed(change, sentence: str) -> None:
    classifier = open_classifier("resnet20", save(change(resnet_weights())))
    with pytest.raises(InputError, match=rf"net\.pth does not fit resnet20: .*{sentence}"):
        classifier.load(SIZE)


@pytest.mark.parametrize("weight", [torch.zeros(0, 64), torch.zeros(0)], ids=["no rows", "nothing"])
def test_head_without_classes_is_refused_with_a_sentence(weight: Tensor) -> None:
    state = {**resnet_weights(), "linear.weight": weight, "linear.bias": torch.zeros(0)}
    with pytest.raises(InputError):
        open_classifier("resnet20", save(state)).load(SIZE)


def test_long_lists_are_cut_short() -> None:
    with pytest.raises(InputError, match=r"60 missing \(layer1\.3\.conv1\.weight, [^,]*, [^,]*, \.\.\.\)"):
        open_classifier("resnet32", save(resnet_weights())).load(SIZE)


@pytest.mark.parametrize(("depth", "asked"), [(32, "resnet20"), (20, "resnet32"), (44, "resnet56")])
def test_the_architecture_that_would_fit_is_named(depth: int, asked: str) -> None:
    with pytest.raises(InputError) as refusal:
        open_classifier(asked, save(resnet_weights(depth, num_classes=4))).load(SIZE)
    assert f"resnet{depth}" in (refusal.value.hint or "").removesuffix(".").split()


@pytest.mark.usefixtures("pooled_weights")
def test_imagenet_architecture_that_would_fit_is_named() -> None:
    state = get_entry("resnet18").build(1000).state_dict()
    with pytest.raises(InputError) as refusal:
        open_classifier("resnet34", save(state)).load((64, 64))
    assert refusal.value.hint == "These weights fit resnet18."


def test_where_nothing_fits_the_list_of_models_is_named() -> None:
    with pytest.raises(InputError) as refusal:
        open_classifier("resnet20", save({"something.weight": torch.ones(269_722)})).load(SIZE)
    assert "decompose models" in (refusal.value.hint or "")


def test_published_decomposition_keeps_its_weights_and_the_full_head_as_reference() -> None:
    final = torch.randn(10, 3), torch.randn(10)
    state = {**resnet_weights(), "final_weights": final[0], "final_bias": final[1]}
    tensors = open_classifier("resnet20", save(state)).load(SIZE).tensors
    assert tensors.kind == "subspaces"
    assert torch.equal(tensors.weight, final[0])
    assert torch.equal(tensors.bias, final[1])
    assert tensors.indices is None
    assert tensors.reference is not None
    assert torch.equal(tensors.reference, state["linear.weight"])


@pytest.mark.parametrize("shape", [(9, 3), (10, 65)])
def test_published_decomposition_that_does_not_fit_the_head(shape: tuple[int, int]) -> None:
    state = {**resnet_weights(), "final_weights": torch.ones(shape), "final_bias": torch.ones(shape[0])}
    with pytest.raises(
        InputError, match=r"final_weights \(\d+, \d+\) does not fit a head of 64 features and 10 classes"
    ):
        open_classifier("resnet20", save(state)).load(SIZE)


ROWS = [[5, 1, 63], [2], [0, 7], [1], [3, 4], [9], [10], [11, 12], [13], [14]]


def decomposed_resnet(rows: list[list[int]] = ROWS) -> CifarResNet:
    torch.manual_seed(2)
    model = CifarResNet(20, len(rows)).eval()
    weight, bias = torch.randn(len(rows), 64), torch.randn(len(rows))
    model.linear = DecomposedLinear.from_dense(weight, bias, rows)
    return model


@pytest.mark.parametrize("rows", [ROWS, [[1, 2], [3, 4], [0, 63]]], ids=["ragged", "three classes"])
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_decomposed_checkpoint_computes_what_its_module_computes(name: str, rows: list[list[int]]) -> None:
    model = decomposed_resnet(rows)
    if name == "net.pth":
        save(model.state_dict(), name)
    else:
        write_checkpoint(Path(name), model.state_dict(), Metadata(model="resnet20", num_classes=len(rows)))
    network = open_classifier("resnet20", name).load(SIZE)
    images = example_images(SIZE, seed=3)
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(network.module(images), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits_from(network, images), expected, rtol=1e-5, atol=1e-5)
    assert network.is_decomposed
    assert network.tensors.kind == "decomposed"
    assert isinstance(network.module.linear, DecomposedLinear)
    assert network.module.linear.classes() == tuple(tuple(row) for row in rows)


def test_decomposed_head_of_double_precision() -> None:
    network = open_classifier("resnet20", save(decomposed_resnet().double().state_dict())).load(SIZE)
    assert network.tensors.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "change",
    [
        {"linear.indices": torch.full((10, 3), 64)},
        {"linear.indices": torch.full((10, 3), -1)},
        {"linear.indices": torch.zeros(10, 3)},
        {"linear.indices": torch.zeros(10, 2, dtype=torch.int64)},
        {"linear.mask": torch.zeros(10, 3, dtype=torch.bool)},
        {"linear.mask": torch.ones(10, 3)},
        {"linear.bias": torch.zeros(9)},
        {"linear.weight": torch.zeros(10)},
    ],
    ids=["too large", "negative", "no integers", "other shape", "empty mask", "mask type", "bias", "weight"],
)
def test_decomposed_head_whose_parts_do_not_fit(change: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match="parts of the decomposed head do not fit"):
        open_classifier("resnet20", save({**decomposed_resnet().state_dict(), **change})).load(SIZE)


def test_decomposed_head_that_lacks_a_part() -> None:
    with pytest.raises(InputError, match="lacks its weight, bias, indices or mask"):
        open_classifier("resnet20", save(_without(decomposed_resnet().state_dict(), "linear.bias"))).load(SIZE)


def test_decomposed_head_elsewhere_in_the_network() -> None:
    state = decomposed_resnet().state_dict()
    state = {name.replace("linear.", "fc."): value for name, value in state.items()}
    with pytest.raises(InputError, match="decomposed head 'fc', but the head of this network is 'linear'"):
        open_classifier("resnet20", save(state)).load(SIZE)


def test_checkpoint_that_says_which_network_it_belongs_to() -> None:
    write_checkpoint(Path("net.safetensors"), resnet_weights(), Metadata(model="resnet20", num_classes=10))
    classifier = open_classifier(None, "net.safetensors")
    assert classifier.name == "resnet20"
    assert classifier.load(SIZE).head.name == "linear"


def test_checkpoint_that_does_not_say_which_network_it_belongs_to() -> None:
    with pytest.raises(InputError, match=r"^net\.pth does not say which network it belongs to; name the model"):
        open_classifier(None, save(resnet_weights()))


@pytest.fixture
def module_name() -> Iterator[str]:
    """A fresh module name, and the import state put back afterwards."""
    name = f"usernet_{uuid.uuid4().hex}"
    path = list(sys.path)
    yield name
    sys.modules.pop(name, None)
    sys.path[:] = path


def test_weights_file_cannot_have_code_imported(module_name: str) -> None:
    """Where only the file says which network it belongs to, it may name a known one, not any function there is."""
    Path(f"{module_name}.py").write_text("open('executed', 'w').close()\n")
    metadata = Metadata(model=f"{module_name}:make", num_classes=10)
    write_checkpoint(Path("net.safetensors"), resnet_weights(), metadata)
    with pytest.raises(InputError):
        open_classifier(None, "net.safetensors")
    assert not Path("executed").exists()


USER_NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.squeeze = nn.Linear(3, 6)
        self.excite = nn.Linear(6, 3)
        self.out = nn.Linear(3, classes)

    def forward(self, x):
        f = x.mean((2, 3))
        return self.out(f * torch.sigmoid(self.excite(torch.relu(self.squeeze(f)))))

class Holder:
    @staticmethod
    def build():
        return Net(5)

def make():
    return Net()

def needs_an_argument(classes):
    return Net(classes)

def fails():
    raise RuntimeError("no luck")

def returns_nonsense():
    return {"a": 1}

NUMBER = 3
"""


def test_network_of_the_current_directory_with_linear_layers_inside(module_name: str) -> None:
    Path(f"{module_name}.py").write_text(USER_NETWORK)
    classifier = open_classifier(f"{module_name}:make", None)
    network = classifier.load((16, 16))
    assert network.head.name == "out"
    assert network.tensors.num_features == 3
    assert network.tensors.num_classes == 4
    images = example_images((16, 16), seed=5)
    with torch.no_grad():
        torch.testing.assert_close(logits_from(network, images), network.module(images), rtol=1e-5, atol=1e-5)
    assert len(classifier.identity["architecture"]["source"]) == 64
    assert IMAGENET.overridden(classifier.image_options) == IMAGENET


def test_network_of_the_current_directory_takes_weights(module_name: str) -> None:
    Path(f"{module_name}.py").write_text(USER_NETWORK)
    state = open_classifier(f"{module_name}:make", None, seed=5).load(SIZE).module.state_dict()
    network = open_classifier(f"{module_name}:make", save(state)).load(SIZE)
    assert all(torch.equal(value, state[name]) for name, value in network.module.state_dict().items())
    with pytest.raises(InputError, match=r"1 missing \(squeeze\.weight\)"):
        open_classifier(f"{module_name}:make", save(_without(state, "squeeze.weight"))).load(SIZE)


def test_network_with_a_part_called_module_takes_its_own_weights(module_name: str) -> None:
    source = "\n\nclass Wrapped(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    source += "        self.module = Net()\n\n    def forward(self, x):\n        return self.module(x)\n"
    Path(f"{module_name}.py").write_text(USER_NETWORK + source)
    state = open_classifier(f"{module_name}:Wrapped", None).load(SIZE).module.state_dict()
    assert open_classifier(f"{module_name}:Wrapped", save(state)).load(SIZE).head.name == "module.out"


def test_class_and_nested_attribute_are_callables(module_name: str) -> None:
    Path(f"{module_name}.py").write_text(USER_NETWORK)
    assert open_classifier(f"{module_name}:Net", None).load(SIZE).tensors.num_classes == 4
    assert open_classifier(f"{module_name}:Holder.build", None).load(SIZE).tensors.num_classes == 5


@pytest.mark.parametrize(
    ("attribute", "sentence"),
    [
        ("needs_an_argument", r"needs_an_argument\(\) failed: TypeError: .*classes"),
        ("fails", r"fails\(\) failed: RuntimeError: no luck"),
        ("returns_nonsense", r"returns_nonsense\(\) returned a dict, not a torch\.nn\.Module"),
        ("NUMBER", "has no callable 'NUMBER'"),
        ("absent", "has no callable 'absent'"),
        ("Holder.absent", r"has no callable 'Holder\.absent'"),
    ],
)
def test_callable_that_fails_or_returns_nonsense(module_name: str, attribute: str, sentence: str) -> None:
    Path(f"{module_name}.py").write_text(USER_NETWORK)
    with pytest.raises(InputError, match=sentence):
        open_classifier(f"{module_name}:{attribute}", None).load(SIZE)


@pytest.mark.parametrize("target", ["math:sqrt", "os:getcwd"])
def test_builtin_function_is_no_network(target: str) -> None:
    with pytest.raises(InputError):
        open_classifier(target, None).load(SIZE)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import a_module_that_is_not_there", "Importing .* failed: No module named 'a_module_that_is_not_there'"),
        ("import usernet", "Importing .* failed: No module named 'usernet'"),
        ("def make(:\n", "Importing .* failed: SyntaxError"),
        ("1 / 0", "Importing .* failed: ZeroDivisionError"),
        ("import sys\nsys.exit(3)", "Importing .* failed"),
    ],
    ids=["missing import", "missing import whose name begins alike", "syntax", "raises", "exits"],
)
def test_module_that_cannot_be_imported(module_name: str, source: str, sentence: str) -> None:
    Path(f"{module_name}.py").write_text(source)
    with pytest.raises(InputError, match=sentence):
        open_classifier(f"{module_name}:make", None)


@pytest.mark.parametrize("model", ["no_such_module_at_all:make", "no.such.module:make"])
def test_module_that_does_not_exist(model: str) -> None:
    with pytest.raises(InputError, match=f"There is no Python module '{model.split(':')[0]}'"):
        open_classifier(model, None)


@pytest.mark.parametrize("model", [":make", "module:", ":"])
def test_half_a_name(model: str) -> None:
    with pytest.raises(InputError, match=r"is not package\.module:callable"):
        open_classifier(model, None)


def test_random_weights_are_those_of_the_seed(module_name: str) -> None:
    Path(f"{module_name}.py").write_text(USER_NETWORK)
    for model in ("resnet20", f"{module_name}:make"):
        first, again, other = (open_classifier(model, "random", seed=seed) for seed in (3, 3, 4))
        states = [classifier.load(SIZE).module.state_dict() for classifier in (first, again, other)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])
        assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    assert open_classifier("resnet20", "random").weights_source == "random"


def test_head_may_be_asked_for() -> None:
    path = save(resnet_weights())
    assert open_classifier("resnet20", path, head="linear").load(SIZE).head.name == "linear"
    with pytest.raises(InputError, match="'conv1' is not the head of resnet20"):
        open_classifier("resnet20", path, head="conv1").load(SIZE)
    assert open_classifier("resnet20", path, head="linear").identity != open_classifier("resnet20", path).identity


def test_constants_of_the_checkpoint_go_before_those_of_the_model_and_the_data() -> None:
    metadata = Metadata(model="resnet20", num_classes=10, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    write_checkpoint(Path("net.safetensors"), resnet_weights(), metadata)
    own = IMAGENET.overridden(open_classifier(None, "net.safetensors").image_options)
    assert own == replace(CIFAR, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert IMAGENET.overridden(open_classifier("resnet20", "random").image_options) == CIFAR


def test_constant_factor_of_a_users_network_is_folded_into_a_decomposed_head(module_name: str) -> None:
    source = (
        USER_NETWORK + "\n\nclass Scaled(Net):\n    def forward(self, x):\n        return super().forward(x) * 0.125\n"
    )
    Path(f"{module_name}.py").write_text(source)
    network = open_classifier(f"{module_name}:Scaled", None).load(SIZE)
    module = network.module
    module.out = DecomposedLinear.from_dense(module.out.weight.detach(), module.out.bias.detach(), [[0, 2]] * 4)
    loaded = open_classifier(f"{module_name}:Scaled", save(module.state_dict())).load(SIZE)
    images = example_images(SIZE, seed=9)
    with torch.no_grad():
        expected = module(images)
        torch.testing.assert_close(loaded.module(images), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits_from(loaded, images), expected, rtol=1e-5, atol=1e-6)


def test_default_weights_are_recognised() -> None:
    assert open_classifier("resnet20-digits", None).uses_default_weights
    assert not open_classifier("resnet20", save(resnet_weights())).uses_default_weights
    assert not open_classifier("resnet20", "random").uses_default_weights


def test_user_network_is_an_nn_module(module_name: str) -> None:
    Path(f"{module_name}.py").write_text(USER_NETWORK)
    assert isinstance(open_classifier(f"{module_name}:make", None).load(SIZE).module, nn.Module)
