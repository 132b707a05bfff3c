"""``extract-indices``: the features that each class uses, as index files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel

from decompose_cli.decomposition.index_set import IndexSet, index_set_text
from decompose_cli.decomposition.index_set import Layout as Rows
from decompose_cli.decomposition.ranking import (
    DEFAULT_K,
    DEFAULT_METHOD,
    RANKINGS,
    check_order,
    data_for,
    parse_method,
    parse_order,
    select,
)
from decompose_cli.decomposition.sampling import count_searched
from decompose_cli.decomposition.sizes import check_k
from decompose_cli.errors import InputError, one_of
from decompose_cli.features.labelled import LabelledFeatures, Order
from decompose_cli.features.study import Inputs, Study
from decompose_cli.storage.file_sets import Content, check_replaceable, write_files, write_result
from decompose_cli.storage.files import check_place, check_writable, file_stem
from decompose_cli.storage.result_document import ResultDocument, Stopwatch


class Extracted(BaseModel):
    """One index set: the file it is in (null if none was written) and the indices per class, in the ranking's order.

    A class that keeps its whole row of the full head, as it has no images, has ``all`` for indices, and does not count
    in ``features_per_class``.

    ``searched``: of more than 100,000 images those that fits looked at, drawn by class; null where all were looked at.
    """

    file: str | None
    k: int | float
    method: str
    features_per_class: tuple[int, int]
    searched: int | None = None
    indices: Rows


Layout = Literal["published", "document"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
ExtractResults = dict[str, Extracted]
"""The index sets by k, as k was written on the command line."""


@dataclass(frozen=True)
class ExtractSettings:
    """How features are chosen, and how the index files are laid out.

    Attributes:
        k: Features per class, or fractions, one set for each; see :func:`decompose_cli.decomposition.ranking.select`.
        method: Name of the ranking.
        order: Which gates are taken by a ranking that needs gates.
        layout: ``published``, or ``document``, which also has D and the provenance.

    Raises:
        InputError: There is no k, a word is unknown, or an order is given for a ranking without gates.
    """

    k: Sequence[int | float] = (DEFAULT_K,)
    method: str = DEFAULT_METHOD
    order: Order = "highest"
    layout: Layout = "published"

    def __post_init__(self) -> None:
        if not self.k:
            raise InputError("No k was given.")
        one_of(self.layout, LAYOUTS, "layout")
        parse_method(self.method)
        parse_order(self.order)
        check_order(self.order, uses_gates=RANKINGS[self.method].needs_gates)


def extract_indices(
    inputs: Inputs,
    settings: ExtractSettings | None = None,
    *,
    output: Path | None = None,
    folder: Path | None = None,
    result: Path | None = None,
    overwrite: bool = False,
) -> ResultDocument[ExtractResults]:
    """Rank the penultimate features per class over a split (``train``) and keep the best.

    Args:
        inputs: The network and the images.
        settings: How features are chosen; by default the five most frequent.
        output: The index file, for one k. Without it and without ``folder`` nothing is written.
        folder: Gets ``<model>_<dataset>_k<k>_indices.json`` for each k.
        result: A file beside them that gets the document; all files are written, or none.
        overwrite: Whether files may be replaced.

    Raises:
        InputError: Something given cannot be used; nothing has been written.
        DecomposeError: The work failed.
    """
    watch = Stopwatch()
    settings = settings or ExtractSettings()
    ks, method, order = settings.k, settings.method, settings.order
    study = Study(inputs, ("train",))
    files = _files(output, folder, ks, study)
    _check_files(files, output, result, overwrite=overwrite)
    for k in ks:
        check_k(k, study.head.num_features)
    data = data_for(study, [method], order)
    sets = _sets(data, method, ks)
    searched = count_searched(data.labels, is_searched=RANKINGS[method].is_fitted)
    provenance = {
        "method": method,
        **({"order": order} if RANKINGS[method].needs_gates else {}),
        **({} if searched is None else {"searched": searched}),
        "model": study.describe_model().model_dump(),
        "dataset": study.describe_dataset().model_dump(exclude={"classes", "part"}),
        **({} if study.part is None else {"part": study.part.model_dump()}),
    }
    texts: dict[Path, Content] = {}
    for k, index_set, file in zip(ks, sets, files, strict=True):
        if file is not None:
            complete = dataclasses.replace(index_set, provenance={**provenance, "k": k})
            # Only the document says of which classes it is.
            is_document = settings.layout == "document" or study.part is not None
            texts[file] = index_set_text(complete, document=is_document)
    results = {
        str(k): Extracted(
            file=str(file) if file else None,
            k=k,
            method=method,
            features_per_class=index_set.sizes,
            searched=searched,
            indices=index_set.published_layout(),
        )
        for k, index_set, file in zip(ks, sets, files, strict=True)
    }
    document = study.document(
        "extract-indices",
        {"k": list(ks), "method": method, "order": order, "document": settings.layout == "document"},
        results,
        watch,
    )
    if result is not None:
        write_result(document, result, texts)
    elif texts:
        write_files(texts)
    return document


def _sets(data: LabelledFeatures, method: str, ks: Sequence[int | float]) -> list[IndexSet]:
    """The set for each k; of a ranking that fits no heads, those for whole numbers together."""
    ranking, whole = RANKINGS[method], sorted(k for k in ks if isinstance(k, int))
    together = len(whole) > 1 and not ranking.is_fitted
    many = dict(zip(whole, ranking.sets(data, whole), strict=True)) if together else {}
    return [many[k] if isinstance(k, int) and k in many else select(data, method, k) for k in ks]


def _files(output: Path | None, folder: Path | None, ks: Sequence[int | float], study: Study) -> list[Path | None]:
    if output is not None:
        if len(ks) > 1:
            raise InputError(f"{len(ks)} values of k need a folder, not the file {output}.")
        return [output]
    if folder is None:
        return [None] * len(ks)
    stem = f"{file_stem(study.classifier.name)}_{file_stem(study.dataset.name)}"
    return [folder / f"{stem}_k{k}_indices.json" for k in ks]


def _check_files(files: Sequence[Path | None], output: Path | None, result: Path | None, *, overwrite: bool) -> None:
    """Refuse what may not be replaced: a file that is named by its content, those in a folder by its result."""
    named = [file for file in files if file is not None]
    if output is not None:
        check_writable(output, overwrite=overwrite)
        named = []
    for file in named:
        check_place(file, overwrite=overwrite)
    if result is not None:
        check_replaceable([*named, result], result, overwrite=overwrite)
