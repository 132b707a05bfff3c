"""What a user can choose about sparse heads; torch is not loaded for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.ranking import DEFAULT_K, RANKINGS
from decompose_cli.decomposition.sizes import check_class_drop, check_filters, parse_k
from decompose_cli.errors import InputError, one_of, param
from decompose_cli.features.labelled import check_l2
from decompose_cli.printable import shortest

Values = Literal["real", "nonnegative", "ternary", "binary"]
VALUES: tuple[Values, ...] = get_args(Values)
Toward = Literal["zero", "dense"]
AUTO = "auto"
SLOW = ("elastic-net",)
"""Methods that ``auto`` leaves out: their path takes longer than all others together."""
CUTS: dict[str, Values] = {"sldd": "real", "q-senn": "ternary"}
"""Published cuts of the elastic-net path, which are not fitted anew, and the values that their weights have."""
LADDER = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 200, 500)
"""Numbers of features per class that are tried for ``max_drop`` where none were given, as far as there are features."""
Objective = Literal["loss", "qpm"]
ClassWeights = Literal["none", "balanced"]


@dataclass(frozen=True)
class SparsifySettings:
    """What the heads are like.

    Attributes:
        k: Numbers of features per class; none with ``max_drop`` for :data:`LADDER`, as far as there can be such heads.
        method: Name of a ranking or of a published cut, or ``auto``: for each k the best of all that fit the network
            and are quick.
        values: Values that weights on standardised features may have; None for ``real``, or what ``qpm`` (binary) and
            published cuts have.
        l2: Strength of the penalty; None to choose it.
        toward: What the penalty pulls real weights to.
        distil: Whether fits aim at what the full head says of an image, in place of its label.
        class_weights: ``balanced``: all classes count the same in fits, whatever their numbers of images.
        pool: Features that all classes together may use; None for any number.
        objective: What chooses the features: the loss of the fitted heads, or the published objective of ``qpm``, which
            has binary weights.
        indices: Features of each class, in place of a method.
        max_drop: Percentage points that the smallest k may cost on the choosing images; None to keep every k.
        max_class_drop: Percentage points that it may cost any class alone; None for any number.
        nec: Whether accuracy at 5 to 30 features per class is measured.
        maps: Whether feature maps are looked at, for SID@5 and the objective of ``qpm``.
        predictions: Whether it is kept what each head says of each image that is reported on.

    Raises:
        InputError: There is no k, a word is unknown, a number is out of range, or two choices contradict each other.
    """

    k: Sequence[int] = (DEFAULT_K,)
    method: str = AUTO
    values: Values | None = None
    l2: float | None = None
    toward: Toward = "zero"
    distil: bool = False
    class_weights: ClassWeights = "none"
    pool: int | None = None
    objective: Objective = "loss"
    indices: IndexSet | None = None
    max_drop: float | None = None
    max_class_drop: float | None = None
    nec: bool = False
    maps: bool = False
    predictions: bool = False

    @property
    def kind(self) -> Values:
        """The values that weights may have, settled."""
        assert self.values is not None
        return self.values

    def __post_init__(self) -> None:
        if not self.k and self.max_drop is None:
            raise InputError("No k was given.")
        one_of(self.method, method_names(), "method")
        if self.values is None:
            settled = "binary" if self.objective == "qpm" else CUTS.get(self.method, "real")
            object.__setattr__(self, "values", settled)
        one_of(self.kind, VALUES, "values")
        one_of(self.toward, ("zero", "dense"), "toward")
        one_of(self.objective, ("loss", "qpm"), "objective")
        one_of(self.class_weights, ("none", "balanced"), "class_weights")
        if self.l2 is not None:
            check_l2(self.l2)
        if self.max_drop is not None and not 0 <= self.max_drop < 100:
            raise InputError(f"{param('max_drop')} {shortest(self.max_drop)} is not between 0 and 100 points.")
        check_class_drop(self.max_class_drop, self.max_drop)
        if self.pool is not None and self.pool < 1:
            raise InputError(f"{param('pool')} {self.pool} is not at least 1.")
        for k in self.k:
            if k < 1:
                raise InputError(f"{param('k')} {k} is not at least 1.")
            if self.pool is not None and k > self.pool:
                raise InputError(f"{param('k')} {k} is more than the {self.pool} features of {param('pool')}.")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.toward == "dense" and self.values in ("ternary", "binary"):
            raise InputError(f"{param('toward')} dense has no effect with {param('values')} {self.values}.")
        if self.toward == "dense" and self.method in CUTS:
            raise InputError(f"{param('toward')} dense has no effect with {param('method')} {self.method}.")
        if CUTS.get(self.method, self.values) != self.values:
            needed = CUTS[self.method]
            raise InputError(f"{param('method')} {self.method} has {needed} weights: add {param('values')} {needed}.")
        if self.objective == "qpm":
            if self.method != AUTO:
                raise InputError(f"{param('objective')} qpm chooses features itself; leave out {param('method')}.")
            if self.values != "binary":
                raise InputError(f"{param('objective')} qpm has binary weights, not {self.values} ones.")
        if self.indices is not None:
            for is_given, name in (
                (self.method != AUTO, param("method")),
                (self.objective != "loss", param("objective")),
                (self.pool is not None, param("pool")),
                (self.max_drop is not None, param("max_drop")),
                (self.nec, param("nec")),
            ):
                if is_given:
                    raise InputError(f"{param('indices')} says which features classes have; leave out {name}.")


def method_names() -> tuple[str, ...]:
    """What ``method`` may be."""
    return (AUTO, *RANKINGS, *CUTS)


def parse_ks(text: str | None, indices: IndexSet | None, max_drop: float | None) -> list[int]:
    """Read ``5`` or ``1,2,5``: whole numbers of features, ascending, each once; without a text the usual ones.

    Args:
        text: What was typed.
        indices: The index set that was given, which has a number of its own.
        max_drop: As in :class:`SparsifySettings`.

    Raises:
        InputError: A part is no whole number of at least 1, or an index set was given too.
    """
    check_filters(indices, None if text is None else 1)
    if text is None:
        return [indices.largest_k] if indices is not None else [] if max_drop is not None else [DEFAULT_K]
    ks = parse_k(text)
    for k in ks:
        if isinstance(k, float):
            raise InputError(f"{param('k')} {k} is a fraction; sparsify takes whole numbers of features.")
    return sorted(int(k) for k in ks)
