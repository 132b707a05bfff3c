"""Whether a process that this one started is gone: known where it is noticed, asked for where the command ends."""

from __future__ import annotations

import threading

LOST = threading.Event()
"""Set when a process has ended before its work was done; the first process is then asked to end as well."""
