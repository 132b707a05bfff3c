"""What operations do to the axes of maps, against where light in one corner of the maps is afterwards."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.models.axes import Axes
from decompose_cli.models.outputs import Values, last_map_layer, passed_over, trace_outputs
from decompose_cli.models.tracing import example_images

Operation = Callable[[Tensor], Tensor]
FIRST = (1, 2, 3)
ORDER = torch.tensor([3, 0, 7, 4, 1, 6, 2, 5])


class Step(nn.Module):
    """An operation as a module, which is the last before the mean over positions."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(x)


class Net(nn.Module):
    """Maps (N, 8, 8, 12), an operation, and a head on the means of what it makes."""

    def __init__(self, operation: Operation, features: int) -> None:
        super().__init__()
        self.conv, self.step, self.head = nn.Conv2d(3, 8, 1), Step(operation), nn.Linear(features, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.step(self.conv(x)).flatten(2).mean(2))


def network(operation: Operation) -> Net:
    torch.manual_seed(0)
    with torch.no_grad():
        return Net(operation, operation(torch.rand(4, 8, 8, 12)).shape[1]).eval()


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def with_class_token(x: Tensor) -> Tensor:
    return torch.cat([torch.ones(len(x), 1, 8), tokens(x)], 1)


def planes(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(len(x), -1, 8, 12)


def attended(x: Tensor) -> Tensor:
    seen = tokens(x).unflatten(2, (2, 4)).transpose(1, 2)
    return x + 0.1 * planes(F.scaled_dot_product_attention(seen, seen, seen).transpose(1, 2).flatten(2))


def gathered(x: Tensor) -> Tensor:
    return x.gather(1, ORDER.view(1, 8, 1, 1).expand(x.shape))


def scattered(x: Tensor) -> Tensor:
    return torch.zeros_like(x).scatter(1, ORDER.view(1, 8, 1, 1).expand(x.shape), x)


def written(x: Tensor, rows: Tensor | slice, values: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :, rows] = values
    return y


def swapped(y: Tensor, x: Tensor) -> Tensor:
    y[:, :, :4] = x[:, :, 4:]
    y[:, :, 4:] = x[:, :, :4]
    return y


def strided(x: Tensor) -> Tensor:
    return x.contiguous().as_strided(x.shape, x.contiguous().stride())


def rolled_lines(x: Tensor) -> Tensor:
    return (x.flatten(2) + x.relu().flatten(2)).unflatten(2, (8, 12))


def written_by_two(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :, ORDER[:, None], torch.arange(12)] = x
    return y


def convolved(x: Tensor) -> Tensor:
    return F.conv2d(x, torch.ones(8, 8, 3, 3), padding=1)


def recurrent(kind: type[nn.LSTM] | type[nn.GRU]) -> Operation:
    torch.manual_seed(0)
    layer = kind(8, 4, bidirectional=True, batch_first=True)
    return lambda x: layer(x.permute(0, 2, 3, 1).flatten(0, 1))[0].unflatten(0, (len(x), 8)).permute(0, 3, 1, 2) + 0


def shuffled_by_hand(x: Tensor) -> Tensor:
    return x.reshape(len(x), 2, 2, 2, 8, 12).permute(0, 1, 4, 2, 5, 3).reshape(len(x), 2, 16, 24)


def quadratic(x: Tensor) -> Tensor:
    first, last = torch.view_as_complex(x.unflatten(1, (4, 2)).movedim(2, -1).contiguous()), torch.polar(x, x)
    return torch.cat([torch.view_as_real(first * 1j).movedim(-1, 2).flatten(1, 2), last.conj().real], 1)


KNOWN: dict[str, Operation] = {
    "channel_shuffle": lambda x: torch.channel_shuffle(x, 2),
    "native_channel_shuffle": lambda x: torch.native_channel_shuffle(x, 2),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_shuffle by hand": shuffled_by_hand,
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "pixel_unshuffle and back": lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 4), 2),
    "nearest-exact": lambda x: F.interpolate(x, scale_factor=2, mode="nearest-exact"),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 2).repeat_interleave(3, 3),
    "volume": lambda x: F.interpolate(x[:, None], scale_factor=(1, 2, 2), mode="trilinear")[:, 0],
    "average of a volume": lambda x: F.avg_pool3d(x[:, None], 3, 1, 1)[:, 0],
    "fractional_max_pool2d": nn.FractionalMaxPool2d(2, output_size=(4, 6)),
    "max_unpool2d": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),  # type: ignore[misc]
    "Fourier and back": lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 2, s=x.shape[-2:]),
    "complex Fourier and back": lambda x: torch.fft.ifft2(torch.fft.fft2(x)).real,
    "roll and back": lambda x: torch.roll(torch.roll(x, (3, 2), (2, 3)) * 2, (-3, -2), (2, 3)),
    "rolled, padded, cut and back": lambda x: (
        F.pad(x.roll((3, 2), (2, 3)), (1, 3, 2, 0))[:, :, 2:, 1:13].relu().roll((-3, -2), (2, 3))
    ),
    "rolled, padded, in windows, cut and back": lambda x: (
        F.pad(x.roll((3, 2), (2, 3)), (0, 3, 0, 2))
        .unflatten(3, (3, 5)).unflatten(2, (2, 5)).transpose(3, 4).relu().transpose(3, 4)
        .flatten(2, 3).flatten(3)[:, :, :8, :12].roll((-3, -2), (2, 3))
    ),
    "flip and back": lambda x: torch.cat([x, x.flip(3).relu().flip(3)], 1),
    "turn and back": lambda x: torch.rot90(torch.rot90(x, 1, (2, 3)).relu(), 3, (2, 3)),
    "order and back": lambda x: x[:, :, ORDER].relu()[:, :, ORDER.argsort()],
    "F.unfold and F.fold": lambda x: F.fold(F.unfold(x, 2, stride=2), x.shape[-2:], 2, stride=2),
    "F.unfold": lambda x: F.unfold(x, 3, padding=1, stride=2).unflatten(2, (4, 6)),
    "F.unfold, sums of windows": lambda x: F.unfold(x, 3, padding=1).unflatten(1, (8, 9)).sum(2).unflatten(2, (8, 12)),
    "Tensor.unfold": lambda x: x.unfold(2, 2, 2).unfold(3, 3, 3).mean((-1, -2)),
    "cumsum": lambda x: x.cumsum(2),
    "cumprod": lambda x: (1 + x).cumprod(3),
    "cummax": lambda x: x.cummax(2)[0],
    "logcumsumexp": lambda x: x.logcumsumexp(2),
    "x[:, order]": lambda x: x[:, ORDER],
    "x[:, :, rising]": lambda x: x[:, :, torch.arange(0, 8, 2)],
    "x[:, mask]": lambda x: x[:, torch.arange(8) % 3 == 0],
    "index_select": lambda x: x.index_select(1, ORDER).index_select(3, torch.tensor([0, 1, 4, 6, 10])),
    "gather": gathered,
    "scatter": scattered,
    "topk of channels": lambda x: x.topk(4, 1)[0],
    "sort of channels": lambda x: x.sort(1)[0],
    "kthvalue over channels": lambda x: x.kthvalue(3, 1, keepdim=True)[0] * torch.ones(1, 8, 1, 1),
    "var_mean over channels": lambda x: torch.cat(torch.var_mean(x, 1, keepdim=True), 1),
    "repeat of channels": lambda x: x.repeat(1, 2, 1, 1),
    "slice_scatter": lambda x: torch.slice_scatter(x, x[:, :4] * 2, 1, 4),
    "select_scatter": lambda x: torch.select_scatter(torch.zeros_like(x), x[:, 0], 1, 5),
    "index_add of channels": lambda x: torch.zeros_like(x).index_add(1, ORDER, x),
    "written beside": lambda x: written(x, slice(1, None), x[:, :, :-1]),
    "written to rising numbers": lambda x: written(x, torch.tensor([1, 4, 6]), x[:, :, 2:5]),
    "written back": lambda x: written(x, ORDER, x[:, :, ORDER]),
    "index_copy back": lambda x: x.exp().index_copy(2, ORDER, x[:, :, ORDER]),
    "index_copy over another order": lambda x: x.flip(2).index_copy(2, ORDER, x[:, :, ORDER]),
    "copied upside down and back": lambda x: torch.empty_like(x).copy_(x.flip(2)).flip(2),
    "rolled by nothing": lambda x: x.roll(8, 2),
    "lines rolled and back": lambda x: rolled_lines(x.roll(3, 2)).roll(-3, 2),
    "a number written": lambda x: x.index_fill(3, torch.tensor([5, 2]), 0.0).masked_fill(x > 0.9, 1.0),
    "copied": lambda x: torch.empty_like(x).copy_(x),
    "flip, convolution and back": lambda x: convolved(x.flip(3)).flip(3),
    "beside its flip and cut off": lambda x: torch.cat([x, x.flip(3)], 3)[..., :12],
    "overlapping tiles": lambda x: torch.cat([x[:, :, :5], x[:, :, 3:]], 2),
    "tiles of tiles": lambda x: torch.cat([torch.cat(half.chunk(2, 3), 3) for half in x.chunk(2, 3)], 3),
    "shuffled halves": lambda x: torch.cat([F.pixel_shuffle(y, 2) for y in x.chunk(2, 2)], 2),
    "gates": lambda x: x[:, :4] * x[:, 4:],
    "images and back": lambda x: x.flip(0).relu().flip(0),
    "twice the images": lambda x: torch.cat([x, 2 * x]).chunk(2)[1],
    "Fourier back and forth": lambda x: torch.fft.fft2(torch.fft.ifft2(x)).real,
    "conjugate Fourier and back": lambda x: torch.fft.fft2(torch.fft.fft2(x).conj()).real,
    "glu": lambda x: F.glu(x, 1),
    "logsigmoid": F.logsigmoid,
    "rms_norm": lambda x: F.rms_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2) * x.abs(),
    "complex numbers": quadratic,
    "quantised": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize(),
    "quantised for training": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127),
    "attention": attended,
    "attention by products": lambda x: planes((tokens(x) @ tokens(x).mT / 9).softmax(-1) @ tokens(x)),
    "class token cut off": lambda x: planes(with_class_token(x).relu()[:, 1:]),
    "class token split off": lambda x: planes(with_class_token(x).split([1, 96], 1)[1]),
    "class token at the end": lambda x: planes(torch.cat([tokens(x), torch.ones(len(x), 1, 8)], 1)[:, :-1]),
    "codebook": lambda x: F.embedding((10 * x[:, 0]).long().clamp(0, 9), torch.eye(10)[:, 1:]).permute(0, 3, 1, 2),
    "table": lambda x: torch.eye(10)[:, 1:][(10 * x[:, 0]).long().clamp(0, 9)].permute(0, 3, 1, 2),
    "lstm": recurrent(nn.LSTM),
}  # fmt: skip
SPREAD = ("attention by products",)  # everything everywhere: light in a corner is seen in all of them


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("name", KNOWN)
def test_rows_and_columns_are_where_light_goes(name: str) -> None:
    module = network(KNOWN[name])
    outputs = trace_outputs(module, example_images((8, 12)))
    values = next(use.values for use in outputs if use.name == "step")
    assert values is not None
    assert (values.axes.channels, values.axes.rows, values.axes.columns) == FIRST
    assert last_map_layer(outputs) == "step"
    assert passed_over(outputs) is None
    if name not in SPREAD:
        (top, left), (bottom, right) = centre(KNOWN[name], 0), centre(KNOWN[name], 1)
        assert bottom > top + 0.1
        assert right > left + 0.1


