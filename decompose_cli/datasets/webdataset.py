"""The images of tar shards as a data set: ``wds:PATTERN``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from decompose_cli.datasets.labels import Labels
from decompose_cli.datasets.listed_once import once
from decompose_cli.datasets.patterns import files_by_split
from decompose_cli.datasets.shard_notes import known_shard
from decompose_cli.datasets.source import Source
from decompose_cli.datasets.splits import SPLITS, in_preferred_order
from decompose_cli.datasets.stored import StoredImages
from decompose_cli.datasets.tar_shards import Shard, ShardImages
from decompose_cli.errors import InputError
from decompose_cli.messages import track
from decompose_cli.storage.ordinary_files import MOST_TEXT, check_ordinary

SUFFIXES = (".tar",)
CLASS_NAMES = ("classnames.txt", "classes.txt")
"""Lists of the names of classes, a line each, that may lie beside the shards."""


class WebDataset:
    """The images in tar files.

    Args:
        source: A pattern, with ``{split}`` where there are several splits, or a folder of shards.

    Raises:
        InputError: There are no shards, or one that is named is not there.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._files = once(f"wds {source.key}", source.path, lambda: files_by_split(source, SUFFIXES, "tar shards"))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are shards of."""
        return in_preferred_order(self._files)

    def open(self, split: str) -> StoredImages:
        """The images of a split.

        Raises:
            InputError: A shard is damaged, or a sample lacks its image or a label that can be used.
        """
        shards = self._shards(split)
        training = None if split == "train" or "train" not in self._files else lambda: _labels(self._shards("train"))
        labels, classes = _labels(shards).numbered(training, _class_names(shards[0].path.parent))
        first = self._shard(self._files[next(name for name in SPLITS if name in self._files)][0])
        images = StoredImages(
            self.source.name,
            split,
            shards[0].path.parent,
            ShardImages.within(shards),
            labels,
            classes.names,
            classes.ids,
            reference=ShardImages.within([first]),
        )
        images.is_numbered = classes.are_numbers
        return images

    def _shards(self, split: str) -> list[Shard]:
        files = self._files[split]
        with track("Looking through shards", len(files), "shards") as advance:
            shards = []
            for file in files:
                shards.append(self._shard(file))
                advance(1)
        return shards

    def _shard(self, file: Path) -> Shard:
        image, label = self.source.columns.get("image"), self.source.columns.get("label")
        return once(f"shard {image} {label}", file, lambda: known_shard(file, image, label))


def _labels(shards: list[Shard]) -> Labels:
    ends = np.cumsum([len(shard.names) for shard in shards])

    def where(number: int) -> str:
        own = int(np.searchsorted(ends, number, side="right"))
        return f"{shards[own].names[number - int(ends[own])]} in {shards[own].path}"  # counted from the end

    return Labels([label for shard in shards for label in shard.labels], where)


def _class_names(folder: Path) -> list[str] | None:
    for path in (folder / name for name in CLASS_NAMES):
        if path.is_file():
            check_ordinary(path, "The list of classes", MOST_TEXT)
            try:
                text = path.read_text(encoding="utf-8-sig")
            except OSError as error:
                raise InputError(f"{path} is there but cannot be read: {error.strerror or error}.") from error
            except UnicodeDecodeError as error:
                raise InputError(f"{path} is there but cannot be read as text.") from error
            names = [line.strip() for line in text.rstrip().splitlines()]
            if "" in names:
                raise InputError(
                    f"Line {names.index('') + 1} of {path} is blank; it names classes in the order of their numbers."
                )
            return names
    return None
