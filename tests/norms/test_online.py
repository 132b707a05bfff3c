"""Online normalisation against a twin that walks from sample to sample in float64."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from decompose_cli.errors import DecomposeError
from decompose_cli.norms.online import ErrorCompensation, OnlineNorm1d, OnlineNorm2d

STATES = ("m", "var", "u", "v")
ECMS: list[ErrorCompensation] = ["ac", "ls", "none"]


class Twin:
    """The paper's equations, one sample after the other, in numpy and float64."""

    def __init__(self, layer: OnlineNorm1d | OnlineNorm2d) -> None:
        self.layer = layer
        channels = layer.num_features
        self.state = {name: getattr(layer.norm, name).double().numpy().copy() for name in STATES}
        one, zero = np.ones(channels), np.zeros(channels)
        self.weight = one if layer.weight is None else layer.weight.detach().double().numpy()
        self.bias = zero if layer.bias is None else layer.bias.detach().double().numpy()

    def step(self, x: np.ndarray, gradient: np.ndarray) -> dict[str, np.ndarray]:
        layer, state, channels = self.layer, self.state, x.shape[1]
        ys, roots, outs = [], [], []
        for sample in x:
            pixels = sample.reshape(channels, -1)
            root = np.sqrt(state["var"] + layer.eps)
            y = (pixels - state["m"][:, None]) / root[:, None]
            mean, variance = pixels.mean(1), pixels.var(1)
            a = layer.alpha_fwd
            state["var"] = a * state["var"] + (1 - a) * variance + a * (1 - a) * (mean - state["m"]) ** 2
            state["m"] = a * state["m"] + (1 - a) * mean
            ys.append(y)
            roots.append(root)
            outs.append(self.after(y)[0])
        found, by_weight, by_bias = [], np.zeros(channels), np.zeros(channels)
        for y, root, one in zip(ys, roots, gradient, strict=True):
            z_gradient = self.after(y)[1](one.reshape(channels, -1))
            by_weight += (z_gradient * y).sum(1)
            by_bias += z_gradient.sum(1)
            delta = z_gradient * self.weight[:, None]
            b = layer.alpha_bkw
            g = delta - (1 - b) * state["v"][:, None] * y
            state["v"] = state["v"] + (g * y).mean(1)
            d = g / root[:, None] - (1 - b) * state["u"][:, None]
            state["u"] = state["u"] + d.mean(1)
            found.append(d)
        affine = {"by_weight": by_weight, "by_bias": by_bias} if layer.affine else {}
        return {
            "output": np.stack(outs).reshape(x.shape),
            "by_x": np.stack(found).reshape(x.shape),
            **affine,
            **{name: value.copy() for name, value in state.items()},
        }

    def after(self, y: np.ndarray) -> tuple[np.ndarray, Any]:
        """Affine and error compensation of one sample; the latter's transposed derivative."""
        z = self.weight[:, None] * y + self.bias[:, None]
        if self.layer.ecm == "ac":
            inside = np.abs(z) < self.layer.clamp_val
            return np.clip(z, -self.layer.clamp_val, self.layer.clamp_val), lambda g: g * inside
        if self.layer.ecm == "ls":
            size = np.sqrt((z**2).mean() + self.layer.ls_eps)
            return z / size, lambda g: g / size - z * (g * z).mean() / size**3
        return z, lambda g: g


