"""Names of the files by which a folder of results, or of a training, is known."""

from __future__ import annotations

RESULT = "result.json"
"""The result document."""
CONFIG = "config.json"
"""The configuration of a run."""
LAST, BEST = "last.pt", "best.pt"
"""Checkpoints of a run."""
LOG = "log.csv"
"""Losses and accuracies of a run by epoch."""
