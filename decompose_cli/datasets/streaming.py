"""Decode images as they are needed, in worker processes, and hand errors of these over as the sentences they were."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from decompose_cli.datasets.chunks import Chunk
from decompose_cli.datasets.handing_over import HandedOver, begun
from decompose_cli.datasets.transforms import image_to_tensor
from decompose_cli.errors import DecomposeError, InputError, param
from decompose_cli.messages import report_by_logging
from decompose_cli.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

# Processes decode parts of chunks, so that few images keep many of them busy, and the first images are there soon.
_PIXELS_OF_A_PART = 64 * 224 * 224
_PARTS_AHEAD = 4  # of each process: 39 MB
_Item = TypeVar("_Item")
_Decoded = tuple[HandedOver, dict[int, str]]


def decoded_chunks(
    read: Callable[[int], Image],
    preprocessing: Preprocessing,
    wanted: Sequence[range],
    workers: int,
    remark: Callable[[], None],
) -> Generator[Chunk, None, None]:
    """Decode, resize and crop images by their numbers; worker processes begin before the first chunk is asked for.

    They end when the generator is closed, or has come to its end.

    Args:
        read: Returns an RGB image by its number; where it raises InputError, the image is unreadable. It is sent to
            worker processes that are not forked.
        preprocessing: Decides the pixels.
        wanted: Numbers of the images of each chunk.
        workers: Worker processes; 0 to decode in this process.
        remark: Called after the last chunk.

    Returns:
        The chunks in the order of ``wanted``. Asking for one raises DecomposeError where a worker process ended before
        its work was done.
    """
    chunks = _begun(_Decoder(read, preprocessing), wanted, workers, remark)
    next(chunks)
    return cast("Generator[Chunk, None, None]", chunks)


def _begun(
    decoder: _Decoder, wanted: Sequence[range], workers: int, remark: Callable[[], None]
) -> Generator[Chunk | None, None, None]:
    """First None, when worker processes have begun, and then the chunks."""
    height, width = decoder.preprocessing.crop
    size = max(1, _PIXELS_OF_A_PART // (height * width))
    parts = [
        [numbers[start : start + size] for start in range(0, len(numbers), size)] or [numbers] for numbers in wanted
    ]
    tasks = [part for own in parts for part in own]

    def loader_with(processes: int) -> DataLoader[_Decoded]:
        return DataLoader(
            decoder,  # type: ignore[arg-type]
            batch_sampler=tasks,  # type: ignore[arg-type]
            num_workers=processes,
            prefetch_factor=_PARTS_AHEAD if processes else None,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            worker_init_fn=report_by_logging,
            generator=torch.Generator(),  # otherwise the loader draws a seed for its workers from the global one
        )

    decoded = without_worker_traces(begun(loader_with, min(workers, len(tasks))))
    yield None
    for numbers, own in zip(wanted, parts, strict=True):
        yield _joined(numbers, list(islice(decoded, len(own))))
    remark()


def _joined(numbers: range, parts: Sequence[_Decoded]) -> Chunk:
    images = [part.images for part, _ in parts]
    unreadable = {number: sentence for _, sentences in parts for number, sentence in sentences.items()}
    return Chunk(numbers, images[0] if len(images) == 1 else torch.cat(images), unreadable)


def _as_it_is(decoded: _Decoded) -> _Decoded:
    return decoded


class _Decoder(Dataset[Tensor]):
    """Decodes a part of a chunk at a time, in a worker process."""

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
                continue
            try:
                images[row] = image_to_tensor(image, self.preprocessing)
            except InputError as error:
                unreadable[number] = f"Image number {number} cannot be used: {error.sentence}"
        return HandedOver(images), unreadable


def without_worker_traces(items: Iterator[_Item]) -> Iterator[_Item]:
    """Raise errors of worker processes as the sentences they were; they come wrapped in the text of a traceback."""
    with worker_errors():
        yield from items


@contextmanager
def worker_errors() -> Iterator[None]:
    """Say in a sentence that a worker process has died, which torch says wherever the program is at that moment."""
    try:
        yield
    except DecomposeError as error:
        if isinstance(error.__cause__, RuntimeError) and _is_of_worker(error.__cause__):
            raise _died() from error
        kind = type(error)
        last = error.sentence.strip().splitlines()[-1]
        raise kind(last.removeprefix(f"{kind.__module__}.{kind.__qualname__}: "), hint=error.advice) from error
    except RuntimeError as error:
        if not _is_of_worker(error):
            raise
        raise _died() from error


def _is_of_worker(error: RuntimeError) -> bool:
    return str(error).startswith("DataLoader worker")  # as all does that torch says of one that has died


def _died() -> DecomposeError:
    return DecomposeError(
        "A process that decodes images ended before its work was done; memory may have run out.",
        hint=f"Choose fewer {param('workers')}, or give the container that this runs in more shared memory.",
    )
