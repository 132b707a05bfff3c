"""Transforms of single images: what they may do, and that they are a function of seed, epoch and index."""

from __future__ import annotations

import decompose_cli  # noqa: F401 - makes torchvision importable beside a CPU-only torch

# isort: split
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from decompose_cli.datasets.augment import Augmentation, ImageTransform, Kind
from decompose_cli.datasets.counter_random import Stream, derived_seed, seeded
from decompose_cli.datasets.transforms import resize_and_crop
from decompose_cli.errors import InputError
from decompose_cli.preprocessing import Preprocessing

SMALL = Preprocessing((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), resize=40, crop=(32, 36))
KINDS: list[Kind] = ["none", "crop-flip", "resized-crop", "affine"]


def picture(height: int = 50, width: int = 70, seed: int = 0) -> Tensor:
    """Smooth colours, uint8 (3, height, width), so that resampling changes little."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(60, 190, (3, 5, 7), dtype=torch.uint8, generator=generator)
    image: Tensor = F.resize(coarse, [height, width], antialias=True)
    return image


def transformed(augmentation: Augmentation, image: Tensor | Image.Image, *place: int) -> Tensor:
    return ImageTransform(augmentation, SMALL)(image, *(place or (0, 0, 0)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pillow", [False, True])
def test_result_is_bytes_of_the_size_of_the_network(kind: Kind, pillow: bool) -> None:
    image = F.to_pil_image(picture()) if pillow else picture()
    result = transformed(Augmentation(kind), image)
    assert isinstance(result, Tensor)
    assert (result.dtype, result.shape) == (torch.uint8, (3, 32, 36))


@pytest.mark.parametrize("kind", KINDS)
def test_pillow_and_torch_images_give_nearly_the_same(kind: Kind) -> None:
    for index in range(10):
        ours = transformed(Augmentation(kind), picture(), 0, 0, index).int()
        theirs = transformed(Augmentation(kind), F.to_pil_image(picture()), 0, 0, index).int()
        assert float((ours - theirs).abs().double().mean()) < 1.5, index


@pytest.mark.parametrize("kind", ["none", "crop-flip"])
def test_geometry_is_that_of_evaluation_where_whole_batches_are_cropped(kind: Kind) -> None:
    for index in range(5):
        result = transformed(Augmentation(kind), picture(), 0, 0, index)
        assert torch.equal(result, resize_and_crop(picture(), SMALL))


@pytest.mark.parametrize("kind", ["resized-crop", "affine"])
def test_result_is_a_function_of_seed_epoch_and_index(kind: Kind) -> None:
    transform = ImageTransform(Augmentation(kind), SMALL)
    places = [(seed, epoch, index) for seed in range(3) for epoch in range(3) for index in range(3)]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = {place: transform(picture(), *place) for place in places}
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    for place in reversed(places):
        assert torch.equal(transform(picture(), *place), first[place])
    assert len({result.numpy().tobytes() for result in first.values()}) == len(places)


def test_the_random_numbers_of_an_image_are_of_its_own_stream() -> None:
    """Another order of the same numbers would be as random, but runs would no longer repeat what they once did."""
    augmentation = Augmentation("resized-crop")
    with seeded(derived_seed(Stream.IMAGE, 5, 6, 7)):
        image = picture()
        crop = v2.RandomResizedCrop([32, 36], (0.08, 1), (3 / 4, 4 / 3), antialias=True)
        expected = v2.RandomHorizontalFlip()(crop(image))
    assert torch.equal(transformed(augmentation, picture(), 5, 6, 7), expected)


def test_fine_patterns_are_smoothed_before_they_are_shrunk() -> None:
    stripes = (torch.arange(120) % 2 * 255).to(torch.uint8).expand(3, 120, 120).contiguous()
    ours = resize_and_crop(stripes, SMALL).int()
    theirs = F.pil_to_tensor(resize_and_crop(F.to_pil_image(stripes), SMALL)).int()
    assert (ours - theirs).abs().max() <= 2, "Pillow always smooths"
    assert 60 < ours.min() <= ours.max() < 195


def test_resized_crop_is_that_of_torchvision() -> None:
    """Areas and sides of the crops are measured on an image whose pixels tell where they are."""
    size = 200
    place = torch.arange(size, dtype=torch.uint8)
    image = torch.stack([place.view(-1, 1).expand(-1, size), place.expand(size, -1), torch.zeros(size, size).byte()])
    transform = ImageTransform(
        Augmentation("resized-crop"), Preprocessing(SMALL.mean, SMALL.std, 40, (64, 64), "nearest")
    )
    areas, ratios, mirrored = [], [], 0
    for index in range(400):
        result = transform(image, 0, 0, index).double()
        rows, columns = result[0, :, 0], result[1, 0]
        mirrored += bool(columns[0] > columns[-1])
        height, width = (float((line[-1] - line[0]).abs()) * 64 / 63 for line in (rows, columns))
        areas.append(height * width / size**2)
        ratios.append(width / height)
    assert min(areas) > 0.07
    assert min(areas) < 0.12
    assert max(areas) > 0.9
    assert 0.73 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.37
    assert abs(mirrored - 200) < 50


def test_resized_crop_uses_the_interpolation_of_the_preprocessing() -> None:
    image = torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    results = [
        ImageTransform(Augmentation("resized-crop"), Preprocessing(SMALL.mean, SMALL.std, 40, (64, 64), mode))(
            image, 0, 0, 0
        )
        for mode in ("nearest", "bilinear", "bicubic")
    ]
    assert set(results[0].unique().tolist()) <= set(image.unique().tolist())
    assert not torch.equal(results[1], results[2])


@pytest.fixture
def colours_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_DEGREES": 0, "_TRANSLATION": 0.0, "_ZOOM": (1.0, 1.0), "_SHEAR": 0.0}.items():
        monkeypatch.setattr(f"decompose_cli.datasets.augment.{name}", value)


@pytest.fixture
def geometry_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_CONTRAST", "_BRIGHTNESS"):
        monkeypatch.setattr(f"decompose_cli.datasets.augment.{name}", (1.0, 1.0))


def affine(image: Tensor, count: int) -> Tensor:
    """What becomes of a square image in ``count`` places of a data set, float64 (count, 3, H, W)."""
    side = image.shape[-1]
    preprocessing = Preprocessing(SMALL.mean, SMALL.std, side, (side, side))
    transform = ImageTransform(Augmentation("affine", flip=False), preprocessing)
    return torch.stack([transform(image, 0, 0, index) for index in range(count)]).double()


@pytest.mark.usefixtures("colours_only")
def test_affine_changes_contrast_and_then_each_channel_by_its_own_factor() -> None:
    """On two greys, 100 and 140, brightness scales their sum and difference, contrast only the difference."""
    image = torch.full((3, 32, 32), 100, dtype=torch.uint8)
    image[:, :, 16:] = 140
    dark, light = affine(image, 500)[:, :, 8, [4, 28]].unbind(2)
    brightness, contrast = (light + dark) / 240, (light - dark) / 40 / ((light + dark) / 240)
    for factors, lowest, highest, slack in ((brightness, 0.8, 1.2, 0.01), (contrast, 0.75, 1.5, 0.05)):
        assert abs(float(factors.min()) - lowest) < slack
        assert abs(float(factors.max()) - highest) < slack
        assert abs(float(factors.mean()) - (lowest + highest) / 2) < 4 * (highest - lowest) / (12 * 500) ** 0.5
    assert float(brightness.T.corrcoef().triu(1).abs().max()) < 0.2
    assert float(contrast.T.corrcoef().min()) > 0.95  # one contrast for all channels, but for rounding


@pytest.mark.usefixtures("geometry_only")
def test_affine_geometry_stays_in_its_range() -> None:
    """Read off an image whose first two channels are row and column, and whose third tells what is inside."""
    size = 128
    place = torch.arange(size, dtype=torch.uint8)
    white = torch.full((size, size), 255, dtype=torch.uint8)
    image = torch.stack([place.view(-1, 1).expand(-1, size), place.expand(size, -1), white])
    y, x = torch.meshgrid(torch.arange(size).double(), torch.arange(size).double(), indexing="ij")
    zooms, angles, shears, moves = [], [], [], []
    for result in affine(image, 400):
        inside = result[2] == 255
        places = torch.stack([x[inside], y[inside], torch.ones(int(inside.sum())).double()], 1)
        fit = torch.linalg.lstsq(places, torch.stack([result[1, inside], result[0, inside]], 1)).solution
        # source (x, y) = backward @ (x, y) + offset; turned round, the columns tell where the axes of the image go.
        backward, offset = fit[:2].T, fit[2]
        forward = torch.linalg.inv(backward)
        centre = torch.full((2,), (size - 1) / 2).double()
        zooms.append(float(forward[:, 0].norm()))
        angles.append(float(torch.rad2deg(torch.atan2(forward[1, 0], forward[0, 0]))))
        shears.append(float(torch.rad2deg(torch.atan(forward[:, 0] @ forward[:, 1] / forward.det()))))
        moves += (forward @ (centre - offset) - centre).tolist()
    for values, lowest, highest, slack in (
        (zooms, 0.8, 1.2, 0.02),
        (angles, -25, 25, 1.5),
        (shears, -8, 8, 0.8),
        (moves, -0.2 * size, 0.2 * size, 1.5),
    ):
        assert abs(min(values) - lowest) < slack
        assert abs(max(values) - highest) < slack


@pytest.mark.parametrize("kind", ["resized-crop", "affine"])
def test_without_flips_no_image_is_mirrored(kind: Kind) -> None:
    """A picture that gets brighter to the right still does after anything but a flip."""
    image = torch.linspace(60, 190, 64).to(torch.uint8).expand(3, 64, -1)
    rises = {}
    for flip in (False, True):
        results = [transformed(Augmentation(kind, flip=flip), image, 0, 0, index).double() for index in range(60)]
        rises[flip] = sum(float(r[:, 14:18, 24].mean() - r[:, 14:18, 12].mean()) > 0 for r in results)
    assert rises[False] == 60
    assert 15 < rises[True] < 45


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"kind": "autoaugment"},
            "There is no augmentation 'autoaugment'; choose none, crop-flip, resized-crop or affine",
        ),
        (
            {"kind": "crop-flip", "padding_mode": "reflect"},
            "There is no padding mode 'reflect'; choose zeros or border",
        ),
        ({"kind": "crop-flip", "padding": -1}, "The padding is -1 pixels; it must not be negative"),
        ({"kind": "none", "cutout": -3}, "The cutout is -3 pixels; it must not be negative"),
    ],
)
def test_attributes_out_of_range(arguments: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Augmentation(**arguments)
