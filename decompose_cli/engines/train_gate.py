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

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.folders import FolderImages
from decompose_cli.errors import InputError
from decompose_cli.features.device import resolve_device
from decompose_cli.features.inputs import Inputs
from decompose_cli.models.classifier import Classifier, find_entry
from decompose_cli.models.gate_entry import Place
from decompose_cli.models.gate_kinds import GATES, NO_GATE
from decompose_cli.models.gated_resnet import GatedNetwork
from decompose_cli.progress import note
from decompose_cli.reporting.gate_plots import SHOWN, extremes, gate_distribution
from decompose_cli.reporting.training_plots import training_curves
from decompose_cli.storage.files import cores, write_files, write_text
from decompose_cli.storage.result_document import ResultDocument, Stopwatch, WeightsInfo, describe_environment
from decompose_cli.training.data import HELD_OUT
from decompose_cli.training.devices import on_first
from decompose_cli.training.evaluate import LabelledImages
from decompose_cli.training.gating.report import (
    GateReadings,
    GateReport,
    check_skipping,
    gates_csv,
    splits_of,
    study,
)
from decompose_cli.training.gating.runner import GateObjective
from decompose_cli.training.gating.settings import Gating, TrainGateConfig, configure_gates, with_defaults
from decompose_cli.training.gating.start import begin_with, open_baseline, with_label_noise, write_label_noise
from decompose_cli.training.outcome import RepeatedResults, RunResults, all_results
from decompose_cli.training.records import curves
from decompose_cli.training.run_folder import (
    EXTREMES,
    G_VALUES,
    GATE_PLOT,
    LABEL_NOISE,
    NOISE_PLOT,
    RunFolder,
    read_state,
)
from decompose_cli.training.seeds import repeated
from decompose_cli.training.session import Request, check_same, opened, train_job
from decompose_cli.training.settings import Settings
from decompose_cli.training.setup import (
    Learner,
    announce,
    describe_images,
    describe_network,
    make_job,
    open_learner,
    open_weights,
    training_document,
)


class GateResults(RunResults):
    """``gates``: what the gates do after training, of the best weights where images are held out, else of the last."""

    gates: GateReport


class GateEvaluation(BaseModel):
    """What the gates of given weights do."""

    gates: GateReport


