"""Turn images into penultimate features."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from decompose_cli.datasets.base import Chunk, ImageDataset
from decompose_cli.datasets.streaming import worker_errors
from decompose_cli.errors import DecomposeError, InputError, first_line, param
from decompose_cli.features.bank import chunks_of
from decompose_cli.features.forward import Forward, Normalisation, Pending, images_at_once, sent
from decompose_cli.messages import track
from decompose_cli.models.convolutions import fastest_algorithms, may_choose_algorithms
from decompose_cli.models.inference import FeatureReader
from decompose_cli.models.network import Network
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.storage.system_errors import is_out_of_memory, memory_error

_UNDER_WAY = 1  # chunks that are computed while the next one is read, all of which are lost if the process is killed
_EXAMPLES = 8  # images that a faster copy of the network is compared on


@dataclass(frozen=True)
class Computing:
    """How features are computed.

    Attributes:
        device: Device that computes.
        precision: ``32`` or ``bf16``; features are float32 either way.
        batch_size: Images that go through the network at a time, except on a CPU.
        workers: Processes that decode images, where the data set is not in memory.
        threads: Threads of a CPU.
    """

    device: torch.device
    precision: str = "32"
    batch_size: int = 256
    workers: int = 0
    threads: int = 1

    def described(self) -> dict[str, Any]:
        """What of it may change the last digits, for the result document."""
        algorithms = {"cudnn_benchmark": may_choose_algorithms(self.device)} if self.device.type == "cuda" else {}
        return {"precision": self.precision, **algorithms}


@dataclass(frozen=True)
class ChunkFeatures:
    """What came of the images of a chunk.

    Attributes:
        numbers: Numbers of the images in the split.
        features: Features (n, D), float32; NaN for images that could not be read.
        unreadable: Why they could not be read, by their numbers.
    """

    numbers: range
    features: Tensor
    unreadable: Mapping[int, str]


def features_of_chunks(
    network: Network,
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    wanted: Sequence[range],
    computing: Computing,
) -> Iterator[ChunkFeatures]:
    """Run the images of some chunks through the network once and keep what enters its head.

    The features of a chunk do not depend on the other chunks, nor on the number of threads.

    Args:
        network: The network, which is left as it is.
        dataset: N >= 1 images.
        preprocessing: Decides the pixels and their normalisation.
        wanted: The numbers of the images of each chunk.
        computing: How.

    Raises:
        InputError: No image can be read.
        DecomposeError: A feature is NaN or infinite, or the device runs out of memory.
    """
    keep_freed_memory()
    with device_memory(computing.device):
        example = _example(dataset, preprocessing)
        # First, as processes that decode are at work while the network is made ready.
        chunks = dataset.chunks(preprocessing, wanted, computing.workers)
        with closing(chunks):
            with worker_errors():
                forward = Forward(
                    network,
                    preprocessing,
                    example,
                    device=computing.device,
                    precision=computing.precision,
                    batch_size=computing.batch_size,
                    threads=computing.threads,
                )
            waiting: deque[tuple[Chunk, Pending]] = deque()
            with forward, fastest_algorithms(computing.device):
                for chunk in chunks:
                    waiting.append((chunk, forward.submit(chunk.images)))
                    if len(waiting) > _UNDER_WAY:
                        yield _features_of(*waiting.popleft(), dataset)
                while waiting:
                    yield _features_of(*waiting.popleft(), dataset)


def _example(dataset: ImageDataset, preprocessing: Preprocessing) -> Tensor:
    """The first images that can be read, whichever chunks are wanted, so that every process makes the same copy."""
    sentence = ""
    for start in range(0, len(dataset), _EXAMPLES):
        (chunk,) = dataset.chunks(preprocessing, [range(start, min(start + _EXAMPLES, len(dataset)))], 0)
        readable = [place for place, number in enumerate(chunk.numbers) if number not in chunk.unreadable]
        if readable:
            return chunk.images[readable]
        sentence = sentence or chunk.unreadable[chunk.numbers[0]]
    raise InputError(sentence)


def _features_of(chunk: Chunk, pending: Pending, dataset: ImageDataset) -> ChunkFeatures:
    features = pending()
    is_finite = torch.isfinite(features).all(1)
    for number in chunk.unreadable:
        features[number - chunk.numbers.start] = float("nan")
        is_finite[number - chunk.numbers.start] = True
    if not bool(is_finite.all()):
        number = chunk.numbers[int((~is_finite).nonzero()[0])]
        raise DecomposeError(
            f"The network gives NaN or infinite features for image number {number} of {dataset.name} {dataset.split}."
        )
    return ChunkFeatures(chunk.numbers, features, chunk.unreadable)


def extract_features(
    network: Network,
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    computing: Computing,
    name: str | None = None,
) -> tuple[Tensor, dict[int, str]]:
    """The features of all images of a data set, in memory; see :func:`features_of_chunks`.

    Args:
        network: The network.
        dataset: The images.
        preprocessing: Size and normalisation of images.
        computing: How features are computed.
        name: What the network is called in the line that shows the progress.

    Returns:
        Features (N, D), float32, NaN for images that cannot be read; and why these cannot be, by their numbers.

    Raises:
        InputError: No image can be read.
        DecomposeError: A feature is NaN or infinite, or the device runs out of memory.
    """
    count, size = len(dataset), network.tensors.num_features
    features = torch.empty(count, size)
    unreadable: dict[int, str] = {}
    with track(f"Features of {short_name(dataset, name)}", count) as advance:
        for done in features_of_chunks(network, dataset, preprocessing, chunks_of(count, size), computing):
            features[done.numbers.start : done.numbers.stop] = done.features
            unreadable |= done.unreadable
            advance(len(done.numbers))
    return features, unreadable


def refuse_unreadable(unreadable: Mapping[int, str], most: int | None = None, *, kept: bool) -> NoReturn:
    """Refuse images that cannot be read, by the sentence about the first of them.

    Args:
        unreadable: Why they cannot be read, by their numbers.
        most: How many might be left out, if any.
        kept: Whether the features of all others are kept.

    Raises:
        InputError: Always.
    """
    sentence, count = unreadable[min(unreadable)], len(unreadable)
    if count > 1:
        sentence = f"{count:,} images cannot be read. The first: {sentence}"
    allowed = "" if most is None else f" instead of {most}"
    them = "it" if count == 1 else "them"
    hint = f"Mend {them}, or leave {them} out with {param('skip_unreadable')} {count}{allowed}"
    hint += "; all others are done." if kept else "."
    raise InputError(sentence, hint=hint)


def features_of_batches(
    network: Network, batches: Iterable[tuple[Tensor, Tensor]], *, device: torch.device, precision: str = "32"
) -> tuple[Tensor, Tensor]:
    """Run batches that the caller makes through the network once and keep what enters its head.

    Args:
        network: The network, which is left as it is.
        batches: Images (n, 3, H, W) as the network takes them, and their class numbers (n,).
        device: Device that computes.
        precision: ``32`` or ``bf16``.

    Returns:
        Features (N, D) and labels int64 (N,).

    Raises:
        InputError: There are no images, a batch is no pair of images and labels, or a label is no class of the network.
        DecomposeError: A feature is NaN or infinite, or the device runs out of memory.
    """
    features: list[Tensor] = []
    labels: list[Tensor] = []
    reader: FeatureReader | None = None
    keep_freed_memory()
    with device_memory(device), track("Features", None) as advance:
        for number, batch in enumerate(batches):
            images, truth = checked_batch(batch, number, network.tensors.num_classes)
            try:
                if reader is None:
                    reader = FeatureReader(network, device, precision, images[:_EXAMPLES].cpu())
                features.append(reader(images).cpu())
            except (RuntimeError, ValueError) as error:
                if is_out_of_memory(error):
                    raise
                raise InputError(
                    f"The network cannot run on batch {number}, of shape {tuple(images.shape)}: {first_line(error)}."
                ) from error
            labels.append(truth)
            if not bool(torch.isfinite(features[-1]).all()):
                raise DecomposeError(f"The network gives NaN or infinite features for images of batch {number}.")
            advance(len(truth))
    if not features:
        raise InputError("There are no images.")
    return torch.cat(features), torch.cat(labels)


def checked_batch(batch: object, number: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """The images and class numbers of a batch.

    Raises:
        InputError: It is no pair of floating-point images (n, 3, H, W) and class numbers (n,) of so many classes.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise InputError(f"Batch {number} is not a pair of images and labels.")
    images = batch[0]
    try:
        labels = torch.as_tensor(batch[1])
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"The labels of batch {number} are not class numbers.") from None
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        raise InputError(f"The images of batch {number} are not a floating-point tensor (n, 3, H, W).")
    if labels.shape != (len(images),) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(f"The labels of batch {number} are not {len(images)} class numbers.")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise InputError(f"Batch {number} has a label that is not one of 0 to {num_classes - 1}.")
    return images, labels.cpu().long()


