"""``report``: one HTML page from any mix of results, which needs no other file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from decompose_cli.errors import InputError, first_line
from decompose_cli.page.blocks import Block, Fold, Group, Live, Section
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source, read_sources
from decompose_cli.page.feature_names import check_numbers, read_names
from decompose_cli.page.sections import (
    accuracy,
    atlas,
    by_k,
    compare,
    confusion,
    essentiality,
    gates,
    glance,
    looking,
    mistakes,
    overlap,
    provenance,
    selectivity,
    sharing,
    sparse,
    sums,
    training,
    what_if,
)
from decompose_cli.printable import printable
from decompose_cli.reporting.findings import Findings
from decompose_cli.storage.files import as_bytes, check_writable, user_path, write_text
from decompose_cli.storage.names import RESULT
from decompose_cli.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

LARGEST = 5_000_000
"""The number of bytes that a page should not exceed."""
_TEMPLATES = Path(__file__).parent / "templates"
SECTIONS: tuple[ModuleType, ...] = (
    glance,
    what_if,
    accuracy,
    compare,
    by_k,
    sparse,
    sums,
    sharing,
    overlap,
    essentiality,
    selectivity,
    confusion,
    mistakes,
    atlas,
    looking,
    training,
    gates,
    provenance,
)
"""The sections, in their order on the page."""


@dataclass(frozen=True)
class Report:
    """A page: its text, its sections, what it was made of, and how many pictures had no room in it."""

    html: str = field(repr=False)
    sections: tuple[Section, ...] = field(repr=False)
    sources: tuple[Source, ...]
    left_out: int

    @property
    def size(self) -> int:
        """The size of the page in bytes."""
        return len(self.html.encode())


def report(
    places: Sequence[str | Path | Findings] | str | Path | Findings,
    *,
    output: str | Path | None = None,
    title: str | None = None,
    overwrite: bool = False,
    with_images: bool = True,
    is_live: bool = True,
    unwritten: Mapping[Path, object] | None = None,
    names: Mapping[int, str] | str | Path | None = None,
) -> Report:
    """Put results on one page that needs nothing else: no network, no other file.

    Charts are SVG by matplotlib (see :mod:`decompose_cli.reporting.vector`), which draws the plots of the commands as
    well; matrices are tables, or pictures where they are large.

    Args:
        places: Result files, runs, and folders of them, each perhaps as ``NAME=FILE``, which the page calls it; results
            of functions such as ``validate``; or one of these.
        output: Where the page is written; None to only return it.
        title: Title of the page; by default what the first results are about.
        overwrite: Whether an existing file may be replaced.
        with_images: Whether misclassified images are looked up in their data sets, where these are at hand.
        is_live: Whether the page has heads that it computes anew as features are switched off and on, where the
            features of the images are in the cache.
        unwritten: Text or bytes of files, documents and pictures, that are read here and not from the disk.
        names: Names of features by number, or a file of them: JSON such as ``{"3": "wheels"}``, or CSV with the header
            ``feature,name``.

    Raises:
        InputError: Something given cannot be used; nothing has been written.
        DecomposeError: The page cannot be written.
    """
    found = [places] if isinstance(places, str | Path | Findings) else list(places)
    unwritten, places = _written({**(unwritten or {})}, found)
    output = None if output is None else user_path(output)
    if not places:
        raise InputError("There is nothing to report on.", hint="Name result files, runs or folders of them.")
    if output is not None:
        check_writable(output, overwrite=overwrite)
    feature_names = read_names(names)
    named = dict(map(_named, places))
    sources = read_sources(list(named), unwritten, {path: name for path, name in named.items() if name is not None})
    if output is not None and output.resolve() in {source.path.resolve() for source in sources}:
        raise InputError(f"{output} is one of the results; give the page another name.")
    check_numbers(feature_names, sources)
    context = Context(sources, has_images=with_images, is_live=is_live, unwritten=unwritten, names=feature_names)
    sections = tuple(section for module in SECTIONS if (section := _built(module.section, context)) is not None)
    html = _rendered(printable(title) if title else _usual_title(sources), sections, len(sources), context.left_out)
    if output is not None:
        write_text(output, html)
    return Report(html, sections, tuple(sources), context.left_out)


def _written(
    unwritten: dict[Path, object], found: Sequence[str | Path | Findings]
) -> tuple[dict[Path, object], list[str | Path]]:
    """The places, results in memory as documents that are not on the disk, each in a folder of its own."""
    places: list[str | Path] = []
    for number, place in enumerate(found):
        if isinstance(place, Findings):
            folder = Path(f"{place.document.command}-{number}")
            unwritten |= {folder / name: content for name, content in place.pictures.items()}
            unwritten[folder / RESULT] = place.document.to_json()
            place = folder / RESULT
        elif not isinstance(place, str | Path):
            raise InputError(
                f"A result is of the type {type(place).__name__}, neither a file nor what a function gave."
            )
        places.append(place)
    return unwritten, places


def _named(place: str | Path) -> tuple[Path, str | None]:
    """The path of a place, and the name before it, where there is one; a path may have an equals sign of its own."""
    name, sign, rest = str(place).partition("=")
    if not sign or user_path(place).exists() or "/" in name or not name.strip() or not rest:
        return user_path(place), None
    return user_path(rest), printable(name.strip())


_Builder = Callable[[Context], Section | None]
_OF_SHAPES = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)
"""Errors from numbers of the right type that do not fit together: lists of different lengths and the like."""


def _built(builder: _Builder, context: Context) -> Section | None:
    try:
        return builder(context)
    except _OF_SHAPES as error:
        broken = next((source for source in context.sources if not _is_usable(builder, source)), context.sources[0])
        raise InputError(
            f"{broken.path} is no usable result of '{broken.command}': what is in it does not fit together "
            f"({type(error).__name__}: {first_line(error)})."
        ) from error


def _is_usable(builder: _Builder, source: Source) -> bool:
    try:
        builder(Context([source], has_images=False, is_live=False))
    except _OF_SHAPES:
        return False
    return True


def _usual_title(sources: Sequence[Source]) -> str:
    subjects = list(dict.fromkeys(source.subject for source in sources if source.subject))
    more = f" and {len(subjects) - 1} more" if len(subjects) > 1 else ""
    return f"{subjects[0]}{more}" if subjects else "Results"


@cache  # with the templates that it has compiled
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@dataclass(frozen=True)
class _Script:
    """A script in the page: its text, and what the policy of the page calls it."""

    text: str
    hash: str


def _script(name: str) -> _Script:
    text = (_TEMPLATES / name).read_text(encoding="utf-8")
    return _Script(text, f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}")


def _has_live(blocks: Sequence[Block]) -> bool:
    inside = [_has_live(block.blocks) for block in blocks if isinstance(block, Fold | Group)]
    return any(inside) or any(isinstance(block, Live) for block in blocks)


def _rendered(title: str, sections: Sequence[Section], count: int, left_out: int) -> str:
    page_script = _script("page.js")
    scripts = {section.id: _script("live.js") for section in sections if _has_live(section.blocks)}
    page = (
        _environment()
        .get_template("page.html")
        .render(
            title=title,
            sections=sections,
            count=count,
            left_out=left_out,
            version=__version__,
            made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            style=(_TEMPLATES / "style.css").read_text(encoding="utf-8"),
            script=page_script.text,
            titles={section.id: section.title for section in sections},
            scripts=scripts,  # each right after the section that it fills, so that what comes after that never moves
            script_hashes=" ".join(sorted({f"'{script.hash}'" for script in (page_script, *scripts.values())})),
        )
    )
    return as_bytes(page.strip() + "\n").decode()
