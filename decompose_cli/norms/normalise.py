"""The training pass of online normalisation (see :mod:`.online` for its equations), forwards and backwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from decompose_cli.errors import NotFiniteError
from decompose_cli.norms.recurrences import decayed, scanned

_MOST_AT_ONCE = 1 << 20
"""Most numbers in a part of a batch, so that what one pass has read is still in the cache for the next."""
_MOST_SAMPLES = 512
"""Most samples in a part of a batch, as the matrix that solves a recurrence has the square of their number."""


class Normalise(torch.autograd.Function):
    """The training pass as an autograd function.

    Pixels are held as (N, C, P) or, where they lie so in memory, (N, P, C); ``along`` is the dimension of positions.
    Tensors (N, C), with a number for each sample and channel, are given that dimension to meet the pixels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, layer: Any) -> Tensor:
        """Normalise the samples in ``x``, and take them into the statistics of the layer."""
        ctx.layer, ctx.dtype = layer, wide_type(x, layer)
        ctx.is_last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        result = _empty(x, ctx.is_last)
        out, m, s = _flat(result, ctx.is_last), layer.norm.m.to(ctx.dtype), layer.norm.var.to(ctx.dtype)
        affine = _affine(weight, bias, ctx)
        parts = []
        for pixels, target in _in_parts(_flat(x, ctx.is_last), out):
            (m, s), kept = _forward(pixels, target, m, s, *affine, ctx)
            parts.append(kept)
        _take_in("input", (layer.norm.m, m), (layer.norm.var, s))
        kept = parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))
        # The result is not saved: a ReLU in place may overwrite it, as it may overwrite that of a batch norm.
        ctx.save_for_backward(x, weight, bias, *kept)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by x, weight and bias, and take the gradient into the control process."""
        x, weight, bias, *kept = ctx.saved_tensors
        state, is_last = ctx.layer.norm, ctx.is_last
        by_x = _empty(x, is_last)
        u, v = state.u.to(ctx.dtype), state.v.to(ctx.dtype)
        totals = []
        with full_precision(x):
            affine = _affine(weight, bias, ctx)
            arrays = (_flat(x, is_last), _flat(gradient, is_last), _flat(by_x, is_last), *kept)
            for part in _in_parts(*arrays):
                (u, v), sums = _backward(*part, u=u, v=v, affine=affine, ctx=ctx)
                totals.append(sums)
        by_weight, by_bias = (sum(column[1:], column[0]) for column in zip(*totals, strict=True))
        _take_in("gradient", (state.u, u), (state.v, v))
        count = x.shape[2:].numel()
        return (
            by_x,
            None if weight is None else (by_weight * count).to(weight.dtype),
            None if bias is None else (by_bias * count).to(bias.dtype),
            None,
        )


def _forward(
    pixels: Tensor, target: Tensor, m: Tensor, s: Tensor, w: Tensor | None, c: Tensor | None, ctx: Any
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
    """Normalise samples into ``target``; return the statistics after them, and what backward needs, each (n, C)."""
    layer, along = ctx.layer, 1 if ctx.is_last else 2
    pixels = pixels.to(ctx.dtype)
    decay = layer.alpha_fwd
    means = pixels.mean(along)
    # Pixels are centred in ``target`` itself, if its type allows it: then they stay in the cache in between.
    is_direct = target.dtype == ctx.dtype
    centred = torch.sub(pixels, means.unsqueeze(along), out=target) if is_direct else pixels - means.unsqueeze(along)
    variances = _mean_square(centred, along)
    ms = decayed(m, means, decay, 1 - decay)
    offsets = means - ms[:-1]
    spreads = decayed(s, torch.addcmul(variances, offsets, offsets, value=decay), decay, 1 - decay)
    inverse = (spreads[:-1] + layer.eps).rsqrt_()
    # z = scale (centred + offset) + c has the mean ``shift`` and the variance scale^2 variance.
    scale = inverse if w is None else w * inverse
    shift = scale * offsets if c is None else torch.addcmul(c, scale, offsets)
    kept: tuple[Tensor, ...] = (ms[:-1], inverse, offsets, variances)
    if layer.ecm == "ls":
        z_square = torch.addcmul(shift.square(), scale.square(), variances)
        root = z_square.mean(1, keepdim=True).add_(layer.ls_eps).rsqrt_()
        kept, scale, shift = (*kept, root), scale * root, shift * root
    # addcmul makes one pass and is used where its kernel is vectorised; elsewhere two passes are faster.
    if ctx.is_last:
        out = torch.addcmul(shift.unsqueeze(along), centred, scale.unsqueeze(along), out=centred)
    else:
        out = centred.mul_(scale.unsqueeze(along)).add_(shift.unsqueeze(along))
    if layer.ecm == "ac":
        out = nn.functional.hardtanh_(out, -layer.clamp_val, layer.clamp_val)
    if not is_direct:
        target.copy_(out)
    return (ms[-1], spreads[-1]), kept


def _backward(
    pixels: Tensor,
    delta: Tensor,
    target: Tensor,
    m: Tensor,
    inverse: Tensor,
    offsets: Tensor,
    variances: Tensor,
    *roots: Tensor,
    u: Tensor,
    v: Tensor,
    affine: tuple[Tensor | None, Tensor | None],
    ctx: Any,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Run the control process over samples and write their gradient into ``target``.

    Returns:
        u and v after the samples, and the sums over them of the mean gradients by weight and bias.
    """
    layer, along = ctx.layer, 1 if ctx.is_last else 2
    (w, c), is_direct, rest = affine, target.dtype == ctx.dtype, 1 - layer.alpha_bkw
    scale = inverse if w is None else w * inverse
    delta, away = delta.to(ctx.dtype), pixels.to(ctx.dtype) - m.unsqueeze(along)
    if layer.ecm == "ac":  # the clamp lets nothing through where it holds
        zero = scale.new_zeros(()) if c is None else c
        z = torch.addcmul(zero.expand_as(scale).unsqueeze(along), away, scale.unsqueeze(along))
        limit = layer.clamp_val
        delta = torch.ops.aten.hardtanh_backward.grad_input(delta, z, -limit, limit, grad_input=z)
    by_bias = delta.mean(along)
    products = torch.mul(delta, away, out=target) if is_direct else delta * away
    by_weight = products.mean(along) * inverse
    y_mean, square = offsets * inverse, inverse.square()
    y_square = torch.addcmul(variances, offsets, offsets).mul_(square)
    root, by_z = None, None
    if roots:  # layer scaling makes the gradient by z root delta - by_z z, with one root and one by_z per sample
        root = roots[0]
        sums = by_weight if w is None else w * by_weight
        sums = sums if c is None else torch.addcmul(sums, c, by_bias)
        by_z = sums.mean(1, keepdim=True) * root**3
        z_mean = y_mean if w is None else w * y_mean
        z_y = y_square if w is None else w * y_square
        if c is not None:
            z_mean, z_y = z_mean + c, torch.addcmul(z_y, c, y_mean)
        by_bias, by_weight = root * by_bias - by_z * z_mean, root * by_weight - by_z * z_y
    by_y, by_mean = (by_weight, by_bias) if w is None else (w * by_weight, w * by_bias)
    vs = scanned(v, 1 - rest * y_square, by_y)
    held = rest * vs[:-1]
    us = decayed(u, torch.addcmul(by_mean, held, y_mean, value=-1).mul_(inverse), layer.alpha_bkw)
    # d = (w (root delta - by_z (w y + c)) - (1 - b) v y) / sqrt(s + eps) - (1 - b) u, with y = away / sqrt(s + eps)
    constant, by_delta = -rest * us[:-1], scale
    if root is not None and by_z is not None:
        held = held + (by_z if w is None else w * w * by_z)
        constant = constant if c is None else torch.addcmul(constant, by_z * c, scale, value=-1)
        by_delta = scale * root
    by_away = torch.mul(held, square).neg_()
    if ctx.is_last:
        control = torch.addcmul(constant.unsqueeze(along), away, by_away.unsqueeze(along), out=away)
    else:
        control = away.mul_(by_away.unsqueeze(along)).add_(constant.unsqueeze(along))
    if is_direct:
        torch.addcmul(control, delta, by_delta.unsqueeze(along), out=target)
    else:
        target.copy_(control.addcmul_(delta, by_delta.unsqueeze(along)))
    return (us[-1], vs[-1]), (by_weight.sum(0), by_bias.sum(0))


