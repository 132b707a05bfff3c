"""Networks as objects: load, decompose, save."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from decompose_cli.decomposition.heads import resolve_heads, with_decomposed_head
from decompose_cli.decomposition.index_set import IndexSet, read_index_set
from decompose_cli.decomposition.inputs import Inputs
from decompose_cli.decomposition.study import class_names_of, open_network, seen_by
from decompose_cli.errors import InputError
from decompose_cli.files import check_writable, user_path
from decompose_cli.models.checkpoint import Metadata, write_checkpoint
from decompose_cli.models.classifier import Network, network_of
from decompose_cli.preprocessing import CIFAR, IMAGENET, Preprocessing


@dataclass(frozen=True)
class Model:
    """A classifier: features, and a head.

    Attributes:
        name: As it was loaded, or the name of its class.
        network: The module, and what its head is.
        preprocessing: What happens to images of a data set before it sees them.
        class_names: Of its outputs, where they are known.
        gates: Class-specific gates (C, D) of the weights file, if it has any; for the method ``csg``.
    """

    name: str
    network: Network
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    gates: Tensor | None = None

    @property
    def module(self) -> nn.Module:
        """The network: normalised images (N, 3, H, W) to logits (N, C)."""
        return self.network.module

    @property
    def head_name(self) -> str:
        """The submodule that is the head."""
        return self.network.head_name

    @property
    def num_features(self) -> int:
        """D, the size of what enters the head."""
        return self.network.tensors.num_features

    @property
    def num_classes(self) -> int:
        """C."""
        return self.network.tensors.num_classes

    @property
    def is_decomposed(self) -> bool:
        """Whether each class has a head of its own features."""
        return self.network.tensors.kind != "dense"

    def __repr__(self) -> str:
        kind = "decomposed" if self.is_decomposed else "full"
        return f"Model({self.name!r}, {self.num_features} features, {self.num_classes} classes, {kind} head)"


def load_model(
    model: str | nn.Module | None = None,
    weights: str | Path | None = None,
    *,
    head: str | None = None,
    input_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    allow_download: bool = True,
    seed: int = 0,
) -> Model:
    """Name a network and read its weights, or take one that is there.

    >>> load_model()  # the network that ships with decompose
    Model('resnet20-digits', 64 features, 10 classes, full head)

    Args:
        model: A name from ``decompose models``, any torchvision classifier, ``package.module:callable``, or a module,
            which is used as it is and left as it was found. None for the network that ships with decompose, or for the
            one that ``weights`` says it belongs to.
        weights: A path, a URL, ``default`` or ``random``; for a module None.
        head: Submodule that is the head, where several could be.
        input_size: Pixels that it takes, or (height, width); needed for a module.
        mean: Normalisation for pixel values in [0, 1] per channel, for images of a data set.
        std: Likewise.
        class_names: Of its outputs, where the network does not say.
        allow_download: Whether weights may be fetched.
        seed: For random weights.

    Raises:
        InputError: There is no such network, no head, or weights that do not fit.
        DownloadError: Weights that cannot be fetched.
    """
    size = None if input_size is None else (input_size, input_size) if isinstance(input_size, int) else input_size
    seen = None if size is None else f"{size[0]}x{size[1]}"
    if isinstance(model, nn.Module):
        if weights is not None:
            raise InputError("A module has its weights already; load others into it with load_state_dict.")
        if size is None:
            raise InputError("The size of a module's images is not known; give input_size.")
        preprocessing = IMAGENET.overridden(mean=_listed(mean), std=_listed(std), input_size=seen)
        network = network_of(model, preprocessing.crop, head)
        return Model(type(model).__name__, network, preprocessing, _checked_names(class_names, network))
    inputs = Inputs(
        model=model,
        weights=None if weights is None else str(weights),
        head=head,
        allow_download=allow_download,
        seed=seed,
        mean=_listed(mean),
        std=_listed(std),
        input_size=seen,
    )
    classifier = open_network(inputs)
    preprocessing = seen_by(classifier, inputs, IMAGENET if classifier.entry.dataset == "imagenet" else CIFAR)
    network = classifier.load(preprocessing.crop)
    names = _checked_names(class_names, network)
    known = class_names_of(classifier)
    if names is None and known is not None and len(known.names) == network.tensors.num_classes:
        names = tuple(known.names)
    gates = classifier.checkpoint.csg if classifier.checkpoint else None
    return Model(classifier.name, network, preprocessing, names, gates)


def _listed(values: Sequence[float] | None) -> str | None:
    return None if values is None else ",".join(repr(float(value)) for value in values)


def _checked_names(names: Sequence[str] | None, network: Network) -> tuple[str, ...] | None:
    count = network.tensors.num_classes
    if names is not None and len(names) != count:
        raise InputError(f"{len(names)} class names were given, but the network has {count} classes.")
    return None if names is None else tuple(names)


def decompose(model: Model, indices: IndexSet | str | Path | Mapping[int, Sequence[int]]) -> Model:
    """A copy of a classifier whose head is one subspace of k features per class.

    With the full head W (C, D), b (C,) and the features S_c of class c, its logits are
    z_c = b_c + sum over j in S_c of W_cj x_j. It is an ordinary module, which can be trained further.

    >>> small = decompose(load_model(), {c: [c, c + 1] for c in range(10)})
    >>> small
    Model('resnet20-digits', 64 features, 10 classes, decomposed head)
    >>> small.module(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])

    Args:
        model: Left as it was found.
        indices: An index set, a file with one, or feature numbers by class number.

    Raises:
        InputError: The set does not fit, or the head is decomposed already.
    """
    network = model.network.as_it_is()
    if network.head is None or network.tensors.kind != "dense":
        raise InputError(f"{model.name} has a decomposed head already.")
    heads = resolve_heads(network.tensors, _index_set(indices, model))
    assert heads.decomposed is not None
    module = copy.deepcopy(network.module)
    with_decomposed_head(module, network.head, network.head_name, heads.decomposed)
    return replace(model, network=replace(network, module=module).as_it_is())


def _index_set(indices: IndexSet | str | Path | Mapping[int, Sequence[int]], model: Model) -> IndexSet:
    if isinstance(indices, IndexSet):
        return indices
    if isinstance(indices, (str, Path)):
        return read_index_set(user_path(indices))
    if set(indices) != set(range(model.num_classes)):
        raise InputError(f"Feature numbers are needed of the classes 0 to {model.num_classes - 1}, and of no others.")
    return IndexSet(tuple(tuple(map(int, indices[number])) for number in range(model.num_classes)), model.num_features)


def save_model(model: Model, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the weights, with what is known of the network, to a ``.safetensors`` file that every command takes.

    >>> save_model(decompose(load_model(), {c: [c] for c in range(10)}), "small.safetensors")
    >>> load_model(weights="small.safetensors")
    Model('resnet20-digits', 64 features, 10 classes, decomposed head)

    Args:
        model: Any; one of a module can be read back only together with the module, as its code is not in the file.
        path: Ends in ``.safetensors``.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        InputError: The path cannot be used.
        DecomposeError: The file cannot be written; nothing is left behind.
    """
    target = user_path(path)
    if target.suffix != ".safetensors":
        raise InputError(f"{target} does not end in .safetensors.")
    check_writable(target, overwrite=overwrite)
    about = model.preprocessing
    metadata = Metadata(
        model=model.name,
        num_classes=model.num_classes,
        class_names=list(model.class_names) if model.class_names is not None else None,
        mean=list(about.mean),
        std=list(about.std),
        resize=about.resize if isinstance(about.resize, int) else list(about.resize),
        crop=list(about.crop),
        interpolation=about.interpolation,
    )
    write_checkpoint(target, model.module.state_dict(), metadata)
