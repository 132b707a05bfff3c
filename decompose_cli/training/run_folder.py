"""The folder of a run: its configuration, its checkpoints, its result, and what may be done to them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from decompose_cli.errors import DecomposeError, InputError, StoppedError, param, shortened
from decompose_cli.messages import note
from decompose_cli.models.checkpoint import METADATA_KEY, SPARSE_KEY, Metadata
from decompose_cli.models.entry import is_user_code
from decompose_cli.models.sparse_record import SparseRecord
from decompose_cli.models.torch_files import read_torch
from decompose_cli.storage.file_sets import Content, write_files
from decompose_cli.storage.files import check_folder_writable
from decompose_cli.storage.journal import settle
from decompose_cli.storage.leftovers import sweep
from decompose_cli.storage.names import BEST, CONFIG, LAST, LOG, RESULT
from decompose_cli.storage.ordinary_files import check_ordinary
from decompose_cli.storage.result_document import readable_json
from decompose_cli.storage.run_configuration import has_configuration
from decompose_cli.storage.system_errors import write_error
from decompose_cli.training.export import KINDS, SUFFIXES, Kind

CURVE = "curve.png"
TENSORBOARD = "tensorboard"
G_VALUES, GATE_PLOT, EXTREMES = "g_values.csv", "g_distribution.png", "g_extremes.png"
LABEL_NOISE, NOISE_PLOT = "label_noise.csv", "g_label_noise.png"
_LOCK = ".lock"
_TRAINING = "training"
_FORMAT = 1
_LONG = 200
_A_MOMENT_S = 60
CONTROL = "full-head"
_SEED = re.compile(r"seed-\d+")


class RunFolder:
    """A folder that holds one run.

    Args:
        path: The folder; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG
        self.last = path / LAST
        self.best = path / BEST
        self.result = path / RESULT
        self.log = path / LOG
        self.curve = path / CURVE
        self.tensorboard = path / TENSORBOARD

    @property
    def of_gates(self) -> tuple[Path, ...]:
        """The files about soft gates: g of each image, plots, and the labels that were made wrong."""
        return tuple(self.path / name for name in (G_VALUES, GATE_PLOT, EXTREMES, LABEL_NOISE, NOISE_PLOT))

    def exported(self, kind: Kind) -> Path:
        """The file that the network is exported to."""
        return self.path / f"model{SUFFIXES[kind]}"

    @property
    def is_finished(self) -> bool:
        """Whether the run has come to its end."""
        return self.result.is_file()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out while the block runs; the lock of a process that was killed is gone with it.

        Raises:
            InputError: Another process is at work in the folder.
            DecomposeError: The folder cannot be written.
        """
        check_folder_writable(self.path)
        lock = FileLock(self.path / _LOCK)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"Another run is writing into {self.path}.", hint=f"Wait for it, or choose another {param('output')}."
            ) from None
        except OSError as error:
            raise write_error(self.path, error) from error
        try:
            settle(self.path)
            for folder in (self, *self._seeds()):
                sweep(folder.path, alone=True)
            yield
        finally:
            with suppress(OSError):  # removed before the release: whoever waits for this file notices that it is gone
                (self.path / _LOCK).unlink(missing_ok=True)
            lock.release()
            with suppress(OSError):
                self.path.rmdir()  # only if nothing was written

    def check_free(self, *, overwrite: bool) -> None:
        """Refuse a folder that holds a run, or one that cannot be overwritten because it holds something else.

        Raises:
            InputError: There is a run already, or files of the names that a run uses.
        """
        present = [path.name for path in self._main_files if path.exists()]
        if present and overwrite and not has_configuration(self.path):
            raise InputError(
                f"{self.path} holds {', '.join(present)}, but no run of decompose, so it is not overwritten.",
                hint=f"Remove the files, or choose another {param('output')}.",
            )
        if present and not overwrite:
            raise InputError(
                f"{self.path} holds a run already.",
                hint=f"Go on with {param('resume')} {self.path}, choose another {param('output')}, or add "
                f"{param('overwrite')} to start anew.",
            )

    def check_unfinished(self) -> None:
        """Refuse to go on with a run that has come to its end.

        Raises:
            InputError: The run has come to its end.
        """
        if self.is_finished:
            newest = next((folder.last for folder in (self, *self._seeds()) if folder.last.is_file()), self.last)
            raise InputError(
                f"The run in {self.path} is finished; {RESULT} is its result.",
                hint=f"To train further, start a new run from its weights: {param('weights')} {newest}.",
            )

    def check_checkpoints(self) -> None:
        """Refuse to go on with a run without the checkpoints that it needs in the end, as those were never there.

        Raises:
            InputError: A checkpoint of a run or a seed that has not come to its end is missing or damaged.
        """
        for folder in (self, *self._seeds()):
            if folder.is_finished or not folder.last.is_file():
                continue
            last = read_state(folder.last)
            if last.get("best") is None:
                continue
            hint = f"Put it back, or start a new run with {param('output')}."
            if not folder.best.is_file():
                raise InputError(f"{folder.best} is missing, whose weights the run needs in the end.", hint=hint)
            try:
                best = read_state(folder.best)
            except InputError as error:
                raise InputError(error.sentence, hint=hint) from error
            if {name: value.shape for name, value in best["state_dict"].items()} != {
                name: value.shape for name, value in last["state_dict"].items()
            }:
                raise InputError(f"{folder.best} and {folder.last} are checkpoints of different networks.", hint=hint)

    def stopped(self, where: str, model: str) -> StoppedError:
        """The error for a run that a signal has stopped, and how it goes on.

        Args:
            where: How far the run has come, as in ``after the last step``.
            model: The network, whose code has to be named again.
        """
        named = f" and the model {model} again" if is_user_code(model) else ""
        return StoppedError(
            f"Interrupted {where}; everything up to there is saved.",
            hint=f"Go on with {param('resume')} {_whole(self).path}{named}.",
        )

    @property
    def _main_files(self) -> tuple[Path, ...]:
        return self.config, self.last, self.best, self.result, self.log

    def _seeds(self) -> list[RunFolder]:
        seeds = [path for path in self.path.glob("seed-*") if _SEED.fullmatch(path.name) and path.is_dir()]
        controls = [path / CONTROL for path in (self.path, *seeds) if (path / CONTROL).is_dir()]
        return [RunFolder(path) for path in (*seeds, *controls)]

    def written(self) -> list[Path]:
        """What a run writes, here and in the folders of its seeds, as far as it is there; nothing of the user's."""
        paths: list[Path] = []
        for folder in (*self._seeds(), self):
            exported = [folder.exported(kind) for kind in KINDS]
            paths += [*folder._main_files, folder.curve, *folder.of_gates, *exported]
            paths += folder.tensorboard.glob("events.out.*")
        return [path for path in paths if path.is_file()]


