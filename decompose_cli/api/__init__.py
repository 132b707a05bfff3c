"""The functions and classes that ``import decompose_cli`` offers to Python programs and notebooks.

Networks, images, features and index sets are objects here; nothing is printed, parsed or written unless a function says
so. The commands of the program are functions too, ``decompose_cli.engines.<command>.<command>``: they take
:class:`Inputs`, names as on the command line, and return the result document.
"""

from typing import TYPE_CHECKING, Any

from decompose_cli.api.bars import progress, show_where_seen
from decompose_cli.api.comparing import compare
from decompose_cli.api.features import (
    Features,
    extract_features,
    extract_indices,
    load_dataset,
    load_features,
)
from decompose_cli.api.indices import read_index_set, write_index_set
from decompose_cli.api.looking import atlas, explain, filters, selectivity
from decompose_cli.api.model import Model, decompose, load_model, save_model
from decompose_cli.api.sparse import sparsify
from decompose_cli.api.sparse_head import SparseHead
from decompose_cli.api.studies import essential, mutual_info, sweep, validate
from decompose_cli.api.training import finetune
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.page.report import report

if TYPE_CHECKING:
    from decompose_cli.api.estimator import SparseLinearClassifier

__all__ = [
    "DecomposeError",
    "DecomposedLinear",
    "Features",
    "IndexSet",
    "InputError",
    "Inputs",
    "Model",
    "SparseHead",
    "SparseLinearClassifier",
    "atlas",
    "compare",
    "decompose",
    "essential",
    "explain",
    "extract_features",
    "extract_indices",
    "filters",
    "finetune",
    "load_dataset",
    "load_features",
    "load_model",
    "mutual_info",
    "progress",
    "read_index_set",
    "report",
    "save_model",
    "selectivity",
    "sparsify",
    "sweep",
    "validate",
    "write_index_set",
]


show_where_seen()


def __getattr__(name: str) -> Any:
    """Import the estimator when it is first used: scikit-learn takes as long to load as torch."""
    if name == "SparseLinearClassifier":
        from decompose_cli.api.estimator import SparseLinearClassifier

        return SparseLinearClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
