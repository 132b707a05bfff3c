"""A classifier as the analyses see it: a network with a head, its weights, and the facts that identify both."""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from decompose_cli.errors import InputError, param
from decompose_cli.messages import note, warn
from decompose_cli.models.backbones import BackboneWithHead, is_features_only, without_head
from decompose_cli.models.batch_dependence import warn_of_batch_dependence
from decompose_cli.models.checkpoint import Checkpoint
from decompose_cli.models.completing import completed
from decompose_cli.models.entry import is_user_code
from decompose_cli.models.finding import described_entry
from decompose_cli.models.finding import find_entry as find_entry
from decompose_cli.models.fitting import (
    check_description,
    classes_in,
    decomposed_head_name,
    load_state,
    state_for,
    take_decomposed_head,
)
from decompose_cli.models.head import find_head
from decompose_cli.models.lone_head import refuse_lone_head
from decompose_cli.models.network import HeadTensors, Network, network_of
from decompose_cli.models.new_head import NewHead, check_opens_again, take_described_head, with_new_head
from decompose_cli.models.registry import ModelEntry
from decompose_cli.models.tracing import example_images, trace_layers
from decompose_cli.models.trained_options import as_trained, has_default_hash
from decompose_cli.models.weights import RANDOM, default_source, read_named, read_weights
from decompose_cli.preprocessing import IMAGENET, ImageOptions, Size


