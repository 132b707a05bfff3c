"""What ``compare`` says in its result document: which features differ, and what that does to the same images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field
from typing_extensions import override

from decompose_cli.decomposition.compared_trainings import ComparedTraining, difference_rows
from decompose_cli.decomposition.index_set import IndexSet, Layout
from decompose_cli.decomposition.metrics import Predictions, compare
from decompose_cli.decomposition.over_seeds import SeedDifference
from decompose_cli.decomposition.result_types import Paired, Point, by_class
from decompose_cli.reporting.findings import Findings, Row, accuracy_cells, difference_cells
from decompose_cli.reporting.study_plots import interval_figure
from decompose_cli.reporting.style import WIDE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ComparedSet(BaseModel):
    """One index set; ``features``: how many are used at all; classes that keep all features count in neither.

    ``num_features`` is null where nobody says it.
    """

    source: str
    sha256: str | None
    num_features: int | None
    features_per_class: tuple[int, int]
    features: int
    indices: Layout


class ClassDifference(BaseModel):
    """One class, by its number: the features that both sets keep, and those that only one does, in ascending order.

    ``jaccard``: features of both by features of either; 1 for two empty sets, which are equal.
    """

    number: int
    both: list[int]
    only_first: list[int]
    only_second: list[int]
    jaccard: float


class SetDifference(BaseModel):
    """Two index sets, by name: what differs in each class, and in what all classes together use.

    ``classes`` lacks those that keep all features in one of the sets, for want of images to choose by; the rest is
    about the others. ``jaccard_mean`` is null where there is none. ``equal_classes``: classes with the same set.
    """

    first: str
    second: str
    jaccard_mean: float | None
    equal_classes: int
    used_by_both: list[int]
    used_by_first: list[int]
    used_by_second: list[int]
    classes: list[ClassDifference]


class ComparedHead(Point):
    """One head: its accuracy, and where it is from.

    ``kind``: ``full``; ``cut``: weights of the full head at the features of the set; or ``own``: weights of its own.
    ``own_features``: whether the features of its network are others than those of the network that is compared on, so
    that features of one number need not be the same. ``training`` and ``seed``: of a network that a training made.
    """

    kind: str
    weights: str
    sha256: str
    own_features: bool
    training: str | None = None
    seed: int | None = None


class HeadDifference(Paired):
    """Accuracy of the second head minus that of the first, in points, image by image; see :func:`.metrics.compare`."""

    first: str
    second: str
    points: float
    ci95: tuple[float, float]
    mcnemar_p: float
    only_first_correct: int
    only_second_correct: int


class CompareResults(Findings):
    """``sets`` and ``heads`` by name; ``set_differences`` and ``differences``: of every two of them, in their order.

    ``seed_differences``: of every two trainings that were given with at least two seeds in common. ``trainings``: those
    that networks are of, by name.
    ``total``: the images; null where no head could be measured. ``unmeasured``: why some could not, by name.
    """

    total: int | None
    heads: dict[str, ComparedHead]
    differences: list[HeadDifference]
    sets: dict[str, ComparedSet]
    set_differences: list[SetDifference]
    unmeasured: dict[str, str]
    seed_differences: list[SeedDifference] = Field(default_factory=list)
    trainings: dict[str, ComparedTraining] = Field(default_factory=dict)

    @property
    def is_of_trainings(self) -> bool:
        """Whether all heads are full networks of trainings."""
        heads = self.heads.values()
        return bool(heads) and all(head.training is not None and head.kind == "full" for head in heads)

    @property
    def training_rows(self) -> list[list[str]]:
        """What the trainings differ in: the option, then its value in each; none where there is one training."""
        return difference_rows(self.trainings) if len(self.trainings) > 1 else []

    @property
    def shown_differences(self) -> list[HeadDifference]:
        """The differences to show: of two trainings that are compared as wholes those of the same seed."""
        wholes = {frozenset((one.first, one.second)) for one in self.seed_differences}
        known = set().union(*wholes)

        def is_shown(one: HeadDifference) -> bool:
            first, second = (self.heads.get(name) for name in (one.first, one.second))
            if first is None or second is None or first.training is None or second.training is None:
                return True
            if first.training == second.training:
                return first.training not in known
            return first.seed == second.seed or frozenset((first.training, second.training)) not in wholes

        return [one for one in self.differences if is_shown(one)]

    @override
    def tables(self) -> Mapping[str, list[Row]]:
        return {
            "differences": [self._difference(one) for one in self.differences],
            "seeds": [
                {"training": one.second, "versus": one.first, "seeds": len(one.seeds), "points": one.points}
                | {"low": one.ci95[0], "high": one.ci95[1]}
                | {"seeds_low": one.ci95_seeds[0], "seeds_high": one.ci95_seeds[1]}
                | {"images_low": one.ci95_images[0], "images_high": one.ci95_images[1]}
                for one in self.seed_differences
            ],
            "sets": [
                {"first": one.first, "second": one.second, "jaccard": one.jaccard_mean}
                | {"equal_classes": one.equal_classes, "classes": len(one.classes), "both": len(one.used_by_both)}
                | {"only_first": len(one.used_by_first), "only_second": len(one.used_by_second)}
                for one in self.set_differences
            ],
            "classes": [
                {"first": one.first, "second": one.second, "class": self.called(row.number)}
                | row.model_dump(exclude={"number"})
                for one in self.set_differences
                for row in one.classes
            ],
            "heads": [
                {"head": name, "kind": head.kind, "weights": head.weights}
                | {"training": head.training, "seed": head.seed}
                | accuracy_cells(head.correct, self.total or 0, head.top1, head.top1_ci95)
                for name, head in self.heads.items()
            ],
        }

    def _difference(self, one: HeadDifference) -> Row:
        worst = one.worst_class
        return (
            {"head": one.second, "versus": one.first}
            | difference_cells(one.points, one.ci95, one.mcnemar_p)
            | {"only_head": one.only_second_correct, "only_versus": one.only_first_correct}
            | {"worst_class": None if worst is None else self.called(worst.number)}
            | {"worst_points": None if worst is None else worst.points}
        )

    @override
    def drawn(self) -> Figure | None:
        return differences_figure(self.shown_differences, self.seed_differences) if self.differences else None


def differences_figure(
    differences: Sequence[HeadDifference], trainings: Sequence[SeedDifference] = (), width: float = WIDE
) -> Figure:
    """The paired differences with their intervals, one below the other, those of whole trainings first.

    An interval over two seeds, 12.7 times their error, is left out: it would make all others points. ``width`` is in
    inches.
    """
    wholes = [one for one in trainings if len(one.seeds) > 2]
    rows = [(f"{one.second} minus {one.first}, mean over seeds", one.points, one.ci95) for one in wholes]
    rows += [(f"{one.second} minus {one.first}", one.points, one.ci95) for one in differences]
    return interval_figure("difference of top-1 accuracy (points), with 95% interval", rows, width)


def described_set(index_set: IndexSet, sha256: str | None) -> ComparedSet:
    """An index set as results hold it."""
    own = (row for number, row in enumerate(index_set.classes) if number not in index_set.whole)
    return ComparedSet(
        source=index_set.source,
        sha256=sha256,
        num_features=index_set.num_features,
        features_per_class=index_set.sizes,
        features=len(set(itertools.chain.from_iterable(own))),
        indices=index_set.published_layout(),
    )


def set_differences(sets: Mapping[str, IndexSet]) -> list[SetDifference]:
    """Compare every two index sets, which have the same number of classes."""
    return [_set_difference(first, second, sets) for first, second in itertools.combinations(sets, 2)]


def _set_difference(first: str, second: str, sets: Mapping[str, IndexSet]) -> SetDifference:
    one, other = sets[first], sets[second]
    numbers = [number for number in range(one.num_classes) if number not in one.whole | other.whole]
    classes = [_class_difference(number, set(one.classes[number]), set(other.classes[number])) for number in numbers]
    used, others = ({feature for number in numbers for feature in each.classes[number]} for each in (one, other))
    return SetDifference(
        first=first,
        second=second,
        jaccard_mean=sum(row.jaccard for row in classes) / len(classes) if classes else None,
        equal_classes=sum(not row.only_first and not row.only_second for row in classes),
        used_by_both=sorted(used & others),
        used_by_first=sorted(used - others),
        used_by_second=sorted(others - used),
        classes=classes,
    )


def _class_difference(number: int, one: set[int], other: set[int]) -> ClassDifference:
    either = len(one | other)
    return ClassDifference(
        number=number,
        both=sorted(one & other),
        only_first=sorted(one - other),
        only_second=sorted(other - one),
        jaccard=len(one & other) / either if either else 1.0,
    )


def head_differences(heads: Mapping[str, Predictions]) -> list[HeadDifference]:
    """Compare every two heads, which were measured on the same images."""
    return [_head_difference(first, second, heads) for first, second in itertools.combinations(heads, 2)]


def _head_difference(first: str, second: str, heads: Mapping[str, Predictions]) -> HeadDifference:
    found = compare(heads[first], heads[second])
    return HeadDifference(
        **by_class(heads[first], heads[second]),
        first=first,
        second=second,
        points=found.points,
        ci95=found.ci95,
        mcnemar_p=found.mcnemar_p,
        only_first_correct=found.only_first,
        only_second_correct=found.only_second,
    )
