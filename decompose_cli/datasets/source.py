"""What was typed of images of one's own: the kind of their files, where these are, and which columns hold what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from decompose_cli.errors import InputError, param
from decompose_cli.storage.files import user_path

if TYPE_CHECKING:
    from decompose_cli.datasets.base import ImageDataset

COLUMNS = ("image", "label", "split")


@dataclass(frozen=True)
class Source:
    """Images that are named as ``KIND:REST``.

    Attributes:
        name: As it was written on the command line, with the kind.
        rest: What follows the kind: a path, a pattern, or a name elsewhere.
        columns: Names of columns by what they hold, of :data:`COLUMNS`; those that are not given are guessed.
        allow_download: Whether the network may be used.
    """

    name: str
    rest: str
    columns: Mapping[str, str] = field(default_factory=dict)
    allow_download: bool = True

    @property
    def path(self) -> Path:
        """The rest as a path.

        Raises:
            InputError: It is empty.
        """
        if not self.rest:
            raise InputError(f"{param('dataset')} {self.name} names no file.")
        return user_path(self.rest)

    @property
    def key(self) -> str:
        """What was typed, as one text."""
        return repr((self.name, sorted(self.columns.items()), self.allow_download))


class Found(Protocol):
    """What is where a source says."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Which of ``train``, ``val`` and ``test`` there are."""

    def open(self, split: str) -> ImageDataset:
        """The images of one of these splits."""


def parse_columns(text: str | None) -> dict[str, str]:
    """Columns as they are typed: ``image=path,label=class``.

    Raises:
        InputError: The text is not made of these, or names something else than :data:`COLUMNS`.
    """
    columns: dict[str, str] = {}
    for part in text.split(",") if text is not None else ():
        what, equals, column = (word.strip() for word in part.partition("="))
        if what not in COLUMNS or not equals or not column:
            raise InputError(
                f"{param('columns')} {part!r} is not image=NAME, label=NAME or split=NAME.",
                hint="Several are separated by commas: image=path,label=class.",
            )
        if columns.setdefault(what, column) != column:
            raise InputError(f"{param('columns')} names {what} twice.")
    return columns
