"""Whether a run that goes on still has the weights, the images and the class map that it began with."""

from __future__ import annotations

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.errors import InputError, param
from decompose_cli.training.session import Session


def check_same_images(session: Session, images: ImageDataset) -> None:
    """Refuse to go on with a run whose training images have been replaced since, or are read otherwise.

    Raises:
        InputError: They are not those of the configuration.
    """
    if not images.has_fingerprint(str(session.config.get("training_images"))):
        raise _replaced(
            session,
            "training images, or the order of their classes,",
            "Put the images back. If they never changed, an earlier version began this run and read them differently: "
            "resume with that version",
        )


def check_same(session: Session, **now: object) -> None:
    """Refuse to go on with a run whose weights, or what else was read for it, have been replaced since.

    Args:
        session: The run.
        now: Digests, or what was read, as they are in the configuration where nothing has been replaced.

    Raises:
        InputError: One differs from that of the configuration.
    """
    for name, value in now.items():
        if session.config.get(name) != value:
            raise _replaced(session, name.replace("_", " "), "Put them back")


def _replaced(session: Session, what: str, hint: str) -> InputError:
    return InputError(
        f"The {what} are not what they were when the run in {session.folder.path} began.",
        hint=f"{hint}, or start a new run with {param('output')}.",
    )
