"""The options that all commands share, as the user chose them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decompose_cli.datasets.class_map import read_class_map
from decompose_cli.datasets.registry import available_splits, default_data_dir, open_dataset
from decompose_cli.datasets.source import parse_columns
from decompose_cli.errors import InputError, one_of, param
from decompose_cli.messages import warn_no_effect
from decompose_cli.preprocessing import ImageOptions, as_typed, check_image_options, parse_image_options
from decompose_cli.processes.cores import check_count

if TYPE_CHECKING:
    from decompose_cli.datasets.base import ImageDataset

PRECISIONS = ("32", "bf16", "auto")
CLASSES = ALL, PRESENT = ("all", "present")
"""What becomes of a network's classes without images."""
_IMAGE_OPTIONS = ("mean", "std", "input_size", "resize", "crop", "interpolation")
ABOUT_IMAGES = (
    *("dataset", "columns", "classes", "class_map", "data_dir", "skip_unreadable"),
    *_IMAGE_OPTIONS,
)
"""Options about the images that a network sees, but for their split."""
ABOUT_RUNNING = ("precision", "batch_size", "workers", "devices", "num_nodes")
"""Options about how a network is run."""
_OF_NETWORKS = ("model_options", "head", "ema", "weights_key", "features_only", *ABOUT_IMAGES, *ABOUT_RUNNING)
"""Options about a network and the images that it sees."""
_AS_OPTIONS = {"use_cache": "no_cache", "allow_download": "no_download"}
"""Where what is typed is the opposite."""


