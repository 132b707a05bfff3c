"""Run the notebook of ``examples/`` anew, with its outputs: ``make docs``."""

from __future__ import annotations

import os
import tempfile
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = Path(__file__).parents[1] / "examples" / "study.ipynb"
_SECONDS = 600
_KEPT = ("text/plain", "text/html", "image/png")
_WIDEST, _COLOURS = 800, 64


def executed(folder: Path) -> Any:
    """The notebook with fresh outputs, run in a folder; without numbers and times that change with every run."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    client = NotebookClient(notebook, timeout=_SECONDS, resources={"metadata": {"path": str(folder)}})
    client.execute()
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.execution_count = number + 1
        cell.metadata.pop("execution", None)
        cell.outputs = [output for output in cell.outputs if output.output_type != "stream" or output.name == "stdout"]
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number + 1
            if "data" in output:
                output.data = {kind: value for kind, value in output.data.items() if kind in _KEPT}
                if "image/png" in output.data:
                    output.data["image/png"] = _smaller(output.data["image/png"])
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _smaller(content: str) -> str:
    """A picture, in Base64, of fewer pixels and colours, as a file under version control had better have."""
    with Image.open(BytesIO(b64decode(content))) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((_WIDEST, 10 * _WIDEST))
    target = BytesIO()
    picture.quantize(_COLOURS).save(target, "png", optimize=True)
    return b64encode(target.getvalue()).decode()


def said(notebook: Any) -> list[list[str]]:
    """What each code cell shows in words: printed text, tables and values; pictures as the word alone."""
    shown = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        texts = []
        for output in cell.outputs:
            data = output.get("data", {})
            words = data.get("text/html") or data.get("text/plain") or output.get("text", "")
            texts.append("picture" if "image/png" in data else words)
        shown.append(texts)
    return shown


def update(folder: Path) -> bool:
    """Write the notebook with fresh outputs, unless it says already what they say; return whether it was written."""
    fresh = executed(folder)
    if said(fresh) == said(nbformat.read(NOTEBOOK, as_version=4)):
        return False
    nbformat.write(fresh, NOTEBOOK)
    return True


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print("updated study.ipynb" if update(Path(place)) else "study.ipynb is up to date")