def _mean_square(values: Tensor, along: int) -> Tensor:
    """The mean square over positions; the norm of a vector takes one pass where its numbers lie side by side."""
    if along == values.dim() - 1:
        norms: Tensor = torch.linalg.vector_norm(values, dim=along)
        return norms.square_().div_(values.shape[along])
    return values.square().mean(along)


def _affine(weight: Tensor | None, bias: Tensor | None, ctx: Any) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias in the type of the computation."""
    return None if weight is None else weight.to(ctx.dtype), None if bias is None else bias.to(ctx.dtype)


def wide_type(x: Tensor, layer: Any) -> torch.dtype:
    """The type of the computation: float32 at least."""
    return torch.promote_types(torch.promote_types(x.dtype, layer.norm.m.dtype), torch.float32)


def _in_parts(first: Tensor, *others: Tensor) -> Iterable[Sequence[Tensor]]:
    """Cut all tensors into the same runs of samples, as long as a cache holds; recurrences go on from run to run.

    A compiler joins the passes itself, and writes the code of each run out.
    """
    fitting = _MOST_SAMPLES if torch.compiler.is_compiling() else _MOST_AT_ONCE // first[0].numel()
    size = max(1, min(fitting, _MOST_SAMPLES))
    if size >= len(first):
        return [(first, *others)]
    return zip(*(torch.split(tensor, size) for tensor in (first, *others)), strict=True)


def _empty(x: Tensor, is_last: bool) -> Tensor:
    """Memory for a result, laid out so that :func:`_flat` is a view of it."""
    return torch.empty_like(x, memory_format=torch.channels_last if is_last else torch.contiguous_format)


def _flat(x: Tensor, is_last: bool) -> Tensor:
    """The tensor as (N, C, P), or as (N, P, C) where it lies so in memory."""
    if is_last:
        return x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).flatten(1, 2)
    return x.reshape(len(x), x.shape[1], -1)


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off, which takes a while, where it is on: it would make the matrix products inexact."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


@torch.no_grad()
def _take_in(what: str, *pairs: tuple[Tensor, Tensor]) -> None:
    """Replace statistics by new ones, unless these are not finite.

    Only a single process on a CPU raises an error for numbers that are not finite. A look at the numbers would wait for
    a GPU, interrupt compiled code, or stop one of several processes alone; there the loss shows them.
    """
    is_fine = torch.stack([new for _, new in pairs]).sum().isfinite()
    looks = is_fine.device.type == "cpu" and not torch.compiler.is_compiling() and not _is_one_of_several()
    if looks and not is_fine:
        raise NotFiniteError(
            f"The {what} of an online normalisation is NaN, infinite or too large; its statistics are unchanged.",
            hint="Try a smaller learning rate, or decay factors nearer to 1.",
        )
    for old, new in pairs:
        old.copy_(new if looks else torch.where(is_fine, new, old))


def _is_one_of_several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
