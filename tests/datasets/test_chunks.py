"""Data sets in chunks: any ranges in any order, and images that cannot be read are named and not fatal."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.image_kinds import open_folder
from helpers.inputs import noise, put
from PIL import Image

from decompose_cli.datasets import streaming
from decompose_cli.datasets.base import Chunk, ImageDataset, InMemoryImages
from decompose_cli.datasets.folders import FolderImages
from decompose_cli.datasets.registry import open_dataset
from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.features import extraction
from decompose_cli.preprocessing import CIFAR, ImageOptions, Preprocessing
from decompose_cli.storage.fingerprints import pixel_fingerprint

MakeImages = Callable[..., Path]
SEEN = Preprocessing(CIFAR.mean, CIFAR.std, 28, (24, 20))
NO_IMAGE = "images/test/b/001.png is not an image that can be read."
CUT_OFF = "The image images/test/a/002.png is damaged and cannot be decoded."


def opened(make_images: MakeImages, side: int, n: int = 4) -> FolderImages:
    root = make_images(Path("images"), ["a", "b"], ("test",), n=n, side=side)
    return open_folder(f"folder:{root}", "test")


def opened_again() -> FolderImages:
    return open_folder("folder:images", "test")


def damage(number: int) -> None:
    """Cut image 2 off within its pixels, or replace image 5 by text."""
    file = Path("images/test") / {2: "a/002.png", 5: "b/001.png"}[number]
    file.write_bytes(file.read_bytes()[:-100] if number == 2 else b"text")


def all_of(dataset: ImageDataset, preprocessing: Preprocessing = SEEN) -> torch.Tensor:
    return torch.cat([images for images, _ in dataset.batches(preprocessing, 3, 0)])


WANTED = [range(5, 8), range(3), range(2, 3), range(4, 4), range(8)]


@pytest.mark.parametrize(("side", "workers"), [(32, 0), (32, 2), (80, 0), (80, 2)])
def test_chunks_are_the_images_of_their_ranges_in_the_order_that_is_wanted(
    side: int, workers: int, make_images: MakeImages
) -> None:
    dataset = opened(make_images, side)
    whole = all_of(dataset)
    chunks = list(dataset.chunks(SEEN, WANTED, workers))
    assert [chunk.numbers for chunk in chunks] == WANTED
    for chunk in chunks:
        assert chunk.images.dtype == torch.uint8
        assert chunk.images.shape == (len(chunk.numbers), 3, 24, 20)
        assert torch.equal(chunk.images, whole[chunk.numbers.start : chunk.numbers.stop])
        assert chunk.unreadable == {}
    assert list(dataset.chunks(SEEN, [], workers)) == []


@pytest.mark.parametrize("side", [32, 80])
def test_images_of_a_chunk_are_those_of_the_files(side: int, make_images: MakeImages) -> None:
    dataset = opened(make_images, side)
    same = Preprocessing(CIFAR.mean, CIFAR.std, side, (side, side))
    (chunk,) = dataset.chunks(same, [range(3, 6)], 0)
    for row, number in enumerate(chunk.numbers):
        assert np.array_equal(chunk.images[row].permute(1, 2, 0).numpy(), np.asarray(Image.open(dataset.files[number])))


@pytest.mark.parametrize(("side", "workers"), [(32, 0), (80, 0), (80, 1), (80, 2)])
def test_unreadable_images_are_zeros_and_named_and_all_others_come(
    side: int, workers: int, make_images: MakeImages
) -> None:
    expected = all_of(opened(make_images, side))
    damage(2)
    damage(5)
    dataset = open_folder("folder:images", "test")
    expected[[2, 5]] = 0
    seen = torch.zeros_like(expected)
    unreadable: dict[int, str] = {}
    for chunk in dataset.chunks(SEEN, [range(4, 8), range(4)], workers):
        seen[chunk.numbers.start : chunk.numbers.stop] = chunk.images
        assert all(number in chunk.numbers for number in chunk.unreadable)
        unreadable |= chunk.unreadable
    assert torch.equal(seen, expected)
    assert unreadable == {2: CUT_OFF, 5: NO_IMAGE}


@pytest.mark.parametrize(("side", "workers"), [(32, 0), (80, 0), (80, 2)])
@pytest.mark.parametrize("number", [2, 5])
def test_batches_stop_at_the_first_unreadable_image_with_its_sentence_and_its_hint(
    side: int, workers: int, number: int, make_images: MakeImages
) -> None:
    dataset = opened(make_images, side)
    damage(number)
    with pytest.raises(InputError) as refusal:
        list(dataset.batches(SEEN, 4, workers))
    assert refusal.value.message == {2: CUT_OFF, 5: NO_IMAGE}[number]
    assert (refusal.value.hint is None) == (number == 2)
    if side == 32:
        with pytest.raises(InputError, match=r"00[12]\.png"):
            dataset.in_memory()


def test_the_first_of_several_is_the_one_that_is_named(make_images: MakeImages) -> None:
    dataset = opened(make_images, 80)
    damage(2)
    damage(5)
    with pytest.raises(InputError, match=r"002\.png"):
        dataset.refuse({5: NO_IMAGE, 2: CUT_OFF})


def test_an_image_that_can_be_read_by_now_does_not_hide_that_it_could_not(make_images: MakeImages) -> None:
    dataset = opened(make_images, 80)
    with pytest.raises(InputError, match=r"^a sentence$"):
        dataset.refuse({3: "a sentence"})


@pytest.mark.parametrize("side", [32, 80])
def test_the_first_image_may_be_unreadable(side: int, make_images: MakeImages) -> None:
    whole = opened(make_images, side)
    Path("images/test/a/000.png").write_bytes(b"")
    dataset = open_folder("folder:images", "test")
    assert dataset.preprocessing == whole.preprocessing
    assert dataset.decided_by == Path("images/test/a/001.png")
    assert len(dataset.fingerprint()) == 64
    (chunk,) = dataset.chunks(SEEN, [range(8)], 0)
    assert chunk.unreadable == {0: "images/test/a/000.png is not an image that can be read."}
    assert torch.equal(chunk.images[1:], all_of(whole.without([0])))


def test_a_folder_of_which_nothing_can_be_read_is_refused(make_images: MakeImages) -> None:
    opened(make_images, 32)
    for file in Path("images").glob("*/*/*"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"images/test/a/000\.png is not an image"):
        _ = open_folder("folder:images", "test").preprocessing


def test_small_images_that_cannot_all_be_read_are_known_by_their_files(make_images: MakeImages) -> None:
    dataset = opened(make_images, 32)
    pixels = dataset.in_memory()
    assert pixels is not None
    assert dataset.fingerprint() == pixel_fingerprint(pixels, dataset.labels)
    damage(2)
    broken = open_folder("folder:images", "test").fingerprint()
    zeros = pixels.clone()
    zeros[2] = 0
    assert broken not in (dataset.fingerprint(), pixel_fingerprint(zeros, dataset.labels))
    assert open_folder("folder:images", "test").fingerprint() == broken


class Own(InMemoryImages):
    """A data set of a program's own that brings single images alone."""

    fails: Callable[[], Any] = staticmethod(lambda: None)

    def in_memory(self) -> Any:
        return None

    def image(self, index: int) -> Image.Image:
        if index == 2:
            self.fails()
        return super().image(index)


