"""A classifier as the analyses see it: features, a head, and the facts that identify both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from decompose_cli.errors import InputError
from decompose_cli.files import user_path
from decompose_cli.models.checkpoint import Checkpoint, read_checkpoint
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.head import Head, find_head
from decompose_cli.models.registry import DEFAULT_MODEL, ModelEntry, get_entry, registered_models
from decompose_cli.models.user import user_entry
from decompose_cli.models.weights import RANDOM, default_source, read_weights
from decompose_cli.preprocessing import IMAGENET, Preprocessing, Size
from decompose_cli.progress import note, warn


@dataclass(frozen=True)
class HeadTensors:
    """The parameters of a head, constant factor folded in, float32.

    ``dense``: weight (C, D). ``decomposed``: weight (C, k) with indices (C, k) and mask (C, k). ``subspaces``: weight
    (C, k) whose indices are not known (the authors' fine-tuned layout), and ``reference`` (C, D), the full head it was
    started from if the file holds one. Bias is (C,) throughout.
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
        """C."""
        return len(self.bias)


@dataclass(frozen=True)
class Network:
    """A built network with its weights and its head."""

    module: nn.Module
    head: Head | None
    head_name: str
    tensors: HeadTensors


class Classifier:
    """A network that has been named and whose weights have been read; it is built when first needed.

    Attributes:
        entry: What the registry knows.
        checkpoint: The weights, or None where the network's own initial ones are used.
        head_name: The head the user asked for, or None.
        uses_default_weights: Whether these are the weights the registry names.
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
        """As written on the command line."""
        return self.entry.name

    @property
    def weights_source(self) -> str:
        """Path or URL of the weights; ``random`` or ``own`` where there is no file."""
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
        return self._build(self.entry.num_classes)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the function from pixels to features, as JSON-ready values."""
        return {
            "weights": self.weights_sha256,
            "architecture": self.entry.architecture,
            "head": self.head_name or "traced",
        }

    def load(self, input_size: Size) -> Network:
        """Build the network, put the weights in and find the head.

        Args:
            input_size: (height, width) of the images it is going to see.

        Raises:
            InputError: The weights do not fit, or there is no head; every key that does not fit is accounted for.
        """
        if input_size not in self._networks:
            self._networks[input_size] = self._load(input_size)
        return self._networks[input_size]

    def _build(self, num_classes: int) -> nn.Module:
        pretrained = self.checkpoint is not None and _has_default_hash(self.entry, self.checkpoint)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.entry.build(num_classes, pretrained=pretrained).eval()

    def _load(self, input_size: Size) -> Network:
        module = self._initial if self.checkpoint is None else self._build(self.entry.num_classes)
        head = find_head(module, input_size, name=self.head_name, model_name=self.name)
        if self.checkpoint is None:
            return Network(module, head, head.name, _dense_tensors(head))
        state = _state_for(module, self.checkpoint, self.entry)
        decomposed = _split_decomposed_head(state, head, self.checkpoint.source)
        classes = len(decomposed.bias) if decomposed else _classes_in(state, head)
        if classes == 0:
            raise InputError(f"{self.weights_source} has a head without any class.")
        if classes is not None and classes != head.num_classes:
            module = self._build(classes)
            head = find_head(module, input_size, name=head.name, model_name=self.name)
        if decomposed is not None:
            _load_state(module, state, self, without=f"{head.name}.")
            decomposed = decomposed.to(dtype=torch.float32)
            module.set_submodule(head.name, decomposed)
            self._check_description(head.num_classes)
            return Network(module, None, head.name, _decomposed_tensors(decomposed, head))
        _load_state(module, state, self)
        self._check_description(head.num_classes)
        published = self.checkpoint.published_decomposition
        if published is None:
            return Network(module, head, head.name, _dense_tensors(head))
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
        return Network(module, head, head.name, tensors)

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
    model: str | None, weights: str | None, *, head: str | None = None, allow_download: bool = True, seed: int = 0
) -> Classifier:
    """Name a network and read its weights.

    Args:
        model: A registered name, a torchvision classifier, ``package.module:callable``, or None if the weights file
            says which network it belongs to.
        weights: See :func:`decompose_cli.models.weights.read_weights`.
        head: Submodule to use as the head, where tracing does not settle it.
        allow_download: Whether the network may be used.
        seed: For initial weights, where there are no others.

    Raises:
        InputError: Unknown model, or weights that cannot be read.
        DownloadError: Weights that cannot be fetched.
    """
    if model is None:
        assert weights is not None
        checkpoint = read_checkpoint(user_path(weights), weights)
        if checkpoint.metadata is None:
            raise InputError(
                f"{weights} does not say which network it belongs to; name the model, as in 'resnet20 -w {weights}'."
            )
        if ":" in checkpoint.metadata.model:  # a weights file must not decide what code is imported
            raise InputError(
                f"{weights} belongs to {checkpoint.metadata.model}, which is Python code of its own.",
                hint=f"If you trust it, name it: {checkpoint.metadata.model} -w {weights}.",
            )
        return Classifier(find_entry(checkpoint.metadata.model), checkpoint, head, seed)
    entry = find_entry(model)
    classifier = Classifier(entry, read_weights(entry, weights, allow_download=allow_download), head, seed)
    if classifier.checkpoint is None and weights == RANDOM:
        note(f"{model} has random weights (from --seed): accuracies mean nothing.")
    elif classifier.checkpoint is None:
        note(
            f"No weights were given: using those that {model} comes with, which are random unless it loads some itself."
        )
    if classifier.checkpoint is not None and not classifier.uses_default_weights and entry.caution is not None:
        warn(entry.caution)
    if classifier.checkpoint is not None and classifier.checkpoint.csg is not None and ":" not in model:
        note(
            f"{classifier.weights_source} also holds class-specific gates (see --csg and extract-indices --method csg)."
        )
    return classifier


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
    return HeadTensors("dense", head.name, weight, bias, head.num_features)