def train_gate(
    request: Request, *, gating: Gating, recipe: str | None = None, model_options: Mapping[str, str] | None = None
) -> ResultDocument[Any]:
    """Train a network with soft gates; checkpoints, logs, plots and result are in the run folder.

    Args:
        request: What to train, on what, and where.
        gating: How its gates are trained.
        recipe: Preset of the settings; by default ``soft-gates``, on digits ``digits``.
        model_options: ``gate`` and its details, ``block``.

    Returns:
        A document with :class:`GateResults`, or several of them with the spread of their accuracies.

    Raises:
        InputError: Something given cannot be used; nothing has been changed.
        StoppedError: A signal came; the run can be resumed.
        DecomposeError: The work failed; the last checkpoint is still there.
    """
    watch = Stopwatch()
    options = dict(model_options or {})
    if request.resume is None:
        request = with_defaults(request)
    choices: dict[str, Any] = {} if recipe is None else {"recipe": recipe}
    request = dataclasses.replace(
        request, choices={**choices, **options, **gating.given(), **request.choices}, final_test=True
    )
    if request.machines.strategy == "fsdp":
        raise InputError("--strategy fsdp does not go together with gates, which are read between epochs; use ddp.")

    baseline: Classifier | None = None

    def settle(inputs: Inputs) -> tuple[Inputs, Settings, Mapping[str, Any]]:
        nonlocal baseline
        filled, settings, more = configure_gates(inputs, request.overrides, recipe, options, gating)
        if gating.baseline is not None:
            assert filled.model is not None
            baseline = open_baseline(gating.baseline, find_entry(filled.model).configured(**more["model_options"]))
            more["baseline_weights"] = baseline.weights_sha256
        return filled, settings, more

    with opened("train-gate", request, settle, TrainGateConfig) as session:
        config = session.config
        found = open_learner(session.inputs, config["model_options"] or {}, session.settings.seed)
        started = found.classifier.weights_sha256 if session.inputs.weights is not None else None
        if baseline is None and config["baseline"] is not None:  # of a run that goes on
            baseline = open_baseline(config["baseline"], found.classifier.entry)
        check_same(
            session,
            training_images=found.train.fingerprint(),
            starting_weights=started,
            baseline_weights=None if baseline is None else baseline.weights_sha256,
        )
        with torch.device("meta"):  # what the gate cannot do is said before anything else
            found.classifier.entry.make(len(found.class_names), found.preprocessing.crop)
        announce(config, found, session.settings)
        if baseline is not None:
            note(f"The backbone begins with the weights of {config['baseline']}, the gate at random.")

        def run(folder: RunFolder, settings: Settings) -> GateResults:
            job = make_job(config, found, settings)
            network = _gated(job.module, found.classifier.name)
            if baseline is not None:
                begin_with(network, baseline, len(found.class_names), found.preprocessing.crop)
            data, changed = with_label_noise(job.data, config["label_noise"], settings.seed)
            objective = GateObjective(settings.label_smoothing, network, dict(config))
            job = dataclasses.replace(job, data=data, objective=objective)
            results, trained = train_job(session, folder, settings, job)
            title = f"{_title(found, network.gate_name)}, seed {settings.seed}"

            def finish() -> GateReport:
                best = copy.deepcopy(trained) if results.best is not None else trained
                if results.best is not None:
                    best.load_state_dict(read_state(folder.best)["state_dict"])
                original = found.labels if changed is not None else None
                report, readings = study(
                    _gated(best, found.classifier.name),
                    splits_of(data),
                    changed=changed,
                    original_labels=original,
                    skip_below=config["skip_below"],
                    device=session.fabric.device,
                    workers=session.workers,
                )
                _write(folder.path, readings, network.gate_name, found, title, changed)
                if changed is not None:
                    names, files = data.class_names, _files(found.train)
                    write_label_noise(folder.path / LABEL_NOISE, changed, found.labels, data.labels, names, files)
                write_files({folder.curve: training_curves(title, **curves(results.epochs))})
                return report

            return GateResults(**dict(results), gates=on_first(session.fabric, finish))

        def document(results: RunResults | RepeatedResults) -> ResultDocument[Any]:
            return training_document(session, found, results, watch)

        def write(path: Path, results: RunResults) -> None:
            document(results).write(path)

        runs = repeated(session, run, GateResults, write)
        whole = on_first(session.fabric, lambda: document(all_results(runs, _figures(runs))))
        on_first(session.fabric, lambda: whole.write(session.folder.result))
    return whole