class Classifier:
    """A network that has been named and whose weights have been read; it is built when first needed.

    Attributes:
        entry: Entry of the registry, with the options that the weights were trained with.
        checkpoint: The weights, or None where the network's own initial ones are used.
        head_name: Name of the head that the user asked for, or None.
        uses_default_weights: Whether these are the weights that the registry names.
        new_head: The head that takes the place of the network's own, where there is one.
        whole: The network with all of its classes, which this one is cut from, or it is itself.
        classes: Numbers of the classes that the head is cut to; None for all.
    """

    def __init__(self, entry: ModelEntry, checkpoint: Checkpoint | None, head_name: str | None, seed: int) -> None:
        self.entry = entry
        self.checkpoint = checkpoint
        self.head_name = head_name
        self.seed = seed
        self.new_head: NewHead | None = None
        self.uses_default_weights = checkpoint is not None and (
            checkpoint.source == default_source(entry) or has_default_hash(entry, checkpoint)
        )
        self._networks: dict[Size, Network] = {}
        self.whole: Classifier = self
        self.classes: tuple[int, ...] | None = None

    def of_classes(self, numbers: Sequence[int]) -> Classifier:
        """The same network with a head of some classes alone, in this order; features are the same."""
        cut = copy.copy(self)
        cut.classes, cut._networks = tuple(numbers), {}
        return cut

    @property
    def kept_whole(self) -> frozenset[int]:
        """Classes of a decomposed head that had no images, so that they may have their whole row of the full head."""
        whole = self.checkpoint.kept_whole if self.checkpoint is not None else frozenset()
        if self.classes is None:
            return whole
        return frozenset(place for place, number in enumerate(self.classes) if number in whole)

    @property
    def lacks_head(self) -> bool:
        """Whether the network is one without a classifier, to which no head has been fitted."""
        metadata = self.checkpoint.metadata if self.checkpoint is not None else None
        is_fitted = metadata is not None and is_features_only(metadata.model_options)
        return is_features_only(self.entry.chosen) and not is_fitted

    def with_classes(self, names: Sequence[str], ids: Sequence[str] | None) -> Classifier:
        """The same network with a head for these classes, where it lacks one; otherwise itself."""
        if not self.lacks_head:
            return self
        entry = replace(self.entry, num_classes=len(names), outputs=lambda: (names, ids))
        return Classifier(entry, self.checkpoint, self.head_name, self.seed)

    @property
    def name(self) -> str:
        """Name of the network as written on the command line."""
        return self.entry.name

    def with_new_head(self, new: NewHead | None) -> Classifier:
        """The same network with a head for other classes, or without one; features are those of this one."""
        other = Classifier(self.entry, self.checkpoint, self.head_name, self.seed)
        other.new_head = new
        return other

    @property
    def weights_source(self) -> str:
        """Path or URL of the weights; without a file, ``random`` or a text that says that the callable made them."""
        if self.checkpoint is not None:
            return self.checkpoint.source
        return "as returned by the callable" if is_user_code(self.name) else RANDOM

    @cached_property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights file, or of the tensors where there is no file."""
        if self.checkpoint is not None:
            return self.checkpoint.sha256
        return state_digest(self._backbone_alone() if self.lacks_head else self._initial)

    @cached_property
    def _initial(self) -> nn.Module:
        return self._build(self.entry.num_classes, self._usual_size)

    def _backbone_alone(self) -> nn.Module:
        """The network before any head; it may run on images of another size only than is usual."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.entry.build(0, input_size=self._usual_size, is_bare=True)

    @property
    def _usual_size(self) -> Size:
        return (self.entry.preprocessing or IMAGENET).crop

    @property
    def image_options(self) -> ImageOptions:
        """What the weights say of the preprocessing of the images, and the registry where they say nothing."""
        usual = self.entry.preprocessing
        known = ImageOptions(**vars(usual)) if usual is not None else ImageOptions()
        metadata = self.checkpoint.metadata if self.checkpoint else None
        return known if metadata is None else replace(known, **metadata.image_options().given())

    @property
    def identity(self) -> dict[str, Any]:
        """The facts that decide the function from pixels to features, as JSON-ready values."""
        return {
            "weights": self.weights_sha256,
            "architecture": self.entry.architecture,
            "head": self.head_name or "traced",
            **({"ema": True} if self.checkpoint is not None and self.checkpoint.is_averaged else {}),
            **({"weights_key": self.checkpoint.weights_key} if self.checkpoint and self.checkpoint.weights_key else {}),
        }

    def load(self, input_size: Size) -> Network:
        """Build the network, put the weights in and find the head.

        Args:
            input_size: (height, width) of the images that the network is going to see.

        Raises:
            InputError: The weights do not fit (the sentence accounts for every key), or there is no head.
        """
        if input_size not in self._networks and self.classes is not None:
            self._networks[input_size] = self.whole.load(input_size).of_classes(self.classes, self.name)
        if input_size not in self._networks:
            network = self._load(input_size)
            depends = warn_of_batch_dependence(network.module, input_size, network.head, self.name)
            self._networks[input_size] = replace(network, depends_on_batch=depends)
        return self._networks[input_size]

    def _build(self, num_classes: int, input_size: Size) -> nn.Module:
        pretrained = self.checkpoint is not None and has_default_hash(self.entry, self.checkpoint)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            made = self.entry.make(num_classes, input_size, pretrained=pretrained)
            return completed(made, input_size, self.name).eval()

    def build(self, input_size: Size) -> tuple[nn.Module, str | None]:
        """Build the network and put the weights in.

        Returns:
            The network, and the name of the decomposed head that the weights have put into it, if they did.

        Raises:
            InputError: The weights do not fit; the sentence accounts for every key.
        """
        if self.checkpoint is None:
            is_other = self.entry.depends_on_size and input_size != self._usual_size
            return self._build(self.entry.num_classes, input_size) if is_other else self._initial, None
        module = self._build(self.entry.num_classes, input_size)
        if self.lacks_head and isinstance(module, BackboneWithHead):
            self._load_backbone(module.backbone, self.checkpoint)
            return module, None
        state = state_for(module, self.checkpoint, self.entry)
        source = self.checkpoint.source
        place = decomposed_head_name(state)
        classes = classes_in(state, module, self.entry.num_classes, place)
        if classes == 0 != self.entry.num_classes:
            raise InputError(f"{source} has a head without any class.")
        if classes != self.entry.num_classes:
            module = self._build(classes, input_size)
        if self.entry.adapted is not None:
            state = self.entry.adapted(state, module)
        if place is None:
            described = self.checkpoint.metadata
            if described is not None and described.model == self.name:
                take_described_head(module, state, described.num_classes, input_size, self.head_name)
            load_state(module, state, self.checkpoint, self.name)
        else:
            num_features = self._features_entering(module, input_size, place)
            decomposed = take_decomposed_head(state, place, num_features, source)
            load_state(module, state, self.checkpoint, self.name, without=f"{place}.")
            module.set_submodule(place, decomposed)
        return module, place

    def _load_backbone(self, backbone: nn.Module, checkpoint: Checkpoint) -> None:
        state = state_for(backbone, checkpoint, self.entry)
        if self.entry.adapted is not None:
            state = self.entry.adapted(state, backbone)
        load_state(backbone, state, checkpoint, self.name)

    def _load(self, input_size: Size) -> Network:
        module, place = self.build(input_size)
        if isinstance(module, BackboneWithHead) and self.lacks_head:
            return without_head(module, input_size, self.name)
        network = network_of(module, input_size, place or self.head_name, self.name)
        if self.new_head is not None:
            _ = self.weights_sha256  # without a file those of the module, which changes now
            network = with_new_head(network, self.new_head, self.name)
            if not is_user_code(self.name):
                again = self._build(network.tensors.num_classes, input_size)
                check_opens_again(network.module, again, self.entry.unread, self.name)
            return network
        head = network.head
        if self.checkpoint is None:
            return network
        check_description(self.checkpoint, head.num_classes)
        if self.checkpoint.sparse is not None:
            return replace(network, tensors=self.checkpoint.sparse.joined(network.tensors, self.weights_source))
        published = self.checkpoint.published_decomposition
        if published is None:
            return network
        if len(published.bias) != head.num_classes or published.weight.shape[1] > head.num_features:
            raise InputError(
                f"{self.weights_source}: final_weights {tuple(published.weight.shape)} does not fit a head of "
                f"{head.num_features} features and {head.num_classes} classes."
            )
        weight, bias = head.following.fold(published.weight, published.bias)
        tensors = HeadTensors("subspaces", head.name, weight, bias, head.num_features, reference=head.weight)
        return replace(network, tensors=tensors)

    def _features_entering(self, module: nn.Module, input_size: Size, place: str) -> int:
        """The number of features that enter the part in whose place the weights have a decomposed head."""
        _, layers = trace_layers(module, example_images(input_size, model=module))
        shapes = [layer.input_shape for layer in layers if layer.name == place]
        if shapes and shapes[0] is not None and self.head_name in (None, place):
            return torch.Size(shapes[0][1:]).numel()
        head = find_head(module, input_size, name=self.head_name, model_name=self.name)
        raise InputError(
            f"{self.weights_source} has a decomposed head {place!r}, but the head of this network is {head.name!r}."
        )


