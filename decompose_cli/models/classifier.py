"""A classifier as the analyses see it: a network with a head, its weights, and the facts that identify both."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from decompose_cli.errors import InputError, param
from decompose_cli.models.batch_dependence import warn_of_batch_dependence
from decompose_cli.models.checkpoint import Checkpoint, read_checkpoint
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.fitting import classes_in, load_state, split_decomposed_head, state_for
from decompose_cli.models.gate_entry import GATE_DETAILS
from decompose_cli.models.gate_kinds import GATES, NO_GATE
from decompose_cli.models.head import Head, find_head
from decompose_cli.models.registry import ModelEntry, get_entry
from decompose_cli.models.user import user_entry
from decompose_cli.models.weights import RANDOM, default_source, read_weights
from decompose_cli.preprocessing import IMAGENET, Preprocessing, Size
from decompose_cli.progress import note, warn
from decompose_cli.storage.files import user_path


@dataclass(frozen=True)
class HeadTensors:
    """The parameters of a head, constant factor folded in, float32.

    The ``kind`` is ``dense``: weight (C, D); ``decomposed``: weight (C, k) with indices (C, k) and mask (C, k); or
    ``subspaces``: weight (C, k) whose indices are not known (the authors' fine-tuned layout), and ``reference`` (C, D),
    the full head that fine-tuning started from, if the file holds one. The bias is (C,) throughout.
    """

    kind: str
    name: str
    weight: Tensor
    bias: Tensor
    num_features: int
    indices: Tensor | None = None
    mask: Tensor | None = None
    reference: Tensor | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.bias)


@dataclass(frozen=True)
class Network:
    """A built network with its weights and its head, which is None where a decomposed head stands in its place.

    ``scale`` is the constant factor after the head, which ``tensors`` include.
    """

    module: nn.Module
    head: Head | None
    head_name: str
    tensors: HeadTensors
    scale: float = 1.0

    def as_it_is(self) -> Network:
        """The network with the present parameters of the head, which training changes in the module only."""
        if self.tensors.kind == "subspaces":  # such a head is not in the module
            return self
        head = self.module.get_submodule(self.head_name)
        if isinstance(head, DecomposedLinear):
            return replace(self, head=None, tensors=_decomposed_tensors(head, self.head_name, self.scale))
        return replace(self, tensors=_dense_tensors(Head(self.head_name, head, self.scale)))


def network_of(module: nn.Module, input_size: Size, head: str | None = None) -> Network:
    """The network of a module that the caller has built, with its head.

    Args:
        module: The module, used as it is.
        input_size: (height, width) of the images that the module takes.
        head: Name of the submodule that is the head, where tracing does not settle it.

    Raises:
        InputError: There is no head.
    """
    traced = find_head(module, input_size, name=head, model_name=type(module).__name__)
    warn_of_batch_dependence(module, input_size, traced.name, type(module).__name__)
    return Network(module, traced, traced.name, _dense_tensors(traced), traced.scale)


class Classifier:
    """A network that has been named and whose weights have been read; it is built when first needed.

    Attributes:
        entry: Entry of the registry, with the options that the weights were trained with.
        checkpoint: The weights, or None where the network's own initial ones are used.
        head_name: Name of the head that the user asked for, or None.
        uses_default_weights: Whether these are the weights that the registry names.
    """

    def __init__(self, entry: ModelEntry, checkpoint: Checkpoint | None, head_name: str | None, seed: int) -> None:
        self.entry = entry
        self.checkpoint = checkpoint
        self.head_name = head_name
        self.seed = seed
        self.uses_default_weights = checkpoint is not None and (
            checkpoint.source == default_source(entry) or _has_default_hash(entry, checkpoint)
        )
        self._networks: dict[Size, Network] = {}

    @property
    def name(self) -> str:
        """Name of the network as written on the command line."""
        return self.entry.name

    @property
    def weights_source(self) -> str:
        """Path or URL of the weights; without a file, ``random`` or a text that says that the callable made them."""
        if self.checkpoint is not None:
            return self.checkpoint.source
        return RANDOM if ":" not in self.name else "as returned by the callable"

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights file, or of the tensors where there is no file."""
        if self.checkpoint is not None:
            return self.checkpoint.sha256
        digest = hashlib.sha256()
        for name, value in self._initial.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def _initial(self) -> nn.Module:
        return self._build(self.entry.num_classes, (self.entry.preprocessing or IMAGENET).crop)

    @property
    def identity(self) -> dict[str, Any]:
        """The facts that decide the function from pixels to features, as JSON-ready values."""
        return {
            "weights": self.weights_sha256,
            "architecture": self.entry.architecture,
            "head": self.head_name or "traced",
        }

    def load(self, input_size: Size) -> Network:
        """Build the network, put the weights in and find the head.

        Args:
            input_size: (height, width) of the images that the network is going to see.

        Raises:
            InputError: The weights do not fit (the sentence accounts for every key), or there is no head.
        """
        if input_size not in self._networks:
            network = self._networks[input_size] = self._load(input_size)
            warn_of_batch_dependence(network.module, input_size, network.head_name, self.name)
        return self._networks[input_size]

    def _build(self, num_classes: int, input_size: Size) -> nn.Module:
        pretrained = self.checkpoint is not None and _has_default_hash(self.entry, self.checkpoint)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.entry.make(num_classes, input_size, pretrained=pretrained).eval()

    def _load(self, input_size: Size) -> Network:
        module = self._initial if self.checkpoint is None else self._build(self.entry.num_classes, input_size)
        head = find_head(module, input_size, name=self.head_name, model_name=self.name)
        if self.checkpoint is None:
            return Network(module, head, head.name, _dense_tensors(head), head.scale)
        state = state_for(module, self.checkpoint, self.entry)
        decomposed = split_decomposed_head(state, head, self.checkpoint.source)
        classes = len(decomposed.bias) if decomposed else classes_in(state, head)
        if classes == 0:
            raise InputError(f"{self.weights_source} has a head without any class.")
        if classes is not None and classes != head.num_classes:
            module = self._build(classes, input_size)
            head = find_head(module, input_size, name=head.name, model_name=self.name)
        if decomposed is not None:
            load_state(module, state, self.checkpoint, self.name, without=f"{head.name}.")
            decomposed = decomposed.to(dtype=torch.float32)
            module.set_submodule(head.name, decomposed)
            self._check_description(head.num_classes)
            tensors = _decomposed_tensors(decomposed, head.name, head.scale)
            return Network(module, None, head.name, tensors, head.scale)
        load_state(module, state, self.checkpoint, self.name)
        self._check_description(head.num_classes)
        published = self.checkpoint.published_decomposition
        if published is None:
            return Network(module, head, head.name, _dense_tensors(head), head.scale)
        if len(published.bias) != head.num_classes or published.weight.shape[1] > head.num_features:
            raise InputError(
                f"{self.checkpoint.source}: final_weights {tuple(published.weight.shape)} does not fit a head of "
                f"{head.num_features} features and {head.num_classes} classes."
            )
        reference = head.dense()[0]
        tensors = HeadTensors(
            "subspaces",
            head.name,
            published.weight * head.scale,
            published.bias * head.scale,
            head.num_features,
            reference=reference,
        )
        return Network(module, head, head.name, tensors, head.scale)

    def _check_description(self, num_classes: int) -> None:
        metadata = self.checkpoint.metadata if self.checkpoint else None
        if metadata is None:
            return
        counts = {metadata.num_classes, len(metadata.class_names or range(num_classes))}
        if counts != {num_classes}:
            raise InputError(
                f"{self.weights_source} says that it has {max(counts - {num_classes})} classes, but its head has "
                f"{num_classes}."
            )


def open_classifier(
    model: str | None,
    weights: str | None,
    *,
    head: str | None = None,
    allow_download: bool = True,
    seed: int = 0,
    options: Mapping[str, str] | None = None,
) -> Classifier:
    """Name a network and read its weights; options of the network are taken from the weights.

    Args:
        model: A registered name, a torchvision classifier, ``package.module:callable``, or None if the weights file
            says which network it belongs to.
        weights: A path, a URL, ``default``, ``random`` or None; see :func:`decompose_cli.models.weights.read_weights`.
        head: Name of the submodule to use as the head, where tracing does not settle it.
        allow_download: Whether files may be downloaded.
        seed: Seed of initial weights, where there are no others.
        options: Options of the network. Where the weights say theirs, only decays of online normalisation may differ.

    Raises:
        InputError: The model is unknown, or its weights cannot be read or were trained with other options.
        DownloadError: The weights cannot be fetched.
    """
    if model is None:
        assert weights is not None
        checkpoint = read_checkpoint(user_path(weights), weights)
        if checkpoint.metadata is None:
            raise InputError(f"{weights} does not say which network it belongs to; name the model, such as resnet20.")
        if ":" in checkpoint.metadata.model:  # a weights file must not decide what code is imported
            raise InputError(
                f"{weights} belongs to {checkpoint.metadata.model}, which is Python code of its own.",
                hint=f"If you trust it, name {checkpoint.metadata.model} as the model.",
            )
        entry = _as_trained(find_entry(checkpoint.metadata.model), checkpoint, options or {})
        return Classifier(entry, checkpoint, head, seed)
    entry = find_entry(model)
    read = read_weights(entry, weights, allow_download=allow_download)
    configured = _as_trained(entry, read, options or {}) if read is not None else entry.configured(**(options or {}))
    classifier = Classifier(configured, read, head, seed)
    if classifier.checkpoint is None and weights == RANDOM:
        note(f"{model} has random weights (from {param('seed')}): accuracies mean nothing.")
    elif classifier.checkpoint is None:
        note(
            f"No weights were given: using those that {model} comes with, which are random unless it loads some itself."
        )
    if classifier.checkpoint is not None and not classifier.uses_default_weights and entry.caution is not None:
        warn(entry.caution)
    if read is not None and read.csg is not None and ":" not in model:
        note(f"{read.source} also holds class-specific gates, which {param('csg')} and {param('method')} csg take.")
    return classifier


def _as_trained(entry: ModelEntry, checkpoint: Checkpoint, given: Mapping[str, str]) -> ModelEntry:
    """The entry with the options that the weights say they were trained with, else with those given or shown."""
    metadata = checkpoint.metadata
    if metadata is not None and metadata.model == entry.name:
        try:
            trained = entry.configured(**(metadata.model_options or {}))
        except InputError as error:
            raise InputError(
                f"The description inside {checkpoint.source} does not fit: {error.sentence}", hint=error.advice
            ) from error
        return _checked(trained, given, may_differ=("afwd", "abkw"))
    if _has_default_hash(entry, checkpoint):
        return _checked(entry, given)
    if metadata is not None and ":" not in metadata.model:
        with suppress(InputError):  # the weights name another network, which may have been built alike
            return entry.configured(**(metadata.model_options or {})).configured(**given)
    told = _as_given(entry.shown_by(checkpoint.state_dict), given, checkpoint)
    shown = {name: value for name, value in told.items() if name not in given}
    if shown:
        text = ", ".join(f"{name} {value!r}" for name, value in shown.items())
        note(f"The names in {checkpoint.source} are those of {entry.name} with {text}; it is loaded as that.")
    if "ecm" in shown:
        warn(
            f"{checkpoint.source} does not say which error compensation it was made with; {shown['ecm']} is assumed, "
            "as the published commands do; 'train --evaluate --norm-mode online --ecm ...' takes another."
        )
    configured = entry.configured(**shown, **given)
    published = entry.of_published_gates
    if "gate" in told and published is not None:
        configured = replace(configured, preprocessing=published)
        mean, std = (", ".join(map(str, values)) for values in (published.mean, published.std))
        note(f"Its images are normalised as those of the published gated networks: mean {mean}, std {std}.")
    caution = GATES[shown["gate"]].caution if "gate" in shown else None
    if caution is not None:
        warn(f"{checkpoint.source} {caution}")
    return configured


def _as_given(shown: dict[str, str], given: Mapping[str, str], checkpoint: Checkpoint) -> dict[str, str]:
    """The options that weights show, with the gate that was named, which has to have the same weights."""
    gate, named = shown.get("gate"), given.get("gate")
    if gate is None or named is None or named == gate:
        return shown
    if named not in GATES or not GATES[named].shown_by(checkpoint.state_dict):
        raise InputError(
            f"The weights in {checkpoint.source} are of gate {gate}, not {named}.", hint=f"Leave {param('gate')} out."
        )
    others = {name: value for name, value in shown.items() if name not in GATE_DETAILS}
    return {**others, "gate": named, **GATES[named].published}


def _checked(entry: ModelEntry, given: Mapping[str, str], *, may_differ: Collection[str] = ()) -> ModelEntry:
    """The entry of weights with the given options; refuse options that contradict the weights."""
    configured = entry.configured(**given)
    defaults = {"norm_mode": "batch", **{name: values[0] for name, values in entry.options.items()}}
    for name, value in given.items():
        trained = entry.chosen.get(name, defaults.get(name))
        if name not in may_differ and configured.chosen.get(name, defaults.get(name)) != trained:
            raise InputError(
                f"The weights were trained with {param(name)} {trained}, not {value}.",
                hint=f"To begin with a plain network, give it with {param('baseline')}."
                if (name, trained) == ("gate", NO_GATE)
                else f"Leave {param(name)} out.",
            )
    return configured


def find_entry(model: str) -> ModelEntry:
    """Look a network up by name, or import it as ``package.module:callable``.

    Raises:
        InputError: There is no such network.
    """
    return user_entry(model) if ":" in model else get_entry(model)


def _has_default_hash(entry: ModelEntry, checkpoint: Checkpoint) -> bool:
    return entry.sha256 is not None and checkpoint.sha256.startswith(entry.sha256)


def _dense_tensors(head: Head) -> HeadTensors:
    weight, bias = head.dense()
    return HeadTensors("dense", head.name, weight.cpu(), bias.cpu(), head.num_features)  # where features are kept


def _decomposed_tensors(module: DecomposedLinear, name: str, scale: float) -> HeadTensors:
    return HeadTensors(
        "decomposed",
        name,
        module.weight.detach().cpu().float() * scale,
        module.bias.detach().cpu().float() * scale,
        module.num_features,
        module.indices.cpu(),
        module.mask.cpu(),
    )


def preprocessing_of(classifier: Classifier, fallback: Preprocessing) -> Preprocessing:
    """Preprocessing of the images: the checkpoint's, else the model's, else the data set's."""
    base = classifier.entry.preprocessing or fallback
    metadata = classifier.checkpoint.metadata if classifier.checkpoint else None
    if metadata is None:
        return base
    if metadata.mean is not None and metadata.std is not None:
        (m0, m1, m2), (s0, s1, s2) = metadata.mean, metadata.std
        base = replace(base, mean=(m0, m1, m2), std=(s0, s1, s2))
    if metadata.resize is not None and metadata.crop is not None and metadata.interpolation is not None:
        resize = metadata.resize if isinstance(metadata.resize, int) else (metadata.resize[0], metadata.resize[1])
        height, width = metadata.crop
        base = replace(base, resize=resize, crop=(height, width), interpolation=metadata.interpolation)
    return base


def num_features_of(model: str) -> int:
    """Number of features D of a network by its name, without its weights.

    Raises:
        InputError: The network is unknown or has no head.
    """
    entry = find_entry(model)
    if entry.num_features is not None:
        return entry.num_features
    size = (entry.preprocessing or IMAGENET).crop
    return Classifier(entry, None, None, seed=0).load(size).tensors.num_features