def ours(layer: OnlineNorm1d | OnlineNorm2d, x: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    layer.zero_grad()
    output = layer(x)
    output.backward(gradient)
    assert x.grad is not None
    found = {"output": output.detach(), "by_x": x.grad}
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        found[f"by_{name}"] = parameter.grad.clone()
    return {**found, **{name: getattr(layer.norm, name).clone() for name in STATES}}


def samples(shape: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    """Inputs whose channels differ in mean and spread, and gradients."""
    generator = torch.Generator().manual_seed(seed)
    channels = torch.arange(shape[1], dtype=torch.float64).view(1, -1, *([1] * (len(shape) - 2)))
    x = torch.randn(*shape, generator=generator, dtype=torch.float64) * (0.5 + channels) + channels - 1
    return x, torch.randn(*shape, generator=generator, dtype=torch.float64)


def layer_of(dimensions: int, dtype: torch.dtype = torch.float64, **options: Any) -> OnlineNorm1d | OnlineNorm2d:
    kind = OnlineNorm2d if dimensions == 4 else OnlineNorm1d
    layer = kind(5, **{"alpha_fwd": 0.9, "alpha_bkw": 0.8, "clamp_val": 1.5, **options}).to(dtype)
    if layer.weight is not None and layer.bias is not None:
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([1.0, -0.5, 0.0, 2.0, 0.3]))
            layer.bias.copy_(torch.tensor([0.0, 0.4, -0.2, 0.1, 1.0]))
    return layer


SHAPES = [(4, 3, 2), (1, 3, 2), (7, 1, 1), (2, 6, 5)]
CASES = [
    *[((n, 5, h, w), ecm, affine) for n, h, w in SHAPES for ecm in ECMS for affine in (True, False)],
    *[((6, 5), ecm, affine) for ecm in ECMS for affine in (True, False)],
    *[((6, 5, 4), ecm, True) for ecm in ECMS],
]


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize(("shape", "ecm", "affine"), CASES, ids=str)
def test_outputs_gradients_and_statistics_are_those_of_the_twin(
    shape: tuple[int, ...], ecm: ErrorCompensation, affine: bool, dtype: torch.dtype, tolerance: float, layout: str
) -> None:
    if layout == "channels last" and len(shape) != 4:
        pytest.skip("only images have channels that can come last")
    layer = layer_of(len(shape), dtype, ecm=ecm, affine=affine)
    twin = Twin(layer)
    for seed in range(3):
        x, gradient = samples(shape, seed)
        expected = twin.step(x.numpy(), gradient.numpy())
        if layout == "channels last":
            x = x.contiguous(memory_format=torch.channels_last)
        found = ours(layer, x.to(dtype), gradient.to(dtype))
        for name, value in expected.items():
            scale = max(np.abs(value).max(), 1.0)
            assert np.abs(found[name].double().numpy() - value).max() <= tolerance * scale, (name, seed)
        assert found["output"].dtype == dtype


@pytest.mark.parametrize("alphas", [(0.0, 0.0), (0.5, 0.999), (1023 / 1024, 127 / 128)])
def test_any_decay(alphas: tuple[float, float]) -> None:
    layer = layer_of(4, alpha_fwd=alphas[0], alpha_bkw=alphas[1])
    twin = Twin(layer)
    x, gradient = samples((9, 5, 3, 3), 1)
    expected, found = twin.step(x.numpy(), gradient.numpy()), ours(layer, x, gradient)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].numpy(), value, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("ecm", ECMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_how_a_stream_is_cut_into_batches_makes_no_difference(
    ecm: ErrorCompensation, dtype: torch.dtype, tolerance: float
) -> None:
    """All forward, then all backward in the order of the samples, cut in ones, threes, and not at all."""
    x, gradient = samples((64, 5, 4, 4), 0)
    found = []
    for size in (64, 1, 3):
        layer = layer_of(4, dtype, ecm=ecm, alpha_fwd=0.99, alpha_bkw=0.95)
        parts = [part.to(dtype).requires_grad_() for part in x.split(size)]
        outputs = [layer(part) for part in parts]
        for output, part in zip(outputs, gradient.split(size), strict=True):
            output.backward(part.to(dtype))
        assert layer.weight is not None
        grads = torch.cat([part.grad for part in parts if part.grad is not None])
        states = [getattr(layer.norm, name) for name in STATES]
        found.append([torch.cat(outputs).detach(), grads, layer.weight.grad, *states])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            scale = float(one.abs().max())  # type: ignore[union-attr]
            torch.testing.assert_close(two, one, rtol=0, atol=tolerance * max(scale, 1.0))


@pytest.mark.parametrize("dimensions", ["2d", "1d"])
@pytest.mark.parametrize(("ecm", "alphas"), [("ac", (0.99, 0.9)), ("ls", (0.999, 0.99)), ("none", (0.9, 0.9))])
def test_published_numbers(
    reference_dir: Path, dimensions: str, ecm: ErrorCompensation, alphas: tuple[float, float]
) -> None:
    data = np.load(reference_dir / "reference" / "online_norm_published_numpy.npz")
    kind = OnlineNorm2d if dimensions == "2d" else OnlineNorm1d
    layer = kind(6, *alphas, ecm=ecm, affine=ecm != "none").double()
    for step in range(3):
        values = {
            name: data[f"{dimensions}_{ecm}_step{step}_{name}"]
            for name in ("input", "output", "grad_output", "grad_input", *STATES)
        }
        found = ours(layer, torch.from_numpy(values["input"]), torch.from_numpy(values["grad_output"]))
        for name, ours_name in (("output", "output"), ("grad_input", "by_x"), *((n, n) for n in STATES)):
            largest = np.abs(values[name]).max()
            assert np.abs(found[ours_name].numpy() - values[name]).max() <= 1e-6 * largest, (name, step)


@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (100, 1), (1000, 0.1), (10_000, 1)])
@pytest.mark.parametrize("alpha", [0.9, 0.999])
def test_large_means_cost_no_precision_but_that_of_the_input(mean: float, deviation: float, alpha: float) -> None:
    """In units of the deviation, the means have the spacing of float32 there, and little more is lost."""
    torch.manual_seed(0)
    single, double = OnlineNorm2d(3, alpha), OnlineNorm2d(3, alpha).double()
    for _ in range(20):
        x = mean + deviation * torch.randn(64, 3, 8, 8)
        single(x)
        double(x.double())
    spacing = 1.2e-7 * max(mean, deviation) / deviation
    assert float((single.norm.m - double.norm.m).abs().max()) / deviation < 2 * spacing
    torch.testing.assert_close(single.norm.var.double(), double.norm.var, rtol=1e-6 + spacing, atol=0)


