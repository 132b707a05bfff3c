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

The gradient by x_t is d_t. Weight, bias and error compensation have their true gradients. Statistics start from
m = 0, s = 1, u = v = 0, as in the published code.

All recurrences are linear, and run over one number for each sample and channel. So the pixels are read for the sums
that the recurrences need, and once more to make the result; between the two there is only a scan over (N, C).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from decompose_cli.norms.modes import COMPENSATIONS, ErrorCompensation
from decompose_cli.norms.normalise import Normalise, full_precision, wide_type


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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Statistics:
        """Follow the network, but not to half precision, in which averages of a thousand samples get lost."""

        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        super()._apply(kept, recurse)  # type: ignore[no-untyped-call]
        return self


class _OnlineNorm(nn.Module):
    """The common part of :class:`OnlineNorm1d` and :class:`OnlineNorm2d`."""

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
        """The arguments, as ``print(model)`` shows them."""
        shown = f"{self.num_features}, alpha_fwd={self.alpha_fwd}, alpha_bkw={self.alpha_bkw}, eps={self.eps}"
        return f"{shown}, affine={self.affine}, ecm={self.ecm}"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, ...); in training mode the statistics take the samples in, one after the other."""
        if x.dim() not in self.dimensions or x.shape[1] != self.num_features:
            wanted = " or ".join(f"{number}-dimensional" for number in self.dimensions)
            raise ValueError(f"input of shape {tuple(x.shape)} is not {wanted} with {self.num_features} channels")
        if x.shape[2:].numel() == 0:
            raise ValueError(f"input of shape {tuple(x.shape)} has no positions")
        if not x.is_floating_point():
            raise ValueError(f"input of type {x.dtype} is not floating-point")
        if not self.training or x.shape[0] == 0:
            return self._frozen(x)
        with full_precision(x):
            normalised: Tensor = Normalise.apply(x, self.weight, self.bias, self)  # type: ignore[no-untyped-call]
        return normalised

    def _frozen(self, x: Tensor) -> Tensor:
        wide = x.to(wide_type(x, self))
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
    """Online normalisation of (N, C) or (N, C, L), with the arguments and errors of :class:`OnlineNorm2d`."""

    dimensions = (2, 3)


class OnlineNorm2d(_OnlineNorm):
    """Online normalisation of (N, C, H, W), by the equations of this module.

    The layer is exact for any batch size, one included: the way a stream is cut into batches makes no difference. In
    evaluation mode the statistics are frozen. Samples are normalised in float32 at least, whatever autocast is used.

    Every forward pass in training mode takes its samples in, also one that activation checkpointing repeats, and every
    backward pass changes u and v, in the order of these passes.

    With several processes each keeps statistics of its own share of the samples, which is not the algorithm of the
    paper; the statistics of the first process are saved.

    Args:
        num_features: Number of channels C.
        alpha_fwd: Decay of mean and variance for each sample, in [0, 1).
        alpha_bkw: Decay of the control process, in [0, 1).
        eps: Number added to the variance.
        affine: Whether there are ``weight`` and ``bias`` (C,).
        ecm: Error compensation: ``ac``, ``ls`` or ``none``.
        clamp_val: Largest magnitude that ``ac`` lets through.
        ls_eps: Number that ``ls`` adds to the mean square.

    Shape: (N, C, H, W) to the same.

    Raises:
        ValueError: An argument is out of range, or the input has another shape or no positions.
        NotFiniteError: Values on a CPU are NaN or infinite; the statistics are as they were before.
    """

    dimensions = (4,)
