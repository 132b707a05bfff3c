"""What is to be known of a data set; :mod:`.registry` has the table of them."""

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
        name: As written on the command line.
        splits: Those it has, in the order in which they are preferred for testing.
        num_classes: C.
        description: One line.
        how_to_get: What to do when it is not there.
        open: Takes split, data folder and whether downloads are allowed.
        find: Takes the data folder; where the data set is, or None. None if it is built in.
        places: Takes the data folder; where it is looked for.
        class_names: Gives the names of the outputs of networks trained on it; None where they are not known.
        preprocessing: What such networks expect that say nothing of their own.
        recipe: Preset of the training that suits it, where none was named; None: what network and images suggest.
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
