"""``extract-indices``: the features that each class uses, as index files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from decompose_cli.decomposition.index_set import IndexSet, index_set_text
from decompose_cli.decomposition.ranking import DEFAULT_K, RANKINGS, check_k, check_order, data_for, select
from decompose_cli.errors import InputError
from decompose_cli.features.labelled import Order
from decompose_cli.features.study import Inputs, Study
from decompose_cli.storage.files import check_folder_writable, check_writable, file_stem, write_files
from decompose_cli.storage.result_document import ResultDocument, Stopwatch


class Extracted(BaseModel):
    """One index set: the file it is in (null if none was written) and the indices per class, most influential first."""

    file: str | None
    k: int | float
    method: str
    features_per_class: tuple[int, int]
    indices: dict[str, list[int]]


ExtractResults = dict[str, Extracted]
"""By k, as it was written on the command line."""


def extract_indices(
    inputs: Inputs,
    ks: Sequence[int | float] = (DEFAULT_K,),
    method: str = "frequency",
    *,
    order: Order = "highest",
    output: Path | None = None,
    folder: Path | None = None,
    document: bool = False,
    overwrite: bool = False,
) -> ResultDocument[ExtractResults]:
    """Rank the penultimate features per class over a split (``train``) and keep the best.

    Args:
        inputs: Which network, which images.
        ks: Features per class, or fractions; see :func:`decompose_cli.decomposition.ranking.select`.
        method: How features are scored.
        order: Which gates the method ``csg`` takes.
        output: The index file, for one k. Without it and without ``folder`` nothing is written.
        folder: Gets ``<model>_<dataset>_k<k>_indices.json`` for each k.
        document: Write our own layout, with D and provenance, instead of the published one.
        overwrite: Whether files may be replaced.

    Raises:
        InputError: Something given cannot be used; nothing has been written.
        DecomposeError: The work failed.
    """
    watch = Stopwatch()
    if not ks:
        raise InputError("No k was given.")
    check_order(order, uses_gates=RANKINGS[method].needs_gates)
    study = Study(inputs, ("train",))
    files = _files(output, folder, ks, study, overwrite=overwrite)
    for k in ks:
        check_k(k, study.head.num_features)
    data = data_for(study, [method], order)
    sets = [select(data, method, k) for k in ks]
    provenance = {
        "method": method,
        **({"order": order} if RANKINGS[method].needs_gates else {}),
        "model": study.describe_model().model_dump(),
        "dataset": study.describe_dataset().model_dump(exclude={"classes"}),
    }
    texts = {}
    for k, index_set, file in zip(ks, sets, files, strict=True):
        if file is not None:
            complete = IndexSet(index_set.classes, index_set.num_features, {**provenance, "k": k})
            texts[file] = index_set_text(complete, document=document)
    write_files(texts)
    results = {
        str(k): Extracted(
            file=str(file) if file else None,
            k=k,
            method=method,
            features_per_class=(min(map(len, found.classes)), max(map(len, found.classes))),
            indices=found.published_layout(),
        )
        for k, found, file in zip(ks, sets, files, strict=True)
    }
    return study.document(
        "extract-indices", {"k": list(ks), "method": method, "order": order, "document": document}, results, watch
    )


def _files(
    output: Path | None, folder: Path | None, ks: Sequence[int | float], study: Study, *, overwrite: bool
) -> list[Path | None]:
    if output is not None:
        if len(ks) > 1:
            raise InputError(f"{len(ks)} values of k need a folder, not the file {output}.")
        check_writable(output, overwrite=overwrite)
        return [output]
    if folder is None:
        return [None] * len(ks)
    check_folder_writable(folder)
    stem = f"{file_stem(study.classifier.name)}_{file_stem(study.dataset.name)}"
    files = [folder / f"{stem}_k{k}_indices.json" for k in ks]
    for file in files:
        check_writable(file, overwrite=overwrite)
    return list(files)
