"""Train networks with soft gates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

from decompose_cli.cli.commands.training import finish_run, make_request, weights_to_evaluate
from decompose_cli.cli.console import is_first_process
from decompose_cli.cli.options.shared import NETWORK, Output, option
from decompose_cli.cli.options.training import BLOCK, Tuning, gate_command, read_block
from decompose_cli.cli.output import model_and_dataset, print_json

if TYPE_CHECKING:
    from decompose_cli.features.study import Inputs

_GATES = "Gates"


@gate_command
def train_gate(
    inputs: Inputs,
    out: Output,
    tuning: Tuning,
    gate: Annotated[
        Optional[str],
        option(
            "--gate",
            metavar="NAME",
            panel=_GATES,
            help="Over the last stage: entropy-classifier (default), entropy, l2, softmax; over the last two: "
            "entropy-classifier-b3b2; in every unit: exclusive, shortcut, exclusive-element-1x1, exclusive-tube-1x1, "
            "exclusive-tube-3x3.",
        ),
    ] = None,
    depth: Annotated[
        Optional[int],
        option("--depth", metavar="N", panel=NETWORK, help="6n + 2, with bottlenecks 9n + 2, in place of MODEL."),
    ] = None,
    block: BLOCK = None,
    gate_map: Annotated[
        Optional[str],
        option(
            "--gate-map",
            metavar="stretched|plain|original",
            panel=_GATES,
            help="How the entropy H becomes g: sigmoid(H - log(C)/2) is plain; stretched goes from 0.02 to 0.98 and is "
            "the default of entropy-classifier; original is that of published weights.",
        ),
    ] = None,
    gate_loss: Annotated[
        Optional[str],
        option(
            "--gate-loss",
            metavar="cross-entropy|bce",
            panel=_GATES,
            help="Penalty of softmax. Default: cross-entropy.",
        ),
    ] = None,
    gate_scale: Annotated[
        Optional[str],
        option(
            "--gate-scale",
            metavar="S",
            panel=_GATES,
            help="Of two-way gates in units: softmax(S x scores). Default: 1; the original's 0.0001 keeps g at 1/2.",
        ),
    ] = None,
    lr_gate: Annotated[
        Optional[float],
        option("--lr-gate", "--lr_gate", metavar="RATE", panel=_GATES, help="Of the gate's classifier. Default: 0.01."),
    ] = None,
    gate_schedule: Annotated[
        Optional[str],
        option(
            "--gate-schedule",
            "--schedule_gate",
            metavar="constant|step50",
            panel=_GATES,
            help="Of that rate; step50 divides it by ten every 50 epochs. Default: constant.",
        ),
    ] = None,
    gate_iters: Annotated[
        Optional[int],
        option(
            "--gate-iters",
            "--gate_iters",
            metavar="N",
            panel=_GATES,
            help="Change the backbone in every N-th step only, the gate's classifier in each. Default: 1.",
        ),
    ] = None,
    penalty: Annotated[
        Optional[float],
        option(
            "--lambda",
            "--lambda_mem",
            metavar="WEIGHT",
            panel=_GATES,
            help="Of the gate's penalty in the loss. Default: 0.5 for l2, 0.1 for softmax, 0.01 for two-way gates in "
            "units, 0 for exclusive and shortcut.",
        ),
    ] = None,
    init: Annotated[
        Optional[str],
        option(
            "--init",
            metavar="scratch|baseline",
            panel=_GATES,
            help="Where the backbone begins. Default: baseline where --baseline is given.",
        ),
    ] = None,
    scratch: Annotated[
        Optional[int], option("--scratch", metavar="0|1", panel=_GATES, help="1: --init scratch; 0: --init baseline.")
    ] = None,
    baseline: Annotated[
        Optional[str],
        option(
            "--baseline",
            metavar="FILE|URL",
            panel=_GATES,
            help="Weights of the plain network, as 'train MODEL --shortcut projection' makes them.",
        ),
    ] = None,
    label_noise: Annotated[
        Optional[float],
        option(
            "--label-noise",
            metavar="SHARE",
            panel=_GATES,
            help="Give this share of the training images a wrong label, and compare their g with that of the others.",
        ),
    ] = None,
    skip_below: Annotated[
        Optional[float],
        option(
            "--skip-below",
            metavar="G",
            panel=_GATES,
            help="In the end, also measure the network with the later units skipped where g is below this.",
        ),
    ] = None,
    recipe: Annotated[
        Optional[str],
        option(
            "--recipe", metavar="NAME", panel=_GATES, help="As for 'train'. Default: soft-gates; for digits, digits."
        ),
    ] = None,
    split: Annotated[
        Optional[str],
        option(
            "--split",
            metavar="train|test|val",
            panel=_GATES,
            help="With --evaluate: which images. Default: test or val.",
        ),
    ] = None,
    evaluate: Annotated[
        bool,
        option("--evaluate", "-e", panel=_GATES, help="Train nothing: measure accuracy and gates of --weights."),
    ] = False,
) -> None:
    """Train a network with soft gates, which weigh a later output against an earlier one for each image.

    Writes a run folder as 'train' does, with g of every image (g_values.csv), its distribution, and the images with the
    lowest and highest g. Gated checkpoints work with 'validate' and all other commands.

    Example: decompose train-gate resnet20 --dataset cifar10 --gate entropy-classifier --epochs 30 --schedule 15,22
    """
    from decompose_cli.cli.tables import training as display
    from decompose_cli.engines.train_gate import train_gate as run
    from decompose_cli.errors import InputError, one_of
    from decompose_cli.models.gate_kinds import GATES
    from decompose_cli.training.gating.runner import GATE_SCHEDULES
    from decompose_cli.training.gating.settings import STARTS, Gating, resolve_network

    options = {
        "gate": one_of(gate, tuple(GATES), "gate") if gate is not None else None,
        "block": read_block(block) if block is not None else None,
        "gate_map": gate_map,
        "gate_loss": gate_loss,
        "gate_scale": gate_scale,
    }
    named = {name: value for name, value in options.items() if value is not None}
    start = _start(init, scratch)
    schedule = {"0": "constant", "1": "step50"}.get(gate_schedule or "", gate_schedule)
    gating = Gating(
        lr_gate=lr_gate,
        schedule=one_of(schedule, GATE_SCHEDULES, "gate_schedule") if schedule is not None else None,
        every=gate_iters,
        penalty=penalty,
        init=one_of(start, STARTS, "init") if start is not None else None,
        baseline=baseline,
        label_noise=label_noise,
        skip_below=skip_below,
    )
    if tuning.resume is None or depth is not None:  # a run remembers its network
        inputs = resolve_network(inputs, depth)
    if evaluate:
        of_training = {name for name in gating.given() if name != "skip_below"} | ({"recipe"} if recipe else set())
        inputs = weights_to_evaluate(inputs, tuning, sorted(of_training), "--weights or --resume RUN")
        _evaluate(inputs, out, named, skip_below, split)
        return
    if split is not None:
        raise InputError("--split is of --evaluate; training looks at all splits.")
    document = run(make_request(inputs, out, tuning, "train-gate"), gating=gating, recipe=recipe, model_options=named)
    finish_run(out, document, lambda: display.show_gate_training(out.terminal, document))


def _start(init: str | None, scratch: int | None) -> str | None:
    from decompose_cli.errors import InputError

    if scratch is None:
        return init
    if init is not None:
        raise InputError("--init and --scratch say the same thing; give one of them.")
    if scratch not in (0, 1):
        raise InputError(f"--scratch {scratch} is neither 0 nor 1.")
    return "scratch" if scratch else "baseline"


def _evaluate(
    inputs: Inputs, out: Output, options: dict[str, str], skip_below: float | None, split: str | None
) -> None:
    """``train-gate --evaluate``: accuracy and gates of weights, in a folder as of a run."""
    from decompose_cli.cli.tables import training as display
    from decompose_cli.cli.tables.basics import show_setting
    from decompose_cli.engines.train_gate import evaluate_gates
    from decompose_cli.storage.files import check_folder_writable, check_writable, new_folder
    from decompose_cli.storage.result_document import default_names
    from decompose_cli.training.run_folder import EXTREMES, G_VALUES, GATE_PLOT, RESULT

    def go(folder: Path | None) -> None:
        document: Any = evaluate_gates(inputs, model_options=options, skip_below=skip_below, split=split, folder=folder)
        if folder is not None:
            document.write(folder / RESULT)
        show_setting(out.terminal, document)
        display.show_gates(out.terminal, document.results.gates)
        if folder is not None:
            out.terminal.print(f"Written to {folder}: {RESULT}, {G_VALUES}, {GATE_PLOT}, {EXTREMES}")
        if out.json and is_first_process():
            print_json(document.model_dump(mode="json"))

    if out.path is not None:
        check_folder_writable(out.path)
        for name in (RESULT, G_VALUES, GATE_PLOT, EXTREMES):
            check_writable(out.path / name, overwrite=out.overwrite)
        go(out.path)
    elif out.json:
        go(None)
    else:
        with new_folder(default_names("train-gate", *model_and_dataset(inputs), suffix="")) as folder:
            go(folder)
