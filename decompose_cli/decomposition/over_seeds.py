"""Two ways of training, compared over several seeds, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import BaseModel
from torch import Tensor

from decompose_cli.statistics import mean_interval


class SeedDifference(BaseModel):
    """Accuracy of the second group of networks minus that of the first, in points; see :func:`difference_over_seeds`.

    ``by_seed``: of each of the ``seeds`` that both groups have; ``points``: their mean. ``ci95_images``: what other
    images of the kind would give with these networks; ``ci95_seeds``: what other seeds would give on these images;
    ``ci95``: both together.
    """

    first: str
    second: str
    seeds: list[int]
    by_seed: list[float]
    points: float
    ci95_images: tuple[float, float]
    ci95_seeds: tuple[float, float]
    ci95: tuple[float, float]


def difference_over_seeds(
    names: tuple[str, str], first: Mapping[int, Tensor], second: Mapping[int, Tensor]
) -> SeedDifference | None:
    r"""Compare two groups of networks by the seeds that both have.

    With d_si = right(second, seed s, image i) - right(first, seed s, image i), S seeds and N images, the mean over both
    has two sources of chance, which are taken as crossed random effects (the same images are seen by all networks):

        v_images = var_i(mean_s d_si) / N,    v_seeds = var_s(mean_i d_si) / S

    with sample variances. ``ci95_images`` is mean +- t_{N-1} sqrt(v_images), ``ci95_seeds`` mean +- t_{S-1}
    sqrt(v_seeds), and ``ci95`` mean +- t_{S-1} sqrt(v_images + v_seeds), which holds both. What varies with seed and
    image together is in both variances, and with few seeds their variance is known too badly to take more than S - 1
    degrees of freedom (Satterthwaite's number, which is larger, covers too little): the interval is wide rather than
    too narrow. Limits beyond -100 and 100 points are cut to these.

    Args:
        names: What the groups are called.
        first: Whether each image is right, (N,) bool, by seed.
        second: The same for the other group, on the same images.

    Returns:
        The difference; None where the groups have fewer than two seeds in common, or there are fewer than two images.
    """
    from scipy.special import stdtrit

    seeds = sorted(set(first) & set(second))
    images = len(next(iter(first.values()), ()))
    if len(seeds) < 2 or images < 2:
        return None
    differences = 100 * torch.stack([second[seed].double() - first[seed].double() for seed in seeds])
    by_seed, by_image = differences.mean(1).tolist(), differences.mean(0).tolist()
    points, error_of_seeds, of_seeds = mean_interval(by_seed)
    _, error_of_images, of_images = mean_interval(by_image)
    assert of_seeds is not None
    assert of_images is not None
    errors = torch.tensor([error_of_images, error_of_seeds], dtype=torch.float64)
    half = float(stdtrit(len(seeds) - 1, 0.975)) * float(errors.norm())

    def within(low: float, high: float) -> tuple[float, float]:
        return max(low, -100.0), min(high, 100.0)

    return SeedDifference(
        first=names[0],
        second=names[1],
        seeds=seeds,
        by_seed=by_seed,
        points=points,
        ci95_images=within(*of_images),
        ci95_seeds=within(*of_seeds),
        ci95=within(points - half, points + half),
    )


def differences_over_seeds(groups: Mapping[str, Mapping[int, Tensor]]) -> list[SeedDifference]:
    """Compare every two groups of networks, which say by seed whether images are right, where two seeds are common."""
    names: Sequence[str] = list(groups)
    pairs = [(one, other) for number, one in enumerate(names) for other in names[number + 1 :]]
    found = [difference_over_seeds(pair, groups[pair[0]], groups[pair[1]]) for pair in pairs]
    return [one for one in found if one is not None]
