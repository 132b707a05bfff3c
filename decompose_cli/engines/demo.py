"""``demo``: the whole idea in a minute, on data and weights that need no download."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from decompose_cli.decomposition.curves import accuracy_by_k
from decompose_cli.decomposition.index_set import IndexSet, index_set_text
from decompose_cli.decomposition.ranking import DEFAULT_K, DEFAULT_METHOD, data_for
from decompose_cli.decomposition.result_types import Point, point_of
from decompose_cli.engines.essential import EssentialResults, EssentialSettings, essential
from decompose_cli.engines.explain import RESULT, SHEET, ExplainResults, ExplainSettings, explain
from decompose_cli.engines.extract_indices import ExtractResults, extract_indices
from decompose_cli.engines.mutual_info import MutualInfoResults, MutualInfoSettings, mutual_info
from decompose_cli.engines.validate import ValidateResults, validate
from decompose_cli.errors import InputError
from decompose_cli.features.study import Inputs, Study
from decompose_cli.progress import note
from decompose_cli.storage.files import check_folder_writable, removed_on_failure, write_files
from decompose_cli.storage.result_document import ResultDocument, Stopwatch

_LARGEST_K = 64
_OVERLAP_KS = (5, 10, 20)
_EXPLAINED = 6


class CurveResults(BaseModel):
    """Number of test images, how many the full head gets right, and the same for each number of features per class."""

    total: int
    original_correct: int
    method: str
    by_k: dict[int, Point]


@dataclass(frozen=True)
class Demo:
    """The result documents of the steps; ``files`` says where they were written.

    ``explained`` is None for networks that cannot be explained.
    """

    extracted: ResultDocument[ExtractResults]
    validated: ResultDocument[ValidateResults]
    curve: ResultDocument[CurveResults]
    overlap: ResultDocument[MutualInfoResults]
    essential: ResultDocument[EssentialResults]
    explained: ResultDocument[ExplainResults] | None
    files: dict[str, Path]

    def documents(self) -> dict[str, ResultDocument[Any]]:
        """The documents by the name of their file, without its ending."""
        return {
            "extract-indices": self.extracted,
            "validate": self.validated,
            "accuracy-by-k": self.curve,
            "mutual-info": self.overlap,
            "essential": self.essential,
        }


def demo(inputs: Inputs, folder: Path) -> Demo:
    """Extract the five most frequent features per class, decompose, validate, vary k, and see if these features matter.

    Args:
        inputs: Network and images; by default the network that ships with the project, on its own data set.
        folder: Gets the index file and the result documents, and a folder with the explanations of six images.

    Raises:
        InputError: The checkpoint holds a decomposed head only.
        DecomposeError: The work failed; nothing has been written.
    """
    test = Study(inputs, ("test", "val"))
    train = test.on_training_split()
    test.require_full_head("The demo")
    extracted = extract_indices(inputs)
    rows = extracted.results[str(DEFAULT_K)].indices.values()
    indices = IndexSet(tuple(map(tuple, rows)), test.head.num_features, source=f"{DEFAULT_K} most frequent features")
    validated = validate(inputs, indices)
    assert validated.results.original is not None
    curve = _curve(train, test, validated.results.original.correct)
    overlap = mutual_info(inputs, MutualInfoSettings(k=[k for k in _OVERLAP_KS if k <= test.head.num_features]))
    noisy = essential(inputs, EssentialSettings(indices))
    index_file = folder / f"k{DEFAULT_K}_indices.json"
    extracted.results[str(DEFAULT_K)].file = str(index_file)
    result = Demo(extracted, validated, curve, overlap, noisy, None, {"indices": index_file})
    files = {name: folder / f"{name}.json" for name in result.documents()}
    texts = {files[name]: document.to_json() for name, document in result.documents().items()}
    texts[index_file] = index_set_text(indices)
    result.files.update(files)
    with removed_on_failure([path for path in texts if not path.exists()]):
        write_files(texts)
        explained = _explained(inputs, indices, min(_EXPLAINED, len(test.labels)), folder / "explain")
    if explained is not None:
        result.files["explain"] = folder / "explain" / RESULT
    return replace(result, explained=explained)


def _explained(inputs: Inputs, indices: IndexSet, count: int, folder: Path) -> ResultDocument[ExplainResults] | None:
    check_folder_writable(folder)
    try:
        return explain(inputs, ExplainSettings(worst=count, indices=indices), folder=folder, overwrite=True)
    except InputError as error:  # a network without maps; the rest of the demo is about its features only
        note(f"No images are explained: {error}")
        for path in (folder / RESULT, folder / SHEET, *folder.glob("[0-9][0-9]-*.png")):
            path.unlink(missing_ok=True)  # left by an earlier demo, of another network
        return None


def _curve(train: Study, test: Study, original_correct: int) -> ResultDocument[CurveResults]:
    watch = Stopwatch()
    head, total = test.head, len(test.labels)
    ranked = data_for(train, [DEFAULT_METHOD])
    ks = range(1, min(head.num_features, _LARGEST_K) + 1)
    points = {}
    for k, evaluation in accuracy_by_k(ranked, test.bank.features, test.labels, head, ks, DEFAULT_METHOD).items():
        points[k] = point_of(evaluation)
    results = CurveResults(total=total, original_correct=original_correct, method=DEFAULT_METHOD, by_k=points)
    return test.document("demo", {}, results, watch)