class Takeover:
    """A new run takes a folder with its first checkpoint, from one moment to the next, and until then not at all.

    With the checkpoint comes the configuration, and whatever run was in the folder goes.

    Args:
        folder: The folder of the run, not that of one of its seeds.
        config: The configuration.
        is_done: Whether the folder is the run's already, as that of a run that goes on.
    """

    def __init__(self, folder: RunFolder, config: Mapping[str, Any], *, is_done: bool = False) -> None:
        self.folder, self.config, self.is_done = folder, config, is_done

    def files(self) -> tuple[dict[Path, Content], list[Path]]:
        """What is written with the first checkpoint, and what is removed; nothing with any other."""
        if self.is_done:
            return {}, []
        return {self.folder.config: readable_json(dict(self.config)) + "\n"}, self.folder.written()


@contextmanager
def new_run(names: Iterable[Path]) -> Iterator[RunFolder]:
    """Make the first of these folders that does not exist yet; a folder still empty at the end of the block is removed.

    Raises:
        DecomposeError: The folder cannot be made.
    """
    with ExitStack() as stack:
        for path in names:
            check_folder_writable(path)
            if not path.parent.exists():
                stack.callback(_remove_empty, path.parent)
            _sweep_unused(path.parent)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.mkdir()
            except FileExistsError:
                continue
            except OSError as error:
                raise write_error(path, error) from error
            stack.callback(_remove_empty, path)
            yield RunFolder(path)
            return


def _sweep_unused(folder: Path) -> None:
    """Remove the folders of runs that were killed before their first checkpoint, and so hold nothing but a lock."""
    for lock in folder.glob(f"*/{_LOCK}"):
        with suppress(OSError, DecomposeError):
            is_alone = [path.name for path in lock.parent.iterdir()] == [_LOCK]
            if is_alone and time.time() - lock.stat().st_mtime > _A_MOMENT_S:
                with RunFolder(lock.parent).locked():
                    pass  # an empty folder goes with the lock


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def find_run(path: Path) -> RunFolder:
    """Find the run that ``--resume`` names by its folder, or by a checkpoint in it.

    Raises:
        InputError: There is no run to go on with; the sentence says what to do instead.
    """
    settle(path)
    settle(path.parent)
    if path.is_dir():
        folder = _whole(RunFolder(path))
    elif path.is_file():
        folder = _whole(RunFolder(path.parent))
        if path.name not in (LAST, BEST) or not folder.config.is_file():
            raise InputError(
                f"{path} is not a checkpoint of a run of decompose, so it cannot be resumed.",
                hint=f"To start from its weights, give them with {param('weights')} {path}.",
            )
    else:
        raise InputError(f"There is no run {path}.", hint=f"{param('resume')} takes the folder of a run.")
    if not folder.config.is_file():
        raise InputError(
            f"{path} holds no run of decompose ({CONFIG} is missing).",
            hint=f"{param('resume')} takes the folder of a run.",
        )
    if path.name == BEST and path.is_file() and folder.last.is_file():
        best, last = (read_state(file)["global_step"] for file in (path, folder.last))
        if best < last:  # best > last: a kill came between them, and the epoch is done again
            raise InputError(
                f"{folder.path} has gone on since {BEST} (step {last}, not {best}).",
                hint=f"Go on with {param('resume')} {folder.path}, or start a new run from it with {param('weights')}"
                f" {path}.",
            )
    folder.check_unfinished()
    part = path if path.is_dir() else path.parent
    if folder.path != part:
        note(f"{part} is one seed of the run in {folder.path}, which is taken as a whole.")
    return folder


