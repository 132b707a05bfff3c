"""``train-gate``: networks with soft gates between an earlier and a later output, and what their gates do."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from typing_extensions import override

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.stored import StoredImages
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.messages import note
from decompose_cli.models.classifier import Classifier, find_entry
from decompose_cli.models.entry import ModelEntry
from decompose_cli.models.gate_entry import Place
from decompose_cli.models.gate_kinds import GATES, NO_GATE
from decompose_cli.models.gated_resnet import GatedNetwork
from decompose_cli.processes.cores import cores
from decompose_cli.processes.device import resolve_device
from decompose_cli.processes.team import on_first
from decompose_cli.reporting.gate_plots import SHOWN, extremes, gate_distribution
from decompose_cli.storage.file_sets import write_result
from decompose_cli.storage.names import RESULT
from decompose_cli.storage.result_document import ResultDocument, Stopwatch, WeightsInfo, describe_environment
from decompose_cli.training.data import HELD_OUT
from decompose_cli.training.evaluate import LabelledImages
from decompose_cli.training.gating.configuration import TrainGateConfig, configure_gates, with_defaults
from decompose_cli.training.gating.objective import GateObjective, said_of_rate
from decompose_cli.training.gating.report import (
    GateReadings,
    GateReport,
    check_skipping,
    gates_csv,
    splits_of,
    study,
)
from decompose_cli.training.gating.settings import GateSettings
from decompose_cli.training.gating.start import begin_with, label_noise_csv, open_baseline, with_label_noise
from decompose_cli.training.job import Job
from decompose_cli.training.outcome import RepeatedResults, RunResults, Spread, all_results
from decompose_cli.training.run_folder import EXTREMES, G_VALUES, GATE_PLOT, LABEL_NOISE, NOISE_PLOT, RunFolder
from decompose_cli.training.runner import Files, Finished, LearnerTraining, run_training, with_best_weights
from decompose_cli.training.session import Request, Session
from decompose_cli.training.settings import Settings
from decompose_cli.training.setup import (
    Learner,
    announce,
    describe_images,
    describe_network,
    images_to_train_on,
    open_for,
    open_learner,
    open_weights,
)
from decompose_cli.training.unchanged import check_same


class GateResults(RunResults):
    """``gates``: what the gates do after training, with the best weights where images are held out, else the last."""

    gates: GateReport


class GateEvaluation(BaseModel):
    """What the gates of given weights do."""

    gates: GateReport


class RepeatedGates(BaseModel):
    """The same training with several seeds; reading it back keeps the gates of each run."""

    runs: list[GateResults]
    summary: list[Spread]


AnyGateResults = GateResults | RepeatedGates | GateEvaluation


def train_gate(
    request: Request, gates: GateSettings | None = None, *, recipe: str | None = None
) -> ResultDocument[Any]:
    """Train a network with soft gates; checkpoints, logs, plots and result are in the run folder.

    Args:
        request: The network, the images, how it is trained, and where the run is kept.
        gates: The gate, and how it is trained; by default the proposed one.
        recipe: Preset of the settings; by default ``soft-gates``, but ``digits`` on digits.

    Returns:
        A document with :class:`GateResults`, or several of them with the spread of their accuracies.

    Raises:
        InputError: Something given cannot be used; nothing has been changed.
        StoppedError: A signal came; the run can be resumed.
        DecomposeError: The work failed; the last checkpoint is still there.
    """
    gates = gates or GateSettings()
    if request.resume is None:
        request = with_defaults(request)
    choices: dict[str, Any] = {} if recipe is None else {"recipe": recipe}
    choices |= {**gates.network_options(), **gates.given()}
    request = dataclasses.replace(request, choices={**choices, **request.choices}, final_test=True)
    return run_training(_TrainGate(request.overrides, recipe, gates), request)


class _TrainGate(LearnerTraining[GateResults]):
    command = "train-gate"
    config = TrainGateConfig
    results = GateResults

    def __init__(self, overrides: Mapping[str, Any], recipe: str | None, gates: GateSettings) -> None:
        self._overrides, self._recipe, self._gates = overrides, recipe, gates
        self._baseline: Classifier | None = None
        self._changed: Tensor | None = None

    @override
    def configure(self, inputs: Inputs) -> tuple[Inputs, Settings, Mapping[str, Any]]:
        source = self._gates.baseline
        opened: dict[Any, Classifier] = {}

        def open_first(entry: ModelEntry) -> Classifier | None:
            """The baseline of a network; what is wrong with it is said before images are opened."""
            key = tuple(sorted(entry.chosen.items()))
            if source is not None and key not in opened:
                opened[key] = open_baseline(source, entry)
            return opened.get(key)

        inputs, settings, choices = configure_gates(inputs, self._overrides, self._recipe, self._gates, open_first)
        if source is not None:
            assert inputs.model is not None
            self._baseline = open_first(find_entry(inputs.model).configured(**choices["model_options"]))
            assert self._baseline is not None
            choices["baseline_weights"] = self._baseline.weights_sha256
        return inputs, settings, choices

    @override
    def open(self, session: Session) -> None:
        self.learner = learner = open_for(session)
        self._gates = GateSettings.of_configuration(session.config)  # complete; a run that goes on keeps its own
        if self._baseline is None and self._gates.baseline is not None:
            self._baseline = open_baseline(self._gates.baseline, learner.classifier.entry)
        check_same(session, baseline_weights=None if self._baseline is None else self._baseline.weights_sha256)
        with torch.device("meta"):  # a network that the gate cannot be in is refused before anything else
            learner.classifier.entry.make(len(learner.class_names), learner.preprocessing.crop)
        announce(session.config, learner, session.settings)
        if said := said_of_rate(session.settings, self._gates, images_to_train_on(learner, session.settings)):
            note(said)
        if self._baseline is not None:
            note(f"The backbone begins with the weights of {self._gates.baseline}, the gate at random.")

    @override
    def own_options(self, config: Mapping[str, Any]) -> dict[str, Any]:
        options = super().own_options(config)
        options.pop("shortcut", None)  # gates leave no choice of shortcut
        given = self._gates.given()
        given.pop("skip_below", None)  # skipping changes nothing of the network
        return {**options, **given}

    @override
    def job(self, session: Session, settings: Settings) -> Job:
        job, learner = super().job(session, settings), self.learner
        network = _gated(job.module, learner.classifier.name)
        if self._baseline is not None:
            begin_with(network, self._baseline, len(learner.class_names), learner.preprocessing.crop)
        data, self._changed = with_label_noise(job.data, self._gates.label_noise, settings.seed)
        objective = GateObjective(settings.label_smoothing, network, self._gates)
        return dataclasses.replace(job, data=data, objective=objective)

    @property
    @override
    def title(self) -> str:
        assert self._gates.gate is not None
        return _title(self.learner, self._gates.gate)

    @override
    def finish(
        self, session: Session, folder: RunFolder, settings: Settings, trained: Finished, files: Files
    ) -> GateResults:
        results, job, module = trained
        learner, changed = self.learner, self._changed

        def measure() -> GateReport:
            network = _gated(with_best_weights(module, results, folder), learner.classifier.name)
            report, readings = study(
                network,
                splits_of(job.data),
                changed=changed,
                original_labels=learner.labels if changed is not None else None,
                skip_below=self._gates.skip_below,
                device=session.fabric.device,
                workers=session.workers,
                batch_size=session.images_at_once,
            )
            title = f"{self.title}, seed {settings.seed}"
            files.update(_kept(folder.path, readings, network.gate_name, learner, title, changed))
            if changed is not None:
                labels, names, paths = job.data.labels, job.data.class_names, _files(learner.train)
                files[folder.path / LABEL_NOISE] = label_noise_csv(changed, learner.labels, labels, names, paths)
            return report

        return GateResults(**dict(results), gates=on_first(session.fabric, measure))

    @override
    def together(self, runs: Sequence[GateResults]) -> RunResults | RepeatedResults:
        return all_results(runs, _figures(runs))


def evaluate_gates(
    inputs: Inputs, gates: GateSettings | None = None, *, split: str | None = None, folder: Path | None = None
) -> ResultDocument[GateEvaluation]:
    """Measure the gates of given weights.

    Args:
        inputs: The network, its weights, and the images.
        gates: The gate and its details, where the weights do not say them, and ``skip_below``.
        split: ``train``, or the split of the test images, which is the default where there are any.
        folder: Gets g of every image, two plots and the document as ``result.json``, all or none.

    Raises:
        InputError: Something given cannot be used.
    """
    watch = Stopwatch()
    gates = gates or GateSettings()
    classifier = open_weights(inputs, gates.network_options(), inputs.seed)
    described = classifier.checkpoint.metadata if classifier.checkpoint is not None else None
    dataset = inputs.dataset or (described.dataset if described is not None else None) or classifier.entry.dataset
    gate = classifier.entry.chosen.get("gate", NO_GATE)
    if gate == NO_GATE:
        raise InputError(f"{classifier.weights_source} is of {classifier.name} without a gate.")
    check_skipping(gate, gates.skip_below)
    inputs = dataclasses.replace(inputs, model=classifier.name, dataset=dataset)
    learner = open_learner(inputs, gates.network_options(), inputs.seed, classifier)
    network = _gated(learner.classifier.load(learner.preprocessing.crop).module, classifier.name)
    images = LabelledImages("train", learner.train, learner.labels, learner.preprocessing)
    if split in (None, *([] if learner.test is None else [learner.test.split])):
        images = learner.test or images
    elif split != images.split:
        choices = ", ".join([*([] if learner.test is None else [learner.test.split]), images.split])
        raise InputError(f"{learner.train.name} has no split {split!r} here; choose {choices}.")
    device = resolve_device(inputs.device)
    report, readings = study(
        copy.deepcopy(network).to(device),
        [(images, torch.arange(len(images.labels)))],
        skip_below=gates.skip_below,
        device=device,
        workers=cores() if inputs.workers is None else inputs.workers,
        batch_size=inputs.batch_size,
    )
    weights = WeightsInfo(source=classifier.weights_source, sha256=classifier.weights_sha256)
    document = ResultDocument(
        command="train-gate",
        arguments={**inputs.as_arguments(), "evaluate": True, "skip_below": gates.skip_below},
        model=describe_network(learner, inputs.seed, weights),
        dataset=describe_images(learner).model_copy(
            update={
                "split": images.split,
                "images": len(images.labels),
                "fingerprint": images.dataset.fingerprint(),
            }
        ),
        environment=describe_environment(str(device), inputs.seed),
        started_at=watch.started_at,
        seconds=watch.seconds(),
        results=GateEvaluation(gates=report),
    )
    if folder is not None:
        write_result(document, folder / RESULT, _kept(folder, readings, gate, learner, _title(learner, gate)))
    return document


def _title(learner: Learner, gate: str) -> str:
    """The title of plots, which shows only the last part of a folder's path."""
    return f"{learner.classifier.name} with gate {gate} on {learner.train.name.rsplit('/', 1)[-1]}"


