"""Folders of images: which class is which, what is read, and what is refused by name."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.image_kinds import open_folder
from helpers.inputs import read_rgb
from PIL import Image
from torch import Tensor

from decompose_cli.datasets.folders import FolderImages
from decompose_cli.datasets.registry import available_splits, open_dataset
from decompose_cli.errors import InputError
from decompose_cli.preprocessing import CIFAR, IMAGENET, Interpolation, Preprocessing


def everything(
    dataset: FolderImages, preprocessing: Preprocessing | None = None, batch: int = 4
) -> tuple[Tensor, Tensor]:
    batches = list(dataset.batches(preprocessing or dataset.preprocessing, batch, 0))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def save(path: Path, size: tuple[int, int] = (32, 32), seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_small_images_of_one_size_come_pixel_for_pixel(make_images: Callable[..., Path], tmp_path: Path) -> None:
    root = make_images(tmp_path / "set", ["b", "a"])
    dataset = open_folder(f"folder:{root}", "test")
    images, labels = everything(dataset)
    assert dataset.class_names == ("a", "b")
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert labels.dtype == torch.int64
    assert images.dtype == torch.uint8
    for number, file in enumerate(sorted((root / "test").glob("*/*.png"))):
        assert np.array_equal(images[number].permute(1, 2, 0).numpy(), np.asarray(Image.open(file)))
    assert dataset.in_memory() is not None
    assert dataset.preprocessing == CIFAR


def test_images_that_are_not_square_keep_their_width_and_height(tmp_path: Path) -> None:
    pixels = save(tmp_path / "test" / "a" / "0.png", (40, 24))
    dataset = open_folder(f"folder:{tmp_path}", "test")
    same = Preprocessing(CIFAR.mean, CIFAR.std, resize=(24, 40), crop=(24, 40))
    assert np.array_equal(everything(dataset, same)[0][0].permute(1, 2, 0).numpy(), pixels)
    assert dataset.preprocessing.crop == (24, 24)


def test_large_images_are_streamed(make_images: Callable[..., Path], tmp_path: Path) -> None:
    root = make_images(tmp_path / "set", ["a", "b"], side=80)
    dataset = open_folder(f"folder:{root}", "test")
    images, labels = everything(dataset)
    assert dataset.preprocessing == IMAGENET
    assert images.shape == (6, 3, 224, 224)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.in_memory() is None


def test_small_images_of_mixed_sizes_are_streamed(tmp_path: Path) -> None:
    save(tmp_path / "test" / "a" / "0.png", (32, 32))
    save(tmp_path / "test" / "a" / "1.png", (48, 40))
    save(tmp_path / "test" / "b" / "0.png", (200, 100))
    dataset = open_folder(f"folder:{tmp_path}", "test")
    images, labels = everything(dataset)
    assert images.shape == (3, 3, 32, 32)
    assert labels.tolist() == [0, 0, 1]
    assert dataset.in_memory() is None
    assert len(dataset.fingerprint()) == 64
    assert dataset.fingerprint() == open_folder(f"folder:{tmp_path}", "test").fingerprint()


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(("resize", "crop"), [(64, (56, 56)), ((50, 70), (48, 64)), (90, (90, 90)), (40, (40, 30))])
@pytest.mark.parametrize("size", [(100, 80), (71, 133)])
def test_streamed_pixels_are_those_of_torchvision(
    tmp_path: Path,
    interpolation: Interpolation,
    resize: int | tuple[int, int],
    crop: tuple[int, int],
    size: tuple[int, int],
) -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize, ToTensor

    file = tmp_path / "test" / "a" / "0.png"
    save(file, size)
    transform = Compose([Resize(resize, InterpolationMode(interpolation)), CenterCrop(crop), ToTensor()])
    expected = (transform(Image.open(file).convert("RGB")) * 255).round().to(torch.uint8)
    dataset = open_folder(f"folder:{tmp_path}", "test")
    ours = everything(dataset, Preprocessing(IMAGENET.mean, IMAGENET.std, resize, crop, interpolation))[0][0]
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("batch", [1, 2, 64])
@pytest.mark.parametrize("side", [32, 80])
def test_batch_size_changes_nothing(make_images: Callable[..., Path], tmp_path: Path, batch: int, side: int) -> None:
    root = make_images(tmp_path / "set", ["a", "b"], side=side)
    chosen = Preprocessing(CIFAR.mean, CIFAR.std, 28, (24, 24))
    dataset = open_folder(f"folder:{root}", "test")
    assert torch.equal(everything(dataset, chosen, batch)[0], everything(dataset, chosen, 3)[0])


def test_workers_change_nothing(make_images: Callable[..., Path], tmp_path: Path) -> None:
    root = make_images(tmp_path / "set", ["a"], side=80)
    dataset = open_folder(f"folder:{root}", "test")
    alone = everything(dataset)[0]
    assert torch.equal(torch.cat([images for images, _ in dataset.batches(IMAGENET, 2, 1)]), alone)


def _modes() -> list[tuple[str, str, Image.Image, np.ndarray]]:
    """Name, suffix, image, and the RGB pixels that it stands for."""
    random = np.random.default_rng(0)
    grey = random.integers(0, 256, (8, 8), dtype=np.uint8)
    rgb = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    alpha = random.integers(0, 256, (8, 8), dtype=np.uint8)
    palette = Image.fromarray(random.integers(0, 3, (8, 8), dtype=np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)
    three_greys = np.repeat(grey[..., None], 3, 2)
    deep = grey.astype(np.uint16) * 256 + 255
    inverted = 255 - rgb
    cmyk = Image.merge("CMYK", [Image.fromarray(inverted[..., i]) for i in range(3)] + [Image.new("L", (8, 8), 0)])
    return [
        ("L", "png", Image.fromarray(grey), three_greys),
        ("LA", "png", Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]), three_greys),
        ("P", "png", palette, colours[np.asarray(palette)]),
        ("RGBA", "png", Image.fromarray(np.dstack([rgb, alpha])), rgb),
        ("1", "png", Image.fromarray(grey > 127), np.repeat((grey > 127)[..., None] * np.uint8(255), 3, 2)),
        ("I;16", "png", Image.fromarray(deep), three_greys),
        ("I;16 tiff", "tif", Image.fromarray(deep), three_greys),
        ("CMYK", "tif", cmyk, rgb),
        ("RGB bmp", "bmp", Image.fromarray(rgb), rgb),
    ]


@pytest.mark.parametrize(("name", "suffix", "image", "expected"), _modes(), ids=[row[0] for row in _modes()])
def test_modes_become_rgb(name: str, suffix: str, image: Image.Image, expected: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "test" / "a" / f"0.{suffix}"
    file.parent.mkdir(parents=True)
    image.save(file)
    images, _ = everything(open_folder(f"folder:{tmp_path}", "test"))
    assert np.array_equal(images[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("side", [32, 80])
@pytest.mark.parametrize("damage", ["cut off", "no image", "empty"])
def test_damaged_image_is_named(damage: str, side: int, make_images: Callable[..., Path], tmp_path: Path) -> None:
    root = make_images(tmp_path / "set", ["a"], side=side)
    file = root / "test" / "a" / "001.png"
    file.write_bytes({"cut off": file.read_bytes()[:200], "no image": b"text", "empty": b""}[damage])
    with pytest.raises(InputError, match=r"001\.png"):
        everything(open_folder(f"folder:{root}", "test"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp", "ppm"])
def test_flipped_bytes_give_an_image_or_one_of_our_errors(suffix: str) -> None:
    random = np.random.default_rng(0)
    buffer = io.BytesIO()
    formats = {"jpg": "JPEG", "tif": "TIFF"}
    image = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    image.save(buffer, formats.get(suffix, suffix.upper()))
    whole, path = buffer.getvalue(), Path(f"0.{suffix}")
    for round_ in range(200):
        damaged = bytearray(whole if round_ % 4 else whole[: int(random.integers(1, len(whole)))])
        for place in random.integers(0, min(len(damaged), 200), 3):
            damaged[place] = int(random.integers(0, 256))
        path.write_bytes(damaged)
        try:
            assert read_rgb(path).mode == "RGB"
        except InputError as error:
            assert path.name in error.message  # noqa: PT017 - either outcome is right


def test_dot_folders_and_dot_files_are_left_out(make_images: Callable[..., Path], tmp_path: Path) -> None:
    root = make_images(tmp_path / "set", ["a", "b"])
    for split in ("train", "test"):
        (root / split / ".ipynb_checkpoints").mkdir()
        (root / split / "a" / "._000.png").write_bytes(b"resource fork")
        (root / split / "stray.txt").write_text("x")
    dataset = open_folder(f"folder:{root}", "test")
    assert dataset.class_names == ("a", "b")
    assert len(dataset) == 6


def test_files_that_are_no_images_are_left_out(make_images: Callable[..., Path], tmp_path: Path) -> None:
    root = make_images(tmp_path / "set", ["a"])
    (root / "test" / "a" / "Thumbs.db").write_bytes(b"x")
    save(root / "test" / "a" / "UPPER.PNG")
    assert len(open_folder(f"folder:{root}", "test")) == 4


def test_class_that_the_test_split_lacks_does_not_shift_the_others(make_images: Callable[..., Path]) -> None:
    root = make_images(Path("set"), ["a", "b", "c"])
    for file in (root / "test" / "b").iterdir():
        file.unlink()
    (root / "test" / "b").rmdir()
    dataset = open_folder(f"folder:{root}", "test")
    assert dataset.class_names == ("a", "b", "c")
    assert everything(dataset)[1].tolist() == [0, 0, 0, 2, 2, 2]


def test_class_that_the_training_split_lacks_is_refused(make_images: Callable[..., Path]) -> None:
    root = make_images(Path("set"), ["a", "b"])
    save(root / "test" / "zebra" / "0.png")
    with pytest.raises(InputError, match="has the class folder 'zebra' which the training split does not have"):
        open_folder(f"folder:{root}", "test")
    save(root / "test" / "yak" / "0.png")
    with pytest.raises(InputError, match="'yak' and 1 more which the training split"):
        open_folder(f"folder:{root}", "test")


@pytest.mark.parametrize("content", [None, "notes.txt"])
def test_empty_class_folder_is_refused(content: str | None, make_images: Callable[..., Path]) -> None:
    root = make_images(Path("set"), ["a", "b"])
    (root / "train" / "empty").mkdir()
    (root / "test" / "empty").mkdir()
    if content:
        (root / "test" / "empty" / content).write_text("x")
    with pytest.raises(InputError, match=r"The class folder set/test/empty has no images"):
        open_folder(f"folder:{root}", "test")


def test_splits(make_images: Callable[..., Path]) -> None:
    root = make_images(Path("set"), ["a"], splits=("train", "val"))
    assert available_splits(f"folder:{root}") == ("val", "train")
    with pytest.raises(InputError, match="set has no folder 'test'; of train, val and test it has train, val"):
        open_dataset(f"folder:{root}", "test", Path())


def test_folder_without_splits(make_images: Callable[..., Path]) -> None:
    root = make_images(Path("set"), ["a"], splits=("images",))
    assert available_splits(f"folder:{root}") == ()
    with pytest.raises(InputError, match="it has none of them") as refusal:
        open_folder(f"folder:{root}", "test")
    assert "PATH/train|val|test/<class>/<image>" in (refusal.value.hint or "")


def test_split_without_class_folders() -> None:
    save(Path("set/test/0.png"))
    with pytest.raises(InputError, match="set/test has no class folders"):
        open_folder("folder:set", "test")


@pytest.mark.parametrize("spec", ["folder:", "folder:nowhere"])
def test_folder_that_does_not_exist(spec: str) -> None:
    with pytest.raises(InputError, match=f"of dataset {spec} does not exist"):
        open_folder(spec, "test")


def test_folder_that_is_a_file() -> None:
    Path("file").touch()
    with pytest.raises(InputError, match="file of dataset folder:file is a file, not a folder"):
        open_folder("folder:file", "test")


def test_validation_only_folder_numbers_its_own_classes(make_images: Callable[..., Path]) -> None:
    root = make_images(Path("set"), ["x", "y"], splits=("val",))
    assert open_folder(f"folder:{root}", "val").class_names == ("x", "y")


@pytest.mark.parametrize("side", [32, 80])
def test_fingerprint_follows_the_images_and_not_their_place(side: int, make_images: Callable[..., Path]) -> None:
    first = make_images(Path("one"), ["a", "b"], side=side)
    before = open_folder(f"folder:{first}", "test").fingerprint()
    assert open_folder(f"folder:{first}", "test").fingerprint() == before
    if side == 32:  # of images in memory only pixels and labels count
        assert open_folder(f"folder:{make_images(Path('two'), ['a', 'b'])}", "test").fingerprint() == before
    save(first / "test" / "a" / "000.png", (side, side), seed=9)
    changed = open_folder(f"folder:{first}", "test").fingerprint()
    assert changed != before
    (first / "test" / "a" / "000.png").rename(first / "test" / "b" / "zzz.png")
    assert open_folder(f"folder:{first}", "test").fingerprint() not in (before, changed)