# ------------------------------------------------------------------------------------------------- as other layers are


@pytest.mark.parametrize("ecm", ECMS)
def test_evaluation_uses_frozen_statistics_and_has_true_gradients(ecm: ErrorCompensation) -> None:
    layer = layer_of(4, ecm=ecm)
    for seed in range(3):
        ours(layer, *samples((4, 5, 3, 3), seed))
    before = copy.deepcopy(layer.state_dict())
    layer.eval()
    x, _ = samples((4, 5, 3, 3), 9)
    twin = Twin(layer)
    for sample, output in zip(x, layer(x), strict=True):
        y = (sample.flatten(1).numpy() - twin.state["m"][:, None]) / np.sqrt(twin.state["var"] + layer.eps)[:, None]
        np.testing.assert_allclose(output.detach().flatten(1).numpy(), twin.after(y)[0], rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(layer, (x[:2].clone().requires_grad_(),))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_names_are_those_of_published_checkpoints() -> None:
    assert list(OnlineNorm2d(3).state_dict()) == ["weight", "bias", "norm.m", "norm.var", "norm.u", "norm.v"]
    assert list(OnlineNorm2d(3, affine=False).state_dict()) == ["norm.m", "norm.var", "norm.u", "norm.v"]


def test_saved_and_loaded_it_goes_on_as_it_was() -> None:
    first = layer_of(4)
    ours(first, *samples((4, 5, 3, 3), 0))
    second, third = layer_of(4), copy.deepcopy(first)
    second.load_state_dict(first.state_dict())
    results = [ours(layer, *samples((4, 5, 3, 3), 1)) for layer in (first, second, third)]
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name
        assert torch.equal(value, results[2][name]), name


def test_forgotten_statistics_are_those_of_a_new_layer() -> None:
    layer = layer_of(4)
    ours(layer, *samples((4, 5, 3, 3), 0))
    layer.reset_running_stats()
    assert all(torch.equal(getattr(layer.norm, n), getattr(layer_of(4).norm, n)) for n in STATES)


def test_autocast_keeps_the_type_and_computes_in_float32() -> None:
    layer = layer_of(4, torch.float32)
    twin = Twin(layer)
    x, gradient = samples((8, 5, 4, 4), 0)
    x, gradient = x.bfloat16(), gradient.bfloat16()
    expected = twin.step(x.double().numpy(), gradient.double().numpy())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ours(layer, x, gradient)
    assert found["output"].dtype == found["by_x"].dtype == torch.bfloat16
    np.testing.assert_allclose(found["m"].numpy(), expected["m"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["output"].double().numpy(), expected["output"], rtol=1e-2, atol=1e-2)


def stacked() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3), OnlineNorm2d(6, 0.9, 0.8, ecm="ls"), nn.ReLU(), nn.Conv2d(6, 4, 3), OnlineNorm2d(4))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3))


