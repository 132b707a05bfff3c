"""A run from its first line to its result: folder, configuration, processes, one or several seeds."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from decompose_cli.errors import InputError, first_line, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.messages import growing_table, note, warn
from decompose_cli.models.classifier import find_entry
from decompose_cli.models.copying import copied
from decompose_cli.models.entry import is_user_code
from decompose_cli.models.precision import AUTO, settled_precision
from decompose_cli.norms.online import OnlineNorm1d, OnlineNorm2d
from decompose_cli.processes.cluster import Machines
from decompose_cli.processes.cores import cores, use_threads
from decompose_cli.processes.device import resolve_device
from decompose_cli.processes.launch import start
from decompose_cli.processes.team import on_first
from decompose_cli.storage.files import check_folder_writable
from decompose_cli.training.config import FROM_INPUTS, MOST_RUNS, RunConfig, choices_of, read_config
from decompose_cli.training.export import Kind, check_export, export_network
from decompose_cli.training.fit import Trainer
from decompose_cli.training.job import Job, Upkeep
from decompose_cli.training.outcome import Measured, RunResults
from decompose_cli.training.run_folder import RunFolder, Takeover, changed, find_run, new_run, read_state
from decompose_cli.training.settings import Settings, make_settings
from decompose_cli.training.table import columns


@dataclass(frozen=True)
class Request:
    """A training that the user asks for.

    Attributes:
        inputs: Network, images, device.
        overrides: Settings that were given, by name.
        choices: Whatever else decides what is trained, by name; part of the configuration.
        folder: The run folder of a new run.
        names: Without ``folder``: makes names from model and data set, of which a new run gets the first that is free.
        resume: The folder of a run to go on with, or a checkpoint in it.
        overwrite: Whether a run that is in the folder may be replaced.
        machines: How many processes, on how many machines.
        runs: Number of seeds, trained one after the other; None for one.
        final_test: Whether the test images are measured in the end where images are held out.
        checkpoint_every: Steps after which the run is also saved within an epoch.
        print_freq: Steps after which a line is also printed within an epoch.
        export: Other formats to write the network in.
    """

    inputs: Inputs
    overrides: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    names: Callable[[str, str], Iterator[Path]] | None = None
    resume: Path | None = None
    overwrite: bool = False
    machines: Machines = field(default_factory=Machines)
    runs: int | None = None
    final_test: bool = False
    checkpoint_every: int | None = None
    print_freq: int | None = None
    export: Sequence[Kind] = ()


@dataclass
class Session:
    """A run that has been opened.

    Attributes:
        fabric: The processes of the run.
        folder: The folder of the run.
        inputs: Network and images, as asked for when the run was begun.
        config: Everything that decides what is trained.
        settings: The part of ``config`` that says how it is trained.
        request: The request of the user.
        takeover: How the run takes the folder.
    """

    fabric: Fabric
    folder: RunFolder
    inputs: Inputs
    config: Mapping[str, Any]
    settings: Settings
    request: Request
    takeover: Takeover

    @property
    def is_begun(self) -> bool:
        """Whether the folder holds this run; until then it holds what it held before."""
        return self.takeover.is_done

    @property
    def images_at_once(self) -> int:
        """Images of a batch that are one process's, which is how many it measures at a time."""
        return math.ceil(self.settings.batch_size / self.fabric.world_size)

    @property
    def workers(self) -> int:
        """Processes that decode images."""
        return cores() if self.inputs.workers is None else self.inputs.workers


