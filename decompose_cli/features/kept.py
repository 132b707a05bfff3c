"""The features of the images of a split: found in the cache, gone on with where a command was stopped, or computed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.errors import DecomposeError, first_few, first_line
from decompose_cli.features import cache as feature_cache
from decompose_cli.features.bank import DAMAGED, BankFolder, FeatureBank, chunks_of, remove, rows_of
from decompose_cli.features.extraction import Computing, extract_features, refuse_unreadable
from decompose_cli.features.filling import Share, fill
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.opening import Opening
from decompose_cli.messages import note, warn
from decompose_cli.models.classifier import Classifier
from decompose_cli.models.network import HeadTensors, Network
from decompose_cli.preprocessing import Preprocessing
from decompose_cli.processes.device import describe_device
from decompose_cli.processes.team import processes_led
from decompose_cli.storage.system_errors import write_error

State = Literal["hit", "miss", "off"]


class _NotKeptError(Exception):
    """The cache cannot take features; they are used without it."""


class KeptFeatures:
    """Features, labels and head; the cache is looked into when they are first needed, and the network runs as late.

    Args:
        inputs: Options that the user chose.
        classifier: The network.
        dataset: The images.
        preprocessing: Size and normalisation of images.
        computing: How the network is run.
        key: Everything that the features depend on, JSON-ready.
        description: What the features are of, for people.

    Attributes:
        state: Whether features were in the cache (hit) or are now (miss), or the cache has no part in it (off).
        computed_on: The device that computed the features.
    """

    def __init__(
        self,
        inputs: Inputs,
        classifier: Classifier,
        dataset: ImageDataset,
        preprocessing: Preprocessing,
        computing: Computing,
        key: dict[str, Any],
        description: str,
    ) -> None:
        self._inputs, self._classifier, self._dataset = inputs, classifier, dataset
        self._preprocessing, self._computing = preprocessing, computing
        self._key, self._description = key, description
        self.state: State = "off"
        self.computed_on = describe_device(computing.device)

    @cached_property
    def _found(self) -> BankFolder | None:
        """The bank in the cache, if it is complete."""
        if not self._inputs.use_cache:
            return None
        found = feature_cache.load(self._key)
        if found is not None and self._may_be_used(found):
            of_cache = str(found.header["computed_on"])
            if of_cache != self.computed_on:
                note(f"The features in the cache were computed on {of_cache}.")
            self.computed_on = of_cache
            return found
        return None

    def _may_be_used(self, bank: BankFolder) -> bool:
        """Whether images that the bank lacks may be left out."""
        return self._inputs.skip_unreadable is not None or not any(bank.written().unreadable.values())

    @cached_property
    def _labels_and_head(self) -> tuple[Tensor, HeadTensors]:
        known = feature_cache.glance(self._key) if self._inputs.use_cache else None
        if known is not None:
            return known
        return self._dataset.labels, self._classifier.load(self._preprocessing.crop).tensors

    @property
    def head(self) -> HeadTensors:
        """Parameters of the head; no image is run through the network for them."""
        return self._labels_and_head[1]

    @property
    def labels(self) -> Tensor:
        """Labels of the data set, int64 (N,), of images that cannot be read, too."""
        return self._labels_and_head[0]

    @cached_property
    def bank(self) -> FeatureBank:
        """Features of all images but those of :attr:`left_out`, their labels, and the head.

        Raises:
            InputError: Images cannot be read, and are more than may be left out; those that can be read are kept.
            DecomposeError: The work failed; what was finished is kept.
        """
        whole, unreadable = self._whole
        most = self._inputs.skip_unreadable
        if len(unreadable) > (most or 0):
            refuse_unreadable(unreadable, most, kept=self.state != "off")
        if not unreadable:
            return whole
        return self._without(whole, sorted(unreadable))

    def release(self) -> None:
        """Let go of the features; they are read again where they are needed again."""
        for name in ("bank", "_whole", "_found"):
            self.__dict__.pop(name, None)

    @property
    def left_out(self) -> list[int]:
        """Numbers of the images that cannot be read, which :attr:`bank` lacks; errors as there."""
        _ = self.bank
        return sorted(self._whole[1])

    @cached_property
    def _whole(self) -> tuple[FeatureBank, dict[int, str]]:
        """Features of all images, NaN for those that cannot be read, and the sentences about these."""
        if self._found is not None:
            self.state = "miss" if self.state == "miss" else "hit"  # they may have been let go of since
            return self._found.bank(), self._unreadable(self._found)
        network = self._classifier.load(self._preprocessing.crop)
        if self._inputs.use_cache and not network.depends_on_batch:
            with suppress(_NotKeptError):
                return self._filled(network)
        return self._computed(network)

    def _unreadable(self, bank: BankFolder) -> dict[int, str]:
        numbers = [number for chunk in bank.written().unreadable.values() for number in chunk]
        of = f"of {self._dataset.name} {self._dataset.split}"
        return {number: f"{self._dataset.called(number)} {of} cannot be read." for number in numbers}

    def _computed(self, network: Network) -> tuple[FeatureBank, dict[int, str]]:
        """Features that are not kept: in memory, but for those that several processes compute."""
        if processes_led() == 1:
            seen = network, self._dataset, self._preprocessing, self._computing
            features, unreadable = extract_features(*seen, self._classifier.name)
            return FeatureBank(features, self._dataset.labels, network.tensors), unreadable
        with self._unkept(network) as bank:
            unreadable = self._fill(bank)
            return bank.bank(), unreadable

    @contextmanager
    def _unkept(self, network: Network) -> Iterator[BankFolder]:
        """A bank where processes put their features together; it is removed, and lives on while it is mapped."""
        cache = feature_cache.features_folder()
        for where in (cache, Path(tempfile.gettempdir())):
            with ExitStack() as stack:
                try:
                    where.mkdir(parents=True, exist_ok=True)
                    path = Path(tempfile.mkdtemp(prefix="unkept-", suffix=".tmp", dir=where))
                    stack.callback(remove, path)
                    bank = self._created(path / "features.bank", network)
                except (OSError, DecomposeError) as error:
                    failure = error
                    continue
                yield bank
                return
        raise DecomposeError(
            f"{cache}, where processes put their features together, cannot be written: "
            f"{getattr(failure, 'strerror', None) or first_line(failure)}.",
            hint="Let $DECOMPOSE_CACHE name another folder.",
        ) from failure

    def _filled(self, network: Network) -> tuple[FeatureBank, dict[int, str]]:
        """Features that are kept in the cache: what is missing there is computed."""
        with ExitStack() as stack:
            try:
                stack.enter_context(feature_cache.alone(self._key))
                # Somebody else may have computed them while this command waited.
                bank = feature_cache.started(self._key, self.computed_on)
                if bank is None:
                    bank = self._created(feature_cache.entry_path(self._key), network)
                    for other in feature_cache.relatives(self._key, self.computed_on):
                        bank.take_over(other)
            except (OSError, DecomposeError) as error:
                where = feature_cache.features_folder()
                why = error if isinstance(error, DecomposeError) else write_error(where, error)
                warn(f"The features could not be kept for the next time: {why}")
                raise _NotKeptError from error
            again = [] if self._inputs.skip_unreadable is not None else bank.written().unreadable.items()
            bank.forget([number for number, images in again if images])
            self.state = "miss" if bank.pending() or self.state == "miss" else "hit"
            found = self._fill(bank)
            try:
                unreadable = self._unreadable(bank) | found  # which says why
                if not bank.pending():
                    return bank.bank(), unreadable
            except (OSError, *DAMAGED) as error:
                raise DecomposeError(
                    f"The features in {bank.path} were removed or changed while they were computed.",
                    hint="Start the command again; what is still there is gone on with.",
                ) from error
        refuse_unreadable(unreadable, self._inputs.skip_unreadable, kept=True)
        raise AssertionError("chunks are missing without a reason")

    def _created(self, path: Path, network: Network) -> BankFolder:
        labels, head = self._dataset.labels, network.tensors
        return BankFolder.create(
            path,
            labels,
            head,
            key=self._key,
            description=self._description,
            computed_on=self.computed_on,
            stamps=self._dataset.stamps(chunks_of(len(labels), head.num_features)),
        )

    def _fill(self, bank: BankFolder) -> dict[int, str]:
        missing = bank.pending()
        there = bank.shape[0] - sum(len(bank.chunks[number]) for number in missing)
        if there and missing:
            note(f"The features of {there:,} of {bank.shape[0]:,} images are there already.")
        share = Share(
            bank.path,
            missing,
            Opening.of(self._inputs, self._classifier),
            self._dataset,
            self._preprocessing,
            self._computing,
            skips=self._inputs.skip_unreadable is not None,
        )
        return fill(share)

    def _without(self, whole: FeatureBank, left_out: list[int]) -> FeatureBank:
        """The same without some images."""
        names = first_few(map(self._dataset.called, left_out))
        what = f"Images of {self._dataset.name} that cannot be read are left out everywhere: {len(left_out):,}"
        warn(f"{what} ({names}).")
        is_kept = torch.ones(len(whole.labels), dtype=torch.bool)
        is_kept[left_out] = False
        where = feature_cache.features_folder()
        return FeatureBank(rows_of(whole.features, is_kept, where), whole.labels[is_kept], whole.head)
