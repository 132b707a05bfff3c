"""The type of each command's results, so that documents can be read back without knowing the engines."""

from __future__ import annotations

from importlib import import_module
from typing import Any

RESULTS = {
    "validate": "decompose_cli.decomposition.accuracy_results:ValidateResults",
    "extract-indices": "decompose_cli.engines.extract_indices:ExtractResults",
    "sparsify": "decompose_cli.engines.sparsify:SparsifyResults",
    "sweep": "decompose_cli.decomposition.sweep_results:SweepResults",
    "essential": "decompose_cli.decomposition.essential_results:EssentialResults",
    "mutual-info": "decompose_cli.decomposition.overlap_results:MutualInfoResults",
    "compare": "decompose_cli.decomposition.compare_results:CompareResults",
    "selectivity": "decompose_cli.decomposition.selectivity_results:SelectivityResults",
    "finetune": "decompose_cli.training.finetune_results:AnyFinetuning",
    "train": "decompose_cli.engines.train:AnyTraining",
    "train-gate": "decompose_cli.engines.train_gate:AnyGateResults",
    "lr-find": "decompose_cli.engines.lr_find:LrFindResults",
    "explain": "decompose_cli.engines.explain:ExplainResults",
    "filters": "decompose_cli.engines.filters:FiltersResults",
    "atlas": "decompose_cli.decomposition.atlas_results:AtlasResults",
    "demo": "decompose_cli.engines.demo:CurveResults",
}
"""For each command, a module and the type of its results in it."""


def results_type(command: str) -> Any:
    """The type of a command's results, whose engine is imported only now; None for a command that leaves no document.

    Args:
        command: Name of the command, which documents have in their field ``command``.
    """
    if command not in RESULTS:
        return None
    module, _, name = RESULTS[command].partition(":")
    return getattr(import_module(module), name)
