"""The rankings by name, which choose the features of a class, and the facts about each; torch is loaded by use only.

A new ranking is an entry of this module and nothing else: help texts, checks, ``sweep`` and the documentation take what
they say and do from the table. A program registers a ranking of its own with :func:`register`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.sizes import check_k
from decompose_cli.errors import InputError, one_of, param
from decompose_cli.features.labelled import ORDERS, LabelledFeatures, Order, check_gates
from decompose_cli.messages import note

if TYPE_CHECKING:
    from torch import Tensor

    from decompose_cli.features.study import Study

DEFAULT_K = 5
DEFAULT_METHOD = "frequency"  # the published one
Select = Callable[[LabelledFeatures, "int | float"], IndexSet]
Score = Callable[[LabelledFeatures, "int | float"], "Tensor"]


@dataclass(frozen=True)
class Ranking:
    """A way to choose the features of each class.

    Attributes:
        name: Name as written on the command line.
        summary: What decides the ranking, in one line; shown in the documentation.
        select: Takes data and k, a whole number of features per class or a fraction; returns the set, most influential
            features first. Raises InputError where features cannot be chosen.
        score: Takes data and k; returns how much each class uses each feature, (C, D). None where sets do not come from
            scores.
        needs_images: Whether the ranking looks at features of images.
        needs_head: Whether the ranking needs the weight of the full head.
        needs_gates: Whether the ranking needs class-specific gates, whose order can be chosen.
        needs_nonnegative: Whether the ranking cannot rank features that may be negative.
        is_nested: Whether the set for k contains that for k - 1, in the order of the scores for any k.
        is_fitted: Whether sets come from fits of heads, which take seconds, for whole numbers k.
        select_many: Takes data and ascending whole numbers k; yields their sets, where that is cheaper than one by one.
        order_many: The same for rankings that give every class k features: yields these, best first, as int64 (C, k).
    """

    name: str
    summary: str
    select: Select
    score: Score | None = None
    needs_images: bool = True
    needs_head: bool = False
    needs_gates: bool = False
    needs_nonnegative: bool = False
    is_nested: bool = False
    is_fitted: bool = False
    select_many: Callable[[LabelledFeatures, Sequence[int]], Iterator[IndexSet]] | None = None
    order_many: Callable[[LabelledFeatures, Sequence[int]], Iterator[Tensor]] | None = None

    def fits(self, data: LabelledFeatures) -> bool:
        """Whether the ranking can rank such data, as far as that is known without a try."""
        lacks = (self.needs_gates and data.gates is None) or (self.needs_head and data.weight is None)
        return not lacks and not (self.needs_nonnegative and data.has_negative)

    def orders(self, data: LabelledFeatures, ks: Sequence[int]) -> Iterator[Tensor] | None:
        """The features of each class for ascending k, best first, int64 (C, k), any if it is held; None for fits."""
        if data.held is not None and not self.is_fitted:
            found = self.orders(data.of_classes(data.present), ks)
            rows = ((~data.held).cumsum(0) - 1).clamp(min=0)
            return None if found is None else (order[rows] for order in found)
        if self.order_many is not None:
            return self.order_many(data, ks)
        if self.score is None or not self.is_nested:
            return None
        from decompose_cli.decomposition.scores import descending

        order = descending(self.score(data, max(ks)))[:, : max(ks)].contiguous()
        return (order[:, :k] for k in ks)

    def sets(self, data: LabelledFeatures, ks: Sequence[int]) -> Iterator[IndexSet]:
        """The sets for ascending whole numbers k; classes that are held keep all features."""
        if data.held is not None and not self.is_fitted:
            present, some = data.present.tolist(), data.of_classes(data.present)
            return (found.spread(data.num_classes, present) for found in self.sets(some, ks))
        if self.select_many is not None:
            return self.select_many(data, ks)
        orders = self.orders(data, ks)
        if orders is None:
            return (self.select(data, k) for k in ks)
        return (_set_of(self.name, order.tolist(), k, data) for k, order in zip(ks, orders, strict=True))


def scored(
    name: str,
    summary: str,
    score: Score,
    *,
    needs_images: bool = True,
    needs_head: bool = False,
    needs_gates: bool = False,
    needs_nonnegative: bool = False,
) -> Ranking:
    """Make a ranking whose sets are the features with the highest scores, which do not depend on k.

    Among equal scores the higher index comes first, as in the published code.
    """

    def select_highest(data: LabelledFeatures, k: int | float) -> IndexSet:
        return highest(name, score(data, k), k, data)

    return Ranking(
        name,
        summary,
        select_highest,
        score,
        needs_images=needs_images,
        needs_head=needs_head,
        needs_gates=needs_gates,
        needs_nonnegative=needs_nonnegative,
        is_nested=True,
    )


def highest(name: str, scores: Tensor, k: int | float, data: LabelledFeatures) -> IndexSet:
    """The k features of each class with the highest scores; for a fraction the shortest prefix that reaches it.

    Args:
        name: Name of the ranking, for messages and the source of the set.
        scores: Scores (C, D).
        k: A whole number of features per class, or a fraction of the class's total score.
        data: Data that the scores were made from.

    Raises:
        InputError: k is a fraction, and scores are negative or all zero.
    """
    from decompose_cli.decomposition.scores import descending, prefixes

    rows = descending(scores)[:, :k].tolist() if isinstance(k, int) else prefixes(scores, k, name, data.class_names)
    return _set_of(name, rows, k, data)


def _set_of(name: str, rows: list[list[int]], k: int | float, data: LabelledFeatures) -> IndexSet:
    return IndexSet(tuple(map(tuple, rows)), data.num_features, source=f"{name}, k={k}")


# ---------------------------------------------------------------------------------------------------------- the table


def _frequency(data: LabelledFeatures, k: int | float) -> Tensor:
    from decompose_cli.decomposition.scores import frequencies

    return frequencies(data, k if isinstance(k, int) else min(DEFAULT_K, data.num_features))


def _most_frequent(data: LabelledFeatures, ks: Sequence[int]) -> Iterator[Tensor]:
    from decompose_cli.decomposition.scores import frequency_orders

    return frequency_orders(data, ks)


def _mean(data: LabelledFeatures, _: int | float) -> Tensor:
    from decompose_cli.decomposition.scores import class_means

    return class_means(data)


def _mass(data: LabelledFeatures, _: int | float) -> Tensor:
    from decompose_cli.decomposition.scores import class_means
    from decompose_cli.features.labelled import check_classes

    check_classes(data.labels, data.class_names)
    if data.has_negative:
        raise InputError("The method 'mass' needs features that are not negative, and this network's are.")
    return class_means(data, normalised=True)


def _contribution(data: LabelledFeatures, _: int | float) -> Tensor:
    from decompose_cli.decomposition.scores import class_means

    return class_means(data) * _weight_of(data, "contribution").double()


def _weight(data: LabelledFeatures, _: int | float) -> Tensor:
    return _weight_of(data, "weight").double()


def _weight_of(data: LabelledFeatures, name: str) -> Tensor:
    if data.weight is None:
        raise InputError(f"The method {name!r} needs the full head, which a decomposed checkpoint no longer has.")
    return data.weight


def _fitted(name: str, summary: str) -> Ranking:
    """A way to choose features by fits of heads."""

    def select_many(data: LabelledFeatures, ks: Sequence[int]) -> Iterator[IndexSet]:
        from decompose_cli.decomposition.sampling import searched_part
        from decompose_cli.features.labelled import check_classes
        from decompose_cli.sparse.searches import searched

        if data.held is None:
            check_classes(data.labels, data.class_names)
        part = searched_part(data)
        if part is not data:
            note(f"{name} looks for features on {len(part.labels):,} of the {len(data.labels):,} images.")
        for k, classes in zip(ks, searched(name, part, ks), strict=True):
            found = IndexSet(classes, data.num_features, source=f"{name}, k={k}")
            yield found.spread(data.num_classes, data.present.tolist())

    def select_one(data: LabelledFeatures, k: int | float) -> IndexSet:
        if isinstance(k, float):
            raise InputError(
                f"The method {name!r} has no scores, so there is no fraction of them; give a whole number."
            )
        return next(select_many(data, [k]))

    return Ranking(name, summary, select_one, is_fitted=True, select_many=select_many)


def _csg(data: LabelledFeatures, k: int | float) -> Tensor:
    if data.order == "lowest" and isinstance(k, float):
        raise InputError("There is no fraction of the lowest gates; give a whole number of features.")
    gates = check_gates(data.gates, data.num_classes, data.num_features).double()
    return -gates if data.order == "lowest" else gates


RANKINGS: dict[str, Ranking] = {}
"""Rankings by name, the published one first."""


def register(ranking: Ranking) -> None:
    """Add a ranking, which every command then takes by its name.

    Raises:
        ValueError: The name is taken.
    """
    if ranking.name in RANKINGS:
        raise ValueError(f"a ranking named {ranking.name!r} is registered already")
    RANKINGS[ranking.name] = ranking


for _ranking in (
    # The set is chosen anew for each k, so sets for different k need not contain each other.
    Ranking(
        "frequency",
        "in how many images of the class the feature is among the k largest (arXiv 2112.07719)",
        lambda data, k: highest("frequency", _frequency(data, k), k, data),
        order_many=_most_frequent,
    ),
    scored("mean", "mean of the feature over the images of the class", _mean),
    scored("mass", "mean share of the feature in the sum of an image's features", _mass, needs_nonnegative=True),
    scored("contribution", "mean of the feature times its weight in the full head", _contribution, needs_head=True),
    scored("weight", "its weight in the full head", _weight, needs_images=False, needs_head=True),
    scored(
        "csg",
        "its class-specific gate in the weights file (arXiv 2007.08194)",
        _csg,
        needs_images=False,
        needs_gates=True,
    ),
    _fitted("backward", "elimination: the head refitted, the cheapest weights left out, and again"),
    _fitted("splicing", "exchange of features for better ones while the refitted loss falls (PNAS 2020)"),
    _fitted("elastic-net", "the largest weights of the elastic-net path (arXiv 2105.04857)"),
):
    register(_ranking)


def select(data: LabelledFeatures, method: str, k: int | float) -> IndexSet:
    """The features of each class with the highest scores, in the order of their scores.

    The scores of feature j for class c, with x an image's penultimate features and the means over the images of c:

    - ``frequency`` (the method of arXiv 2112.07719): in how many images j is among the k largest features. The set is
      chosen anew for each k, so sets for different k need not contain each other.
    - ``mean``: mean of x_j.
    - ``mass``: mean of x_j / sum_i x_i (an image whose features are all zero contributes zero).
    - ``contribution``: mean of w_cj x_j, with the weight w of the full head.
    - ``weight``: w_cj.
    - ``backward``, ``splicing``, ``elastic-net``: not by scores but by fits, see
      :mod:`decompose_cli.sparse.searches`; the strongest refitted weights first.
    - ``csg``: the gate g_cj of a network trained with class-specific gates (arXiv 2007.08194), or -g_cj for the order
      ``lowest``, which is what the publication of ``frequency`` took for its comparison.

    Among equal scores, and among equal features of an image, the higher index comes first, as in the published code.
    Classes that are held, as there are no images of them, keep all features: their whole rows of the full head.

    Args:
        data: Features of training images and their labels.
        method: A name in :data:`RANKINGS`.
        k: A whole number of features per class; or a fraction f: per class the shortest prefix of the ranking whose
            scores sum to at least f of the class's total. (The published code has another notion of a fraction, about
            the top 1 - f of the frequency mass, which is not reproduced.) For ``frequency`` and a fraction, the five
            largest features of each image are counted.

    Raises:
        InputError: k is above D, a class has no images, the scores for a fraction are negative, or the features for
            ``mass`` are.
    """
    check_k(k, data.num_features)
    if data.held is None or RANKINGS[method].is_fitted:
        return RANKINGS[method].select(data, k)
    found = RANKINGS[method].select(data.of_classes(data.present), k)
    return found.spread(data.num_classes, data.present.tolist())


def data_for(study: Study, methods: Iterable[str], order: Order = "highest") -> LabelledFeatures:
    """The data that these rankings need; images are looked at only if one of the rankings needs them.

    Raises:
        InputError: Needed gates or the head are missing or do not fit, or a class has no images.
    """
    chosen = [RANKINGS[method] for method in methods]
    for ranking in chosen:
        if ranking.needs_head and study.classifier.lacks_head:
            study.require_full_head(f"{param('method')} {ranking.name}")
    data = study.labelled(
        images=any(ranking.needs_images for ranking in chosen),
        gates=any(ranking.needs_gates for ranking in chosen),
        order=order,
    )
    return data.for_fits() if any(ranking.is_fitted for ranking in chosen) else data


def parse_method(text: str, parameter: str = "method") -> str:
    """Check the name of a ranking.

    Raises:
        InputError: The name is unknown.
    """
    return one_of(text, tuple(RANKINGS), parameter)


def parse_order(text: str) -> Order:
    """Check the name of an order.

    Raises:
        InputError: The name is unknown.
    """
    return one_of(text, ORDERS, "order")


def check_order(order: Order, *, uses_gates: bool) -> None:
    """Refuse an order where no gates are used.

    Raises:
        InputError: The order is not the default, and no gates are used.
    """
    if order != "highest" and not uses_gates:
        raise InputError(f"{param('order')} {order} has no effect: no gates (csg) are used.")
