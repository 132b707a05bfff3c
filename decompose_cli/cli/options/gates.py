"""The options of :class:`.training.gating.settings.GateSettings`."""

from __future__ import annotations

from typing import Any

from decompose_cli.cli.options.declaration import GATES, NETWORK, Bundle, number, real, text
from decompose_cli.cli.options.training import BLOCK, read_block
from decompose_cli.errors import InputError, param
from decompose_cli.models.gate_kinds import gates_with, shown_defaults, shown_gates, shown_penalties
from decompose_cli.training.gating.settings import GateSettings

_OPTIONS: dict[str, tuple[Any, Any]] = {
    "gate": text("--gate", metavar="NAME", panel=GATES, help=f"{shown_gates()}."),
    "depth": number("--depth", metavar="N", panel=NETWORK, help="Depth of a CIFAR ResNet, in place of MODEL: 6n + 2, or 9n + 2 with bottlenecks."),
    "block": BLOCK,
    "gate_map": text("--gate-map", metavar="stretched|plain|original|plain-10", panel=GATES,
                     help="How the entropy H becomes g: plain is sigmoid(H - log(C)/2); stretched goes from 0.02 to 0.98; original is the map of published weights of entropy-classifier, plain-10 that of entropy, which takes log(10) whatever C. "
                          f"Default: {shown_defaults('gate_map')}."),
    "gate_loss": text("--gate-loss", metavar="cross-entropy|bce", panel=GATES,
                      help=f"Penalty of gate {', '.join(gates_with('gate_loss'))}. Default: cross-entropy."),
    "gate_scale": text("--gate-scale", metavar="S", panel=GATES,
                       help="Scale of two-way gates in units: softmax(S x scores). Default: 1; the original's 0.0001 keeps g at 1/2."),
    "gate_output": text("--gate-output", metavar="mixed|residual", panel=GATES,
                        help="Output of units with two-way gates: residual leaves gate and shortcut out, as the original's bottlenecks do. Default: mixed."),
    "lr_gate": real("--lr-gate", "--lr_gate", metavar="RATE", panel=GATES,
                    help="Learning rate of the gate's classifier. Default: 0.01."),
    "gate_schedule": text("--gate-schedule", "--schedule_gate", metavar="constant|step50", panel=GATES,
                          help="How the rate of --lr-gate changes; step50 divides it by ten every 50 epochs, times --scale-epochs. Default: constant."),
    "gate_iters": number("--gate-iters", "--gate_iters", metavar="N", panel=GATES,
                         help="Train the backbone in every N-th step only, the gate's classifier in every step. Default: 1."),
    "penalty": real("--lambda", "--lambda_mem", metavar="WEIGHT", panel=GATES,
                    help=f"Weight of the gate's penalty in the loss. Default: {shown_penalties()}."),
    "init": text("--init", metavar="scratch|baseline", panel=GATES,
                 help="Where the backbone begins. Default: baseline where --baseline is given."),
    "scratch": number("--scratch", metavar="0|1", panel=GATES, help="Short for --init scratch (1) and --init baseline (0)."),
    "baseline": text("--baseline", metavar="FILE|URL", panel=GATES,
                     help="Weights of the plain network, as 'train MODEL --shortcut projection' makes them."),
    "label_noise": real("--label-noise", metavar="SHARE", panel=GATES,
                        help="Give this share of the training images a wrong label, and compare their g with that of the others."),
    "skip_below": real("--skip-below", metavar="G", panel=GATES,
                       help="In the end, also measure the network with the later units skipped where g is below this."),
}  # fmt: skip


def _make(given: dict[str, Any]) -> GateSettings:
    scratch = given.pop("scratch")
    if scratch is not None:
        if given["init"] is not None:
            raise InputError(f"{param('init')} and {param('scratch')} say the same thing; give one of them.")
        if scratch not in (0, 1):
            raise InputError(f"{param('scratch')} {scratch} is neither 0 nor 1.")
        given["init"] = "scratch" if scratch else "baseline"
    if given["block"] is not None:
        given["block"] = read_block(given["block"])
    given["gate_schedule"] = {"0": "constant", "1": "step50"}.get(given["gate_schedule"] or "", given["gate_schedule"])
    return GateSettings(**given)


GATE_SETTINGS = Bundle(_OPTIONS, _make, leads=True)
