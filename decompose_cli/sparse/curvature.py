"""Second derivatives of the mean cross-entropy, from the images that carry them: what a Newton step divides by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import copy

import torch
from torch import Tensor
from typing_extensions import Self

from decompose_cli.sparse.few_features import evaluation_of
from decompose_cli.sparse.problem import Problem

_MOST_DENSE = 2600  # parameters whose whole matrix is made: 54 MB of float64, a factorisation in under a second
_PRODUCTS = 1 << 30  # of the whole matrix, which decide how many images it is made from
_PRODUCTS_IN_DOUBLE = 1 << 29
_FEWEST_IMAGES = 2048
_MOST_IN_BLOCKS = 1 << 25  # elements of the blocks of all classes, 256 MB
_IMAGES_PER_CLASS = 512
_VALUES_AT_ONCE = 1 << 22
_IN_CACHE = 1 << 20  # of products of pairs of columns
_COST_BY_CLASS = 5  # gathering what a class uses takes longer than multiplying it
_FASTER = 8  # how many times as fast products of large float32 matrices are as those of an evaluation
_RIDGE = 1e-9
_NARROW = 4  # parts of all parameters that are chosen, below which their matrix is made for itself
_MOST_KEPT = 1 << 24  # elements of factors that are kept for the next step, 128 MB


class Curvature(ABC):
    """An approximation H of the second derivative that is positive definite on any choice of parameters."""

    cost: float
    """Multiplications that made it, over those of an evaluation of the loss."""

    l2: float

    def at_strength(self, l2: float) -> Self:
        """The same with the penalty at another strength."""
        other = copy(self)
        other.l2 = l2
        other.raise_weights(l2 - self.l2)
        return other

    @abstractmethod
    def raise_weights(self, by: float) -> None:
        """Add a number to the second derivative in each weight, in a copy of what is there."""

    @abstractmethod
    def solve(self, gradient: Tensor, among: Tensor) -> Tensor:
        """H^-1 gradient on the chosen parameters.

        Args:
            gradient: (C, D + 1).
            among: Which parameters are chosen, bool (C, D + 1); the others stay 0.
        """


def curvature_of(problem: Problem, head: Tensor, free: Tensor, l2: float) -> Curvature:
    """The curvature of f + l2/2 |W|^2 at a head (C, D + 1): whole, by class, or the diagonal, as size allows."""
    if is_whole(free):
        return Dense(problem, head, free, l2)
    if len(free) * int(free.sum(1).max()) ** 2 <= _MOST_IN_BLOCKS:
        return _ByClass(problem, head, free, l2)
    return _Diagonal(problem, head, free, l2)


def is_whole(free: Tensor) -> bool:
    """Whether so many free parameters, bool (C, D + 1), have their whole matrix made."""
    return int(free.sum()) <= _MOST_DENSE


class Dense(Curvature):
    """The second derivative over all free parameters.

    H_(c,j),(d,l) = sum_i a_i p_ic (1[c = d] - p_id) z_ij z_il / sum_i a_i. Where that takes too long, images are drawn
    with probabilities q_i that follow sum_c p_ic (1 - p_ic), from the same seed each time, and weighted by 1 / (n q_i).

    Attributes:
        index: The free parameters, places in a flattened (C, D + 1), ascending.
        matrix: H, float64.
    """

    def __init__(self, problem: Problem, head: Tensor, free: Tensor, l2: float) -> None:
        self.index = free.flatten().nonzero()[:, 0]
        width = free.shape[1]
        classes, columns = self.index // width, self.index % width
        moments = _Moments(classes, columns)
        total = len(problem.labels)
        count = min(total, max(_FEWEST_IMAGES, _PRODUCTS // moments.products))
        products = count * moments.products
        evaluation = evaluation_of(problem, free | (head != 0))
        self.cost = products / (_FASTER * 2 * max(1, evaluation.products)) + (evaluation is not problem)
        weights = torch.ones(count, dtype=torch.float64, device=problem.device)
        kept: Tensor | None = None
        if count < total:
            kept, weights = _drawn(torch.cat([spread.sum(1).double() for _, spread in _spreads(problem, head)]), count)
        p = problem.probabilities(head, slice(None) if kept is None else kept)
        if problem.image_weights is not None:
            weights = weights * (problem.image_weights if kept is None else problem.image_weights[kept])
        if products > _PRODUCTS_IN_DOUBLE:
            problem = problem.in_single
        p, weights = p.to(problem.dtype), weights.to(problem.dtype)
        for start in range(0, count, moments.step):
            rows = slice(start, start + moments.step)
            images = rows if kept is None else kept[rows]
            moments.add(_standardised(problem, images, moments.columns), p[rows], weights[rows])
        matrix = moments.matrix
        matrix /= problem.total
        is_bias = columns == width - 1
        matrix.diagonal().add_(torch.where(is_bias, 0.0, l2))
        if problem.rest is None and bool(free[:, -1].all()):
            # The same number added to all biases changes no probability: no gradient points there.
            matrix[is_bias.nonzero(), is_bias.nonzero()[:, 0]] += matrix.diagonal()[is_bias].mean()
        self.matrix, self.l2, self._is_bias = matrix, l2, is_bias
        self._among: Tensor | None = None
        self._factor = matrix

    def raise_weights(self, by: float) -> None:
        """See :meth:`Curvature.raise_weights`."""
        self.matrix = self.matrix + torch.diag(torch.where(self._is_bias, 0.0, by))
        self._among = None

    def solve(self, gradient: Tensor, among: Tensor) -> Tensor:
        """See :meth:`Curvature.solve`."""
        chosen = among.flatten()[self.index].nonzero()[:, 0]
        if _NARROW * len(chosen) < len(self.index):  # of biases alone: the factor of the others is kept for the next
            factor = factor_of(self.matrix[chosen[:, None], chosen])
        else:
            if self._among is None or not torch.equal(chosen, self._among):
                self._among = chosen
                self._factor = factor_of(self.matrix[chosen[:, None], chosen])
            factor = self._factor
        places = self.index[chosen]
        result = gradient.new_zeros(gradient.numel())
        if len(chosen):
            result[places] = torch.cholesky_solve(gradient.flatten()[places, None], factor)[:, 0]
        return result.view_as(gradient)


class _Moments:
    """sum_i a_i p_ic (1[c = d] - p_id) z_ij z_il over some images, for parameters (c, j) and (d, l).

    Either by the products of all parameters with each other, or, where most parameters of some classes and columns are
    there, by the products of all pairs of these classes with all pairs of these columns, which are a quarter as many.

    Attributes:
        products: Multiplications for an image.
        columns: The columns that are needed, ascending.
        step: Images that are best added at a time.
    """

    def __init__(self, classes: Tensor, columns: Tensor) -> None:
        self.classes, self._own_class = torch.unique(classes, return_inverse=True)
        self.columns, self._own_column = torch.unique(columns, return_inverse=True)
        self._pairs = tuple(
            torch.triu_indices(len(own), len(own), device=own.device) for own in (self.classes, self.columns)
        )
        alone, paired = len(classes) ** 2, self._pairs[0].shape[1] * self._pairs[1].shape[1]
        self.products, self._is_paired = max(1, min(alone, paired)), paired < alone
        shape = tuple(pairs.shape[1] for pairs in self._pairs) if self._is_paired else (len(classes), len(classes))
        self._sums = torch.zeros(shape, dtype=torch.float64, device=classes.device)
        self.step = max(1, (_IN_CACHE if self._is_paired else _VALUES_AT_ONCE) // max(1, *shape))

    def add(self, z: Tensor, p: Tensor, weights: Tensor) -> None:
        """Add images: z (n, columns), probabilities of all classes (n, C) and weights (n,)."""
        p = p[:, self.classes]
        if self._is_paired:
            first, second = self._pairs[0]
            masses = -p.t()[first] * (p * weights[:, None]).t()[second]
            masses[first == second] += (p * weights[:, None]).t()
            z = z.t().contiguous()
            first, second = self._pairs[1]
            products = z.index_select(0, first).mul_(z.index_select(0, second))
            self._sums += (masses @ products.t()).double()
            return
        scaled = z[:, self._own_column] * (p * weights[:, None].sqrt())[:, self._own_class]
        self._sums -= (scaled.t() @ scaled).double()
        for number in range(len(self.classes)):
            own = (self._own_class == number).nonzero()[:, 0]
            part = z[:, self._own_column[own]]
            self._sums[own[:, None], own] += ((part * (p[:, number] * weights)[:, None]).t() @ part).double()

    @property
    def matrix(self) -> Tensor:
        """The sums, (parameters, parameters)."""
        if not self._is_paired:
            return self._sums
        places = []
        for own, pairs in zip((self._own_class, self._own_column), self._pairs, strict=True):
            size = int(own.max()) + 1
            table = own.new_empty(size, size)
            table[pairs[0], pairs[1]] = table[pairs[1], pairs[0]] = torch.arange(pairs.shape[1], device=own.device)
            places.append(table[own[:, None], own])
        return self._sums[places[0], places[1]]


class _ByClass(Curvature):
    """The blocks of single classes: H_(c,j),(c,l) = sum_i a_i p_ic (1 - p_ic) z_ij z_il / sum_i a_i.

    For each class the images with the largest a_i p_ic (1 - p_ic) are taken as they are; the rest of that sum goes to
    the diagonal, where z has variance 1. Blocks are padded to the largest, and made for several classes at a time.
    """

    def __init__(self, problem: Problem, head: Tensor, free: Tensor, l2: float) -> None:
        self.cost, self.l2 = _COST_BY_CLASS, l2
        classes, features = problem.num_classes, problem.num_features
        counts = free.sum(1)
        width = max(1, int(counts.max()))
        # Free parameters of each class, the padded ones last.
        self.columns = free.byte().argsort(dim=1, descending=True, stable=True)[:, :width]
        self.real = torch.arange(width, device=counts.device) < counts[:, None]
        self.blocks = head.new_zeros(classes, width, width)
        images = min(max(_IMAGES_PER_CLASS, 8 * width), len(problem.labels))
        masses, places_of, totals = _heaviest(problem, head, images)
        mean, inverse = problem.scale.mean, problem.scale.inverse
        mean, inverse = torch.cat([mean, mean.new_zeros(1)]), torch.cat([inverse, inverse.new_ones(1)])
        at_once = max(1, _VALUES_AT_ONCE // (images * width))
        flat = problem.features.flatten()
        for start in range(0, classes, at_once):
            some = slice(start, start + at_once)
            mass, rows = masses[some], places_of[some]
            columns = self.columns[some]
            is_bias = columns == features
            places = rows[:, :, None] * features + columns.clamp(max=features - 1)[:, None, :]
            z = flat[places]
            z = torch.where(is_bias[:, None, :], 1.0, z)
            z = (z - mean[columns].to(z.dtype)[:, None, :]) * inverse[columns].to(z.dtype)[:, None, :]
            block = ((z * mass[:, :, None]).transpose(1, 2) @ z).double() / problem.total
            rest = (totals[some] - mass.sum(1)).double().clamp(min=0) / problem.total
            block.diagonal(dim1=1, dim2=2).add_(rest[:, None] + torch.where(is_bias, 0.0, l2))
            self.blocks[some] = block
        self._is_bias = self.columns == features
        self._factored: Tensor | None = None
        self._factors: list[Tensor] = []

    def raise_weights(self, by: float) -> None:
        self.blocks = self.blocks + torch.diag_embed(torch.where(self._is_bias, 0.0, by))
        self._factored, self._factors = None, []

    def solve(self, gradient: Tensor, among: Tensor) -> Tensor:
        chosen = self.real & among.gather(1, self.columns)
        most, width = int(chosen.sum(1).max()), chosen.shape[1]
        if _NARROW * most < width:
            return self._narrow(gradient, chosen, max(1, most))
        right = torch.where(chosen, gradient.gather(1, self.columns), 0.0)
        found, at_once = torch.empty_like(right), max(1, _VALUES_AT_ONCE // width**2)
        parts = [slice(start, start + at_once) for start in range(0, len(right), at_once)]
        is_known = self._factored is not None and torch.equal(chosen, self._factored)
        if not is_known:
            self._factored, self._factors = None, []
        for number, some in enumerate(parts):  # factors of all blocks at once would take several times their room
            factor = self._factors[number] if is_known else _padded_factor(self.blocks[some], chosen[some])
            if not is_known and self.blocks.numel() <= _MOST_KEPT:
                self._factors.append(factor)
            found[some] = torch.cholesky_solve(right[some, :, None], factor)[:, :, 0]
        if len(self._factors) == len(parts):
            self._factored = chosen
        return torch.zeros_like(gradient).scatter_(1, self.columns, torch.where(chosen, found, 0.0))

    def _narrow(self, gradient: Tensor, chosen: Tensor, most: int) -> Tensor:
        """The same where few parameters of each class are chosen, at most so many: of small blocks."""
        places = chosen.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        numbers = torch.arange(len(chosen), device=chosen.device)[:, None, None]
        inside = chosen.gather(1, places)
        factor = _padded_factor(self.blocks[numbers, places[:, :, None], places[:, None, :]], inside)
        columns = self.columns.gather(1, places)
        right = torch.where(inside, gradient.gather(1, columns), 0.0)
        found = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
        return torch.zeros_like(gradient).scatter_(1, columns, torch.where(inside, found, 0.0))


class _Diagonal(Curvature):
    """The diagonal alone: sum_i a_i p_ic (1 - p_ic) / sum_i a_i for every weight of a class, as z has variance 1."""

    def __init__(self, problem: Problem, head: Tensor, free: Tensor, l2: float) -> None:
        self.cost, self.l2 = _COST_BY_CLASS, l2
        sums = head.new_zeros(problem.num_classes)
        for _, spread in _spreads(problem, head):
            sums += spread.t().float().contiguous().sum(1, dtype=torch.float64)
        self.diagonal = (sums / problem.total)[:, None].repeat(1, free.shape[1])
        self.diagonal[:, :-1] += l2
        self.diagonal += _RIDGE * float(self.diagonal.mean()) + 1e-15

    def raise_weights(self, by: float) -> None:
        self.diagonal = self.diagonal.clone()
        self.diagonal[:, :-1] += by

    def solve(self, gradient: Tensor, among: Tensor) -> Tensor:
        return torch.where(among, gradient / self.diagonal, 0.0)


def _padded_factor(blocks: Tensor, chosen: Tensor) -> Tensor:
    """Cholesky factors of the chosen rows and columns of blocks (c, w, w), with ones in the place of the others."""
    identity = torch.eye(blocks.shape[1], dtype=blocks.dtype, device=blocks.device)
    return factor_of(torch.where(chosen[:, :, None] & chosen[:, None, :], blocks, identity))


def factor_of(matrix: Tensor) -> Tensor:
    """Cholesky factors, with as much added to the diagonal as it takes."""
    ridge = _RIDGE * float(matrix.diagonal(dim1=-2, dim2=-1).mean()) + 1e-15
    while True:
        raised = matrix + ridge * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(raised)
        if not bool(failed.any()):
            return factor
        ridge *= 100


def _drawn(spread: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Images drawn by their share of the curvature, ascending, and their weights."""
    share = spread + 0.05 * spread.mean() + 1e-30
    share = share / share.sum()
    generator = torch.Generator().manual_seed(0)  # on the CPU, where it draws the same for every device
    drawn = torch.multinomial(share.cpu(), count, replacement=True, generator=generator).sort().values.to(share.device)
    return drawn, 1 / (count * share[drawn])