def _decomposed_tensors(module: DecomposedLinear, head: Head) -> HeadTensors:
    return HeadTensors(
        "decomposed",
        head.name,
        module.weight.detach() * head.scale,
        module.bias.detach() * head.scale,
        module.num_features,
        module.indices,
        module.mask,
    )


def _state_for(module: nn.Module, checkpoint: Checkpoint, entry: ModelEntry) -> dict[str, Tensor]:
    """The state dict in the names of the module: what reading took for something else is put back where it belongs."""
    state = {
        name: value for name, value in checkpoint.state_dict.items() if not name.startswith(entry.unread or ("\0",))
    }
    if len(state) < len(checkpoint.state_dict):
        note(f"{checkpoint.source}: {', '.join(entry.unread)} are heads for training only, which are left out.")
    names = module.state_dict()
    if checkpoint.csg is not None and "csg" in names:
        state["csg"] = checkpoint.csg
    if all(name.startswith("module.") for name in names):
        return {f"module.{name}": value for name, value in state.items()}
    prefix = next(iter(state), "").split(".")[0] + "."
    inner = {name.removeprefix(prefix): value for name, value in state.items()}
    if (
        all(name.startswith(prefix) for name in state)
        and inner.keys() <= names.keys()
        and not state.keys() & names.keys()
    ):
        note(f"{checkpoint.source}: the {prefix!r} that all names begin with was left off.")
        return inner
    return state


def _split_decomposed_head(state: dict[str, Tensor], head: Head, source: str) -> DecomposedLinear | None:
    """Take a decomposed head (``weight``, ``bias``, ``indices``, ``mask``) out of a state dict, if it has one."""
    prefixes = [name.removesuffix(".indices") for name in state if name.endswith(".indices")]
    prefixes = [prefix for prefix in prefixes if f"{prefix}.mask" in state]
    if not prefixes:
        return None
    if prefixes != [head.name]:
        raise InputError(
            f"{source} has a decomposed head {prefixes[0]!r}, but the head of this network is {head.name!r}."
        )
    parts = {part: state.pop(f"{head.name}.{part}", None) for part in ("weight", "bias", "indices", "mask")}
    weight, bias, indices, mask = parts["weight"], parts["bias"], parts["indices"], parts["mask"]
    if weight is None or bias is None or indices is None or mask is None:
        raise InputError(f"{source}: the decomposed head lacks its weight, bias, indices or mask.")
    fits = (
        weight.ndim == 2
        and weight.shape == indices.shape == mask.shape
        and bias.shape == weight.shape[:1]
        and indices.dtype == torch.int64
        and mask.dtype == torch.bool
        and bool(mask.any(1).all())
        and bool(mask.all(1).any())
        and not bool((mask[:, 1:] & ~mask[:, :-1]).any())  # padding is at the end
        and bool((indices >= 0).all())
        and bool((indices < head.num_features).all())
    )
    if not fits:
        raise InputError(f"{source}: the parts of the decomposed head do not fit each other or the network.")
    rows = [[int(i) for i in row[keep]] for row, keep in zip(indices, mask, strict=True)]
    module = DecomposedLinear(rows, head.num_features)
    module.load_state_dict({"weight": weight, "bias": bias, "indices": indices, "mask": mask})
    return module


