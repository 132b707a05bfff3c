"""Everything that decides how a network is trained, as plain data that is saved with the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import Self

from decompose_cli.datasets.augment import Augmentation
from decompose_cli.errors import InputError, param
from decompose_cli.printable import shortest

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1, le=10**9)]

_ONLY_SET = {"nesterov", "warmup_epochs", "warmup_lr", "rise", "start_divisor", "end_divisor", "anneal"}
_ONLY_SET |= {"cycle_momentum", "padding", "padding_mode", "flip", "mix_beta", "drop_last"}
"""Settings without a command-line option of their own."""


class Settings(BaseModel):
    """Hyper-parameters of one training run.

    Attributes:
        optimizer: ``sgd``, ``adam`` or ``adamw``.
        lr: Learning rate for the mean loss of a step; the peak of ``one-cycle``.
        momentum: Momentum of SGD, varied with ``one-cycle`` and ``cycle_momentum``.
        nesterov: Whether SGD takes Nesterov's momentum.
        weight_decay: L2 penalty (decoupled in ``adamw``) on all parameters.
        batch_size: Images per batch, of all processes together.
        accumulate: Batches per step; gradients are those of the mean over all their images.
        epochs: Passes over the training images. Either this or ``iterations`` is given.
        iterations: Steps of the whole run.
        scale_epochs: Factor by which the recipe's epochs or iterations, milestones and warm-up have been multiplied, by
            :mod:`.scaling`; None for the length of the recipe.
        start_epoch: Epochs that count as done already: only schedule and numbering begin later.
        schedule: ``constant``, ``steps`` (times ``gamma`` at each milestone), ``cosine`` to zero, or ``one-cycle``.
        milestones: Epochs after which the rate drops; steps where ``iterations`` is set.
        gamma: Factor by which the rate is multiplied at a milestone.
        warmup_epochs: Epochs at ``warmup_lr`` in the beginning.
        warmup_lr: Learning rate of these epochs.
        rise: Share of all steps in which the rate of ``one-cycle`` rises.
        start_divisor: The rate of ``one-cycle`` begins at ``lr / start_divisor``.
        end_divisor: The rate of ``one-cycle`` ends at ``lr / end_divisor``.
        anneal: Shape of ``one-cycle``, ``linear`` or ``cos``.
        cycle_momentum: Momentum at the peak of ``one-cycle``, and at both its ends.
        label_smoothing: alpha: the target is 1 - alpha for the class, plus alpha / C for each of the C classes.
        clip_norm: Largest norm of the gradients.
        ema_decay: Decay per step of the average of weights, which is measured and kept; None for no average.
        augment: ``crop-flip`` (small images), ``resized-crop``, ``affine`` or ``none``.
        padding: Padding of ``crop-flip``, in pixels.
        padding_mode: ``zeros`` (black) or ``border``.
        flip: Whether images are mirrored with probability 1/2.
        cutout: Side in pixels of the square that is erased; 0 for none.
        mix: ``none``, ``ricap``, ``mixup`` or ``cutmix``.
        mix_beta: Parameter of the Beta distribution that mixing draws from; by default 0.3, 1 and 1.
        drop_last: Whether a last batch that is not full is left out.
        precision: ``32``, ``bf16``, ``16`` (with loss scaling), or ``auto`` until the device is known; see
            :func:`decompose_cli.models.precision.settled_precision`.
        compile: Whether ``torch.compile`` is used.
        sync_bn: Whether batch norm takes the images of all processes (CUDA only).
        val_split: Share of the training images held out to choose the best epoch.
        seed: Seed of initial weights, order, augmentation and mixing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: _Positive = 0.1
    momentum: _Share = 0.9
    nesterov: bool = False
    weight_decay: _NotNegative = 1e-4
    batch_size: _Count = 128
    accumulate: _Count = 1
    epochs: _Count | None = None
    iterations: _Count | None = None
    scale_epochs: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = None
    start_epoch: Annotated[int, Field(ge=0, le=10**9)] = 0
    schedule: Literal["constant", "steps", "cosine", "one-cycle"] = "constant"
    milestones: tuple[_Count, ...] = ()
    gamma: _Positive = 0.1
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    warmup_lr: _Positive | None = None
    rise: Annotated[float, Field(gt=0, lt=1)] = 0.3
    start_divisor: _Positive = 25.0
    end_divisor: _Positive = 250_000.0
    anneal: Literal["linear", "cos"] = "cos"
    cycle_momentum: tuple[_Share, _Share] | None = None
    label_smoothing: _Share = 0.0
    clip_norm: _Positive | None = None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    augment: Literal["crop-flip", "resized-crop", "affine", "none"] = "crop-flip"
    padding: Annotated[int, Field(ge=0, le=1024)] = 4
    padding_mode: Literal["zeros", "border"] = "zeros"
    flip: bool = True
    cutout: Annotated[int, Field(ge=0, le=4096)] = 0
    mix: Literal["none", "ricap", "mixup", "cutmix"] = "none"
    mix_beta: _Positive | None = None
    drop_last: bool = False
    precision: Literal["32", "bf16", "16", "auto"] = "32"
    compile: bool = False
    sync_bn: bool = False
    val_split: _Share = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError("give either epochs or iterations")
        if self.epochs is not None and self.start_epoch >= self.epochs:
            raise ValueError("start_epoch must be less than epochs")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise, but are {', '.join(map(str, self.milestones))}")
        if self.warmup_epochs and self.warmup_lr is None:
            raise ValueError("warmup_epochs needs warmup_lr")
        if self.cutout and self.augment == "none":
            raise ValueError("cutout needs augment crop-flip, resized-crop or affine")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum")
        return self

    @property
    def images_per_step(self) -> int:
        """Images of all batches and processes whose gradients make one step."""
        return self.batch_size * self.accumulate

    @property
    def augmentation(self) -> Augmentation:
        """What is done at random to each training image."""
        return Augmentation(self.augment, self.padding, self.padding_mode, self.flip, self.cutout)

    def steps_per_epoch(self, images: int) -> int:
        """Steps in a pass over so many training images.

        Raises:
            InputError: There is no step.
        """
        steps = images // self.images_per_step if self.drop_last else math.ceil(images / self.images_per_step)
        if steps == 0:
            raise InputError(
                f"{param('batch_size')} {self.batch_size} with drop_last leaves none of the {images:,} training images."
            )
        return steps

    def total_steps(self, images: int) -> int:
        """Steps of the whole run."""
        if self.iterations is not None:
            return self.iterations
        assert self.epochs is not None
        return self.epochs * self.steps_per_epoch(images)

    def first_step(self, images: int) -> int:
        """Steps that count as made already.

        Raises:
            InputError: No step is left to make.
        """
        made = self.start_epoch * self.steps_per_epoch(images)
        if made >= self.total_steps(images):
            raise InputError(
                f"{param('start_epoch')} {self.start_epoch} is step {made:,}, and there are "
                f"{self.total_steps(images):,} in all."
            )
        return made

    def total_epochs(self, images: int) -> int:
        """Passes over the training images, the last one perhaps in part."""
        return math.ceil(self.total_steps(images) / self.steps_per_epoch(images))

    def shown(self) -> str:
        """The settings that are in use, on one line."""
        values = self.model_dump()
        one_cycle = ("rise", "start_divisor", "end_divisor", "anneal", "cycle_momentum")
        hidden = {"milestones", "gamma"} if self.schedule != "steps" else set()
        hidden |= set(one_cycle) if self.schedule != "one-cycle" else set()
        hidden |= {"momentum", "nesterov"} if self.optimizer != "sgd" else set()
        hidden |= {"padding", "padding_mode"} if self.augment != "crop-flip" else set()
        hidden |= {"flip"} if self.augment == "none" else set()
        hidden |= {"mix_beta"} if self.mix == "none" else set()
        always = ("lr", "weight_decay", "seed", "flip")
        parts: list[str] = [self.optimizer]
        for name, value in values.items():
            is_off = value in (None, False, 0, (), "none") and name not in always
            if name == "optimizer" or name in hidden or is_off or (name == "accumulate" and value == 1):
                continue
            text = ",".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
            parts.append(name.replace("_", "-") if value is True else f"{name.replace('_', '-')} {text}")
        return ", ".join(parts)


