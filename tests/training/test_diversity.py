"""The diversity loss of SLDD, against its equation written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.passing_maps import find_place
from decompose_cli.training.diversity import DiversityObjective, Mapped, diversity


def slow_diversity(maps: Tensor, weight: Tensor, predicted: list[int]) -> list[float]:
    """Of each image, with the weight (C, D) of a whole head: loops over features and positions, in double precision."""
    found = []
    for image, c in zip(maps.double().tolist(), predicted, strict=True):
        flat = [[value for row in one for value in row] for one in image]
        means = [sum(one) / len(one) for one in flat]
        length = math.sqrt(sum(w * w for w in weight[c].double().tolist()))
        total = 0.0
        softened = []
        for one in flat:
            exponentials = [math.exp(value) for value in one]
            softened.append([value / sum(exponentials) for value in exponentials])
        for p in range(len(flat[0])):
            values = []
            for j, mean in enumerate(means):
                share = mean / max(means) if max(means) > 0 else 0.0
                w = abs(float(weight[c, j])) / length if length > 0 else 0.0
                values.append(softened[j][p] * share * w)
            total += max(values)
        found.append(total)
    return found


def case(rows: list[list[int]], count: int = 6, features: int = 7) -> tuple[Tensor, DecomposedLinear, Tensor]:
    """Maps, some of them negative, a head of a few features, and its weight as a matrix."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(count, features, 3, 4, generator=generator, dtype=torch.float64) + 0.5
    maps[0, [0, 2, 4]] = -maps[0, [0, 2, 4]].abs()  # for which a feature without a weight is larger
    maps[1] = 0.0
    maps[2] = -maps[2].abs()
    head = DecomposedLinear(rows, features)
    dense = torch.zeros(len(rows), features)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
        for number, row in enumerate(rows):
            dense[number, row] = head.weight[number, : len(row)]
    return maps, head, dense


@pytest.mark.parametrize(
    "rows",
    [[[0, 2, 4], [1, 2, 3], [5, 6, 0]], [[0], [1, 2, 3, 6], []], [list(range(7)), [3, 1, 0, 2, 6, 5, 4], [2]]],
    ids=["k", "ragged", "all"],
)
def test_it_is_the_equation_written_out(rows: list[list[int]]) -> None:
    maps, head, dense = case(rows)
    predicted = [0, 1, 2, 2, 1, 0]
    weights = (head.weight * head.mask).double()[predicted]
    found = diversity(maps, weights, head.indices[predicted])
    expected = slow_diversity(maps, dense, predicted)
    assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert expected[1] == 0, "an image without any feature has no diversity"
    assert max(expected) > 0.1


def test_features_that_look_at_different_places_are_more_diverse_than_those_that_look_at_one() -> None:
    apart, together = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    apart[0, 0, 0, 0] = apart[0, 1, 1, 1] = 8.0
    together[0, :, 0, 0] = 8.0
    weights, indices = torch.tensor([[1.0, -1.0]]), torch.tensor([[0, 1]])
    assert float(diversity(apart, weights, indices)) == pytest.approx(2 / math.sqrt(2), rel=0.01)
    assert float(diversity(together, weights, indices)) == pytest.approx(1 / math.sqrt(2), rel=0.01)


def test_gradients_are_those_of_small_steps_and_finite_without_features() -> None:
    maps, head, _ = case([[0, 2, 4], [1, 2, 3], [5, 6, 0]])
    predicted = [0, 1, 2, 2, 1, 0]
    weights = head.weight.detach().double()[predicted].requires_grad_()
    usual = [3, 4, 5]  # the others are not smooth there
    assert torch.autograd.gradcheck(
        lambda a, w: diversity(a, w, head.indices[predicted][usual]),
        (maps[usual].clone().requires_grad_(), weights[usual]),
    )
    maps.requires_grad_()
    diversity(maps, weights * 0, head.indices[predicted]).sum().backward()
    assert maps.grad is not None
    assert bool(torch.isfinite(maps.grad).all())


class Small(nn.Module):
    """Maps, their means, and a head of two features per class."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 5, 3), DecomposedLinear([[0, 1], [2, 3], [4, 0]], 5)
        nn.init.normal_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(x).relu().mean((2, 3)))
        return logits


def make_objective(beta: float) -> tuple[Small, DiversityObjective, Tensor, Tensor]:
    torch.manual_seed(0)
    module, images = Small(), torch.randn(6, 3, 8, 8)
    place = find_place(module, module.head, images)
    assert place is not None
    return module, DiversityObjective(0.0, beta, module.head, place), images, torch.tensor([0, 1, 2, 0, 1, 2])


def test_beta_times_it_is_subtracted_from_the_loss_in_training_only() -> None:
    module, objective, images, labels = make_objective(0.5)
    output = objective.forward(module, images)
    logits = module(images)
    torch.testing.assert_close(objective.logits(output), logits)
    dense = torch.zeros(3, 5).scatter_(1, module.head.indices, module.head.weight.detach())
    expected = slow_diversity(module.conv(images).relu().detach(), dense, logits.argmax(1).tolist())
    total, shown = (loss.detach() for loss in objective.losses(output, labels))
    crosses = F.cross_entropy(logits.detach(), labels, reduction="sum")
    torch.testing.assert_close(shown, crosses)
    assert float(total) == pytest.approx(float(crosses) - 0.5 * sum(expected), rel=1e-5)
    measured = objective.read(module.eval(), images)
    assert not isinstance(measured, Mapped)
    for loss in objective.losses(measured, labels):
        torch.testing.assert_close(loss.detach(), crosses)


def test_steps_against_it_end_in_more_diverse_maps_than_steps_without() -> None:
    ends = []
    for beta in (0.0, 2.0):
        module, objective, images, labels = make_objective(beta)
        optimizer = torch.optim.SGD(module.conv.parameters(), lr=0.2)
        for _ in range(40):
            total, _ = objective.losses(objective.forward(module, images), labels)
            optimizer.zero_grad()
            (total / 6).backward()
            optimizer.step()
        with torch.no_grad():
            output = objective.forward(module, images)
            ends.append(float(output.diversity.mean()))
            counts = objective.counts(output, labels).tolist()
            assert objective.diversity(counts, 6) == pytest.approx(ends[-1])
    assert ends[1] > 1.1 * ends[0], ends


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_in_half_precision_it_is_finite_and_nearly_the_same(precision: torch.dtype) -> None:
    module, objective, images, labels = make_objective(0.5)
    exact, _ = objective.losses(objective.forward(module, images), labels)
    with torch.autocast("cpu", precision):
        output = objective.forward(module, 40 * images)
        sharp = objective.forward(module, images)
    total, _ = objective.losses(output, labels)
    total.backward()
    assert bool(torch.isfinite(total))
    assert module.conv.weight.grad is not None
    assert bool(torch.isfinite(module.conv.weight.grad).all())
    assert float(objective.losses(sharp, labels)[0].detach()) == pytest.approx(float(exact.detach()), rel=0.02)
