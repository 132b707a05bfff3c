"""The shares of several processes in the chunks that a bank misses."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from decompose_cli.datasets.base import InMemoryImages
from decompose_cli.errors import DecomposeError
from decompose_cli.features import bank as bank_module
from decompose_cli.features.bank import BankFolder
from decompose_cli.features.extraction import Computing, extract_features
from decompose_cli.features.filling import Share, fill
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.opening import Opening
from decompose_cli.models.classifier import Classifier, open_classifier
from decompose_cli.preprocessing import CIFAR

COUNT, CHUNK = 21, 4
CPU = Computing(torch.device("cpu"))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "_PAGE", 128)
    monkeypatch.setattr(bank_module, "_USUAL_CHUNK", CHUNK)


def read() -> tuple[Tensor, Tensor]:
    pixels = torch.randint(0, 256, (COUNT, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return pixels, torch.arange(COUNT) % 10


IMAGES = InMemoryImages("toy", "test", [str(digit) for digit in range(10)], CIFAR, lambda: read(), "stamp")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return open_classifier("resnet20-digits", None)


@pytest.fixture(scope="module")
def expected(classifier: Classifier) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank_module, "_PAGE", 128)
        patch.setattr(bank_module, "_USUAL_CHUNK", CHUNK)
        return extract_features(classifier.load((32, 32)), IMAGES, CIFAR, CPU)[0]


def make(path: Path, classifier: Classifier) -> BankFolder:
    head = classifier.load((32, 32)).tensors
    return BankFolder.create(path, IMAGES.labels, head, key={}, description="", computed_on="cpu")


def share_of(bank: BankFolder, classifier: Classifier, **changes: Any) -> Share:
    opening = Opening.of(Inputs(model="resnet20-digits"), classifier)
    share = Share(
        bank.path,
        bank.pending(),
        opening,
        IMAGES,
        CIFAR,
        CPU,
        skips=False,
    )
    return dataclasses.replace(share, **changes)


def sent(share: Share) -> Share:
    """As it arrives in another process."""
    found = pickle.loads(pickle.dumps(share))
    assert isinstance(found, Share)
    return found


@pytest.mark.parametrize("world", [1, 2, 4, 6, 7, 9])
@pytest.mark.parametrize("there", [[], [0, 3], [0, 1, 2, 3, 4]])
def test_the_shares_are_the_whole_in_any_order(
    tmp_path: Path, classifier: Classifier, expected: Tensor, world: int, there: list[int]
) -> None:
    """Also of what others have begun, and where there are more processes than chunks."""
    bank = make(tmp_path / "x.bank", classifier)
    with bank.writer() as writer:
        for number in there:
            writer.write(number, expected[number * CHUNK : (number + 1) * CHUNK])
    share = share_of(bank, classifier)
    missing = [number for number in range(6) if number not in there]
    assert share.missing == missing
    for rank in reversed(range(world)):
        before = bank.pending()
        assert sent(share)(rank, world) == {}
        assert sorted(set(before) - set(bank.pending())) == missing[rank::world]
    assert bank.pending() == bank.damaged() == []
    assert torch.equal(bank.mapped(), expected)
    assert len(list((bank.path / "done").iterdir())) == (len(there) > 0) + min(world, len(missing)) or not there


def test_a_share_travels_without_its_network(tmp_path: Path, classifier: Classifier) -> None:
    share = share_of(make(tmp_path / "x.bank", classifier), classifier)
    assert len(pickle.dumps(share)) < IMAGES.in_memory().numel() + 20_000, "the images, and little more"
    found = sent(share)
    assert found.opening.here is None
    assert share.opening.here is classifier
    assert found.opening.identity == classifier.identity
    assert torch.equal(found.dataset.labels, IMAGES.labels)
    assert found.dataset.fingerprint() == IMAGES.fingerprint()
    assert found.opening.classifier(1).identity == classifier.identity
    assert found.opening.classifier(1) is found.opening.classifier(1)


def test_alone_one_process_fills_the_bank(tmp_path: Path, classifier: Classifier, expected: Tensor) -> None:
    bank = make(tmp_path / "x.bank", classifier)
    assert fill(share_of(bank, classifier)) == {}
    assert torch.equal(bank.mapped(), expected)


@pytest.mark.parametrize("of", ["seed", "file"])
def test_other_weights_are_a_sentence(tmp_path: Path, classifier: Classifier, of: str) -> None:
    bank = make(tmp_path / "x.bank", classifier)
    inputs = Inputs(model="resnet20", weights="random", seed=1)
    share = share_of(bank, classifier, opening=Opening.of(inputs, classifier))
    if of == "file":
        opening = Opening.of(Inputs(model="resnet20-digits"), classifier)
        other = dataclasses.replace(opening, identity={**classifier.identity, "weights": "0" * 64})
        share = share_of(bank, classifier, opening=other)
    with pytest.raises(DecomposeError) as caught:
        sent(share)(1, 2)
    assert caught.value.message.startswith("Process 1 has other weights than the first: ")
    assert caught.value.hint == "Save the weights to a file that all machines share, and name it with weights."
    assert bank.pending() == list(range(6))


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path, classifier: Classifier) -> None:
    bank = make(tmp_path / "x.bank", classifier)
    share = sent(share_of(bank, classifier))
    shutil.rmtree(bank.path)
    with pytest.raises(DecomposeError) as caught:
        share(1, 2)
    assert caught.value.message.startswith("Process 1, on ")
    assert caught.value.message.endswith(f", does not find the features in {bank.path}.")
    assert caught.value.hint == "Let $DECOMPOSE_CACHE name a folder that all machines share."


def test_a_data_set_that_cannot_travel_is_still_read_here(tmp_path: Path, classifier: Classifier) -> None:
    class Local(InMemoryImages):
        """Of a class that other processes do not have."""

    images = Local("toy", "test", IMAGES.class_names, CIFAR, read, "stamp")
    share = share_of(make(tmp_path / "x.bank", classifier), classifier, dataset=images)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(share)
    assert share(0, 1) == {}
