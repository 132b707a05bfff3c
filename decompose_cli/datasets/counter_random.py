"""Random numbers that depend on where they are used, not on how many were drawn before.

Every draw about training data comes from here, as a function of (purpose, seed, epoch, image index). So it does not
matter how images are spread over batches, worker processes and machines, or where an interrupted run starts again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, unique

import torch
from torch import Tensor

# Increment and multipliers of splitmix64 (Steele, Lea and Flood, OOPSLA 2014, doi 10.1145/2660193.2660195).
_INCREMENT = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31
_WORD = 1 << 64
_SIGN = 1 << 63
_MANTISSA_BITS = {torch.float32: 24, torch.float64: 53}


@unique
class Stream(IntEnum):
    """Purposes of random numbers, whose draws are independent. Never renumber them: runs would change."""

    HOLD_OUT = 0
    ORDER = 1
    CROP_TOP = 2
    CROP_LEFT = 3
    FLIP = 4
    CUTOUT_ROW = 5
    CUTOUT_COLUMN = 6
    IMAGE = 7
    MIXING = 8
    LABEL_NOISE = 9


def random_integers(seed: int, epoch: int, indices: Tensor, stream: int, high: int) -> Tensor:
    """Whole numbers that depend on the arguments only.

    With the finaliser ``mix`` of splitmix64 and a 64-bit ``key`` of (stream, seed, epoch), the number for index i is
    ``(mix(key + (i + 1) * increment mod 2**64) >> 1) mod high``: the i-th output of splitmix64 started at ``key``.

    Args:
        seed: Any integer.
        epoch: Any integer.
        indices: Integers of any shape, on any device.
        stream: Purpose of the numbers, one of :class:`Stream`.
        high: Upper limit, exclusive, below 2**63. A number is too likely by at most ``high`` / 2**63.

    Returns:
        int64 in 0..high-1, in the shape and on the device of ``indices``.

    Raises:
        ValueError: ``high`` is not in 1..2**63-1.
    """
    if not 1 <= high < _SIGN:
        raise ValueError(f"high is {high}, not in 1..2**63-1")
    return _shifted(_words(seed, epoch, indices, stream), 1) % high


def random_uniform(
    seed: int, epoch: int, indices: Tensor, stream: int, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Random numbers in [0, 1), equally spaced: the upper 24 (float32) or 53 (float64) bits as a binary fraction.

    Arguments and shape of the result are those of :func:`random_integers`.

    Raises:
        ValueError: ``dtype`` is neither float32 nor float64.
    """
    if dtype not in _MANTISSA_BITS:
        raise ValueError(f"{dtype} is neither float32 nor float64")
    bits = _MANTISSA_BITS[dtype]
    return _shifted(_words(seed, epoch, indices, stream), 64 - bits).to(dtype) * 2.0**-bits


def derived_seed(*integers: int) -> int:
    """A seed in 0..2**63-1 for a :class:`torch.Generator`; every integer, and their order and number, matters."""
    return _key(integers) >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let code that only knows torch's global generator of the CPU draw from ``seed``; put the generator back after.

    ``torch.manual_seed`` would also seed the accelerators, and their state is neither needed nor put back here.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _words(seed: int, epoch: int, indices: Tensor, stream: int) -> Tensor:
    """The 64 random bits of each index, as int64: torch multiplies and adds modulo 2**64."""
    words = (indices.to(torch.int64) + 1) * _signed(_INCREMENT) + _signed(_key((stream, seed, epoch)))
    for shift, factor in _ROUNDS:
        words = (words ^ _shifted(words, shift)) * _signed(factor)
    return words ^ _shifted(words, _LAST_SHIFT)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros; torch's own shift of int64 fills with the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    return word - _WORD if word >= _SIGN else word


def _key(integers: tuple[int, ...]) -> int:
    key = 0
    for integer in integers:
        key = ((key ^ (integer % _WORD)) + _INCREMENT) % _WORD
        for shift, factor in _ROUNDS:
            key = ((key ^ (key >> shift)) * factor) % _WORD
        key ^= key >> _LAST_SHIFT
    return key
