"""Opening a page that was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from decompose_cli.cli.options.declaration import option
from decompose_cli.messages import note

OPEN = Annotated[bool, option("--open", help="Open the page in the browser.")]


def show_page(path: Path) -> None:
    """Open a page in the browser of the desktop, where there is one."""
    import webbrowser

    if not webbrowser.open(path.resolve().as_uri()):
        note(f"No browser could be started; open {path} in one.")