@contextmanager
def opened(
    command: str,
    request: Request,
    configure: Callable[[Inputs], tuple[Inputs, Settings, Mapping[str, Any]]],
    kind: type[RunConfig],
) -> Iterator[Session]:
    """Settle the configuration, start the processes and lock the folder; only the first checkpoint changes it.

    Args:
        command: Name of the command.
        request: The request of the user.
        configure: Makes complete inputs, settings and further choices of the inputs of a new run.
        kind: Type of the configuration of this command.

    Raises:
        InputError: Something cannot be used, or is not as it was when the run began; nothing has been changed.
    """
    if (request.runs or 1) > MOST_RUNS:
        raise InputError(
            f"{param('runs')} {request.runs:,} is more than {MOST_RUNS:,}, and each of them trains a network."
        )
    for name in ("checkpoint_every", "print_freq", "runs"):
        if (count := getattr(request, name)) is not None and count < 1:
            raise InputError(f"{param(name)} {count} is not at least 1.")
    for wanted in request.export:
        check_export(wanted)
    folder: RunFolder | None
    if request.resume is not None:
        if request.folder is not None:
            raise InputError(
                f"{param('output')} and {param('resume')} both name a run folder; a resumed run stays where it is."
            )
        folder = find_run(request.resume)
        config = read_config(folder.config)
        _check_command(command, request.resume, config["command"])
        _check_model(request, config["model"])
        config = read_config(folder.config, kind)
        settings = make_settings(config["settings"])
        config["settings"] = settings.model_dump(mode="json")  # with what an earlier version did not have
        inputs = _resumed(request, config)
        settings = _settled(settings, inputs.device)
    else:
        folder = None
        _check_place(request)
        resolve_device(request.inputs.device)  # before images are fetched, as with all that is wrong without them
        request.inputs.image_options()
        inputs, settings, choices = configure(request.inputs)
        settings = _settled(settings, inputs.device)
        overrides = {**request.overrides, "precision": settings.precision}
        config = {
            "command": command,
            **choices_of(inputs),
            **choices,
            "overrides": {name: overrides[name] for name in request.overrides},
            "runs": request.runs or 1,
            "final_test": request.final_test,
            "export": list(request.export),
            "settings": settings.model_dump(mode="json"),
            "data_dir": None if inputs.data_dir is None else str(inputs.data_dir),
            "checkpoint_every": request.checkpoint_every,
        }
    fabric = start(inputs.device, request.machines, settings.precision)
    use_threads(request.inputs.threads)
    config = {"processes": fabric.world_size, **config}
    with ExitStack() as stack:

        def claim() -> Path:
            claimed = folder
            if claimed is None and request.folder is not None:
                claimed = RunFolder(request.folder)
            elif claimed is None:
                assert request.names is not None
                claimed = stack.enter_context(new_run(request.names(inputs.model or "", inputs.dataset or "")))
            stack.enter_context(claimed.locked())
            if folder is None:
                claimed.check_free(overwrite=request.overwrite)
            else:
                claimed.check_unfinished()  # the run may have come to its end since it was found
                claimed.check_checkpoints()
            return claimed.path

        # The first process settles the name, which may hold the time.
        claimed = RunFolder(on_first(fabric, claim))
        takeover = Takeover(claimed, config, is_done=folder is not None)
        yield Session(fabric, claimed, inputs, config, settings, request, takeover)


def _settled(settings: Settings, device: str) -> Settings:
    """The settings with the number format that is used on a device; the run keeps what was chosen."""
    return settings.model_copy(update={"precision": settled_precision(settings.precision, resolve_device(device))})


def _check_place(request: Request) -> None:
    """Refuse a place for a new run before images are fetched and read; nobody is kept out of it yet."""
    if request.folder is not None:
        check_folder_writable(request.folder)
        RunFolder(request.folder).check_free(overwrite=request.overwrite)
    elif request.names is not None:
        check_folder_writable(next(request.names("", "")).parent)


def _check_command(command: str, resumed: Path, of_run: str) -> None:
    if of_run != command:
        raise InputError(
            f"{resumed} is a run of '{of_run}', not of '{command}'.",
            hint=f"Go on with: decompose {of_run} --resume {resumed}",
        )


def _check_model(request: Request, of_run: str) -> None:
    """A run folder, which may be somebody else's, must not decide what code is imported."""
    if is_user_code(of_run) and request.inputs.model is None:
        raise InputError(
            f"The run in {request.resume} trains {of_run}, which is Python code of its own.",
            hint=f"If you trust it, name {of_run} as the model again, beside {param('resume')}.",
        )
    if is_user_code(of_run) and request.inputs.model != of_run:
        raise InputError(
            f"The run in {request.resume} was begun otherwise: model {of_run}, now {request.inputs.model}.",
            hint=f"Name the same model to go on with it, or start a new run with {param('output')}.",
        )


def _resumed(request: Request, config: Mapping[str, Any]) -> Inputs:
    plain = Inputs()
    given = {
        name: value
        for name, value in choices_of(request.inputs).items()
        if value is not None and value != getattr(plain, name)
    }
    # Values are read as settings, so that the same value written in another way is the same.
    base = dict(config["settings"])
    for name, other in (("epochs", "iterations"), ("iterations", "epochs")):
        base |= {other: None} if request.overrides.get(name) is not None else {}
    settings = make_settings({**base, **request.overrides}).model_dump(mode="json")
    given |= {**request.choices, **{name: settings[name] for name in request.overrides}}
    if given.get("precision") == AUTO:  # the run has chosen, and keeps to it
        del given["precision"]
    given |= {} if request.runs is None else {"runs": request.runs}
    entry = find_entry(config["model"])
    defaults = {name: values[0] for name, values in entry.options.items()} | {"norm_mode": "batch"}
    given |= entry.as_settled(config.get("model_options") or {}, request.choices)
    before = {**config, **config["settings"], **defaults, **(config.get("model_options") or {})}
    differences = changed(before, given)
    if differences:
        raise InputError(
            f"The run in {request.resume} was begun otherwise: {'; '.join(differences)}.",
            hint=f"Leave these options out to go on with it, or start a new run with {param('output')}.",
        )
    data_dir = request.inputs.data_dir or (Path(config["data_dir"]) if config.get("data_dir") else None)
    kept = {name: config[name] for name in FROM_INPUTS}
    kept["class_map"] = None if kept["class_map"] is None else Path(kept["class_map"])
    return dataclasses.replace(request.inputs, data_dir=data_dir, **kept)


