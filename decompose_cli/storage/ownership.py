"""Whether a file is one that decompose wrote, as far as its content says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_HEAD = 1 << 16
_TRAININGS = ("train", "finetune", "train-gate")


def is_own(path: Path) -> bool:
    """Whether a file is empty, or of decompose: a result, an index file, a page, a checkpoint, an exported network.

    Results of trainings do not count: they belong to their run, which is replaced as a whole.

    Args:
        path: An ordinary file.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head.strip():
        return True
    if path.name.endswith((".onnx", ".torchscript.pt")):
        return True
    if path.suffix == ".safetensors":
        return b'"decompose"' in head
    if head.lstrip().startswith(b"<"):
        return b'name="generator" content="decompose' in head
    return head.lstrip()[:1] in (b"{", b"[") and _is_own_json(path)


def holds_run(folder: Path) -> bool:
    """Whether a folder has the configuration of a training."""
    try:
        content: Any = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("command") in _TRAININGS


def _is_own_json(path: Path) -> bool:
    try:
        content: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    if isinstance(content, dict) and "command" in content:
        return {"schema_version", "results"} <= content.keys() and content["command"] not in _TRAININGS
    if isinstance(content, dict) and "format" in content:
        return bool(content["format"] == "decompose-index-set")
    rows = list(content.values()) if isinstance(content, dict) else content
    return all(isinstance(row, list) and all(isinstance(index, int) for index in row) for row in rows)
