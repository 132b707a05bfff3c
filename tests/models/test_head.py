"""The head of a classifier: found by what the network does, refused by name, and the network left as it was."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.errors import InputError
from decompose_cli.models.head import find_head
from decompose_cli.models.outputs import last_map_layer, trace_outputs
from decompose_cli.models.tracing import (
    bytes_of_a_pixel,
    evaluating,
    example_images,
    is_linear,
    penultimate,
    recorded_inputs,
    trace_layers,
)

SIZE = (8, 8)
CLASSES, FEATURES = 2, 3


class Pooled(nn.Module):
    """Channel means (N, 3) into a head with hand-set weights; ``ending`` is what follows it."""

    def __init__(self, ending: Callable[[Tensor], Tensor] | None = None, bias: bool = True) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES, bias=bias)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0]]))
            if bias:
                self.head.bias.copy_(torch.tensor([10.0, -20.0]))
        self.ending = ending or (lambda logits: logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.ending(self.head(x.mean((2, 3))))


class WithLayersAfter(nn.Module):
    def __init__(self, *after: nn.Module) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES)
        self.after = nn.Sequential(*after)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.head(x.mean((2, 3))))


class ConvHead(nn.Module):
    """A 1x1 convolution on maps pooled to one pixel, as in NIN- or MobileNet-like networks."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Conv2d(FEATURES, CLASSES, 1)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 1.0]]).reshape(2, 3, 1, 1))
            self.classifier.bias.copy_(torch.tensor([0.5, -0.5]))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(x)).flatten(1)


