"""Forward passes in threads: the same bits for any number of them, and nothing left behind."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from decompose_cli.datasets.base import InMemoryImages
from decompose_cli.features.bank import chunks_of
from decompose_cli.features.extraction import Computing, features_of_chunks
from decompose_cli.features.forward import Forward, Normalisation, images_at_once
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.models.inference import FeatureReader
from decompose_cli.models.network import Network, network_of
from decompose_cli.preprocessing import Preprocessing

CPU = torch.device("cpu")
SIDE = 32
PREPROCESSING = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), resize=SIDE, crop=(SIDE, SIDE))
IMAGES = torch.randint(0, 256, (200, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before, threads = set(threading.enumerate()), torch.get_num_threads()
    yield
    assert set(threading.enumerate()) == before
    assert torch.get_num_threads() == threads


def resnet() -> Network:
    torch.manual_seed(0)
    return network_of(CifarResNet(8, 4).eval(), (SIDE, SIDE))


def forward_of(network: Network, threads: int, precision: str = "32") -> Forward:
    return Forward(network, PREPROCESSING, IMAGES[:8], device=CPU, precision=precision, batch_size=256, threads=threads)


def features_of(network: Network, threads: int, precision: str = "32") -> Tensor:
    """Of three batches that are under way at the same time."""
    with forward_of(network, threads, precision) as forward:
        pending = [forward.submit(batch) for batch in torch.split(IMAGES, 90)]
        return torch.cat([wait() for wait in pending])


def piece_by_piece(network: Network, precision: str = "32") -> Tensor:
    """One call of a reader after another, with operators that use one thread."""
    normalise = Normalisation(PREPROCESSING, CPU)
    reader = FeatureReader(network, CPU, precision, normalise(IMAGES[:8]))
    size = images_at_once(PREPROCESSING, CPU, precision, 256)
    pieces = [piece for batch in torch.split(IMAGES, 90) for piece in torch.split(batch, size)]
    assert len({len(piece) for piece in pieces}) == 3 - (precision == "bf16")
    return torch.cat([reader(normalise(piece)) for piece in pieces])


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("around", [1, 3])
def test_features_are_the_same_bits_for_any_number_of_threads(precision: str, around: int) -> None:
    """And for any number that torch uses around it."""
    network = resnet()
    expected = piece_by_piece(network, precision)
    before = torch.get_num_threads()
    torch.set_num_threads(around)
    try:
        for threads in (1, 2, 3, 5):
            found = features_of(network, threads, precision)
            assert found.dtype == torch.float32
            assert torch.equal(found, expected), threads
            assert torch.get_num_threads() == around
            with ThreadPoolExecutor(1) as later:
                assert later.submit(torch.get_num_threads).result() == around
    finally:
        torch.set_num_threads(before)


def test_the_formula_of_normalisation() -> None:
    expected = (IMAGES[:3].double() / 255 - torch.tensor(PREPROCESSING.mean).double().view(3, 1, 1)) / torch.tensor(
        PREPROCESSING.std
    ).double().view(3, 1, 1)
    torch.testing.assert_close(Normalisation(PREPROCESSING, CPU)(IMAGES[:3]).double(), expected, rtol=0, atol=1e-5)


class Meeting(nn.Module):
    """Waits, in each forward pass, until another one is under way, and keeps what it works on on itself."""

    def __init__(self, parties: int) -> None:
        super().__init__()
        self.last = nn.Linear(3, 4)
        self.waits = False
        self.parties = parties

    def forward(self, x: Tensor) -> Tensor:
        self.kept = x.mean((2, 3))
        if self.waits:
            MEETINGS[self.parties].wait(timeout=20)
        return self.last(self.kept)


MEETINGS = {1: threading.Barrier(1), 2: threading.Barrier(2), 3: threading.Barrier(3)}


def readers_of(forward: Forward) -> list[FeatureReader]:
    assert forward._threads is not None
    return forward._threads.workers


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_work_at_once_each_with_a_module_of_its_own(threads: int) -> None:
    """None would go on if there were fewer at work, and each would overwrite what the others keep."""
    module = Meeting(threads).eval()
    network = network_of(module, (SIDE, SIDE))
    images = IMAGES[:192]  # pieces of 48: a multiple of two
    if threads == 3:
        images = IMAGES[:144]
    with forward_of(network, threads) as forward:
        for reader in readers_of(forward):
            part = reader.module
            part.waits = True  # type: ignore[assignment]
        found = forward.submit(images)()
    expected = Normalisation(PREPROCESSING, CPU)(images).mean((2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not hasattr(module, "kept") or len(module.kept) < 48, "the network itself was not worked with"


def test_copies_share_their_parameters() -> None:
    """One copy of large weights is enough."""
    readers = readers_of(forward_of(resnet(), 3))
    assert len(readers) == len({id(reader.module) for reader in readers}) == 3
    own = [[parameter.data_ptr() for parameter in reader.module.parameters()] for reader in readers]
    assert own[0] == own[1] == own[2] != []


def test_a_module_with_hooks_is_run_by_one_thread() -> None:
    """What a hook keeps is kept once for all copies."""
    network = resnet()
    seen: list[int] = []
    network.module.get_submodule("layer1").register_forward_hook(lambda *_: seen.append(threading.get_ident()))
    plain = features_of(resnet(), 1)
    seen.clear()
    forward = forward_of(network, 3)
    uses_hooks = any(part._forward_hooks for part in readers_of(forward)[0].module.modules())
    assert len(readers_of(forward)) == (1 if uses_hooks else 3)
    found = features_of(network, 3)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)


class Hooked(nn.Module):
    """Reads in its pass what a hook of its own has kept; it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Identity()
        self.last = nn.Linear(3, 4)
        self.part.register_forward_hook(self.keep)

    def keep(self, _: nn.Module, __: object, output: Tensor) -> None:
        self.kept = output

    def forward(self, x: Tensor) -> Tensor:
        self.part(x.mean((2, 3)))
        if float(self.kept.abs().max()) < 0:
            raise AssertionError
        return self.last(self.kept)


