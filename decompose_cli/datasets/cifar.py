"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in the layout of the published archives, as torchvision keeps them.

The archives of pickled batches are fetched; those of binary records are read where they are there instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from decompose_cli.datasets.base import InMemoryImages
from decompose_cli.datasets.cifar_binary import BINARIES, read_binary
from decompose_cli.datasets.classes import ClassNames
from decompose_cli.datasets.entry import DatasetEntry
from decompose_cli.errors import DecomposeError, DownloadError, InputError, UnsafeFileError, param
from decompose_cli.messages import note, warn
from decompose_cli.preprocessing import CIFAR
from decompose_cli.storage.fingerprints import content_sample, file_stamp
from decompose_cli.storage.leftovers import temporary_folder
from decompose_cli.storage.system_errors import write_error

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_MOST_BYTES = 1 << 29  # of a batch file; the largest published one has 155 MB
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# fmt: off
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)
# fmt: on


@dataclass(frozen=True)
class _Archive:
    """Address, digests and content of a published archive."""

    name: str
    url: str
    md5: str
    folder: str
    label_key: str
    classes: Sequence[str]
    files: dict[str, dict[str, str]]  # split -> file -> md5


ARCHIVES = {
    "cifar10": _Archive(
        name="cifar10",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
        label_key="labels",
        classes=CIFAR10_CLASSES,
        files={
            "train": {
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            },
            "test": {"test_batch": "40351d587109b95175f43aff81a1287e"},
        },
    ),
    "cifar100": _Archive(
        name="cifar100",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
        label_key="fine_labels",
        classes=CIFAR100_CLASSES,
        files={
            "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
            "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        },
    ),
}


def _places(name: str, data_dir: Path) -> list[Path]:
    """Where the unpacked batch files may be: below the data folder, or the data folder itself."""
    return [
        place
        for folder in (ARCHIVES[name].folder, BINARIES[name].folder)
        for place in (data_dir / folder, data_dir / name / folder, *([data_dir] if data_dir.name == folder else []))
    ]


def _find(name: str, data_dir: Path) -> Path | None:
    return next((place for place in _places(name, data_dir) if place.is_dir()), None)


def open_cifar(name: str, split: str, data_dir: Path, allow_download: bool) -> InMemoryImages:
    """Open one split, fetching and unpacking the archive first if it is not there.

    Raises:
        InputError: A file is missing or damaged.
        DownloadError: The archive is not there and cannot be fetched.
    """
    archive = ARCHIVES[name]
    folder = _find(name, data_dir) or _obtain(archive, data_dir, allow_download)
    binary = BINARIES[name]
    if folder.name == binary.folder:
        records = [folder / file for file in binary.files[split]]
        _check_there(archive, records, data_dir)
        stamp = [name, "binary", file_stamp(records, folder), content_sample(records)]
        count = len(archive.classes)
        return InMemoryImages(name, split, archive.classes, CIFAR, lambda: read_binary(binary, records, count), stamp)
    files = {folder / file: md5 for file, md5 in archive.files[split].items()}
    _check_there(archive, files, data_dir)
    stamp = [name, file_stamp(files, folder), content_sample(list(files))]
    packed = folder.absolute().parent / Path(archive.url).name
    come_from = packed if packed.is_file() else None
    return InMemoryImages(name, split, archive.classes, CIFAR, lambda: _read(archive, files, come_from), stamp)


def _check_there(archive: _Archive, files: Iterable[Path], data_dir: Path) -> None:
    for file in files:
        if not file.is_file():
            raise InputError(
                f"{file.parent} lacks the file {file.name} of {archive.name}.", hint=_by_hand(archive, data_dir)
            )


def _by_hand(archive: _Archive, data_dir: Path) -> str:
    return (
        f"Download {archive.url} by hand and put it, or the folder {archive.folder} from it, into "
        f"{data_dir.resolve()}; or say where it is with {param('data_dir')}."
    )


def _moved_away(path: Path) -> str:
    """What to do about damaged data: whose they are is not known, and what is moved away is not lost."""
    return f"Move {path} away, and it is fetched or unpacked anew."


def _obtain(archive: _Archive, data_dir: Path, allow_download: bool) -> Path:
    import tarfile

    from decompose_cli.storage.download import download

    packed = data_dir / Path(archive.url).name
    by_hand = _by_hand(archive, data_dir)
    if not packed.is_file():
        if not allow_download:
            raise DownloadError(f"{archive.name} is not in {data_dir} and downloads are off.", hint=by_hand)
        download(archive.url, packed, digest=archive.md5, algorithm="md5", by_hand=by_hand)
    elif _md5(packed) != archive.md5:
        raise InputError(f"{packed} is damaged: its md5 is not the published one.", hint=_moved_away(packed))
    note(f"Unpacking {packed}")
    target = data_dir / archive.folder
    try:
        with temporary_folder(data_dir) as temporary, tarfile.open(packed) as tar:
            unpacked = temporary / archive.folder
            unpacked.mkdir()
            # Members are copied by known names, so nothing in an archive can lead outside the folder.
            for file in [name for files in archive.files.values() for name in files]:
                member = tar.extractfile(f"{archive.folder}/{file}")
                if member is None:
                    raise tarfile.TarError(f"{file} is not a file")
                (unpacked / file).write_bytes(member.read())
            unpacked.rename(target)
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise InputError(f"{packed} is damaged and cannot be unpacked.", hint=_moved_away(packed)) from error
    except OSError as error:
        raise write_error(target, error) from error
    return target


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _read(archive: _Archive, files: dict[Path, str], packed: Path | None) -> tuple[Tensor, Tensor]:
    import numpy as np
    import torch

    pixels = np.empty((0, 3072), dtype=np.uint8)
    labels: list[np.ndarray] = []
    rows = 0
    for file, md5 in files.items():
        batch, truth = _read_batch(archive, file, md5, packed)
        if rows + len(batch) > len(pixels):  # room for all files at once, if they are as long as the first
            room = np.empty((max(rows + len(batch), len(files) * len(batch)), 3072), dtype=np.uint8)
            room[:rows] = pixels[:rows]
            pixels = room
        pixels[rows : rows + len(batch)] = batch
        rows += len(batch)
        labels.append(truth)
    return torch.from_numpy(pixels[:rows]).view(-1, 3, 32, 32), torch.from_numpy(np.concatenate(labels))


def _read_batch(archive: _Archive, file: Path, md5: str, packed: Path | None) -> tuple[np.ndarray, np.ndarray]:
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from decompose_cli.datasets.plain_pickle import UnsafePickleError, read_plain_pickle

    damaged = InputError(f"{file} is damaged: it does not hold {archive.name} images.", hint=_moved_away(file.parent))
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise damaged
        content = file.read_bytes()
        with ThreadPoolExecutor(1) as beside:
            digest = beside.submit(hashlib.md5, content, usedforsecurity=False)
            batch = read_plain_pickle(content)
        is_published = digest.result().hexdigest() == md5
        pixels, labels = batch["data"], batch[archive.label_key]
        if isinstance(labels, list) and all(type(label) is int for label in labels):
            labels = np.array(labels, dtype=np.int64)
        fits = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape == (len(labels), 3072)
    except DecomposeError:
        raise
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from error
    except UnsafePickleError as error:
        raise UnsafeFileError(
            f"{file} is refused: reading it would execute code ({error}), and only numbers, texts, lists and arrays of "
            "bytes are read.",
            hint=_moved_away(file.parent),
        ) from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise damaged from error
    is_list = isinstance(labels, np.ndarray) and labels.ndim == 1 and len(labels) > 0
    if not fits or not is_list or labels.min() < 0 or labels.max() >= len(archive.classes):
        raise damaged
    if not is_published and packed is not None:
        raise InputError(
            f"{file} is damaged: its md5 is not the published one, although it comes from {packed}.",
            hint=f"{_moved_away(file.parent)} Where the images are your own, move the archive away.",
        )
    if not is_published:
        warn(f"{file} is not the published {archive.name} file (its md5 differs); its images are used as they are.")
    return pixels, labels.astype(np.int64)


def _entry(name: str, norm_decays: tuple[float, float]) -> DatasetEntry:
    classes = ARCHIVES[name].classes
    return DatasetEntry(
        name=name,
        splits=("test", "train"),
        num_classes=len(classes),
        description=f"50,000 + 10,000 photographs of 32x32 pixels, {len(classes)} classes",
        how_to_get="downloaded when first used (about 170 MB), unless downloads are off",
        open=partial(open_cifar, name),
        find=partial(_find, name),
        places=partial(_places, name),
        class_names=lambda: ClassNames(classes),
        norm_decays=norm_decays,
    )


ENTRIES = (_entry("cifar10", (1023 / 1024, 127 / 128)), _entry("cifar100", (511 / 512, 15 / 16)))
