"""What ``compare`` says of the trainings that networks are of: whether they can be compared, and what differs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from decompose_cli.datasets.kinds import kind_of
from decompose_cli.decomposition.compared import Entry, TrainedRun
from decompose_cli.errors import InputError, param
from decompose_cli.messages import note
from decompose_cli.printable import counted
from decompose_cli.storage.files import user_path

_NO_CONDITIONS = frozenset({
    *("seed", "runs", "overrides", "settings", "model_options", "ranking"),  # said otherwise, or taken apart
    *("dataset", "data_dir", "split", "training_images"),  # of which compare makes sure by itself
    *("weights", "weights_key", "ema", "indices", "baseline", "class_map"),  # files, whose content is there by itself
    *("device", "devices", "num_nodes", "processes", "workers", "threads", "batch_size", "use_cache"),
    *("allow_download", "skip_unreadable", "features_only", "final_test", "export", "checkpoint_every", "skip_below"),
})  # fmt: skip
"""Arguments of trainings that decide nothing about the network, or are among the conditions under another name."""
_NOTHING: tuple[Any, ...] = (None, False, 0, "none", "all", [], {})
_HASH = 8


class ComparedTraining(BaseModel):
    """One training whose networks were compared.

    ``checkpoint``: the weights of its runs that were measured, ``best`` or ``last``. ``differs_in``: the settings, by
    option, that are not the same in all trainings; null where none is recorded.
    """

    seeds: list[int]
    checkpoint: str
    differs_in: dict[str, Any]


def conditions_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a training was made with, by option, but for its seed: from its document, of whatever version."""

    def part(of: Any, name: str) -> dict[str, Any]:
        found = of.get(name) if isinstance(of, dict) else None
        return found if isinstance(found, dict) else {}

    arguments = part(document, "arguments")
    found = {"command": document.get("command")}
    found |= {name: value for name, value in arguments.items() if name not in _NO_CONDITIONS}
    found |= part(arguments, "ranking")
    found |= {"norm_mode": "batch"} | (part(document.get("model"), "options") or part(arguments, "model_options"))
    found |= {name: value for name, value in part(arguments, "settings").items() if name != "seed"}
    for name in ("starting_weights", "baseline_weights"):
        if isinstance(value := found.get(name), str):
            found[name] = value[:_HASH]
    return found


def by_kind_and_seed(entries: Sequence[Entry], values: Mapping[str, Tensor]) -> list[dict[str, dict[int, Tensor]]]:
    """Values of the entries by training and seed: of trainings from the beginning, and of fine-tunings."""
    groups: list[dict[str, dict[int, Tensor]]] = [{}, {}]
    for entry in entries:
        if entry.run is not None and entry.name in values:
            group = groups[entry.run.is_fine_tuning]
            group.setdefault(entry.run.training, {})[entry.run.seed] = values[entry.name]
    return groups


def described_trainings(entries: Sequence[Entry]) -> dict[str, ComparedTraining]:
    """The trainings of the entries, by name, with what they differ in."""
    groups = _by_training(entries)
    conditions = {name: runs[0].conditions for name, runs in groups.items()}
    options = dict.fromkeys(itertools.chain.from_iterable(conditions.values()))
    differing = [option for option in options if _differs([found.get(option) for found in conditions.values()])]
    return {
        name: ComparedTraining(
            seeds=[run.seed for run in runs],
            checkpoint=runs[0].checkpoint,
            differs_in={option: conditions[name].get(option) for option in differing},
        )
        for name, runs in groups.items()
    }


def _differs(values: Sequence[Any]) -> bool:
    """Whether a setting differs; an option that a command lacks is the same as one that does nothing."""
    return any(value != values[0] for value in values) and not all(value in _NOTHING for value in values)


def difference_rows(trainings: Mapping[str, ComparedTraining]) -> list[list[str]]:
    """What trainings differ in, as the rows of a table: the option, then its value in each training."""
    rows = [
        ["seeds", *(", ".join(map(str, one.seeds)) for one in trainings.values())],
        ["checkpoint", *(one.checkpoint for one in trainings.values())],
    ]
    options = dict.fromkeys(itertools.chain.from_iterable(one.differs_in for one in trainings.values()))
    return rows + [[option, *(_typed(one.differs_in.get(option)) for one in trainings.values())] for option in options]


def _typed(value: Any) -> str:
    """A setting in short; a dash where there is none."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def say_common_seeds(entries: Sequence[Entry]) -> None:
    """Say which trainings have too few seeds in common to be compared as wholes."""
    groups = _by_training(entries)
    for first, second in itertools.combinations(groups, 2):
        pair = groups[first], groups[second]
        if pair[0][0].is_fine_tuning or pair[1][0].is_fine_tuning:
            continue  # once each, as most are, or the one goes on from the other
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
