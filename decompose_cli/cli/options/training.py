"""The options that all commands share that train."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from decompose_cli.cli.options.shared import COMPUTING, IMAGES, NETWORK, OUTPUT, command, option
from decompose_cli.errors import InputError

_TRAINING, _RUN = "Training", "Run"

TRAINING: dict[str, tuple[Any, Any]] = {
    "optimizer": (Annotated[Optional[str], option("--optimizer", metavar="sgd|adam|adamw", panel=_TRAINING,
                                                   help="Default: the recipe's; so for all that follow.")], None),
    "lr": (Annotated[Optional[float], option("--lr", "--learning-rate", metavar="RATE", panel=_TRAINING,
                                             help="Learning rate for the mean loss of a step; of one-cycle the peak.")], None),
    "epochs": (Annotated[Optional[int], option("--epochs", metavar="N", panel=_TRAINING, help="Passes over the training images.")], None),
    "iterations": (Annotated[Optional[int], option("--iterations", metavar="N", panel=_TRAINING,
                                                   help="Steps, instead of epochs; milestones are then steps too.")], None),
    "batch_size": (Annotated[Optional[int], option("--batch-size", "-b", metavar="N", panel=_TRAINING,
                                                   help="Images per batch, of all processes together.")], None),
    "accumulate": (Annotated[Optional[int], option("--accumulate", metavar="N", panel=_TRAINING, help="Batches per step.")], None),
    "weight_decay": (Annotated[Optional[float], option("--weight-decay", "--wd", metavar="L2", panel=_TRAINING, help="On all parameters.")], None),
    "momentum": (Annotated[Optional[float], option("--momentum", metavar="M", panel=_TRAINING, help="Of sgd.")], None),
    "schedule": (Annotated[Optional[str], option("--schedule", metavar="constant|steps|cosine|one-cycle|N[,N...]", panel=_TRAINING,
                                                 help="Of the learning rate; numbers are steps at these --milestones.")], None),
    "milestones": (Annotated[Optional[str], option("--milestones", "--lr-milestones", metavar="N[,N...]", panel=_TRAINING,
                                                   help="Epochs after which schedule 'steps' drops the rate, also --lr-milestones N [N...].")], None),
    "gamma": (Annotated[Optional[float], option("--lr-multiplier", "--gamma", metavar="FACTOR", panel=_TRAINING,
                                                help="What the rate is multiplied by at a milestone.")], None),
    "start_epoch": (Annotated[Optional[int], option("--start-epoch", metavar="N", panel=_TRAINING,
                                                    help="Epochs that --weights have been trained for: schedule and numbering begin there.")], None),
    "label_smoothing": (Annotated[Optional[float], option("--label-smoothing", metavar="ALPHA", panel=_TRAINING,
                                                          help="Share of the target spread over all classes.")], None),
    "clip_norm": (Annotated[Optional[float], option("--clip-norm", metavar="NORM", panel=_TRAINING, help="Scale gradients down to this norm where theirs is larger. Default: none.")], None),
    "ema_decay": (Annotated[Optional[float], option("--ema-decay", metavar="D", panel=_TRAINING,
                                                    help="Average weights over steps, e.g. 0.999; the average is measured and kept.")], None),
    "augment": (Annotated[Optional[str], option("--augment", metavar="crop-flip|resized-crop|affine|none", panel=_TRAINING,
                                                help="What is done at random to each training image.")], None),
    "cutout": (Annotated[Optional[int], option("--cutout", metavar="PIXELS", panel=_TRAINING, help="Side of an erased square; 0 for none.")], None),
    "mix": (Annotated[Optional[str], option("--mix", metavar="none|ricap|mixup|cutmix", panel=_TRAINING, help="Mix images of a batch.")], None),
    "set": (Annotated[Optional[list[str]], option("--set", metavar="NAME=VALUE", panel=_TRAINING,
                                                  help="Any other setting of the recipe, as it is shown when training starts; repeat as needed.")], None),
    "val_split": (Annotated[Optional[float], option("--val-split", metavar="SHARE", panel=IMAGES,
                                                    help="Training images held out to choose the best epoch, 0 for none. Default: the recipe's, mostly 0.1.")], None),
    "final_test": (Annotated[bool, option("--final-test", panel=IMAGES,
                                          help="Where images are held out: measure the test images once, in the end. Otherwise they are measured after every epoch anyway.")], False),
    "precision": (Annotated[Optional[str], option("--precision", metavar="32|bf16|16", panel=COMPUTING,
                                                  help="Of training, with loss scaling for 16. Accuracies are measured in float32.")], None),
    "compile": (Annotated[Optional[bool], option("--compile/--no-compile", panel=COMPUTING, help="Use torch.compile.")], None),
    "seed": (Annotated[Optional[int], option("--seed", metavar="N", panel=COMPUTING,
                                             help="For initial weights, order, augmentation, held-out images. Default: 0.")], None),
    "devices": (Annotated[Optional[int], option("--devices", metavar="N", panel=COMPUTING, help="Processes, each with a device; default 1, or what torchrun started.")], None),
    "num_nodes": (Annotated[Optional[int], option("--num-nodes", metavar="N", panel=COMPUTING, help="Machines; torchrun says this itself.")], None),
    "strategy": (Annotated[Optional[str], option("--strategy", metavar="ddp|fsdp", panel=COMPUTING, help="How processes share the work; fsdp has not been tested yet.")], None),
    "sync_bn": (Annotated[Optional[bool], option("--sync-bn/--no-sync-bn", panel=COMPUTING,
                                                 help="Batch norm over the images of all processes (CUDA).")], None),
    "output": (Annotated[Optional[Path], option("--output", "-o", "--model-dir", metavar="DIR", panel=OUTPUT,
                                                help="Run folder. Default: runs/<run-name>.")], None),
    "json": (Annotated[bool, option("--json", panel=OUTPUT, help="Also print the result document to stdout.")], False),
    "run_name": (Annotated[Optional[str], option("--run-name", metavar="NAME", panel=OUTPUT,
                                                 help="Default: command, network, images and time.")], None),
    "resume": (Annotated[Optional[Path], option("--resume", metavar="RUN", panel=_RUN,
                                                help="Go on with an interrupted run: its folder; all else is remembered.")], None),
    "runs": (Annotated[Optional[int], option("--runs", metavar="N", panel=_RUN, help="Train N times, with seeds S, S + 1, ... from --seed S.")], None),
    "checkpoint_every": (Annotated[Optional[int], option("--checkpoint-every", metavar="STEPS", panel=_RUN,
                                                         help="Also save within an epoch.")], None),
    "print_freq": (Annotated[Optional[int], option("--print-freq", "-p", metavar="STEPS", panel=OUTPUT,
                                                   help="Also print a line after every so many steps.")], None),
    "export": (Annotated[Optional[str], option("--export", metavar="onnx,safetensors,torchscript", panel=_RUN,
                                               help="Also write the network for other programs; decompose itself reads safetensors only.")], None),
}  # fmt: skip

BLOCK = Annotated[
    Optional[str],
    option(
        "--block",
        "--block-name",
        metavar="basic|bottleneck",
        panel=NETWORK,
        help="Residual units of CIFAR ResNets, where the depth allows both: 6n + 2 and 9n + 2. Default: basic if it is "
        "6n + 2; of resnet164 bottleneck.",
    ),
]

NETWORK_OPTIONS: dict[str, tuple[Any, Any]] = {
    "shortcut": (Annotated[Optional[str], option("--shortcut", metavar="identity|projection", panel=NETWORK,
                                                 help="Of CIFAR ResNets. Default: identity.")], None),
    "block": (BLOCK, None),
    "norm_mode": (Annotated[Optional[str], option("--norm-mode", metavar="MODE", panel=NETWORK,
                                                  help="batch, group, layer, instance, online or none, in place of batch norm. Where it is given the recipe is online-norm, unless --recipe says otherwise.")], None),
    "afwd": (Annotated[Optional[str], option("--afwd", "--decay-factor-forward", metavar="DECAY", panel=NETWORK,
                                               help="Of online norm: forward decay, also --decay-factor-forward. Default: 1023/1024; for cifar100 511/512, for ImageNet 0.999.")], None),
    "abkw": (Annotated[Optional[str], option("--abkw", "--decay-factor-backward", metavar="DECAY", panel=NETWORK,
                                               help="Of online norm: backward decay, also --decay-factor-backward. Default: 127/128; for cifar100 15/16, for ImageNet 0.99.")], None),
    "ecm": (Annotated[Optional[str], option("--ecm", metavar="ls|ac|none", panel=NETWORK,
                                            help="Of online norm: error compensation, by layer scaling (default), activation clamping, or none.")], None),
    "gn_num_groups": (Annotated[Optional[int], option("--gn-num-groups", metavar="N", panel=NETWORK,
                                                      help="Of group norm. Default: 8, for large images 32.")], None),
}  # fmt: skip


def read_block(text: str) -> str:
    """The kind of residual unit; ``BasicBlock`` and ``Bottleneck``, as other programs write it, are understood.

    Raises:
        InputError: It is none.
    """
    known = {"basic": "basic", "basicblock": "basic", "bottleneck": "bottleneck"}
    if text.lower() not in known:
        raise InputError(f"--block {text!r} is unknown; choose basic, bottleneck.")
    return known[text.lower()]


def make_options(given: dict[str, Any]) -> dict[str, str]:
    """Options of the network that were given, as text.

    Raises:
        InputError: A decay is no number.
    """
    from decompose_cli.norms.modes import read_decay

    named = {name: str(value) for name, value in given.items() if value is not None}
    if "block" in named:
        named["block"] = read_block(named["block"])
    return {name: read_decay(text, name) if name in ("afwd", "abkw") else text for name, text in named.items()}


_FROM_SCRATCH: dict[str, tuple[Any, Any]] = {
    "model": (Annotated[Optional[str], typer.Argument(metavar="MODEL", show_default=False,
                                                      help="A name from 'decompose models', any torchvision classifier, or package.module:callable. Left out: resnet20, on the digits that come with decompose.")], None),
    "weights": (Annotated[Optional[str], option("--weights", "-w", metavar="FILE|URL|default", panel=NETWORK,
                                                help="Weights to start from. Default: random ones, from --seed.")], None),
}  # fmt: skip

# Training looks at all splits, and the features change with every step.
_NOT_FOR_TRAINING = ("split", "no_cache")
finetune_command = functools.partial(command, without=(*_NOT_FOR_TRAINING, "final_test"))  # it measures them anyway
train_command = functools.partial(command, without=(*_NOT_FOR_TRAINING, "head"), replaced=_FROM_SCRATCH)
rate_command = functools.partial(  # the recipe says the rest
    command, without=(*_NOT_FOR_TRAINING, "head", "batch_size", "precision"), replaced=_FROM_SCRATCH
)

_GATED_NETWORK: dict[str, tuple[Any, Any]] = {
    "model": (Annotated[Optional[str], typer.Argument(metavar="MODEL", show_default=False,
                                                      help="A CIFAR ResNet such as resnet20. Left out: resnet of --depth, by default 110; on digits, the default of --dataset, resnet20.")], None),
    "weights": (Annotated[Optional[str], option("--weights", "-w", "--test_checkpoint", metavar="FILE|URL", panel=NETWORK,
                                                help="Weights with gates to go on from, or to measure with --evaluate. Default: none.")], None),
    "run_name": (Annotated[Optional[str], option("--run-name", "--mod_name_suffix", metavar="NAME", panel=OUTPUT,
                                                 help="Default: command, network, images and time.")], None),
}  # fmt: skip
gate_command = functools.partial(command, without=(*_NOT_FOR_TRAINING, "head", "final_test"), replaced=_GATED_NETWORK)

_MACHINES = ("devices", "num_nodes", "strategy")
_RUN_OPTIONS = ("run_name", "resume", "runs", "checkpoint_every", "final_test", "print_freq")


@dataclass(frozen=True)
class Tuning:
    """What the user said of training: ``overrides`` of the recipe's settings, by name, and of the run."""

    overrides: dict[str, Any]
    machines: dict[str, Any]
    run_name: str | None
    resume: Path | None
    runs: int | None
    checkpoint_every: int | None
    print_freq: int | None
    final_test: bool
    export: Sequence[str]


