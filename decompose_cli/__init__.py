"""Find, keep and measure the penultimate features that each class of an image classifier uses.

    import decompose_cli as dc

    model = dc.load_model("resnet20")
    train = dc.extract_features(model, dc.load_dataset("cifar10", "train"))
    indices = dc.extract_indices(train, k=5)
    test = dc.extract_features(model, dc.load_dataset("cifar10", "test"))
    print(dc.validate(test, indices).decomposed.top1)

The module :mod:`decompose_cli.api` has all the names. Importing the package is cheap: neither torch nor torchvision is
loaded until something needs it.
"""

from typing import TYPE_CHECKING, Any

from decompose_cli import _torchvision
from decompose_cli.version import __version__

if TYPE_CHECKING:
    from decompose_cli.api import (
        DecomposedLinear,
        DecomposeError,
        Features,
        IndexSet,
        InputError,
        Inputs,
        Model,
        SparseHead,
        SparseLinearClassifier,
        atlas,
        compare,
        decompose,
        essential,
        explain,
        extract_features,
        extract_indices,
        filters,
        finetune,
        load_dataset,
        load_features,
        load_model,
        mutual_info,
        progress,
        read_index_set,
        report,
        save_model,
        selectivity,
        sparsify,
        sweep,
        validate,
        write_index_set,
    )

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
    "__version__",
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

_torchvision.install()


def __getattr__(name: str) -> Any:
    """Import a name of ``__all__`` when it is first used: these need torch, and the command line should not wait."""
    if name in __all__:
        from decompose_cli import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
