"""Make labels wrong on purpose, to see what a network does with images that can only be memorised."""

from __future__ import annotations

from torch import Tensor

from decompose_cli.datasets.counter_random import Stream, random_integers
from decompose_cli.errors import InputError, param
from decompose_cli.printable import shortest

_MANY = 1 << 62


def check_share(share: float) -> None:
    """Refuse a share that is not between 0 and 1.

    Raises:
        InputError: The share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise InputError(f"{param('label_noise')} {shortest(share)} is not a share of the images between 0 and 1.")


def randomise_labels(
    labels: Tensor, indices: Tensor, share: float, num_classes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Give a share of the images another label, each of the other classes with the same probability.

    ``round(share n)`` of the n images at ``indices`` are changed, none to its own class. The choice of images and
    labels is a function of the arguments for all versions of torch.

    Args:
        labels: Labels int64 (N,), from 0 to C - 1.
        indices: Indices of the images that may be changed, int64 (n,).
        share: Share of the images, between 0 and 1.
        num_classes: Number of classes C.
        seed: Decides which images are changed, and their labels.

    Returns:
        All labels (N,), and the sorted indices of the changed ones.

    Raises:
        InputError: The share is out of range, changes nothing, or there is no other class.
    """
    check_share(share)
    if num_classes < 2:
        raise InputError(f"{param('label_noise')} needs at least two classes.")
    count = round(share * len(indices))
    if count == 0:
        raise InputError(f"{param('label_noise')} {shortest(share)} of {len(indices)} training images is no image.")
    if count == len(indices):
        raise InputError(
            f"{param('label_noise')} {shortest(share)} leaves none of {len(indices)} training images its label."
        )
    keys = random_integers(seed, 0, indices, Stream.LABEL_NOISE, _MANY)
    changed = indices[keys.argsort(stable=True)[:count]].sort().values
    step = 1 + random_integers(seed, 1, changed, Stream.LABEL_NOISE, num_classes - 1)
    noisy = labels.clone()
    noisy[changed] = (labels[changed] + step) % num_classes
    return noisy, changed
