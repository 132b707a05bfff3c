"""Decode images as they are needed, in worker processes, and hand errors of these over as the sentences they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from decompose_cli.datasets.chunks import Chunk
from decompose_cli.datasets.transforms import image_to_tensor
from decompose_cli.errors import DecomposeError, InputError, param
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.progress import report_by_logging

if TYPE_CHECKING:
    from PIL.Image import Image

_FEW_PROCESSES = 8  # each of more than these reads one chunk ahead, of 38 MB at 224 pixels
_Item = TypeVar("_Item")
_Decoded = tuple[Tensor, dict[int, str]]


def decoded_chunks(
    read: Callable[[int], Image], preprocessing: Preprocessing, wanted: Sequence[range], workers: int
) -> Iterator[Chunk]:
    """Decode, resize and crop images by their numbers; a worker process has a whole chunk to do.

    Args:
        read: Returns an RGB image by its number; where it raises InputError, the image is unreadable. It is sent to
            worker processes that are not forked.
        preprocessing: Decides the pixels.
        wanted: Numbers of the images of each chunk.
        workers: Worker processes; 0 to decode in this process.

    Yields:
        The chunks in the order of ``wanted``.

    Raises:
        DecomposeError: A worker process ended before its work was done.
    """
    loader: DataLoader[_Decoded] = DataLoader(
        _Decoder(read, preprocessing),  # type: ignore[arg-type]
        batch_sampler=wanted,  # type: ignore[arg-type]
        num_workers=(processes := min(workers, len(wanted))),
        prefetch_factor=(1 if processes > _FEW_PROCESSES else 2) if processes else None,
        collate_fn=_as_it_is,  # type: ignore[arg-type]
        worker_init_fn=report_by_logging,
        generator=torch.Generator(),  # otherwise the loader draws a seed for its workers from the global one
    )
    for numbers, (images, unreadable) in zip(wanted, without_worker_traces(iter(loader)), strict=True):
        yield Chunk(numbers, images, unreadable)


def _as_it_is(decoded: _Decoded) -> _Decoded:
    return decoded


class _Decoder(Dataset[Tensor]):
    """Decodes a chunk at a time, in a worker process."""

    def __init__(self, read: Callable[[int], Image], preprocessing: Preprocessing) -> None:
        self.read = read
        self.preprocessing = preprocessing

    def __getitems__(self, numbers: Sequence[int]) -> _Decoded:
        images = torch.zeros(len(numbers), 3, *self.preprocessing.crop, dtype=torch.uint8)
        unreadable = {}
        for row, number in enumerate(numbers):
            try:
                image = self.read(number)
            except InputError as error:
                unreadable[number] = error.sentence
            else:
                images[row] = image_to_tensor(image, self.preprocessing)
        return images, unreadable


def without_worker_traces(items: Iterator[_Item]) -> Iterator[_Item]:
    """Raise errors of worker processes as the sentences they were; they come wrapped in the text of a traceback."""
    with _worker_errors():
        yield from items


@contextmanager
def _worker_errors() -> Iterator[None]:
    try:
        yield
    except DecomposeError as error:
        kind = type(error)
        last = error.sentence.strip().splitlines()[-1]
        raise kind(last.removeprefix(f"{kind.__module__}.{kind.__qualname__}: "), hint=error.advice) from error
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):  # as all that torch says of one that has died
            raise
        raise DecomposeError(
            "A process that decodes images ended before its work was done; memory may have run out.",
            hint=f"Choose fewer {param('workers')}, or give the container that this runs in more shared memory.",
        ) from error
