"""What ``finetune`` makes of a network: how it is decomposed, and what of it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decompose_cli.decomposition.index_set import IndexSet, Layout
from decompose_cli.decomposition.ranking import DEFAULT_K, DEFAULT_METHOD, parse_method, parse_order
from decompose_cli.decomposition.refitting import check_refit
from decompose_cli.errors import InputError, one_of, param
from decompose_cli.features.labelled import Order
from decompose_cli.printable import shortest
from decompose_cli.training.config import RunConfig
from decompose_cli.training.freezing import TRAINED, Trained
from decompose_cli.training.recipes import resolve
from decompose_cli.training.settings import Settings


@dataclass(frozen=True)
class FinetuneSettings:
    """How the network is decomposed, and what of it is trained; None is a choice that was left open.

    Attributes:
        indices: An index file or set. Without it the features are ranked first.
        k: Features per class, or a fraction, of features that are ranked; 5 by default.
        method: Name of the ranking; ``frequency`` by default.
        order: Which gates are taken by a ranking that needs gates.
        only: What is trained: ``all`` parameters (the default), the ``head``, ``head+last-block``, or the ``backbone``,
            all but the head and what follows it.
        refit: Whether training begins with weights that are fitted anew, on the images that are trained on.
        l2: Strength of the penalty of that fit; None to choose it on images that are not measured.
        new_head: Whether the head is replaced by one for the classes of the data set, fitted to their training images.
        full_head_control: Whether the network with its full head is trained by the same schedule too.
        predictions: Whether it is kept what each head says of each test image.
        diversity: beta of :class:`.training.diversity.DiversityObjective`; 0, the default, to leave it out.

    Raises:
        InputError: Both a set and a ranking were given, a word is unknown, a number is out of range, or maps that
            stay as they are were to become more diverse.
    """

    indices: Path | IndexSet | None = None
    k: int | float | None = None
    method: str | None = None
    order: Order | None = None
    only: Trained | None = None
    refit: bool = False
    l2: float | None = None
    diversity: float | None = None
    new_head: bool = False
    predictions: bool = False
    full_head_control: bool = False

    def __post_init__(self) -> None:
        if self.indices is not None and self.ranks:
            raise InputError(
                f"With an index file there is nothing to rank: leave {param('k')}, {param('method')} and "
                f"{param('order')} out."
            )
        if self.method is not None:
            parse_method(self.method)
        if self.order is not None:
            parse_order(self.order)
        if self.only is not None:
            one_of(self.only, TRAINED, "only")
        check_refit(self.l2, fits=self.refit or self.new_head)
        if self.diversity is not None and not 0 <= self.diversity < float("inf"):
            raise InputError(f"{param('diversity')} {shortest(self.diversity)} is not a number of at least 0.")
        if self.diversity and self.only == "head":
            raise InputError(
                f"{param('diversity')} {self.diversity:g} has no effect with {param('only')} head, which leaves the "
                "maps as they are."
            )

    def choices(self, index_set: IndexSet | None) -> dict[str, Any]:
        """What was chosen, by the names of :class:`FinetuneConfig`.

        Args:
            index_set: The index set that was given.
        """
        chosen: dict[str, Any] = {}
        if index_set is not None:
            chosen["indices"] = index_set.published_layout()
        if self.ranks:
            chosen["ranking"] = self.ranking()
        if self.only is not None:
            chosen["only"] = self.only
        if self.refit:
            chosen |= {"refit": True, "l2": self.l2}
        if self.diversity is not None:
            chosen["diversity"] = float(self.diversity)
        if self.full_head_control:
            chosen["full_head_control"] = True
        if self.new_head:
            chosen |= {"new_head": True, "l2": self.l2}
        return chosen

    def of_training(self, overrides: Mapping[str, Any], large_images: bool, dataset: str | None = None) -> Settings:
        """The settings of the recipe with some values replaced.

        Raises:
            InputError: A value cannot be used, or not with the choices here.
        """
        settings = resolve("finetune", overrides, large_images=large_images, dataset=dataset)
        if self.diversity and settings.compile:  # it keeps the maps out of sight
            raise InputError(f"{param('diversity')} does not go together with {param('compile')}.")
        return settings

    @property
    def ranks(self) -> bool:
        """Whether anything about a ranking was given."""
        return self.k is not None or self.method is not None or self.order is not None

    def ranking(self) -> dict[str, Any]:
        """How features are ranked, with the defaults, for the configuration of a run."""
        k = DEFAULT_K if self.k is None else self.k
        return {"k": k, "method": self.method or DEFAULT_METHOD, "order": self.order or "highest"}


class FinetuneConfig(RunConfig):
    """``indices``: the given set in the published layout; without one, ``ranking`` says how features are ranked.

    ``indices_source``: file of the given set. ``only``: what is trained. ``starting_weights``: SHA-256 of the original
    network's weights. ``refit``: whether training begins with weights that were fitted anew, ``l2`` with this strength.
    ``diversity``: how much the diversity of maps counts in the loss. ``new_head``: whether a head for the classes of
    the data set is fitted first. ``full_head_control``: whether the full head is trained too.

    ``class_map_entries``: what is stated of the data set's classes.
    """

    indices: Layout | None
    indices_source: str | None
    ranking: dict[str, Any] | None
    only: Trained
    starting_weights: str
    refit: bool = False
    l2: float | None = None
    diversity: float = 0.0
    new_head: bool = False
    full_head_control: bool = False
    class_map_entries: dict[str, str | int] | None = None