def make_tuning(given: dict[str, Any]) -> Tuning:
    """Sort the values of the options above, without ``output``.

    Raises:
        InputError: A value cannot be read.
    """
    from decompose_cli.training.settings import parse_settings

    named = {name: value for name, value in given.items() if name in _SETTINGS and value is not None}
    if re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", str(named.get("schedule", ""))):  # as in other programs
        if "milestones" in named:
            raise InputError("--schedule and --milestones both give milestones; leave one of them out.")
        named |= {"milestones": named["schedule"], "schedule": "steps"}
    if "milestones" in named:
        named["milestones"] = tuple(part.strip() for part in named["milestones"].split(",") if part.strip())
    more = parse_settings(given["set"] or [])
    twice = sorted(set(named) & set(more))
    if twice:
        raise InputError(f"{twice[0].replace('_', '-')} is given twice, by an option of its own and by --set.")
    return Tuning(
        overrides={**named, **more},
        machines={name: given[name] for name in _MACHINES},
        export=[kind.strip() for kind in (given["export"] or "").split(",") if kind.strip()],
        **{name: given.get(name, False) for name in _RUN_OPTIONS},
    )


_SETTINGS = frozenset(TRAINING) - {*_MACHINES, *_RUN_OPTIONS, "export", "set", "output", "json"}
