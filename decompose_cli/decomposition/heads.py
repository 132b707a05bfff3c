"""The heads that are compared: the full head, and the head that keeps a few features per class."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.ranking import select
from decompose_cli.errors import InputError, first_few, param
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.features.study import Study
from decompose_cli.messages import warn
from decompose_cli.models.backbones import no_head
from decompose_cli.models.checkpoint import Checkpoint
from decompose_cli.models.classifier import Classifier
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.head import Head
from decompose_cli.models.network import HeadTensors

OWN = "own head"
"""What the features of a decomposed head are called beside sets that were ranked."""


@dataclass(frozen=True)
class Heads:
    """Maps from features (n, D) to logits (n, C).

    Attributes:
        original: The full head; None where a checkpoint has only a decomposed one.
        decomposed: The decomposed head; None where no index set is known.
        is_cut: Whether the decomposed head keeps weights of the full one; otherwise it has weights of its own, and the
            network as it stands computes with it.
    """

    original: Callable[[Tensor], Tensor] | None
    decomposed: DecomposedLinear | None
    is_cut: bool = True

    @property
    def own(self) -> Callable[[Tensor], Tensor]:
        """The head that the network as it stands computes with."""
        head = self.original if self.is_cut else self.decomposed
        assert head is not None
        return head


def check_index_request(checkpoint: Checkpoint | None, index_set: IndexSet | None) -> None:
    """Refuse, before any work, an index set that does not go with a checkpoint.

    Raises:
        InputError: The checkpoint has indices of its own beside the index set, or lacks indices and there is no set.
    """
    if checkpoint is None:
        return
    if checkpoint.published_decomposition is not None and index_set is None:
        raise InputError(
            f"{checkpoint.source} holds a decomposed head (final_weights) without the indices that belong to it.",
            hint=f"Give the index file that it was fine-tuned with, in its order, with {param('indices')}.",
        )
    if checkpoint.has_decomposed_head and index_set is not None:
        raise InputError(
            f"{checkpoint.source} carries its own indices, so {param('indices')} {index_set.source} cannot be used "
            "with it."
        )


def check_made_from(index_set: IndexSet, classifier: Classifier) -> None:
    """Warn of an index set that says it was made from other weights."""
    model = index_set.provenance.get("model")
    weights = model.get("weights") if isinstance(model, dict) else None
    digest = weights.get("sha256") if isinstance(weights, dict) else None
    if isinstance(model, dict) and isinstance(digest, str) and digest != classifier.weights_sha256:
        warn(
            f"{index_set.source} was made from other weights ({model.get('name')}, {digest[:8]}) than these "
            f"({classifier.name}, {classifier.weights_sha256[:8]})."
        )


def resolve_heads(head: HeadTensors, index_set: IndexSet | None) -> Heads:
    """Build the heads that a checkpoint and an index set make possible.

    Raises:
        InputError: The index set does not fit the head, or there is no head.
    """
    if head.kind == "absent":
        raise no_head("This command")
    if index_set is not None:
        index_set = index_set.fitted_to(head.num_classes, head.num_features)
    if head.kind == "decomposed":
        return Heads(full_head(head.full) if head.full is not None else None, _own_decomposition(head), is_cut=False)
    if head.kind == "subspaces":
        assert index_set is not None  # check_index_request refuses a file without one
        return Heads(None, _published_decomposition(head, index_set), is_cut=False)
    original = full_head(head)
    if index_set is None:
        return Heads(original, None)
    return Heads(original, decomposed_head(head, index_set))


def own_index_set(head: HeadTensors, source: str, whole: Collection[int] = ()) -> IndexSet:
    """The features of each class of a head of the kind ``decomposed``.

    Args:
        head: The head.
        source: What messages call the set.
        whole: Classes that keep their whole row of the full head where they have all features, see
            :attr:`.models.classifier.Classifier.kept_whole`.

    Raises:
        InputError: No class has features of its own, as the head is cut to those that are whole.
    """
    classes, everything = _own_decomposition(head).classes(), tuple(range(head.num_features))
    kept = frozenset(number for number in whole if classes[number] == everything)
    found = IndexSet(classes, head.num_features, source=source, whole=kept)
    _refuse_without_own(found)
    return found


def of_studied_classes(index_set: IndexSet, study: Study) -> IndexSet:
    """An index set for the head of a study: that of all classes of the network is cut to those that are studied.

    Raises:
        InputError: The set says that it is of other classes than those that are studied, or has features of its own
            for none of them.
    """
    part = study.part
    if part is None or part.policy != "present":
        return index_set
    if index_set.num_classes == part.outputs:
        cut = index_set.of_classes(part.present)
        _refuse_without_own(cut)
        if cut.whole:
            warn(
                f"{cut.source} has no features of its own for {len(cut.whole)} of the {cut.num_classes} classes that "
                f"are studied ({first_few(part.names[place] for place in sorted(cut.whole))}); they keep all features."
            )
        return cut
    stated = index_set.provenance.get("part")
    names = stated.get("names") if isinstance(stated, dict) else None
    if isinstance(names, list) and names != part.names:
        raise InputError(
            f"{index_set.source} is of the classes {first_few(names)}, but those with training images are "
            f"{first_few(part.names)}."
        )
    return index_set


def _refuse_without_own(index_set: IndexSet) -> None:
    if len(index_set.whole) == index_set.num_classes:
        raise InputError(
            f"{index_set.source} has no features of its own for any of the {index_set.num_classes} classes that are "
            "studied: it was made from images of other classes.",
            hint=f"Choose features from images of these classes, or keep all classes ({param('classes')} all).",
        )


def highest_weights(head: HeadTensors, class_names: Sequence[str], k: int) -> IndexSet:
    """The k features of each class with the highest weights in a full head, whatever images there are.

    Raises:
        InputError: k is above D.
    """
    nothing = torch.zeros(0, head.num_features), torch.zeros(0, dtype=torch.int64)
    return select(LabelledFeatures(*nothing, head.weight, class_names), "weight", k)


def full_head(head: HeadTensors) -> nn.Linear:
    """The map from features (n, D) to logits (n, C) by a head of the kind ``dense``, without gradients."""
    linear = nn.Linear(head.weight.shape[1], len(head.weight), device="meta")  # whose own parameters nobody needs
    linear.weight, linear.bias = (nn.Parameter(each, requires_grad=False) for each in (head.weight, head.bias))
    return linear


def decomposed_head(head: HeadTensors, index_set: IndexSet) -> DecomposedLinear:
    """The head that keeps the features of each class from a dense head."""
    return DecomposedLinear.from_dense(head.weight, head.bias, index_set.classes)


def with_decomposed_head(module: nn.Module, head: Head, decomposed: DecomposedLinear) -> None:
    """Put a decomposed head in the place of the full one.

    Args:
        module: The network, changed in place.
        head: The full head; what follows it stays in the network.
        decomposed: The decomposed head, with what follows folded in.
    """
    weight, bias = head.following.unfold(decomposed.weight, decomposed.bias)
    inner = DecomposedLinear.from_subspaces(weight, bias, decomposed.classes(), decomposed.num_features)
    module.set_submodule(head.name, inner.to(next(module.parameters()).device))


def _own_decomposition(head: HeadTensors) -> DecomposedLinear:
    assert head.indices is not None
    assert head.mask is not None
    rows = [row[keep].tolist() for row, keep in zip(head.indices, head.mask, strict=True)]
    module = DecomposedLinear(rows, head.num_features)
    module.load_state_dict({"weight": head.weight, "bias": head.bias, "indices": head.indices, "mask": head.mask})
    return module


def _published_decomposition(head: HeadTensors, index_set: IndexSet) -> DecomposedLinear:
    k = head.weight.shape[1]
    if index_set.is_ragged or index_set.largest_k != k:
        raise InputError(
            f"{index_set.source} has up to {index_set.largest_k} indices per class, but the weights have {k}."
        )
    if head.reference is not None and _order_looks_wrong(head.weight, head.reference, index_set):
        warn(
            f"The order of the indices in {index_set.source} does not seem to belong to these weights: in another "
            "order they are much closer to the full head that the file also holds. The accuracy may be wrong."
        )
    return DecomposedLinear.from_subspaces(head.weight, head.bias, index_set.classes, head.num_features)


def _order_looks_wrong(weight: Tensor, reference: Tensor, index_set: IndexSet) -> bool:
    """Whether another order of the indices brings the weights much closer to the full head that they started from.

    Fine-tuning moves weights little, and the order is lost where only sets are published. The smallest possible sum of
    absolute differences over all orders of a class is reached by sorting both sides.
    """
    start = reference.gather(1, torch.tensor(index_set.classes))
    given = (weight - start).abs().sum()
    best = (weight.sort(1).values - start.sort(1).values).abs().sum()
    return bool(given > 2 * best + 1e-6 * start.abs().sum())
