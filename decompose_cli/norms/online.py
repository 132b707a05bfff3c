r"""Online normalisation (Chiley et al., arXiv 1905.05894): what batch norm does, without a batch.

Every sample is normalised by statistics of the samples before it, in the order of the batch. With a = ``alpha_fwd``,
b = ``alpha_bkw``, for each channel by itself, mean and (biased) variance running over the positions of a sample:

    y_t = (x_t - m_{t-1}) / sqrt(s_{t-1} + eps)
    s_t = a s_{t-1} + (1 - a) var(x_t) + a (1 - a) (mean(x_t) - m_{t-1})^2
    m_t = a m_{t-1} + (1 - a) mean(x_t)

then weight and bias, z_t = w y_t + c, and the error compensation, which bounds what changing weights do to the
statistics: activation clamping (``ac``) to +-``clamp_val``, or layer scaling (``ls``), z_t / sqrt(mean(z_t^2) + ls_eps)
with the mean over channels and positions.

Backwards a control process keeps the gradient orthogonal, on average, to what normalisation takes out. With delta_t the
gradient by y_t:

    g_t = delta_t - (1 - b) v_{t-1} y_t          v_t = v_{t-1} + mean(g_t y_t)
    d_t = g_t / sqrt(s_{t-1} + eps) - (1 - b) u_{t-1}        u_t = u_{t-1} + mean(d_t)

and d_t is the gradient by x_t. Weight, bias and error compensation have their true gradients. Statistics start from
m = 0, s = 1, u = v = 0, as in the published code.

All recurrences are linear in numbers of which there is one for each sample and channel. So the pixels are read for the
sums that the recurrences need, and once more to make the result; between the two there is only a scan over (N, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from decompose_cli.errors import NotFiniteError
from decompose_cli.norms.modes import COMPENSATIONS, ErrorCompensation
from decompose_cli.norms.recurrences import decayed, scanned

_MOST_AT_ONCE = 1 << 20
"""Numbers; longer batches are taken in parts, so that what one pass has read is still in the cache for the next."""


class Statistics(nn.Module):
    """The state of online normalisation, under the names that the published checkpoints use.

    Attributes:
        m: Running mean (C,).
        var: Running variance (C,).
        u: Accumulated mean of the gradients (C,).
        v: Accumulated correlation of gradients and outputs (C,).
    """

    m: Tensor
    var: Tensor
    u: Tensor
    v: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("m", torch.zeros(num_features))
        self.register_buffer("var", torch.ones(num_features))
        self.register_buffer("u", torch.zeros(num_features))
        self.register_buffer("v", torch.zeros(num_features))


class _OnlineNorm(nn.Module):
    """What both have in common."""

    dimensions: tuple[int, ...] = ()
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        alpha_fwd: float = 0.999,
        alpha_bkw: float = 0.99,
        eps: float = 1e-5,
        affine: bool = True,
        ecm: ErrorCompensation = "ac",
        clamp_val: float = 5.0,
        ls_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features {num_features} is not at least 1")
        for name, value in (("alpha_fwd", alpha_fwd), ("alpha_bkw", alpha_bkw)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} {value} is not in [0, 1)")
        for name, value in (("eps", eps), ("clamp_val", clamp_val), ("ls_eps", ls_eps)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} {value} is not positive")
        if ecm not in COMPENSATIONS:
            raise ValueError(f"ecm {ecm!r} is unknown; choose {', '.join(COMPENSATIONS)}")
        self.num_features = num_features
        self.alpha_fwd, self.alpha_bkw, self.eps = alpha_fwd, alpha_bkw, eps
        self.affine, self.ecm, self.clamp_val, self.ls_eps = affine, ecm, clamp_val, ls_eps
        self.norm = Statistics(num_features)
        if affine:
            self.weight = nn.Parameter(torch.ones(num_features))
            self.bias = nn.Parameter(torch.zeros(num_features))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)

    def reset_running_stats(self) -> None:
        """Forget all samples."""
        for name, value in (("m", 0), ("var", 1), ("u", 0), ("v", 0)):
            getattr(self.norm, name).fill_(value)

    def extra_repr(self) -> str:
        """As other layers show themselves."""
        shown = f"{self.num_features}, alpha_fwd={self.alpha_fwd}, alpha_bkw={self.alpha_bkw}, eps={self.eps}"
        return f"{shown}, affine={self.affine}, ecm={self.ecm}"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, ...); in training mode the statistics take the samples in, one after the other."""
        if x.dim() not in self.dimensions or x.shape[1] != self.num_features:
            wanted = " or ".join(f"{number}-dimensional" for number in self.dimensions)
            raise ValueError(f"input of shape {tuple(x.shape)} is not {wanted} with {self.num_features} channels")
        if x.dim() > 2 and x[0:1, 0:1].numel() == 0 and x.shape[0] > 0:
            raise ValueError(f"input of shape {tuple(x.shape)} has no positions")
        if x.shape[0] == 0:
            return x
        found: Tensor = self._learning(x) if self.training else self._frozen(x)
        return found

    # Its state changes in forward and in backward, which a compiler has to leave where they are.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _learning(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # the recurrences are a matrix product
            return _Normalise.apply(x, self.weight, self.bias, self)  # type: ignore[no-any-return, no-untyped-call]

    def _frozen(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, self.norm.m.dtype))
        shape = (1, -1, *([1] * (x.dim() - 2)))
        scale = (self.norm.var + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        shift = -self.norm.m * scale if self.bias is None else self.bias - self.norm.m * scale
        z = wide * scale.view(shape) + shift.view(shape)
        if self.ecm == "ac":
            z = z.clamp(-self.clamp_val, self.clamp_val)
        elif self.ecm == "ls":
            z = z * (z.square().flatten(1).mean(1) + self.ls_eps).rsqrt().view(-1, *([1] * (x.dim() - 1)))
        return z.to(x.dtype)


class OnlineNorm1d(_OnlineNorm):
    """Of (N, C) or (N, C, L); arguments, equations and errors as of :class:`OnlineNorm2d`."""

    dimensions = (2, 3)


class OnlineNorm2d(_OnlineNorm):
    """Online normalisation; see the module for the equations.

    It is exact for any batch size, one included: how a stream of samples is cut into batches makes no difference. In
    evaluation mode the statistics are frozen. Samples are normalised in float32 at least, whatever autocast is used.

    With several processes each keeps statistics of its own share of the samples, which is not the algorithm of the
    paper; what is saved are those of the first process.

    Args:
        num_features: C.
        alpha_fwd: Decay of mean and variance for each sample, in [0, 1).
        alpha_bkw: Decay of the control process, in [0, 1).
        eps: Added to the variance.
        affine: Whether there are ``weight`` and ``bias`` (C,).
        ecm: Error compensation: ``ac``, ``ls`` or ``none``.
        clamp_val: Of ``ac``.
        ls_eps: Of ``ls``.

    Shape: (N, C, H, W) to the same.

    Raises:
        ValueError: An argument out of range, an input of another shape, or one without positions.
        NotFiniteError: Values that are NaN or infinite, on a CPU; the statistics are as they were before.
    """

    dimensions = (4,)


class _Normalise(torch.autograd.Function):
    """The training pass.

    Pixels are held as (N, C, P) or, where they lie so in memory, (N, P, C); ``along`` is the dimension of positions,
    and numbers of samples and channels, (N, C), are given that dimension to meet them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, layer: _OnlineNorm) -> Tensor:
        ctx.layer, ctx.dtype = layer, torch.promote_types(x.dtype, layer.norm.m.dtype)
        ctx.is_last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        result = torch.empty_like(x) if ctx.is_last else torch.empty_like(x, memory_format=torch.contiguous_format)
        out, m, s = _flat(result, ctx.is_last), layer.norm.m, layer.norm.var
        parts = []
        for pixels, target in zip(*_in_parts(_flat(x, ctx.is_last), out), strict=True):
            (m, s), kept = _forward(pixels, target, m, s, *_affine(weight, bias, ctx), ctx)
            parts.append(kept)
        _take_in("input", (layer.norm.m, m), (layer.norm.var, s))
        # Not the result, which a ReLU in place may overwrite, as it may that of a batch norm.
        ctx.save_for_backward(x, weight, bias, *map(torch.cat, zip(*parts, strict=True)))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, *kept = ctx.saved_tensors
        state, is_last = ctx.layer.norm, ctx.is_last
        found = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        pixels, deltas = _flat(x, is_last), _flat(gradient, is_last)
        target = pixels if found is None else _flat(found, is_last)
        u, v = state.u, state.v
        by_weight = by_bias = torch.zeros_like(u)
        with torch.autocast(gradient.device.type, enabled=False):
            w, c = _affine(weight, bias, ctx)
            for arrays in zip(*_in_parts(pixels, deltas, target, *kept), strict=True):
                (u, v), sums = _backward(*arrays, u=u, v=v, w=w, c=c, ctx=ctx)
                by_weight, by_bias = by_weight + sums[0], by_bias + sums[1]
        _take_in("gradient", (state.u, u), (state.v, v))
        count = x.shape[2:].numel()
        of_weight = None if weight is None else (by_weight * count).to(weight.dtype)
        return found, of_weight, None if bias is None else (by_bias * count).to(bias.dtype), None


def _forward(
    pixels: Tensor, target: Tensor, m: Tensor, s: Tensor, w: Tensor, c: Tensor, ctx: Any
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
    """Normalise some samples into ``target``: the statistics after them, and what backward needs, each (n, C)."""
    layer, along = ctx.layer, 1 if ctx.is_last else 2
    pixels = pixels.to(ctx.dtype)
    means = pixels.mean(along)
    # Made where it is wanted, if it can be: what is in the cache is not written to memory in between.
    is_direct = target.dtype == ctx.dtype
    centred = torch.sub(pixels, means.unsqueeze(along), out=target) if is_direct else pixels - means.unsqueeze(along)
    variances = centred.square().mean(along)
    ms = decayed(m, (1 - layer.alpha_fwd) * means, layer.alpha_fwd)
    offsets = means - ms[:-1]
    new = (1 - layer.alpha_fwd) * (variances + layer.alpha_fwd * offsets.square())
    spreads = decayed(s, new, layer.alpha_fwd)
    inverse = (spreads[:-1] + layer.eps).rsqrt()
    # Per sample and channel: mean of y, of y^2, and so of z^2.
    y_mean, y_square = offsets * inverse, inverse.square() * (variances + offsets.square())
    root = torch.ones_like(inverse[:, :1])
    if layer.ecm == "ls":
        z_square = w.square() * y_square + 2 * w * c * y_mean + c.square()
        root = (z_square.mean(1, keepdim=True) + layer.ls_eps).rsqrt()
    scale, shift = (w * inverse * root).unsqueeze(along), ((w * y_mean + c) * root).unsqueeze(along)
    # One pass where the kernel is vectorised for it, two where it is not.
    out = torch.addcmul(shift, centred, scale, out=centred) if ctx.is_last else centred.mul_(scale).add_(shift)
    if layer.ecm == "ac":
        out = nn.functional.hardtanh_(out, -layer.clamp_val, layer.clamp_val)
    if not is_direct:
        target.copy_(out)
    return (ms[-1], spreads[-1]), (ms[:-1], inverse, y_mean, y_square, root)


def _backward(
    pixels: Tensor,
    delta: Tensor,
    target: Tensor,
    m: Tensor,
    inverse: Tensor,
    y_mean: Tensor,
    y_square: Tensor,
    root: Tensor,
    *,
    u: Tensor,
    v: Tensor,
    w: Tensor,
    c: Tensor,
    ctx: Any,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The control process over some samples, the gradient into ``target``: u and v after them, and the sums over them
    of the means by weight and bias.
    """
    layer, along = ctx.layer, 1 if ctx.is_last else 2
    delta = delta.to(ctx.dtype)
    away = pixels.to(ctx.dtype) - m.unsqueeze(along)
    if layer.ecm == "ac":  # the clamp lets nothing through where it holds
        z = torch.addcmul(c.expand_as(m).unsqueeze(along), away, (w * inverse).unsqueeze(along))
        delta = torch.ops.aten.hardtanh_backward(delta, z, -layer.clamp_val, layer.clamp_val)
    delta_mean = delta.mean(along)
    delta_y = (delta * away).mean(along) * inverse
    # The gradient by z is A delta - B z, with A and B one number for each sample.
    a, b = root, torch.zeros_like(root)
    if layer.ecm == "ls":
        b = (w * delta_y + c * delta_mean).mean(1, keepdim=True) * root**3
    z_mean, z_y = w * y_mean + c, w * y_square + c * y_mean
    by_bias, by_weight = a * delta_mean - b * z_mean, a * delta_y - b * z_y
    rest = 1 - layer.alpha_bkw
    vs = scanned(v, 1 - rest * y_square, w * by_weight)
    g_mean = w * by_bias - rest * vs[:-1] * y_mean
    us = decayed(u, inverse * g_mean, layer.alpha_bkw)
    if ctx.needs_input_grad[0]:
        # d = (w (A delta - B (w y + c)) - (1 - b) v y) / sqrt(s + eps) - (1 - b) u, with y = away / sqrt(s + eps)
        by_away = (-(w * w * b + rest * vs[:-1]) * inverse.square()).unsqueeze(along)
        constant = (-w * b * c * inverse - rest * us[:-1]).unsqueeze(along)
        by_delta = (w * a * inverse).unsqueeze(along)
        if ctx.is_last:
            found = torch.addcmul(constant, away, by_away, out=away).addcmul_(delta, by_delta)
        else:
            found = away.mul_(by_away).add_(constant).addcmul_(delta, by_delta)
        target.copy_(found)
    return (us[-1], vs[-1]), (by_weight.sum(0), by_bias.sum(0))


def _affine(weight: Tensor | None, bias: Tensor | None, ctx: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias, one and zero where there are none."""
    one = torch.ones((), dtype=ctx.dtype, device=ctx.layer.norm.m.device)
    return one if weight is None else weight.to(ctx.dtype), 0 * one if bias is None else bias.to(ctx.dtype)


def _in_parts(first: Tensor, *others: Tensor) -> list[Sequence[Tensor]]:
    """All cut into the same runs of samples, as long as a cache holds: the recurrences go on from one to the next."""
    size = max(1, _MOST_AT_ONCE // max(1, first[0].numel()))
    return [torch.split(tensor, size) for tensor in (first, *others)]


def _flat(x: Tensor, is_last: bool) -> Tensor:
    """(N, C, P), or (N, P, C) of what lies so in memory."""
    if is_last:
        return x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).flatten(1, 2)
    return x.reshape(len(x), x.shape[1], -1)


@torch.no_grad()
def _take_in(what: str, *pairs: tuple[Tensor, Tensor]) -> None:
    """Replace statistics by new ones, unless these are not finite. A GPU is not waited for: there the loss shows it."""
    is_fine = torch.stack([new for _, new in pairs]).isfinite().all()
    if is_fine.device.type == "cpu" and not bool(is_fine):
        raise NotFiniteError(
            f"The {what} of an online normalisation is NaN, infinite or too large; its statistics are unchanged.",
            hint="Try a smaller learning rate, or decay factors nearer to 1.",
        )
    for old, new in pairs:
        old.copy_(new if is_fine.device.type == "cpu" else torch.where(is_fine, new, old))
