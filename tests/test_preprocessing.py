"""What the options that change the images mean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from decompose_cli.errors import InputError
from decompose_cli.preprocessing import (
    CIFAR,
    IMAGENET,
    Preprocessing,
    check_channels,
    check_size,
    parse_channels,
    parse_image_options,
    parse_interpolation,
    parse_size,
)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, IMAGENET),
        ({"input_size": "224"}, IMAGENET),
        ({"input_size": "112"}, replace(IMAGENET, resize=128, crop=(112, 112))),
        ({"resize": "224x224"}, replace(IMAGENET, resize=(224, 224))),
        ({"resize": "224"}, replace(IMAGENET, resize=224)),
        ({"resize": "200x300"}, replace(IMAGENET, resize=(200, 300))),
        ({"crop": "200"}, replace(IMAGENET, crop=(200, 200))),
        ({"crop": "200x100"}, replace(IMAGENET, crop=(200, 100))),
        ({"input_size": "112", "resize": "120"}, replace(IMAGENET, resize=120, crop=(112, 112))),
        ({"input_size": "112", "crop": "100"}, replace(IMAGENET, resize=128, crop=(100, 100))),
        ({"interpolation": "bicubic"}, replace(IMAGENET, interpolation="bicubic")),
        ({"mean": "0.5,0.4,0.3"}, replace(IMAGENET, mean=(0.5, 0.4, 0.3))),
        ({"mean": "-1, 0 ,1e-3"}, replace(IMAGENET, mean=(-1.0, 0.0, 0.001))),
        ({"std": "1,2,3"}, replace(IMAGENET, std=(1.0, 2.0, 3.0))),
    ],
)
def test_options(options: dict[str, str], expected: Preprocessing) -> None:
    before = replace(IMAGENET)
    assert IMAGENET.overridden(parse_image_options(**options)) == expected
    assert before == IMAGENET


@pytest.mark.parametrize("base", [IMAGENET, CIFAR, replace(IMAGENET, resize=(224, 224))])
@pytest.mark.parametrize("size", ["64", "64x128", "128x64", "2x1", "4096"])
def test_input_size_never_asks_for_pixels_that_the_resized_image_does_not_have(base: Preprocessing, size: str) -> None:
    """A square image has to cover the crop after the resize; else black borders would be cropped in."""
    result = base.overridden(parse_image_options(input_size=size))
    height, width = result.crop
    resized = (result.resize, result.resize) if isinstance(result.resize, int) else result.resize
    assert result.crop == parse_size(size, "input_size")
    assert resized[0] >= height
    assert resized[1] >= width


@pytest.mark.parametrize(
    ("resize", "crop", "size", "kept"),
    [
        (32, (32, 32), (32, 32), True),
        (32, (32, 32), (32, 40), False),
        (32, (32, 40), (32, 40), True),
        ((32, 40), (32, 40), (32, 40), True),
        ((40, 32), (32, 40), (32, 40), False),
        (32, (28, 28), (32, 32), False),
        (36, (32, 32), (32, 32), False),
        (32, (32, 32), (64, 64), False),
    ],
)
def test_which_images_reach_the_network_pixel_for_pixel(resize, crop, size, kept: bool) -> None:
    assert replace(CIFAR, resize=resize, crop=crop).keeps(*size) is kept


def test_geometry_is_ready_for_json() -> None:
    assert IMAGENET.geometry() == {"resize": 256, "crop": [224, 224], "interpolation": "bilinear"}
    assert replace(IMAGENET, resize=(200, 300)).geometry()["resize"] == [200, 300]


def test_constants_of_the_papers() -> None:
    assert (CIFAR.mean, CIFAR.std) == ((0.491, 0.482, 0.447), (0.247, 0.243, 0.261))
    assert (IMAGENET.mean, IMAGENET.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(("text", "size"), [("224", (224, 224)), ("224x192", (224, 192)), ("2x1", (2, 1))])
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text, "crop") == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "224x",
        "x224",
        "1x2x3",
        "-1",
        "+5",
        "1.5",
        " 224",
        "224 x 224",
        "²",
        "٣",
        "0",
        "4097",
        "0x5",
        "1",
        "1x1",
        "9" * 5000,
    ],
    ids=lambda text: repr(text)[:12],
)
@pytest.mark.parametrize("option", ["input_size", "resize", "crop"])
def test_sizes_that_are_none(text: str, option: str) -> None:
    with pytest.raises(InputError, match=f"^{option} "):
        parse_image_options(**{option: text})


@pytest.mark.parametrize("text", ["", "1", "1,2", "1,2,3,4", "1,2,", "a,b,c", "nan,0,0", "0,inf,0", "1;2;3"])
@pytest.mark.parametrize("option", ["mean", "std"])
def test_channels_that_are_none(text: str, option: str) -> None:
    with pytest.raises(InputError, match=f"^{option} .* is not three comma-separated numbers"):
        parse_image_options(**{option: text})


@pytest.mark.parametrize("text", ["0,1,1", "1,1,-0.5"])
def test_deviations_are_positive(text: str) -> None:
    assert parse_channels(text, "mean")
    with pytest.raises(InputError, match="must be positive in every channel"):
        parse_channels(text, "std", positive=True)


@pytest.mark.parametrize(("size", "expected"), [(224, (224, 224)), ((224, 192), (224, 192)), ([2, 1], (2, 1))])
def test_sizes_as_numbers(size: int | list[int], expected: tuple[int, int]) -> None:
    assert check_size(size, "input_size") == expected


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((8, 8, 8), "input_size (8, 8, 8) is not a size; write 224 or (224, 224)."),
        ((8.0, 8.0), "input_size (8.0, 8.0) is not a size; write 224 or (224, 224)."),
        (0, "input_size 0 is out of range; sides go from 1 to 4096 pixels."),
        ((-1, 5), "input_size (-1, 5) is out of range; sides go from 1 to 4096 pixels."),
        ((1, 1), "input_size (1, 1) is a single pixel, which is no image."),
    ],
)
def test_numbers_that_are_no_sizes(size: Any, sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        check_size(size, "input_size")
    assert refusal.value.message == sentence


def test_channels_as_numbers() -> None:
    assert check_channels(np.array([0, 0.5, 1 / 3]), "mean") == (0.0, 0.5, 1 / 3)
    assert all(type(value) is float for value in check_channels(np.ones(3, np.float32), "std", positive=True))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ((0.5,), "std (0.5,) is not three comma-separated numbers"),
        ((1, 1, float("nan")), "std (1.0, 1.0, nan) is not three"),
        ((58.4, 57.1, 57.4), "std (58.4, 57.1, 57.4) is not for pixel values in [0, 1]; divide"),
        ((1, 0, 1), "std (1.0, 0.0, 1.0) must be positive in every channel."),
    ],
)
def test_numbers_that_are_no_channels(values: tuple[float, ...], sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        check_channels(values, "std", positive=True)
    assert refusal.value.message.startswith(sentence)


def test_interpolation_names() -> None:
    assert [parse_interpolation(name) for name in ("nearest", "bilinear", "bicubic")] == [
        "nearest",
        "bilinear",
        "bicubic",
    ]
    with pytest.raises(InputError, match="'lanczos' is unknown"):
        parse_interpolation("lanczos")


@pytest.mark.parametrize("resize", [32, 48, (32, 48), (20, 30)])
@pytest.mark.parametrize("size", [(300, 400), (400, 301), (32, 32), (31, 90), (7, 5), (32, 33)])
def test_what_is_seen_of_an_image_is_what_torchvision_cuts_out_of_it(
    resize: int | tuple[int, int], size: tuple[int, int]
) -> None:
    """Of an image whose pixels say where they are; the corners of the cut are where they should be."""
    from PIL import Image

    from decompose_cli.datasets.transforms import image_to_tensor

    seen = replace(CIFAR, resize=resize, crop=(24, 30), interpolation="nearest")
    height, width = size
    down, across = np.linspace(1, 255, height).round(), np.linspace(1, 255, width).round()
    places = np.stack([np.broadcast_to(down[:, None], size), np.broadcast_to(across, size), np.full(size, 255)], -1)
    found = image_to_tensor(Image.fromarray(places.astype(np.uint8)), seen).numpy()
    is_image = found[2] > 0  # around it there is black
    top, left, bottom, right = seen.seen_part(*size)
    step = [254 / side + 254 / cut + 2 for side, cut in zip(size, seen.resized(*size), strict=True)]
    for plane, (low, high), tolerance in zip(found, ((top, bottom), (left, right)), step, strict=False):
        assert plane[is_image].min() == pytest.approx(1 + 254 * low, abs=tolerance)
        assert plane[is_image].max() == pytest.approx(1 + 254 * high, abs=tolerance)
    assert is_image.any(1).sum() == min(24, seen.resized(*size)[0])
    assert is_image.any(0).sum() == min(30, seen.resized(*size)[1])