def make_settings(values: Mapping[str, Any]) -> Settings:
    """Check hyper-parameters.

    Raises:
        InputError: A setting is unknown, of the wrong kind or out of range; the sentence names it.
    """
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        raise InputError(_sentence(error)) from error


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    reason = str(first["msg"]).removeprefix("Value error, ")
    reason = reason[0].lower() + reason[1:]
    if not first["loc"]:
        return f"These settings do not go together: {reason.replace('_', '-')}."
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return f"There is no setting {name!r}; known are {', '.join(Settings.model_fields)}."
    reason = "a value is missing" if first["type"] == "missing" else reason
    shown = name.replace("_", "-") if name in _ONLY_SET else param(name)
    given = first["input"]
    return f"{shown} {shortest(given) if isinstance(given, float) else given!s}: {reason}."


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE`` texts; numbers, lists with commas, true, false and none are understood.

    Raises:
        InputError: A text has another form, or its name is no setting.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not sign or not name:
            raise InputError(f"{param('set')} {text!r} is not NAME=VALUE.")
        if name not in Settings.model_fields:
            close = get_close_matches(name, Settings.model_fields, n=1)
            guess = f" (did you mean {close[0]}?)" if close else ""
            raise InputError(
                f"There is no setting {name!r}{guess}.", hint=f"Known are {', '.join(Settings.model_fields)}."
            )
        if name in values:
            raise InputError(f"{param('set')} gives {name} twice.")
        values[name] = _value(name, value.strip())
    return values


def _value(name: str, text: str) -> Any:
    if text.lower() in ("none", "null") and name != "mix" and name != "augment":
        return None
    if name in ("milestones", "cycle_momentum"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text
