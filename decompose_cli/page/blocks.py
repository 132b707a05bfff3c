"""The blocks that a page is made of. The template knows each by its ``kind``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Union

Cell = Union[str, int, float, tuple[float, float], None]
"""Text, a number, an interval, or nothing."""


@dataclass(frozen=True)
class Column:
    """One column of a table: its heading, and how many decimals its numbers are shown with.

    ``is_p``: whether its numbers are probabilities, which are shown with two significant digits, however small.
    """

    title: str
    digits: int = 2
    is_signed: bool = False
    is_p: bool = False

    def shown(self, cell: Cell) -> str:
        """The text that shows a cell."""
        if cell is None:
            return "\N{EN DASH}"
        if isinstance(cell, str):
            return cell
        if isinstance(cell, tuple):
            return f"{self.shown(float(cell[0]))} to {self.shown(float(cell[1]))}"
        if isinstance(cell, int):
            return f"{cell:+,}" if self.is_signed else f"{cell:,}"
        if self.is_p:
            return f"{cell:.2g}"
        return f"{cell:+.{self.digits}f}" if self.is_signed else f"{cell:,.{self.digits}f}"

    def order(self, cell: Cell) -> str:
        """The key that a cell is sorted by: a number as JavaScript reads it, or nothing for text."""
        if isinstance(cell, tuple):
            cell = (cell[0] + cell[1]) / 2
        return repr(cell) if isinstance(cell, (int, float)) and math.isfinite(cell) else ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Answer:
    """A question, and what results say to it: sentences, each with the section of the page that says more, if any."""

    question: str
    sentences: Sequence[tuple[str, str | None]]


@dataclass(frozen=True)
class Verdict:
    """Questions with their answers."""

    kind: ClassVar[str] = "verdict"
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Figures:
    """Numbers to be seen first: label, number, and further words of each."""

    kind: ClassVar[str] = "figures"
    items: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    """A sortable table, whose first column heads the rows. ``is_folded``: whether it opens by a click only."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    is_folded: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing: ``svg`` is its markup, ``narrow`` that for a phone, ``values`` a table of the same numbers."""

    kind: ClassVar[str] = "chart"
    title: str
    svg: str
    narrow: str
    values: Table


@dataclass(frozen=True)
class Shade:
    """One cell of a grid: its text, its darkness (-1 to 1), and the words that show when it is pointed at."""

    text: str
    value: float
    tip: str

    @property
    def percent(self) -> int:
        """The percentage of colour, on which the text stays readable."""
        return round(65 * min(1.0, abs(self.value)))


@dataclass(frozen=True)
class Grid:
    """A small matrix as a table of coloured cells. ``corner``: names of the rows' and the columns' kind.

    ``is_signed``: whether positive and negative values have different colours.
    """

    kind: ClassVar[str] = "grid"
    caption: str
    corner: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[Shade]]
    is_signed: bool = False


@dataclass(frozen=True)
class Raster:
    """A large matrix as a picture, a pixel per cell; ``data`` names the cell that is pointed at."""

    kind: ClassVar[str] = "raster"
    caption: str
    alt: str
    uri: str
    width: int
    height: int
    data: dict[str, object]
    is_grey: bool = True


@dataclass(frozen=True)
class Picture:
    """An image in the page; ``alt`` says it to those who cannot see it."""

    kind: ClassVar[str] = "picture"
    uri: str
    alt: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True)
class Gallery:
    """Small pictures in rows."""

    kind: ClassVar[str] = "gallery"
    caption: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Panel:
    """A picture in a row of them. ``scale``: its lowest and highest value, where its colours stand for values."""

    picture: Picture
    scale: tuple[float, float] | None = None


@dataclass(frozen=True)
class Panels:
    """Pictures side by side, with words above them and lines of text below. ``is_small``: whether many share a row."""

    kind: ClassVar[str] = "panels"
    caption: str
    panels: Sequence[Panel]
    lines: Sequence[str] = ()
    is_small: bool = False


@dataclass(frozen=True)
class Term:
    """One term of a sum: its factor as text, how dark that is (-1 to 1), what it multiplies, and a picture of that."""

    factor: Shade
    what: str
    more: str
    picture: Picture | None


@dataclass(frozen=True)
class Sum:
    """A number as a sum of pictured terms."""

    kind: ClassVar[str] = "sum"
    caption: str
    terms: Sequence[Term]


@dataclass(frozen=True)
class Live:
    """A head that the page computes anew as its features are switched off and on; ``data`` is what it computes with."""

    kind: ClassVar[str] = "live"
    caption: str
    data: dict[str, object]


@dataclass(frozen=True)
class Part:
    """What a sentence adds or takes away, and a picture of it."""

    sign: str
    what: str
    picture: Picture | None


@dataclass(frozen=True)
class Sentence:
    """Something that is the sum of a few parts of one size, as a sentence with pictures."""

    kind: ClassVar[str] = "sentence"
    subject: str
    parts: Sequence[Part]

    @property
    def text(self) -> str:
        """The sentence, as ``cat = feature 3 + feature 17 - feature 40``; a plus before the first part is left out."""
        said = " ".join(f"{part.sign} {part.what}" for part in self.parts)
        return f"{self.subject} = {said.removeprefix('+ ')}"


@dataclass(frozen=True)
class Lines:
    """A cell of several lines, the first of which counts most. ``order``: the number that it is sorted by."""

    lines: Sequence[str]
    order: float | None = None


@dataclass(frozen=True)
class Entry:
    """A row of an atlas: what it is called, its number, its picture, and a cell for each further column.

    ``words``: what a search finds it by, beside its name and number.
    """

    name: str
    number: int
    picture: Picture | None
    cells: Sequence[Lines]
    words: Sequence[str]


@dataclass(frozen=True)
class Atlas:
    """A sortable table of pictured rows that can be searched; ``things``: what its rows are, in the plural."""

    kind: ClassVar[str] = "atlas"
    caption: str
    things: str
    columns: Sequence[str]
    entries: Sequence[Entry]


Block = Union[
    "Text",
    "Verdict",
    "Figures",
    "Table",
    "Chart",
    "Grid",
    "Raster",
    "Picture",
    "Gallery",
    "Sum",
    "Live",
    "Sentence",
    "Atlas",
    "Panels",
    "Fold",
    "Group",
]


@dataclass(frozen=True)
class Fold:
    """Blocks that a click on ``title`` opens."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Group:
    """Blocks under a heading of their own."""

    kind: ClassVar[str] = "group"
    title: str
    blocks: Sequence[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """A section of the page on one subject. ``lead``: what is shown and how to read it.

    ``is_open``: whether it is unfolded from the start.
    """

    id: str
    title: str
    lead: str
    blocks: Sequence[Block]
    is_open: bool = False