@pytest.mark.parametrize("training", [True, False])
def test_a_compiled_network_computes_what_it_computes_otherwise(training: bool) -> None:
    plain = stacked().train(training)
    other = copy.deepcopy(plain)
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    for step in range(3):
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        outputs = [network(x) for network in (plain, compiled)]
        for output in outputs:
            output.square().sum().backward()
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-6, atol=1e-6)
    for (name, one), two in zip(plain.named_parameters(), other.parameters(), strict=True):
        assert one.grad is not None, name
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-5, atol=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-6, atol=1e-6)


def test_layout_of_the_input_is_kept() -> None:
    x = samples((4, 5, 3, 2), 0)[0].contiguous(memory_format=torch.channels_last)
    assert layer_of(4)(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("ecm", ECMS)
@pytest.mark.parametrize("order", [(0, 1, 3, 2), (3, 2, 1, 0), (1, 0, 2, 3), (0, 2, 3, 1)])
def test_maps_that_lie_in_memory_in_any_order(ecm: ErrorCompensation, order: tuple[int, ...]) -> None:
    x, gradient = samples((4, 5, 3, 2), 0)
    expected = ours(layer_of(4, ecm=ecm), x, gradient)
    back = [order.index(number) for number in range(4)]
    turned = x.permute(order).contiguous().permute(back)
    assert turned.stride() != x.stride()
    for one in (turned, torch.cat([x, x], 3)[..., :2]):
        found = ours(layer_of(4, ecm=ecm), one, gradient)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)


def test_a_layer_for_features_takes_many_samples_at_once() -> None:
    x, gradient = samples((1500, 5), 0)
    layer, twin = layer_of(2), Twin(layer_of(2))
    expected = twin.step(x.numpy(), gradient.numpy())
    for name, value in ours(layer, x, gradient).items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_in_half_precision_keeps_its_statistics(dtype: torch.dtype) -> None:
    half, whole = OnlineNorm2d(5).to(dtype), OnlineNorm2d(5)
    assert {name: value.dtype for name, value in half.state_dict().items() if "norm" not in name} == {
        "weight": dtype,
        "bias": dtype,
    }
    for number in range(10):
        x = (3 + 2 * samples((64, 5, 4, 4), number)[0]).to(dtype)
        out = half(x)
        expected = whole(x.float())
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), expected, rtol=1e-2, atol=1e-2)
    for name in ("m", "var"):
        torch.testing.assert_close(getattr(half.norm, name), getattr(whole.norm, name))
    assert half.norm.m.dtype == torch.float32
    assert half.double().norm.m.dtype == torch.float64


def test_a_gradient_in_another_layout() -> None:
    x, gradient = samples((4, 5, 3, 2), 0)
    expected = ours(layer_of(4), x, gradient)
    for one, two in itertools.product((torch.contiguous_format, torch.channels_last), repeat=2):
        found = ours(layer_of(4), x.contiguous(memory_format=one), gradient.contiguous(memory_format=two))
        torch.testing.assert_close(found["by_x"], expected["by_x"], rtol=1e-12, atol=1e-12)


