"""Whole batches of crops: against torchvision image by image, and against chance."""

from __future__ import annotations

import decompose_cli  # noqa: F401 - makes torchvision importable beside a CPU-only torch

# isort: split
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from decompose_cli.datasets.augment import Augmentation, PaddingMode
from decompose_cli.datasets.crops import Crops, Normaliser, PixelTable, cut_out, draw_crops
from decompose_cli.preprocessing import CIFAR, Preprocessing

CPU = torch.device("cpu")
PADDINGS = {"zeros": "constant", "border": "edge"}  # as torchvision calls them


def images_of(count: int = 30, height: int = 12, width: int = 17, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def table_of(pixels: Tensor) -> PixelTable:
    return PixelTable(pixels.split(7), len(pixels), tuple(pixels.shape[-2:]), CPU)


def one_by_one(pixels: Tensor, numbers: Tensor, crops: Crops, padding: int, mode: PaddingMode) -> Tensor:
    """Padded, cropped and mirrored by torchvision, image by image."""
    height, width = pixels.shape[-2:]
    made = []
    for place, number in enumerate(numbers.tolist()):
        padded = F.pad(pixels[number], [padding] * 4, padding_mode=PADDINGS[mode])
        cropped = F.crop(padded, int(crops.top[place]), int(crops.left[place]), height, width)
        made.append(F.horizontal_flip(cropped) if bool(crops.flip[place]) else cropped)
    return torch.stack(made)


@pytest.mark.parametrize("mode", ["zeros", "border"])
@pytest.mark.parametrize("padding", [0, 1, 4, 20])
def test_crops_are_those_of_torchvision(mode: PaddingMode, padding: int) -> None:
    pixels = images_of()
    numbers = torch.randint(0, 30, (500,), generator=torch.Generator().manual_seed(1))
    chooser = torch.Generator().manual_seed(padding)
    top, left = (torch.randint(0, 2 * padding + 1, (500,), generator=chooser) for _ in range(2))
    top[:4], left[:4] = torch.tensor([0, 0, 2 * padding, 2 * padding]), torch.tensor([0, 2 * padding, 0, 2 * padding])
    numbers[:4] = torch.tensor([0, 0, 29, 29])  # the corners of the first and the last image
    crops = Crops(top, left, torch.rand(500, generator=chooser) < 0.5)
    ours = table_of(pixels).cropped(numbers, crops, padding, mode)
    assert (ours.dtype, ours.shape) == (torch.uint8, (500, 12, 17, 3))
    assert torch.equal(ours.permute(0, 3, 1, 2), one_by_one(pixels, numbers, crops, padding, mode))


def test_images_without_crops_come_whole() -> None:
    pixels = images_of()
    numbers = torch.tensor([29, 0, 0, 13])
    assert torch.equal(table_of(pixels).whole(numbers).permute(0, 3, 1, 2), pixels[numbers])


def test_batches_of_no_images() -> None:
    table, none = table_of(images_of()), torch.empty(0, dtype=torch.int64)
    crops = draw_crops(Augmentation("crop-flip"), 0, 0, none)
    for pixels in (
        table.whole(none),
        table.cropped(none, crops, 4, "zeros"),
        PixelTable([], 0, (12, 17), CPU).whole(none),
    ):
        assert pixels.shape == (0, 12, 17, 3)
    assert Normaliser(CIFAR, CPU)(torch.empty(0, 32, 32, 3, dtype=torch.uint8)).shape == (0, 3, 32, 32)


def test_padding_is_black_before_normalisation() -> None:
    """As RandomCrop(32, padding=4) followed by ToTensor and Normalize has it."""
    from torchvision.transforms import Compose, Normalize, ToTensor

    pixels = images_of(1, 32, 32)
    crops = Crops(torch.tensor([0]), torch.tensor([8]), torch.tensor([False]))
    ours = Normaliser(CIFAR, CPU)(table_of(pixels).cropped(torch.tensor([0]), crops, 4, "zeros"))[0]
    padded = F.to_pil_image(F.crop(F.pad(pixels[0], [4] * 4), 0, 8, 32, 32))
    theirs = Compose([ToTensor(), Normalize(CIFAR.mean, CIFAR.std)])(padded)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert bool((ours[:, :4] == ours[:, :1, :1]).all())
    assert float(ours[0, 0, 0]) == pytest.approx(-CIFAR.mean[0] / CIFAR.std[0])


def test_normalisation_in_double_precision() -> None:
    preprocessing = Preprocessing((0.1, 0.5, 0.9), (0.2, 0.3, 0.7), 12, (12, 17))
    pixels = images_of()
    ours = Normaliser(preprocessing, CPU)(pixels.permute(0, 2, 3, 1))
    mean, std = (torch.tensor(values).double().view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    assert ours.dtype == torch.float32
    assert ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours.double(), (pixels.double() / 255 - mean) / std, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_every_place_of_the_crop_is_reached_equally_often(padding: int) -> None:
    """Over images and over epochs, 4000 crops of one place on average; fixed seeds."""
    side = 2 * padding + 1
    augmentation = Augmentation("crop-flip", padding=padding)
    over_images = draw_crops(augmentation, 0, 3, torch.arange(4000 * side**2))
    epochs = [draw_crops(augmentation, 0, epoch, torch.arange(4000)) for epoch in range(side**2)]
    over_epochs = Crops(*(torch.cat([getattr(crops, part) for crops in epochs]) for part in ("top", "left", "flip")))
    for crops in (over_images, over_epochs):
        counts = ((crops.top * side + crops.left) * 2 + crops.flip).bincount(minlength=2 * side**2)
        assert len(counts) == 2 * side**2
        assert int(counts.min()) > 0
        assert float(stats.chisquare(counts.numpy()).pvalue) > 1e-4


def test_one_image_sees_every_place_and_both_sides_over_the_epochs() -> None:
    index = torch.tensor([4711])
    crops = [draw_crops(Augmentation("crop-flip"), 0, epoch, index) for epoch in range(1500)]
    assert {(int(c.top), int(c.left)) for c in crops} == {(y, x) for y in range(9) for x in range(9)}
    flips = sum(bool(c.flip) for c in crops)
    assert abs(flips - 750) < 5 * 1500**0.5 / 2


def test_crops_differ_between_seeds_and_epochs_and_not_otherwise() -> None:
    augmentation, indices = Augmentation("crop-flip"), torch.arange(1000)

    def drawn(seed: int, epoch: int) -> Tensor:
        crops = draw_crops(augmentation, seed, epoch, indices)
        return torch.stack([crops.top, crops.left, crops.flip.long()])

    assert torch.equal(drawn(0, 0), drawn(0, 0))
    for other in ((0, 1), (1, 0), (1, 1)):
        equal = (drawn(0, 0) == drawn(*other)).double().mean(1)
        assert bool((equal[:2] < 0.2).all())
        assert 0.4 < float(equal[2]) < 0.6


def test_nothing_is_mirrored_unless_wanted() -> None:
    crops = draw_crops(Augmentation("crop-flip", flip=False), 0, 0, torch.arange(1000))
    assert not bool(crops.flip.any())
    assert crops.flip.dtype == torch.bool


@pytest.mark.parametrize("side", [1, 2, 3, 8, 11, 16, 100])
def test_cutout_is_a_square_clipped_at_the_borders(side: int) -> None:
    n, height, width = 400, 11, 16
    images = torch.ones(n, 3, height, width).contiguous(memory_format=torch.channels_last)
    cut = cut_out(images, torch.arange(n), side, 0, 0)
    assert cut is images
    centres = {(y, x): torch.ones(height, width) for y in range(height) for x in range(width)}
    for (y, x), image in centres.items():
        for i in range(y - side // 2, y - side // 2 + side):
            for j in range(x - side // 2, x - side // 2 + side):
                if 0 <= i < height and 0 <= j < width:
                    image[i, j] = 0
    possible = {image.numpy().tobytes() for image in centres.values()}
    found = {image.contiguous().numpy().tobytes() for channel in range(3) for image in cut[:, channel]}
    assert found <= possible
    assert len(found) > 0.8 * len(possible)


def test_cutout_centres_are_uniform_and_change_with_seed_and_epoch() -> None:
    def centres(seed: int, epoch: int) -> Tensor:
        images = cut_out(torch.ones(20_000, 1, 5, 8), torch.arange(20_000), 1, seed, epoch)
        assert bool((images.sum((1, 2, 3)) == 39).all())
        return (images.view(-1, 40) == 0).long().argmax(1)

    first = centres(0, 0)
    assert float(stats.chisquare(first.bincount(minlength=40).numpy()).pvalue) > 1e-4
    assert torch.equal(first, centres(0, 0))
    for other in ((0, 1), (1, 0)):
        assert float((first == centres(*other)).double().mean()) < 0.05
