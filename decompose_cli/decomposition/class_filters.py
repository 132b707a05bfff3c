"""Which filters each class has: those of an index file, of its highest weights, or of a decomposed head."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from decompose_cli.decomposition.heads import (
    check_made_from,
    highest_weights,
    of_studied_classes,
    resolve_heads,
)
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.ranking import DEFAULT_K
from decompose_cli.errors import InputError, first_few, param
from decompose_cli.features.study import Study
from decompose_cli.messages import note
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.printable import counted

MOST_IMAGES = 16
"""Images of a filter that are shown at most."""


@dataclass(frozen=True)
class ClassFilters:
    """The filters of each class.

    Attributes:
        rows: The features of each class.
        head: The head that has these features; None where the network was taken without a classifier.
        whole: Classes that keep all features, which are no choice.
        source: What they come from.
    """

    rows: Sequence[Sequence[int]]
    head: DecomposedLinear | None
    whole: Collection[int]
    source: str

    def weights_of(self, c: int) -> list[float | None]:
        """The weights of the filters of a class, in the order of its row; None where there is no head."""
        count = len(self.rows[c])
        if self.head is None:
            return [None] * count
        weights: list[float | None] = self.head.weight.detach()[c, :count].tolist()  # which is padded to the longest
        return weights


def class_filters(study: Study, given: IndexSet | None, k: int | None) -> ClassFilters:
    """The filters of each class of a network.

    Args:
        study: The network; one without a classifier needs ``given``.
        given: A set that was given; by default the head's own, or of a full head the highest weights.
        k: Filters per class where no set was given; 5 by default.

    Raises:
        InputError: The set does not fit the head, or ``k`` has no effect.
    """
    index_set = None if given is None else of_studied_classes(given, study)
    if index_set is None and study.head.kind == "dense":
        count = DEFAULT_K if k is None else k
        index_set = highest_weights(study.head, study.class_map.names, count)
        if k is None:
            highest = counted(count, "feature")
            note(f"No index file was given: a class's filters are the {highest} with its highest weights.")
    elif index_set is None and k is not None:
        raise InputError(
            f"{param('k')} has no effect here: the weights have a decomposed head, with filters of its own."
        )
    if given is not None:
        check_made_from(given, study.classifier)
    source = index_set.source if index_set is not None else study.classifier.weights_source
    whole = study.classifier.kept_whole if index_set is None else index_set.whole
    if study.head.kind == "absent":
        assert index_set is not None
        rows = index_set.fitted_to(study.head.num_classes, study.head.num_features).classes
        return ClassFilters(rows, None, whole, source)
    decomposed = resolve_heads(study.head, index_set).decomposed
    assert decomposed is not None
    return ClassFilters(decomposed.classes(), decomposed, whole, source)


def check_images(count: int) -> None:
    """Refuse a number of images of each filter that cannot be shown.

    Raises:
        InputError: It is not between 1 and 16.
    """
    if not 1 <= count <= MOST_IMAGES:
        raise InputError(f"{param('images')} {count} is not between 1 and {MOST_IMAGES}.")


def class_number(wanted: str, names: Sequence[str]) -> int:
    """The number of the class that is given by name, whatever its case, or by number.

    Raises:
        InputError: There is no such class.
    """
    if wanted in names:
        return names.index(wanted)
    alike = [number for number, name in enumerate(names) if name.lower() == wanted.lower()]
    if len(alike) == 1:
        return alike[0]
    if wanted.isascii() and wanted.isdigit() and int(wanted) < len(names):
        return int(wanted)
    raise InputError(f"There is no class {wanted!r}; classes are {first_few(names, 10)}.")


def strength(weight: float | None, mean: float | None, elsewhere: float | None = None) -> float:
    """What the filters of a class are ranked by.

    Args:
        weight: Weight of the filter in the class's head; None where there is no head.
        mean: Mean of the feature over the images of the class; None where there are none.
        elsewhere: Its mean over all others.

    Returns:
        What the filter gives the class, weight times mean; without images its weight; without a head, how much higher
        it is on images of the class than on others.
    """
    if weight is None:
        return (mean or 0.0) - (elsewhere or 0.0)
    return weight if mean is None else weight * mean
