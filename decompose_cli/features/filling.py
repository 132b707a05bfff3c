"""Filling a bank of features, in one process or in several that share its chunks."""

from __future__ import annotations

import errno
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.errors import DecomposeError
from decompose_cli.features.bank import DAMAGED, BankFolder, BankWriter
from decompose_cli.features.extraction import Computing, features_of_chunks, short_name
from decompose_cli.features.opening import Opening
from decompose_cli.messages import track
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.processes.team import device_led, together


@dataclass
class Share:
    """The chunks that a process computes: every so many-th of those that are missing.

    Attributes:
        path: The bank.
        missing: Numbers of the chunks that are missing.
        opening: The network.
        dataset: The images.
        preprocessing: Size and normalisation of images.
        computing: How features are computed.
        skips: Whether chunks with images that cannot be read are kept, without these.
    """

    path: Path
    missing: list[int]
    opening: Opening
    dataset: ImageDataset
    preprocessing: Preprocessing
    computing: Computing
    skips: bool

    def __call__(self, rank: int, world: int) -> dict[int, str]:
        """Compute this process's chunks; return the sentences about images that cannot be read, by their numbers."""
        own = self.missing[rank::world]
        if not own:
            return {}
        bank, classifier = self._bank(rank), self.opening.classifier(rank)
        computing = replace(self.computing, device=device_led() or self.computing.device)
        network = classifier.load(self.preprocessing.crop)
        wanted = [bank.chunks[number] for number in own]
        unreadable: dict[int, str] = {}
        total, title = sum(map(len, wanted)), f"Features of {short_name(self.dataset, classifier.name)}"
        title += f" (process 1 of {world})" if world > 1 else ""
        with _opened(bank) as writer, track(title, total) as advance:
            chunks = features_of_chunks(network, self.dataset, self.preprocessing, wanted, computing)
            for number, done in zip(own, chunks, strict=True):
                unreadable |= done.unreadable
                if self.skips or not done.unreadable:
                    with _writing(self.path):
                        writer.write(number, done.features, sorted(done.unreadable))
                advance(len(done.numbers))
        return unreadable

    def _bank(self, rank: int) -> BankFolder:
        try:
            return BankFolder(self.path)
        except (OSError, *DAMAGED) as error:
            raise DecomposeError(
                f"Process {rank}, on {platform.node()}, does not find the features in {self.path}.",
                hint="Let $DECOMPOSE_CACHE name a folder that all machines share.",
            ) from error


@contextmanager
def _opened(bank: BankFolder) -> Iterator[BankWriter]:
    with ExitStack() as stack:
        with _writing(bank.path):
            writer = stack.enter_context(bank.writer())
        yield writer


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = "No space is left on the disk" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise DecomposeError(
            f"The features cannot be written to {path}: {what}.",
            hint="Free some space there and start again, or let $DECOMPOSE_CACHE name another folder.",
        ) from error


def fill(share: Share) -> dict[int, str]:
    """Compute the chunks that a bank misses, in all processes that this one leads.

    Returns:
        The sentences about images that cannot be read, by their numbers.

    Raises:
        DecomposeError: The work failed; chunks that were finished are kept.
    """
    found = together(share)
    return {number: sentence for part in found for number, sentence in part.items()}