def centre(operation: Operation, corner: int) -> tuple[float, float]:
    """Where, from 0 to 1, an operation's output changes as light comes up in the first or the last corner of maps."""
    maps = torch.full((1, 8, 8, 12), 0.1)
    lit = maps.clone()
    rows, columns = (slice(0, 4), slice(0, 6)) if corner == 0 else (slice(4, 8), slice(6, 12))
    lit[:, :, rows, columns] = 0.75 + 0.25 * torch.rand(8, 1, 1, generator=torch.Generator().manual_seed(1))
    states = []
    for x in (maps, lit):
        torch.manual_seed(0)
        with torch.no_grad():
            states.append(operation(x))
    seen = (states[1] - states[0]).abs().sum((0, 1))
    down, across = (torch.linspace(0, 1, side) for side in seen.shape)
    return float(seen.sum(1) @ down / seen.sum()), float(seen.sum(0) @ across / seen.sum())


UNKNOWN: dict[str, tuple[Operation, str]] = {
    "frequencies": (lambda x: torch.fft.fft2(x).abs(), "_fft_c2c"),
    "half of the frequencies": (lambda x: torch.fft.rfft2(x).abs(), "_fft_r2c"),
    "sampled": (
        lambda x: F.grid_sample(x, F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), x.shape, align_corners=False)),  # type: ignore[arg-type]
        "grid_sampler_2d",
    ),
    "part of the frequencies": (lambda x: torch.fft.fft2(x).abs()[..., :4].repeat(1, 1, 1, 2), "_fft_c2c"),
    "rolled": (lambda x: torch.roll(x, 3, 2), "roll"),
    "rolled in one line": (lambda x: torch.roll(x, 3), "roll"),
    "upside down": (lambda x: x.flip(2), "flip"),
    "upside down, each row twice": (lambda x: x.flip(2).repeat_interleave(2, 2), "flip"),
    "upside down, with a convolution": (lambda x: convolved(x.flip(2)), "flip"),
    "upside down, with pooling": (lambda x: F.max_pool2d(x.flip(2), 2), "flip"),
    "upside down, padded in a circle": (lambda x: convolved(F.pad(x.flip(2), (0, 0, 1, 1), mode="circular")), "flip"),
    "upside down, in windows": (lambda x: convolved(x.flip(2).unflatten(2, (4, 2))[:, :, :, 0]), "flip"),
    "upside down, in one line": (lambda x: convolved(x.flip(2).flatten(2)[:, :, None].expand(-1, -1, 4, -1)), "flip"),
    "upside down, after what is new": (lambda x: (x + torch.zeros_like(x)).flip(2), "flip"),
    "pooled halves swapped": (lambda x: torch.cat([F.max_pool2d(y, 2) for y in x.chunk(2, 2)[::-1]], 2), "cat"),
    "rolled, with a convolution": (lambda x: convolved(x.roll(4, 2)), "roll"),
    "rolled, padded and rolled back": (lambda x: F.pad(x.roll(3, 2), (0, 0, 0, 2)).roll(-3, 2), "roll"),
    "rolled, padded, cut elsewhere and back": (
        lambda x: F.pad(x.roll(3, 2), (0, 0, 0, 2))[:, :, 2:].roll(-3, 2),
        "roll",
    ),
    "rolled a thousand times": (lambda x: functools.reduce(lambda y, _: y.roll(1, 2), range(1001), x), "roll"),
    "rolled and flipped back": (lambda x: x.roll(3, 2).flip(2), "roll"),
    "with its flip": (lambda x: x + x.flip(2), "flip"),
    "with its flip, flipped": (lambda x: (x.roll(3, 2) + x.flip(2)).flip(2), "roll"),
    "here and there its flip": (lambda x: torch.where(x > 0.5, x, x.flip(2)), "flip"),
    "beside its flip": (lambda x: torch.cat([x, x.flip(2)], 2), "flip"),
    "beside itself": (lambda x: torch.cat([x, x], 2), "cat"),
    "halves swapped": (lambda x: torch.cat([x[:, :, 4:], x[:, :, :4]], 2), "cat"),
    "even and odd rows": (lambda x: torch.cat([x[:, :, ::2], x[:, :, 1::2]], 2), "cat"),
    "halves swapped by numbers": (lambda x: torch.cat([x[:, :, torch.arange(4, 8)], x[:, :, :4]], 2), "cat"),
    "shuffled halves swapped": (lambda x: torch.cat([F.pixel_shuffle(y, 2) for y in x.chunk(2, 2)[::-1]], 2), "cat"),
    "half of it twice": (lambda x: torch.cat([x, x[:, :, 4:]], 2), "cat"),
    "halves swapped in what is new": (lambda x: swapped(torch.zeros_like(x), x), "copy_"),
    "halves swapped in place": (lambda x: swapped(x.clone(), x), "copy_"),
    "halves upon each other": (lambda x: x[:, :, :4] + x[:, :, 4:], "add"),
    "Fourier twice": (lambda x: torch.fft.fft2(torch.fft.fft2(x)).real, "_fft_c2c"),
    "Fourier and back, conjugate": (lambda x: torch.fft.ifft2(torch.fft.fft2(x).conj()).real, "_fft_c2c"),
    "Fourier and back, conjugate in memory": (
        lambda x: torch.fft.ifft2(torch.conj_physical(torch.fft.fft2(x))).real,
        "_fft_c2c",
    ),
    "correlation": (lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * torch.fft.rfft2(x).conj(), s=(8, 12)), "_fft_r2c"),
    "written in another order": (lambda x: written(x, ORDER, x), "index_put_"),
    "written in another order, in part": (lambda x: written(x, ORDER[:4], x[:, :, :4]), "index_put_"),
    "written over": (lambda x: x.index_copy(2, ORDER[:4], x[:, :, :4]), "index_copy"),
    "added in another order": (lambda x: x.index_add(2, ORDER, x), "index_add"),
    "added back to another order": (lambda x: x.flip(2).index_add(2, ORDER, x[:, :, ORDER]), "flip"),
    "written where it is bright": (lambda x: x.masked_scatter(x > 0.5, x.flip(2)), "masked_scatter"),
    "scattered": (lambda x: x.scatter(2, ORDER.view(1, 1, 8, 1).expand(x.shape), x), "scatter"),
    "written into nothing": (lambda x: torch.zeros(x.shape).index_copy_(2, ORDER, x), "index_copy_"),
    "copied upside down": (lambda x: torch.empty_like(x).copy_(x.flip(2)), "flip"),
    "half of it copied upside down, with a convolution": (
        lambda x: convolved(written(x, slice(4, None), x[:, :, :4].flip(2)) + written(x, slice(0, 8), x)),
        "flip",
    ),
    "written by two numbers": (written_by_two, "index_put_"),
    "half of it overwritten, with a convolution": (lambda x: convolved(swapped(x.clone(), x)), "copy_"),
    "half of it copied upside down": (lambda x: written(x, slice(4, None), x[:, :, :4].flip(2)), "flip"),
    "turned": (lambda x: torch.rot90(x, 1, (2, 3)), "rot90"),
    "tiled": (lambda x: x.repeat(1, 1, 2, 1), "repeat"),
    "in another order": (lambda x: x[:, :, ORDER], "index"),
    "back in the wrong order": (lambda x: x[:, :, ORDER][:, :, ORDER], "index"),
    "selected": (lambda x: x.index_select(2, ORDER), "index_select"),
    "sorted": (lambda x: x.sort(2)[0], "sort"),
    "tokens in another order": (lambda x: planes(tokens(x)[:, torch.arange(95, -1, -1)]), "index"),
    "tokens cut at another place": (lambda x: planes(with_class_token(x)[:, :-1]), "cat"),
    "steps one by one": (recurrent(nn.GRU), "stack"),
    "strides": (strided, "as_strided"),
    "bilinear": (
        lambda x: F.bilinear(*[x.permute(0, 2, 3, 1).contiguous()] * 2, torch.ones(8, 8, 8)).permute(0, 3, 1, 2),
        "_trilinear",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Default grid_sample")
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_told_is_lost_by_an_operation_that_is_named(name: str) -> None:
    operation, lost_by = UNKNOWN[name]
    outputs = trace_outputs(network(operation), example_images((8, 12)))
    later = passed_over(outputs)
    assert last_map_layer(outputs) == "conv"
    assert later is not None
    assert later.values is not None
    assert (later.name, later.values.axes.lost_by) == ("step", lost_by)
    assert later.values.obstacle == f"it cannot be told what its axes are after the operation {lost_by}"


@pytest.mark.parametrize(
    ("operation", "lost_by"),
    [
        (lambda x: x.flip(0), "flip"),
        (lambda x: convolved(x.roll(1, 0)), "roll"),
        (lambda x: x[torch.tensor([1, 0, 3, 2])], "index"),
        (lambda x: x[torch.tensor([0, 1, 1, 1])], "index"),
        (lambda x: x.sort(0)[0], "sort"),
        (lambda x: x + x.flip(0), "flip"),
        (lambda x: torch.cat(x.chunk(2)[::-1]), "cat"),
        (lambda x: torch.zeros_like(x).index_copy(0, torch.tensor([1, 0, 3, 2]), x), "index_copy"),
    ],
)
def test_images_in_another_order_have_no_maps(operation: Operation, lost_by: str) -> None:
    outputs = trace_outputs(network(operation), torch.rand(4, 3, 8, 12))
    later = passed_over(outputs)
    assert last_map_layer(outputs) == "conv"
    assert later is not None
    assert later.values is not None
    assert later.values.axes == Axes(lost_by=lost_by, in_order=False)
    assert later.values.obstacle == f"its images are in another order after the operation {lost_by}"
    assert [use.values.channels for use in outputs if use.values] == [1, None, None]  # nor rows of features


def test_an_operation_of_a_users_own_is_named() -> None:
    @torch.library.custom_op("decompose_tests::negated", mutates_args=())
    def negated(x: Tensor) -> Tensor:
        return -x

    later = passed_over(trace_outputs(network(negated), example_images((8, 12))))
    assert later is not None
    assert later.values is not None
    assert later.values.axes.lost_by == "negated"


@pytest.mark.parametrize("after", [nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1)])
def test_nothing_is_lost_where_later_operations_show_the_axes(after: nn.Module) -> None:
    outputs = trace_outputs(network(lambda x: after(strided(x))), example_images((8, 12)))
    assert last_map_layer(outputs) == "step"
    assert passed_over(outputs) is None


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: convolved(x.unfold(3, 4, 4)[:, :, :, 0]),  # places in a window
        lambda x: convolved(x.unflatten(3, (3, 4))[:, :, :, 0]),
        lambda x: torch.fft.fft2(x).abs().amax((2, 3), keepdim=True),  # one pixel
        lambda x: tokens(torch.fft.fft2(x).abs()).mT,  # a line
        lambda x: tokens(x)[:, ::2].unflatten(2, (2, 4)).transpose(1, 2),  # heads of some of the tokens
    ],
)
def test_what_is_no_map_is_not_missed(operation: Operation) -> None:
    outputs = trace_outputs(network(operation), example_images((8, 12)))
    assert last_map_layer(outputs) == "conv"
    assert passed_over(outputs) is None


