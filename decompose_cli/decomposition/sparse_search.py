"""The choice of methods and strengths for sparse heads on images that are neither fitted nor reported on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from decompose_cli.decomposition.choosing import chooser_for
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.metrics import Predictions
from decompose_cli.decomposition.sampling import fitted_numbers, part_of
from decompose_cli.decomposition.shrinking import class_loss_bound, loss_bound
from decompose_cli.decomposition.sizes import check_k
from decompose_cli.decomposition.sparse_heads import SparseHead, fit_head, strength_for
from decompose_cli.decomposition.sparse_methods import Bench, Proposal, methods_for
from decompose_cli.decomposition.sparse_settings import LADDER, SparsifySettings
from decompose_cli.errors import InputError, first_few, param
from decompose_cli.features.labelled import DEFAULT_L2, LabelledFeatures
from decompose_cli.messages import track
from decompose_cli.sparse.sets import enough_sets

MOST_PRODUCTS = 1 << 34
"""N D C of the images on which methods are tried: 8,388 images of 2048 features, 1000 classes."""


@dataclass(frozen=True)
class Candidate:
    """A method at one k, on the images that choose.

    Attributes:
        method: Its name.
        k: Features per class.
        l2: The strength of the penalty; None for a published cut, which is not fitted.
        predictions: What its head, fitted on the other images, says of the choosing images.
        loss: Mean cross-entropy on them.
    """

    method: str
    k: int
    l2: float | None
    predictions: Predictions
    loss: float

    @property
    def correct(self) -> int:
        """Choosing images that its head gets right."""
        return self.predictions.correct


class Search:
    """Every method at every k on a part of the images, and the best of them on all.

    Those of :func:`.sampling.fitted_numbers` take part.

    Args:
        data: The training images; with the full head where there is one.
        settings: What the heads are like.
        choosing: Features (n, D) and labels (n,) of other images that choose; None for a stratified fifth of the
            training images.
        seed: Of draws and searches.
        locality: See :class:`.sparse_methods.Bench`.

    Raises:
        InputError: What was chosen does not fit the images.
    """

    def __init__(
        self,
        data: LabelledFeatures,
        settings: SparsifySettings,
        choosing: tuple[Tensor, Tensor] | None = None,
        *,
        seed: int = 0,
        locality: Tensor | None = None,
    ) -> None:
        self.seed, self.locality = seed, locality
        for k in settings.k:
            check_k(k, data.num_features)
        if settings.pool is not None:
            check_k(settings.pool, data.num_features, "pool")
        self.has_head = data.weight is not None
        drawn = fitted_numbers(data.labels, data.num_features * data.num_classes, seed)
        data = data if drawn is None else data.of_images(drawn)
        self._check(data, settings)
        self.data = _prepared(data, settings)
        if settings.indices is not None:
            fitted = settings.indices.fitted_to(data.num_classes, data.num_features)
            settings = dataclasses.replace(settings, indices=fitted, k=(fitted.largest_k,))
        self.settings = settings if settings.k else dataclasses.replace(settings, k=self._ladder(settings))
        for k in self.settings.k:
            self._check_k(k)
        self.methods = methods_for(self.settings, self.data)
        self.chooser = chooser_for(self.data, choosing, seed, must=bool(self.chosen), fewer=self._sample)

    @property
    def chosen(self) -> list[str]:
        """What the choosing images choose: ``method``, ``strength``, ``k``."""
        settings = self.settings
        chosen = {
            "method": len(self.methods) > 1,
            "strength": settings.l2 is None,
            "k": settings.max_drop is not None,
        }
        return [name for name, is_chosen in chosen.items() if is_chosen]

    def can_have(self, k: int, settings: SparsifySettings | None = None) -> bool:
        """Whether every class can have k features, and with binary weights a set of its own."""
        return self._obstacle(k, settings or self.settings) is None

    def _obstacle(self, k: int, settings: SparsifySettings) -> str | None:
        """Why classes cannot have k features."""
        size, what = settings.pool or self.data.num_features, "features"
        if settings.kind in ("ternary", "binary") and settings.indices is None:
            varying = int((self.data.features.amin(0) < self.data.features.amax(0)).sum())
            size, what = min(size, varying), "features that vary"
        if k > size:
            return f"there are {size} {what}"
        classes = self.data.num_classes if self.data.held is None else int((~self.data.held).sum())
        if settings.kind == "binary" and settings.indices is None and not enough_sets(classes, size, k):
            return f"{size} {what} have fewer than {classes} sets of {k}, one for each class"
        return None

    def _check_k(self, k: int) -> None:
        obstacle = self._obstacle(k, self.settings)
        if obstacle is not None:
            raise InputError(f"{param('k')} {k} cannot be had with {param('values')} {self.settings.kind}: {obstacle}.")

    def _ladder(self, settings: SparsifySettings) -> list[int]:
        """The numbers of features that are tried where none were given."""
        ks = [k for k in LADDER if self.can_have(k, settings)]
        if not ks:
            raise InputError(f"No number of features can be had: with 1, {self._obstacle(1, settings)}.")
        return ks

    def _check(self, data: LabelledFeatures, settings: SparsifySettings) -> None:
        if data.num_classes < 2:
            raise InputError("There is one class only, so there is nothing to tell apart.")
        if not bool((data.features.amin(0) < data.features.amax(0)).any()):
            raise InputError("All features are the same for every training image, so none tells the classes apart.")
        if not self.has_head:
            counts = data.labels.bincount(minlength=data.num_classes)
            absent = [name for name, count in zip(data.class_names, counts.tolist(), strict=True) if count == 0]
            if absent:
                raise InputError(
                    f"There are no training images of {len(absent)} of the {data.num_classes} classes "
                    f"({first_few(absent)}), and no full head whose rows they could keep."
                )
            for is_wanted, name in (
                (settings.distil, param("distil")),
                (settings.toward == "dense", f"{param('toward')} dense"),
            ):
                if is_wanted:
                    raise InputError(f"{name} needs a full head, and these features have none.")

    def _sample(self, labels: Tensor) -> Tensor | None:
        """So many of images of these classes, by class, that methods can be tried on them in minutes; None for all."""
        share = MOST_PRODUCTS / (len(labels) * self.data.num_features * self.data.num_classes)
        return None if share >= 1 else part_of(labels, share, self.seed)

    @cached_property
    def refitted_l2(self) -> float:
        """Strength of the penalty of the full head fitted anew."""
        if self.settings.l2 is not None:
            return self.settings.l2
        chooser = self.chooser
        everything, toward = _everything(self.data), self.settings.toward
        return strength_for(chooser.fitted, everything, chooser.features, chooser.labels, toward=toward).l2

    @cached_property
    def refitted(self) -> SparseHead:
        """The full head fitted anew on all training images."""
        return self._refit(self.data)

    @cached_property
    def full(self) -> SparseHead:
        """The full head fitted anew on the images that are fitted while others choose."""
        part = self.chooser.fitted
        return self.refitted if part is self.data else self._refit(part)

    def _refit(self, data: LabelledFeatures) -> SparseHead:
        return fit_head(data, _everything(data), "real", self.refitted_l2, toward=self.settings.toward)

    @cached_property
    def part(self) -> Bench:
        """The images that are fitted while others choose."""
        return self._bench(self.chooser.fitted)

    @cached_property
    def final(self) -> Bench:
        """All training images."""
        return self.part if self.chooser.fitted is self.data else self._bench(self.data)

    @cached_property
    def searched(self) -> Bench:
        """The training images on which the chosen method looks for features: all of them, unless they are too many."""
        drawn = self._sample(self.data.labels)
        return self.final if drawn is None else self._bench(self.data.of_images(drawn))

    def _bench(self, data: LabelledFeatures) -> Bench:
        if not self.has_head:
            full = self.full if data is self.chooser.fitted else self.refitted
            data = dataclasses.replace(data, weight=full.weight.float(), bias=full.bias.float())
        return Bench(data, self.settings, self.refitted_l2, self.locality, self.seed)

    def candidates(self, ks: Sequence[int]) -> list[Candidate]:
        """Fit every method at ascending k on some images, and measure it on the choosing images."""
        bench, found = self.part, []
        known: dict[Any, Candidate] = {}  # rankings often agree
        methods = self.methods
        first = self.settings.l2 or DEFAULT_L2
        with track("Trying methods", len(methods) * len(ks), "heads") as advance:
            for method in methods:
                for proposal in bench.proposals(method, ks, first):
                    sets = None if proposal.head is not None else tuple(map(frozenset, proposal.index_set.classes))
                    same = known.get(sets) if sets is not None else None
                    one = dataclasses.replace(same, method=method) if same else self._tried(proposal)
                    if sets is not None:
                        known[sets] = one
                    found.append(one)
                    advance(1)
        return found

    def _tried(self, proposal: Proposal) -> Candidate:
        """Choose a strength for a proposal, fit it on some images, and measure it on the choosing images."""
        features, labels, l2 = self.chooser.features, self.chooser.labels, None
        if proposal.head is None:
            l2 = self.settings.l2 or self.part.strength(proposal, features, labels).l2
        head = self.part.fit(proposal, l2)
        return Candidate(
            proposal.method,
            proposal.k,
            l2,
            head.predict(features, labels, self.data.device),
            head.loss_on(features, labels, self.data.device),
        )

    def head(self, best: Candidate) -> SparseHead:
        """The head of a method with its strength, chosen and fitted anew on all training images."""
        l2 = best.l2
        proposal = next(iter(self.searched.proposals(best.method, [best.k], l2 or DEFAULT_L2)))
        is_exchanged = self.settings.kind in ("ternary", "binary") and proposal.head is None
        if self.searched is not self.final and is_exchanged:
            # Sets are exchanged where that is quick; scale and biases are fitted on all images.
            kept = self.searched.fit(proposal, l2).index_set
            proposal = Proposal(best.method, best.k, kept, None, keeps_sets=True)
        return self.final.fit(proposal, l2)

    def bounds(self, best: Mapping[int, Candidate], ks: Sequence[int]) -> dict[int, float]:
        """For each k the one-sided 95% upper bound of the points that its best head costs on the choosing images.

        It is the bound of :func:`.shrinking.loss_bound`, against the full head fitted anew on the same images.
        """
        full = self._full_of_chooser
        return {k: loss_bound(full.is_correct, best[k].predictions.is_correct) for k in ks}

    def class_bounds(self, best: Mapping[int, Candidate], ks: Sequence[int]) -> dict[int, float]:
        """The same, of the class for which it is largest; see :func:`.shrinking.class_loss_bound`."""
        full, labels = self._full_of_chooser, self.chooser.labels
        return {k: class_loss_bound(full.is_correct, best[k].predictions.is_correct, labels) for k in ks}

    @property
    def _full_of_chooser(self) -> Predictions:
        return self.full.predict(self.chooser.features, self.chooser.labels, self.data.device)


def best_of(found: Sequence[Candidate], k: int) -> Candidate:
    """The candidate of a k with most choosing images right, of equals that of the smaller loss."""
    return min((one for one in found if one.k == k), key=lambda one: (-one.correct, one.loss))


def _everything(data: LabelledFeatures) -> IndexSet:
    return IndexSet((tuple(range(data.num_features)),) * data.num_classes, data.num_features, source="full head")


def _prepared(data: LabelledFeatures, settings: SparsifySettings) -> LabelledFeatures:
    """The images as fits take them: classes without any held, weights and soft targets where they were asked for."""
    data = (data if data.held is not None else data.holding_empty()).for_fits()
    if settings.class_weights == "balanced":
        counts = data.labels.bincount(minlength=data.num_classes)
        weights = len(data.labels) / (int((counts > 0).sum()) * counts.double())
        data = dataclasses.replace(data, image_weights=weights[data.labels])
    if settings.distil:
        data = dataclasses.replace(data, targets=data.full_probabilities())
    return data
