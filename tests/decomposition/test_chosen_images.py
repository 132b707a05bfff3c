"""Image files as an explanation sees them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from decompose_cli.decomposition.chosen_images import from_files
from decompose_cli.errors import InputError
from decompose_cli.preprocessing import Preprocessing

SEEN = Preprocessing((0.5,) * 3, (0.25,) * 3, (2, 3), (2, 3), "nearest")
PIXELS = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 10


def seen(path: str) -> torch.Tensor:
    (found,) = from_files([Path(path)], SEEN)
    assert (found.name, found.label) == (path, None)
    assert found.pixels.dtype == torch.uint8
    return found.pixels


def expected(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def test_an_image_of_the_right_size_is_itself() -> None:
    Image.fromarray(PIXELS).save("a.png")
    assert torch.equal(seen("a.png"), expected(PIXELS))


def test_16_bit_grey_with_a_transparent_colour_keeps_its_greys() -> None:
    deep = PIXELS[:, :, 0].astype(np.uint16) * 256
    Image.fromarray(deep).save("deep.png", transparency=0)
    assert torch.equal(seen("deep.png"), expected(np.repeat(PIXELS[:, :, :1], 3, 2)))


def test_names_that_are_no_text_are_made_so() -> None:
    path = Path(os.fsdecode(b"a\xff\x1b[31m.png"))
    Image.fromarray(PIXELS).save(path)
    (found,) = from_files([path], SEEN)
    assert found.name == r"a\udcff\x1b[31m.png"


def test_the_same_image_twice_is_refused() -> None:
    Image.fromarray(PIXELS).save("a.png")
    with pytest.raises(InputError, match=r"The image .*a.png is given twice"):
        from_files([Path("a.png"), Path.cwd() / "a.png"], SEEN)


def test_grey_images_have_three_equal_channels() -> None:
    grey = PIXELS[:, :, 0]
    Image.fromarray(grey).save("a.png")
    assert torch.equal(seen("a.png"), expected(np.repeat(grey[:, :, None], 3, 2)))
    deep = grey.astype(np.uint16) * 256
    Image.fromarray(deep).save("deep.png")
    assert torch.equal(seen("deep.png"), expected(np.repeat(grey[:, :, None], 3, 2)))


def test_files_that_are_no_images() -> None:
    Path("text.png").write_text("no image")
    Image.effect_noise((64, 64), 50).save("whole.png")
    Path("cut.png").write_bytes(Path("whole.png").read_bytes()[:900])
    for name, sentence in (
        ("missing.png", "The image missing.png does not exist"),
        ("text.png", "text.png is not an image that can be read"),
        ("cut.png", "The image cut.png is damaged and cannot be decoded"),
    ):
        with pytest.raises(InputError, match=sentence):
            from_files([Path(name)], SEEN)


def test_an_image_of_another_size_is_kept_whole_too() -> None:
    Image.fromarray(PIXELS).save("a.png")
    Image.fromarray(PIXELS).resize((1200, 400)).save("b.png")
    Image.fromarray(PIXELS).resize((3, 4)).convert("L").save("c.png")
    same, large, small = from_files([Path(f"{name}.png") for name in "abc"], SEEN)
    assert (same.size, same.whole) == ((2, 3), None)
    assert large.size == (400, 1200)
    assert large.whole is not None
    assert large.whole.shape == (3, 171, 512)
    assert small.size == (4, 3)
    assert small.whole is not None
    assert torch.equal(small.whole, torch.from_numpy(np.array(Image.open("c.png")))[None].expand(3, 4, 3))
