"""Does a network make of an image something else when other images are in its batch?

In evaluation it should not. A normalisation without running averages takes mean and variance from the batch, and so do
layers of a user's own that normalise, sort or compare over the batch. Their features depend on how the images happen
to be cut into batches. A network is asked by what it makes of an image alone and beside others, not by its layers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decompose_cli.errors import param
from decompose_cli.messages import warn
from decompose_cli.models.head import Head
from decompose_cli.models.logits import logits_of
from decompose_cli.models.tracing import evaluating, followed_modules, recorded_inputs, varied_images
from decompose_cli.preprocessing import Size

_OF_SPREAD, _OF_LARGEST = 1e-3, 1e-5  # of the spread between images, and of the largest value, for rounding


def warn_of_batch_dependence(model: nn.Module, input_size: Size, head: Head | None, model_name: str) -> bool:
    """Warn where :func:`mixes_images` names a module; return whether it does."""
    name = mixes_images(model, input_size, head.name if head else None, head.features if head else None)
    if name is None:
        return False
    kind = type(model.get_submodule(name)).__name__
    what = f"{name!r} ({kind}) of {model_name}" if name else model_name
    warn(
        f"{what} makes something else of an image when other images are in its batch, in evaluation too: numbers "
        f"depend on {param('batch_size')} and on the order of the images, and features are not kept for the next time."
    )
    return True


def mixes_images(
    model: nn.Module, input_size: Size, head: str | None = None, together: Tensor | None = None
) -> str | None:
    """Name the first submodule whose outputs for an image, in evaluation, depend on the other images of the batch.

    Args:
        model: The model, which is left as it is.
        input_size: (height, width) of its images.
        head: Name of the submodule whose input is looked at; by default the output of the model is.
        together: What is looked at, where it is known for the first :func:`varied_images` in one batch: n rows.

    Returns:
        The name, which is empty where the model does it outside of its submodules; None if nothing depends on the
        batch, or if the model gives other outputs each time.
    """
    images = varied_images(input_size, model)

    def read(count: int) -> Tensor:
        with evaluating(model), ExitStack() as stack:
            inputs = stack.enter_context(recorded_inputs(model.get_submodule(head))) if head is not None else []
            output = model(images[:count])
        value = inputs[0] if inputs else logits_of(output)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"{type(value).__name__} is no tensor of real numbers")
        return value

    if together is not None and not bool(torch.isfinite(together).all()):  # fewer images need not overflow
        together = None
    for few, many in ((1, 2), (2, 4)) if together is None else ((1, len(together)), (2, len(together))):
        try:
            alone, beside = read(few), read(many) if together is None else together
        except Exception:  # batch statistics of a single value are refused by torch; what does not run is told later
            continue
        if _agree(alone, beside) or not _agree(read(many), beside):
            return None
        return _first_that_mixes(model, images[:few], images[:many])
    return None


def _agree(alone: Tensor, together: Tensor) -> bool:
    """Whether rows of images are those that the same images have in a larger batch."""
    if alone.shape[1:] != together.shape[1:] or not len(alone):
        return False
    rounding = max(_OF_LARGEST, 8 * torch.finfo(together.dtype).eps)
    alone, together = alone.double(), together.double()
    spread, largest = (together - together.mean(0)).abs().max(), together.abs().max()
    return bool((alone - together[: len(alone)]).abs().max() <= _OF_SPREAD * spread + rounding * largest)


@dataclass(frozen=True)
class _Use:
    """A use of a submodule: tensors that it was given, and that it yielded."""

    name: str
    given: list[Tensor]
    yielded: list[Tensor]


def _first_that_mixes(model: nn.Module, few: Tensor, many: Tensor) -> str:
    """The first module to finish that is given the same for an image in both batches and yields something else."""
    for one, other in zip(_passed(model, few), _passed(model, many), strict=False):
        given, yielded = (
            [_agree(a, b) for a, b in zip(first, second, strict=False) if (len(a), len(b)) == (len(few), len(many))]
            for first, second in ((one.given, other.given), (one.yielded, other.yielded))
        )
        if given and all(given) and not all(yielded):
            return one.name
    return ""


def _passed(model: nn.Module, images: Tensor) -> list[_Use]:
    """The uses of all submodules, in the order in which they finish."""
    passed: list[_Use] = []
    entered: dict[str, list[list[Tensor]]] = {}

    def enter(name: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
        return lambda _, args: entered.setdefault(name, []).append(_copies(args))

    def leave(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda _, __, output: passed.append(_Use(name, entered[name].pop(), _copies((output,))))

    with evaluating(model), ExitStack() as stack:
        for name, module in followed_modules(model):
            stack.callback(module.register_forward_pre_hook(enter(name)).remove)
            stack.callback(module.register_forward_hook(leave(name)).remove)
        model(images)
    return passed


def _copies(values: tuple[object, ...]) -> list[Tensor]:
    """Copies, as later layers may work in place."""
    return [value.clone() for value in values if isinstance(value, Tensor) and value.ndim and value.is_floating_point()]
