"""Which images are trained on, held out, and tested on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from decompose_cli.datasets.base import InMemoryImages
from decompose_cli.datasets.registry import open_dataset
from decompose_cli.datasets.sampling import hold_out
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.preprocessing import CIFAR
from decompose_cli.training.data import divide, labels_by_name, never_held_out, open_splits

Make = Callable[..., Path]


def splits_of(root: Path, split: str | None = None) -> tuple[object, object]:
    return open_splits(Inputs(split=split), f"folder:{root}")


def test_training_images_and_others(make_images: Make) -> None:
    both, _ = make_images(Path("both"), ["a", "b"], n=2, side=8), None
    train, test = open_splits(Inputs(), f"folder:{both}")
    assert (train.split, test.split if test else None) == ("train", "test")
    alone = make_images(Path("alone"), ["a", "b"], ("train",), n=2, side=8)
    assert open_splits(Inputs(), f"folder:{alone}")[1] is None
    val = make_images(Path("val"), ["a", "b"], ("train", "val"), n=2, side=8)
    other = open_splits(Inputs(), f"folder:{val}")[1]
    assert other is not None
    assert other.split == "val"


def test_without_training_images_there_is_nothing_to_learn(make_images: Make) -> None:
    root = make_images(Path("set"), ["a", "b"], ("test",), n=2, side=8)
    with pytest.raises(InputError, match="folder:set has no training images") as caught:
        splits_of(root)
    assert "train" in (caught.value.hint or "")


def test_a_split_cannot_be_chosen(make_images: Make) -> None:
    root = make_images(Path("set"), ["a", "b"], n=2, side=8)
    with pytest.raises(InputError, match="split has no effect here"):
        splits_of(root, "test")


def test_test_labels_are_matched_by_name(make_images: Make) -> None:
    make_images(Path("set"), ["b", "c", "d"], ("train",), n=2, side=8)
    make_images(Path("set"), ["c", "d"], ("test",), n=2, side=8)
    train, test = (open_dataset("folder:set", split, Path(), allow_download=False) for split in ("train", "test"))
    assert labels_by_name(train, test).tolist() == [1, 1, 2, 2]


def test_a_test_class_that_is_not_trained_on_is_refused(make_images: Make) -> None:
    make_images(Path("set"), ["a", "b"], ("train",), n=2, side=8)
    make_images(Path("set"), ["a", "z"], ("test",), n=2, side=8)
    with pytest.raises(InputError, match="class folder 'z' which the training split does not have"):
        splits_of(Path("set"))


def test_classes_of_data_sets_in_memory_are_matched_too() -> None:
    def toy(split: str, names: str) -> InMemoryImages:
        labels = torch.arange(len(names))
        return InMemoryImages("toy", split, list(names), CIFAR, lambda: (torch.zeros(0), labels), names)

    assert labels_by_name(toy("train", "abc"), toy("test", "ca")).tolist() == [2, 0]
    with pytest.raises(InputError, match="toy test with train"):
        labels_by_name(toy("train", "abc"), toy("test", "az"))


def test_the_same_share_of_every_class_is_held_out(make_images: Make) -> None:
    root = make_images(Path("set"), ["a", "b", "c"], ("train",), n=10, side=8)
    train, _ = open_splits(Inputs(), f"folder:{root}")
    found = divide(train, train.labels, None, train.class_names, CIFAR, val_split=0.2, seed=0)
    assert found.val is not None
    assert found.val.split == "held-out"
    assert Counter(found.val.labels.tolist()) == {0: 2, 1: 2, 2: 2}
    assert Counter(train.labels[found.indices].tolist()) == {0: 8, 1: 8, 2: 8}
    held = found.val.dataset.in_memory()
    pixels = train.in_memory()
    assert held is not None
    assert pixels is not None
    trained = {pixels[index].numpy().tobytes() for index in found.indices}
    assert not trained & {image.numpy().tobytes() for image in held}
    other = divide(train, train.labels, None, train.class_names, CIFAR, val_split=0.2, seed=1)
    again = divide(train, train.labels, None, train.class_names, CIFAR, val_split=0.2, seed=0)
    assert torch.equal(found.indices, again.indices)
    assert not torch.equal(found.indices, other.indices)


def test_labels_of_the_network_go_with_the_held_out_images(make_images: Make) -> None:
    root = make_images(Path("set"), ["a", "b"], ("train",), n=10, side=8)
    train, _ = open_splits(Inputs(), f"folder:{root}")
    found = divide(train, 7 - train.labels, None, train.class_names, CIFAR, val_split=0.2, seed=0)
    assert found.val is not None
    assert found.val.labels.tolist() == (7 - found.val.dataset.labels).tolist()


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_share_that_leaves_nothing_is_refused(make_images: Make, share: float) -> None:
    root = make_images(Path("set"), ["a", "b"], ("train",), n=4, side=8)
    train, _ = open_splits(Inputs(), f"folder:{root}")
    with pytest.raises(InputError, match=r"val_split|[Hh]olding out"):
        divide(train, train.labels, None, train.class_names, CIFAR, val_split=share, seed=0)


def test_nothing_held_out_means_all_are_trained_on(make_images: Make) -> None:
    root = make_images(Path("set"), ["a", "b"], ("train",), n=4, side=8)
    train, _ = open_splits(Inputs(), f"folder:{root}")
    found = divide(train, train.labels, None, train.class_names, CIFAR, val_split=0, seed=0)
    assert found.val is None
    assert found.indices.tolist() == list(range(8))


@pytest.mark.parametrize("seeds", [range(3, 4), range(5)])
def test_some_images_are_held_out_by_no_seed(seeds: range) -> None:
    labels = torch.arange(60) % 3
    expected = set(range(60)).difference(*(hold_out(labels, 0.2, seed)[1].tolist() for seed in seeds))
    assert never_held_out(labels, 0.2, seeds).tolist() == sorted(expected)
    assert 0 < len(expected) < 60
    assert never_held_out(labels, 0.0, seeds).tolist() == list(range(60))


def test_a_class_of_which_each_image_is_held_out_once_is_said() -> None:
    labels = torch.tensor([0] * 4000 + [1] * 2)
    with pytest.raises(InputError, match="that no run holds out, and none are left of 1 of the classes") as refusal:
        never_held_out(labels, 0.5, range(6))
    assert refusal.value.hint == "Choose fewer runs, or a smaller val_split."
