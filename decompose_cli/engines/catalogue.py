"""The type of each command's results, so that documents can be read back without knowing the engines."""

from __future__ import annotations

from importlib import import_module
from typing import Any

RESULTS = {
    "validate": "validate:ValidateResults",
    "extract-indices": "extract_indices:ExtractResults",
    "sweep": "sweep:SweepResults",
    "essential": "essential:EssentialResults",
    "mutual-info": "mutual_info:MutualInfoResults",
    "selectivity": "selectivity:SelectivityResults",
    "finetune": "finetune:AnyFinetuning",
    "train": "train:AnyTraining",
    "train-gate": "train_gate:AnyGateResults",
    "lr-find": "lr_find:LrFindResults",
    "explain": "explain:ExplainResults",
    "filters": "filters:FiltersResults",
    "demo": "demo:CurveResults",
}
"""For each command, the module of its engine and the type in it."""


def results_type(command: str) -> Any:
    """The type of a command's results, whose engine is imported only now; None for a command that leaves no document.

    Args:
        command: Name of the command, which documents have in their field ``command``.
    """
    if command not in RESULTS:
        return None
    module, _, name = RESULTS[command].partition(":")
    return getattr(import_module(f"decompose_cli.engines.{module}"), name)