def _whole(folder: RunFolder) -> RunFolder:
    """The whole run that the folder of one seed is a part of; other folders are returned as they are."""
    parent = RunFolder(folder.path.absolute().parent)
    is_part = _SEED.fullmatch(folder.path.absolute().name) and not folder.config.is_file() and parent.config.is_file()
    return RunFolder(folder.path.parent if folder.path.name else parent.path) if is_part else folder


def write_state(
    path: Path,
    metadata: Metadata,
    weights: Mapping[str, Tensor],
    training: Mapping[str, Any],
    takeover: Takeover | None = None,
    sparse: SparseRecord | None = None,
) -> None:
    """Write a checkpoint that describes itself, whole or not at all.

    Args:
        path: The file.
        metadata: Description of the network.
        weights: State dict of the network.
        training: Tensors and plain values with which the run can go on.
        takeover: How the run takes its folder, if this may be its first checkpoint.
        sparse: What belongs to the network's sparse head beside it.

    Raises:
        DecomposeError: The file cannot be written; an older one is still there.
    """
    content = {
        METADATA_KEY: metadata.as_text(),
        "state_dict": dict(weights),
        _TRAINING: {"format_version": _FORMAT, **training},
    }
    if sparse is not None:
        content[SPARSE_KEY] = sparse.beside(weights, path)

    has_earlier = takeover is None and path.is_file()
    how = f"go on with {param('resume')}" if has_earlier else "run the command again"

    def save(temporary: Path) -> None:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # on a full disk torch's archive writer only says that a position is unexpected
            raise DecomposeError(
                f"{path} could not be written; is the disk full? What was saved before is still there.",
                hint=f"Free some space and {how}.",
            ) from error

    contents, removed = takeover.files() if takeover is not None else ({}, [])
    write_files({**contents, path: save}, removed)


def read_state(path: Path) -> dict[str, Any]:
    """Read what a run needs to go on, with ``state_dict`` beside it; nothing in the file is executed.

    Raises:
        InputError: The file is missing, damaged, or no checkpoint of a run.
    """
    try:
        check_ordinary(path, "The checkpoint")
        content = read_torch(path, has_others=False)
    except FileNotFoundError:
        raise InputError(f"The checkpoint {path} does not exist.") from None
    except InputError as error:
        raise InputError(f"{path} is damaged, or no checkpoint of a run.", hint=error.sentence) from error
    except OSError as error:
        raise InputError(f"The checkpoint {path} cannot be read: {error.strerror or error}.") from error
    training = content.get(_TRAINING) if isinstance(content, dict) else None
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(training, dict) or not isinstance(weights, dict) or "format_version" not in training:
        raise InputError(f"{path} is damaged, or no checkpoint of a run.")
    version = training["format_version"]
    if type(version) is not int or version != _FORMAT:
        raise InputError(f"{path} was written by another version (format {shortened(str(version))}).")
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()):
        raise InputError(f"{path} is damaged: its weights are not all tensors.")
    if type(training.get("global_step")) is not int:
        raise InputError(f"{path} is damaged: it does not say after which step it was written.")
    return {**training, "state_dict": weights}


def changed(before: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """The values that were asked for now and differ from those of the run, as ``lr 0.1, now 0.2``."""

    def plain(value: Any) -> Any:
        return json.loads(json.dumps(value, default=str))

    def shown(name: str, old: Any, new: Any) -> str:
        texts = f"{name.replace('_', '-')} {old}", f"now {new}"
        return ", ".join(texts) if max(map(len, texts)) < _LONG else f"other {name.replace('_', '-')}"

    return [
        shown(name, plain(before.get(name)), plain(value))
        for name, value in given.items()
        if plain(before.get(name)) != plain(value)
    ]
