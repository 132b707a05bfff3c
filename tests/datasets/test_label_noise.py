"""Labels made wrong on purpose."""

from __future__ import annotations

import pytest
import torch

from decompose_cli.datasets.label_noise import randomise_labels
from decompose_cli.errors import InputError

LABELS = torch.arange(1000) % 10
EVEN = torch.arange(0, 1000, 2)


def test_exactly_the_share_of_the_given_images_gets_another_label() -> None:
    before = LABELS.clone()
    found, changed = randomise_labels(LABELS, EVEN, 0.1, 10, seed=0)
    assert torch.equal(LABELS, before)
    assert len(changed) == 50
    assert torch.equal(changed, changed.sort().values)
    assert set(changed.tolist()) <= set(EVEN.tolist())
    assert torch.equal((found != LABELS).nonzero()[:, 0], changed)
    assert int(found.min()) >= 0
    assert int(found.max()) <= 9


def test_each_other_class_is_as_likely() -> None:
    labels = torch.zeros(9000, dtype=torch.int64)
    found, changed = randomise_labels(labels, torch.arange(9000), 0.9, 4, seed=3)
    assert len(changed) == 8100
    counts = found.bincount(minlength=4)
    assert int(counts[0]) == 900
    assert all(abs(int(count) - 2700) < 5 * (8100 * (1 / 3) * (2 / 3)) ** 0.5 for count in counts[1:])


def test_choice_and_labels_are_functions_of_the_seed_alone() -> None:
    first = randomise_labels(LABELS, EVEN, 0.2, 10, seed=1)
    again = randomise_labels(LABELS, EVEN, 0.2, 10, seed=1)
    other = randomise_labels(LABELS, EVEN, 0.2, 10, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])
    # Never to change: a run that goes on elsewhere has to learn from the same labels.
    found, changed = randomise_labels(LABELS[:20], torch.arange(20), 0.25, 10, seed=0)
    assert changed.tolist() == PINNED[0]
    assert found[changed].tolist() == PINNED[1]


PINNED = ([0, 5, 11, 14, 19], [5, 0, 6, 9, 3])


@pytest.mark.parametrize("share", [0.0, -0.1, 1.0, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(InputError, match=f"label_noise {share:g} is not a share"):
        randomise_labels(LABELS, EVEN, share, 10, seed=0)


def test_shares_that_change_nothing_and_single_classes_are_refused() -> None:
    with pytest.raises(InputError, match=r"label_noise 0\.0001 of 500 training images is no image"):
        randomise_labels(LABELS, EVEN, 0.0001, 10, seed=0)
    with pytest.raises(InputError, match=r"label_noise 0\.9999 leaves none of 500 training images its label"):
        randomise_labels(LABELS, EVEN, 0.9999, 10, seed=0)
    with pytest.raises(InputError, match="at least two classes"):
        randomise_labels(LABELS * 0, EVEN, 0.5, 1, seed=0)
