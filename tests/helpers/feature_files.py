"""Files of features with labels, as other programs make them, good and bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

COUNTS = {"train": 12, "test": 6}


def arrays(**changes: Any) -> dict[str, Any]:
    """Features of four classes that differ, (N, 5), with changes by name; None takes an array out."""
    random = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for split, count in COUNTS.items():
        labels = np.arange(count) % 4
        found[f"{split}_x"] = (random.normal(size=(count, 5)) + 3 * np.eye(5)[labels]).astype(np.float32)
        found[f"{split}_y"] = labels
    found |= changes
    return {name: value for name, value in found.items() if value is not None}


def npz(path: Path, **changes: Any) -> Path:
    """Write such a file."""
    np.savez(path, **arrays(**changes))
    return path


def tensors(path: Path, metadata: dict[str, Any] | None = None, **changes: Any) -> Path:
    """The same as safetensors; what is no text in the metadata is written as JSON."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in (metadata or {}).items()}
    save_file({name: torch.as_tensor(value) for name, value in arrays(**changes).items()}, path, metadata=texts)
    return path
