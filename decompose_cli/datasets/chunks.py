"""Images of a split in chunks, which say of which images there are no pixels."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from decompose_cli.errors import param
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.storage.memory import check_fits

if TYPE_CHECKING:
    from torch import Tensor

_VALUES_AT_ONCE, _BYTES_OF_A_VALUE = 1 << 24, 12  # of images that are resized, as numbers of 4 bytes in between


@dataclass(frozen=True)
class Chunk:
    """Some images of a split, one after another.

    Attributes:
        numbers: Numbers of the images in the split.
        images: Images after resize and crop, uint8 (n, 3, H, W); rows of unreadable images are zero.
        unreadable: The sentence that says what is wrong, by the number of the image in the split.
    """

    numbers: range
    images: Tensor
    unreadable: Mapping[int, str] = field(default_factory=dict)


def in_ranges(count: int, size: int) -> list[range]:
    """The numbers 0..count-1 in ranges of ``size``, the last of which may be shorter."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def chunks_in_memory(
    pixels: Tensor, preprocessing: Preprocessing, wanted: Sequence[range], unreadable: Mapping[int, str] | None = None
) -> Generator[Chunk, None, None]:
    """Cut a uint8 tensor of images into chunks, resizing and cropping whole chunks where the network needs it.

    Args:
        pixels: Images as stored, uint8 (N, 3, H, W).
        preprocessing: Decides the pixels that the network sees.
        wanted: Numbers of the images of each chunk.
        unreadable: Sentences by the numbers of the images whose rows are zero because they could not be read.
    """
    untouched = preprocessing.keeps(*pixels.shape[-2:])
    for numbers in wanted:
        images = pixels[numbers.start : numbers.stop]
        if not untouched:
            import torch

            from decompose_cli.datasets.transforms import resize_and_crop, values_of_resized

            values = values_of_resized(images.shape[-2:], preprocessing)
            at_once = max(1, _VALUES_AT_ONCE // values)
            check_fits(
                _BYTES_OF_A_VALUE * values * at_once,
                "Resizing images for the network",
                f"Choose a smaller {param('resize')} or {param('input_size')}.",
            )
            images = torch.cat([resize_and_crop(part, preprocessing) for part in torch.split(images, at_once)])
        yield Chunk(numbers, images, {number: text for number, text in (unreadable or {}).items() if number in numbers})
