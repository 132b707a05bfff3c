"""Which class the validation images of ImageNet are of, where they lie in one folder as they come in the archive."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from decompose_cli.datasets.wnids import imagenet_classes
from decompose_cli.errors import InputError, first_few, first_line, shortened
from decompose_cli.storage.ordinary_files import MOST_TEXT, check_ordinary

_DEVKIT = ("", "devkit/data", "ILSVRC2012_devkit_t12/data")
_NUMBER = re.compile(r"_(\d{8})\.")
_VALIDATION_IMAGES = 50_000
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
                    truth = read(path, images)
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
    """The lines of a file, without blank ones at its end."""
    check_ordinary(path, "The list", MOST_TEXT)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read as text.") from error
    return [line.strip() for line in text.rstrip().splitlines()]


def _by_number(path: Path, images: Sequence[str], wnid_of: Callable[[str], str] = str) -> _Truth:
    """Of a list without names, whose lines are in the order of the numbers in the names of the images.

    A line too many or too few would give each image after it the class of another one.

    Args:
        path: The list.
        images: Names of the images.
        wnid_of: The WordNet id that a line stands for.
    """
    lines = _lines(path)
    if "" in lines:
        raise InputError(
            f"Line {lines.index('') + 1} of {path} is blank, so that it is not known which image is which."
        )
    wnids = [wnid_of(line) for line in lines]
    numbers = {image: int(number[1]) for image in images if (number := _NUMBER.search(image)) is not None}
    highest = max(numbers.values(), default=0)
    if len(wnids) not in (highest, _VALIDATION_IMAGES) or len(wnids) < highest:
        raise InputError(
            f"{path} has {len(wnids):,} lines, which are neither one for each of ImageNet's {_VALIDATION_IMAGES:,} "
            f"validation images nor as many as the highest number of an image, {highest:,}.",
            hint="Its lines are in the order of these numbers; fetch it again, or use a list of names and classes.",
        )
    return lambda image: wnids[numbers[image] - 1] if numbers.get(image) else None


def _told_once(known: dict[str, str], image: str, wnid: str, path: Path) -> None:
    if known.setdefault(image, wnid) != wnid:
        raise InputError(f"{path} gives the image {image} two classes: {known[image]} and {wnid}.")


def _ground_truth(path: Path, images: Sequence[str]) -> _Truth:
    """The devkit's list, a number 1..1000 a line in an order of its own, which its ``meta.mat`` tells."""
    meta = next((place for place in (path.parent / "meta.mat", path.parent / "data/meta.mat") if place.is_file()), None)
    if meta is None:
        raise InputError(
            f"{path} numbers the classes as the devkit does, and there is no meta.mat beside it that tells which.",
            hint="Put meta.mat of the devkit (ILSVRC2012_devkit_t12/data) beside it.",
        )
    wnids = _devkit_wnids(meta)
    try:
        return _by_number(path, images, lambda line: wnids[int(line)])
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{path} is damaged: it has a line that is no class of {meta}: {shortened(first_line(error))}."
        ) from error


def _devkit_wnids(meta: Path) -> dict[int, str]:
    from scipy.io import loadmat

    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        return {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in synsets}
    except Exception as error:  # a damaged file makes SciPy raise nearly anything
        raise InputError(f"{meta} is not the meta.mat of the ImageNet devkit, or damaged.") from error


def _solution(path: Path, _: Sequence[str]) -> _Truth:
    """Kaggle's list: the image without its ending, and classes with boxes, the first of which counts."""
    known: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            for row in csv.DictReader(handle):
                _told_once(known, row["ImageId"], row["PredictionString"].split()[0], path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, csv.Error, KeyError, AttributeError, IndexError, TypeError) as error:
        raise InputError(f"{path} is not Kaggle's list of ImageId and PredictionString, or damaged.") from error
    return lambda image: known.get(Path(image).stem)


def _map(path: Path, _: Sequence[str]) -> _Truth:
    """Lines of a name and a class: its WordNet id, or its number 0..999 in the order of these."""
    wnids = imagenet_classes()[0]
    known: dict[str, str] = {}
    by_number = {str(number): wnid for number, wnid in enumerate(wnids)}
    for line in filter(None, _lines(path)):
        parts = re.split(r"[\s,]+", line)
        number = (parts[-1].lstrip("0") or "0") if parts[-1].isdecimal() else None
        if len(parts) != 2 or (number is not None and number not in by_number):
            raise InputError(
                f"{path} has the line {shortened(line)!r}, which is not a name and one of {len(wnids)} classes."
            )
        _told_once(known, Path(parts[0]).name, parts[1] if number is None else by_number[number], path)
    return lambda image: known.get(image)


_READERS: dict[str, Callable[[Path, Sequence[str]], _Truth]] = {
    GROUND_TRUTH: _ground_truth,
    "LOC_val_solution.csv": _solution,
    "val_map.txt": _map,
    "val.txt": _map,
    "imagenet_2012_validation_synset_labels.txt": _by_number,
}
"""Lists that are known by name, in the order in which they are looked for."""
