"""The loop against a twin in float64 that is written out, and what it keeps of a run."""

from __future__ import annotations

import csv
import errno
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.no_values import META, Transfers, fabric_without_values
from helpers.power_cut import PowerCut
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn
from torch.amp import GradScaler

from decompose_cli.datasets.base import InMemoryImages
from decompose_cli.datasets.mixing import mix
from decompose_cli.datasets.sampling import epoch_order
from decompose_cli.errors import DecomposeError, StoppedError
from decompose_cli.models.checkpoint import Metadata, read_checkpoint
from decompose_cli.norms.online import OnlineNorm1d, OnlineNorm2d
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.processes.cluster import Machines
from decompose_cli.processes.launch import start
from decompose_cli.training import fit, records, run_folder
from decompose_cli.training.data import TrainingData
from decompose_cli.training.evaluate import LabelledImages
from decompose_cli.training.fit import Trainer
from decompose_cli.training.job import Job, Upkeep
from decompose_cli.training.objective import Objective, Share
from decompose_cli.training.optimizers import step_together
from decompose_cli.training.run_folder import RunFolder, read_state
from decompose_cli.training.settings import Settings, make_settings

CLASSES, SIDE = 3, 2
INPUTS = 3 * SIDE * SIDE
SEEN = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), SIDE, (SIDE, SIDE))


class Rows:
    """Tables that remember what they are told."""

    seconds_between_updates = 0.0

    def __init__(self) -> None:
        self.updates: list[list[str]] = []
        self.rows: list[list[str]] = []

    def update(self, cells: Sequence[str]) -> None:
        self.updates.append(list(cells))

    def add(self, cells: Sequence[str]) -> None:
        self.rows.append(list(cells))


def images_of(count: int, labels: Tensor | None = None) -> InMemoryImages:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % CLASSES if labels is None else labels
    return InMemoryImages("toy", "train", list("abc"), SEEN, lambda: (pixels, labels), f"{count} {labels.tolist()}")


def linear() -> nn.Module:
    """Weights that can be written on paper: 0.01, 0.02, ... and biases -0.1, 0, 0.1."""
    layer = nn.Linear(INPUTS, CLASSES)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1, CLASSES * INPUTS + 1).view(CLASSES, INPUTS) / 100)
        layer.bias.copy_(torch.tensor([-0.1, 0.0, 0.1]))
    return nn.Sequential(nn.Flatten(), layer)