def _gated(module: nn.Module, name: str) -> GatedNetwork:
    if not isinstance(module, GatedNetwork):
        raise InputError(f"{name} has no gate.")
    return module


def _files(dataset: ImageDataset) -> list[str] | None:
    """The path of each image in the folder of the data set; None if the images are not files."""
    if not isinstance(dataset, StoredImages):
        return None
    return [dataset.called(number) for number in range(len(dataset))]


def _figures(runs: Sequence[GateResults]) -> dict[str, list[float | None]]:
    """Figures of the gates that are summed up over seeds: those of the last split, and of label noise."""
    last = [run.gates.splits[-1] for run in runs]
    noises = [run.gates.label_noise for run in runs]
    return {
        f"{last[0].split} mean g": [split.g.g for split in last],
        f"{last[0].split} g, right minus wrong": [
            split.right_and_wrong.difference if split.right_and_wrong else None for split in last
        ],
        "g, wrong labels minus others": [noise.difference if noise else None for noise in noises],
    }


def _kept(
    folder: Path,
    readings: Sequence[GateReadings],
    gate: str,
    learner: Learner,
    title: str,
    changed: Tensor | None = None,
) -> Files:
    """Files: g of every image, plots of the last split and, where labels were changed, one of the training images."""
    files = {"train": _files(learner.train), HELD_OUT: _files(learner.train)}
    if learner.test is not None:
        files[learner.test.split] = _files(learner.test.dataset)
    table = gates_csv(readings, gate, learner.labels if changed is not None else None, files)
    plots = _plots(title, readings[-1], learner.class_names, GATES[gate].place)
    if changed is not None:
        is_changed = torch.isin(readings[0].numbers, changed)
        g = readings[0].g.mean(1)
        groups = {"wrong label": [g[is_changed].tolist()], "others": [g[~is_changed].tolist()]}
        what = "g" if readings[0].g.shape[1] == 1 else "g, mean over gates"
        plots[NOISE_PLOT] = gate_distribution(f"{title}, training images", [what], groups)
    return {folder / G_VALUES: table, **{folder / name: content for name, content in plots.items()}}


