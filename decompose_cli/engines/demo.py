"""``demo``: the whole idea in a minute, on data and weights that need no download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from decompose_cli.decomposition.curves import accuracy_by_k
from decompose_cli.decomposition.index_set import read_index_set
from decompose_cli.decomposition.ranking import DEFAULT_K, LabelledFeatures
from decompose_cli.decomposition.statistics import wilson_interval
from decompose_cli.decomposition.study import Inputs, Study
from decompose_cli.engines.extract_indices import ExtractResults, extract_indices
from decompose_cli.engines.validate import ValidateResults, validate
from decompose_cli.results import ResultDocument, Stopwatch, describe_environment


class CurvePoint(BaseModel):
    """Accuracy of the decomposed head with k features per class; ``top1`` and its Wilson interval in percent."""

    correct: int
    top1: float
    top1_ci95: tuple[float, float]


class CurveResults(BaseModel):
    """Images of the test split, what the full head gets right, and the same for each number of features per class."""

    total: int
    original_correct: int
    method: str
    by_k: dict[int, CurvePoint]


@dataclass(frozen=True)
class Demo:
    """The result documents of the three steps; ``files`` are where they were written."""

    extracted: ResultDocument[ExtractResults]
    validated: ResultDocument[ValidateResults]
    curve: ResultDocument[CurveResults]
    files: dict[str, Path]


def demo(inputs: Inputs, folder: Path, *, overwrite: bool = False) -> Demo:
    """Extract the five most frequent features per class, decompose, validate, and vary k over all features.

    Args:
        inputs: By default the shipped network on its own data set.
        folder: Gets the index file and three result documents.
        overwrite: Whether an index file that is there may be replaced.

    Raises:
        DecomposeError: The work failed.
    """
    indices = folder / f"k{DEFAULT_K}_indices.json"
    extracted = extract_indices(inputs, (DEFAULT_K,), output=indices, overwrite=overwrite)
    validated = validate(inputs, read_index_set(indices))
    curve = _curve(inputs)
    files = {"indices": indices}
    for name, document in (("extract-indices", extracted), ("validate", validated), ("accuracy-by-k", curve)):
        files[name] = folder / f"{name}.json"
        document.write(files[name])
    return Demo(extracted, validated, curve, files)


def _curve(inputs: Inputs) -> ResultDocument[CurveResults]:
    watch = Stopwatch()
    train, test = Study(inputs, ("train",)), Study(inputs, ("test", "val"))
    head = test.bank.head
    ranked = LabelledFeatures(train.bank.features, train.labels, head.weight, train.class_map.names)
    ks = range(1, head.num_features + 1)
    curve = accuracy_by_k(ranked, test.bank.features, test.labels, head, ks, "frequency")
    total = len(test.labels)
    points = {}
    for k, evaluation in curve.items():
        low, high = wilson_interval(evaluation.correct, total)
        points[k] = CurvePoint(
            correct=evaluation.correct, top1=100 * evaluation.correct / total, top1_ci95=(100 * low, 100 * high)
        )
    return ResultDocument(
        command="demo",
        arguments=inputs.as_arguments(),
        model=test.describe_model(),
        dataset=test.describe_dataset(),
        environment=describe_environment(str(test.device), inputs.seed),
        started_at=watch.started_at,
        seconds=watch.seconds(),
        cache=test.describe_cache(),
        results=CurveResults(
            total=total, original_correct=points[head.num_features].correct, method="frequency", by_k=points
        ),
    )
