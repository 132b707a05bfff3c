"""The training loop of everything that learns here."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from decompose_cli.errors import DecomposeError, InputError, NotFiniteError, param
from decompose_cli.features.extraction import device_memory, keep_freed_memory
from decompose_cli.messages import EpochTable
from decompose_cli.models.convolutions import fastest_algorithms
from decompose_cli.models.logits import nothing_of
from decompose_cli.processes.team import on_first, sum_over_processes
from decompose_cli.training.averaging import WeightAverage
from decompose_cli.training.batches import StepBatches
from decompose_cli.training.checkpoint_state import (
    State,
    check_known,
    check_measures,
    check_numbers,
    check_optimizer,
    complete_momentum,
    random_states,
    restore_random_states,
)
from decompose_cli.training.evaluate import LabelledImages, score_over_processes
from decompose_cli.training.interruption import StopRequest
from decompose_cli.training.job import Job, Upkeep
from decompose_cli.training.objective import Objective, Share
from decompose_cli.training.optimizers import Part, make_optimizer, step_together
from decompose_cli.training.records import EpochRecord, RunLog, Score
from decompose_cli.training.run_folder import RunFolder, Takeover, write_state
from decompose_cli.training.schedules import make_schedule
from decompose_cli.training.settings import Settings
from decompose_cli.training.table import epoch_cells, running_cells

STEPS_BETWEEN_CHECKS = 16
"""How often several processes agree whether to stop, and how often a GPU is asked for its loss."""


_PLAIN_UPKEEP = Upkeep()


class Trainer:
    """Trains a network, and writes down how, so that a run that was stopped anywhere goes on as if it had not been.

    The settings, the epoch, the step and the weights alone decide what happens in a step: the order of images
    and their augmentation are functions of (seed, epoch, image), so they do not depend on the number of processes. The
    loss of a step is the mean over its images, wherever they are.

    Args:
        fabric: The launched processes.
        job: The network, with initial weights, and the images. The held-out images choose the best epoch; where none
            are held out, the test images are measured after each epoch instead, for information.
        settings: How to train.
        folder: Where the run is kept.
        upkeep: How the run is kept up, which changes nothing of what is learned.
        takeover: How the run takes its folder with the first checkpoint; None if the folder is its own.
    """

    def __init__(
        self,
        fabric: Fabric,
        job: Job,
        settings: Settings,
        folder: RunFolder,
        upkeep: Upkeep = _PLAIN_UPKEEP,
        takeover: Takeover | None = None,
    ) -> None:
        module, data = job.module, job.data
        self.fabric, self.module, self.settings = fabric, module, settings
        self.folder, self.upkeep, self.takeover = folder, upkeep, takeover
        self.metadata, self.sparse = job.metadata, job.sparse
        self.val, self.test = data.val, data.test if data.val is None else None
        self.num_classes, self.frozen = len(data.class_names), job.frozen
        self.objective = job.objective or Objective(settings.label_smoothing)
        self.batches = StepBatches(fabric, data, settings, upkeep.workers)
        count = len(data.indices)
        self.steps_per_epoch = settings.steps_per_epoch(count)
        self.state = State(epoch=settings.start_epoch, global_step=settings.first_step(count))
        self.total_steps, self.total_epochs = settings.total_steps(count), settings.total_epochs(count)
        keep_freed_memory(at_most=2**31 - 1)  # a whole step's activations
        with suppress(RuntimeError):  # the network has parameters of five dimensions
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if settings.sync_bn:
            if fabric.device.type != "cuda":
                raise InputError(f"{param('sync_bn')} needs CUDA devices.")
            names = [name for name, child in module.named_modules() if any(child is other for other in job.frozen)]
            module = self.module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
            self.frozen = [module.get_submodule(name) for name in names]  # conversion makes other modules
        fabric.to_device(module)
        held = [(module.get_parameter(name), rows.to(fabric.device)) for name, rows in job.held.items()]
        self._held = [(parameter, rows, parameter.detach()[rows]) for parameter, rows in held]
        self.ema = WeightAverage(module, settings.ema_decay) if settings.ema_decay is not None else None
        self.parts = [self._part(part) for part in self.objective.shares(module, settings, self.steps_per_epoch)]
        compiled: Any = torch.compile(module) if settings.compile else module
        self.model = fabric.setup(compiled)
        self._log = RunLog(folder.log, folder.tensorboard)
        self._tally = torch.zeros(3 + self.objective.counted, dtype=self._sum_type, device=fabric.device)
        # Each is one operation a step on a GPU, where small networks wait for operations to be started.
        self._loss_sum, self._correct, self._images, *_ = self._tally.unbind()
        self._watched = torch.zeros((), dtype=self._sum_type, device=fabric.device)  # a sum that stays finite, or not
        torch.manual_seed(settings.seed + fabric.global_rank)  # for dropout and the like

    def _part(self, part: Share) -> Part:
        optimizer = make_optimizer(part.settings, part.parameters)
        counts = {"steps_per_epoch": self.steps_per_epoch, "total_steps": self.total_steps}
        schedule = make_schedule(optimizer, part.settings, first_step=self.state.global_step, **counts)
        return Part(optimizer, schedule, part.every)

    def run(self, table: EpochTable) -> State:
        """Train to the end.

        Raises:
            StoppedError: A signal came; everything up to the last step is saved.
            DecomposeError: The loss is not finite, the disk or the device is full; what was saved last is still there.
        """
        if self.state.records:
            on_first(self.fabric, lambda: self._log.write(self.state.records))
        device = self.fabric.device
        with StopRequest() as stop, device_memory(device), fastest_algorithms(device):
            while self.state.global_step < self.total_steps or self.state.step > 0:
                self._train_epoch(stop, table)
                record = self._measure()
                self._check_stop(stop, table)
                self._finish_epoch(record)
                on_first(self.fabric, lambda: self._log.write(self.state.records))
                table.add(epoch_cells(record, self.total_epochs, self._left(record.images_per_second)))
        self._log.close()
        # Here a signal interrupts again, so that each is either noted by now or raised: none is passed over.
        wants_stop = torch.tensor(float(stop.is_set), device=self.fabric.device)
        if sum_over_processes(self.fabric, wants_stop) > 0:
            raise self.folder.stopped("after the last step, before its result was written", self.metadata.model)
        return self.state

    def _train_epoch(self, stop: StopRequest, table: EpochTable) -> None:
        state = self.state
        last_step = min(self.steps_per_epoch, state.step + self.total_steps - state.global_step)
        self.learning_mode()
        if self.fabric.is_global_zero and state.tally:  # what was counted before an interruption
            self._tally += torch.tensor(state.tally, dtype=self._sum_type, device=self.fabric.device)
        state.tally = []
        shown = time.perf_counter()
        done = 0
        begun = shown
        self._started = begun - state.seconds
        for batches in self.batches.steps(state.epoch, state.step, last_step):
            self.step(batches)
            done += self.settings.images_per_step
            state.seconds = time.perf_counter() - self._started
            is_time = _is_turn(state.step, self.upkeep.checkpoint_every)
            self._check_stop(stop, table, saves=is_time and state.step < last_step)
            is_row = _is_turn(state.step, self.upkeep.print_freq)
            is_update = is_row or time.perf_counter() - shown > table.seconds_between_updates
            if self.fabric.is_global_zero and is_update:
                shown = time.perf_counter()
                speed = done / (shown - begun)
                where = state.epoch + state.step / self.steps_per_epoch, self.total_epochs, state.rate
                cells = running_cells(
                    *where, self._tally.tolist(), speed, self._left(speed), more=len(self.objective.columns)
                )
                (table.add if is_row else table.update)(cells)

    def learning_mode(self) -> None:
        """Put the network into training mode, but for the frozen modules."""
        self.model.train()
        for module in self.frozen:
            module.eval()

    def step(self, batches: Sequence[tuple[Tensor, Tensor, float]]) -> Tensor:
        """Make one step of the optimizers; return the mean loss of this process's images, times their share."""
        means: list[Tensor] = []
        several = self.fabric.world_size > 1
        self.state.rate = float(self.parts[0].schedule.get_last_lr()[0])
        self.state.made = f"epoch {self.state.epoch + 1}, step {self.state.step + 1}"
        for number, (images, targets, weight) in enumerate(batches):
            is_last = number == len(batches) - 1
            with self.fabric.no_backward_sync(self.model, enabled=not is_last) if several else nullcontext():
                try:
                    output = self.objective.forward(self.model, images)
                    total, loss = self.objective.losses(output, targets)
                    total = total + nothing_of(output)  # several processes wait for gradients of all parameters
                    self.fabric.backward(total * weight)
                except NotFiniteError as error:
                    raise self._diverged(f"{error.sentence.rstrip('.')}, in ") from error
            with torch.no_grad():
                means.append(loss * weight)
                if weight:
                    truth = targets if targets.ndim == 1 else targets.argmax(1)
                    self._loss_sum += loss
                    self._correct += (self.objective.logits(output).argmax(1) == truth).sum()
                    self._images += len(truth)
                    if self.objective.counted:
                        self._tally[3:] += self.objective.counts(output, targets).to(self._tally)
                self._watched += total
        for parameter, rows, _ in self._held:
            if parameter.grad is not None:
                parameter.grad[rows] = 0
        due = [part.optimizer for part in self.parts if (self.state.global_step + 1) % part.every == 0]
        if self.settings.clip_norm is not None:
            for optimizer in due:
                self.fabric.clip_gradients(
                    self.model, optimizer, max_norm=self.settings.clip_norm, error_if_nonfinite=False
                )
        step_together(due, getattr(self.fabric.strategy.precision, "scaler", None))
        with torch.no_grad():
            for parameter, rows, values in self._held:
                parameter[rows] = values  # the penalty on weights moves them, too
        for part in self.parts:
            part.optimizer.zero_grad(set_to_none=True)
            part.step_schedule()
        if self.ema is not None:
            self.ema.update_parameters(self.module)
        self.state.step += 1
        self.state.global_step += 1
        return means[0] if len(means) == 1 else torch.stack(means).sum()

    def _check_stop(self, stop: StopRequest, table: EpochTable, *, saves: bool = False) -> None:
        """Stop on a signal or a loss that is not finite, and save if it is time; all processes do the same."""
        state, fabric = self.state, self.fabric
        is_due = saves or state.step % STEPS_BETWEEN_CHECKS == 0 or state.step == self.steps_per_epoch
        if fabric.world_size > 1:
            if not is_due and state.global_step < self.total_steps:
                return
            is_bad = ~torch.isfinite(self._watched)
            flags = torch.stack([torch.tensor(stop.is_set, device=fabric.device), is_bad]).float()
            wants_stop, found_bad = (value > 0 for value in sum_over_processes(fabric, flags).tolist())
        else:
            wants_stop = stop.is_set
            looks = fabric.device.type == "cpu" or is_due or wants_stop
            found_bad = looks and not math.isfinite(float(self._watched))
        if found_bad:
            raise self._bad_loss()
        if wants_stop or saves:
            self._save(self.folder.last)
        if wants_stop:
            where = f"in epoch {state.epoch + 1} after step {state.step} of {self.steps_per_epoch}"
            raise self.folder.stopped(where, self.metadata.model)

    def _bad_loss(self, split: str | None = None) -> DecomposeError:
        is_exact = self.fabric.device.type == "cpu" and self.fabric.world_size == 1
        where = "" if is_exact else f"the last {STEPS_BETWEEN_CHECKS} steps up to "
        of_what = "The loss" if split is None else f"The loss of the {split} images"
        return self._diverged(f"{of_what} is NaN or infinite in {where}")

    def _diverged(self, what: str) -> DecomposeError:
        is_kept = self.folder.last.is_file() and (self.takeover is None or self.takeover.is_done)
        saved = "the last checkpoint is still there" if is_kept else "nothing was saved yet"
        return DecomposeError(
            f"{what}{self.state.made}, at a learning rate of {self.state.rate:g}; {saved}.",
            hint=f"Try a smaller {self.objective.rate_options} or {param('clip_norm')} 1; 'decompose lr-find' looks "
            "for a rate that works.",
        )

    @property
    def _sum_type(self) -> torch.dtype:
        return torch.float32 if self.fabric.device.type == "mps" else torch.float64  # mps has no float64

    @property
    def measured(self) -> nn.Module:
        """The network whose accuracy counts: the averaged one, if weights are averaged."""
        return self.module if self.ema is None else self.ema.module

    def _measure(self) -> EpochRecord:
        state = self.state
        total, correct, images, *counts = sum_over_processes(self.fabric, self._tally).tolist()
        state.seconds = time.perf_counter() - self._started  # now that all steps are known to be done
        train = Score(
            split="train",
            images=int(images),
            correct=int(correct),
            top1=100 * correct / images,
            loss=total / images,
            gates=self.objective.gate_scores(counts, int(images)),
            diversity=self.objective.diversity(counts, int(images)),
        )
        if self.fabric.world_size > 1:
            for buffer in self.measured.buffers():  # statistics of batch norm are those of the first process
                torch.distributed.broadcast(buffer, 0)
        return EpochRecord(
            epoch=state.epoch + 1,
            steps=state.global_step,
            lr=state.rate,
            train=train,
            val=self.score(self.val) if self.val is not None else None,
            test=self.score(self.test) if self.test is not None else None,
            seconds=round(state.seconds, 3),
            images_per_second=round(images / state.seconds, 1) if state.seconds else 0.0,
        )

    def score(self, images: LabelledImages) -> Score:
        """The score of the network now.

        Raises:
            DecomposeError: The loss is not finite.
        """
        score = score_over_processes(
            self.fabric,
            self.measured,
            images,
            self.num_classes,
            self.upkeep.workers,
            batch_size=self.settings.batch_size,
            objective=self.objective,
        )
        if not math.isfinite(score.loss):
            raise self._bad_loss(score.split)
        return score

    def _finish_epoch(self, record: EpochRecord) -> None:
        """Count the epoch and save, the best checkpoint before the last, so that a kill between them costs nothing."""
        state = self.state
        state.records.append(record)
        state.epoch, state.step, state.seconds = state.epoch + 1, 0, 0.0
        self._tally.zero_()
        if record.val is not None and (
            state.best is None or record.val.correct > (state.best.val or record.val).correct
        ):
            state.best = record
            self._save(self.folder.best)
        self._save(self.folder.last)

    def _save(self, path: Path) -> None:
        state, fabric = self.state, self.fabric
        state.tally = sum_over_processes(fabric, self._tally).tolist()
        weights = dict(self.module.state_dict())
        randoms = random_states(fabric)
        training = {
            **state.content(),
            "optimizers": [part.optimizer.state_dict() for part in self.parts],
            "schedules": [part.schedule.state_dict() for part in self.parts],
            "scaler": fabric.strategy.precision.state_dict(),
            "random": randoms,
        }
        measured = weights
        if self.ema is not None:
            measured = self.ema.module.state_dict()
            training |= {"weights": weights, "averaged": self.ema.n_averaged}

        def write() -> None:
            if not all(bool(torch.isfinite(value).all()) for value in measured.values() if value.is_floating_point()):
                raise self._bad_loss()
            write_state(path, self.metadata, measured, training, self.takeover, self.sparse)

        on_first(fabric, write)
        if self.takeover is not None:
            self.takeover.is_done = True

    def load(self, saved: dict[str, Any]) -> None:
        """Go on from what :func:`decompose_cli.training.run_folder.read_state` has read.

        Raises:
            ValueError: A part is of another kind, or of another run, as a KeyError, TypeError or
                RuntimeError says as well.
        """
        state = State.read(saved)
        if state.step > self.steps_per_epoch or state.global_step > self.total_steps:
            raise ValueError(f"its run has come to step {state.global_step}, of {self.total_steps}")
        if state.tally and len(state.tally) != len(self._tally):
            raise ValueError(f"it counts {len(state.tally)} things, not {len(self._tally)}")
        check_measures(state.records, self.objective)
        for part, optimizer, schedule in zip(self.parts, saved["optimizers"], saved["schedules"], strict=True):
            check_optimizer(optimizer, part.optimizer, "optimizer")
            check_known(schedule, part.schedule.state_dict(), "schedule")
        weights = saved.get("weights", saved["state_dict"])
        for tensors in (weights, saved["state_dict"]):
            check_numbers(tensors, self.module.state_dict(), "its tensor")
        self.module.load_state_dict(weights)
        if self.ema is not None:
            self.ema.module.load_state_dict(saved["state_dict"])
            check_numbers({"averaged": saved["averaged"]}, {"averaged": self.ema.n_averaged}, "its tensor")
            self.ema.n_averaged.copy_(saved["averaged"])
        for part, optimizer, schedule in zip(self.parts, saved["optimizers"], saved["schedules"], strict=True):
            part.optimizer.load_state_dict(optimizer)
            complete_momentum(part.optimizer)
            known = part.schedule.state_dict().keys() & schedule.keys()  # others would become attributes of it
            part.schedule.load_state_dict({name: schedule[name] for name in known})
        self.fabric.strategy.precision.load_state_dict(saved["scaler"])
        restore_random_states(self.fabric, saved["random"])
        self.state = state

    def _left(self, images_per_second: float) -> float:
        steps = self.total_steps - self.state.global_step
        return steps * self.settings.images_per_step / images_per_second if images_per_second else 0.0


def _is_turn(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
