"""The signals that ask a program to end: Ctrl-C, a request from outside, and a terminal that has gone."""

from __future__ import annotations

import signal

ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP


def heard() -> tuple[signal.Signals, ...]:
    """Those of them that are not ignored, as jobs in the background ignore Ctrl-C, and those of nohup the last."""
    return tuple(number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN)
