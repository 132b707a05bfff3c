"""A network that a Python program has in memory, as the analyses see it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from decompose_cli.datasets.classes import ClassNames
from decompose_cli.errors import InputError
from decompose_cli.models.checkpoint import Checkpoint
from decompose_cli.models.classifier import Classifier, state_digest
from decompose_cli.models.copying import copied
from decompose_cli.models.entry import ModelEntry
from decompose_cli.models.network import HeadTensors, Network
from decompose_cli.models.new_head import NewHead, with_new_head
from decompose_cli.models.sparse_record import SparseRecord
from decompose_cli.preprocessing import ImageOptions, Size

IN_MEMORY = "in memory"
"""Source of weights, or of features, that a program brings."""


@dataclass(frozen=True)
class Origin:
    """Where a module was made from, while its weights are those of then.

    Attributes:
        classifier: The network by its name, with its weights file.
        digest: :func:`.classifier.state_digest` of the module as it was loaded.
    """

    classifier: Classifier
    digest: str


@dataclass(frozen=True)
class Held:
    """What a program has in memory.

    Attributes:
        name: Name of the network.
        tensors: Parameters of its head.
        network: The network; None where there are only features and a head.
        image_options: What is known of the preprocessing of its images.
        classes: Names of its outputs, where they are known.
        gates: Class-specific gates (C, D), if there are any.
        options: Options of the network that are not at their defaults.
        dataset: The data set that it was trained on, where that is known.
        sparse: What belongs to its sparse head beside it.
        origin: What it was loaded from, where it was.
    """

    name: str
    tensors: HeadTensors
    network: Network | None = None
    image_options: ImageOptions = field(default_factory=ImageOptions)
    classes: ClassNames | None = None
    gates: Tensor | None = None
    options: Mapping[str, str] | None = None
    dataset: str | None = None
    sparse: SparseRecord | None = None
    origin: Origin | None = None


class HeldClassifier(Classifier):
    """The same; it is not built, and says where its weights came from only while they are those of the file."""

    def __init__(self, held: Held) -> None:
        self._held = held
        origin = held.origin
        self._digest = _digest_of(held)
        is_as_loaded = origin is not None and (origin.digest == self._digest or held.tensors.kind == "subspaces")
        entry = origin.classifier.entry if origin is not None else self._entry_of(held)
        if held.classes is not None:
            names, ids = held.classes.names, held.classes.ids
            entry = replace(entry, num_classes=len(names), outputs=lambda: (names, ids))
        checkpoint = origin.classifier.checkpoint if origin is not None and is_as_loaded else self._made()
        super().__init__(entry, checkpoint, held.tensors.name, origin.classifier.seed if origin is not None else 0)

    @staticmethod
    def _entry_of(held: Held) -> ModelEntry:
        return ModelEntry(
            name=held.name,
            build=_not_built,
            dataset=held.dataset,
            num_classes=held.tensors.num_classes,
            preprocessing=None,
            num_features=held.tensors.num_features,
            chosen=dict(held.options or {}),
        )

    def _made(self) -> Checkpoint | None:
        """What a weights file of the network as it is would hold."""
        state = {} if self._held.network is None else self._held.network.module.state_dict()
        return Checkpoint(IN_MEMORY, self._digest, state, csg=self._held.gates, sparse=self._held.sparse)

    @property
    @override
    def lacks_head(self) -> bool:
        return self._held.tensors.kind == "absent"

    @override
    def with_classes(self, names: Sequence[str], ids: Sequence[str] | None) -> Classifier:
        return self

    @override
    def with_new_head(self, new: NewHead | None) -> Classifier:
        other = copy.copy(self)
        other.new_head, other.whole, other._networks = new, other, {}
        return other

    @property
    @override
    def weights_source(self) -> str:
        return IN_MEMORY if self.checkpoint is None else self.checkpoint.source

    @cached_property
    @override
    def weights_sha256(self) -> str:
        return self._digest if self.checkpoint is None else self.checkpoint.sha256

    @property
    @override
    def image_options(self) -> ImageOptions:
        return self._held.image_options

    @property
    @override
    def identity(self) -> dict[str, Any]:
        return {"weights": self._digest, "held": self.name}

    @override
    def _load(self, input_size: Size) -> Network:
        network = self._held.network
        if network is None:
            raise InputError(
                f"{self.name} are features without a network, and this needs one that runs.",
                hint="Features have their network where extract_features has taken them from one.",
            )
        network = replace(network, input_size=input_size)
        if self.new_head is not None:
            return with_new_head(replace(network, module=copied(network.module)), self.new_head, self.name)
        return network


def _digest_of(held: Held) -> str:
    if held.network is not None:
        return state_digest(held.network.module)
    digest = hashlib.sha256()
    for tensor in (held.tensors.weight, held.tensors.bias, held.tensors.indices, held.tensors.mask):
        if tensor is not None:
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _not_built(*_: Any, **__: Any) -> nn.Module:
    raise InputError("This network is only in memory, and cannot be built anew.")