def _standardised(problem: Problem, rows: slice | Tensor, columns: Tensor) -> Tensor:
    """Some columns, ascending, of z of some images with a last column of ones, for the bias, (n, columns)."""
    x, scale = problem.features[rows], problem.scale
    own = columns[columns < problem.num_features]
    if len(own) < problem.num_features:
        x = x[:, own]
    z = (x - scale.mean[own].to(x.dtype)) * scale.inverse[own].to(x.dtype)
    return torch.cat([z, z.new_ones(len(z), len(columns) - len(own))], 1)


def _spreads(problem: Problem, head: Tensor) -> Iterator[tuple[int, Tensor]]:
    """a p (1 - p), block by block of images: the number of the first, and (n, C)."""
    evaluation = evaluation_of(problem, head != 0)
    for start in range(0, len(problem.labels), problem.step):
        rows = slice(start, start + problem.step)
        p = evaluation.probabilities(head, rows)
        spread = p * (1 - p)
        if problem.image_weights is not None:
            spread *= problem.image_weights[rows, None]
        yield start, spread


def _heaviest(problem: Problem, head: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each class the largest a p (1 - p) and the numbers of their images, (C, count), and the sum of all, (C,)."""
    masses = torch.empty(problem.num_classes, 0, device=problem.device)
    images = masses.long()
    sums = torch.zeros(problem.num_classes, device=problem.device)
    for start, spread in _spreads(problem, head):
        by_class = spread.t().float().contiguous()
        sums += by_class.sum(1)
        largest, places = by_class.topk(min(count, by_class.shape[1]), dim=1)
        masses, images = torch.cat([masses, largest], 1), torch.cat([images, places + start], 1)
        masses, order = masses.topk(min(count, masses.shape[1]), dim=1)
        images = images.gather(1, order)
    return masses, images, sums
