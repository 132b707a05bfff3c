"""Training images: the same pixels for the same seed, epoch and index, however they are asked for."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.image_kinds import open_folder
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from decompose_cli.datasets import training_images
from decompose_cli.datasets.augment import Augmentation, ImageTransform, Kind
from decompose_cli.datasets.base import ImageDataset, InMemoryImages
from decompose_cli.datasets.crops import cut_out, draw_crops
from decompose_cli.datasets.folders import FolderImages
from decompose_cli.datasets.training_images import TrainingImages
from decompose_cli.errors import InputError
from decompose_cli.features.extraction import normalised_batches
from decompose_cli.preprocessing import CIFAR, IMAGENET, Preprocessing

CPU = torch.device("cpu")
KINDS: list[Kind] = ["none", "crop-flip", "resized-crop", "affine"]
SMALLER = Preprocessing(CIFAR.mean, CIFAR.std, 26, (24, 20))


def images_of(count: int = 23, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def in_memory(pixels: Tensor | None = None) -> InMemoryImages:
    pixels = images_of() if pixels is None else pixels
    return InMemoryImages("toy", "train", list("ab"), CIFAR, lambda: (pixels, torch.arange(len(pixels)) % 2), "stamp")


def training(
    dataset: ImageDataset,
    augmentation: Augmentation,
    preprocessing: Preprocessing = CIFAR,
    seed: int = 0,
    workers: int = 0,
) -> TrainingImages:
    return TrainingImages(dataset, preprocessing, augmentation, seed=seed, device=CPU, workers=workers)


def everything(images: TrainingImages, epoch: int = 0) -> Tensor:
    (found,) = images.batches(epoch, [torch.arange(len(images.dataset))])
    return found


@pytest.fixture
def streamed(make_images: Callable[..., Path], tmp_path: Path) -> FolderImages:
    return open_folder(f"folder:{make_images(tmp_path / 'set', ['a', 'b'], n=6, side=80)}", "train")


def partitions(count: int) -> Iterator[list[Tensor]]:
    """Ways to ask for images: all at once, one by one, shuffled, from the middle, with nothing, with repeats."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    empty = torch.empty(0, dtype=torch.int64)
    yield [torch.arange(count)]
    yield list(torch.arange(count).split(1))
    yield list(order.split(5))
    yield list(order[7:].split(4))
    yield [empty, order[:3], empty, empty, order[3:4], empty]
    yield [torch.tensor([2, 2, 0]), torch.tensor([2])]
    yield [empty, empty]
    yield []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preprocessing", [CIFAR, SMALLER], ids=["as stored", "smaller"])
@pytest.mark.parametrize("cutout", [0, 6])
def test_batches_do_not_matter_in_memory(kind: Kind, preprocessing: Preprocessing, cutout: int) -> None:
    augmentation = Augmentation(kind, cutout=cutout)
    expected = everything(training(in_memory(), augmentation, preprocessing, seed=3), epoch=5)
    assert expected.shape == (23, 3, *preprocessing.crop)
    used = training(in_memory(), augmentation, preprocessing, seed=3)
    for batches in partitions(23):
        for images in (used, training(in_memory(), augmentation, preprocessing, seed=3)):
            _check(images, 5, batches, expected)


def _check(images: TrainingImages, epoch: int, batches: Sequence[Tensor], expected: Tensor) -> None:
    found = list(images.batches(epoch, batches))
    assert len(found) == len(batches)
    for made, indices in zip(found, batches, strict=True):
        assert made.dtype == torch.float32
        assert made.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(made, expected[indices])


@pytest.mark.parametrize(("kind", "workers"), [*((kind, 0) for kind in KINDS), ("crop-flip", 2), ("affine", 2)])
def test_batches_and_workers_do_not_matter_for_images_in_files(
    kind: Kind, workers: int, streamed: FolderImages
) -> None:
    preprocessing = Preprocessing(IMAGENET.mean, IMAGENET.std, 70, (64, 60))
    augmentation = Augmentation(kind, cutout=9)
    expected = everything(training(streamed, augmentation, preprocessing, seed=3), epoch=5)
    images = training(streamed, augmentation, preprocessing, seed=3, workers=workers)
    for number, batches in enumerate(partitions(12)):
        if workers == 0 or number == 4:
            _check(images, 5, batches, expected)


@pytest.mark.parametrize("kind", ["resized-crop", "affine"])
def test_workers_do_not_matter_for_images_in_memory(kind: Kind) -> None:
    batches, few = list(torch.randperm(7).split(2)), in_memory(images_of(7))
    # At the size of ImageNet, torch splits the work of one image among its threads; a worker has only one.
    large = Preprocessing(IMAGENET.mean, IMAGENET.std, 256, (224, 224))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = torch.cat(list(training(few, Augmentation(kind), large).batches(1, batches)))
    finally:
        torch.set_num_threads(threads)
    shared = training(few, Augmentation(kind), large, workers=2)
    assert torch.equal(torch.cat(list(shared.batches(1, batches))), alone)


class Telling(FolderImages):
    """Each image is of one level: the number of the worker that reads it, counted from 1; 0 without workers."""

    def image(self, index: int) -> Image.Image:
        worker = get_worker_info()
        return Image.new("RGB", (32, 32), (worker.id + 1 if worker else 0,) * 3)