def short_name(dataset: ImageDataset, network: str | None = None) -> str:
    """Name of a split, and of the network that sees it, in the line that shows the progress."""
    what = f"{dataset.name.rsplit('/', 1)[-1]} {dataset.split}"
    return what if network is None else f"{what} by {network}"


def normalised_batches(
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    precision: str,
    batch_size: int,
    workers: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalised float32 images on the device with their labels, in portions that suit it.

    Bytes are sent to a GPU and made numbers there; a batch is on its way while the one before is computed with.
    """
    normalise = Normalisation(preprocessing, device)
    keep_freed_memory()
    chunk = images_at_once(preprocessing, device, precision, batch_size)
    for images, truth in dataset.batches(preprocessing, batch_size, workers):
        for start in range(0, len(truth), chunk):
            yield normalise(sent(images[start : start + chunk], device)), truth[start : start + chunk]


@contextmanager
def device_memory(device: torch.device) -> Iterator[None]:
    """Turn the error of exhausted memory, of a GPU or of the machine, into a sentence."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise memory_error(error, str(device)) from error


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory(*, at_most: int = 62 << 20) -> None:
    """Make glibc's allocator reuse the memory of activations instead of returning it to the system after each layer.

    Blocks above a threshold (128 kB at first) are mapped and unmapped one by one, which costs ResNet-20 half its speed
    on a CPU; 32 MB is as far as the threshold goes. Free memory at the end of the heap is returned too, once there is
    enough: in training after every step, for an eighth of its time. Without glibc this function does nothing.

    Args:
        at_most: Bytes at the end of the heap that are kept, below 2^31.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return
    mallopt(_M_MMAP_THRESHOLD, 31 << 20)
    mallopt(_M_TRIM_THRESHOLD, at_most)
