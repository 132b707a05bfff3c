"""``demo``: the whole idea in a minute, on data and weights that need no download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from decompose_cli.decomposition.accuracy_results import ValidateResults
from decompose_cli.decomposition.atlas_results import AtlasResults
from decompose_cli.decomposition.curves import accuracy_by_k
from decompose_cli.decomposition.essential_results import EssentialResults
from decompose_cli.decomposition.index_set import IndexSet, index_set_from_json, index_set_text
from decompose_cli.decomposition.overlap_results import MutualInfoResults
from decompose_cli.decomposition.random_rankings import RandomRankings, floor_ks, random_rankings
from decompose_cli.decomposition.ranking import DEFAULT_K, DEFAULT_METHOD, data_for
from decompose_cli.decomposition.result_types import Point, point_of
from decompose_cli.decomposition.sweep_results import floor_of
from decompose_cli.engines.atlas import MOST_FEATURES, AtlasSettings, atlas_contents
from decompose_cli.engines.essential import EssentialSettings, essential
from decompose_cli.engines.explain import SHEET, ExplainResults, ExplainSettings, explanation
from decompose_cli.engines.extract_indices import ExtractResults, extract_indices
from decompose_cli.engines.mutual_info import MutualInfoSettings, mutual_info
from decompose_cli.engines.validate import validate
from decompose_cli.errors import InputError
from decompose_cli.features.study import Inputs, Study
from decompose_cli.messages import note
from decompose_cli.reporting import atlas_sheet
from decompose_cli.reporting.plots import Curve
from decompose_cli.storage.file_sets import Content
from decompose_cli.storage.names import RESULT
from decompose_cli.storage.result_document import ResultDocument, Stopwatch

_LARGEST_K = 64
_OVERLAP_KS = (5, 10, 20)
_EXPLAINED = 6
_MANIFEST = "accuracy-by-k"
_INDICES, _EXPLAIN, _ATLAS = f"k{DEFAULT_K}_indices.json", "explain", "atlas"
_DOCUMENTS = ("extract-indices", "validate", _MANIFEST, "mutual-info", "essential")


class CurveResults(BaseModel):
    """Number of test images, how many the full head gets right, and the same for each number of features per class.

    ``random``: heads of features that were drawn at random; null in results of before.
    """

    total: int
    original_correct: int
    method: str
    by_k: dict[int, Point]
    random: RandomRankings | None = None

    @property
    def floor(self) -> Curve | None:
        """Accuracy of features that were drawn at random: the mean, and the range as the ends."""
        return floor_of(self.random)


@dataclass(frozen=True)
class Demo:
    """The result documents of the steps.

    Attributes:
        explained: None for networks that cannot be explained.
        atlas: None for networks whose classes use more features than an atlas has.
        files: The file of each document, and of the indices.
        contents: What comes into each file, whoever writes them.
    """

    extracted: ResultDocument[ExtractResults]
    validated: ResultDocument[ValidateResults]
    curve: ResultDocument[CurveResults]
    overlap: ResultDocument[MutualInfoResults]
    essential: ResultDocument[EssentialResults]
    explained: ResultDocument[ExplainResults] | None
    atlas: ResultDocument[AtlasResults] | None
    files: dict[str, Path]
    contents: dict[Path, Content]

    def documents(self) -> dict[str, ResultDocument[Any]]:
        """The documents by the name of their file, without its ending."""
        whole = (self.extracted, self.validated, self.curve, self.overlap, self.essential)
        return dict(zip(_DOCUMENTS, whole, strict=True))


def manifest_of(folder: Path) -> Path:
    """The document in the folder of a demo that lists the files of all, that of the command itself."""
    return folder / f"{_MANIFEST}.json"


def usual_files(folder: Path) -> list[Path]:
    """The files of a demo, as far as their names are known before the work, and the explanations that are there."""
    names = [*(f"{name}.json" for name in _DOCUMENTS), _INDICES]
    of_images = (RESULT, SHEET, *(path.name for path in (folder / _EXPLAIN).glob("[0-9][0-9]-*.png")))
    of_features = (RESULT, atlas_sheet.SHEET)
    return [
        *(folder / name for name in names),
        *(folder / _EXPLAIN / name for name in of_images),
        *(folder / _ATLAS / name for name in of_features),
    ]


def demo(inputs: Inputs, folder: Path) -> Demo:
    """Extract the five most frequent features per class, decompose, validate, vary k, and see if these features matter.

    Args:
        inputs: Network and images; by default the network that ships with the project, on its own data set.
        folder: Where the index file and the result documents are to be written, and folders with the explanations of
            six images and with an atlas of the features. The caller writes them, with whatever else belongs there.

    Raises:
        InputError: The checkpoint holds a decomposed head only.
        DecomposeError: The work failed.
    """
    test = Study(inputs, ("test", "val"))
    train = test.on_training_split()
    test.require_full_head("The demo", in_network=True)
    extracted = extract_indices(inputs)
    found = extracted.results[str(DEFAULT_K)].indices
    indices = index_set_from_json(found, f"{DEFAULT_K} most frequent features", test.head.num_features)
    validated = validate(inputs, indices)
    assert validated.results.original is not None
    curve = _curve(train, test, validated.results.original.correct)
    overlap = mutual_info(inputs, MutualInfoSettings(k=[k for k in _OVERLAP_KS if k <= test.head.num_features]))
    noisy = essential(inputs, EssentialSettings(indices))
    index_file = folder / _INDICES
    extracted.results[str(DEFAULT_K)].file = str(index_file)
    settings = ExplainSettings(worst=min(_EXPLAINED, len(test.labels)), indices=indices)
    explained, contents = _explained(inputs, settings, folder / _EXPLAIN)
    shown, pictures = _atlas(inputs, indices, folder / _ATLAS)
    contents |= pictures
    result = Demo(extracted, validated, curve, overlap, noisy, explained, shown, {"indices": index_file}, contents)
    contents[index_file] = index_set_text(indices)
    for name, document in result.documents().items():
        result.files[name] = folder / f"{name}.json"
        contents[result.files[name]] = document.to_json()
    looked: dict[str, ResultDocument[Any] | None] = {_EXPLAIN: explained, _ATLAS: shown}
    for name, pictured in looked.items():
        if pictured is not None:
            result.files[name] = folder / name / RESULT
            pictured.files = [path.name for path in contents if path.parent == folder / name]
            contents[result.files[name]] = pictured.to_json()
    return result


def _explained(
    inputs: Inputs, settings: ExplainSettings, folder: Path
) -> tuple[ResultDocument[ExplainResults] | None, dict[Path, Content]]:
    try:
        return explanation(inputs, settings, folder=folder, overwrite=True)
    except InputError as error:  # a network without maps; the rest of the demo is about its features only
        note(f"No images are explained: {error}")
        return None, {}


def _atlas(
    inputs: Inputs, indices: IndexSet, folder: Path
) -> tuple[ResultDocument[AtlasResults] | None, dict[Path, Content]]:
    own = [row for number, row in enumerate(indices.classes) if number not in indices.whole]
    used = {feature for row in own for feature in row}
    if len(used) > MOST_FEATURES:
        note(f"There is no atlas of filters: the classes use {len(used):,}, and it shows at most {MOST_FEATURES}.")
        return None, {}
    return atlas_contents(inputs, AtlasSettings(indices), folder)


def _curve(train: Study, test: Study, original_correct: int) -> ResultDocument[CurveResults]:
    watch = Stopwatch()
    head, total = test.head, len(test.labels)
    ranked = data_for(train, [DEFAULT_METHOD])
    ks = range(1, min(head.num_features, _LARGEST_K) + 1)
    points = {}
    for k, evaluation in accuracy_by_k(ranked, test.bank.features, test.labels, head, ks, DEFAULT_METHOD):
        points[k] = point_of(evaluation)
    images, at = (test.bank.features, test.labels), floor_ks(list(ks))
    floor = random_rankings(head, *images, at, test.inputs.seed, held=ranked.held, device=test.device)
    results = CurveResults(
        total=total, original_correct=original_correct, method=DEFAULT_METHOD, by_k=points, random=floor
    )
    return test.document("demo", {}, results, watch)
