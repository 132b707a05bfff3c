"""Training of gated networks against a loop that is written out, and what is counted of their gates."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from decompose_cli.datasets.base import InMemoryImages
from decompose_cli.datasets.sampling import epoch_order
from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.models.checkpoint import Metadata
from decompose_cli.models.gate_kinds import GATES
from decompose_cli.models.gated_resnet import Gated, GatedNetwork
from decompose_cli.models.gates import entropy_of, from_entropy
from decompose_cli.models.registry import get_entry
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.processes.cluster import Machines
from decompose_cli.processes.launch import start
from decompose_cli.training.data import TrainingData
from decompose_cli.training.evaluate import LabelledImages, measure
from decompose_cli.training.fit import Trainer
from decompose_cli.training.gating.objective import GateObjective, classifier_settings
from decompose_cli.training.gating.settings import GateSettings
from decompose_cli.training.job import Job, Upkeep
from decompose_cli.training.records import GATE_BINS
from decompose_cli.training.run_folder import RunFolder, read_state
from decompose_cli.training.settings import Settings, make_settings

CLASSES, SIDE, COUNT = 3, 8, 12
SEEN = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), SIDE, (SIDE, SIDE))
CLASSIFIERS = [name for name, kind in GATES.items() if kind.has_classifier]
CPU = torch.device("cpu")


class Rows:
    """A table that remembers what it is told."""

    seconds_between_updates = 0.0

    def __init__(self) -> None:
        self.rows: list[list[str]] = []

    def update(self, cells: Sequence[str]) -> None:
        """Forget it."""

    def add(self, cells: Sequence[str]) -> None:
        self.rows.append(list(cells))


def network(gate: str, depth: int = 14) -> GatedNetwork:
    torch.manual_seed(4)
    module = get_entry(f"resnet{depth}").configured(gate=gate).make(CLASSES, (SIDE, SIDE))
    assert isinstance(module, GatedNetwork)
    return module


def dataset(count: int = COUNT) -> InMemoryImages:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % CLASSES
    return InMemoryImages("toy", "train", list("abc"), SEEN, lambda: (pixels, labels), str(count))


def held_out(count: int = 7) -> LabelledImages:
    images = dataset(count)
    return LabelledImages("held-out", images, images.labels, SEEN)


def settings_of(**values: Any) -> Settings:
    return make_settings({"epochs": 2, "augment": "none", "batch_size": 4, "lr": 0.05, **values})


def objective_of(module: GatedNetwork, **given: Any) -> GateObjective:
    return GateObjective(0.0, module, GateSettings(**given).completed(module.gate_name))


def trainer_of(
    module: GatedNetwork, settings: Settings, objective: GateObjective, folder: str = "run", **more: Any
) -> Trainer:
    images = dataset()
    fabric = start("cpu", Machines(devices=1), settings.precision)
    of_data = {name: more.pop(name, None) for name in ("val", "test")}
    names = tuple("abcdefghij"[:CLASSES])
    data = TrainingData(images, images.labels, torch.arange(COUNT), class_names=names, preprocessing=SEEN, **of_data)
    job = Job(module, Metadata(model="resnet14", num_classes=CLASSES), data, objective=objective)
    return Trainer(fabric, job, settings, RunFolder(Path(folder)), Upkeep(**more))


def shown(indices: Tensor) -> tuple[Tensor, Tensor]:
    pixels, labels = dataset().pixels_and_labels
    return (pixels[indices] / 255 - 0.5) / 0.25, labels[indices]


# ------------------------------------------------------------------------------------------------------------- learning


def whole_gradients(module: Any, x: Tensor, gate_input_is_first: bool) -> tuple[Tensor, list[Tensor]]:
    """Logits and each gate's own, with gradients for everything everywhere: what to leave out is up to the caller."""

    def pooled(maps: Tensor) -> Tensor:
        return maps.mean((2, 3))

    maps = module.layer1(torch.relu(module.bn1(module.conv1(x))))
    stages = module._gated_stages()
    maps = module.layer2(maps) if len(stages) == 1 else maps
    own = []
    for first, middle, last, gate in stages:
        o1 = first(maps)
        o2 = last(middle(o1))
        scores = nn.Sequential(*gate)(pooled(o1 if gate_input_is_first else o2))
        g = from_entropy(entropy_of(scores), CLASSES, gate.gate_map)[:, None, None, None]
        maps = g * o2 + (1 - g) * o1
        own.append(scores)
    return module.fc(pooled(maps)), own


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("gate", CLASSIFIERS)
def test_backbone_and_gates_learn_each_from_their_own_loss(gate: str, every: int) -> None:
    """The rule, literally: both gradients at the same weights, by two backward passes over one forward pass."""
    settings = settings_of(lr=0.002, momentum=0.9, weight_decay=0.01, nesterov=True)
    # In float64: on a few small images a ReLU that flips by rounding changes the third digit.
    module, twin = network(gate).double(), network(gate).double().train()
    module.register_forward_pre_hook(lambda _, given: (given[0].double(),))
    trainer_of(module, settings, objective_of(module, lr_gate=0.001, gate_iters=every)).run(Rows())
    of_gates = {id(parameter) for own in twin.gates() for parameter in own.parameters()}
    velocity = {parameter: torch.zeros_like(parameter) for parameter in twin.parameters()}
    step = 0
    for epoch in range(2):
        order = epoch_order(torch.arange(COUNT), settings.seed, epoch)
        for batch in order.split(4):
            x, labels = shown(batch)
            logits, own = whole_gradients(twin, x.double(), GATES[gate].reads_first)
            backbone = [parameter for parameter in twin.parameters() if id(parameter) not in of_gates]
            of_network = torch.autograd.grad(F.cross_entropy(logits, labels), backbone, retain_graph=True)
            of_own = [
                torch.autograd.grad(F.cross_entropy(scores, labels), list(part.parameters()), retain_graph=True)
                for scores, part in zip(own, twin.gates(), strict=True)
            ]
            step += 1
            changes = [(backbone, of_network, 0.002)] if step % every == 0 else []
            changes += [
                (list(part.parameters()), found, 0.001) for part, found in zip(twin.gates(), of_own, strict=True)
            ]
            with torch.no_grad():
                for parameters, gradients, rate in changes:
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        change = gradient + 0.01 * parameter
                        velocity[parameter] = 0.9 * velocity[parameter] + change
                        parameter -= rate * (change + 0.9 * velocity[parameter])
    before = dict(network(gate).named_parameters())
    for (name, ours), theirs in zip(module.named_parameters(), twin.parameters(), strict=True):
        learned, expected = ours - before[name], theirs - before[name]
        assert float((learned - expected).detach().norm()) <= 1e-5 * float(expected.detach().norm()), name


