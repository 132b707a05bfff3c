"""Whether a checkpoint that was just written gives back the network that it was written from."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from decompose_cli.errors import DecomposeError, first_line
from decompose_cli.messages import warn
from decompose_cli.models.checkpoint import read_checkpoint
from decompose_cli.models.classifier import Classifier
from decompose_cli.models.finding import described_entry
from decompose_cli.models.head import PART_OF_SPREAD
from decompose_cli.models.logits import logits_of
from decompose_cli.models.tracing import evaluating, example_images, in_portions, varied_images
from decompose_cli.models.trained_options import as_trained
from decompose_cli.preprocessing import Size

PART_OF_LARGEST = 1e-5
"""So far, of the largest logit, logits are apart by rounding, whatever their spread."""


def check_read_back(path: Path, module: nn.Module, input_size: Size) -> bool:
    """Read a checkpoint that describes its network, and warn if the network in it computes other logits.

    What a network computes with, but holds neither as a parameter nor as a buffer, is not in its state dict: such a
    checkpoint would be measured as another network than that which was trained.

    Args:
        path: The checkpoint.
        module: The network that it was written from, left as it is.
        input_size: (height, width) of the images that the network takes.

    Returns:
        Whether the logits agree, to 1e-4 of their spread in each class.
    """
    try:
        checkpoint = read_checkpoint(path)
        assert checkpoint.metadata is not None
        entry = as_trained(described_entry(checkpoint), checkpoint, {})
        classifier = Classifier(entry, checkpoint, None, 0)
        # A decomposed head has to be found again: what was trained beside it may have made it one of several.
        again = (
            classifier.load(input_size).module if checkpoint.has_decomposed_head else classifier.build(input_size)[0]
        )
        expected, given_back = (_logits(network, input_size) for network in (module, again))
    except DecomposeError as error:
        warn(f"{path} cannot be read back: {first_line(error)}.")
        return False
    except Exception as error:  # the user's own network may fail in any way, and a finished training must not
        warn(f"{path} could not be checked: its network fails on images of noise ({first_line(error)}).")
        return False
    difference = difference_beyond(expected, given_back)
    if difference is None:
        return True
    warn(
        f"{path} does not give back the network that it was written from: for images of noise, logits "
        f"{in_words(difference)}. Something that the network computes with is neither a parameter nor a buffer."
    )
    return False


def difference_beyond(expected: Tensor, given: Tensor) -> float | None:
    """How far logits (N, C) of the same images are apart, where that is more than rounding.

    Returns:
        The largest difference if a class differs by more than 1e-4 of its spread over the images, also where the logits
        of other classes are far larger; None if none does. For rounding, 1e-5 of the largest logit is allowed beside
        that. NaN differs, and so do other shapes.
    """
    if given.shape != expected.shape:
        return float("nan")
    allowed = PART_OF_SPREAD * (expected.amax(0) - expected.amin(0)) + PART_OF_LARGEST * expected.abs().amax()
    difference = (given - expected).abs().amax(0)
    return None if bool((difference <= allowed).all()) else float(difference.max())


def in_words(difference: float) -> str:
    """What logits do, by :func:`difference_beyond`."""
    return "are not numbers (NaN)" if math.isnan(difference) else f"differ by up to {difference:.3g}"


def _logits(network: nn.Module, input_size: Size) -> Tensor:
    with torch.random.fork_rng():
        with evaluating(network):  # hooks that make weights then make some that can be copied
            network(example_images(input_size, model=network))
        copied = copy.deepcopy(network).cpu().float()  # a GPU rounds otherwise, in TF32 visibly so
        torch.manual_seed(0)  # for networks that draw random numbers in evaluation too
        with evaluating(copied):
            return torch.cat([logits_of(copied(images)) for images in in_portions(varied_images(input_size, copied))])
