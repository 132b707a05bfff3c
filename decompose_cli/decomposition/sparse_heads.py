"""Sparse heads: features chosen for each class in any way, and their weights fitted anew."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.metrics import Predictions, predict
from decompose_cli.decomposition.sparse_settings import Toward, Values
from decompose_cli.errors import InputError, param
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.network import HeadTensors
from decompose_cli.models.sparse_record import FewValues
from decompose_cli.sparse.minimise import Fit
from decompose_cli.sparse.one_scale import FewValues as FittedValues
from decompose_cli.sparse.one_scale import fit_scale
from decompose_cli.sparse.problem import Problem, Scale, fitting_device
from decompose_cli.sparse.refit import refit
from decompose_cli.sparse.searches import dense_start, problem_of, rest_of, strongest_first
from decompose_cli.sparse.strength import Strength, choose_strength
from decompose_cli.sparse.values import binary, nonnegative, ternary, ternary_at

_TO_COMPARE = 1e-3
_VALUES_AT_ONCE = 1 << 22  # of features or logits in float64: 32 MB


@dataclass(frozen=True)
class SparseHead:
    """A head with a few features per class and weights of its own.

    Attributes:
        index_set: The features of each class, the strongest weights on standardised features first. A class without
            training images has all that its row of the full head has.
        weight: Weights on features, 0 outside the set, float64 (C, D).
        bias: Biases, float64 (C,).
        on_z: The same head on standardised features z = (x - mean) / deviation, last column the bias, (C, D + 1).
        loss: Mean cross-entropy of the images that it was fitted on.
        l2: Strength of the penalty that it was fitted with; None for a published cut, which is not fitted.
        values: The few values that the weights come from; None for real weights.
    """

    index_set: IndexSet
    weight: Tensor
    bias: Tensor
    on_z: Tensor
    loss: float
    l2: float | None
    values: FewValues | None = None

    @property
    def support(self) -> Tensor:
        """Whether a class uses a feature, bool (C, D)."""
        return mask_of(self.index_set, self.weight.shape[1])

    def linear(self) -> DecomposedLinear:
        """The head as a module, float32."""
        return DecomposedLinear.from_dense(self.weight.float(), self.bias.float(), self.index_set.classes)

    def predict(self, features: Tensor, labels: Tensor, device: torch.device | str = "cpu") -> Predictions:
        """Its predictions for images, whose logits are made on the device."""
        return predict(self.linear(), features, labels, len(self.bias), device)

    def loss_on(self, features: Tensor, labels: Tensor, device: torch.device | str = "cpu") -> float:
        """Mean cross-entropy of other images (n, D), n >= 1, in nats, whose logits are made on the device."""
        total, place = 0.0, fitting_device(device)
        weight, bias = self.weight.t().to(place), self.bias.to(place)
        step = max(1, _VALUES_AT_ONCE // max(self.weight.shape))
        for x, y in zip(torch.split(features, step), torch.split(labels, step), strict=True):
            logits = torch.addmm(bias, x.to(place).double(), weight)
            total += float(torch.nn.functional.cross_entropy(logits, y.to(place), reduction="sum"))
        return total / len(labels)


@dataclass(frozen=True)
class Wanted:
    """What the weights of a head are to be.

    Attributes:
        values: ``real``; ``nonnegative``; ``ternary``: -a, 0, a; ``binary``: 0, a. One a for the head.
        l2: Strength of the penalty (l2 / 2) |W|^2 on standardised features.
        toward: What the penalty pulls real weights to: zero, or the full head.
        keeps_sets: Whether few values leave the features as they were chosen, and exchange none for a better one.
        seed: Of searches with few values.
    """

    values: Values
    l2: float
    toward: Toward = "zero"
    keeps_sets: bool = False
    seed: int = 0


def fit_head(
    data: LabelledFeatures, index_set: IndexSet, values: Values, l2: float, *, toward: Toward = "zero"
) -> SparseHead:
    """Fit the weights of a head whose features are chosen; few values may exchange features for better ones.

    Args:
        data: Features of the images to fit, and the full head if there is one.
        index_set: The features of each class.
        values: See :class:`Wanted`.
        l2: See there.
        toward: See there.

    Raises:
        InputError: There are fewer sets of k features than classes, for binary weights.
    """
    problem = problem_of(data)
    return fit_beside(data, problem, dense_start(data, problem), index_set, Wanted(values, l2, toward))


def fit_beside(
    data: LabelledFeatures, problem: Problem, start: Tensor, index_set: IndexSet, wanted: Wanted
) -> SparseHead:
    """Fit the weights of a head, as :func:`fit_head`, where the problem and the start of the images are at hand."""
    found = fit_at(problem, start, index_set.of_classes(data.present.tolist()), wanted)
    return with_held_rows(found, data, problem.scale)


def fit_at(problem: Problem, start: Tensor, index_set: IndexSet, wanted: Wanted) -> SparseHead:
    """Fit the weights of a head of the classes of a problem.

    Args:
        problem: The images.
        start: The full head on standardised features, (C, D + 1), with which fits begin.
        index_set: The features of each class.
        wanted: What the weights are to be.

    Raises:
        InputError: Binary weights need distinct sets, and there are too few; or fewer than k features vary.
    """
    support = mask_of(index_set, problem.num_features).to(problem.device)
    values, l2 = wanted.values, wanted.l2
    toward = start if wanted.toward == "dense" else None
    if values == "nonnegative":
        real, unused = nonnegative(problem, support, l2, start=start, toward=toward)
        support = support & ~unused
        if not bool(support.any()):
            raise InputError(
                f"{param('values')} nonnegative: no chosen feature speaks for its class, so every weight is 0.",
                hint="Choose features in another way.",
            )
    else:
        real = refit(problem, support, l2, start=start, toward=toward)
    if values in ("real", "nonnegative"):
        return head_on(problem.scale, support, real.head, real.loss, l2, index_set.source)
    few = _few_values(problem, support, real.head, wanted)
    used = support if wanted.keeps_sets else few.matrix != 0
    found = head_on(problem.scale, used, few.head, few.loss, l2, index_set.source)
    return with_values(found, few.matrix, few.scale, problem.scale)


def _few_values(problem: Problem, support: Tensor, real: Tensor, wanted: Wanted) -> FittedValues:
    if wanted.keeps_sets:
        if wanted.values == "ternary":
            return ternary_at(problem, support, wanted.l2, start=real, seed=wanted.seed)
        return fit_scale(problem, support.to(torch.int8), wanted.l2)
    k = int(support.sum(1).max())
    try:
        if wanted.values == "ternary":
            return ternary(problem, k, wanted.l2, start=real, seed=wanted.seed)
        return binary(problem, k, wanted.l2, support=support, seed=wanted.seed)
    except ValueError as error:
        raise InputError(f"{param('values')} {wanted.values}: {error}.") from error


def head_on(scale: Scale, support: Tensor, head: Tensor, loss: float, l2: float | None, source: str) -> SparseHead:
    """A head on standardised features (C, D + 1), with the features of a support bool (C, D), as one on features.

    It is on the CPU, wherever it was fitted.
    """
    scale, support, head = scale.to("cpu"), support.cpu(), head.cpu()
    weight, bias = scale.folded(head[:, :-1], head[:, -1])
    index_set = IndexSet(strongest_first(support, head), len(scale.mean), source=source)
    return SparseHead(index_set, weight, bias, head, loss, l2)


def with_held_rows(head: SparseHead, data: LabelledFeatures, scale: Scale) -> SparseHead:
    """A head of the classes that are fitted with the rows of the full head for those that are held.

    Args:
        head: The head, whose c classes are those that are not held.
        data: Says which are held, and has the full head.
        scale: The standardisation that the head was fitted on.
    """
    if data.held is None:
        return head
    assert data.weight is not None
    assert data.bias is not None
    present = data.present

    def spread(own: Tensor, full: Tensor) -> Tensor:
        return full.to(own.dtype).index_copy(0, present, own)

    weight, bias = scale.to("cpu").standardised(data.weight, data.bias)
    values, integers = head.values, torch.zeros(data.weight.shape, dtype=torch.int8)
    return SparseHead(
        head.index_set.spread(data.num_classes, present.tolist()),
        spread(head.weight, data.weight),
        spread(head.bias, data.bias),
        spread(head.on_z, torch.cat([weight, bias[:, None]], 1)),
        head.loss,
        head.l2,
        None if values is None else dataclasses.replace(values, integers=spread(values.integers, integers)),
    )


def as_full(head: SparseHead) -> HeadTensors:
    """A head that has all features, as the parameters of a full head, float32."""
    return HeadTensors("dense", "head", head.weight.float(), head.bias.float(), head.weight.shape[1])


def with_values(head: SparseHead, integers: Tensor, scale: float, of: Scale) -> SparseHead:
    """The head with the few values that its weights come from: integers (C, D) times a scale."""
    of = of.to("cpu")
    written = FewValues(integers.cpu(), torch.tensor(scale, dtype=torch.float64), of.mean, of.deviation)
    return SparseHead(head.index_set, head.weight, head.bias, head.on_z, head.loss, head.l2, written)


def mask_of(index_set: IndexSet, num_features: int) -> Tensor:
    """Whether a class uses a feature, bool (C, D)."""
    mask = torch.zeros(index_set.num_classes, num_features, dtype=torch.bool)
    for number, indices in enumerate(index_set.classes):
        mask[number, list(indices)] = True
    return mask


def strength_for(
    data: LabelledFeatures,
    index_set: IndexSet,
    features: Tensor,
    labels: Tensor,
    values: Values = "real",
    *,
    toward: Toward = "zero",
) -> Strength:
    """The strength of the penalty at a support, chosen on images (n, D) that are not fitted.

    For few values it is that of real weights there.
    """
    problem = problem_of(data)
    return strength_at(data, problem, dense_start(data, problem), index_set, features, labels, values, toward=toward)


def strength_at(
    data: LabelledFeatures,
    problem: Problem,
    start: Tensor,
    index_set: IndexSet,
    features: Tensor,
    labels: Tensor,
    values: Values = "real",
    *,
    toward: Toward = "zero",
) -> Strength:
    """The strength, as :func:`strength_for`, where the problem and the start of the images are at hand.

    Fits end where their objective is within a thousandth of its minimum: what tells strengths apart is far more.
    """
    own = index_set.of_classes(data.present.tolist())
    support = mask_of(own, problem.num_features).to(problem.device)
    features = features.to(problem.device)
    places, rest = data.places(labels).to(problem.device), rest_of(data, features, labels)
    is_bounded, aim = values == "nonnegative", start if toward == "dense" else None
    last: Fit | None = None

    def fitted(l2: float) -> Tensor:
        nonlocal last
        last = refit(
            problem,
            support,
            l2,
            start=start,
            toward=aim,
            nonnegative=is_bounded,
            near=last,
            tolerance=_TO_COMPARE,
        )
        return last.head

    return choose_strength(problem, fitted, features, places, rest=rest)
