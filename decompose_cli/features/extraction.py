"""Turn images into penultimate features."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.errors import DecomposeError, InputError, first_line, param
from decompose_cli.models.inference import FeatureReader
from decompose_cli.models.network import Network
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.progress import track

# Pixels that a CPU pushes through the network at a time, so that activations stay near the caches. ResNet-20 at 32x32
# on 2 cores is as fast in chunks of 48 (96 in bfloat16) as in chunks of 64 to 128, and a tenth slower in chunks of 32.
_PIXELS_AT_ONCE = {"32": 48 * 32 * 32, "bf16": 96 * 32 * 32}
_FEWEST_AT_ONCE = 4
_EXAMPLES = 8  # images that a faster copy of the network is compared on


def extract_features(
    network: Network,
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    precision: str = "32",
    batch_size: int = 256,
    workers: int = 0,
) -> tuple[Tensor, Tensor]:
    """Run every image through the network once and keep what enters its head.

    Args:
        network: The network, which is left as it is.
        dataset: N >= 1 images.
        preprocessing: Decides the pixels and their normalisation.
        device: Device that computes.
        precision: ``32`` or ``bf16``; features are float32 either way.
        batch_size: Images read at a time.
        workers: Processes that decode images, where the data set is not in memory.

    Returns:
        Features (N, D) and labels of the data set (N,), in the order of the data set.

    Raises:
        DecomposeError: A feature is NaN or infinite, or the device runs out of memory.
    """
    count = len(dataset)
    features, labels = torch.empty(0), torch.empty(count, dtype=torch.int64)
    reader: FeatureReader | None = None
    done = 0
    batches = normalised_batches(
        dataset, preprocessing, device=device, precision=precision, batch_size=batch_size, workers=workers
    )
    with device_memory(device), track(f"Features of {short_name(dataset)}", count) as advance:
        for images, truth in batches:
            if reader is None:
                reader = FeatureReader(network, device, precision, images[:_EXAMPLES])
                features = torch.empty(count, network.tensors.num_features)
            read = reader(images)
            if not bool(torch.isfinite(read).all()):
                raise _not_finite(read, done, dataset)
            features[done : done + len(read)], labels[done : done + len(read)] = read, truth
            done += len(read)
            advance(len(truth))
    return features, labels


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
            images, truth = _checked_batch(batch, number, network.tensors.num_classes)
            try:
                if reader is None:
                    reader = FeatureReader(network, device, precision, images[:_EXAMPLES].cpu())
                features.append(reader(images))
            except (RuntimeError, ValueError) as error:
                if isinstance(error, torch.OutOfMemoryError):
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


def _checked_batch(batch: object, number: int, num_classes: int) -> tuple[Tensor, Tensor]:
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


def short_name(dataset: ImageDataset) -> str:
    """Name of a split in the line that shows the progress."""
    return f"{dataset.name.rsplit('/', 1)[-1]} {dataset.split}"


def normalised_batches(
    dataset: ImageDataset,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    precision: str,
    batch_size: int,
    workers: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalised float32 images on the CPU with their labels, in portions that suit the device."""
    scale = 1 / (255 * torch.tensor(preprocessing.std)).view(3, 1, 1)
    shift = -(torch.tensor(preprocessing.mean) / torch.tensor(preprocessing.std)).view(3, 1, 1)
    keep_freed_memory()
    chunk = _chunk_size(preprocessing, device, precision, batch_size)
    for images, truth in dataset.batches(preprocessing, batch_size, workers):
        for start in range(0, len(truth), chunk):
            yield images[start : start + chunk] * scale + shift, truth[start : start + chunk]


@contextmanager
def device_memory(device: torch.device) -> Iterator[None]:
    """Turn the error of exhausted device memory into a sentence."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        hint = f"Choose a smaller {param('batch_size')}."
        raise DecomposeError(f"{device} ran out of memory.", hint=hint) from error


def _not_finite(features: Tensor, done: int, dataset: ImageDataset) -> DecomposeError:
    number = done + int((~torch.isfinite(features).all(1)).nonzero()[0])
    return DecomposeError(
        f"The network gives NaN or infinite features for image number {number} of {dataset.name} {dataset.split}."
    )


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


def _chunk_size(preprocessing: Preprocessing, device: torch.device, precision: str, batch_size: int) -> int:
    if device.type != "cpu":
        return batch_size
    height, width = preprocessing.crop
    return max(_FEWEST_AT_ONCE, _PIXELS_AT_ONCE[precision] // (height * width))
