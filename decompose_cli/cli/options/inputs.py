"""The options of :class:`.features.inputs.Inputs`: which network, which images, how to compute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from decompose_cli.cli.options.declaration import COMPUTING, IMAGES, NETWORK, Bundle, number, option, switch, text
from decompose_cli.errors import InputError, param
from decompose_cli.features.inputs import Inputs

MODEL_HELP = (
    "A name from 'decompose models', any torchvision classifier, timm:NAME, hf:ORG/NAME or hf:FOLDER of transformers, or "
    "package.module:callable. "
)


def model_argument(default: str) -> tuple[Any, Any]:
    """The argument MODEL; ``default`` names the network that is used without it."""
    return (
        Annotated[
            Optional[str],
            typer.Argument(metavar="MODEL", help=f"{MODEL_HELP}Default: {default}", show_default=False),
        ],
        None,
    )


def _path(*names: str, metavar: str, help: str, panel: str) -> tuple[Any, Any]:
    return Annotated[Optional[Path], option(*names, metavar=metavar, help=help, panel=panel)], None


_OPTIONS: dict[str, tuple[Any, Any]] = {
    "model": model_argument("resnet20-digits, which ships with decompose."),
    "weights": text("--weights", "-w", metavar="FILE|URL|default|random", panel=NETWORK,
                    help="Weights of the network. Default: the published ones, downloaded once; for package.module:callable its own."),
    "ema": switch("--ema", panel=NETWORK, help="Take the averaged weights, where --weights has raw and averaged ones."),
    "weights_key": text("--weights-key", metavar="KEY", panel=NETWORK,
                        help="Place of the weights in the file, where it has several: teacher, callbacks.EMA.weights, state_dict.encoder_q."),
    "model_options": text("--model-options", metavar="NAME=VALUE[,...]", panel=NETWORK,
                          help="Options of the network, as for 'train', where its weights do not say them: shortcut, block, gate, gate_map, norm_mode, ..."),
    "features_only": switch("--features-only", panel=NETWORK,
                            help="Take the features of timm:NAME, hf:NAME or package.module:callable without a classifier, as of DINO or CLIP: 'sparsify' fits a head to them."),
    "head": text("--head", metavar="NAME", panel=NETWORK, help="Submodule that is the head, where several could be."),
    "dataset": text("--dataset", metavar="NAME|KIND:PATH", panel=IMAGES,
                    help="Images to use: a name from 'decompose datasets', or folder:PATH, csv:FILE, npz:FILE, wds:PATTERN, hf:NAME|PATH. Default: the data set that belongs to the network."),
    "columns": text("--columns", metavar="image=NAME,label=NAME", panel=IMAGES,
                    help="Columns or arrays of csv, npz, wds and hf that hold images, labels and split, where they are not guessed right."),
    "split": text("--split", metavar="train|val|test", panel=IMAGES,
                  help="Part of the data set. Default: test, else val; train where indices are extracted, features ranked or layers measured."),
    "classes": (Annotated[str, option("--classes", metavar="all|present", panel=IMAGES, show_default=True,
                                      help="What becomes of classes of the network without training images: all keeps their rows of the full head, with all features; present leaves them out of the head and of every count.")], "all"),
    "class_map": _path("--class-map", metavar="FILE", panel=IMAGES,
                       help="A .csv or .json file that says which class of the network (name, WordNet id or number) a class of the data set is. Default: the one of the same name or id."),
    "data_dir": _path("--data-dir", metavar="DIR", panel=IMAGES,
                      help="Where data sets are kept. Default: $DECOMPOSE_DATA, else data/."),
    "no_download": switch("--no-download", panel=IMAGES, help="Never download anything."),
    "mean": text("--mean", metavar="R,G,B", panel=IMAGES,
                 help="Mean that pixel values in [0, 1] are normalised with. Default: the network's; for a network of yours, the data set's."),
    "std": text("--std", metavar="R,G,B", panel=IMAGES,
                help="Standard deviation that pixel values are normalised with. Default: chosen as for --mean."),
    "input_size": text("--input-size", metavar="N|HxW", panel=IMAGES,
                       help="Pixels that the network takes. Default: the network's."),
    "resize": text("--resize", metavar="N|HxW", panel=IMAGES,
                   help="Resize the shorter side to N, or to exactly HxW, before the crop."),
    "crop": text("--crop", metavar="N|HxW", panel=IMAGES, help="Crop the centre of the image to this size."),
    "interpolation": text("--interpolation", metavar="nearest|bilinear|bicubic", panel=IMAGES,
                          help="How the image is resized. Default: the network's."),
    "device": text("--device", metavar="auto|cpu|cuda[:N]|mps", panel=COMPUTING, help="Where to compute. Default: auto."),
    "gpu": number("--gpu", metavar="N", panel=COMPUTING, help="Short for --device cuda:N."),
    "precision": (Annotated[str, option("--precision", metavar="32|bf16|auto", panel=COMPUTING, show_default=True,
                                        help="Number format of the network; auto is bf16 where the device has instructions for it, else 32.")], "32"),
    "batch_size": (Annotated[int, option("--batch-size", "-b", metavar="N", panel=COMPUTING, show_default=True,
                                         help="Images that a GPU works on at a time, for features at most 256; a CPU takes as many as suit its caches.")], 256),
    "workers": number("--workers", "-j", metavar="N", panel=COMPUTING,
                      help="Processes that decode images. Default: one per core."),
    "threads": number("--threads", metavar="N", panel=COMPUTING,
                      help="Threads that compute on the processor. Default: one per core that this process may use."),
    "devices": number("--devices", metavar="N", panel=COMPUTING,
                      help="Processes that run the network, each on a device of its own. Default: 1, or what torchrun or SLURM started."),
    "num_nodes": number("--num-nodes", metavar="N", panel=COMPUTING,
                        help="Number of machines; torchrun and SLURM say it themselves."),
    "skip_unreadable": number("--skip-unreadable", metavar="N", panel=IMAGES,
                              help="Leave out at most N images that cannot be read; the result lists them. Default: any is an error, after all others are done."),
    "seed": (Annotated[int, option("--seed", metavar="N", panel=COMPUTING, show_default=True,
                                   help="Seed of everything random: noise, random sets, random weights.")], 0),
    "no_cache": switch("--no-cache", panel=COMPUTING, help="Neither use nor keep computed features."),
}  # fmt: skip


def _make(given: dict[str, Any]) -> Inputs:
    gpu, device = given.pop("gpu", None), given.pop("device", None)
    if gpu is not None and device is not None:
        raise InputError(f"{param('gpu')} and {param('device')} say the same thing; give one of them.")
    if gpu is not None and gpu < 0:
        raise InputError(f"{param('gpu')} {gpu} is negative.")
    if given.get("model_options") is not None:
        given["model_options"] = _model_options(given["model_options"])
    device = f"cuda:{gpu}" if gpu is not None else device or "auto"
    allow_download, use_cache = not given.pop("no_download"), not given.pop("no_cache", False)
    return Inputs(device=device, allow_download=allow_download, use_cache=use_cache, **given)


def _model_options(text: str) -> dict[str, str]:
    """Options as they are typed, ``shortcut=projection,norm_mode=group``, by name."""
    options: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        name = name.replace("-", "_")
        if not name or not equals or not value:
            raise InputError(f"{param('model_options')} {part!r} is not NAME=VALUE.")
        if name in options:
            raise InputError(f"{param('model_options')} names {name} twice.")
        options[name] = value
    return options


INPUTS = Bundle(_OPTIONS, _make, leads=True)
