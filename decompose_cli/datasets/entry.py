"""The facts about a data set; :mod:`.registry` has the table of data sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from decompose_cli.datasets.classes import ClassNames
from decompose_cli.preprocessing import CIFAR, Preprocessing

if TYPE_CHECKING:
    from decompose_cli.datasets.base import ImageDataset


@dataclass(frozen=True)
class DatasetEntry:
    """A data set and its facts.

    Attributes:
        name: Name as written on the command line.
        splits: Splits of the data set, in the order in which they are preferred for testing.
        num_classes: Number of classes C.
        description: The data set in one line.
        how_to_get: What to do when the data set is not on this machine.
        open: Takes split, data folder and whether downloads are allowed; returns the images.
        find: Takes the data folder; returns where the data set is, or None. None if the data set is built in.
        places: Takes the data folder; returns the folders where the data set is looked for.
        class_names: Returns the names of the outputs of networks trained on it; None where they are not known.
        preprocessing: Preprocessing for networks trained on it that bring none.
        recipe: Name of the preset that suits training on it; None for what network and images suggest.
        is_upright: Whether its images fill their frame and mean something else, or nothing, in a mirror.
        norm_decays: Forward and backward decay of online normalisation for each sample (code of arXiv 1905.05894); None
            for those that the size of the images suggests.
    """

    name: str
    splits: tuple[str, ...]
    num_classes: int
    description: str
    how_to_get: str
    open: Callable[[str, Path, bool], ImageDataset]
    find: Callable[[Path], Path | None] | None = None
    places: Callable[[Path], list[Path]] = lambda _: []
    class_names: Callable[[], ClassNames] | None = None
    preprocessing: Preprocessing = CIFAR
    recipe: str | None = None
    is_upright: bool = False
    norm_decays: tuple[float, float] | None = None