def test_without_its_own_step_the_backbone_stays_and_the_gate_goes_on() -> None:
    module = network("entropy-classifier")
    before = {name: value.clone() for name, value in module.named_parameters()}
    trainer = trainer_of(module, settings_of(epochs=1), objective_of(module, gate_iters=3))
    batches = trainer.batches.steps(0, 0, 2)
    for batch in batches:
        trainer.step(batch)
    for name, value in module.named_parameters():
        assert torch.equal(value, before[name]) is not name.startswith("g_layer."), name


def test_a_backbone_that_would_never_be_changed_is_refused() -> None:
    module = network("entropy-classifier")
    with pytest.raises(InputError, match="gate_iters 4 is more than the 3 steps of the run, so the backbone would"):
        trainer_of(module, settings_of(epochs=1), objective_of(module, gate_iters=4))


def test_rates_of_both_optimizers_are_named_where_the_loss_diverges() -> None:
    module = network("entropy-classifier")
    trainer = trainer_of(module, settings_of(lr=1e-9, epochs=9), objective_of(module, lr_gate=1e30))
    with pytest.raises(DecomposeError) as refusal:
        trainer.run(Rows())
    assert refusal.value.hint is not None
    assert refusal.value.hint.startswith("Try a smaller lr, or lr_gate, or clip_norm 1")


