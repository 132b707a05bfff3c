"""``demo``: the whole idea in a minute, on data and weights that need no download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from decompose_cli.decomposition.curves import accuracy_by_k
from decompose_cli.decomposition.figures import Point, point_of
from decompose_cli.decomposition.index_set import IndexSet, index_set_text
from decompose_cli.decomposition.ranking import DEFAULT_K
from decompose_cli.decomposition.study import Inputs, Study
from decompose_cli.engines.extract_indices import ExtractResults, extract_indices
from decompose_cli.engines.validate import ValidateResults, validate
from decompose_cli.files import write_files
from decompose_cli.results import ResultDocument, Stopwatch

_LARGEST_K = 64


class CurveResults(BaseModel):
    """Images of the test split, what the full head gets right, and the same for each number of features per class."""

    total: int
    original_correct: int
    method: str
    by_k: dict[int, Point]


@dataclass(frozen=True)
class Demo:
    """The result documents of the three steps; ``files`` are where they were written."""

    extracted: ResultDocument[ExtractResults]
    validated: ResultDocument[ValidateResults]
    curve: ResultDocument[CurveResults]
    files: dict[str, Path]


def demo(inputs: Inputs, folder: Path) -> Demo:
    """Extract the five most frequent features per class, decompose, validate, and vary k.

    Args:
        inputs: By default the shipped network on its own data set.
        folder: Gets the index file and three result documents, when all is done.

    Raises:
        InputError: The checkpoint holds a decomposed head only.
        DecomposeError: The work failed; nothing has been written.
    """
    test = Study(inputs, ("test", "val"))
    train = test.on_training_split()
    test.require_full_head("The demo")
    extracted = extract_indices(inputs, (DEFAULT_K,))
    rows = extracted.results[str(DEFAULT_K)].indices.values()
    indices = IndexSet(tuple(map(tuple, rows)), test.head.num_features, source=f"{DEFAULT_K} most frequent features")
    validated = validate(inputs, indices)
    assert validated.results.original is not None
    curve = _curve(train, test, validated.results.original.correct)
    files = {name: folder / f"{name}.json" for name in ("extract-indices", "validate", "accuracy-by-k")}
    texts = dict(zip(files.values(), (document.to_json() for document in (extracted, validated, curve)), strict=True))
    files["indices"] = folder / f"k{DEFAULT_K}_indices.json"
    extracted.results[str(DEFAULT_K)].file = str(files["indices"])
    write_files({**texts, files["indices"]: index_set_text(indices)})
    return Demo(extracted, validated, curve, files)


def _curve(train: Study, test: Study, original_correct: int) -> ResultDocument[CurveResults]:
    watch = Stopwatch()
    head, total = test.head, len(test.labels)
    ranked = train.labelled(["frequency"])
    ks = range(1, min(head.num_features, _LARGEST_K) + 1)
    points = {}
    for k, evaluation in accuracy_by_k(ranked, test.bank.features, test.labels, head, ks, "frequency").items():
        points[k] = point_of(evaluation)
    results = CurveResults(total=total, original_correct=original_correct, method="frequency", by_k=points)
    return test.document("demo", {}, results, watch)
