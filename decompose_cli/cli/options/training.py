"""The options that the commands that train share: how to train, where the run is kept, what network is trained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

from decompose_cli.cli.options.declaration import (
    COMPUTING,
    IMAGES,
    NETWORK,
    OUTPUT,
    RUN,
    TRAINING,
    Bundle,
    number,
    option,
    panel_of,
    real,
    switch,
    text,
)
from decompose_cli.cli.options.inputs import model_argument
from decompose_cli.errors import InputError, param

_SETTINGS: dict[str, tuple[Any, Any]] = {
    "optimizer": text("--optimizer", metavar="sgd|adam|adamw", panel=TRAINING,
                      help="Optimizer. The defaults in this panel are the recipe's."),
    "lr": real("--lr", "--learning-rate", metavar="RATE", panel=TRAINING,
               help="Learning rate, for the mean loss of a step; one-cycle takes it as the peak."),
    "epochs": number("--epochs", metavar="N", panel=TRAINING, help="Passes over the training images."),
    "iterations": number("--iterations", metavar="N", panel=TRAINING,
                         help="Steps, instead of epochs; milestones are then steps too."),
    "scale_epochs": real("--scale-epochs", metavar="F", panel=TRAINING,
                         help="Multiply the recipe's epochs or iterations, milestones and warm-up, e.g. 0.05 for a twentieth of the training; at most 1000."),
    "batch_size": number("--batch-size", "-b", metavar="N", panel=TRAINING,
                         help="Images per batch, of all processes together."),
    "accumulate": number("--accumulate", metavar="N", panel=TRAINING, help="Batches per step."),
    "weight_decay": real("--weight-decay", "--wd", metavar="L2", panel=TRAINING, help="L2 penalty on all parameters."),
    "momentum": real("--momentum", metavar="M", panel=TRAINING, help="Momentum of sgd."),
    "schedule": text("--schedule", metavar="constant|steps|cosine|one-cycle|N[,N...]", panel=TRAINING,
                     help="How the learning rate changes; numbers mean 'steps' with these --milestones."),
    "milestones": text("--milestones", "--lr-milestones", metavar="N[,N...]", panel=TRAINING,
                       help="Epochs after which schedule 'steps' drops the rate, also --lr-milestones N [N...]."),
    "gamma": real("--lr-multiplier", "--gamma", metavar="FACTOR", panel=TRAINING,
                  help="Factor by which the rate is multiplied at a milestone."),
    "start_epoch": number("--start-epoch", metavar="N", panel=TRAINING,
                          help="Epochs that --weights have been trained for: schedule and numbering begin there."),
    "label_smoothing": real("--label-smoothing", metavar="ALPHA", panel=TRAINING,
                            help="Share of the target spread over all classes."),
    "clip_norm": real("--clip-norm", metavar="NORM", panel=TRAINING,
                      help="Scale gradients down to this norm where theirs is larger. Default: none."),
    "ema_decay": real("--ema-decay", metavar="D", panel=TRAINING,
                      help="Average weights over steps, e.g. 0.999; the average is measured and kept."),
    "augment": text("--augment", metavar="crop-flip|resized-crop|affine|none", panel=TRAINING,
                    help="What is done at random to each training image."),
    "cutout": number("--cutout", metavar="PIXELS", panel=TRAINING, help="Side of an erased square; 0 for none."),
    "mix": text("--mix", metavar="none|ricap|mixup|cutmix", panel=TRAINING, help="Mix images of a batch."),
    "val_split": real("--val-split", metavar="SHARE", panel=IMAGES,
                      help="Share of the training images held out to choose the best epoch, 0 for none. Default: the recipe's, mostly 0.1."),
    "precision": text("--precision", metavar="32|bf16|16|auto", panel=COMPUTING,
                      help="Number format of training, with loss scaling for 16; auto is bf16 where the device has instructions for it, else 32. Accuracies are measured in float32."),
    "compile": (Annotated[Optional[bool], option("--compile/--no-compile", panel=COMPUTING, help="Use torch.compile.")], None),
    "sync_bn": (Annotated[Optional[bool], option("--sync-bn/--no-sync-bn", panel=COMPUTING,
                                                 help="Take statistics of batch norm over the images of all processes (CUDA).")], None),
    "seed": number("--seed", metavar="N", panel=COMPUTING,
                   help="Seed of initial weights, order, augmentation and held-out images. Default: 0."),
}  # fmt: skip
_SET: dict[str, tuple[Any, Any]] = {
    "set": (Annotated[Optional[list[str]], option("--set", metavar="NAME=VALUE", panel=TRAINING,
                                                  help="Any other setting of the recipe, as it is shown when training starts; repeat as needed.")], None),
}  # fmt: skip
_MACHINES: dict[str, tuple[Any, Any]] = {
    "devices": number("--devices", metavar="N", panel=COMPUTING,
                      help="Processes, each with a device. Default: 1, or what torchrun or SLURM started."),
    "num_nodes": number("--num-nodes", metavar="N", panel=COMPUTING, help="Number of machines; torchrun and SLURM say it themselves."),
}  # fmt: skip
_RUN: dict[str, tuple[Any, Any]] = {
    "final_test": switch("--final-test", panel=IMAGES,
                         help="Measure the test images only once, in the end, where images are held out; else they are measured after every epoch anyway."),
    "run_name": text("--run-name", metavar="NAME", panel=OUTPUT,
                     help="Name of the run folder. Default: command, network, images and time."),
    "resume": (Annotated[Optional[Path], option("--resume", metavar="RUN", panel=RUN,
                                                help="Folder of an interrupted run to go on with; the run remembers all else.")], None),
    "runs": number("--runs", metavar="N", panel=RUN, help="Train N times, with seeds S, S + 1, ... from --seed S."),
    "checkpoint_every": number("--checkpoint-every", metavar="STEPS", panel=RUN, help="Also save a checkpoint after every so many steps."),
    "print_freq": number("--print-freq", "-p", metavar="STEPS", panel=OUTPUT,
                         help="Also print a line after every so many steps."),
}  # fmt: skip
_EXPORT: dict[str, tuple[Any, Any]] = {
    "export": text("--export", metavar="onnx,safetensors,torchscript", panel=RUN,
                   help="Also write the network for other programs; decompose itself reads safetensors only."),
}  # fmt: skip

SHARED = frozenset(
    name for name, declared in {**_SETTINGS, **_RUN}.items() if panel_of(declared) in (NETWORK, IMAGES, COMPUTING)
)
"""Names of those above that are about images and computing; where they have no effect they are warned of."""


def with_settings(given: list[str], **named: Any) -> dict[str, Any]:
    """Settings given with ``--set``, and those that have an option of their own, None where that was not given.

    Raises:
        InputError: A setting is unknown or given twice.
    """
    from decompose_cli.training.settings import parse_settings

    own = {name: value for name, value in named.items() if value is not None}
    more = parse_settings(given)
    if twice := sorted(set(own) & set(more)):
        raise InputError(f"{twice[0].replace('_', '-')} is given twice, by an option of its own and by {param('set')}.")
    return {**own, **more}


@dataclass(frozen=True)
class Tuning:
    """The options of training, as the user gave them.

    Attributes:
        overrides: Settings of the recipe that were given, by name.
        machines: Processes and machines, by name of the option; None where an option was not given.
        run_name: Value of ``--run-name``; every further attribute is the value of the option of that name.
    """

    overrides: dict[str, Any]
    machines: dict[str, Any]
    run_name: str | None
    resume: Path | None
    runs: int | None
    checkpoint_every: int | None
    print_freq: int | None
    final_test: bool
    export: Sequence[str]

    def of_the_run(self) -> set[str]:
        """Names of the options that were given and mean something only where a network is trained."""
        return {name for name in (*_RUN, "export") if name != "resume" and getattr(self, name)}


def _make_tuning(given: dict[str, Any]) -> Tuning:
    named = {name: value for name, value in given.items() if name in _SETTINGS and value is not None}
    if re.fullmatch(
        r"\s*\d+(\s*,\s*\d+)*\s*", str(named.get("schedule", ""))
    ):  # milestones, as other programs read them
        if "milestones" in named:
            raise InputError(
                f"{param('schedule')} and {param('milestones')} both give milestones; leave one of them out."
            )
        named |= {"milestones": named["schedule"], "schedule": "steps"}
    if "milestones" in named:
        named["milestones"] = tuple(part.strip() for part in named["milestones"].split(",") if part.strip())
    return Tuning(
        overrides=with_settings(given["set"] or [], **named),
        machines={name: given[name] for name in _MACHINES},
        export=[kind.strip() for kind in (given["export"] or "").split(",") if kind.strip()],
        **{name: given.get(name, False) for name in _RUN},
    )


TUNING = Bundle({**_SETTINGS, **_SET, **_MACHINES, **_RUN, **_EXPORT}, _make_tuning)


class NetworkOptions(dict[str, str]):
    """Options of the network that were given, by name."""


BLOCK = text("--block", "--block-name", metavar="basic|bottleneck", panel=NETWORK,
             help="Residual units of CIFAR ResNets: basic for depth 6n + 2, bottleneck for 9n + 2. Default: basic where the depth allows both, but bottleneck for resnet164.")  # fmt: skip

_NETWORK: dict[str, tuple[Any, Any]] = {
    "shortcut": text("--shortcut", metavar="identity|projection|input-projection", panel=NETWORK,
                     help="Shortcuts of CIFAR ResNets. Default: identity; for preresnets projection, which reads what bn-relu made of the input, where input-projection reads the input itself."),
    "block": BLOCK,
    "norm_mode": text("--norm-mode", metavar="MODE", panel=NETWORK,
                      help="Normalisation in place of batch norm: batch, group, layer, instance, online or none. Where it is given the recipe is online-norm, unless --recipe says otherwise."),
    "afwd": text("--afwd", "--decay-factor-forward", metavar="DECAY", panel=NETWORK,
                 help="Forward decay of online norm, also --decay-factor-forward. Default: 1023/1024; for cifar100 511/512, for ImageNet 0.999."),
    "abkw": text("--abkw", "--decay-factor-backward", metavar="DECAY", panel=NETWORK,
                 help="Backward decay of online norm, also --decay-factor-backward. Default: 127/128; for cifar100 15/16, for ImageNet 0.99."),
    "ecm": text("--ecm", metavar="ls|ac|none", panel=NETWORK,
                help="Error compensation of online norm: layer scaling (default), activation clamping, or none."),
    "gn_num_groups": number("--gn-num-groups", metavar="N", panel=NETWORK,
                          help="Groups of group norm. Default: 8, for large images 32."),
}  # fmt: skip


def read_block(given: str) -> str:
    """The kind of residual unit; ``BasicBlock`` and ``Bottleneck``, as other programs write the kinds, are understood.

    Raises:
        InputError: There is no such kind.
    """
    known = {"basic": "basic", "basicblock": "basic", "bottleneck": "bottleneck"}
    if given.lower() not in known:
        raise InputError(f"{param('block')} {given!r} is unknown; choose basic, bottleneck.")
    return known[given.lower()]


def _make_network(given: dict[str, Any]) -> NetworkOptions:
    from decompose_cli.norms.modes import read_decay

    named = {name: str(value) for name, value in given.items() if value is not None}
    if "block" in named:
        named["block"] = read_block(named["block"])
    return NetworkOptions(
        {name: read_decay(value, name) if name in ("afwd", "abkw") else value for name, value in named.items()}
    )


NETWORK_OPTIONS = Bundle(_NETWORK, _make_network, leads=True)

NEW_HEAD = Annotated[
    bool,
    option("--new-head", panel=NETWORK, help="Replace the head by one for the classes of the data set, whatever the classes of --weights."),
]  # fmt: skip
ONLY = Annotated[
    Optional[str],
    option("--only", metavar="all|head|head+last-block|backbone",
           help="What is trained; everything else stays, its batch-norm statistics included. backbone: all but the head. Default: all."),
]  # fmt: skip

FROM_SCRATCH: dict[str, tuple[Any, Any]] = {
    "model": model_argument("resnet20, on the digits that come with decompose."),
    "weights": text("--weights", "-w", metavar="FILE|URL|default", panel=NETWORK,
                    help="Weights to start from. Default: random ones, from --seed."),
}  # fmt: skip
"""The options MODEL and ``--weights`` where training begins with random weights by default."""

NOT_FOR_TRAINING = ("features_only",)
"""Options that would have another network trained than the one that is asked for: training needs a head."""

NOT_FROM_SCRATCH = (*NOT_FOR_TRAINING, "model_options", "class_map")
"""The same where options of the network have flags of their own, and its classes are those of the images."""

IDLE_IN_TRAINING = {
    "split": "training images are trained on, test images measured",
    "skip_unreadable": "a network is trained on every image",
}
"""Options that change nothing of what is trained, and why; see :func:`decompose_cli.cli.options.binding.command`."""

IDLE_FROM_SCRATCH = {**IDLE_IN_TRAINING, "classes": "the classes of the images are trained"}
"""The same where the classes of the network are those of the images."""
