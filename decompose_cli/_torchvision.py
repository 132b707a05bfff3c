"""Let ``import torchvision`` succeed beside a torch build that its compiled operators do not fit.

The usual torchvision wheel is built against CUDA torch. Beside a CPU-only torch its ``_C.so`` cannot be loaded, the
operators ``torchvision::nms`` and ``torchvision::qnms`` are never declared, and the import ends in ``RuntimeError:
operator torchvision::nms does not exist``, although nothing here needs them. Declaring them unconditionally is not safe
either: where the compiled library does load, a second declaration aborts the process.

So, when torchvision is first looked for, this finder tries to load the compiled library and declares the two operators
only where that fails. It never finds a module itself: the normal import goes on after it. Installing it costs nothing
and imports nothing; data-loader workers that are spawned get it with the package.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_keep_alive: list[Any] = []  # operators vanish with the Library object that declared them


class _TorchvisionOperators(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare_missing_operators()
        return None


def _declare_missing_operators() -> None:
    spec = importlib.machinery.PathFinder.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    import torch

    libraries = sorted(Path(spec.origin).parent.glob("_C*.so")) + sorted(Path(spec.origin).parent.glob("_C*.pyd"))
    for library in libraries:
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except OSError:
            continue
        return
    if hasattr(torch.ops.torchvision, "nms"):
        return
    fragment = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        fragment.define(schema)  # type: ignore[no-untyped-call]
    _keep_alive.append(fragment)


def install() -> None:
    """Put the finder first on ``sys.meta_path``, once, unless torchvision is loaded already."""
    if "torchvision" in sys.modules or any(isinstance(finder, _TorchvisionOperators) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _TorchvisionOperators())
