"""``train-gate``: networks with soft gates between an earlier and a later output, and what their gates do."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from decompose_cli.decomposition.devices import resolve_device
from decompose_cli.decomposition.inputs import Inputs
from decompose_cli.errors import InputError
from decompose_cli.files import cores, write_files, write_text
from decompose_cli.models.classifier import Classifier, find_entry
from decompose_cli.models.gate_kinds import GATES, NO_GATE
from decompose_cli.models.gated_resnet import GatedNetwork
from decompose_cli.progress import note
from decompose_cli.reporting.gate_plots import SHOWN, extremes, gate_distribution
from decompose_cli.reporting.training_plots import training_curves
from decompose_cli.results import ResultDocument, Stopwatch, WeightsInfo, describe_environment
from decompose_cli.training.devices import on_first
from decompose_cli.training.evaluate import LabelledImages
from decompose_cli.training.gate_report import (
    GateReadings,
    GateReport,
    check_skipping,
    gates_csv,
    splits_of,
    study,
)
from decompose_cli.training.gate_start import begin_with, open_baseline, with_label_noise, write_label_noise
from decompose_cli.training.gating import GateObjective, GateSchedule, GateTraining
from decompose_cli.training.learner import (
    DEFAULT_DATASET,
    DEFAULT_NETWORK,
    Learner,
    TrainConfig,
    announce,
    configure,
    describe_images,
    describe_network,
    make_job,
    open_learner,
    open_weights,
    training_document,
)
from decompose_cli.training.outcome import RepeatedResults, RunResults, all_results
from decompose_cli.training.records import curves
from decompose_cli.training.run_folder import EXTREMES, GATE_PLOT, LABEL_NOISE, RunFolder, read_state
from decompose_cli.training.run_folder import GATES as G_VALUES
from decompose_cli.training.seeds import repeated
from decompose_cli.training.session import Request, check_same, opened, train_job
from decompose_cli.training.settings import Settings

PUBLISHED_DEPTH = 110
_DEFAULT_EPOCHS = 3
Start = Literal["scratch", "baseline"]
STARTS: tuple[Start, ...] = ("scratch", "baseline")


class TrainGateConfig(TrainConfig):
    """``lambda`` (a word of Python's) is kept beside these; null is what does not apply to the gate."""

    lr_gate: float | None
    gate_schedule: GateSchedule | None
    gate_iters: int | None
    init: Start
    baseline: str | None
    baseline_weights: str | None
    label_noise: float | None
    skip_below: float | None


@dataclass(frozen=True)
class Gating:
    """What the user said of the gate, beside the options of the network.

    Attributes:
        lr_gate: As of :class:`decompose_cli.training.gating.GateTraining`, and the next three.
        schedule: See there.
        every: See there.
        penalty: See there.
        init: ``scratch``, or ``baseline``; None for what ``baseline`` says.
        baseline: Weights of a plain network to begin with, a file or URL.
        label_noise: Share of the training images that get another label.
        skip_below: In the end, leave gated stages with o1 where g is below this.
    """

    lr_gate: float | None = None
    schedule: GateSchedule | None = None
    every: int | None = None
    penalty: float | None = None
    init: Start | None = None
    baseline: str | None = None
    label_noise: float | None = None
    skip_below: float | None = None

    def given(self) -> dict[str, Any]:
        """What was said, under the names of the configuration."""
        names = {"schedule": "gate_schedule", "every": "gate_iters", "penalty": "lambda"}
        values = {names.get(name, name): value for name, value in dataclasses.asdict(self).items()}
        return {name: value for name, value in values.items() if value is not None}


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
        request = _with_defaults(request)
    choices: dict[str, Any] = {} if recipe is None else {"recipe": recipe}
    request = dataclasses.replace(
        request, choices={**choices, **options, **gating.given(), **request.choices}, final_test=True
    )
    if request.machines.strategy == "fsdp":
        raise InputError("--strategy fsdp does not go together with gates, which are read between epochs; use ddp.")

    baseline: Classifier | None = None

    def settle(inputs: Inputs) -> tuple[Inputs, Settings, Mapping[str, Any]]:
        nonlocal baseline
        filled, settings, more = _configure(inputs, request.overrides, recipe, options, gating)
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
        announce(config, found, session.settings)

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
                report, readings = study(
                    _gated(best, found.classifier.name),
                    splits_of(data),
                    changed=changed,
                    skip_below=config["skip_below"],
                    device=session.fabric.device,
                    workers=session.workers,
                )
                original = found.labels if changed is not None else None
                _write(folder.path, readings, network.gate_name, data.class_names, title, original)
                if changed is not None:
                    write_label_noise(folder.path / LABEL_NOISE, changed, found.labels, data.labels, data.class_names)
                write_files({folder.curve: training_curves(title, **curves(results.epochs))})
                return report

            return GateResults(**dict(results), gates=on_first(session.fabric, finish))

        def document(results: RunResults | RepeatedResults) -> ResultDocument[Any]:
            return training_document(session, found, results, watch)

        def write(path: Path, results: RunResults) -> None:
            document(results).write(path)

        runs = repeated(session, run, GateResults, write)
        whole = on_first(session.fabric, lambda: document(all_results(runs)))
        on_first(session.fabric, lambda: whole.write(session.folder.result))
    return whole


def evaluate_gates(
    inputs: Inputs,
    *,
    model_options: Mapping[str, str] | None = None,
    skip_below: float | None = None,
    folder: Path | None = None,
) -> ResultDocument[GateEvaluation]:
    """Measure the gates of given weights, on test images where there are any, else on training images.

    Args:
        inputs: With weights.
        model_options: ``gate`` and its details, ``block``, where the weights do not say them.
        skip_below: Leave gated stages with o1 where g is below this.
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
    images = found.test or LabelledImages("train", found.train, found.labels, found.preprocessing)
    device = resolve_device(inputs.device)
    report, readings = study(
        copy.deepcopy(network).to(device),
        [(images, torch.arange(len(images.labels)))],
        skip_below=skip_below,
        device=device,
        workers=min(8, cores()) if inputs.workers is None else inputs.workers,
    )
    if folder is not None:
        _write(folder, readings, gate, found.class_names, _title(found, gate))
    weights = WeightsInfo(source=classifier.weights_source, sha256=classifier.weights_sha256)
    return ResultDocument(
        command="train-gate",
        arguments={**inputs.as_arguments(), "evaluate": True, "skip_below": skip_below},
        model=describe_network(found, inputs.seed, weights),
        dataset=describe_images(found),
        environment=describe_environment(str(device), inputs.seed),
        started_at=watch.started_at,
        seconds=watch.seconds(),
        results=GateEvaluation(gates=report),
    )


def resolve_network(inputs: Inputs, depth: int | None) -> Inputs:
    """The network that ``MODEL``, ``--depth`` and the data set name together.

    Raises:
        InputError: They contradict each other, or there is no such network.
    """
    if inputs.model is not None:
        known = find_entry(inputs.model).architecture.get("depth")
        if depth is not None and depth != known:
            what = f"a depth of {known}" if known is not None else "no --depth"
            raise InputError(f"{inputs.model} has {what}, not {depth}; leave one of them out.")
        return inputs
    if depth is None and (inputs.weights is not None or inputs.dataset in (None, DEFAULT_DATASET)):
        return inputs
    name = f"resnet{depth or PUBLISHED_DEPTH}"
    if depth is not None and find_entry(name).architecture.get("family") != "cifar_resnet":
        raise InputError(f"There is no gated network of depth {depth}: {name} is the one of torchvision.")
    return dataclasses.replace(inputs, model=name)


def _with_defaults(request: Request) -> Request:
    """Without a network, and perhaps without images: a first look at what comes with decompose."""
    inputs = request.inputs
    if inputs.model is not None or inputs.weights is not None:
        return request
    is_first_look = inputs.dataset is None
    inputs = dataclasses.replace(inputs, model=DEFAULT_NETWORK, dataset=inputs.dataset or DEFAULT_DATASET)
    note(f"No model was named: training {inputs.model} on {inputs.dataset}.")
    overrides = dict(request.overrides)
    if is_first_look and overrides.get("epochs") is None and overrides.get("iterations") is None:
        note(f"For a first look it is trained for {_DEFAULT_EPOCHS} epochs; --epochs says otherwise.")
        overrides["epochs"] = _DEFAULT_EPOCHS
    return dataclasses.replace(request, inputs=inputs, overrides=overrides)


def _configure(
    inputs: Inputs, overrides: Mapping[str, Any], recipe: str | None, options: Mapping[str, str], gating: Gating
) -> tuple[Inputs, Settings, dict[str, Any]]:
    options = dict(options)
    if inputs.weights is None:
        options.setdefault("gate", next(iter(GATES)))
    elif gating.baseline is not None:
        raise InputError("--baseline and --weights both say what to begin with; give one of them.")
    if options.get("gate") == NO_GATE:
        raise InputError("Without a gate it is 'decompose train' that trains a network.")
    filled, settings, choices = configure(inputs, overrides, recipe, options)
    chosen = choices["model_options"] or {}
    gate = chosen.get("gate", NO_GATE)
    if gate == NO_GATE:
        raise InputError(
            f"{inputs.weights} has no gate.", hint="To begin with a plain network, give it with --baseline."
        )
    training = GateTraining(gate, gating.lr_gate, gating.schedule, gating.every, gating.penalty).complete()
    check_skipping(gate, gating.skip_below)
    if GATES[gate].has_classifier and settings.precision == "16":
        raise InputError("--precision 16 scales the loss for one optimizer, and this gate has its own; use bf16.")
    init = gating.init or ("scratch" if gating.baseline is None else "baseline")
    if (init == "baseline") != (gating.baseline is not None):
        raise InputError(
            "--init baseline needs --baseline CHECKPOINT."
            if init == "baseline"
            else "--init scratch does not go together with --baseline."
        )
    own = {
        "init": init,
        "baseline": gating.baseline,
        "baseline_weights": None,
        "label_noise": gating.label_noise,
        "skip_below": gating.skip_below,
    }
    return filled, settings, {**choices, **training, **own}


def _title(found: Learner, gate: str) -> str:
    """Of plots; a folder by its own name alone."""
    return f"{found.classifier.name} with gate {gate} on {found.train.name.rsplit('/', 1)[-1]}"


def _gated(module: nn.Module, name: str) -> GatedNetwork:
    if not isinstance(module, GatedNetwork):
        raise InputError(f"{name} has no gate.")
    return module


def _write(
    folder: Path,
    found: Sequence[GateReadings],
    gate: str,
    names: tuple[str, ...],
    title: str,
    original_labels: Tensor | None = None,
) -> None:
    """g of every image, and two plots of the last of the splits."""
    write_text(folder / G_VALUES, gates_csv(found, gate, original_labels))
    plots = _plots(title, found[-1], names, GATES[gate].level)
    write_files({folder / name: content for name, content in plots.items()})


def _plots(title: str, found: GateReadings, names: tuple[str, ...], level: str) -> dict[str, bytes]:
    """How g is distributed, and the images with the lowest and the highest."""
    is_right = found.is_right
    count = 1 if level == "layer" else found.g.shape[1]
    g = found.g.mean(1, keepdim=True) if count == 1 else found.g
    labels = ["g" if level == "block" else "g, mean over units"] if count == 1 else ["g of stage 2", "g of stage 3"]
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
            [g[is_right, number].tolist() for number in range(count)],
            [g[~is_right, number].tolist() for number in range(count)],
        ),
        EXTREMES: extremes(
            title, [shown(number) for number in order[:SHOWN]], [shown(number) for number in order[: -SHOWN - 1 : -1]]
        ),
    }
