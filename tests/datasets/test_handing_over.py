"""Images come out of worker processes whatever shared memory there is, and without any where none can be started."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.image_kinds import open_folder
from helpers.processes import environment
from torch import Tensor

from decompose_cli.datasets import handing_over
from decompose_cli.datasets.augment import Augmentation
from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.handing_over import HandedOver
from decompose_cli.datasets.training_images import TrainingImages
from decompose_cli.preprocessing import CIFAR, Preprocessing

SMALL = Preprocessing(CIFAR.mean, CIFAR.std, 32, (32, 32))
PIPES, ALONE = "they send them through pipes instead", "this one decodes them itself"


@pytest.fixture
def dataset(make_images: Callable[..., Path], tmp_path: Path) -> ImageDataset:
    return open_folder(f"folder:{make_images(tmp_path / 'set', ['a', 'b'], n=3, side=80)}", "train")


@pytest.fixture
def notes(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def decoded(dataset: ImageDataset, workers: int) -> Tensor:
    return torch.cat([images for images, _ in dataset.batches(SMALL, 2, workers)])


def trained_on(dataset: ImageDataset, workers: int) -> Tensor:
    images = TrainingImages(dataset, SMALL, Augmentation("affine"), seed=0, device=torch.device("cpu"), workers=workers)
    return torch.cat(list(images.batches(0, [torch.arange(4), torch.arange(4, 6)])))


Read = Callable[[ImageDataset, int], Tensor]
BOTH = pytest.mark.parametrize("read", [decoded, trained_on])


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@BOTH
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.ENOENT, errno.EACCES])
def test_without_shared_memory_images_come_through_pipes(
    read: Read, error: int, dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch, notes: pytest.LogCaptureFixture
) -> None:
    expected = read(dataset, 0)
    monkeypatch.setattr(handing_over, "ForkingPickler", SimpleNamespace(dumps=failing(error)))
    assert torch.equal(read(dataset, 1), expected)
    said = {line for line in notes.messages if PIPES in line}
    assert len(said) == 1
    assert os.strerror(error) in said.pop()


@BOTH
@pytest.mark.parametrize("what", ["Lock", "fork"])
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_where_no_process_can_be_started_this_one_decodes(
    read: Read, what: str, dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch, notes: pytest.LogCaptureFixture
) -> None:
    expected = read(dataset, 0)
    if what == "fork":
        monkeypatch.setattr(os, "fork", failing(errno.EAGAIN))
    else:
        monkeypatch.setattr(type(multiprocessing.get_context()), "Lock", failing(errno.ENOSPC))
    assert torch.equal(read(dataset, 2), expected)
    assert any(ALONE in line for line in notes.messages)


def test_the_images_are_the_same_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2)
    assert torch.equal(pickle.loads(pickle.dumps(HandedOver(images))).images, images)
    monkeypatch.setattr(handing_over, "ForkingPickler", SimpleNamespace(dumps=failing(errno.ENOSPC)))
    assert torch.equal(pickle.loads(pickle.dumps(HandedOver(images))).images, images)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["64k", "4k"])
def test_on_a_small_shared_memory_of_its_own(size: str, make_images: Callable[..., Path]) -> None:
    """As containers have it: with room for semaphores alone, and with none."""
    make_images(Path("images"), [*"abcdefghij"], n=3, side=80)
    fill = "head -c 4096 /dev/zero > /dev/shm/x" if size == "4k" else "true"
    command = f"{sys.executable} -m decompose_cli validate resnet20 -w random --dataset folder:images -j 2 --no-cache"
    mounted = f"mount -t tmpfs -o size={size} tmpfs /dev/shm || exit 77; {fill}; {command} -o v.json"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mounted],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=60,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("only root may mount a small disk")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count(ALONE if size == "4k" else PIPES) == 1
    assert Path("v.json").exists()