def test_a_row_of_numbers_is_no_map_whatever_was_lost() -> None:
    lost = Axes(lost_by="flip")
    assert not Values(torch.Size((2, 8, 1, 1)), lost, 0.0, is_complex=False).may_have_maps
    assert not Values(torch.Size((2, 8, 4)), lost, 0.0, is_complex=False).may_have_maps
    assert Values(torch.Size((2, 8, 4, 1)), lost, 0.0, is_complex=False).may_have_maps


class ComplexMaps(nn.Module):
    """Two convolutions make the real and the imaginary part; the last maps that a module yields are complex."""

    def __init__(self) -> None:
        super().__init__()
        self.real, self.imaginary, self.both = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Identity()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.both(torch.complex(self.real(x), self.imaginary(x)))
        return self.head(x.mean((2, 3)).abs())


def test_complex_maps_are_passed_over_for_what_they_are() -> None:
    outputs = trace_outputs(ComplexMaps(), example_images((8, 12)))
    later = passed_over(outputs)
    assert last_map_layer(outputs) == "imaginary"
    assert later is not None
    assert later.values.axes == Axes(*FIRST)
    assert later.values.obstacle == "its values are complex numbers"


class AcrossColumns(nn.Module):
    """Weights sum over channels, and over the columns of maps; only the one is no axis of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(12, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(F.pixel_unshuffle(x, 2).sin().permute(0, 2, 3, 1))
        x = x + self.mix(x.transpose(2, 3)).transpose(2, 3)
        return self.head(x.mean((1, 2)))


def test_columns_that_weights_sum_over_are_columns() -> None:
    outputs = trace_outputs(AcrossColumns(), example_images((8, 12)))
    values = next(use.values for use in outputs if use.name == "embed")
    assert values is not None
    assert values.axes == Axes(3, 1, 2)