def evaluate_gates(
    inputs: Inputs,
    *,
    model_options: Mapping[str, str] | None = None,
    skip_below: float | None = None,
    split: str | None = None,
    folder: Path | None = None,
) -> ResultDocument[GateEvaluation]:
    """Measure the gates of given weights.

    Args:
        inputs: With weights.
        model_options: ``gate`` and its details, ``block``, where the weights do not say them.
        skip_below: Leave gated stages with o1 where g is below this.
        split: ``train``, or that of the test images, which are the default where there are any.
        folder: Where g of every image and two plots are written.

    Raises:
        InputError: Something given cannot be used.
    """
    watch = Stopwatch()
    classifier = open_weights(inputs, model_options or {}, inputs.seed)
    described = classifier.checkpoint.metadata if classifier.checkpoint is not None else None
    dataset = inputs.dataset or (described.dataset if described is not None else None) or classifier.entry.dataset
    gate = classifier.entry.chosen.get("gate", NO_GATE)
    if gate == NO_GATE:
        raise InputError(f"{classifier.weights_source} is of {classifier.name} without a gate.")
    check_skipping(gate, skip_below)
    inputs = dataclasses.replace(inputs, model=classifier.name, dataset=dataset)
    found = open_learner(inputs, dict(model_options or {}), inputs.seed, classifier)
    network = _gated(found.classifier.load(found.preprocessing.crop).module, classifier.name)
    images = LabelledImages("train", found.train, found.labels, found.preprocessing)
    if split in (None, *([] if found.test is None else [found.test.split])):
        images = found.test or images
    elif split != images.split:
        choices = ", ".join([*([] if found.test is None else [found.test.split]), images.split])
        raise InputError(f"{found.train.name} has no split {split!r} here; choose {choices}.")
    device = resolve_device(inputs.device)
    report, readings = study(
        copy.deepcopy(network).to(device),
        [(images, torch.arange(len(images.labels)))],
        skip_below=skip_below,
        device=device,
        workers=min(8, cores()) if inputs.workers is None else inputs.workers,
        batch_size=inputs.batch_size,
    )
    if folder is not None:
        _write(folder, readings, gate, found, _title(found, gate))
    weights = WeightsInfo(source=classifier.weights_source, sha256=classifier.weights_sha256)
    return ResultDocument(
        command="train-gate",
        arguments={**inputs.as_arguments(), "evaluate": True, "skip_below": skip_below},
        model=describe_network(found, inputs.seed, weights),
        dataset=describe_images(found).model_copy(
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


def _title(found: Learner, gate: str) -> str:
    """Of plots; a folder by its own name alone."""
    return f"{found.classifier.name} with gate {gate} on {found.train.name.rsplit('/', 1)[-1]}"


def _gated(module: nn.Module, name: str) -> GatedNetwork:
    if not isinstance(module, GatedNetwork):
        raise InputError(f"{name} has no gate.")
    return module


def _files(dataset: ImageDataset) -> list[str] | None:
    """Of each image, if they are files: its path in the folder of the data set."""
    if not isinstance(dataset, FolderImages):
        return None
    return [
        str(file.relative_to(dataset.root)) if file.is_relative_to(dataset.root) else str(file)
        for file in dataset.files
    ]


def _figures(runs: Sequence[GateResults]) -> dict[str, list[float | None]]:
    """What is told of the gates of several seeds together: of the last split, and of training images."""
    last = [run.gates.splits[-1] for run in runs]
    noises = [run.gates.label_noise for run in runs]
    return {
        f"{last[0].split} mean g": [split.g.g for split in last],
        f"{last[0].split} g, right minus wrong": [
            split.right_and_wrong.difference if split.right_and_wrong else None for split in last
        ],
        "g, wrong labels minus others": [noise.difference if noise else None for noise in noises],
    }


def _write(
    folder: Path, found: Sequence[GateReadings], gate: str, learner: Learner, title: str, changed: Tensor | None = None
) -> None:
    """g of every image, plots of the last of the splits, and one of the training images where labels were changed."""
    files = {"train": _files(learner.train), HELD_OUT: _files(learner.train)}
    if learner.test is not None:
        files[learner.test.split] = _files(learner.test.dataset)
    write_text(folder / G_VALUES, gates_csv(found, gate, learner.labels if changed is not None else None, files))
    plots = _plots(title, found[-1], learner.class_names, GATES[gate].place)
    if changed is not None:
        is_changed = torch.isin(found[0].numbers, changed)
        g = found[0].g.mean(1)
        groups = {"wrong label": [g[is_changed].tolist()], "others": [g[~is_changed].tolist()]}
        what = "g" if found[0].g.shape[1] == 1 else "g, mean over gates"
        plots[NOISE_PLOT] = gate_distribution(f"{title}, training images", [what], groups)
    write_files({folder / name: content for name, content in plots.items()})


def _plots(title: str, found: GateReadings, names: tuple[str, ...], place: Place) -> dict[str, bytes]:
    """How g is distributed, and the images with the lowest and the highest."""
    is_right = found.is_right
    count = len(place.ends)
    g = found.g.mean(1, keepdim=True) if count == 1 else found.g
    whole = "g" if place.level == "block" else "g, mean over units"
    labels = [whole] if count == 1 else [f"g of stage {stage}" for stage in place.stages]
    title = f"{title}, {found.images.split} images"
    overall = found.g.mean(1)
    order = overall.argsort(stable=True).tolist()

    def shown(number: int) -> tuple[Any, float, str, str]:
        image = found.images.dataset.image(number)
        label, prediction = int(found.images.labels[number]), int(found.predictions[number])
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