@pytest.mark.parametrize("gate", [name for name, kind in GATES.items() if kind.penalty is not None])
def test_the_penalty_is_weighed_by_lambda_and_all_learn_from_the_sum(gate: str) -> None:
    module = network(gate).train()
    x, labels = shown(torch.arange(6))
    found = module(x)
    assert isinstance(found, Gated)
    plain, _ = objective_of(module, penalty=0.0).losses(found, labels)
    for weight in (0.5, 2.0):
        total, loss = objective_of(module, penalty=weight).losses(found, labels)
        each = torch.stack([reading.penalty for reading in found.readings])  # type: ignore[misc]
        torch.testing.assert_close(total, plain + weight * each.mean(0).sum())
        torch.testing.assert_close(loss, F.cross_entropy(found.logits, labels, reduction="sum"))
    usual = objective_of(module)
    assert usual.gates.penalty == {"l2": 0.5, "softmax": 0.1}.get(
        gate, 0.01 if "gate_scale" in GATES[gate].details else 0.0
    )
    (share,) = usual.shares(module, settings_of(), 3)
    assert len(share.parameters) == len(list(module.parameters()))


def test_a_gate_without_penalty_or_classifier_adds_nothing() -> None:
    module = network("entropy").train()
    x, labels = shown(torch.arange(6))
    total, loss = objective_of(module).losses(module(x), labels)
    assert total is loss


@pytest.mark.parametrize("gate", CLASSIFIERS)
def test_mixed_targets_are_for_the_gates_classifier_too(gate: str) -> None:
    module = network(gate).train()
    x, labels = shown(torch.arange(6))
    others = (labels + 1) % CLASSES
    shares = 0.7 * F.one_hot(labels, CLASSES) + 0.3 * F.one_hot(others, CLASSES)
    found, objective = module(x), objective_of(module)
    pairs = [objective.losses(found, targets) for targets in (shares, labels, others)]
    for mixed, first, second in zip(*pairs, strict=True):
        torch.testing.assert_close(mixed, 0.7 * first + 0.3 * second)
    scores = [objective.gate_scores(objective.counts(found, t).tolist(), 6) for t in (shares, labels, others)]
    for mixed, first, second in zip(*scores, strict=True):  # type: ignore[assignment]
        assert mixed.loss == pytest.approx(0.7 * first.loss + 0.3 * second.loss)
        assert mixed.correct == first.correct


