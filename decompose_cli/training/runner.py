"""The course of every training, from the first check to the result; commands differ in their :class:`Training`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic

from torch import nn
from typing_extensions import override

from decompose_cli.errors import DecomposeError, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.models.convolutions import may_choose_algorithms
from decompose_cli.models.copying import copied
from decompose_cli.models.read_back import check_read_back
from decompose_cli.processes.team import ENDED, is_lost_connection, on_first
from decompose_cli.reporting.training_plots import training_curves
from decompose_cli.storage.file_sets import Content, write_files
from decompose_cli.storage.result_document import ResultDocument, Stopwatch
from decompose_cli.training.config import RunConfig, shown_command
from decompose_cli.training.job import Job
from decompose_cli.training.outcome import RepeatedResults, RunResults, all_results
from decompose_cli.training.records import curves
from decompose_cli.training.run_folder import RunFolder, read_state
from decompose_cli.training.seeds import Results, repeated
from decompose_cli.training.session import Request, Session, opened, train_job
from decompose_cli.training.settings import Settings
from decompose_cli.training.setup import Learner, TrainConfig, announce, make_job, open_for, training_document

Finished = tuple[RunResults, Job, nn.Module]
"""The results of a training, its job, and the network after the last epoch."""
Files = dict[Path, Content]


class Training(ABC, Generic[Results]):
    """What a command that trains decides for itself; :func:`run_training` calls the hooks in this order.

    Attributes:
        command: Name of the command.
        config: Type of the configuration of its runs.
        results: Type of the results of one run.
    """

    command: ClassVar[str]
    config: ClassVar[type[RunConfig]]
    results: type[Results]

    @abstractmethod
    def configure(self, inputs: Inputs) -> tuple[Inputs, Settings, Mapping[str, Any]]:
        """Settle a new run; return complete inputs, settings, and what else decides what is trained.

        Raises:
            InputError: Something given cannot be used.
        """

    @abstractmethod
    def open(self, session: Session) -> None:
        """Open network and images, for a new run or for one that goes on.

        Raises:
            InputError: Network or images cannot be used, or are not what they were when the run began.
        """

    @abstractmethod
    def job(self, session: Session, settings: Settings) -> Job:
        """Make the network with its initial weights, and divide the images; ``settings`` has the seed."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The title of plots: network and images."""

    @abstractmethod
    def finish(
        self, session: Session, folder: RunFolder, settings: Settings, trained: Finished, files: Files
    ) -> Results:
        """Measure the network of one run, and say what is kept beside its checkpoints.

        Args:
            session: The run as a whole.
            folder: Where this run is kept.
            settings: Settings of this run, with its seed.
            trained: Results of the training, its job, and the network after the last epoch.
            files: Gets, in the first process, what is written together with the result.
        """

    def together(self, runs: Sequence[Results]) -> Any:
        """The results of several seeds together; for one seed, its results as they are."""
        return all_results(runs)

    @abstractmethod
    def document(self, session: Session, results: Any, watch: Stopwatch) -> ResultDocument[Any]:
        """The result document: the results with everything needed to get them again."""


def run_training(training: Training[Results], request: Request) -> ResultDocument[Any]:
    """Train, once or with several seeds; checkpoints, logs and the result are in the run folder.

    Raises:
        InputError: Something given cannot be used; nothing has been changed.
        StoppedError: A signal came; the run can be resumed.
        DecomposeError: The work failed; the last checkpoint is still there.
    """
    watch = Stopwatch()
    with opened(training.command, request, training.configure, training.config) as session, _to_be_resumed(session):
        training.open(session)
        files: Files = {}

        def train(folder: RunFolder, settings: Settings) -> Results:
            job = training.job(session, settings)
            results, module = train_job(session, folder, settings, job)
            best = with_best_weights(module, results, folder)
            # The programs among the exports are run before they are written.
            of_which = {"last": module, "best": best, "safetensors": best}
            size = job.data.preprocessing.crop

            def check() -> None:
                for name, network in of_which.items():
                    if name in results.checkpoints and session.inputs.can_be_named:
                        check_read_back(Path(results.checkpoints[name]), network, size)

            on_first(session.fabric, check)
            title = f"{training.title}, seed {settings.seed}"
            on_first(
                session.fabric,
                lambda: files.update({folder.curve: training_curves(title, **curves(results.epochs))}),
            )
            return training.finish(session, folder, settings, (results, job, module), files)

        def write(path: Path, document: ResultDocument[Any]) -> None:
            document.files = [file.relative_to(path.parent).as_posix() for file in files]
            write_files({**files, path: document.to_json()})
            files.clear()

        def described(results: Any) -> ResultDocument[Any]:
            document = training.document(session, results, watch)
            document.environment["cudnn_benchmark"] = may_choose_algorithms(session.fabric.device)
            return document

        def write_one(path: Path, results: Results) -> None:
            write(path, described(results))

        runs = repeated(session, train, training.results, write_one)
        whole = on_first(session.fabric, lambda: described(training.together(runs)))
        on_first(session.fabric, lambda: write(session.folder.result, whole))
    return whole


@contextmanager
def _to_be_resumed(session: Session) -> Iterator[None]:
    """Say how a run goes on that was interrupted outside its steps: while it is measured, exported or written down.

    Or one of whose processes has gone.
    """
    try:
        yield
    except RuntimeError as error:
        if session.fabric.world_size == 1 or not is_lost_connection(error):
            raise
        again = f"go on with {param('resume')} {session.folder.path}" if session.is_begun else "start the command again"
        raise DecomposeError(ENDED, hint=f"Memory may have run out there; {again}.") from error
    except KeyboardInterrupt:
        if not session.is_begun or session.folder.is_finished:
            raise
        raise session.folder.stopped("after the last checkpoint", session.config["model"]) from None


def with_best_weights(module: nn.Module, results: RunResults, folder: RunFolder) -> nn.Module:
    """A copy of the network with the weights of the best epoch; the network itself where no images chose one."""
    if results.best is None:
        return module
    best = copied(module)
    best.load_state_dict(read_state(folder.best)["state_dict"])
    return best


class LearnerTraining(Training[Results]):
    """A network from scratch, or from given weights, that learns from the training images of a data set."""

    config: ClassVar[type[RunConfig]] = TrainConfig
    learner: Learner

    @override
    def open(self, session: Session) -> None:
        self.learner = open_for(session)
        announce(session.config, self.learner, session.settings)

    def own_options(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Options, beside network, images and settings, of the command that checkpoints show."""
        return {"recipe": config["recipe"], **(config["model_options"] or {})}

    @override
    def job(self, session: Session, settings: Settings) -> Job:
        command = shown_command(session.config, settings.seed, self.own_options(session.config))
        return make_job(session.config, self.learner, settings, command)

    @property
    @override
    def title(self) -> str:
        return f"{self.learner.classifier.name} on {self.learner.train.name.rsplit('/', 1)[-1]}"

    @override
    def document(
        self, session: Session, results: RunResults | RepeatedResults, watch: Stopwatch
    ) -> ResultDocument[Any]:
        return training_document(session, self.learner, results, watch)
