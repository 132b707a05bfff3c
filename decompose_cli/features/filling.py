"""Filling a bank of features, in one process or in several that share its chunks."""

from __future__ import annotations

import errno
import functools
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.errors import DecomposeError, param
from decompose_cli.features.bank import DAMAGED, BankFolder, BankWriter
from decompose_cli.features.extraction import Computing, features_of_chunks, short_name
from decompose_cli.features.inputs import Inputs
from decompose_cli.models.classifier import Classifier, open_classifier
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.processes.team import device_led, together
from decompose_cli.progress import track


@dataclass(frozen=True)
class Opening:
    """How another process opens the same network: the arguments of :func:`.models.classifier.open_classifier`."""

    model: str | None
    weights: str | None
    head: str | None
    ema: bool
    seed: int
    options: tuple[tuple[str, str], ...] | None

    @classmethod
    def of(cls, inputs: Inputs, classifier: Classifier) -> Opening:
        """How to open a network that was opened with these inputs."""
        options = None if inputs.model_options is None else tuple(inputs.model_options.items())
        model = classifier.name if inputs.model is None and inputs.weights is None else inputs.model
        return cls(model, inputs.weights, inputs.head, inputs.ema, inputs.seed, options)

    @functools.lru_cache(maxsize=1)  # noqa: B019 - frozen, and one for the whole process
    def classifier(self) -> Classifier:
        """The network."""
        options = None if self.options is None else dict(self.options)
        return open_classifier(self.model, self.weights, head=self.head, ema=self.ema, seed=self.seed, options=options)


@dataclass
class Share:
    """The chunks that a process computes: every so many-th of those that are missing.

    Attributes:
        path: The bank.
        missing: Numbers of the chunks that are missing.
        opening: How other processes open the network.
        identity: What they have to find: :attr:`.models.classifier.Classifier.identity`.
        dataset: The images.
        preprocessing: Size and normalisation of images.
        computing: How features are computed.
        skips: Whether chunks with images that cannot be read are kept, without these.
        classifier: The network of this process, which is not sent to others.
    """

    path: Path
    missing: list[int]
    opening: Opening
    identity: Mapping[str, Any]
    dataset: ImageDataset
    preprocessing: Preprocessing
    computing: Computing
    skips: bool
    classifier: Classifier | None = field(repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "classifier": None}

    def __call__(self, rank: int, world: int) -> dict[int, str]:
        """Compute this process's chunks; return the sentences about images that cannot be read, by their numbers."""
        own = self.missing[rank::world]
        if not own:
            return {}
        bank, classifier = self._bank(rank), self.classifier or self.opening.classifier()
        if classifier.identity != self.identity:
            raise DecomposeError(
                f"Process {rank} has other weights than the first: {classifier.weights_source} gives a different "
                "network each time, or is another file there.",
                hint=f"Save the weights to a file that all machines share, and name it with {param('weights')}.",
            )
        computing = self.computing
        if (device := device_led()) is not None:
            computing = replace(computing, device=device)
        network = classifier.load(self.preprocessing.crop)
        wanted = [bank.chunks[number] for number in own]
        unreadable: dict[int, str] = {}
        total, title = sum(map(len, wanted)), f"Features of {short_name(self.dataset)}"
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
