"""Which class the validation images of ImageNet are of, where they lie in one folder as they come in the archive."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from decompose_cli.datasets.wnids import imagenet_classes
from decompose_cli.errors import InputError, first_few, first_line

_DEVKIT = ("", "devkit/data", "ILSVRC2012_devkit_t12/data")
_NUMBER = re.compile(r"_(\d{8})\.")
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_Truth = Callable[[str], str | None]
"""The WordNet id of an image by its name; None for one that is not listed."""


def validation_wnids(images: Sequence[str], places: Sequence[Path]) -> tuple[list[str | None], Path]:
    """The WordNet id of each image, None for those that no list names, and the list.

    Args:
        images: Names of the images, ``ILSVRC2012_val_00000001.JPEG``.
        places: Folders that may hold one of the lists that are known, or the devkit.

    Raises:
        InputError: There is no such list, or it is damaged.
    """
    for place in places:
        for folder in (place / part for part in _DEVKIT):
            for name, read in _READERS.items():
                path = folder / name
                if path.is_file():
                    truth = read(path)
                    found = [truth(image) for image in images]
                    unknown = {wnid for wnid in found if wnid is not None} - {*imagenet_classes()[0]}
                    if unknown:
                        raise InputError(f"{path} names what is no class of ImageNet: {first_few(sorted(unknown))}.")
                    if not any(found):
                        raise InputError(f"{path} names none of the images, such as {images[0]}.")
                    return found, path
    raise InputError(
        f"{places[0]} is not sorted into class folders, and there is no list of the classes of its images.",
        hint=f"Put one of {', '.join(_READERS)} into it or the folder above (with the first, meta.mat of the devkit, "
        "too), or sort the images into one folder per WordNet id (n01440764, ...).",
    )


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text.") from error


def _by_number(wnids: Sequence[str]) -> _Truth:
    """Of a list without names, whose lines are in the order of the numbers in the names of the images."""

    def truth(image: str) -> str | None:
        number = _NUMBER.search(image)
        return wnids[int(number[1]) - 1] if number is not None and 0 < int(number[1]) <= len(wnids) else None

    return truth


def _ground_truth(path: Path) -> _Truth:
    """The devkit's list, a number 1..1000 a line in an order of its own, which its ``meta.mat`` tells."""
    meta = next((place for place in (path.parent / "meta.mat", path.parent / "data/meta.mat") if place.is_file()), None)
    if meta is None:
        raise InputError(
            f"{path} numbers the classes as the devkit does, and there is no meta.mat beside it that tells which.",
            hint="Put meta.mat of the devkit (ILSVRC2012_devkit_t12/data) beside it.",
        )
    wnids = _devkit_wnids(meta)
    try:
        return _by_number([wnids[int(line)] for line in _lines(path)])
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{path} is damaged: it has a line that is no class of {meta}: {first_line(error)}."
        ) from error


def _devkit_wnids(meta: Path) -> dict[int, str]:
    from scipy.io import loadmat

    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        return {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in synsets}
    except Exception as error:  # a damaged file makes SciPy raise nearly anything
        raise InputError(f"{meta} is not the meta.mat of the ImageNet devkit, or damaged.") from error


def _solution(path: Path) -> _Truth:
    """Kaggle's list: the image without its ending, and classes with boxes, the first of which counts."""
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            known = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(handle)}
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, AttributeError, IndexError, TypeError) as error:
        raise InputError(f"{path} is not Kaggle's list of ImageId and PredictionString, or damaged.") from error
    return lambda image: known.get(Path(image).stem)


def _map(path: Path) -> _Truth:
    """Lines of a name and a class: its WordNet id, or its number 0..999 in the order of these."""
    wnids = imagenet_classes()[0]
    known: dict[str, str] = {}
    for line in _lines(path):
        parts = re.split(r"[\s,]+", line)
        if len(parts) != 2 or (parts[1].isdecimal() and int(parts[1]) >= len(wnids)):
            raise InputError(f"{path} has the line {line!r}, which is not a name and one of {len(wnids)} classes.")
        known[Path(parts[0]).name] = wnids[int(parts[1])] if parts[1].isdecimal() else parts[1]
    return lambda image: known.get(image)


_READERS: dict[str, Callable[[Path], _Truth]] = {
    GROUND_TRUTH: _ground_truth,
    "LOC_val_solution.csv": _solution,
    "val_map.txt": _map,
    "val.txt": _map,
    "imagenet_2012_validation_synset_labels.txt": lambda path: _by_number(_lines(path)),
}
"""Lists that are known by name, in the order in which they are looked for."""
