"""Whether a file is one that a command may replace, as far as its content says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from decompose_cli.errors import InputError
from decompose_cli.storage.names import CONFIG
from decompose_cli.storage.ordinary_files import read_ordinary

PREDICTIONS = b"image,file,label"
"""What a table of predictions begins with."""
_HEAD = 1 << 16
_TRAININGS = ("train", "finetune", "train-gate")


def obstacle(path: Path) -> str | None:
    """What stands against replacing a file, as in ``is the result of a training``.

    Args:
        path: An ordinary file.

    Returns:
        None for an empty file, and for what decompose writes: an analysis's result, an index file, a page, a table of
        predictions, or a checkpoint.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD).lstrip()
    is_ours = not head
    if path.suffix == ".safetensors":
        is_ours = is_ours or b'"decompose"' in head
    elif path.suffix.lower() == ".csv":
        is_ours = is_ours or head.startswith(PREDICTIONS)
    elif head[:1] == b"<":
        is_ours = b'name="generator" content="decompose' in head
    elif head[:1] in (b"{", b"["):
        content = _json(path)
        if isinstance(content, dict) and {"schema_version", "command", "results"} <= content.keys():
            return "is the result of a training" if content["command"] in _TRAININGS else None
        is_ours = _is_index_set(content)
    return None if is_ours else "was not written by decompose"


def holds_run(folder: Path) -> bool:
    """Whether a folder has the configuration of a training."""
    content = _json(folder / CONFIG)
    return isinstance(content, dict) and content.get("command") in _TRAININGS


def _json(path: Path) -> Any:
    """The content of a JSON file; None where there is none."""
    try:
        return json.loads(read_ordinary(path))
    except (InputError, OSError, ValueError, RecursionError):
        return None


def _is_index_set(content: Any) -> bool:
    if isinstance(content, dict) and "format" in content:
        return bool(content["format"] == "decompose-index-set")
    rows = list(content.values()) if isinstance(content, dict) else content
    return bool(rows) and all(isinstance(row, list) and all(isinstance(part, int) for part in row) for row in rows)