def own(fails: Callable[[], Any]) -> Own:
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dataset = Own("own", "test", ["a"], CIFAR, lambda: (pixels, torch.zeros(4, dtype=torch.int64)), "own")
    dataset.fails = fails
    return dataset


def raising(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


TINY = Preprocessing(CIFAR.mean, CIFAR.std, 8, (8, 8))


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_that_are_not_of_one_image_stay_errors(workers: int) -> None:
    dataset = own(raising(ValueError("of the program")))
    with pytest.raises(ValueError, match="of the program"):
        list(dataset.chunks(TINY, [range(4)], workers))
    dataset = own(raising(DecomposeError("The machine is out of order.", hint="Call someone.")))
    with pytest.raises(DecomposeError) as refusal:
        list(dataset.chunks(TINY, [range(4)], workers))
    assert refusal.value.message == "The machine is out of order."
    assert refusal.value.hint == (None if workers else "Call someone.")
    unreadable = list(own(raising(InputError("Image 2 is no good."))).chunks(TINY, [range(2), range(2, 4)], workers))
    assert [chunk.unreadable for chunk in unreadable] == [{}, {2: "Image 2 is no good."}]


def test_too_many_open_files_are_no_damage_of_an_image(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened(make_images, 80)
    _ = dataset.preprocessing

    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(DecomposeError, match=r"000\.png cannot be opened: Too many open files") as refusal:
        list(dataset.chunks(SEEN, [range(8)], 0))
    assert not isinstance(refusal.value, InputError)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_chunk_is_joined_from_the_parts_that_processes_decode(
    workers: int, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened(make_images, 80)
    whole = list(dataset.chunks(SEEN, WANTED, 0))
    damage(2)
    damage(5)
    monkeypatch.setattr(streaming, "_PIXELS_OF_A_PART", 2 * 24 * 20 + 1)
    decoded: list[int] = []
    joined = streaming._joined
    monkeypatch.setattr(
        streaming, "_joined", lambda numbers, parts: decoded.append(len(parts)) or joined(numbers, parts)
    )
    parts = list(opened_again().chunks(SEEN, WANTED, workers))
    assert decoded == [2, 2, 1, 1, 4]  # parts of two images; one of none
    for before, after in zip(whole, parts, strict=True):
        assert before.numbers == after.numbers
        assert set(after.unreadable) == {2, 5} & set(after.numbers)
        for number, image, other in zip(after.numbers, after.images, before.images, strict=True):
            assert torch.equal(image, torch.zeros_like(other) if number in (2, 5) else other)


@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_is_killed_while_the_network_is_made_ready_ends_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch says it wherever the program is at that moment, such as while the network is copied."""
    for made in (RuntimeError, InputError):

        class Unready:
            def __init__(self, *_: object, made: type[Exception] = made, **__: object) -> None:
                try:
                    raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")
                except RuntimeError as error:
                    if made is RuntimeError:
                        raise
                    raise InputError("The network cannot be copied.") from error

        monkeypatch.setattr(extraction, "Forward", Unready)
        computing = extraction.Computing(torch.device("cpu"))
        features = extraction.features_of_chunks(None, own(lambda: None), TINY, [range(2)], computing)  # type: ignore[arg-type]
        with pytest.raises(DecomposeError, match="A process that decodes images ended before") as refusal:
            next(features)
        assert not isinstance(refusal.value, InputError)


def test_decoders_end_with_an_error_that_is_kept(make_images: MakeImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its traceback is held, as notebooks do."""

    def refuse(*_: object, **__: object) -> None:
        raise InputError("no such network")

    monkeypatch.setattr(extraction, "Forward", refuse)
    dataset, computing = opened(make_images, 80), extraction.Computing(torch.device("cpu"), workers=2)
    before = set(multiprocessing.active_children())
    with pytest.raises(InputError, match="no such network") as refusal:
        next(extraction.features_of_chunks(None, dataset, SEEN, [range(8)], computing))  # type: ignore[arg-type]
    assert refusal.tb is not None
    for _ in range(200):  # on a busy machine they take a while to end
        if not (left := set(multiprocessing.active_children()) - before):
            break
        time.sleep(0.1)
    assert not left


@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_is_killed_ends_in_a_sentence() -> None:
    dataset = own(lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(DecomposeError, match="A process that decodes images ended before its work was done") as refusal:
        list(dataset.chunks(TINY, [range(4)], 1))
    assert "shared memory" in (refusal.value.hint or "")


# --- subsets ----------------------------------------------------------------------------------------------------------


def kinds(make_images: MakeImages) -> list[ImageDataset]:
    put(Path("mixed"), {f"test/{name}/{n}.png": noise(30 + n, "PNG") for name in "ab" for n in range(4)})
    return [
        opened(make_images, 32),
        open_folder(f"folder:{make_images(Path('large'), ['a', 'b'], n=4, side=80)}", "test"),
        open_folder("folder:mixed", "test"),
        open_dataset("digits", "test", Path()),
    ]


def test_a_subset_is_the_same_data_set_without_some_images(make_images: MakeImages) -> None:
    for dataset in kinds(make_images):
        dataset.class_ids = tuple(f"n{number}" for number in range(len(dataset.class_names)))
        dataset.chosen = ImageOptions(mean=(0.1, 0.2, 0.3))
        left_out = [0, 3]
        stays = [number for number in range(len(dataset)) if number not in left_out]
        part = dataset.without(left_out)
        assert len(part) == len(stays)
        assert torch.equal(part.labels, dataset.labels[stays])
        names = ("name", "split", "class_names", "class_ids", "preprocessing", "chosen")
        assert [getattr(part, name) for name in names] == [getattr(dataset, name) for name in names]
        assert torch.equal(all_of(part), all_of(dataset)[stays])
        assert np.array_equal(np.asarray(part.image(1)), np.asarray(dataset.image(2)))
        prints = [each.fingerprint() for each in (dataset, part, dataset.without([0]), dataset.without([1, 3]))]
        assert len(set(prints)) == 4
        assert dataset.without(reversed(left_out)).fingerprint() == part.fingerprint()
        backwards = dataset.subset(torch.tensor(stays[::-1]))
        assert torch.equal(all_of(backwards), all_of(part).flip(0))
        assert backwards.fingerprint() != part.fingerprint()


@pytest.mark.parametrize("side", [32, 80])
def test_a_set_without_its_unreadable_images_is_that_of_the_others(side: int, make_images: MakeImages) -> None:
    whole = opened(make_images, side)
    expected = all_of(whole.without([2, 5]))
    damage(2)
    damage(5)
    dataset = open_folder("folder:images", "test")
    unreadable: Sequence[Chunk] = list(dataset.chunks(SEEN, [range(8)], 0))
    part = dataset.without(unreadable[0].unreadable)
    assert torch.equal(all_of(part), expected)
    assert part.labels.tolist() == [0, 0, 0, 1, 1, 1]
    if side == 32:
        assert part.fingerprint() == whole.without([2, 5]).fingerprint()
