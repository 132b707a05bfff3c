"""The full head trained by the same schedule: what further training alone gains, without any decomposition."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel
from torch import Tensor, nn

from decompose_cli.decomposition.metrics import Evaluation
from decompose_cli.decomposition.result_types import Difference, difference_of
from decompose_cli.messages import note
from decompose_cli.models.copying import copied
from decompose_cli.training.evaluate import score_of
from decompose_cli.training.freezing import Trained, freeze
from decompose_cli.training.job import Job
from decompose_cli.training.records import EpochRecord, Score
from decompose_cli.training.run_folder import CONTROL, RunFolder
from decompose_cli.training.runner import with_best_weights
from decompose_cli.training.session import Session, train_job
from decompose_cli.training.settings import Settings


class Control(BaseModel):
    """The network with its full head after the same training: recipe, seed, images, and what of it was trained.

    ``score``: of the test images. ``gain``: this network minus the original, which is what training alone gains;
    ``versus``: the decomposed network, fine-tuned, minus this one, which is what the decomposition costs then. In both
    ``only_original_correct`` counts images that only the first of the two gets right.
    """

    score: Score
    gain: Difference
    versus: Difference
    epochs: list[EpochRecord]
    checkpoints: dict[str, str]


def full_head_control(
    session: Session,
    folder: RunFolder,
    settings: Settings,
    job: Job,
    network: nn.Module,
    head: str,
    held: dict[str, Tensor],
    measured: Callable[[nn.Module], Evaluation],
    compared: tuple[Evaluation, Evaluation],
    split: str,
) -> tuple[Control, Evaluation]:
    """Train the full head as the decomposed one was trained, in a folder of its own; a run that was stopped goes on.

    Args:
        session: The run.
        folder: The folder of the decomposed network's training.
        settings: Its settings, with the seed.
        job: Its job, whose images are taken.
        network: The network with its full head, left as it is.
        head: Name of the head.
        held: Rows of the head that stay as they are, as :class:`.job.Job` has them.
        measured: Measures a network on the test images.
        compared: What the original and the fine-tuned network say of these.
        split: Name of their split.
    """
    note("The full head, trained by the same schedule:")
    module = copied(network).float()
    only: Trained = session.config["only"]
    frozen = freeze(module, head, only, job.data.preprocessing.crop)
    own = RunFolder(folder.path / CONTROL)
    results, last = train_job(session, own, settings, Job(module, job.metadata, job.data, frozen, None, held, None))
    found = measured(with_best_weights(last, results, own))
    original, after = compared
    control = Control(
        score=score_of(found, split),
        gain=difference_of(original, found),
        versus=difference_of(found, after),
        epochs=results.epochs,
        checkpoints=results.checkpoints,
    )
    return control, found
