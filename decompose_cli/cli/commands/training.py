"""Train networks."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from decompose_cli.cli.console import is_first_process
from decompose_cli.cli.options.shared import ORDER, Output
from decompose_cli.cli.options.training import Tuning, finetune_command, rate_command, train_command
from decompose_cli.cli.output import finish, model_and_dataset, print_json

if TYPE_CHECKING:
    from decompose_cli.features.study import Inputs
    from decompose_cli.storage.result_document import ResultDocument
    from decompose_cli.training.session import Request


@finetune_command
def finetune(
    inputs: Inputs,
    out: Output,
    tuning: Tuning,
    indices: Annotated[
        Optional[Path],
        typer.Option(
            "--indices", "-i", metavar="FILE", help="Index file. Default: rank features first.", show_default=False
        ),
    ] = None,
    k: Annotated[
        Optional[str],
        typer.Option(
            "-k", "--k", metavar="K", help="Without -i: features per class, 5 by default.", show_default=False
        ),
    ] = None,
    method: Annotated[
        Optional[str],
        typer.Option(
            "--method",
            metavar="frequency|mean|mass|contribution|weight|csg",
            help="Without -i: how features are scored, by frequency by default.",
            show_default=False,
        ),
    ] = None,
    order: ORDER = "highest",
    only: Annotated[
        Optional[str],
        typer.Option(
            "--only",
            metavar="all|head|head+last-block",
            help="What is trained; of the rest, statistics of batch norm stay too. Default: all.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Decompose a network and train it further, to restore its accuracy.

    The checkpoints in the run folder carry their indices: 'decompose validate -w RUN/last.pt' needs no index file.

    Example: decompose finetune resnet20 -i indices.json --lr 0.0001 --epochs 5
    """
    from decompose_cli.cli.tables import training as display
    from decompose_cli.decomposition.ranking import parse_k, parse_method, parse_order
    from decompose_cli.engines.finetune import TRAINED, Decomposition
    from decompose_cli.engines.finetune import finetune as run
    from decompose_cli.errors import InputError, one_of

    decomposition = None
    if k is not None or method is not None or order != "highest":
        ks = parse_k(k or "5")
        if len(ks) != 1:
            raise InputError(f"-k {k} is not one number of features per class.")
        decomposition = Decomposition(ks[0], parse_method(method or "frequency"), parse_order(order))
    document = run(
        make_request(inputs, out, tuning, "finetune"),
        indices=indices,
        decomposition=decomposition,
        only=one_of(only, TRAINED, "only") if only is not None else None,
    )
    finish_run(out, document, lambda: display.show_finetuning(out.terminal, document))


@train_command
def train(
    inputs: Inputs,
    out: Output,
    tuning: Tuning,
    options: dict[str, str],
    recipe: Annotated[
        Optional[str],
        typer.Option(
            "--recipe",
            metavar="NAME",
            help="cifar-resnet, he2015, online-norm, custom-resnet, imagenet, digits or finetune. Default: what suits "
            "the network.",
            show_default=False,
        ),
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", "-e", help="Train nothing: measure --weights, as 'validate' does.")
    ] = False,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Short for --weights default.")] = False,
) -> None:
    """Train a network from scratch, or from --weights.

    Writes a run folder: last.pt, best.pt where images are held out, logs, result.json. An interrupted run goes on with
    --resume RUN as if it had not been interrupted.

    Example: decompose train resnet20 --dataset cifar10 --epochs 30 --milestones 15,22
    """
    from decompose_cli.cli.tables import training as display
    from decompose_cli.engines.train import train as run

    inputs = _starting_weights(inputs, pretrained=pretrained)
    if evaluate:
        _evaluate(inputs, out, tuning, options, recipe)
        return
    document = run(
        make_request(inputs, out, tuning, "train"),
        recipe=recipe,
        model_options=options,
    )
    finish_run(out, document, lambda: display.show_training(out.terminal, document))


