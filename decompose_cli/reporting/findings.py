"""Results as Python programs and notebooks have them: tables, figures, and the document that the commands write."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, PrivateAttr
from typing_extensions import override

from decompose_cli.errors import InputError, first_few
from decompose_cli.extras import import_extra
from decompose_cli.reporting.predictions import PredictionTable
from decompose_cli.reporting.style import picture_figure
from decompose_cli.storage.file_sets import check_replaceable, write_document, write_result
from decompose_cli.storage.files import check_folder_writable, check_writable, user_path
from decompose_cli.storage.names import RESULT
from decompose_cli.storage.result_document import ResultDocument

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Row = dict[str, Any]
_MOST_SHOWN = 30


class Findings(BaseModel, ABC):
    """The results of a command.

    Those that a function of the package returns know the document that the command would have written: network, images,
    arguments, versions. Two are equal where their figures are.
    """

    _document: ResultDocument[Any] | None = PrivateAttr(default=None)
    _pictures: dict[str, bytes] = PrivateAttr(default_factory=dict)
    _predictions: PredictionTable | None = PrivateAttr(default=None)

    @abstractmethod
    def tables(self) -> Mapping[str, list[Row]]:
        """The results as tables by name, the one that says most first; each row has a value by the name of its column.

        Percentages are columns ``top1``, ``low`` and ``high`` (the ends of the 95% interval), differences ``points``.
        """

    @abstractmethod
    def drawn(self) -> Figure | None:
        """The figure, or None where there is nothing to draw."""

    def picture(self, name: str) -> Figure | None:
        """A picture that belongs to the results, as a figure; None where they are without."""
        content = self._pictures.get(name)
        return None if content is None else picture_figure(content)

    @property
    def predictions(self) -> PredictionTable:
        """What each head says of each image; ``predictions`` is also a table of :meth:`to_frame`.

        Raises:
            InputError: The command was not asked for it, or the results were read from a document, which lacks it.
        """
        if self._predictions is None:
            raise InputError("These results have no predictions for single images: no command was asked for them.")
        return self._predictions

    @property
    def document(self) -> ResultDocument[Any]:
        """The document that the command would have written, with these results.

        Raises:
            InputError: The results are part of others, or were read from no document.
        """
        if self._document is None:
            raise InputError(
                f"This {type(self).__name__} has no document of its own, as no function of the package returned it."
            )
        return self._document

    @property
    def pictures(self) -> Mapping[str, bytes]:
        """The pictures that belong to the document, PNG files by their names."""
        return self._pictures

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, where the document says them."""
        dataset = None if self._document is None else self._document.dataset
        return None if dataset is None else tuple(dataset.classes)

    def called(self, number: int | str) -> str:
        """A class by its name, or its number where it has none."""
        names = self.class_names
        return str(number) if names is None else names[int(number)]

    def to_frame(self, table: str | None = None) -> DataFrame:
        """One of the tables as a pandas data frame.

        Args:
            table: Name of the table, a key of :meth:`tables`; the first by default.

        Raises:
            InputError: There is no such table, or pandas is missing.
        """
        tables = dict(self.tables())
        if self._predictions is not None:
            tables["predictions"] = self._predictions.rows()
        name = next(iter(tables)) if table is None else table
        if name not in tables:
            raise InputError(f"There is no table {name!r}; choose {first_few(tables, 10)}.")
        pandas = import_extra("pandas", "notebook", "to_frame()")
        return cast("DataFrame", pandas.DataFrame(tables[name]))

    def figure(self) -> Figure:
        """The plot of the results, as a matplotlib figure.

        Raises:
            InputError: There is nothing to draw.
        """
        figure = self.drawn()
        if figure is None:
            raise InputError(f"There is nothing to draw in this {type(self).__name__}.")
        return figure

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the document, which ``report`` takes, to a file that ends in ``.json``, or with pictures into a folder.

        Args:
            path: The file, or the folder.
            overwrite: Whether an existing file may be replaced.

        Raises:
            InputError: The path cannot be used.
            DecomposeError: The file cannot be written; nothing is left behind.
        """
        document, target = self.document, user_path(path)
        if target.suffix == ".json":
            check_writable(target, overwrite=overwrite)
            write_document(document, target)
            return
        pictures = {target / name: content for name, content in self._pictures.items()}
        check_folder_writable(target)
        check_replaceable([*pictures, target / RESULT], target / RESULT, overwrite=overwrite)
        write_result(document, target / RESULT, dict(pictures))

    def _repr_html_(self) -> str:
        parts = []
        if self._document is not None:
            document = self._document
            about = [document.command]
            if document.model is not None:
                about.append(document.model.name)
            if document.dataset is not None:
                about.append(f"{document.dataset.name} {document.dataset.split}, {document.dataset.images:,} images")
            parts.append(f"<p><b>{html.escape(' · '.join(about))}</b></p>")
        for name, rows in self.tables().items():
            if rows:
                parts.append(_as_html(name, rows))
                break
        return f"<div>{''.join(parts)}</div>"

    @override
    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]


def _as_html(name: str, rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    head = "".join(f'<th style="text-align:left">{html.escape(column)}</th>' for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(row.get(column)))}</td>" for column in columns) + "</tr>"
        for row in rows[:_MOST_SHOWN]
    )
    more = len(rows) - _MOST_SHOWN
    note = f"<p>{more:,} more rows: .to_frame({name!r})</p>" if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:.2f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    return str(value)


def accuracy_cells(correct: int, total: int, top1: float, interval: tuple[float, float]) -> Row:
    """The columns of an accuracy."""
    return {"correct": correct, "total": total, "top1": top1, "low": interval[0], "high": interval[1]}


def difference_cells(points: float, interval: tuple[float, float], p: float) -> Row:
    """The columns of a difference of accuracies on the same images."""
    return {"points": points, "low": interval[0], "high": interval[1], "mcnemar_p": p}
