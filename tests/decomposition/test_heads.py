"""Which heads a checkpoint and an index set make possible."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from decompose_cli.decomposition.heads import check_index_request, resolve_heads
from decompose_cli.decomposition.index_set import IndexSet, read_index_set
from decompose_cli.errors import InputError
from decompose_cli.models.checkpoint import Checkpoint, PublishedDecomposition, read_checkpoint
from decompose_cli.models.network import HeadTensors

C, D = 4, 9
INDICES = ((8, 1, 3), (0, 2, 4), (5, 7, 6), (3, 0, 8))
RAGGED = ((8, 1, 3), (0,), (5, 7), (3, 0))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense_head() -> HeadTensors:
    return HeadTensors("dense", "fc", numbers(C, D), numbers(C, seed=1), D)


def loop_logits(x: Tensor, weight: Tensor, bias: Tensor, indices: tuple[tuple[int, ...], ...]) -> Tensor:
    """Weight (C, k) in the order of the indices."""
    rows = []
    for image in x.double().tolist():
        row = []
        for number, mine in enumerate(indices):
            row.append(float(bias[number]) + sum(float(weight[number, j]) * image[i] for j, i in enumerate(mine)))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


# --------------------------------------------------------------------------------------------------- resolve_heads


def test_a_full_head_without_indices_has_no_decomposed_one() -> None:
    head = dense_head()
    heads = resolve_heads(head, None)
    assert heads.decomposed is None
    assert heads.original is not None
    x = numbers(6, D, seed=2)
    expected = x.double() @ head.weight.double().T + head.bias.double()
    torch.testing.assert_close(heads.original(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("indices", [INDICES, RAGGED])
def test_a_full_head_with_indices_has_both(indices: tuple[tuple[int, ...], ...]) -> None:
    head = dense_head()
    heads = resolve_heads(head, IndexSet(indices))
    assert heads.original is not None
    assert heads.decomposed is not None
    assert heads.decomposed.classes() == indices
    x = numbers(6, D, seed=2)
    kept = torch.zeros(C, D)
    for number, mine in enumerate(indices):
        kept[number, list(mine)] = head.weight[number, list(mine)]
    expected = x.double() @ kept.double().T + head.bias.double()
    torch.testing.assert_close(heads.decomposed(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_all_indices_give_the_full_head() -> None:
    heads = resolve_heads(dense_head(), IndexSet((tuple(range(D)),) * C))
    x = numbers(6, D, seed=2)
    assert heads.original is not None
    assert heads.decomposed is not None
    torch.testing.assert_close(heads.decomposed(x), heads.original(x))


def test_a_decomposed_checkpoint_has_no_original_head() -> None:
    weight, bias = numbers(C, 3), numbers(C, seed=1)
    indices = torch.tensor([[8, 1, 3], [0, 0, 0], [5, 7, 5], [3, 0, 3]])
    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, False], [True, True, False]])
    heads = resolve_heads(HeadTensors("decomposed", "fc", weight, bias, D, indices, mask), None)
    assert heads.original is None
    assert heads.decomposed is not None
    assert heads.decomposed.classes() == RAGGED
    x = numbers(6, D, seed=2)
    torch.testing.assert_close(heads.decomposed(x).double(), loop_logits(x, weight, bias, RAGGED), rtol=1e-5, atol=1e-5)


def subspaces(reference: Tensor | None) -> HeadTensors:
    return HeadTensors("subspaces", "fc", numbers(C, 3), numbers(C, seed=1), D, reference=reference)


def test_published_weights_are_used_in_the_order_of_the_indices() -> None:
    head = subspaces(None)
    x = numbers(6, D, seed=2)
    heads = resolve_heads(head, IndexSet(INDICES))
    assert heads.original is None
    assert heads.decomposed is not None
    expected = loop_logits(x, head.weight, head.bias, INDICES)
    torch.testing.assert_close(heads.decomposed(x).double(), expected, rtol=1e-5, atol=1e-5)
    other = resolve_heads(head, IndexSet(tuple(row[::-1] for row in INDICES)))
    assert other.decomposed is not None
    assert not torch.allclose(other.decomposed(x), heads.decomposed(x))


WIDE = ((8, 1, 3, 2), (0, 5, 4, 2), (5, 7, 6, 2), (3, 0, 8, 2))


@pytest.mark.parametrize(
    ("classes", "largest"),
    [(RAGGED, 3), (tuple(row[:2] for row in INDICES), 2), (WIDE, 4)],
    ids=["ragged", "too few", "too many"],
)
def test_published_weights_of_another_width_are_refused(classes: tuple[tuple[int, ...], ...], largest: int) -> None:
    with pytest.raises(InputError) as caught:
        resolve_heads(subspaces(None), IndexSet(classes, source="my.json"))
    assert caught.value.message == f"my.json has up to {largest} indices per class, but the weights have 3."


def reference_for(weight: Tensor, indices: tuple[tuple[int, ...], ...], change: float) -> Tensor:
    """A full head from which fine-tuning with these indices has moved by ``change``."""
    full = numbers(C, D, seed=7)
    for number, mine in enumerate(indices):
        for j, i in enumerate(mine):
            full[number, i] = weight[number, j] - change * (-1) ** j
    return full


@pytest.mark.parametrize("change", [0.0, 0.02])
def test_indices_in_another_order_than_the_weights_are_warned_about(
    caplog: pytest.LogCaptureFixture, change: float
) -> None:
    plain = subspaces(None)
    head = subspaces(reference_for(plain.weight, INDICES, change))
    resolve_heads(head, IndexSet(INDICES, source="right.json"))
    assert caplog.messages == []
    resolve_heads(head, IndexSet(tuple(tuple(sorted(row)) for row in INDICES), source="sorted.json"))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("The order of the indices in sorted.json does not seem to belong to these")
    assert caplog.records[0].levelno == logging.WARNING


def test_without_a_full_head_to_compare_with_there_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    resolve_heads(subspaces(None), IndexSet(tuple(tuple(sorted(row)) for row in INDICES)))
    assert caplog.messages == []


@pytest.mark.parametrize("head", [dense_head(), subspaces(None)], ids=["dense", "subspaces"])
@pytest.mark.parametrize(
    ("index_set", "sentence"),
    [
        (IndexSet(INDICES[:3], source="a"), "a has 3 classes, but the network has 4."),
        (IndexSet(INDICES, 64, source="a"), "a is for 64 features, but the network has 9."),
        (
            IndexSet((*INDICES[:3], (3, 0, 9)), source="a"),
            "a: class 3 has the index 9, which is not one of 0 to 8.",
        ),
    ],
)
def test_indices_for_another_network_are_refused(head: HeadTensors, index_set: IndexSet, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve_heads(head, index_set)
    assert caught.value.message == sentence


def test_heads_do_not_share_memory_with_the_tensors() -> None:
    """Training a decomposed head must not change the features' bank."""
    head = dense_head()
    before = head.weight.clone()
    heads = resolve_heads(head, IndexSet(INDICES))
    assert heads.decomposed is not None
    with torch.no_grad():
        heads.decomposed.weight.add_(1)
    assert torch.equal(head.weight, before)