def test_a_network_of_it_learns() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), OnlineNorm2d(8, 0.99, 0.9), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)
    )
    x, labels = torch.randn(48, 3, 8, 8), torch.arange(48) % 3
    optimizer = torch.optim.SGD(network.parameters(), 0.02, 0.9)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


def test_nothing_is_normalised_of_an_empty_batch() -> None:
    layer = layer_of(4)
    out = layer(torch.zeros(0, 5, 3, 3, dtype=torch.float64))
    assert out.shape == (0, 5, 3, 3)
    out.sum().backward()
    assert all(torch.equal(parameter.grad, torch.zeros(5).double()) for parameter in layer.parameters())
    assert all(torch.equal(getattr(layer.norm, n), getattr(layer_of(4).norm, n)) for n in STATES)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["input", "gradient"])
def test_what_is_not_finite_leaves_the_statistics_as_they_were(value: float, where: str) -> None:
    layer = layer_of(4, ecm="none")
    ours(layer, *samples((4, 5, 3, 3), 0))
    before = copy.deepcopy(layer.norm.state_dict())
    x, gradient = samples((4, 5, 3, 3), 1)
    (x if where == "input" else gradient)[2, 1, 0, 0] = value
    with pytest.raises(DecomposeError, match=f"The {where} of an online normalisation is NaN, infinite"):
        ours(layer, x, gradient)
    kept = STATES if where == "input" else ("u", "v")
    assert all(torch.equal(before[name], getattr(layer.norm, name)) for name in kept)


@pytest.mark.parametrize("where", ["input", "gradient"])
def test_compiled_code_keeps_the_statistics_too(where: str) -> None:
    """It does not stop to look, as on a GPU; what is not finite is seen in the loss."""
    torch.manual_seed(0)
    layer = OnlineNorm2d(3)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    compiled(torch.randn(4, 3, 5, 5)).square().sum().backward()
    before = copy.deepcopy(layer.norm.state_dict())
    x, gradient = torch.randn(4, 3, 5, 5, requires_grad=True), torch.randn(4, 3, 5, 5)
    with torch.no_grad():
        (x if where == "input" else gradient)[2, 1, 0, 0] = math.nan
    out = compiled(x)
    assert bool(out.isnan().any()) is (where == "input")
    out.backward(gradient)
    kept = STATES if where == "input" else ("u", "v")
    assert all(torch.equal(before[name], getattr(layer.norm, name)) for name in kept)


@pytest.mark.parametrize("shape", [(2, 4, 3, 3), (2, 5, 3), (2, 5), (5,), (2, 5, 3, 3, 3)])
def test_a_wrong_shape_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="is not 4-dimensional with 5 channels"):
        layer_of(4)(torch.zeros(shape, dtype=torch.float64))


def test_whole_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"input of type torch\.int64 is not floating-point"):
        OnlineNorm2d(3)(torch.zeros(1, 3, 2, 2, dtype=torch.int64))


def test_no_positions() -> None:
    with pytest.raises(ValueError, match="has no positions"):
        layer_of(4)(torch.zeros(2, 5, 0, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"num_features": 0}, "num_features 0"),
        ({"alpha_fwd": 1.0}, "alpha_fwd 1.0"),
        ({"alpha_bkw": -0.1}, "alpha_bkw -0.1"),
        ({"alpha_fwd": math.nan}, "alpha_fwd nan"),
        ({"eps": 0.0}, "eps 0.0"),
        ({"clamp_val": math.inf}, "clamp_val inf"),
        ({"ls_eps": -1.0}, "ls_eps -1.0"),
        ({"ecm": "both"}, "ecm 'both' is unknown; choose ac, ls, none"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], fragment: str) -> None:
    with pytest.raises(ValueError, match=fragment):
        OnlineNorm2d(**{"num_features": 3, **options})
