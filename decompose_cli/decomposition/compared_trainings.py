"""What ``compare`` says of the trainings that networks are of: whether they can be compared, and what differs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from decompose_cli.datasets.kinds import kind_of
from decompose_cli.decomposition.compared import Entry, TrainedRun
from decompose_cli.errors import InputError, param
from decompose_cli.messages import note
from decompose_cli.printable import counted
from decompose_cli.storage.files import user_path


class ComparedTraining(BaseModel):
    """One training whose networks were compared.

    ``checkpoint``: the weights of its runs, ``best`` or ``last``. ``differs_in``: the settings, by option, that are not
    the same in all trainings; null where a training has no such option.
    """

    seeds: list[int]
    checkpoint: str
    differs_in: dict[str, Any]


def compared_trainings(entries: Sequence[Entry]) -> dict[str, ComparedTraining]:
    """The trainings of the entries, by name, with what they differ in."""
    groups = _by_training(entries)
    conditions = {name: runs[0].conditions for name, runs in groups.items()}
    options = list(dict.fromkeys(itertools.chain.from_iterable(conditions.values())))
    differing = [
        option
        for option in options
        if any(found.get(option) != conditions[next(iter(conditions))].get(option) for found in conditions.values())
    ]
    return {
        name: ComparedTraining(
            seeds=[run.seed for run in runs],
            checkpoint=" or ".join(dict.fromkeys(run.checkpoint for run in runs)),
            differs_in={option: conditions[name].get(option) for option in differing},
        )
        for name, runs in groups.items()
    }


def say_common_seeds(entries: Sequence[Entry]) -> None:
    """Say which trainings have too few seeds in common to be compared as wholes."""
    groups = _by_training(entries)
    for first, second in itertools.combinations(groups, 2):
        pair = groups[first], groups[second]
        if all(len(runs) == 1 and runs[0].images is None for runs in pair):
            continue  # fine-tuned once each, as most are
        common = {run.seed for run in pair[0]} & {run.seed for run in pair[1]}
        if len(common) < 2:
            have = f"{counted(len(common), 'seed')} in common" if common else "no seed in common"
            note(
                f"{first} and {second} have {have}: their networks are compared one by one, which says nothing of "
                "other seeds. With two in common trainings are compared as wholes."
            )


def check_same_images(entries: Sequence[Entry]) -> None:
    """Refuse trainings on different data sets, whose test images are not the same; say whose images have changed.

    Raises:
        InputError: There are such.
    """
    known = [run for runs in _by_training(entries).values() for run in runs[:1] if run.images is not None]
    for one in known[1:]:
        first = known[0]
        assert first.images is not None
        assert one.images is not None
        if _place(one.images) != _place(first.images):
            raise InputError(
                f"{first.training} was trained on {first.images}, but {one.training} on {one.images}.",
                hint=f"Name the images on which all are measured with {param('dataset')}.",
            )
        if one.fingerprint != first.fingerprint:
            note(f"The training images of {first.training} and {one.training} differ, though both are {first.images}.")


def _by_training(entries: Sequence[Entry]) -> dict[str, list[TrainedRun]]:
    groups: dict[str, list[TrainedRun]] = {}
    for entry in entries:
        if entry.run is not None:
            groups.setdefault(entry.run.training, []).append(entry.run)
    return groups


def _place(images: str) -> tuple[str, str]:
    """What tells data sets apart: a path may be written in several ways."""
    kind = kind_of(images)
    if kind is None:
        return "", images
    path = user_path(kind[1])
    return kind[0].prefix, str(path.resolve()) if path.exists() else kind[1]
