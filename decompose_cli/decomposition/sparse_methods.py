"""What proposes features for sparse heads: rankings, published cuts of the elastic-net path, QPM, an index file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.ranking import RANKINGS
from decompose_cli.decomposition.sparse_heads import (
    SparseHead,
    Wanted,
    fit_beside,
    head_on,
    mask_of,
    strength_at,
    with_held_rows,
    with_values,
)
from decompose_cli.decomposition.sparse_settings import AUTO, CUTS, SLOW, SparsifySettings
from decompose_cli.errors import InputError, param
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.sparse import cuts, qpm
from decompose_cli.sparse.elastic_net import Path, PathPoint, elastic_net_path
from decompose_cli.sparse.pools import shared_pool
from decompose_cli.sparse.problem import Problem, Scale
from decompose_cli.sparse.searches import (
    SEARCHES,
    Found,
    dense_start,
    largest_on,
    problem_of,
    spliced,
    strongest_first,
)
from decompose_cli.sparse.strength import Strength

_Made = tuple[LabelledFeatures, Problem, Tensor]
INDICES, QPM = "indices", "qpm"
"""Names of what proposes the features of an index file, and those of the published objective."""
QPM_POOL = 50  # features, as published


@dataclass(frozen=True)
class Proposal:
    """What a method proposes.

    Attributes:
        method: Its name.
        k: Features per class that were asked for.
        index_set: Features of each class, as places in ``columns``.
        columns: The features that it chose from, int64 (P,); None for all.
        keeps_sets: Whether few values leave these features as they are.
        head: A published cut (C, P + 1) on standardised features, which is not fitted; None for what is.
        integers: Its few values, int8 (C, P), and their size.
        scale: The standardisation that a published cut is for.
    """

    method: str
    k: int
    index_set: IndexSet
    columns: Tensor | None = None
    keeps_sets: bool = False
    head: Tensor | None = None
    integers: tuple[Tensor, float] | None = None
    scale: Scale | None = None


class Bench:
    """Images on which sparse heads are proposed and fitted.

    Args:
        data: The images, with a full head.
        settings: What the heads are like.
        pool_l2: Strength of the penalty with which a pool is chosen.
        locality: How local each feature is, (D,), for the objective of ``qpm``; None to leave it out.
        seed: Of searches.
    """

    def __init__(
        self,
        data: LabelledFeatures,
        settings: SparsifySettings,
        pool_l2: float,
        locality: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        self.data, self.settings, self.pool_l2, self.locality, self.seed = data, settings, pool_l2, locality, seed
        self._eliminated: tuple[Any, list[tuple[Tensor, Tensor]]] = (None, [])
        self._made: list[tuple[Tensor | None, _Made]] = []
        self.computed_path: Path | None = None

    @cached_property
    def pool(self) -> Tensor | None:
        """The features that all classes share, ascending, int64 (P,); None where all features may be used.

        Raises:
            InputError: There are not as many features, or a class without images has a row of all features.
        """
        size = self.settings.pool
        if size is None or self.settings.objective == QPM or size == self.data.num_features:
            return None
        if self.data.held is not None:
            raise InputError(f"{param('pool')} needs images of every class: a class without any keeps all features.")
        problem = problem_of(self.data)
        return shared_pool(problem, size, self.pool_l2, start=dense_start(self.data, problem)).cpu()

    @property
    def _inside(self) -> _Made:
        return self._with(self.pool)

    @property
    def path(self) -> Path:
        """The elastic-net path on the features of the pool; ``computed_path`` is None before anyone asks for it."""
        if self.computed_path is None:
            self.computed_path = elastic_net_path(self._inside[1])
        return self.computed_path

    def path_head(self, point: PathPoint) -> SparseHead:
        """A point of the path as a head on all features."""
        scale = self._inside[1].scale
        head = head_on(scale, point.head[:, :-1] != 0, point.head, point.loss, None, "elastic-net path")
        if self.pool is None:
            return with_held_rows(head, self.data, scale)
        return _spread(head, self.pool, scale, Scale.of(self.data.features))

    def _with(self, columns: Tensor | None) -> _Made:
        """The images with some features (None: all), as a problem, and the full head on these; kept for the next."""
        for known, made in self._made:
            if known is columns:
                return made
        data = self.data if columns is None else self.data.of_features(columns)
        problem = problem_of(data)
        made = data, problem, dense_start(data, problem)
        self._made = [*self._made[-1:], (columns, made)]
        return made

    def proposals(self, method: str, ks: Sequence[int], l2: float) -> Iterator[Proposal]:
        """What a method proposes at ascending k, with the strength l2 for fits that it is made of."""
        if method == INDICES:
            assert self.settings.indices is not None
            yield Proposal(method, ks[0], self.settings.indices, keeps_sets=True)
            return
        if method == QPM:
            yield from self._qpm(ks)
            return
        data = dataclasses.replace(self._inside[0], l2=l2)
        if method in CUTS:
            for k in ks:
                yield self._published(method, k)
            return
        if method in SEARCHES:
            found = self._found(method, ks, l2)
            sets: Iterator[IndexSet] = (
                self._of_all(IndexSet(strongest_first(*one), data.num_features, source=method)) for one in found
            )
        else:
            sets = RANKINGS[method].sets(data, ks)
        for k, index_set in zip(ks, sets, strict=True):
            yield Proposal(method, k, index_set, self.pool)

    def _of_all(self, index_set: IndexSet) -> IndexSet:
        """The set of the classes that are fitted as one of all classes."""
        return index_set.spread(self.data.num_classes, self.data.present.tolist())

    def _found(self, method: str, ks: Sequence[int], l2: float) -> Found:
        """What a search finds; the path and an elimination serve all who begin with them."""
        _, problem, start = self._inside
        if method == "elastic-net":
            return largest_on(self.path, problem, start, ks, l2)
        if (tuple(ks), l2) != self._eliminated[0]:
            supports = list(SEARCHES["backward"](problem, start, ks, l2))
            self._eliminated = (tuple(ks), l2), supports
        supports = self._eliminated[1]
        if method == "backward":
            return iter(supports)
        return spliced(problem, start, ks, l2, [support for support, _ in supports])

    def _published(self, method: str, k: int) -> Proposal:
        if self.data.held is not None:
            raise InputError(f"{param('method')} {method} needs images of every class.")
        head = (cuts.sldd if method == "sldd" else cuts.ternary)(self.path, k)
        support = head[:, :-1] != 0
        classes = tuple(tuple(row.nonzero()[:, 0].tolist()) for row in support)
        integers = None
        if CUTS[method] == "ternary":
            signs = head[:, :-1].sign()
            integers = signs.to(torch.int8), float(head[:, :-1].abs().max())
        index_set = IndexSet(classes, support.shape[1], source=method)
        scale = self._inside[1].scale
        return Proposal(method, k, index_set, self.pool, head=head, integers=integers, scale=scale)

    def _qpm(self, ks: Sequence[int]) -> Iterator[Proposal]:
        problem = problem_of(self.data)
        size = self.settings.pool or min(QPM_POOL, self.data.num_features)
        for k in ks:
            try:
                found = qpm.select(problem, k, size=size, locality=self.locality, seed=self.seed)
            except ValueError as error:
                raise InputError(f"{param('objective')} qpm: {error}.") from error
            rows = tuple(tuple(row.nonzero()[:, 0].tolist()) for row in found.support)
            index_set = self._of_all(IndexSet(rows, self.data.num_features, source=QPM))
            yield Proposal(QPM, k, index_set, keeps_sets=True)

    def strength(self, proposal: Proposal, features: Tensor, labels: Tensor) -> Strength:
        """The strength of the penalty for a proposal, chosen on other images (n, D)."""
        data, problem, start = self._with(proposal.columns)
        if proposal.columns is not None:
            features = features[:, proposal.columns]
        kind, toward = self.settings.kind, self.settings.toward
        return strength_at(data, problem, start, proposal.index_set, features, labels, kind, toward=toward)

    def fit(self, proposal: Proposal, l2: float | None) -> SparseHead:
        """The head of a proposal, on all features; without a strength for a published cut.

        Raises:
            InputError: Few values cannot be had.
        """
        data, problem, start = self._with(proposal.columns)
        settings, scale = self.settings, proposal.scale or problem.scale
        if proposal.head is not None:
            source = proposal.index_set.source
            head = head_on(scale, proposal.head[:, :-1] != 0, proposal.head, 0.0, None, source)
            head = dataclasses.replace(head, loss=head.loss_on(data.features, data.labels, data.device))
            if proposal.integers is not None:
                head = with_values(head, *proposal.integers, scale)
        else:
            assert l2 is not None
            wanted = Wanted(settings.kind, l2, settings.toward, proposal.keeps_sets, self.seed)
            head = fit_beside(data, problem, start, proposal.index_set, wanted)
        if proposal.columns is None:
            return head
        return _spread(head, proposal.columns, scale, Scale.of(self.data.features))


def methods_for(settings: SparsifySettings, data: LabelledFeatures) -> list[str]:
    """The names of what proposes features, under these settings for these images."""
    if settings.indices is not None:
        return [INDICES]
    if settings.objective == QPM:
        return [QPM]
    published = [name for name, values in CUTS.items() if values == settings.kind and data.held is None]
    if settings.method == "elastic-net":
        return ["elastic-net", *published]
    if settings.method != AUTO:
        return [settings.method]
    return [ranking.name for ranking in RANKINGS.values() if ranking.fits(data) and ranking.name not in SLOW]


def _spread(head: SparseHead, columns: Tensor, own: Scale, everything: Scale) -> SparseHead:
    """A head on some features as one on all of them; the standardisation of these, and of all."""
    places, count = columns.tolist(), len(everything.mean)
    classes = tuple(tuple(places[index] for index in row) for row in head.index_set.classes)
    index_set = IndexSet(classes, count, source=head.index_set.source)

    def widened(matrix: Tensor) -> Tensor:
        wide = matrix.new_zeros(len(matrix), count)
        wide[:, columns] = matrix
        return wide

    on_z = torch.cat([widened(head.on_z[:, :-1]), head.on_z[:, -1:]], 1)
    found = SparseHead(index_set, widened(head.weight), head.bias, on_z, head.loss, head.l2)
    if head.values is None:
        return found
    own, scale = own.to("cpu"), Scale(everything.mean.clone(), everything.deviation.clone())
    scale.mean[columns], scale.deviation[columns] = own.mean, own.deviation
    return with_values(found, widened(head.values.integers), float(head.values.scale), scale)


def used_in(head: SparseHead, held: Tensor | None) -> Tensor:
    """Which features each class uses, bool (C, D); classes that were held have none."""
    support = mask_of(head.index_set, head.weight.shape[1])
    return support if held is None else support & ~held[:, None]