def state_digest(module: nn.Module) -> str:
    """SHA-256 of the names and values of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes_of(value))
    return digest.hexdigest()


def _bytes_of(value: Any) -> bytes:
    """What identifies an entry of a state dict, which need not be a tensor, nor one of plain numbers."""
    if isinstance(value, torch.Tensor) and not value.is_quantized:
        plain = value.detach().resolve_conj().resolve_neg().cpu().contiguous().flatten()
        return plain.view(torch.uint8).numpy().tobytes()
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {value.qscheme()}".encode() + _bytes_of(value.dequantize())
    if isinstance(value, tuple | list):
        return b"".join(map(_bytes_of, value))
    return pickle.dumps(value)


def open_classifier(
    model: str | None,
    weights: str | None,
    *,
    head: str | None = None,
    allow_download: bool = True,
    ema: bool = False,
    weights_key: str | None = None,
    seed: int = 0,
    options: Mapping[str, str] | None = None,
    features_only: bool = False,
) -> Classifier:
    """Name a network and read its weights; options of the network are taken from the weights.

    Args:
        model: A registered name, a torchvision classifier, ``timm:NAME``, ``hf:ORG/NAME``, ``hf:FOLDER``,
            ``package.module:callable``, or None if the weights file says which network it belongs to.
        weights: A path, a URL, ``default``, ``random`` or None; see :func:`decompose_cli.models.weights.read_weights`.
        head: Name of the submodule to use as the head, where tracing does not settle it.
        allow_download: Whether files may be downloaded.
        ema: Whether the averaged weights are taken where the file has raw and averaged ones.
        weights_key: The place of the weights in the file, with dots, where it has several.
        seed: Seed of initial weights, where there are no others.
        options: Options of the network. Where the weights say theirs, only decays of online normalisation may differ.
        features_only: Whether the network is taken without its classifier.

    Raises:
        InputError: The model is unknown, or its weights cannot be read or were trained with other options.
        DownloadError: The weights cannot be fetched.
    """
    if model is None:
        assert weights is not None
        checkpoint = read_named(weights, allow_download=allow_download, ema=ema, weights_key=weights_key)
        refuse_lone_head(checkpoint)
        checkpoint.say_bias_alone()
        if checkpoint.metadata is None:
            raise InputError(f"{weights} does not say which network it belongs to; name the model, such as resnet20.")
        if is_user_code(checkpoint.metadata.model):  # a weights file must not decide what code is imported
            raise InputError(
                f"{weights} belongs to {checkpoint.metadata.model}, which is Python code of its own.",
                hint=f"If you trust it, name {checkpoint.metadata.model} as the model.",
            )
        entry = as_trained(described_entry(checkpoint, allow_download=allow_download), checkpoint, options or {})
        return Classifier(entry, checkpoint, head, seed)
    entry = find_entry(model, allow_download=allow_download, features_only=features_only)
    read = read_weights(entry, weights, allow_download=allow_download, ema=ema, weights_key=weights_key)
    if read is not None:
        refuse_lone_head(read)
        read.say_bias_alone()
        if not features_only and read.metadata is not None and is_features_only(read.metadata.model_options):
            entry = find_entry(model, allow_download=allow_download, features_only=True)
    configured = as_trained(entry, read, options or {}) if read is not None else entry.configured(**(options or {}))
    classifier = Classifier(configured, read, head, seed)
    if classifier.checkpoint is None and weights == RANDOM:
        note(f"{model} has random weights (from {param('seed')}): accuracies mean nothing.")
    elif classifier.checkpoint is None:
        note(
            f"No weights were given: using those that {model} comes with, which are random unless it loads some itself."
        )
    if classifier.checkpoint is not None and not classifier.uses_default_weights and entry.caution is not None:
        warn(entry.caution)
    if read is not None and read.csg is not None and not is_user_code(model):
        note(f"{read.source} also holds class-specific gates, which {param('csg')} and {param('method')} csg take.")
    return classifier


def num_features_of(model: str, *, features_only: bool = False) -> int:
    """Number of features D of a network by its name, without its weights.

    Args:
        model: The name.
        features_only: Whether it is taken without its classifier.

    Raises:
        InputError: The network is unknown or has no head.
    """
    entry = find_entry(model, features_only=features_only)
    if entry.num_features is not None:
        return entry.num_features
    size = (entry.preprocessing or IMAGENET).crop
    return Classifier(entry, None, None, seed=0).load(size).tensors.num_features