class Hooks(Objective):
    """An objective made of functions: of an output and its targets, of an output, of the network."""

    def __init__(self, loss: Any = None, logits: Any = None, parts: Any = None) -> None:
        super().__init__()
        self.loss, self.inner, self.parts = loss, logits, parts

    def losses(self, output: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        found = self.loss(output, targets) if self.loss else super().losses(output, targets)[0]
        return found, found

    def logits(self, output: Any) -> Tensor:
        return self.inner(output) if self.inner else output

    def shares(self, module: nn.Module, settings: Settings, steps_per_epoch: int) -> list[Share]:
        if self.parts is None:
            return super().shares(module, settings, steps_per_epoch)
        return [Share(*part) for part in self.parts(module)]


def trainer_of(module: nn.Module, settings: Settings, count: int = 10, folder: str = "run", **more: Any) -> Trainer:
    images = images_of(count)
    fabric = start("cpu", Machines(devices=1), settings.precision)
    hooks = {name: more.pop(name) for name in ("loss", "logits", "parts") if name in more}
    names = tuple("abc"[: more.pop("num_classes", CLASSES)])
    of_data = {name: more.pop(name, None) for name in ("val", "test")}
    indices = more.pop("indices", torch.arange(count))
    data = TrainingData(images, images.labels, indices, class_names=names, preprocessing=SEEN, **of_data)
    metadata = more.pop("metadata", Metadata(model="resnet8", num_classes=CLASSES))
    objective = more.pop("objective", Hooks(**hooks) if hooks else None)
    job = Job(module, metadata, data, more.pop("frozen", ()), objective, more.pop("held", {}))
    return Trainer(fabric, job, settings, RunFolder(Path(folder)), Upkeep(**more))


def settings_of(**values: Any) -> Settings:
    values = values if "iterations" in values else {"epochs": 3, **values}
    return make_settings({"augment": "none", "batch_size": 4, "lr": 0.5, "weight_decay": 0.0, **values})


class Twin:
    """Softmax regression in float64: gradients and optimizers as their papers write them."""

    def __init__(self, settings: Settings, count: int = 10, held: Sequence[int] = ()) -> None:
        self.settings, self.held = settings, list(held)
        data = images_of(count)
        self.x = data.pixels_and_labels[0].flatten(1).double() / 255
        self.raw = data.pixels_and_labels[0].float() / 255
        self.labels = data.labels
        layer = linear()[1]
        assert isinstance(layer, nn.Linear)
        self.weights = [layer.weight.detach().double(), layer.bias.detach().double()]
        self.first = [torch.zeros_like(value) for value in self.weights]
        self.second = [torch.zeros_like(value) for value in self.weights]
        self.average: list[Tensor] = []
        self.made = 0
        self.tallies: list[tuple[float, int, int]] = []

    def run(self) -> None:
        s = self.settings
        count, done = len(self.labels), 0
        total = s.total_steps(count)
        epoch = 0
        while done < total:
            order = epoch_order(torch.arange(count), s.seed, epoch)
            loss, correct, images = 0.0, 0, 0
            groups = [order[at : at + s.images_per_step] for at in range(0, count, s.images_per_step)]
            if s.drop_last:
                groups = [group for group in groups if len(group) == s.images_per_step]
            for number, group in enumerate(groups[: total - done]):
                found = self.step(group, epoch, number)
                loss, correct, images = loss + found[0], correct + found[1], images + len(group)
                done += 1
            self.tallies.append((loss, correct, images))
            epoch += 1

    def step(self, group: Tensor, epoch: int, number: int) -> tuple[float, int]:
        s = self.settings
        pixels, targets = [], []
        for part, batch in enumerate(torch.split(group, s.batch_size)):
            images, labels = self.raw[batch], self.labels[batch]
            if s.mix == "none":
                soft = torch.eye(CLASSES)[labels]
            else:
                images, soft = mix(s.mix, images, labels, CLASSES, s.seed, epoch, number, part)
            pixels.append(images.flatten(1).double())
            targets.append(soft.double())
        x, t = torch.cat(pixels), torch.cat(targets)
        truth = t.argmax(1)
        t = (1 - s.label_smoothing) * t + s.label_smoothing / CLASSES
        weight, bias = self.weights
        scores = x @ weight.T + bias
        exponentials = (scores - scores.amax(1, keepdim=True)).exp()
        shares = exponentials / exponentials.sum(1, keepdim=True)
        loss = -(t * shares.log()).sum()
        slope = (shares - t) / len(group)
        self.update([slope.T @ x, slope.sum(0)])
        return float(loss), int((scores.argmax(1) == truth).sum())

    def update(self, gradients: list[Tensor]) -> None:
        s, before = self.settings, [value.clone() for value in self.weights]
        for gradient in gradients:
            gradient[self.held] = 0
        if s.clip_norm is not None:
            norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
            gradients = [g * min(1.0, s.clip_norm / (norm + 1e-6)) for g in gradients]
        self.made += 1
        for number, gradient in enumerate(gradients):
            weight = self.weights[number]
            if s.optimizer == "adamw":
                weight = weight * (1 - s.lr * s.weight_decay)
            else:
                gradient = gradient + s.weight_decay * weight
            if s.optimizer == "sgd":
                speed = gradient if self.made == 1 else s.momentum * self.first[number] + gradient
                self.first[number] = speed
                move = gradient + s.momentum * speed if s.nesterov else speed
            else:
                self.first[number] = 0.9 * self.first[number] + 0.1 * gradient
                self.second[number] = 0.999 * self.second[number] + 0.001 * gradient**2
                first = self.first[number] / (1 - 0.9**self.made)
                second = self.second[number] / (1 - 0.999**self.made)
                move = first / (second.sqrt() + 1e-8)
            self.weights[number] = weight - s.lr * move
            self.weights[number][self.held] = before[number][self.held]
        if s.ema_decay is not None:
            d = s.ema_decay
            self.average = (
                [d * a + (1 - d) * w for a, w in zip(self.average, self.weights, strict=True)]
                if self.average
                else [w.clone() for w in self.weights]
            )


CASES: list[dict[str, Any]] = [
    {"momentum": 0.0},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"momentum": 0.5, "label_smoothing": 0.1},
    {"momentum": 0.0, "clip_norm": 0.05},
    {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.02},
    {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.3},
    {"accumulate": 2, "batch_size": 3},  # 10 images: 6, then 3 + 1
    {"accumulate": 4, "batch_size": 4},  # 4 + 4 + 2 in one step
    {"drop_last": True},
    {"drop_last": True, "accumulate": 2, "batch_size": 2},
    {"ema_decay": 0.8},
    {"iterations": 7, "seed": 5},
    {"mix": "ricap", "label_smoothing": 0.1},
    {"mix": "mixup", "accumulate": 2, "batch_size": 3},
]


@pytest.mark.parametrize("values", CASES, ids=[" ".join(map(str, case.items())) for case in CASES])
def test_weights_and_counts_are_those_of_the_twin(values: dict[str, Any]) -> None:
    settings = settings_of(**values)
    module = linear()
    twin = Twin(settings)
    before = [value.clone() for value in twin.weights]
    twin.run()
    trainer = trainer_of(module, settings)
    records = trainer.run(Rows()).records
    saved = read_state(Path("run/last.pt"))
    expected = twin.average if settings.ema_decay is not None else twin.weights
    for name, (value, start_value) in {
        "1.weight": (expected[0], before[0]),
        "1.bias": (expected[1], before[1]),
    }.items():
        # Rates of Adam are divided by gradients that may be small, so rounding shows more.
        tolerance = 1e-4 if settings.optimizer != "sgd" else 2e-6
        torch.testing.assert_close(saved["state_dict"][name].double(), value, rtol=tolerance, atol=tolerance)
        assert not torch.allclose(value, start_value, atol=1e-3), "the case moves the weights"
    live = module.state_dict()
    torch.testing.assert_close(live["1.weight"].double(), twin.weights[0], rtol=1e-4, atol=1e-4)
    assert len(records) == len(twin.tallies)
    for record, (loss, correct, images) in zip(records, twin.tallies, strict=True):
        assert (record.train.images, record.train.correct) == (images, correct)
        assert record.train.loss == pytest.approx(loss / images, rel=1e-5)
        assert record.train.top1 == pytest.approx(100 * correct / images)


