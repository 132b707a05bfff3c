"""What ``mutual-info`` says in its result document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel
from typing_extensions import override

from decompose_cli.decomposition.index_set import MOST_FEATURES
from decompose_cli.reporting.findings import Findings, Row
from decompose_cli.reporting.study_plots import matrix_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_SIZES = 64


class SetOverlap(BaseModel):
    """One index set; see :class:`decompose_cli.decomposition.overlap.Overlap`.

    ``classes``: the classes that all else is about, by number, where others keep their whole rows of the full head and
    have no set of their own; null for all.

    ``sizes``: number of features of each of these classes; null in results of before.

    ``mean`` is over all ordered pairs of classes, a class with itself included, as published; the other means are over
    pairs of different classes, null for a single class. Mutual information is in nats. ``unused``, ``exclusive`` and
    ``shared`` count features used by no class, by one, by more. Entries of matrices are rounded to six digits.
    """

    source: str
    sha256: str | None
    num_features: int
    features_per_class: tuple[int, int]
    classes: list[int] | None = None
    sizes: list[int] | None = None
    mean: float
    off_diagonal_mean: float | None
    normalized_mean: float | None
    jaccard_mean: float | None
    unused: int
    exclusive: int
    shared: int
    matrix: list[list[float]]
    normalized_matrix: list[list[float]]
    jaccard_matrix: list[list[float]]

    @property
    def known_sizes(self) -> list[int] | None:
        """Number of features of each class, where it is said, or follows from the smallest and the largest.

        None also for so many different numbers, or features, that what is expected of their pairs would take long.
        """
        (smallest, largest), count = self.features_per_class, len(self.jaccard_matrix)
        sizes = [largest] * count if self.sizes is None and smallest == largest else self.sizes
        if sizes is None or len(sizes) != count or self.num_features > MOST_FEATURES:
            return None
        return sizes if len(set(sizes)) <= _MOST_SIZES else None


class MutualInfoResults(Findings):
    """``sets``: by name of the set, then by number of features per class (``2-7`` where classes differ).

    ``own head`` is the set of a network with a decomposed head.
    """

    sets: dict[str, dict[str, SetOverlap]]

    @override
    def tables(self) -> Mapping[str, list[Row]]:
        matrices = {"matrix", "normalized_matrix", "jaccard_matrix", "classes", "sizes", "sha256"}
        return {
            "sets": [
                {"set": name, "k": k} | found.model_dump(exclude=matrices)
                for name, by_k in self.sets.items()
                for k, found in by_k.items()
            ]
        }

    @override
    def drawn(self) -> Figure | None:
        panels = {
            f"{name}, k = {k}": found.jaccard_matrix for name, by_k in self.sets.items() for k, found in by_k.items()
        }
        first = next(found for by_k in self.sets.values() for found in by_k.values())
        numbers = range(len(first.jaccard_matrix)) if first.classes is None else first.classes
        return matrix_figure("Jaccard index of the classes' feature sets", list(map(self.called, numbers)), panels)