@pytest.mark.parametrize(("workers", "readers"), [(0, {0}), (1, {1}), (2, {1, 2})])
def test_images_are_read_by_as_many_workers_as_wanted(workers: int, readers: set[int], streamed: FolderImages) -> None:
    dataset = Telling("toy", "train", streamed.root, streamed.files, streamed.labels.tolist(), streamed.class_names)
    plain = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 32, (32, 32))
    images = training(dataset, Augmentation("none"), plain, workers=workers)
    found = torch.cat(list(images.batches(0, list(torch.arange(12).split(2)))))
    assert set((found * 255).round().unique().int().tolist()) == readers


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_epochs_matter_and_the_global_generator_does_not(kind: Kind, streamed: FolderImages) -> None:
    for dataset in (in_memory(), streamed):
        made = {}
        for place in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 0)):
            torch.manual_seed(len(made))
            before = torch.get_rng_state()
            seed, epoch = place
            found = everything(training(dataset, Augmentation(kind), seed=seed), epoch)
            assert torch.equal(torch.get_rng_state(), before)
            assert torch.equal(made.setdefault(place, found), found)
        assert len({images.numpy().tobytes() for images in made.values()}) == (1 if kind == "none" else 4)


@pytest.mark.parametrize("preprocessing", [CIFAR, SMALLER])
@pytest.mark.parametrize("kind", ["none", "crop-flip"])
def test_whole_batches_are_what_files_give_one_by_one(
    kind: Kind, preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmentation = Augmentation(kind, padding_mode="border", cutout=5)
    expected = everything(training(in_memory(), augmentation, preprocessing), 2)
    monkeypatch.setattr(training_images, "_MOST_BYTES", 1000)
    images = training(in_memory(), augmentation, preprocessing)
    assert images._table is None
    assert torch.equal(everything(images, 2), expected)


@pytest.mark.parametrize("preprocessing", [CIFAR, SMALLER])
def test_without_augmentation_images_are_those_of_evaluation_bit_for_bit(
    preprocessing: Preprocessing, streamed: FolderImages
) -> None:
    for dataset in (in_memory(), streamed):
        evaluated = torch.cat(
            [
                images
                for images, _ in normalised_batches(
                    dataset, preprocessing, device=CPU, precision="32", batch_size=8, workers=0
                )
            ]
        )
        augmentation = Augmentation("none", padding=7, flip=True, cutout=9)
        assert torch.equal(everything(training(dataset, augmentation, preprocessing)), evaluated)


def test_crops_and_cutouts_are_those_of_the_index_in_the_data_set() -> None:
    """Image 11 of 23 is made in the same way whatever its place in the batch: image by image, in float64."""
    pixels, augmentation = images_of(), Augmentation("crop-flip", padding=3, cutout=8)
    found = everything(training(in_memory(pixels), augmentation, seed=2), 7)
    indices = torch.arange(23)
    crops = draw_crops(augmentation, 2, 7, indices)
    mean, std = (torch.tensor(values).double().view(3, 1, 1) for values in (CIFAR.mean, CIFAR.std))
    expected = torch.empty(23, 3, 32, 32, dtype=torch.float64)
    for index in range(23):
        padded = torch.zeros(3, 38, 38, dtype=torch.float64)
        padded[:, 3:35, 3:35] = pixels[index]
        top, left = int(crops.top[index]), int(crops.left[index])
        image = padded[:, top : top + 32, left : left + 32]
        expected[index] = ((image.flip(2) if bool(crops.flip[index]) else image) / 255 - mean) / std
    cut_out(expected, indices, 8, 2, 7)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert int((found == 0).all(1).sum()) >= 23 * 16


@pytest.mark.parametrize("kind", ["resized-crop", "affine"])
def test_images_in_files_are_transformed_as_pillow_images(kind: Kind, streamed: FolderImages) -> None:
    augmentation = Augmentation(kind)
    found = everything(training(streamed, augmentation, IMAGENET, seed=4), 6)
    transform = ImageTransform(augmentation, IMAGENET)
    mean, std = (torch.tensor(values).double().view(3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    for index in range(12):
        pixels = transform(streamed.image(index), 4, 6, index)
        torch.testing.assert_close(found[index].double(), (pixels.double() / 255 - mean) / std, rtol=1e-5, atol=1e-6)


# Workers of a DataLoader that has failed may take ten seconds to go.
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_damaged_image_is_one_sentence(workers: int, streamed: FolderImages) -> None:
    file = streamed.files[3]
    file.write_bytes(file.read_bytes()[:200])
    images = training(streamed, Augmentation("resized-crop"), IMAGENET, workers=workers)
    with pytest.raises(InputError) as refusal:
        list(images.batches(0, [torch.arange(3), torch.arange(3, 6)]))
    assert refusal.value.message == f"The image {file} is damaged and cannot be decoded."


@pytest.mark.slow
def test_images_can_be_sent_to_workers_that_are_not_forked() -> None:
    """A data set in memory holds a function that cannot be pickled."""
    transform = ImageTransform(Augmentation("affine"), CIFAR)
    images = training_images._Images(in_memory(), transform, 1, 2)
    assert torch.equal(pickle.loads(pickle.dumps(images))[5], images[5])


def test_images_as_stored(make_images: Callable[..., Path], streamed: FolderImages, tmp_path: Path) -> None:
    pixels = images_of(4, 24, 40)
    assert in_memory(pixels).in_memory() is pixels
    small = open_folder(f"folder:{make_images(tmp_path / 'small', ['a', 'b'])}", "train")
    assert streamed.in_memory() is None
    stored = small.in_memory()
    assert stored is not None
    assert stored.shape == (6, 3, 32, 32)
    sources: list[tuple[ImageDataset, list[Tensor]]] = [
        (in_memory(pixels), list(pixels)),
        (small, list(stored)),
        (streamed, [_pixels(file) for file in streamed.files]),
    ]
    for dataset, expected in sources:
        for index, image in enumerate(expected):
            found = dataset.image(index)
            assert isinstance(found, Image.Image)
            assert found.mode == "RGB"
            assert np.array_equal(np.asarray(found), image.permute(1, 2, 0).numpy())


def _pixels(file: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