@pytest.mark.parametrize(
    "values",
    [
        {"momentum": 0.9, "weight_decay": 0.1, "clip_norm": 0.05},
        {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.3},
        {"ema_decay": 0.8, "weight_decay": 0.1},
    ],
    ids=str,
)
def test_rows_that_are_held_stay_and_count_for_nothing(values: dict[str, Any]) -> None:
    settings, module = settings_of(**values), linear()
    start_weight, start_bias = (value.clone() for value in module.state_dict().values())
    twin = Twin(settings, held=[1])
    twin.run()
    rows = torch.tensor([False, True, False])
    trainer_of(module, settings, held={"1.weight": rows, "1.bias": rows}).run(Rows())
    weight, bias = module.state_dict().values()
    assert torch.equal(weight[1], start_weight[1])
    assert torch.equal(bias[1], start_bias[1])
    torch.testing.assert_close(weight.double(), twin.weights[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bias.double(), twin.weights[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(weight[0], start_weight[0], atol=1e-3)
    averaged = read_state(Path("run/last.pt"))["state_dict"]["1.weight"]
    assert torch.equal(averaged[1], start_weight[1])


def test_accumulated_batches_make_the_step_of_one_large_batch() -> None:
    ends = []
    for number, values in enumerate(({"batch_size": 10}, {"batch_size": 3, "accumulate": 4})):
        module = linear()
        trainer_of(module, settings_of(**values), folder=f"run{number}").run(Rows())
        ends.append(module.state_dict())
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-6, atol=1e-7)


def test_only_the_given_images_are_trained_on() -> None:
    module = linear()
    trainer = trainer_of(module, settings_of(), indices=torch.tensor([1, 4, 7]))
    seen: list[int] = []
    batches = trainer.batches.images.batches

    def spied(epoch: int, parts: Sequence[Tensor]) -> Any:
        seen.extend(int(index) for part in parts for index in part)
        return batches(epoch, parts)

    trainer.batches.images.batches = spied  # type: ignore[method-assign]
    records = trainer.run(Rows()).records
    assert sorted(seen) == sorted([1, 4, 7] * 3)
    assert [record.train.images for record in records] == [3, 3, 3]


def test_labels_are_those_that_were_handed_in_not_the_data_sets() -> None:
    """Classes of a data set are matched by name, so its own numbers may be others."""
    seen: list[Tensor] = []

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        seen.append(targets)
        return output.sum() * 0

    trainer = trainer_of(linear(), settings_of(epochs=1), loss=loss)
    trainer.batches.labels = torch.full((10,), 2)
    trainer.run(Rows())
    assert set(torch.cat(seen).tolist()) == {2}


def test_an_own_loss_and_scores_inside_an_output() -> None:
    """What gates and several heads will need."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            found = self.inner(x)
            return found, found * 2

    values: list[float] = []

    def loss(output: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        found = (output[1] ** 2).sum()
        values.append(float(found.detach()))
        return found

    settings = settings_of(epochs=1, momentum=0.0, lr=0.001)
    record = trainer_of(Two(), settings, loss=loss, logits=lambda output: output[0]).run(Rows()).records[0]
    assert record.train.loss == pytest.approx(sum(values) / 10)


class Scaled(MixedPrecision):
    """Scales the loss as for half precision, but computes in float32; scales are powers of two, so nothing rounds."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", GradScaler("cpu", init_scale=2.0**10, growth_interval=2))
        self._desired_input_dtype = torch.float32

    def forward_context(self) -> AbstractContextManager[None]:
        return nullcontext()


def in_two_parts(settings: Settings, every: int = 1) -> Callable[[nn.Module], list[tuple[Any, ...]]]:
    """Weights and biases with an optimizer each, the weights stepping in every n-th step."""
    settings = settings.model_copy(update={"precision": "16"})
    return lambda module: [(settings, [module[1].weight], every), (settings, [module[1].bias])]


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("more", [{}, {"clip_norm": 0.05}], ids=str)
def test_two_optimizers_share_a_scaled_loss(monkeypatch: pytest.MonkeyPatch, every: int, more: dict[str, Any]) -> None:
    """The scale grows after every second step, but never between two optimizers."""
    settings = settings_of(**more)
    ends, scales = [], []
    for is_scaled in (False, True):
        module = linear()
        trainer = trainer_of(module, settings, folder=f"run{is_scaled}", parts=in_two_parts(settings, every))
        if is_scaled:
            trainer.fabric.strategy.precision = Scaled()
            scaler, update = trainer.fabric.strategy.precision.scaler, GradScaler.update

            def counted(self: GradScaler, update: Any = update) -> None:
                scales.append(self.get_scale())
                update(self)

            monkeypatch.setattr(GradScaler, "update", counted)
        trainer.run(Rows())
        ends.append(module.state_dict())
    assert scales == [2.0 ** (10 + step // 2) for step in range(9)], "once a step"
    assert scaler.get_scale() == 2.0**14
    for name in ends[0]:
        assert torch.equal(ends[0][name], ends[1][name]), name
    assert read_state(Path("runTrue/last.pt"))["scaler"]["scale"] == 2.0**14


def test_an_optimizer_with_gradients_too_large_for_the_scale_sits_out_alone() -> None:
    module = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
    before = [value.detach().clone() for value in module.parameters()]
    both = [torch.optim.SGD(part.parameters(), 0.5) for part in module]
    scaler = GradScaler("cpu", init_scale=4.0)
    loss = sum(part(torch.ones(1, 2)).sum() * factor for part, factor in zip(module, (1.0, math.inf), strict=True))
    scaler.scale(loss).backward()
    step_together(both, scaler)
    moved = [value.detach() - old for value, old in zip(module.parameters(), before, strict=True)]
    first, second = [[-0.5, -0.5], [-0.5]], [[0.0, 0.0], [0.0]]
    for value, expected in zip(moved, first + second, strict=True):
        assert value.flatten().tolist() == pytest.approx(expected)
    assert scaler.get_scale() == 2.0
    step_together([], scaler)
    assert scaler.get_scale() == 2.0, "without a step there is nothing to go by"
    for optimizer in both:
        optimizer.zero_grad()
    scaler.scale(both[0].param_groups[0]["params"][0].sum()).backward()
    step_together(both, scaler)  # the second has no gradients, which a scaler does not take
    assert module[0].weight.detach().flatten().tolist() == pytest.approx((before[0] - 1).flatten().tolist())


ON_A_GPU: list[dict[str, Any]] = [
    *({}, {"clip_norm": 0.1}, {"ema_decay": 0.9}, {"accumulate": 2}, {"optimizer": "adamw", "label_smoothing": 0.1}),
    *({"mix": "mixup"}, {"mix": "cutmix"}, {"augment": "crop-flip"}),
]


@pytest.mark.parametrize("values", ON_A_GPU, ids=str)
def test_a_step_waits_for_no_value_and_brings_none(monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]) -> None:
    monkeypatch.setitem(globals(), "start", lambda *_: fabric_without_values())
    trainer = trainer_of(linear(), settings_of(**values))
    trainer.learning_mode()
    for batches in trainer.batches.steps(0, 0, 2):
        with Transfers() as seen:
            assert trainer.step(batches).device == META
        assert seen.count == 0
    assert trainer.state.global_step == 2


def test_steps_are_made_with_the_fastest_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[torch.device] = []
    during: list[list[torch.device]] = []

    @contextmanager
    def fastest(device: torch.device) -> Iterator[None]:
        inside.append(device)
        yield
        inside.clear()

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        during.append(list(inside))
        return output.sum()

    monkeypatch.setattr(fit, "fastest_algorithms", fastest)
    trainer_of(linear(), settings_of(epochs=1), loss=loss).run(Rows())
    assert during == [[torch.device("cpu")]] * len(during)
    assert during
    assert not inside


# ---------------------------------------------------------------------------------------------------------- choosing


class Scripted(nn.Module):
    """Says of every image that it is of the class whose number is the steps made so far, minus one."""

    counted: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("counted", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.counted += 1
        number = int(self.counted) - 1
        return torch.eye(CLASSES)[[max(number, 0)] * len(x)] + 0 * self.weight


def labelled(split: str, labels: Sequence[int]) -> LabelledImages:
    chosen = torch.tensor(labels)
    return LabelledImages(split, images_of(len(labels), chosen), chosen, SEEN)


def test_best_is_chosen_on_held_out_images_and_the_test_split_is_not_looked_at() -> None:
    val = labelled("val", [0] + [1] * 3 + [2] * 2)  # epochs are right on 1, 3, 2 of 6
    test = labelled("test", [0] * 4 + [1] * 1 + [2] * 2)  # and would be on 4, 1, 2 of 7
    state = trainer_of(Scripted(), settings_of(batch_size=10), val=val, test=test).run(Rows())
    assert [record.val.correct for record in state.records if record.val] == [1, 3, 2]
    assert [record.test for record in state.records] == [None] * 3
    assert state.best is not None
    assert state.best.epoch == 2
    assert read_state(Path("run/best.pt"))["state_dict"]["counted"] == 2
    assert read_state(Path("run/last.pt"))["state_dict"]["counted"] == 3
    assert read_checkpoint(Path("run/best.pt")).state_dict["counted"] == 2


def test_of_equals_the_earlier_epoch_is_kept() -> None:
    val = labelled("val", [0, 1, 1, 2, 2])
    state = trainer_of(Scripted(), settings_of(batch_size=10), val=val).run(Rows())
    assert [record.val.correct for record in state.records if record.val] == [1, 2, 2]
    assert state.best is not None
    assert state.best.epoch == 2
    assert read_state(Path("run/best.pt"))["state_dict"]["counted"] == 2


def test_without_held_out_images_nothing_is_chosen_and_the_test_split_is_shown() -> None:
    test = labelled("test", [0] * 4 + [1] * 1 + [2] * 2)  # epochs are right on 4, 1, 2 of 7
    state = trainer_of(Scripted(), settings_of(batch_size=10), test=test).run(Rows())
    assert [record.test.correct for record in state.records if record.test] == [4, 1, 2]
    assert state.best is None
    assert not Path("run/best.pt").exists()
    assert [record.val for record in state.records] == [None] * 3


def test_the_averaged_weights_are_measured_and_kept() -> None:
    settings = settings_of(ema_decay=0.9)
    module = linear()
    val = labelled("val", [0, 1, 2] * 4)
    trainer = trainer_of(module, settings, val=val)
    record = trainer.run(Rows()).records[-1]
    averaged = linear()
    averaged.load_state_dict(read_state(Path("run/last.pt"))["state_dict"])
    x = val.dataset.in_memory()
    assert x is not None
    logits = averaged(x.float() / 255)
    assert record.val is not None
    assert record.val.loss == pytest.approx(float(nn.functional.cross_entropy(logits, val.labels)), rel=1e-5)
    live = module(x.float() / 255)
    assert record.val.loss != pytest.approx(float(nn.functional.cross_entropy(live, val.labels)), rel=1e-3)


# -------------------------------------------------------------------------------------------------------- bad losses


class Poisoned(nn.Module):
    """Returns NaN, or infinity, from a forward pass of training on."""

    def __init__(self, after: int, value: float) -> None:
        super().__init__()
        self.inner, self.after, self.value, self.calls = linear(), after, value, 0

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x)
        if self.training:
            self.calls += 1
            if self.calls > self.after:
                return found * self.value
        return found


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(value: float) -> None:
    trainer = trainer_of(Poisoned(4, value), settings_of(lr=0.025))  # three steps an epoch
    with pytest.raises(DecomposeError) as caught:
        trainer.run(Rows())
    assert caught.value.exit_code == 1
    said = caught.value.message
    assert "NaN or infinite in epoch 2, step 2, at a learning rate of 0.025" in said
    assert "the last checkpoint is still there" in said
    saved = read_state(Path("run/last.pt"))
    assert (saved["epoch"], saved["step"]) == (1, 0)
    assert all(bool(torch.isfinite(value).all()) for value in saved["state_dict"].values())


def test_a_bad_first_epoch_leaves_no_checkpoint() -> None:
    with pytest.raises(DecomposeError, match=r"epoch 1, step 1, .*; nothing was saved yet"):
        trainer_of(Poisoned(0, float("nan")), settings_of()).run(Rows())
    assert not Path("run/last.pt").exists()


def test_the_rate_of_the_sentence_is_that_of_the_step_that_failed() -> None:
    settings = settings_of(iterations=9, schedule="steps", milestones=(2,), lr=0.5)
    with pytest.raises(DecomposeError, match=r"step 3, at a learning rate of 0\.05"):
        trainer_of(Poisoned(2, float("nan")), settings).run(Rows())


@pytest.mark.parametrize("what", ["input", "gradient"])
def test_what_online_normalisation_cannot_take_in_stops_the_run_and_says_where(what: str) -> None:
    class Spoilt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.rest, self.calls = OnlineNorm2d(3), linear(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            bad = float("nan") if self.calls == 5 else 1.0
            out = self.norm(x * bad if what == "input" else x)
            if what == "gradient" and bad != 1.0:
                out.register_hook(lambda gradient: gradient * bad)
            found: Tensor = self.rest(out)
            return found

    with pytest.raises(DecomposeError) as caught:
        trainer_of(Spoilt(), settings_of(lr=0.25)).run(Rows())
    assert caught.value.message == (
        f"The {what} of an online normalisation is NaN, infinite or too large; its statistics are unchanged, in "
        "epoch 2, step 2, at a learning rate of 0.25; the last checkpoint is still there."
    )
    assert read_state(Path("run/last.pt"))["global_step"] == 3


def test_weights_that_the_last_step_of_an_epoch_has_ruined_are_not_saved() -> None:
    """The loss is looked at before the step; what the step makes of the weights shows only afterwards."""

    class Exploding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.eye(CLASSES)[[0] * len(x)] * self.weight * (1e30 if self.training else 1.0)

    with pytest.raises(DecomposeError, match="NaN or infinite in epoch 1"):
        trainer_of(Exploding(), settings_of(epochs=1, lr=1e30, batch_size=10)).run(Rows())
    assert not Path("run/last.pt").exists()


def test_a_network_whose_held_out_loss_is_not_finite_is_not_saved() -> None:
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.inner(x)
            return found if self.training else found * float("nan")

    with pytest.raises(DecomposeError, match="NaN or infinite in epoch 1"):
        trainer_of(Blind(), settings_of(), val=labelled("val", [0, 1, 2])).run(Rows())
    assert not Path("run/last.pt").exists()
    assert not Path("run/best.pt").exists()


# ----------------------------------------------------------------------------------------------------- interruptions


def dropping() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, CLASSES))


class KilledError(BaseException):
    """Nothing in the program may catch it."""


def killed_after(steps: int) -> Callable[[Any, Tensor], Tensor]:
    calls = 0

    def loss(output: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > steps:
            raise KilledError
        return nn.functional.cross_entropy(output, targets, reduction="sum")

    return loss


def tensors_of(value: Any) -> Any:
    """Without what the clock decides."""
    if isinstance(value, dict):
        return {k: tensors_of(v) for k, v in value.items() if k not in ("seconds", "images_per_second")}
    if isinstance(value, list | tuple):
        return [tensors_of(v) for v in value]
    return value.tolist() if isinstance(value, Tensor) else value


@pytest.mark.parametrize(
    "values", [{}, {"ema_decay": 0.7, "mix": "ricap"}, {"optimizer": "adam", "schedule": "cosine"}]
)
def test_stopped_after_any_step_a_run_ends_as_one_that_was_not(values: dict[str, Any]) -> None:
    settings = settings_of(lr=0.05, accumulate=1, **values)
    val = labelled("val", [0, 1, 2, 2])
    trainer_of(dropping(), settings, folder="whole", val=val, loss=killed_after(99), checkpoint_every=1).run(Rows())
    whole = {name: tensors_of(read_state(Path("whole") / name)) for name in ("last.pt", "best.pt")}
    log = [row["train_loss"] for row in csv.DictReader(Path("whole/log.csv").read_text().splitlines())]
    for steps in range(1, 9):
        folder = f"run{steps}"
        with pytest.raises(KilledError):
            trainer_of(dropping(), settings, folder=folder, val=val, loss=killed_after(steps), checkpoint_every=1).run(
                Rows()
            )
        again = trainer_of(dropping(), settings, folder=folder, val=val, loss=killed_after(99), checkpoint_every=1)
        saved = read_state(Path(folder) / "last.pt")
        assert saved["global_step"] == steps
        again.load(saved)
        again.run(Rows())
        assert {name: tensors_of(read_state(Path(folder) / name)) for name in whole} == whole, steps
        assert [row["train_loss"] for row in csv.DictReader((Path(folder) / "log.csv").open())] == log, steps


MOMENTS = [
    ("best.pt", 1),
    ("last.pt", 1),
    ("log.csv", 1),
    ("last.pt", 2),
    ("log.csv", 2),
    ("last.pt", 3),
    ("log.csv", 3),
]


@pytest.mark.parametrize(("name", "number"), MOMENTS, ids=[f"{name} {number}" for name, number in MOMENTS])
def test_a_power_cut_between_two_files_costs_nothing(power_cut: PowerCut, name: str, number: int) -> None:
    settings, val = settings_of(lr=1e-9), labelled("val", [0, 1, 2, 2])  # nothing is learned: the first epoch is best
    trainer_of(dropping(), settings, folder="whole", val=val).run(Rows())
    with power_cut(name, number):
        trainer_of(dropping(), settings, val=val).run(Rows())
    again = trainer_of(dropping(), settings, val=val)
    if Path("run/last.pt").is_file():
        again.load(read_state(Path("run/last.pt")))
    again.run(Rows())
    for file in ("last.pt", "best.pt"):
        assert tensors_of(read_state(Path("run", file))) == tensors_of(read_state(Path("whole", file))), file
    logs = [list(csv.DictReader((Path(folder) / "log.csv").open())) for folder in ("whole", "run")]
    assert [row["train_loss"] for row in logs[0]] == [row["train_loss"] for row in logs[1]]


def normalised() -> nn.Module:
    torch.manual_seed(0)
    first = (nn.Conv2d(3, 4, 1), OnlineNorm2d(4, 0.9, 0.8, ecm="ls"), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*first, nn.Linear(4 * SIDE * SIDE, CLASSES), OnlineNorm1d(CLASSES))


def test_the_statistics_of_online_normalisation_are_part_of_the_state() -> None:
    settings = settings_of(lr=0.05)
    trainer_of(normalised(), settings, folder="whole").run(Rows())
    whole = tensors_of(read_state(Path("whole/last.pt")))
    assert {"1.norm.m", "1.norm.var", "1.norm.u", "1.norm.v"} <= set(whole["state_dict"])
    for steps in range(1, 9):
        folder = f"run{steps}"
        with pytest.raises(KilledError):
            trainer_of(normalised(), settings, folder=folder, loss=killed_after(steps), checkpoint_every=1).run(Rows())
        again = trainer_of(normalised(), settings, folder=folder)
        again.load(read_state(Path(folder) / "last.pt"))
        again.run(Rows())
        assert tensors_of(read_state(Path(folder) / "last.pt")) == whole, steps


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_stopped_while_the_network_is_measured(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """The steps of the epoch are done and its record is not."""
    settings, val = settings_of(schedule="steps", milestones=(1, 2)), labelled("val", [0, 1, 2, 2])
    trainer_of(dropping(), settings, folder="whole", val=val).run(Rows())
    calls = 0

    def interrupted(self: fit.Trainer, images: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == epoch:
            os.kill(os.getpid(), signal.SIGINT)
        return score(self, images)

    score = fit.Trainer.score
    monkeypatch.setattr(fit.Trainer, "score", interrupted)
    with pytest.raises(StoppedError):
        trainer_of(dropping(), settings, val=val).run(Rows())
    again = trainer_of(dropping(), settings, val=val)
    again.load(read_state(Path("run/last.pt")))
    again.run(Rows())
    states = [tensors_of(read_state(Path(name) / "last.pt")) for name in ("whole", "run")]
    assert states[0] == states[1]
    assert [record["lr"] for record in states[1]["records"]] == pytest.approx([0.5, 0.05, 0.005])


def two_parts(module: nn.Module) -> list[tuple[Settings, list[nn.Parameter]]]:
    first, last = module[1], module[4]  # type: ignore[index]
    gentle = settings_of(optimizer="adam", lr=0.01, schedule="cosine")
    return [(settings_of(lr=0.2, momentum=0.5), list(first.parameters())), (gentle, list(last.parameters()))]


def test_parts_have_optimizers_and_schedules_of_their_own() -> None:
    """Each part learns as if the other were trained by something else; what is in none stays."""
    settings = settings_of(lr=0.2, momentum=0.5)
    module = dropping()
    norm = {name: value.clone() for name, value in module[2].named_parameters()}  # type: ignore[index]
    trainer = trainer_of(module, settings, parts=two_parts)
    trainer.run(Rows())
    kinds = [type(part.optimizer).__name__ for part in trainer.parts]
    assert kinds == ["SGD", "Adam"]
    assert trainer.parts[0].schedule.get_last_lr() == [0.2]
    assert trainer.parts[1].schedule.get_last_lr()[0] == pytest.approx(0.0, abs=1e-9)
    assert all(torch.equal(value, norm[name]) for name, value in module[2].named_parameters())  # type: ignore[index]
    sgd_alone = dropping()
    trainer_of(sgd_alone, settings, folder="alone", parts=lambda m: two_parts(m)[:1]).run(Rows())
    assert torch.equal(sgd_alone[4].weight, dropping()[4].weight)  # type: ignore[index, arg-type]
    assert not torch.equal(module[4].weight, dropping()[4].weight)  # type: ignore[index, arg-type]


def test_parts_go_on_as_if_they_had_not_been_stopped() -> None:
    settings = settings_of()
    trainer_of(dropping(), settings, folder="whole", parts=two_parts).run(Rows())
    with pytest.raises(KilledError):
        trainer_of(dropping(), settings, parts=two_parts, loss=killed_after(5), checkpoint_every=1).run(Rows())
    again = trainer_of(dropping(), settings, parts=two_parts)
    again.load(read_state(Path("run/last.pt")))
    again.run(Rows())
    assert tensors_of(read_state(Path("run/last.pt"))) == tensors_of(read_state(Path("whole/last.pt")))


def test_what_a_kill_after_the_checkpoint_has_cost_the_log_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint of the last epoch is there, its row in the log is not."""
    made = 0

    def stopped(path: Path, rows: Any) -> None:
        nonlocal made
        made += 1
        if made == 3:
            raise KilledError
        write_csv(path, rows)

    write_csv = records.write_csv
    monkeypatch.setattr(records, "write_csv", stopped)
    with pytest.raises(KilledError):
        trainer_of(linear(), settings_of()).run(Rows())
    monkeypatch.setattr(records, "write_csv", write_csv)
    again = trainer_of(linear(), settings_of())
    again.load(read_state(Path("run/last.pt")))
    again.run(Rows())
    assert [row["epoch"] for row in csv.DictReader(Path("run/log.csv").read_text().splitlines())] == ["1", "2", "3"]


# ---------------------------------------------------------------------------------------------------------- full disk


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def archive_writer_gives_up(*_: Any, **__: Any) -> None:
    raise RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 64 vs 0")


@pytest.mark.parametrize("where", ["torch.save", "torch.save, archive", "os.fsync", "os.replace"])
def test_a_disk_that_is_full_costs_nothing_that_was_saved(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    module = linear()
    settings = settings_of()
    trainer_of(module, settings_of(epochs=1)).run(Rows())
    before = Path("run/last.pt").read_bytes()
    with monkeypatch.context() as patch:
        if where == "os.fsync":
            patch.setattr(os, "fsync", no_space)
        elif where == "os.replace":
            patch.setattr(Path, "replace", no_space)
        else:
            broken = no_space if where == "torch.save" else archive_writer_gives_up
            patch.setattr(run_folder.torch, "save", broken)
        with pytest.raises(DecomposeError) as caught:
            trainer_of(linear(), settings).run(Rows())
    assert caught.value.exit_code == 1
    assert "run/last.pt" in caught.value.message
    assert "space" in caught.value.message or "disk" in caught.value.message
    assert Path("run/last.pt").read_bytes() == before
    assert read_state(Path("run/last.pt"))["global_step"] == 3
    assert not list(Path("run").glob(".decompose-*"))


@pytest.mark.parametrize("what", ["write_csv", "TensorBoardLog"])
def test_a_disk_that_is_full_while_the_log_is_written_is_a_sentence(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    if what == "write_csv":
        monkeypatch.setattr("decompose_cli.storage.files.os.fsync", no_space)
        monkeypatch.setattr(fit, "write_state", lambda *_: None)
    else:
        monkeypatch.setattr(records.TensorBoardLog, "add", no_space)
    with pytest.raises(DecomposeError, match="space"):
        trainer_of(linear(), settings_of()).run(Rows())


# -------------------------------------------------------------------------------------------------------------- rows


def test_the_table_gets_a_row_an_epoch_and_updates_in_between() -> None:
    rows = Rows()
    trainer = trainer_of(linear(), settings_of(), val=labelled("val", [0, 1, 2]))
    records = trainer.run(rows).records
    assert [row[0] for row in rows.rows] == ["1/3", "2/3", "3/3"]
    for row, record in zip(rows.rows, records, strict=True):
        assert record.val is not None
        assert row[2:6] == [
            f"{record.train.loss:.4f}",
            f"{record.train.top1:.2f}",
            f"{record.val.loss:.4f}",
            f"{record.val.top1:.2f}",
        ]
    assert len(rows.updates) == 9
    assert [row[0] for row in rows.updates] == [f"{step / 3:.2f}/3" for step in range(1, 10)]
    assert rows.rows[-1][-1] == "0:00"


def test_rows_in_between_are_kept_if_asked_for() -> None:
    rows = Rows()
    trainer_of(linear(), settings_of(epochs=2), print_freq=2).run(rows)
    assert [row[0] for row in rows.rows] == ["0.67/2", "1/2", "1.67/2", "2/2"]
    assert rows.rows[0][2] != rows.rows[1][2]
    assert len(rows.updates) == 4


def test_a_later_start_shifts_numbers_schedule_and_order() -> None:
    values: dict[str, Any] = {"epochs": 4, "schedule": "steps", "milestones": (1, 3)}
    whole = trainer_of(linear(), settings_of(**values), folder="whole").run(Rows())
    half = trainer_of(linear(), settings_of(**{**values, "epochs": 1}), folder="half")
    half.run(Rows())
    rest = trainer_of(half.module, settings_of(**values, start_epoch=1)).run(Rows())
    assert [record.epoch for record in rest.records] == [2, 3, 4]
    assert [record.steps for record in rest.records] == [6, 9, 12]
    assert [record.lr for record in rest.records] == pytest.approx([0.05, 0.05, 0.005])
    # The network is the same only as long as momentum, which begins anew, plays no part.
    values["momentum"] = 0.0
    whole = trainer_of(linear(), settings_of(**values), folder="whole").run(Rows())
    half = trainer_of(linear(), settings_of(**{**values, "epochs": 1}), folder="half")
    half.run(Rows())
    rest = trainer_of(half.module, settings_of(**values, start_epoch=1)).run(Rows())
    assert [record.train for record in rest.records] == [record.train for record in whole.records[1:]]


def test_the_clock_counts_no_image_twice() -> None:
    record = trainer_of(linear(), settings_of(epochs=1)).run(Rows()).records[0]
    assert record.steps == 3
    assert record.seconds >= 0
    assert record.train.images == 10
    assert record.images_per_second == pytest.approx(10 / record.seconds, rel=0.5) or record.seconds < 0.01


# ------------------------------------------------------------------------------------------------------------- modes


def test_frozen_modules_learn_nothing_and_count_nothing() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(INPUTS, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, CLASSES)
    )
    for name in ("1", "2"):
        for parameter in module.get_submodule(name).parameters():
            parameter.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    frozen = [module[1], module[2], module[3]]
    trainer_of(module, settings_of(weight_decay=0.1), frozen=frozen).run(Rows())
    after = module.state_dict()
    for name, value in before.items():
        assert torch.equal(value, after[name]) is not name.startswith("4."), name


def test_bf16_computes_in_it_and_keeps_weights_and_accuracies_in_float32() -> None:
    kinds: set[torch.dtype] = set()

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.inner(x)
            kinds.add(found.dtype)
            if not self.training:
                assert found.dtype == torch.float32
            return found

    module = Spy()
    state = trainer_of(module, settings_of(precision="bf16"), val=labelled("val", [0, 1, 2])).run(Rows())
    assert torch.bfloat16 in kinds
    assert {value.dtype for value in module.state_dict().values()} == {torch.float32}
    twin = Twin(settings_of())
    twin.run()
    assert state.records[-1].train.loss == pytest.approx(twin.tallies[-1][0] / 10, rel=0.05)
    assert state.records[-1].train.loss != pytest.approx(twin.tallies[-1][0] / 10, rel=1e-7)