def train_job(session: Session, folder: RunFolder, settings: Settings, job: Job) -> tuple[RunResults, nn.Module]:
    """Train one network, or go on with it, and measure it in the end.

    Returns:
        The results, and the network as it is after the last epoch.

    Raises:
        StoppedError: A signal came; the run can be resumed.
        DecomposeError: The work failed, as :meth:`decompose_cli.training.fit.Trainer.run` says.
    """
    fabric, data = session.fabric, job.data
    if not session.is_begun:
        _try_export(session, job)
    upkeep = Upkeep(
        session.workers,
        session.request.checkpoint_every or session.config["checkpoint_every"],
        session.request.print_freq,
    )
    trainer = Trainer(fabric, job, settings, folder, upkeep, session.takeover)
    _check_smallest_batch(trainer, job)
    _check_online_norm(trainer, job)
    if session.is_begun and folder.last.is_file():
        try:
            trainer.load(read_state(folder.last))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(
                f"{folder.last} is damaged, or belongs to another run: {first_line(error)}.",
                hint=f"Start a new run with {param('output')}.",
            ) from error
        note(f"Going on after {trainer.state.global_step:,} of {trainer.total_steps:,} steps.")
    with growing_table(columns(trainer.objective.columns)) as table:
        state = trainer.run(table)
    last = state.records[-1]
    final_test = data.test if session.config["final_test"] or session.request.final_test else None
    results = RunResults(
        seed=settings.seed,
        epochs=state.records,
        last=Measured(
            epoch=last.epoch, val=last.val, test=trainer.score(final_test) if final_test is not None else last.test
        ),
        best=None,
        checkpoints={"last": str(folder.last)},
    )
    if state.best is not None:
        results.best = Measured(epoch=state.best.epoch, val=state.best.val, test=None)
        results.checkpoints["best"] = str(folder.best)
        if final_test is not None or _exports(session):
            kept = {name: value.clone() for name, value in trainer.measured.state_dict().items()}
            trainer.measured.load_state_dict(read_state(folder.best)["state_dict"])
            results.best.test = trainer.score(final_test) if final_test is not None else None
            on_first(fabric, lambda: _export(session, folder, trainer.measured, job, results))
            trainer.measured.load_state_dict(kept)
    else:
        on_first(fabric, lambda: _export(session, folder, trainer.measured, job, results))
    return results, trainer.measured


def _check_smallest_batch(trainer: Trainer, job: Job) -> None:
    """Refuse batches of one image, such as a last one, where batch norm on maps of one pixel cannot learn from them."""
    settings, fabric = trainer.settings, trainer.fabric
    in_last_step = 0 if settings.drop_last else len(job.data.indices) % settings.images_per_step
    smallest = in_last_step % settings.batch_size or settings.batch_size
    if min(smallest, settings.batch_size) >= 2 * fabric.world_size:
        return
    image = torch.zeros(1, 3, *job.data.preprocessing.crop, device=fabric.device)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            copied(job.module).train()(image)
    except ValueError as error:
        raise InputError(
            f"A batch, or a process's share of one, will be a single image, from which this network cannot learn: "
            f"{first_line(error)}.",
            hint=f"Choose another {param('batch_size')}, or leave the last batch out with {param('set')} "
            "drop_last=true.",
        ) from error


def _check_online_norm(trainer: Trainer, job: Job) -> None:
    """Check online norm: it averages over one process alone, and keeps gradients, which a scaled loss would scale."""
    if not any(isinstance(module, OnlineNorm1d | OnlineNorm2d) for module in job.module.modules()):
        return
    if trainer.settings.precision == "16":
        raise InputError(f"{param('precision')} 16 scales the loss, which online normalisation cannot take; use bf16.")
    if trainer.fabric.world_size > 1:
        warn(
            f"Online normalisation with {trainer.fabric.world_size} processes is not the algorithm of the paper: each "
            "process has statistics of the images that it sees, and checkpoints hold those of the first."
        )


def _try_export(session: Session, job: Job) -> None:
    """Find out before training whether the network can be exported."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in _exports(session):
            path = RunFolder(Path(folder)).exported(kind)
            size = job.data.preprocessing.crop
            module = copied(job.module)
            on_first(session.fabric, partial(export_network, module, size, path, kind, job.metadata, sparse=job.sparse))


def _exports(session: Session) -> Sequence[Kind]:
    return session.request.export or session.config["export"]


def _export(session: Session, folder: RunFolder, module: nn.Module, job: Job, results: RunResults) -> None:
    for kind in _exports(session):
        path = folder.exported(kind)
        difference = export_network(module, job.data.preprocessing.crop, path, kind, job.metadata, sparse=job.sparse)
        results.checkpoints[kind] = str(path)
        if difference is not None:
            results.export_errors[kind] = difference