# -------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("gate", "given", "sentence"),
    [
        ("l2", {"lr_gate": 0.1}, "lr_gate has no effect with gate l2; it belongs to gates with a classifier: entropy-"),
        (
            "entropy",
            {"gate_schedule": "step50"},
            "gate_schedule has no effect with gate entropy; it belongs to gates",
        ),
        (
            "exclusive",
            {"gate_iters": 2},
            "gate_iters has no effect with gate exclusive; it belongs to gates with",
        ),
        (
            "entropy",
            {"penalty": 0.1},
            "penalty has no effect with gate entropy; it belongs to gates with a penalty: l2, ",
        ),
        (
            "entropy-classifier",
            {"penalty": 0.5},
            "penalty has no effect with gate entropy-classifier; it belongs to gates",
        ),
        ("entropy-classifier", {"gate_iters": 0}, "gate_iters 0 is not at least 1."),
        ("entropy-classifier", {"lr_gate": 0.0}, "lr_gate 0 is not a positive number."),
        ("entropy-classifier", {"lr_gate": math.nan}, "lr_gate nan is not a positive number."),
        ("l2", {"penalty": -1.0}, "penalty -1 is not a number from 0 upwards."),
        ("l2", {"penalty": math.inf}, "penalty inf is not a number from 0 upwards."),
    ],
)
def test_what_a_gate_has_no_use_for_is_refused(gate: str, given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        GateSettings(**given).completed(gate)
    assert refusal.value.message.startswith(sentence)


def test_what_applies_to_a_gate_is_completed() -> None:
    nothing = {"lr_gate": None, "gate_schedule": None, "gate_iters": None}
    own = {"lr_gate": 0.01, "gate_schedule": "constant", "gate_iters": 1, "lambda": None}
    rest = dict.fromkeys(("baseline", "label_noise", "skip_below"))
    assert GateSettings().completed("entropy-classifier").as_configuration() == {**own, **rest}
    assert GateSettings().completed("l2").as_configuration() == {**nothing, "lambda": 0.5, **rest}
    assert GateSettings().completed("entropy").as_configuration() == {**nothing, "lambda": None, **rest}


@pytest.mark.parametrize("schedule", ["constant", "step50"])
@pytest.mark.parametrize("unit", ["epochs", "iterations"])
def test_rates_of_the_gate(schedule: Any, unit: str) -> None:
    """As in the original: the rate of step50 falls as the 50th, 100th, ... epoch begins."""
    per_epoch = 3
    length = {"epochs": 120} if unit == "epochs" else {"iterations": 360, "epochs": None}
    settings = settings_of(
        optimizer="adam", schedule="cosine", warmup_epochs=1, warmup_lr=0.5, weight_decay=0.03, momentum=0.7, **length
    )
    config = GateSettings(lr_gate=0.2, gate_schedule=schedule).completed("entropy-classifier")
    found = classifier_settings(settings, config, per_epoch)
    assert (found.optimizer, found.momentum, found.weight_decay, found.lr) == ("sgd", 0.7, 0.03, 0.2)
    from decompose_cli.training.schedules import rate_factor

    factor = rate_factor(found, steps_per_epoch=per_epoch, total_steps=360)
    for epoch in range(120):
        expected = 0.1 ** ((epoch + 1) // 50) if schedule == "step50" else 1.0
        assert [factor(per_epoch * epoch + step) for step in range(per_epoch)] == pytest.approx([expected] * per_epoch)


# ------------------------------------------------------------------------------------------------------------- counting


@pytest.mark.parametrize("gate", GATES)
def test_scores_of_gates_are_those_of_single_images(gate: str) -> None:
    module = network(gate).eval()
    images = held_out(7)
    objective = objective_of(module)
    evaluation, sums = measure(module, images, objective, num_classes=CLASSES, device=CPU)
    scores = objective.gate_scores(sums.tolist(), evaluation.total)
    x, labels = (dataset(7).pixels_and_labels[0] / 255 - 0.5) / 0.25, images.labels
    with torch.no_grad():
        singles = [module.read(x[number : number + 1]) for number in range(7)]
    logits = torch.cat([found.logits for found in singles])
    assert evaluation.correct == int((logits.argmax(1) == labels).sum())
    assert evaluation.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    kind = GATES[gate]
    names = ["gate_b2", "gate_b3"] if gate.endswith("b3b2") else ["gate"]
    assert [score.name for score in scores] == names
    for number, score in enumerate(scores):
        gates = [[float(r.g.mean()) for r in found.readings] for found in singles]
        if kind.level == "block":
            values = [row[number] for row in gates]
            assert score.units == []
            assert score.g == pytest.approx(sum(values) / 7, rel=1e-5)
        else:
            values = [value for row in gates for value in row]
            assert score.units == pytest.approx([sum(column) / 7 for column in zip(*gates, strict=True)], rel=1e-5)
            assert score.g == pytest.approx(sum(values) / len(values), rel=1e-5)
        bins = [0] * GATE_BINS
        for value in values:
            bins[min(int(value * GATE_BINS), GATE_BINS - 1)] += 1
        assert score.histogram == bins
        if kind.has_classifier:
            own = torch.cat([found.readings[number].logits for found in singles])  # type: ignore[misc]
            assert score.loss == pytest.approx(float(F.cross_entropy(own, labels)), rel=1e-5)
            assert score.correct == int((own.argmax(1) == labels).sum())
            assert score.top1 == pytest.approx(100 * score.correct / 7)
        elif kind.penalty is not None:
            penalties = [float(torch.stack([r.penalty for r in found.readings]).mean()) for found in singles]  # type: ignore[misc]
            assert score.loss == pytest.approx(sum(penalties) / 7, rel=1e-5)
            assert (score.correct, score.top1) == (None, None)
        else:
            assert (score.loss, score.correct, score.top1) == (None, None, None)


@pytest.mark.parametrize("gate", ["entropy-classifier-b3b2", "exclusive"])
def test_gates_are_in_the_log_the_table_and_tensorboard(gate: str) -> None:
    module = network(gate)
    table = Rows()
    state = trainer_of(module, settings_of(), objective_of(module), val=held_out()).run(table)
    rows = list(csv.DictReader(Path("run/log.csv").read_text().splitlines()))
    board = EventAccumulator("run/tensorboard", size_guidance={"histograms": 0})  # all of them
    board.Reload()
    # TensorBoard shows what the first value of a tag is; another kind under the same tag would not be seen.
    tags = board.Tags()
    assert not set(tags["scalars"]) & set(tags["histograms"])
    names = ["gate_b2", "gate_b3"] if gate.endswith("b3b2") else ["gate"]
    for number, name in enumerate(names):
        for split in ("train", "val"):
            scores = [getattr(record, split).gates[number] for record in state.records]
            assert [float(row[f"{split}_{name}_g"]) for row in rows] == [score.g for score in scores]
            assert [event.value for event in board.Scalars(f"{split}/{name}_loss")] == pytest.approx(
                [score.loss for score in scores]
            )
            histograms = [event.histogram_value for event in board.Histograms(f"{split}/{name}_histogram")]
            assert [list(found.bucket) for found in histograms] == [score.histogram for score in scores]
            total = (COUNT if split == "train" else 7) * (6 if gate == "exclusive" else 1)
            assert [found.num for found in histograms] == [total] * 2
            assert list(histograms[0].bucket_limit) == pytest.approx([(n + 1) / GATE_BINS for n in range(GATE_BINS)])
            if gate != "exclusive":
                assert [float(row[f"{split}_{name}_top1"]) for row in rows] == [score.top1 for score in scores]
        assert {row[f"test_{name}_g"] for row in rows} == {""}
    shown_gates = state.records[-1].val.gates  # type: ignore[union-attr]
    for score in shown_gates:
        assert f"{score.g:.3f}" in table.rows[-1]
    assert len(table.rows[-1]) == 9 + (4 if gate != "exclusive" else 1)


class KilledError(BaseException):
    """Nothing in the program may catch it."""


class Killed(GateObjective):
    """Ends the program in the given step."""

    left = 10**9

    def losses(self, output: Gated, targets: Tensor) -> tuple[Tensor, Tensor]:
        self.left -= 1
        if self.left < 0:
            raise KilledError
        return super().losses(output, targets)


def plain(value: Any) -> Any:
    """Without what the clock decides."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in ("seconds", "images_per_second")}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.tolist() if isinstance(value, Tensor) else value


@pytest.mark.parametrize(
    "gate", ["entropy-classifier", pytest.param("softmax", marks=pytest.mark.slow), "exclusive-tube-3x3"]
)
def test_stopped_anywhere_a_run_ends_as_one_that_was_not(gate: str) -> None:
    given = {"gate_iters": 2, "gate_schedule": "step50"} if GATES[gate].has_classifier else {}

    def run(folder: str, left: int) -> None:
        module = network(gate)
        objective = Killed(0.0, module, GateSettings(**given).completed(gate))  # type: ignore[arg-type]
        objective.left = left
        trainer = trainer_of(module, settings_of(), objective, folder, val=held_out(), checkpoint_every=1)
        if Path(folder, "last.pt").is_file():
            trainer.load(read_state(Path(folder, "last.pt")))
        trainer.run(Rows())

    run("whole", 10**9)
    whole = plain(read_state(Path("whole/last.pt")))
    assert len(whole["optimizers"]) == (2 if GATES[gate].has_classifier else 1)
    for steps in range(1, 6):
        with pytest.raises(KilledError):
            run(f"run{steps}", steps)
        run(f"run{steps}", 10**9)
        assert plain(read_state(Path(f"run{steps}/last.pt"))) == whole, steps


@pytest.mark.parametrize("gate", ["entropy-classifier", "softmax", "exclusive", "exclusive-tube-3x3"])
def test_in_bfloat16_gates_are_still_float32(gate: str) -> None:
    module = network(gate)
    found: list[Gated] = []

    class Seen(GateObjective):
        def losses(self, output: Gated, targets: Tensor) -> tuple[Tensor, Tensor]:
            found.append(output)
            return super().losses(output, targets)

    objective = Seen(0.0, module, GateSettings().completed(gate))
    state = trainer_of(module, settings_of(precision="bf16", epochs=1), objective).run(Rows())
    assert math.isfinite(state.records[0].train.loss)
    reading = found[0].readings[0]
    assert reading.g.dtype == torch.float32
    assert reading.logits is None or reading.logits.dtype == torch.float32
    assert (reading.logits is not None) is GATES[gate].has_classifier
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())
