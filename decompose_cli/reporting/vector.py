"""Figures as SVG that lives inside an HTML page: its colours follow the page, and its points say what they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from decompose_cli.reporting.style import COLOURS, saved

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_TIP = "tip:"
_RADIUS = 4.5
_INK = re.compile(r"#[0-9a-f]{6}")
_FONT = re.compile(r"font: (?P<size>[\d.]+px)[^;]*")
_FAMILY = re.compile(r"font-family: [^;]*;? ?")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def tell(artist: Artist, text: str) -> None:
    """Let a shape, such as a bar, say something when pointed at in :func:`svg`."""
    artist.set_gid(_TIP + text)


def tell_points(axes: Axes, x: Sequence[float], y: Sequence[float], texts: Sequence[str]) -> None:
    """Let points say something when pointed at; they are invisible, and larger than the markers of the line."""
    axes.add_artist(_points()(x, y, texts))


@cache
def _points() -> type[Any]:
    """The class of artists that draw points with a name; made when matplotlib is needed."""
    from matplotlib.artist import Artist
    from matplotlib.path import Path
    from matplotlib.transforms import Affine2D, IdentityTransform

    class Points(Artist):
        """Invisible points. Each is in a group of its own, because SVG leaves out those beyond the picture."""

        def __init__(self, x: Sequence[float], y: Sequence[float], texts: Sequence[str]) -> None:
            super().__init__()
            self._named = list(zip(x, y, texts, strict=True))
            self.set_in_layout(False)
            self.set_zorder(5)

        def draw(self, renderer: Any) -> None:
            assert self.axes is not None
            transform = self.axes.transData.transform
            gc = renderer.new_gc()
            gc.set_alpha(0)
            size = Affine2D().scale(renderer.points_to_pixels(_RADIUS))
            for x, y, text in self._named:
                place = Path([transform((x, y))])
                renderer.open_group("point", _TIP + text)
                renderer.draw_markers(gc, Path.unit_circle(), size, place, IdentityTransform(), (0, 0, 0))
                renderer.close_group("point")
            gc.restore()

    return Points


def svg(figure: Figure, prefix: str) -> str:
    """The figure as an ``<svg>`` element.

    Black, greys and the colours of :mod:`.style` become variables of the page's style sheet (``--ink``, ``--muted``,
    ``--line``, ``--series-0``, ...); text stays text, in the page's font.

    Args:
        figure: The figure, which is not changed.
        prefix: Text before every id, so that no two figures of a page share one.
    """
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        root = ElementTree.fromstring(saved(figure, format="svg", transparent=True, metadata={"Date": None}))
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
    if name is not None and name.startswith(_TIP):
        element.set("class", "told")
        title = ElementTree.Element(f"{{{_SVG}}}title")
        title.text = name.removeprefix(_TIP)
        element.insert(0, title)
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
            element.set(attribute, _FAMILY.sub("", _FONT.sub(r"font-size: \g<size>", text)))


def _variable(colour: str) -> str:
    for number, known in enumerate(COLOURS[:-1]):
        if colour == known.lower():
            return f"var(--series-{number})"
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    if not red == green == blue:
        return colour
    if red > 0xF8:
        return "var(--paper)"
    return "var(--ink)" if red < 0x20 else "var(--muted)" if red < 0xA0 else "var(--line)"
