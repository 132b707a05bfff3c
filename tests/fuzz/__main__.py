"""See the package; this finds it, wherever it is run from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
# For these imports only: with all folders of tests on the path, SciPy would take `sparse` for the package of that name.
sys.path[0] = str(Path(__file__).parent.parent)
from fuzz.campaign import main  # noqa: E402

del sys.path[0]

if __name__ == "__main__":
    sys.exit(main())
