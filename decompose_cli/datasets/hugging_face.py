"""Data sets of Hugging Face, Parquet files and what `save_to_disk` writes: ``hf:NAME|PATH``, by the library `datasets`.

Nothing of a data set is executed: that library refuses those that bring code, and it is asked for images undecoded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from decompose_cli.datasets.arrow_images import TableImages
from decompose_cli.datasets.kept_files import tables_folder
from decompose_cli.datasets.labels import Labels
from decompose_cli.datasets.listed_once import once
from decompose_cli.datasets.listing import is_image_name
from decompose_cli.datasets.source import Source
from decompose_cli.datasets.splits import SPLITS, in_preferred_order, say_others, split_called, split_in
from decompose_cli.datasets.stored import StoredImages
from decompose_cli.errors import DecomposeError, DownloadError, InputError, first_few, first_line, param
from decompose_cli.extras import import_extra
from decompose_cli.messages import note
from decompose_cli.storage.files import check_folder_writable, temporary_cache
from decompose_cli.storage.fingerprints import content_sample, file_stamp

_IMAGES = ("image", "img", "images", "jpg", "png", "webp", "pixel_values")
_LABELS = ("label", "labels", "class", "cls", "fine_label", "target", "category")
_SPLITS = ("split", "splits", "subset", "set", "partition")
_REAL = ("float16", "float32", "float64")
_KINDS = {
    "image": "Images are image files as bytes.",
    "label": "Labels are whole numbers or names; a column of numbers such as 1.0 is taken where "
    f"{param('columns')} label=NAME says so.",
}
_SAVED = ("dataset_dict.json", "state.json")


class HuggingFace:
    """The splits of a data set that the library `datasets` reads.

    Args:
        source: A folder or file on this machine, or ``ORG/NAME`` or ``ORG/NAME:CONFIGURATION`` on the hub.

    Raises:
        InputError: There is no such data set, or it cannot be read.
        DownloadError: It is not on this machine and cannot be fetched.
        DecomposeError: The library is not installed.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._tables = once(f"hf {source.key}", source.path, lambda: _load(source))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are."""
        return in_preferred_order(self._tables)

    def open(self, split: str) -> StoredImages:
        """The images of a split.

        Raises:
            InputError: It cannot be told which column holds the images or the labels, or a label cannot be used.
        """
        table, stamps = self._tables[split]
        where = f"{self.source.name} {split}"
        image, label = _columns(table.features, where, self.source)
        training = self._tables.get("train") if split != "train" else None
        names = getattr(table.features[label], "names", None)
        labels, classes = _labels(table, label, where).numbered(
            None if training is None else lambda: _labels(training[0], label, f"{self.source.name} train"), names
        )
        first = self._tables[next(name for name in SPLITS if name in self._tables)][0]
        path = self.source.path
        images = StoredImages(
            self.source.name,
            split,
            path,
            _images(table, image, where, stamps),
            labels,
            classes.names,
            classes.ids,
            reference=_images(first, image, self.source.name, stamps),
        )
        images.is_numbered = classes.are_numbers
        return images


_Tables = dict[str, tuple[Any, tuple[Any, ...]]]


def _images(table: Any, column: str, where: str, stamps: tuple[Any, ...]) -> TableImages:
    import datasets

    if isinstance(table.features[column], datasets.Image):
        table = table.cast_column(column, datasets.Image(decode=False))
    return TableImages(table.select_columns([column]), column, where, np.arange(len(table)), stamps)


def _labels(table: Any, column: str, where: str) -> Labels:
    values = table.select_columns([column]).with_format("arrow")[:][column].to_pylist()
    texts = ["" if value is None else str(value).strip() for value in values]
    return Labels(texts, lambda number: f"row {number} of {where}")


def _columns(features: Mapping[str, Any], where: str, source: Source) -> tuple[str, str]:
    """The columns of images and of labels."""
    import datasets

    def dtype(name: str) -> str:
        return str(getattr(features[name], "dtype", ""))

    def holds_images(name: str) -> bool:
        kind = features[name]
        if isinstance(kind, datasets.Image) or dtype(name) in ("binary", "large_binary"):
            return True
        return isinstance(kind, dict) and "bytes" in kind

    def holds_labels(name: str) -> bool:
        return dtype(name).startswith(("int", "uint", "string", "large_string"))

    for what, holds in (("image", holds_images), ("label", lambda name: holds_labels(name) or dtype(name) in _REAL)):
        given = source.columns.get(what)
        if given is not None and given in features and not holds(given):
            kind = "images" if holds_images(given) else dtype(given) or "lists"
            raise InputError(
                f"The column {given!r} of {where}, which {param('columns')} names, holds {kind}, not {what}s.",
                hint=_KINDS[what],
            )
    images, labels = [name for name in features if holds_images(name)], [n for n in features if holds_labels(n)]
    named = [name for name in features if isinstance(features[name], datasets.ClassLabel)]
    return (
        _chosen("image", images, _IMAGES, features, where, source),
        _chosen("label", named or labels, _LABELS, features, where, source),
    )


def _chosen(
    what: str, fitting: list[str], usual: tuple[str, ...], features: Mapping[str, Any], where: str, source: Source
) -> str:
    given = source.columns.get(what)
    if given is not None and given not in features:
        raise InputError(
            f"{where} has no column {given!r}, which {param('columns')} names; it has {first_few(features, 10)}."
        )
    if given is not None:
        return given
    called = [name for name in fitting if name.casefold() in usual]
    for found in (fitting, called):
        if len(found) == 1:
            return found[0]
    kind = "images" if what == "image" else "labels"
    some = f"several columns that may hold {kind}: {first_few(called or fitting, 10)}"
    raise InputError(
        f"{where} has {some if fitting else f'no column of {kind}; it has {first_few(features, 10)}'}.",
        hint=f"Say which with {param('columns')} {what}=NAME." if fitting else _KINDS[what],
    )


def _load(source: Source) -> _Tables:
    datasets = _library()
    path = source.path
    try:
        path.lstat()
        is_local = True
    except (FileNotFoundError, NotADirectoryError):
        is_local = False
    if not is_local and (source.rest.startswith(("/", ".", "~")) or source.rest.endswith(".parquet")):
        raise InputError(f"The file or folder {path} of {param('dataset')} {source.name} does not exist.")
    stamps = _stamps(path) if is_local else ()
    with _explained(source, is_local, datasets):
        if is_local:
            loaded = _from_disk(datasets, path)
        else:
            loaded = _from_hub(datasets, source)
            stamps = tuple(sorted({_origin(table) for table in loaded.values()}))
    loaded = _by_column(loaded)
    found: _Tables = {}
    names = [name for name, table in loaded.items() if len(table)]
    for split in SPLITS:
        # One that is called so goes before one that has the word in its name, as unsup_train.
        of_split = [each for each in names if split_called(each) == split]
        of_split += [each for each in names if split_called(each) is None and split_in(each) == split]
        if of_split:
            found[split] = (loaded[of_split[0]], (*stamps, of_split[0]))
            say_others(of_split[0], of_split, split, source.name)
    if not found:
        raise InputError(f"{source.name} has no split train, val or test; it has {first_few(loaded, 10)}.")
    return found


def _by_column(loaded: Mapping[str, Any]) -> Mapping[str, Any]:
    """The splits of a single table that has them in a column, each value of which is the name of one."""
    if len(loaded) != 1:
        return loaded
    (table,) = loaded.values()
    for column in (name for name in table.features if name.casefold() in _SPLITS):
        values = table.select_columns([column]).with_format("arrow")[:][column].to_pylist()
        splits = [split_called(value) if isinstance(value, str) else None for value in values]
        if splits and None not in splits:
            numbers = {split: [n for n, own in enumerate(splits) if own == split] for split in SPLITS}
            return {str(split): table.select(rows) for split, rows in numbers.items() if rows}
    return loaded


def _library() -> Any:
    return import_extra("datasets", "hf", "Images of kind hf")


def _from_disk(datasets: Any, path: Path) -> Mapping[str, Any]:
    """The splits of what lies on this machine; a single file or table is the split that its name says, else test."""
    path = path.absolute()  # a folder named "parquet" would be taken for the format
    with _unshown(datasets):
        if any((path / name).is_file() for name in _SAVED):
            loaded = datasets.load_from_disk(str(path))
        else:
            place = {"path": "parquet", "data_files": str(path)} if path.is_file() else {"path": str(path)}
            kept = tables_folder()
            listed = ", which 'decompose cache' lists and clears"
            try:
                check_folder_writable(kept)
            except DecomposeError:
                kept, listed = temporary_cache() / kept.name, ""
            builder = datasets.load_dataset_builder(**place, cache_dir=str(kept))
            if not Path(builder.cache_dir).is_dir():
                note(f"{path} is written as a table in {kept} first{listed}.")
            builder.download_and_prepare()
            loaded = builder.as_dataset()
    if isinstance(loaded, datasets.Dataset):
        return {split_in(path.name) or "test": loaded}
    if path.is_file():
        return {split_in(path.name) or "test": table for table in loaded.values()}
    return dict(loaded)


def _from_hub(datasets: Any, source: Source) -> Mapping[str, Any]:
    name, _, configuration = source.rest.partition(":")
    if source.allow_download:
        note(f"Asking {datasets.config.HF_ENDPOINT} for the data set {name}, and fetching what is not there yet.")
    with _unshown(datasets), nullcontext() if source.allow_download else _offline(datasets):
        return dict(datasets.load_dataset(name, configuration or None))


@contextmanager
def _unshown(datasets: Any) -> Iterator[None]:
    """The library's own bars and messages stay away; what it raises is said in a sentence."""
    was_shown = datasets.utils.logging.is_progress_bar_enabled()
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if was_shown:
            datasets.enable_progress_bars()


@contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    """The library looks at what it has fetched before, and asks nobody; it reads its settings when it is imported."""
    from huggingface_hub import constants

    places: tuple[Any, ...] = (datasets.config, constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


@contextmanager
def _explained(source: Source, is_local: bool, datasets: Any) -> Iterator[None]:
    """What the library raises, which is nearly anything, as a sentence."""
    try:
        yield
    except DecomposeError:
        raise
    except Exception as error:
        if is_local:
            why = error.__cause__ or error
            raise InputError(f"{source.path} cannot be read as a data set: {first_line(why)}.") from error
        if isinstance(error, datasets.exceptions.DatasetNotFoundError):
            raise InputError(
                f"There is no data set {source.rest!r} on the hub, and no such file or folder here.",
                hint=f"{param('dataset')} hf: takes ORG/NAME, ORG/NAME:CONFIGURATION or a path; a private one needs "
                "'huggingface-cli login'.",
            ) from error
        if isinstance(error, OSError | ConnectionError):
            reason = f"cannot be fetched: {first_line(error)}" if source.allow_download else "downloads are off"
            raise DownloadError(
                f"The data set {source.rest!r} is not on this machine and {reason}.",
                hint="Fetch it on another machine with the library datasets, save_to_disk, and name the folder.",
            ) from error
        raise InputError(f"The data set {source.rest!r} cannot be read: {first_line(error)}.") from error


def _origin(table: Any) -> str:
    """What tells the revision of a table of the hub: the addresses of its files, else what the library makes of it."""
    return str(sorted(table.info.download_checksums or ()) or table._fingerprint)


def _stamps(path: Path) -> tuple[Any, ...]:
    """Names, sizes and times of the files of a data set, and a sample of what they hold.

    Image files are stamped by the rows that name them.
    """
    if path.is_file():
        files, root = [path], path.parent
    else:
        there = (file for file in path.rglob("*") if not is_image_name(file.name) and file.is_file())
        files = sorted(file for file in there if not any(part.startswith(".") for part in file.relative_to(path).parts))
        root = path
    return (file_stamp(files, root), content_sample(files))