def _classes_in(state: dict[str, Tensor], head: Head) -> int | None:
    weight = state.get(f"{head.name}.weight")
    return len(weight) if weight is not None and weight.ndim >= 1 else None


def _load_state(
    module: nn.Module, state: dict[str, Tensor], classifier: Classifier, without: str | None = None
) -> None:
    """Copy a state dict into the module; every key has to match, but for counters that inference never reads."""
    expected = {
        name: value for name, value in module.state_dict().items() if without is None or not name.startswith(without)
    }
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    misshaped = [name for name in expected if name in state and expected[name].shape != state[name].shape]
    if missing or unexpected or misshaped:
        raise _mismatch(classifier, expected, state, missing, unexpected, misshaped)
    module.load_state_dict(state, strict=False)


def _mismatch(
    classifier: Classifier,
    expected: dict[str, Tensor],
    state: dict[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    misshaped: list[str],
) -> InputError:
    shapes = [f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}" for name in misshaped]
    groups = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    details = "; ".join(f"{len(names)} {what} ({_some(names)})" for what, names in groups if names)
    fitting = [name for name in _fitting_models(state) if name != classifier.name]
    hint = "'decompose models' lists the known networks."
    if fitting:
        hint = f"These weights fit {' or '.join(fitting)}."
    elif ":" in classifier.name:
        hint = f"Is this file of the network that {classifier.name} returns?"
    return InputError(f"{classifier.weights_source} does not fit {classifier.name}: {details}.", hint=hint)


def _some(names: list[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _fitting_models(state: dict[str, Tensor]) -> list[str]:
    """Registered networks whose parameters have the names and shapes of this state dict, whatever the classes."""
    wanted = {name: value.shape[1:] for name, value in state.items() if not name.endswith("num_batches_tracked")}
    total = sum(value.numel() for value in state.values())
    names: list[str] = []
    for entry in registered_models():
        # Building a network of quite another size could not end in a match, and the large ones take seconds.
        if entry.name == DEFAULT_MODEL or entry.parameters is None or not 0.5 < total / entry.parameters < 2:
            continue
        with torch.device("meta"):
            shapes = {k: v.shape[1:] for k, v in entry.build(entry.num_classes).state_dict().items()}
        if {k: v for k, v in shapes.items() if not k.endswith("num_batches_tracked")} == wanted:
            names.append(entry.name)
    return names


def preprocessing_of(classifier: Classifier, fallback: Preprocessing) -> Preprocessing:
    """The checkpoint's constants, else the model's, else the data set's; the model's geometry, else the data set's."""
    base = classifier.entry.preprocessing or fallback
    metadata = classifier.checkpoint.metadata if classifier.checkpoint else None
    if metadata is not None and metadata.mean is not None and metadata.std is not None:
        (m0, m1, m2), (s0, s1, s2) = metadata.mean, metadata.std
        return Preprocessing((m0, m1, m2), (s0, s1, s2), base.resize, base.crop, base.interpolation)
    return base


def num_features_of(model: str) -> int:
    """D of a network by its name, without its weights; raises InputError if it is unknown or has no head."""
    entry = find_entry(model)
    if entry.num_features is not None:
        return entry.num_features
    size = (entry.preprocessing or IMAGENET).crop
    return Classifier(entry, None, None, seed=0).load(size).tensors.num_features