@rate_command
def lr_find(
    inputs: Inputs,
    out: Output,
    options: dict[str, str],
    recipe: Annotated[
        Optional[str],
        typer.Option("--recipe", metavar="NAME", help="As for 'train'.", show_default=False),
    ] = None,
    lowest: Annotated[float, typer.Option("--lowest", metavar="RATE", help="First rate.")] = 1e-6,
    highest: Annotated[float, typer.Option("--highest", metavar="RATE", help="Last rate.")] = 10.0,
    steps: Annotated[int, typer.Option("--steps", metavar="N", help="Steps from the one to the other.")] = 100,
    settings: Annotated[
        Optional[list[str]],
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of the recipe, as optimizer=adam; repeat.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Look for a learning rate: train for a few steps, each at a higher rate, and see where the loss falls fastest.

    Writes result.json and curve.png into a folder: --output, or a new one in results/.

    Example: decompose lr-find resnet20 --dataset cifar10 --set batch_size=64
    """
    from decompose_cli.cli.tables import training as display
    from decompose_cli.engines.lr_find import lr_find as run
    from decompose_cli.storage.files import check_folder_writable, check_writable, new_folder
    from decompose_cli.storage.result_document import default_names
    from decompose_cli.training.settings import parse_settings

    def go(folder: Path | None) -> None:
        document = run(
            inputs,
            overrides=parse_settings(settings or []),
            recipe=recipe,
            model_options=options,
            lowest=lowest,
            highest=highest,
            steps=steps,
            folder=folder,
        )
        display.show_rates(out.terminal, document)
        if folder is not None:
            out.terminal.print(f"Written to {folder}: curve.png, result.json")
        if out.json and is_first_process():
            print_json(document.model_dump(mode="json"))

    if out.path is not None:
        check_folder_writable(out.path)
        for name in ("result.json", "curve.png"):
            check_writable(out.path / name, overwrite=out.overwrite)
        go(out.path)
    elif out.json:
        go(None)
    else:
        with new_folder(default_names("lr-find", *model_and_dataset(inputs), suffix="")) as folder:
            go(folder)


def make_request(inputs: Inputs, out: Output, tuning: Tuning, name: str) -> Request:
    """What the options of a training command ask for."""
    from decompose_cli.errors import InputError
    from decompose_cli.training.devices import Machines
    from decompose_cli.training.export import check_export
    from decompose_cli.training.session import Request

    if tuning.run_name is not None and (out.path or tuning.resume) is not None:
        raise InputError("--run-name names a folder in runs/; with --output or --resume there is a folder already.")
    if out.overwrite and tuning.resume is not None:
        raise InputError("--overwrite would remove the run that --resume goes on with; leave one of them out.")
    return Request(
        inputs=inputs,
        overrides=tuning.overrides,
        folder=out.path,
        names=partial(_names, name, tuning.run_name),
        resume=tuning.resume,
        overwrite=out.overwrite,
        machines=Machines(**tuning.machines),
        runs=tuning.runs,
        final_test=tuning.final_test,
        checkpoint_every=tuning.checkpoint_every,
        print_freq=tuning.print_freq,
        export=[check_export(kind) for kind in tuning.export],
    )


def _starting_weights(inputs: Inputs, *, pretrained: bool) -> Inputs:
    from decompose_cli.errors import InputError

    if not pretrained:
        # Training begins with random weights unless others are given; then its head fits the images, too.
        return dataclasses.replace(inputs, weights=None) if inputs.weights == "random" else inputs
    if inputs.weights is not None:
        raise InputError("--pretrained means --weights default; give one of them.")
    return dataclasses.replace(inputs, weights="default")


def _evaluate(inputs: Inputs, out: Output, tuning: Tuning, options: dict[str, str], recipe: str | None) -> None:
    """``train --evaluate``: what 'validate' says of the weights that training would begin with."""
    from decompose_cli.cli.tables import basics as display
    from decompose_cli.engines.validate import validate as run
    from decompose_cli.storage.files import check_writable
    from decompose_cli.training.setup import open_weights

    inputs = weights_to_evaluate(inputs, tuning, ["recipe"] if recipe else [])
    path = out.path / "evaluation.json" if out.path is not None else None
    if path is not None:
        check_writable(path, overwrite=out.overwrite)
    document = run(inputs, classifier=open_weights(inputs, options, inputs.seed))
    finish(out, document, path, inputs, show=lambda: display.show_validation(out.terminal, document))


def weights_to_evaluate(
    inputs: Inputs, tuning: Tuning, more: Sequence[str], sources: str = "--weights, --pretrained or --resume RUN"
) -> Inputs:
    """What ``--evaluate`` looks at.

    Args:
        inputs: What was given.
        tuning: Likewise.
        more: Names of further options that were given and mean nothing there.
        sources: The options that say which weights.
    """
    from decompose_cli.errors import InputError

    of_run = {
        name
        for name in ("run_name", "runs", "checkpoint_every", "final_test", "export", "print_freq")
        if getattr(tuning, name)
    }
    of_run |= {name for name, value in tuning.machines.items() if value is not None}
    useless = sorted((set(tuning.overrides) | of_run) - {"batch_size", "seed"}) + list(more)
    if useless:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in useless)
        raise InputError(f"--evaluate trains nothing: leave out {flags}.")
    if tuning.resume is not None:
        if inputs.weights is not None:
            raise InputError("With --evaluate, --resume and --weights both say which weights; give one of them.")
        checkpoint = tuning.resume / "last.pt" if tuning.resume.is_dir() else tuning.resume
        if not checkpoint.is_file():
            raise InputError(
                f"There is no checkpoint {checkpoint}.",
                hint="--resume takes the folder of a run, or of one seed of several, or a checkpoint.",
            )
        inputs = dataclasses.replace(inputs, weights=str(checkpoint))
    if inputs.weights is None:
        raise InputError(f"--evaluate needs a network that has been trained: {sources}.")
    known = {name: tuning.overrides[name] for name in ("batch_size", "seed") if name in tuning.overrides}
    return dataclasses.replace(inputs, **known)


def _names(command: str, run_name: str | None, model: str, dataset: str) -> Iterator[Path]:
    """``runs/<run-name>``, then the same with -2, -3, ... for whoever finds it taken."""
    from decompose_cli.storage.files import file_stem

    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    usual = "-".join([command, file_stem(model), file_stem(dataset), stamp])
    name = file_stem(run_name) if run_name else usual
    yield Path("runs") / name
    for number in itertools.count(2):
        yield Path("runs") / f"{name}-{number}"


def finish_run(out: Output, document: ResultDocument[Any], show: Callable[[], None]) -> None:
    """Show what came of a run; its files are in its folder."""
    show()
    if out.json and is_first_process():
        print_json(document.model_dump(mode="json"))
