"""Forward passes over uint8 images: threads with one-threaded operators on a CPU, a queue of copies on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from decompose_cli.models.inference import FeatureReader
from decompose_cli.models.network import Network
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.processes.threads import WorkerThreads

# Pixels that a CPU pushes through the network at a time, so that activations stay near the caches. ResNet-20 at 32x32
# on 2 cores is as fast in chunks of 48 (96 in bfloat16) as in chunks of 64 to 128, and a tenth slower in chunks of 32.
_PIXELS_AT_ONCE = {"32": 48 * 32 * 32, "bf16": 96 * 32 * 32}
_FEWEST_AT_ONCE = 4

Pending = Callable[[], Tensor]
"""Waits for features (n, D), float32 on the CPU."""


def images_at_once(preprocessing: Preprocessing, device: torch.device, precision: str, batch_size: int) -> int:
    """How many images go through a network at a time: as many as suit the caches of a CPU, else a batch."""
    if device.type != "cpu":
        return batch_size
    height, width = preprocessing.crop
    return max(_FEWEST_AT_ONCE, _PIXELS_AT_ONCE[precision] // (height * width))


class Normalisation:
    """``(pixel / 255 - mean) / std`` on a device, for uint8 images (n, 3, H, W)."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        self._scale = (1 / (255 * std)).view(3, 1, 1).to(device)
        self._shift = (-(mean / std)).view(3, 1, 1).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised float32 images."""
        return images * self._scale + self._shift


def sent(images: Tensor, device: torch.device) -> Tensor:
    """Images on a device; to a GPU they are copied while the program goes on, from memory that stays where it is."""
    if device.type != "cuda":
        return images.to(device)
    return images.pin_memory().to(device, non_blocking=True)  # torch keeps the memory until it is copied


class Forward:
    """Turns uint8 images into features; a context, in which several batches may be under way.

    On a CPU a batch is cut into pieces, and each piece goes through the network in one of several threads. A piece is
    computed in the same way whichever thread it falls to, so the features do not depend on the number of threads. On
    other devices pieces are queued, and copied to and fro meanwhile.

    Args:
        network: The network, which is left as it is.
        preprocessing: Size and normalisation of images.
        example: A few uint8 images, on which a faster copy of the network is compared with it.
        device: Device that computes.
        precision: ``32`` or ``bf16``.
        batch_size: Images that go through the network at a time, except on a CPU.
        threads: Threads of a CPU.
    """

    def __init__(
        self,
        network: Network,
        preprocessing: Preprocessing,
        example: Tensor,
        *,
        device: torch.device,
        precision: str,
        batch_size: int,
        threads: int,
    ) -> None:
        self._device = device
        normalised = Normalisation(preprocessing, torch.device("cpu"))(example)
        reader = FeatureReader(network, device, precision, normalised)
        self._reader = reader
        on_cpu = device.type == "cpu"
        self._threads = WorkerThreads(reader.copies(threads), threads) if on_cpu else None
        self._normalise = Normalisation(preprocessing, device)
        self._at_once = images_at_once(preprocessing, device, precision, batch_size)

    def __enter__(self) -> Forward:
        if self._threads is not None:
            self._threads.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._threads is not None:
            self._threads.__exit__(*error)

    def submit(self, images: Tensor) -> Pending:
        """Send images (n, 3, H, W), uint8, on their way."""
        pieces = torch.split(images, self._at_once)
        if self._threads is None:
            return self._queued(pieces)
        running = [self._threads.submit(self._read, piece) for piece in pieces]
        return lambda: torch.cat([future.result() for future in running])

    def _read(self, reader: FeatureReader, piece: Tensor) -> Tensor:
        return reader(self._normalise(piece))

    def _queued(self, pieces: Sequence[Tensor]) -> Pending:
        read = [self._reader(self._normalise(sent(piece, self._device))) for piece in pieces]
        if self._device.type != "cuda":
            return lambda: torch.cat([part.cpu() for part in read])
        kept = [torch.empty(part.shape, pin_memory=True).copy_(part, non_blocking=True) for part in read]
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(self._device))

        def wait() -> Tensor:
            copied.synchronize()
            return torch.cat(kept)

        return wait
