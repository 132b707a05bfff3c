"""The smallest index set of a cut head within a given loss: chosen on training images, reported on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel
from torch import Tensor

from decompose_cli.decomposition.curves import accuracy_by_k
from decompose_cli.decomposition.heads import decomposed_head, full_head
from decompose_cli.decomposition.index_set import IndexSet, Layout
from decompose_cli.decomposition.metrics import Predictions, compare, predict
from decompose_cli.decomposition.ranking import select
from decompose_cli.decomposition.result_types import Paired, by_class
from decompose_cli.decomposition.sampling import held_by_feature, searched_numbers
from decompose_cli.decomposition.shrinking import loss_bound, shrink, smallest_k
from decompose_cli.errors import param
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.features.study import Study
from decompose_cli.messages import note, track
from decompose_cli.models.network import HeadTensors
from decompose_cli.printable import counted


class Loss(Paired):
    """What the chosen head costs on one split, image by image against the full head.

    ``points``: accuracy of the chosen head minus that of the full head, in percentage points, with 95% interval and
    McNemar's p; ``loss_bound95``: one-sided 95% upper bound of the accuracy lost; ``common_correct``: images that the
    head with the common k gets right.
    """

    split: str
    total: int
    full_correct: int
    common_correct: int
    correct: int
    points: float
    ci95: tuple[float, float]
    mcnemar_p: float
    loss_bound95: float


class Candidate(BaseModel):
    """The smallest common k of one method within the loss, and the features of all classes together after shrinking."""

    k: int
    features: int


class Chosen(BaseModel):
    """The smallest index set within ``max_drop`` points, chosen on one split and reported on the other.

    ``max_class_drop``: points that no class loses more of, on ``chosen_on`` and with 95% confidence for all together.

    ``features`` and ``features_per_class`` are of the classes that features were chosen for.

    ``candidates``: by method; null where no k stays within the loss. ``file``: null if none was written.
    ``searched``: of more than 100,000 images those that ``chosen_on`` is about, drawn by class; null where it is all.
    """

    max_drop: float
    max_class_drop: float | None = None
    method: str
    k: int
    features: int
    features_per_class: tuple[int, int]
    file: str | None
    indices: Layout
    searched: int | None = None
    chosen_on: Loss
    reported_on: Loss
    candidates: dict[str, Candidate | None]


@dataclass
class Search:
    """A search for the smallest index set of a cut head: chosen on the training images, reported on the others.

    Attributes:
        train: The training images.
        test: The others.
        head: The full head.
        ranked: What rankings are made from.
        max_drop: Percentage points that the set may cost.
        max_class_drop: Percentage points that it may cost any class; None for any number.
    """

    train: Study
    test: Study
    head: HeadTensors
    ranked: LabelledFeatures
    max_drop: float
    max_class_drop: float | None = None

    def smallest(
        self, sets: Mapping[str, Mapping[int, IndexSet] | None], ks: Sequence[int], reported: Predictions
    ) -> Chosen | None:
        """The set with the fewest features over all methods; the first method among equals.

        Args:
            sets: The methods, and their sets by k where these come from a search; those of a quick ranking for ``ks``
                are made here.
            ks: Ascending numbers of features.
            reported: The full head's predictions for the images that are reported on.
        """
        head, features, labels = self.head, self.train.bank.features, self.train.labels
        numbers = head.num_features + 2 * head.num_classes  # that shrink holds for each image
        drawn = searched_numbers(labels, self.train.inputs.seed, numbers)
        present, held = self.ranked.present.tolist(), self.ranked.held
        if drawn is not None:
            note(f"The search looks at {len(drawn):,} of the {len(labels):,} training images, drawn by class.")
            features, labels = held_by_feature(features, drawn), labels[drawn]
        device = self.train.device
        full = predict(full_head(head), features, labels, head.num_classes, device)
        candidates: dict[str, Candidate | None] = {}
        best: tuple[int, str, int, tuple[tuple[int, ...], ...]] | None = None
        for method, known in sets.items():
            sizes = ks if known is None else list(known)
            by_k = accuracy_by_k(self.ranked, features, labels, head, sizes, method, sets=known)
            k = smallest_k(full, by_k, self.max_drop, self.max_class_drop)
            candidates[method] = None
            if k is None:
                continue
            with track(f"Shrinking {method}", (k - 1) * len(present), unit="features") as advance:
                widest = self._set(method, k, known)
                limits = self.max_drop, advance, device, held, self.max_class_drop
                kept = shrink(features, full, head, widest.classes, *limits).classes
            size = sum(len(kept[number]) for number in present)
            candidates[method] = Candidate(k=k, features=size)
            if best is None or size < best[0]:
                best = (size, method, k, kept)
        if best is None:
            note(
                f"No set was chosen: for no k of those tried is the loss shown (with 95% confidence) to stay within "
                f"{counted(self.max_drop, 'point')}{self._of_classes}. Allow more with {param('max_drop')}, or "
                "try more with "
                f"{param('ks')}."
            )
            return None
        size, method, k, kept = best
        common = self._set(method, k, sets[method])
        source = f"{method}, within {counted(self.max_drop, 'point')}"
        index_set = IndexSet(kept, head.num_features, source=source, whole=common.whole)
        return Chosen(
            max_drop=self.max_drop,
            max_class_drop=self.max_class_drop,
            method=method,
            k=k,
            features=size,
            features_per_class=index_set.sizes,
            file=None,
            indices=index_set.published_layout(),
            searched=None if drawn is None else len(drawn),
            chosen_on=self._loss(self.train, features, full, common, index_set),
            reported_on=self._loss(self.test, self.test.bank.features, reported, common, index_set),
            candidates=candidates,
        )

    @property
    def _of_classes(self) -> str:
        limit = self.max_class_drop
        return "" if limit is None else f", and that of each class within {limit:g}"

    def _set(self, method: str, k: int, known: Mapping[int, IndexSet] | None) -> IndexSet:
        return select(self.ranked, method, k) if known is None else known[k]

    def _loss(self, study: Study, features: Tensor, full: Predictions, common: IndexSet, kept: IndexSet) -> Loss:
        head = self.head
        with_common, with_kept = (
            predict(decomposed_head(head, index_set), features, full.labels, head.num_classes, study.device)
            for index_set in (common, kept)
        )
        difference = compare(full, with_kept)
        return Loss(
            **by_class(full, with_kept),
            split=study.dataset.split,
            total=full.total,
            full_correct=full.correct,
            common_correct=with_common.correct,
            correct=with_kept.correct,
            points=difference.points,
            ci95=difference.ci95,
            mcnemar_p=difference.mcnemar_p,
            loss_bound95=loss_bound(full.is_correct, with_kept.is_correct),
        )
