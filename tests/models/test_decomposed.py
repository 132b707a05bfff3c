"""The decomposed head against its definition."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from decompose_cli.models.decomposed import DecomposedLinear

D = 11
EVEN = ((8, 1, 3), (0, 2, 4), (5, 10, 6), (3, 0, 8))
RAGGED = ((8, 1, 3, 9), (0,), (5, 10), (3, 0, 8))
SINGLE = ((4,),)
FULL = (tuple(range(D)), tuple(reversed(range(D))))
EMPTY = ((), (8, 1), (), (3,))
ALL_SETS = [EVEN, RAGGED, SINGLE, FULL, EMPTY]
SET_NAMES = ["even", "ragged", "one class, one feature", "all features", "classes without features"]


def make_head(classes: tuple[tuple[int, ...], ...], dtype: torch.dtype = torch.float64) -> DecomposedLinear:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(len(classes), D, generator=generator, dtype=torch.float64)
    bias = torch.randn(len(classes), generator=generator, dtype=torch.float64)
    return DecomposedLinear.from_dense(weight, bias, classes).to(dtype)


def features(n: int = 5, dtype: torch.dtype = torch.float64, seed: int = 2) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loop(head: DecomposedLinear, classes: tuple[tuple[int, ...], ...], x: Tensor) -> Tensor:
    """The definition, one product at a time."""
    weight, bias = head.weight.detach(), head.bias.detach()
    logits = torch.empty(len(x), len(classes), dtype=torch.float64)
    for n in range(len(x)):
        for c, indices in enumerate(classes):
            logit = float(bias[c])
            for j, index in enumerate(indices):
                logit += float(weight[c, j]) * float(x[n, index])
            logits[n, c] = logit
    return logits


@pytest.mark.parametrize("classes", ALL_SETS, ids=SET_NAMES)
@pytest.mark.parametrize("n", [1, 2, 17])
def test_forward_against_a_plain_loop(classes: tuple[tuple[int, ...], ...], n: int) -> None:
    head, x = make_head(classes), features(n)
    assert head(x).shape == (n, len(classes))
    torch.testing.assert_close(head(x), loop(head, classes, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("classes", ALL_SETS, ids=SET_NAMES)
def test_single_precision_against_a_plain_loop(classes: tuple[tuple[int, ...], ...]) -> None:
    head, x = make_head(classes, torch.float32), features(9, torch.float32)
    assert head(x).dtype == torch.float32
    torch.testing.assert_close(head(x).double(), loop(head, classes, x), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_close() -> None:
    head, x = make_head(RAGGED, torch.bfloat16), features(9, torch.bfloat16)
    assert head(x).dtype == torch.bfloat16
    torch.testing.assert_close(head(x).double(), loop(head, RAGGED, x), rtol=0.03, atol=0.06)


def test_numbers_that_can_be_checked_on_paper() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    head = DecomposedLinear.from_dense(weight, torch.tensor([0.5, -1.0]), [[2, 0], [1]])
    assert head.weight.tolist() == [[3, 1], [20, 0]]
    assert head(torch.tensor([[1.0, 10.0, 100.0]])).tolist() == [[301.5, 199.0]]


def test_a_class_without_features_has_its_bias_and_padding_of_index_and_weight_zero() -> None:
    head = make_head(EMPTY)
    assert torch.equal(head(features())[:, 2], head.bias[2].expand(5))
    assert head.indices[2].tolist() == head.weight[2].tolist() == [0, 0]
    assert head.mask.sum(1).tolist() == [0, 2, 0, 1]
    assert head.classes() == EMPTY


def test_from_dense_with_all_features_is_the_full_layer() -> None:
    layer = nn.Linear(D, 2, dtype=torch.float64)
    head = DecomposedLinear.from_dense(layer.weight, layer.bias, FULL)
    torch.testing.assert_close(head(features()), layer(features()))


def test_from_subspaces_takes_the_columns_in_the_order_of_the_indices() -> None:
    weight, bias = torch.arange(12.0).view(4, 3), torch.zeros(4)
    head = DecomposedLinear.from_subspaces(weight, bias, EVEN, D)
    assert torch.equal(head.weight, weight)
    x = features(dtype=torch.float32)
    torch.testing.assert_close(head(x).double(), loop(head, EVEN, x), rtol=1e-5, atol=1e-5)


def test_from_subspaces_ignores_what_stands_in_the_padding() -> None:
    head = DecomposedLinear.from_subspaces(torch.ones(4, 4), torch.zeros(4), RAGGED, D)
    assert head.weight.sum(1).tolist() == [4, 1, 2, 3]


@pytest.mark.parametrize("classes", ALL_SETS, ids=SET_NAMES)
def test_classes_give_back_the_indices_without_padding(classes: tuple[tuple[int, ...], ...]) -> None:
    head = make_head(classes)
    assert head.classes() == classes
    assert head.num_features == D
    assert head.weight.shape == head.indices.shape == head.mask.shape == (len(classes), max(map(len, classes)))


def test_what_was_given_is_not_shared() -> None:
    weight, bias = torch.ones(4, D), torch.ones(4)
    head = DecomposedLinear.from_dense(weight, bias, EVEN)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    assert weight.min() == bias.min() == 1


# ---------------------------------------------------------------------------------------------------------- padding


def test_padding_does_not_contribute() -> None:
    head, x = make_head(RAGGED), features()
    before = head(x)
    with torch.no_grad():
        head.weight[~head.mask] = 1e6
    assert torch.equal(head(x), before)


def test_padding_receives_no_gradient() -> None:
    head = make_head(RAGGED)
    with torch.no_grad():
        head.weight[~head.mask] = 3.0
    head(features()).square().sum().backward()
    assert head.weight.grad is not None
    assert torch.equal(head.weight.grad != 0, head.mask)


def test_padding_passes_no_gradient_to_the_features() -> None:
    head = make_head(RAGGED)
    with torch.no_grad():
        head.weight[~head.mask] = 3.0
    x = features().requires_grad_()
    head(x)[:, 1].sum().backward()  # class 1 has one feature and three paddings
    assert x.grad is not None
    expected = torch.zeros_like(x)
    expected[:, 0] = head.weight[1, 0].detach()
    torch.testing.assert_close(x.grad, expected)


def test_padding_stays_zero_through_training() -> None:
    head = make_head(RAGGED)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1, weight_decay=0.1)
    for step in range(5):
        optimizer.zero_grad()
        head(features(seed=step)).square().sum().backward()
        optimizer.step()
    assert head.weight[~head.mask].abs().max() == 0


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_values_outside_the_subspace_of_a_class_do_not_leak_in(value: float) -> None:
    """Each feature in turn: padding must not look at a feature that the class does not use."""
    head = make_head(RAGGED)
    for index in range(D):
        x = features()
        x[:, index] = value
        users = torch.tensor([index in row for row in RAGGED])
        logits = head(x)
        assert not torch.isfinite(logits[:, users]).any()
        torch.testing.assert_close(logits[:, ~users], loop(head, RAGGED, x)[:, ~users])


# -------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("classes", ALL_SETS, ids=SET_NAMES)
def test_gradients(classes: tuple[tuple[int, ...], ...]) -> None:
    head = make_head(classes)

    def apply(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(head, {"weight": weight, "bias": bias}, (x,))

    arguments = (features(3), head.weight.detach(), head.bias.detach())
    assert torch.autograd.gradcheck(apply, tuple(argument.clone().requires_grad_() for argument in arguments))


def test_gradients_through_maps_of_one_pixel() -> None:
    head = make_head(RAGGED)
    assert torch.autograd.gradcheck(head, (features(3)[:, :, None, None].requires_grad_(),))


# -------------------------------------------------------------------------------------- mixed precision and exporting


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_gives_float32_logits_and_gradients(dtype: torch.dtype) -> None:
    """Only the features are rounded: what autocast gives is what float32 gives for the rounded ones."""
    x = features(64, torch.float32).to(dtype)
    results = []
    for enabled in (True, False):
        head = make_head(RAGGED, torch.float32)
        given = (x if enabled else x.float()).clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = head(given)
            loss = logits.square().mean()
        loss.backward()
        assert head.weight.grad is not None
        assert head.bias.grad is not None
        assert given.grad is not None
        assert logits.dtype == head.weight.grad.dtype == head.bias.grad.dtype == torch.float32
        assert given.grad.dtype == given.dtype
        results.append((logits, head.weight.grad, head.bias.grad, given.grad.float()))
    for mixed, full in zip(results[0][:3], results[1][:3], strict=True):
        torch.testing.assert_close(mixed, full)
    rounding = {"rtol": 2**-8, "atol": 1e-6} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(results[0][3], results[1][3], **rounding)


def test_features_and_weights_meet_in_the_higher_precision() -> None:
    for weights, given in ((torch.float64, torch.float32), (torch.float32, torch.float64)):
        assert make_head(RAGGED, weights)(features(dtype=given)).dtype == torch.float64


def recorded(head: DecomposedLinear, example: Tensor, how: str) -> Callable[[Tensor], Tensor]:
    if how == "export":
        shapes = ({0: torch.export.Dim.DYNAMIC},)
        return torch.export.export(head, (example,), dynamic_shapes=shapes).module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(head, (example,), check_trace=False)  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize("classes", ALL_SETS, ids=SET_NAMES)
@pytest.mark.parametrize("tail", [(), (1, 1)], ids=["linear", "convolution"])
@pytest.mark.parametrize("how", ["export", "trace"])
def test_a_recorded_graph_computes_the_same_for_any_batch(
    how: str, tail: tuple[int, ...], classes: tuple[tuple[int, ...], ...]
) -> None:
    head = make_head(classes)
    graph = recorded(head, features(3).reshape(3, D, *tail), how)
    for n in (1, 2, 3, 70):
        x = features(n).reshape(n, D, *tail)
        assert graph(x).shape == (n, len(classes), *tail)
        torch.testing.assert_close(graph(x), head(x), rtol=1e-12, atol=1e-12)


def test_an_exported_graph_has_only_operators_that_runtimes_know() -> None:
    program = torch.export.export(make_head(RAGGED), (features(3),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert "index_select" in program.graph_module.code
    assert "embedding_bag" not in program.graph_module.code


def test_padding_does_not_contribute_to_an_exported_graph() -> None:
    head = make_head(RAGGED)
    before = head(features())
    with torch.no_grad():
        head.weight[~head.mask] = 1e6
    torch.testing.assert_close(recorded(head, features(3), "export")(features()), before)


def test_compiling_does_not_break_the_graph() -> None:
    head = make_head(RAGGED)
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(features()), head(features()))


# ----------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_stands_where_a_convolution_stood(layout: torch.memory_format) -> None:
    head = make_head(RAGGED)
    x = features()[:, :, None, None].contiguous(memory_format=layout)
    assert head(x).shape == (5, 4, 1, 1)
    torch.testing.assert_close(head(x).flatten(1), head(features()))


def test_features_may_lie_in_memory_in_any_way() -> None:
    head, x = make_head(RAGGED), features(8)
    torch.testing.assert_close(head(x.t().contiguous().t()), head(x))
    torch.testing.assert_close(head(x[::2]), head(x)[::2])
    torch.testing.assert_close(head(x[:1].expand(3, D)), head(x)[:1].expand(3, 4))


@pytest.mark.parametrize(("shape", "expected"), [((0, D), (0, 4)), ((0, D, 1, 1), (0, 4, 1, 1))])
def test_no_images_give_no_logits(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert make_head(RAGGED)(torch.zeros(shape, dtype=torch.float64)).shape == expected


@pytest.mark.parametrize("shape", [(3, D + 1), (3, D - 1), (3, D, 2, 2)])
def test_inputs_of_another_width_are_not_taken_silently(shape: tuple[int, ...]) -> None:
    """As ``nn.Linear`` refuses them."""
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        make_head(EVEN)(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("n", [1, 3, 64])
def test_batch_size_changes_nothing(n: int) -> None:
    head, x = make_head(RAGGED), features(70)
    torch.testing.assert_close(torch.cat([head(part) for part in x.split(n)]), head(x), rtol=1e-13, atol=1e-13)


# -------------------------------------------------------------------------------------------------- saving, copying


@pytest.mark.parametrize("classes", [EVEN, RAGGED], ids=["even", "ragged"])
def test_state_dict_round_trip(classes: tuple[tuple[int, ...], ...]) -> None:
    """The checkpoint is complete in itself: a head made with other indices of that shape takes those of the file."""
    head = make_head(classes)
    assert set(head.state_dict()) == {"weight", "bias", "indices", "mask"}
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    width = max(map(len, classes))
    other = DecomposedLinear([range(width)] * len(classes), D).double()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.classes() == classes
    assert torch.equal(other(features()), head(features()))


def test_a_state_dict_of_another_shape_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        make_head(EVEN).load_state_dict(make_head(RAGGED).state_dict())


def test_deep_copies_are_independent() -> None:
    head = make_head(RAGGED)
    before = head(features()).detach()
    other = copy.deepcopy(head)
    assert torch.equal(other(features()), before)
    with torch.no_grad():
        other.weight.add_(1)
        other.indices.zero_()
    assert torch.equal(head(features()), before)
    assert head.classes() == RAGGED


def test_it_follows_the_module_it_is_part_of() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(D, 4))
    model.set_submodule("1", make_head(RAGGED, torch.float32))
    model.double()
    head = model[1]
    assert isinstance(head, DecomposedLinear)
    assert head.indices.dtype == torch.int64
    assert head.mask.dtype == torch.bool
    assert {name for name, _ in model.named_parameters()} == {"1.weight", "1.bias"}
    torch.testing.assert_close(model(features()), loop(head, RAGGED, features().relu()))


def test_its_sizes_are_shown() -> None:
    assert repr(make_head(RAGGED)) == "DecomposedLinear(classes=4, k=4, features=11)"