@dataclass(frozen=True)
class Inputs:
    """The options that all commands share: the network, the images, and the computation.

    Attributes:
        model: A registered name, a torchvision classifier, ``timm:NAME``, ``hf:ORG/NAME``, ``hf:FOLDER`` or
            ``package.module:callable``; None for the network that the weights file names, or without one for the
            network that ships with the project.
        weights: A path, a URL, ``default`` or ``random``.
        dataset: A registered name or ``KIND:REST``, such as ``folder:PATH``; None for the data set that the network
            was trained on.
        data_dir: Folder of data sets; None for ``$DECOMPOSE_DATA``, else ``data``.
        split: ``train``, ``val`` or ``test``; None for the split that the command usually looks at.
        classes: ``all``: classes without training images keep their rows of the full head, with all features;
            ``present``: the head has no such classes, and nothing counts images of them.
        class_map: A file that says which class of the network a class of the data set is; see
            :func:`decompose_cli.datasets.class_map.read_class_map`.
        head: Name of the submodule to use as the head.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``32``, ``bf16`` or ``auto``.
        mean: Three means for pixel values in [0, 1], instead of the network's: numbers, or as text with commas. Kept,
            like the following, as the text that is typed.
        std: Three standard deviations for pixel values in [0, 1], instead of the network's.
        input_size: Size of the network's input in pixels: 224, (224, 224) or ``224x224`` (height x width).
        resize: Size before the crop: 256 for the shorter side, or (256, 256) or ``256x256`` (height x width).
        crop: Size of the centre crop: 224, (224, 224) or ``224x224`` (height x width).
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``.
        batch_size: Images that a GPU works on at a time.
        workers: Processes that decode images; None for one per core.
        threads: Threads that compute on the processor; None for one per core.
        devices: Processes on each machine, each with a device of its own; None for one, or what a launcher started.
        num_nodes: Machines; None for one, or what a launcher started.
        skip_unreadable: Most images that may be left out because they cannot be read; None for none.
        seed: Seed of everything random.
        use_cache: Whether features are looked for in the cache and kept there.
        allow_download: Whether files may be downloaded.
        ema: Whether the averaged weights are taken where the file has raw and averaged ones.
        weights_key: The place of the weights in the file, with dots, where it has several.
        model_options: Options of the network, by name, where its weights do not say them.
        features_only: Whether the network is taken without a classifier.
        columns: Columns of the data set: ``image=NAME,label=NAME,split=NAME``; None where they are guessed.
    """

    model: str | None = None
    weights: str | None = None
    dataset: str | None = None
    data_dir: Path | None = None
    split: str | None = None
    classes: str = ALL
    class_map: Path | None = None
    head: str | None = None
    device: str = "auto"
    precision: str = "32"
    mean: str | Sequence[float] | None = None
    std: str | Sequence[float] | None = None
    input_size: str | int | Sequence[int] | None = None
    resize: str | int | Sequence[int] | None = None
    crop: str | int | Sequence[int] | None = None
    interpolation: str | None = None
    batch_size: int = 256
    workers: int | None = None
    threads: int | None = None
    devices: int | None = None
    num_nodes: int | None = None
    skip_unreadable: int | None = None
    seed: int = 0
    use_cache: bool = True
    allow_download: bool = True
    ema: bool = False
    weights_key: str | None = None
    model_options: Mapping[str, str] | None = None
    features_only: bool = False
    columns: str | None = None

    def __post_init__(self) -> None:
        for name in ("model", "weights", "dataset", "split", "head", "device", "interpolation"):
            if (given := getattr(self, name)) is not None and not isinstance(given, str):
                raise InputError(
                    f"{param(name)} is of the type {type(given).__name__}, not a text.",
                    hint="The functions of decompose_cli, such as sweep and validate, take what is in memory.",
                )
        for name in ("mean", "std", "input_size", "resize", "crop"):
            if (given := getattr(self, name)) is not None and not isinstance(given, str):
                typed = as_typed(check_image_options(**{name: given}))[name]
                object.__setattr__(self, name, typed)
        if self.precision not in PRECISIONS:
            raise InputError(f"{param('precision')} {self.precision!r} is unknown; choose 32, bf16 or auto.")
        one_of(self.classes, CLASSES, "classes")
        if self.batch_size < 1:
            raise InputError(f"{param('batch_size')} {self.batch_size} is not at least 1.")
        if self.workers is not None and self.workers < 0:
            raise InputError(f"{param('workers')} {self.workers} is negative.")
        for name in ("threads", "devices", "num_nodes"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise InputError(f"{param(name)} {count} is not at least 1.")
        for name in ("workers", "threads"):
            if (count := getattr(self, name)) is not None:
                check_count(count, name)
        parse_columns(self.columns)
        if self.skip_unreadable is not None and self.skip_unreadable < 0:
            raise InputError(f"{param('skip_unreadable')} {self.skip_unreadable} is negative.")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"{param('seed')} {self.seed} is not between 0 and 2**63 - 1.")
        if self.ema and self.weights in (None, "default", "random"):
            raise InputError(f"{param('ema')} needs a file or URL with averaged weights: give {param('weights')}.")
        if self.weights_key is not None:
            if not self.weights_key.strip():
                raise InputError(f"{param('weights_key')} names no place in the file.")
            if self.weights in (None, "default", "random"):
                raise InputError(f"{param('weights_key')} needs a file or URL that it is in: give {param('weights')}.")
            if self.ema:
                raise InputError(
                    f"{param('ema')} and {param('weights_key')} both say which weights of the file are taken; give one."
                )

        if self.features_only and self.model is None:
            raise InputError(
                f"{param('features_only')} needs the name of a network: timm:NAME, hf:NAME or package.module:callable.",
                hint="A checkpoint of 'decompose sparsify' opens without it.",
            )

    @property
    def can_be_named(self) -> bool:
        """Whether the network can be opened again by its name."""
        return True

    def splits_of(self, dataset: str) -> tuple[str, ...]:
        """Splits of a data set, as these inputs name its columns; see :func:`.registry.available_splits`."""
        return available_splits(dataset, parse_columns(self.columns), allow_download=self.allow_download)

    def open_dataset(self, dataset: str, split: str) -> ImageDataset:
        """A split of a data set, in the folder and by the columns of these inputs."""
        return open_dataset(
            dataset,
            split,
            self.data_dir or default_data_dir(),
            allow_download=self.allow_download,
            columns=parse_columns(self.columns),
        )

    def stated_classes(self) -> Mapping[str, str | int] | None:
        """What the class map says, by name of the data set's class; None without one.

        Raises:
            InputError: It cannot be read.
        """
        return None if self.class_map is None else read_class_map(self.class_map)

    def without(self, names: Sequence[str], why: str) -> Inputs:
        """These inputs with options at their defaults, which have no effect; what was given of them is warned of.

        Args:
            names: The options.
            why: See :func:`decompose_cli.messages.warn_no_effect`.
        """
        usual = Inputs()
        given = [name for name in names if getattr(self, name) != getattr(usual, name)]
        if given:
            warn_no_effect([_AS_OPTIONS.get(name, name) for name in given], why)
        return dataclasses.replace(self, **{name: getattr(usual, name) for name in given})

    def for_features_alone(self, *more: str) -> Inputs:
        """These inputs without what is about a network or its images, for features that were made elsewhere.

        Args:
            more: Names of further options that the command has no use for then.

        Raises:
            InputError: A network was named.
        """
        if self.model is not None:
            raise InputError(
                f"The network that was named has no effect with {param('features')}, which were made elsewhere.",
                hint=f"Leave it out, or leave out {param('features')}.",
            )
        return self.without((*_OF_NETWORKS, *more), f"with {param('features')}, which were made elsewhere")

    def image_options(self) -> ImageOptions:
        """Read the options of the preprocessing.

        Raises:
            InputError: A value cannot be read or is out of range.
        """
        texts = {name: getattr(self, name) for name in _IMAGE_OPTIONS}
        return parse_image_options(**texts)

    def as_arguments(self) -> dict[str, Any]:
        """The options as JSON-ready values for the result document."""
        values = dataclasses.asdict(self)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