class LinearsInside(nn.Module):
    """Two Linear layers before the head, one of them with as many outputs as there are classes, and one never used."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, CLASSES)
        self.out = nn.Linear(CLASSES, CLASSES)
        self.spare = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.second(torch.tanh(self.first(x.mean((2, 3)))))))


def assert_reproduces(model: nn.Module, size: tuple[int, int] = SIZE) -> None:
    """head(features(x)) == model(x), with the head as a plain matrix."""
    head = find_head(model, size)
    images = example_images(size, seed=7)
    with evaluating(model):
        features = penultimate(model, head.module, images)
        expected = model(images)
    torch.testing.assert_close(features @ head.weight.t() + head.bias, expected, rtol=1e-5, atol=1e-5)


def test_linear_head_with_numbers_checked_on_paper() -> None:
    head = find_head(Pooled(), SIZE)
    assert (head.name, head.num_features, head.num_classes) == ("head", FEATURES, CLASSES)
    assert (head.following.factor.tolist(), head.following.shift.tolist()) == ([1.0, 1.0], [0.0, 0.0])
    assert head.weight.tolist() == [[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0]]
    assert head.bias.tolist() == [10.0, -20.0]


def test_features_are_what_enters_the_head() -> None:
    model = Pooled()
    images = torch.zeros(1, 3, 2, 2)
    images[0, 0], images[0, 1], images[0, 2] = 1.0, 2.0, torch.tensor([[0.0, 4.0], [8.0, 0.0]])
    assert penultimate(model, model.head, images).tolist() == [[1.0, 2.0, 3.0]]


def test_one_by_one_convolution_after_pooling_is_a_head() -> None:
    model = ConvHead()
    head = find_head(model, SIZE)
    assert (head.name, head.num_features, head.num_classes) == ("classifier", FEATURES, CLASSES)
    assert head.weight.tolist() == [[1.0, 2.0, 3.0], [0.0, -1.0, 1.0]]
    assert_reproduces(model)


def test_head_without_bias_has_a_bias_of_zero() -> None:
    assert find_head(Pooled(bias=False), SIZE).bias.tolist() == [0.0, 0.0]
    assert_reproduces(Pooled(bias=False))


@pytest.mark.parametrize("factor", [0.125, -1.0, 4.0])
def test_constant_factor_is_folded_into_weight_and_bias_exactly(factor: float) -> None:
    model = Pooled(lambda logits: logits * factor)
    head = find_head(model, SIZE)
    assert head.following.factor.tolist() == [factor, factor]
    assert head.weight.tolist() == [[w * factor for w in row] for row in [[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0]]]
    assert head.bias.tolist() == [10.0 * factor, -20.0 * factor]
    assert_reproduces(model)


def test_constant_factor_that_is_no_binary_fraction() -> None:
    model = Pooled(lambda logits: logits / 0.07)
    assert find_head(model, SIZE).following.factor.tolist() == pytest.approx([1 / 0.07] * 2, rel=1e-6)
    assert_reproduces(model)


def test_dropout_and_flatten_after_the_head_change_nothing() -> None:
    model = WithLayersAfter(nn.Dropout(0.5), nn.Flatten())
    assert find_head(model, SIZE).name == "head"


def test_linear_layers_inside_the_network_are_not_the_head() -> None:
    model = LinearsInside()
    assert find_head(model, SIZE).name == "out"
    assert_reproduces(model)


def test_double_precision_network() -> None:
    head = find_head(LinearsInside().double(), SIZE)
    assert head.name == "out"
    assert head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("after", "named"),
    [
        ((nn.ReLU(),), "after it comes 'after.0' (ReLU)"),
        ((nn.Softmax(1),), "after it comes 'after.0' (Softmax)"),
        ((nn.BatchNorm1d(CLASSES), nn.Hardtanh()), "after it come 'after.0' (BatchNorm1d) and 'after.1' (Hardtanh)"),
    ],
)
def test_layers_after_the_last_linear_layer_are_named(after: tuple[nn.Module, ...], named: str) -> None:
    model = WithLayersAfter(*after)
    with pytest.raises(InputError) as refusal:
        find_head(model, SIZE, model_name="my-net")
    assert named in refusal.value.message
    assert "my-net" in refusal.value.message
    assert "'head'" in refusal.value.message
    assert refusal.value.hint is not None
    assert "decompose layers" in refusal.value.hint or "Leave the softmax out" in refusal.value.hint


class UsedAgain(nn.Module):
    """The layer before the head is used after it as well; ``after`` is between."""

    def __init__(self, after: nn.Module | None) -> None:
        super().__init__()
        self.stem, self.head, self.after = nn.Conv2d(3, 3, 1), nn.Linear(3, CLASSES), after

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.stem(x).mean((2, 3)))
        return (y if self.after is None else self.after(y)) * self.stem(x).amax((1, 2, 3))[:, None]


@pytest.mark.parametrize(
    ("after", "named"),
    [
        (None, "after it comes again 'stem' (Conv2d), so"),
        (nn.ReLU(), "after it come 'after' (ReLU) and again 'stem' (Conv2d), so"),
    ],
)
def test_layers_that_were_there_before_come_again(after: nn.Module | None, named: str) -> None:
    with pytest.raises(InputError) as refusal:
        find_head(UsedAgain(after), SIZE)
    assert named in refusal.value.message


def test_squeezenet_like_ending_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, CLASSES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match=re.escape("'1' (ReLU) and '2' (AdaptiveAvgPool2d)")):
        find_head(model, SIZE)


@pytest.mark.parametrize(
    ("ending", "sentence"),
    [
        (lambda y: F.softmax(y, 1), "but the softmax of it"),
        (lambda y: F.log_softmax(y, 1), "but the log-softmax of it"),
        (F.relu, "computes something else"),
        (lambda y: y.clamp(-50, 50), "computes something else"),
        (lambda y: 30 * torch.tanh(y / 30), "computes something else"),
        (lambda y: y.flip(1), "computes something else"),
        (lambda y: y / y.norm(dim=1, keepdim=True), "computes something else"),
        (lambda y: y * 0, "computes something else"),
    ],
    ids=["softmax", "log_softmax", "relu", "clamp", "soft-cap", "permuted", "normed", "zero"],
)
def test_functions_after_the_head_are_refused(ending: Callable[[Tensor], Tensor], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        find_head(Pooled(ending), SIZE)


ENDINGS: list[Callable[[Tensor], Tensor]] = [
    F.relu,
    lambda y: F.leaky_relu(y, 0.99),
    lambda y: y.clamp(max=50),
    lambda y: y.clamp(min=-50),
    lambda y: y.clamp(max=2000),
    lambda y: y.clamp(min=-2000),
    lambda y: 3000 * torch.tanh(y / 3000),
    lambda y: y + 0.1 * torch.tanh(y),
    lambda y: F.softshrink(y, 0.5),
    lambda y: y.abs(),
]


@pytest.mark.parametrize("ending", ENDINGS)
def test_whatever_class_is_followed_by_a_function_it_shows(ending: Callable[[Tensor], Tensor]) -> None:
    class OneOf(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.head, self.number = nn.Linear(3, 12), number

        def forward(self, x: Tensor) -> Tensor:
            y = self.head(x.mean((2, 3)))
            return torch.where(torch.arange(12) == self.number, ending(y), y)

    for number in range(12):
        with pytest.raises(InputError, match="computes something else"):
            find_head(OneOf(number), SIZE)


def test_factor_computed_from_the_image_is_refused() -> None:
    class Scaled(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * x.abs().mean()

    with pytest.raises(InputError, match="computes something else"):
        find_head(Scaled(), SIZE)


def test_linear_layer_used_twice_is_no_head() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(torch.relu(self.shared(x.mean((2, 3)))))

    with pytest.raises(InputError, match="uses 'shared' \\(Linear\\) 2 times"):
        find_head(Twice(), SIZE)


def test_network_without_linear_layers() -> None:
    with pytest.raises(InputError, match="has no linear layer that could be its head"):
        find_head(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), SIZE)


def test_asking_for_the_right_head() -> None:
    assert find_head(LinearsInside(), SIZE, name="out").name == "out"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("second", "'second' is not the head of my-net"),
        ("spare", "'spare' is a module of my-net, but a forward pass does not use it"),
        ("nowhere", "my-net has no module 'nowhere'"),
    ],
)
def test_asking_for_a_wrong_unused_or_absent_head(name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        find_head(LinearsInside(), SIZE, name=name, model_name="my-net")


def test_head_may_be_asked_for_under_its_second_name() -> None:
    model = Pooled()
    model.fc = model.head
    head = find_head(model, SIZE, name="fc")
    assert head.module is model.head


@pytest.mark.parametrize(
    ("ending", "what"),
    [
        (lambda y: (y, y), "a tuple"),
        (lambda y: {"logits": None, "other": y, "third": y}, "a dict of 'logits', 'other', 'third', not logits"),
        (lambda y: y[:, :, None], r"shape \(8, 2, 1\)"),
        (lambda y: y[:1], r"shape \(1, 2\)"),
    ],
    ids=["tuple", "dict", "three dimensions", "one row for eight images"],
)
def test_network_that_returns_no_logits(ending: Callable[[Tensor], Tensor], what: str) -> None:
    with pytest.raises(InputError, match=f"my-net returns {what}"):
        find_head(Pooled(ending), SIZE, model_name="my-net")


def test_network_that_cannot_run_says_why() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    with pytest.raises(InputError, match=r"my-net cannot run on RGB images of 8x8 pixels: .*shapes") as refusal:
        find_head(model, SIZE, model_name="my-net")
    assert "whose size input_size sets" in (refusal.value.hint or "")
    assert "\n" not in refusal.value.message


def test_head_called_with_a_keyword_argument_is_found() -> None:
    class Keyword(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(input=x.mean((2, 3)))

    assert find_head(Keyword(), SIZE).name == "head"


def test_network_whose_path_depends_on_the_image_is_refused_not_crashed() -> None:
    """The example images of one seed go through one head, those of the next through the other."""

    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)
            self.passes = 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            return (self.a if self.passes % 2 else self.b)(x.mean((2, 3)))

    with pytest.raises(InputError):
        find_head(Routed(), SIZE)


def _dropout_network(ending: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), Pooled(ending))
    model[1].eval()  # modes differ from module to module, as in fine-tuning with frozen statistics
    model[3].head.weight.requires_grad_(False)
    return model


class _RaisesAfter:
    """Works in the first passes and raises in the last."""

    def __init__(self, passes: int) -> None:
        self.left = passes

    def __call__(self, logits: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("out of luck")
        return logits


@pytest.mark.parametrize(
    ("ending", "name", "raises"),
    [
        (None, None, None),
        (None, "3.head", None),
        (None, "0", InputError),
        (None, "nowhere", InputError),
        (F.relu, None, InputError),
        (lambda y: (y,), None, InputError),
        (_RaisesAfter(0), None, InputError),
        (_RaisesAfter(1), None, InputError),
        (_RaisesAfter(2), None, InputError),
    ],
    ids=["found", "override", "wrong", "absent", "refused", "tuple", "raises0", "raises1", "raises2"],
)
def test_network_is_left_as_it_was_found(
    ending: Callable[[Tensor], Tensor] | None, name: str | None, raises: type[Exception] | None
) -> None:
    model = _dropout_network(ending)
    model.register_forward_hook(lambda *_: None)
    model[0].register_forward_pre_hook(lambda *_: None)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = {key: module.training for key, module in model.named_modules()}
    gradients = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    hooks = _hooks(model)
    kinds = {key: type(module) for key, module in model.named_modules()}

    if raises is None:
        find_head(model, SIZE, name=name)
    else:
        with pytest.raises(raises):
            find_head(model, SIZE, name=name)

    assert {key: module.training for key, module in model.named_modules()} == modes
    assert {key: parameter.requires_grad for key, parameter in model.named_parameters()} == gradients
    assert all(parameter.grad is None for parameter in model.parameters())
    assert _hooks(model) == hooks
    assert {key: type(module) for key, module in model.named_modules()} == kinds
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert torch.is_grad_enabled()


def _hooks(model: nn.Module) -> dict[str, tuple[int, int]]:
    return {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in model.named_modules()
    }


def test_recorded_inputs_removes_its_hook_when_the_block_raises() -> None:
    model = Pooled()
    with pytest.raises(KeyError), recorded_inputs(model.head):
        raise KeyError("x")
    assert _hooks(model) == {"": (0, 0), "head": (0, 0)}


def test_is_linear_takes_pointwise_convolutions_only() -> None:
    assert is_linear(nn.Linear(2, 2))
    assert is_linear(nn.Conv2d(2, 2, 1))
    assert not is_linear(nn.Conv2d(2, 2, 3, padding=1))
    assert not is_linear(nn.Conv2d(2, 2, 1, groups=2))
    assert not is_linear(nn.Conv2d(2, 2, 1, padding=1))
    assert not is_linear(nn.ReLU())


def test_layers_are_listed_in_the_order_in_which_they_finish_with_their_shapes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1)), nn.Flatten())
    _, layers = trace_layers(model, torch.zeros(2, 3, 8, 8))
    assert [(layer.name, layer.output_shape, layer.calls) for layer in layers] == [
        ("0", (2, 4, 6, 6), 1),
        ("1.0", (2, 4, 6, 6), 1),
        ("1.1", (2, 4, 1, 1), 1),
        ("1", (2, 4, 1, 1), 1),
        ("2", (2, 4), 1),
    ]
    assert last_map_layer(trace_outputs(model, torch.zeros(2, 3, 8, 8))) == "1.0"


def test_last_map_layer_is_the_outermost_module_with_maps() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Flatten())
    assert last_map_layer(trace_outputs(model, torch.zeros(2, 3, 8, 8))) == "0"
    relu = nn.ReLU()
    used_for_numbers_last = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.AdaptiveAvgPool2d(1), nn.Flatten(), relu)
    assert last_map_layer(trace_outputs(used_for_numbers_last, torch.zeros(2, 3, 8, 8))) == "0"
    flat = nn.Sequential(nn.Flatten())
    assert last_map_layer(trace_outputs(flat, torch.zeros(2, 3, 8, 8))) is None


def test_example_images_are_reproducible_and_of_the_networks_type() -> None:
    assert torch.equal(example_images((4, 5), 3), example_images((4, 5), 3))
    assert not torch.equal(example_images((4, 5), 3), example_images((4, 5), 4))
    assert example_images((4, 5)).shape == (2, 3, 4, 5)
    assert example_images((4, 5), model=nn.Linear(2, 2).double()).dtype == torch.float64


class HeadFirst(nn.Module):
    """A network that registers its head, a convolution with many outputs, before what sees the image."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(16, 20_000, 1)
        self.stem = nn.Conv2d(3, 16, 3, stride=4, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.stem(x)).mean((2, 3), keepdim=True)).flatten(1)


def test_a_head_that_is_registered_first_is_not_taken_for_what_sees_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bytes_of_a_pixel(HeadFirst()) == 4 * (3 + 2 * 16 / 16)
    assert bytes_of_a_pixel(nn.Conv2d(1, 500, 1)) == 4 * 3  # what it sees is not known
    monkeypatch.setattr("decompose_cli.storage.memory._left_on_machine", lambda: 1e9)
    assert find_head(HeadFirst(), (224, 224)).name == "head"