def test_a_module_that_lives_on_a_hook_is_run_by_one_thread() -> None:
    network = network_of(Hooked().eval(), (SIDE, SIDE))
    assert len(readers_of(forward_of(network, 3))) == 1
    expected = Normalisation(PREPROCESSING, CPU)(IMAGES).mean((2, 3))
    torch.testing.assert_close(features_of(network, 3), expected, rtol=1e-5, atol=1e-6)


class Failing(nn.Module):
    """Fails for images that are white."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.last = nn.Linear(3, 4)
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        if float(x.min()) > 0:
            raise self.error("white")
        return self.last(x.mean((2, 3)))


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_a_piece_raises_is_raised_and_nothing_stays(error: type[BaseException], threads: int) -> None:
    images = IMAGES.clone()
    images[60:] = 255
    network = network_of(Failing(error).eval(), (SIDE, SIDE))
    with pytest.raises(error, match="white"), forward_of(network, threads) as forward:  # noqa: PT012
        waiting = [forward.submit(images), forward.submit(images)]
        waiting[0]()


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, ZeroDivisionError])
def test_who_stops_in_the_middle_leaves_nothing(error: type[BaseException]) -> None:
    """The chunks that follow are not computed to their end."""
    pixels = IMAGES.repeat(40, 1, 1, 1)
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    images = InMemoryImages("toy", "test", list("abcd"), PREPROCESSING, lambda: (pixels, labels), "stamp")
    done = features_of_chunks(resnet(), images, PREPROCESSING, chunks_of(len(pixels), 64), Computing(CPU, threads=2))
    assert next(done).numbers == range(256)
    threads = threading.active_count()
    assert threads > 1
    with pytest.raises(error):
        done.throw(error)  # type: ignore[attr-defined]
    assert threading.active_count() < threads


def test_the_network_is_left_as_it_was() -> None:
    network = resnet()
    before = copy.deepcopy(network.module.state_dict())
    features_of(network, 3)
    after = network.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert network.module.training is False


def test_a_forward_is_used_again() -> None:
    """Each use has threads of its own."""
    forward = forward_of(resnet(), 2)
    found = []
    for _ in range(2):
        with forward:
            found.append(forward.submit(IMAGES)())
    assert torch.equal(*found)
