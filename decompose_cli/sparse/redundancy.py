"""How much two features say the same of the classes, as QPM has it: cosines above what a pool can avoid."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MOST_NODES = 4000


def redundancy(similarities: Tensor, size: int) -> Tensor:
    """R, symmetric with a diagonal of zeros, float64 (D, D), from 0 to 1.

    R_fg is the cosine of columns f and g of A where it reaches the smallest threshold at which ``size`` features exist
    that are pairwise below it, else 0; negative ones are 0, and the largest is made 1.

    Args:
        similarities: A, (C, D).
        size: Features of a pool.
    """
    columns = similarities.double()
    columns = columns / columns.norm(dim=0).clamp(min=1e-300)
    cosines = columns.t() @ columns
    cosines = (cosines + cosines.t()) / 2
    cosines.fill_diagonal_(-float("inf"))
    kept = torch.where(cosines >= _threshold(cosines, size), cosines, 0.0).clamp(min=0)
    return kept / kept.max() if float(kept.max()) > 0 else kept


def _threshold(cosines: Tensor, size: int) -> float:
    """The smallest cosine that ``size`` features exist pairwise below; infinite where none is."""
    values = torch.unique(cosines)[1:].tolist()  # the first is that of the diagonal
    table = cosines.cpu().numpy()
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if _can_be_left_out(table >= values[middle], len(table) - size):
            high = middle
        else:
            low = middle + 1
    return float(values[low]) if low < len(values) else float("inf")


def _can_be_left_out(edges: NDArray[np.bool_], most: int) -> bool:
    """Whether at most so many features can be left out that no edge remains: a vertex cover of a size.

    A feature with most edges is left out, or else all that it has edges with; where all have at most two, the first is
    right. Exact for up to 4000 such choices, beyond which the answer may be a no that is too careful.
    """
    waiting = [(np.ones(len(edges), dtype=bool), most)]
    nodes = 0
    while waiting and nodes <= _MOST_NODES + len(edges):
        inside, left = waiting.pop()
        degrees = np.where(inside, edges[:, inside].sum(1), 0)
        while True:
            nodes += 1
            largest = int(degrees.max())
            if largest == 0:
                return True
            if left <= 0 or int(degrees.sum()) > 2 * left * largest:
                break
            ends = np.flatnonzero(degrees == 1)
            if len(ends):
                out = int(np.flatnonzero(edges[ends[0]] & inside)[0])
            else:
                out = int(degrees.argmax())
                if largest > 2 and largest <= left:
                    fewer = inside & ~edges[out]
                    fewer[out] = False
                    waiting.append((fewer, left - largest))
            inside = inside.copy()
            inside[out] = False
            degrees = np.where(inside, degrees - edges[out], 0)
            left -= 1
    return False
