"""Figures as SVG that lives inside an HTML page: its colours follow the page, and its points say what they are."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from decompose_cli.reporting.look import COLOURS

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_TIPS = "tips:"
_INK = re.compile(r"#[0-9a-f]{6}")
_FONT = re.compile(r"font: (?P<size>[\d.]+px)[^;]*")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def tell(artist: Artist, texts: Sequence[str]) -> None:
    """Let the points of a line, or the one shape of a patch, say something when pointed at in :func:`svg`."""
    artist.set_gid(_TIPS + json.dumps(list(texts)))


def tell_points(axes: Axes, x: Sequence[float], y: Sequence[float], texts: Sequence[str]) -> None:
    """Let points say something when pointed at: invisible ones, larger than a line or its markers are."""
    if len(x) > 0:
        (line,) = axes.plot(x, y, linestyle="", marker="o", markersize=9, alpha=0)
        tell(line, texts)


def svg(figure: Figure, prefix: str) -> str:
    """The figure as an ``<svg>`` element.

    Black, greys and the colours of :mod:`.look` become variables of the page's style sheet (``--ink``, ``--muted``,
    ``--line``, ``--series-0``, ...), text stays text in the page's font.

    Args:
        figure: Not changed.
        prefix: Put before every id, so that no two figures of a page share one.
    """
    from matplotlib import rc_context

    target = BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(target.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{{{_SVG}}}metadata":
                parent.remove(child)
    for element in root.iter():
        _adapt(element, prefix)
    root.attrib.pop("width")
    root.attrib.pop("height")
    root.set("aria-hidden", "true")  # the figure around it has a name, and a table of the same values
    ElementTree.register_namespace("", _SVG)
    return ElementTree.tostring(root, encoding="unicode").replace(f' xmlns="{_SVG}"', "")


def _adapt(element: ElementTree.Element, prefix: str) -> None:
    name = element.attrib.pop("id", None)
    if name is not None and name.startswith(_TIPS):
        _add_titles(element, json.loads(name.removeprefix(_TIPS)))
    elif name is not None and element.tag in (f"{{{_SVG}}}path", f"{{{_SVG}}}clipPath"):  # what is referred to
        element.set("id", f"{prefix}-{name}")
    link = element.attrib.pop(_LINK, None)
    if link is not None:
        element.set("href", f"#{prefix}-{link.removeprefix('#')}")
    for attribute in ("style", "fill", "stroke", "clip-path"):
        text = element.get(attribute)
        if text is not None:
            text = _REFERENCE.sub(rf"url(#{prefix}-\1)", text)
            text = _INK.sub(lambda match: _variable(match.group()), text)
            element.set(attribute, _FONT.sub(r"font-size: \g<size>", text))


def _add_titles(element: ElementTree.Element, texts: Sequence[str]) -> None:
    """Markers are ``<use>`` elements in the order of the points; a patch is one ``<path>``."""
    shapes = list(element.iter(f"{{{_SVG}}}use")) or [element]
    element.set("class", "told")
    for shape, text in zip(shapes, texts, strict=True):
        title = ElementTree.Element(f"{{{_SVG}}}title")
        title.text = text
        shape.insert(0, title)


def _variable(colour: str) -> str:
    for number, known in enumerate(COLOURS[:-1]):
        if colour == known.lower():
            return f"var(--series-{number})"
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    if not red == green == blue:
        return colour
    return "var(--ink)" if red < 0x20 else "var(--muted)" if red < 0xA0 else "var(--line)"