def _plots(title: str, readings: GateReadings, names: tuple[str, ...], place: Place) -> dict[str, bytes]:
    """Plots of how g is distributed, and of the images with the lowest and the highest g."""
    is_right = readings.is_right
    count = len(place.ends)
    g = readings.g.mean(1, keepdim=True) if count == 1 else readings.g
    whole = "g" if place.level == "block" else "g, mean over units"
    labels = [whole] if count == 1 else [f"g of stage {stage}" for stage in place.stages]
    title = f"{title}, {readings.images.split} images"
    overall = readings.g.mean(1)
    order = overall.argsort(stable=True).tolist()

    def shown(number: int) -> tuple[Any, float, str, str]:
        image = readings.images.dataset.image(number)
        label, prediction = int(readings.images.labels[number]), int(readings.predictions[number])
        return image, float(overall[number]), names[label], names[prediction]

    return {
        GATE_PLOT: gate_distribution(
            title,
            labels,
            {
                "right": [g[is_right, number].tolist() for number in range(count)],
                "wrong": [g[~is_right, number].tolist() for number in range(count)],
            },
        ),
        EXTREMES: extremes(
            title if count == 1 else f"{title} (mean of {'both' if count == 2 else f'{count}'} gates)",
            [shown(number) for number in order[:SHOWN]],
            [shown(number) for number in order[: -SHOWN - 1 : -1]],
        ),
    }