# --------------------------------------------------------------------------------------------- check_index_request

PLAIN = Checkpoint("plain.th", "0", {"fc.weight": torch.zeros(2, 3), "fc.bias": torch.zeros(2)})
OWN = Checkpoint("own.pt", "0", {"fc.weight": torch.zeros(2, 3), "fc.indices": torch.zeros(2, 3), "fc.mask": PLAIN})  # type: ignore[dict-item]
PUBLISHED = Checkpoint(
    "tuned.pth", "0", {}, published_decomposition=PublishedDecomposition(torch.zeros(2, 3), torch.zeros(2))
)
SOME = IndexSet(((1,), (2,)), source="my.json")


@pytest.mark.parametrize(
    ("checkpoint", "index_set"),
    [(None, None), (None, SOME), (PLAIN, None), (PLAIN, SOME), (OWN, None), (PUBLISHED, SOME)],
)
def test_requests_that_are_fine(checkpoint: Checkpoint | None, index_set: IndexSet | None) -> None:
    check_index_request(checkpoint, index_set)


def test_a_published_decomposition_without_indices_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        check_index_request(PUBLISHED, None)
    expected = "tuned.pth holds a decomposed head (final_weights) without the indices that belong to it."
    assert caught.value.message == expected
    assert caught.value.hint is not None
    assert "in its order, with indices" in caught.value.hint


def test_indices_for_a_checkpoint_that_carries_its_own_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        check_index_request(OWN, SOME)
    assert caught.value.message == "own.pt carries its own indices, so indices my.json cannot be used with it."


@pytest.mark.parametrize(
    ("file", "warned"),
    [("resnet20-decomposed.indices.json", False), ("resnet20_cifar-10_indices.json", True)],
)
def test_order_of_the_published_files(
    reference_dir: Path, caplog: pytest.LogCaptureFixture, file: str, warned: bool
) -> None:
    """The published index file holds the right sets in an order that is not the weights'."""
    checkpoint = read_checkpoint(reference_dir / "weights" / "resnet20-decomposed.pth")
    published = checkpoint.published_decomposition
    assert published is not None
    full = checkpoint.state_dict["linear.weight"].float()
    head = HeadTensors("subspaces", "linear", published.weight, published.bias, full.shape[1], reference=full)
    resolve_heads(head, read_index_set(reference_dir / "weights" / file))
    assert (len(caplog.messages) == 1) is warned
