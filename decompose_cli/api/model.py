"""Networks as objects: load, decompose, save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from decompose_cli.api.indices import Indices, index_set_of
from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.classes import ClassNames
from decompose_cli.datasets.registry import usual_preprocessing
from decompose_cli.decomposition.heads import resolve_heads, with_decomposed_head
from decompose_cli.errors import InputError
from decompose_cli.features.held_network import Held, Origin
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.seen import class_names_of, settled
from decompose_cli.features.study import open_network
from decompose_cli.models.backbones import CHOSEN, no_head, with_linear_head, without_head
from decompose_cli.models.batch_dependence import warn_of_batch_dependence
from decompose_cli.models.checkpoint import Metadata, write_checkpoint
from decompose_cli.models.classifier import find_entry, state_digest
from decompose_cli.models.completing import completed
from decompose_cli.models.copying import copied
from decompose_cli.models.network import Network, network_of
from decompose_cli.models.read_back import check_read_back
from decompose_cli.models.sparse_record import SparseRecord
from decompose_cli.preprocessing import ImageOptions, Preprocessing, check_image_options, known_fields
from decompose_cli.storage.files import check_writable, user_path


@dataclass(frozen=True)
class Model:
    """A classifier: features, and a head.

    Attributes:
        name: The name that the network was loaded by, or the name of the module's class.
        network: The module, and what its head is.
        image_options: What is known of the preprocessing of images, and what :func:`load_model` was given for it;
            the data set settles the rest.
        usual: The preprocessing where neither these nor a data set say any.
        classes: Names of the outputs, where they are known.
        gates: Class-specific gates (C, D) of the weights file, if it has any; for the method ``csg``.
        options: The options of the network that differ from the defaults.
        dataset: The data set that the network was trained on, where that is known.
        sparse: What the weights file holds of a sparse head beside the network, if it does.
        origin: What it was loaded from by name, where it was.
    """

    name: str
    network: Network
    image_options: tuple[ImageOptions, ...]
    usual: Preprocessing
    classes: ClassNames | None = None
    gates: Tensor | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    dataset: str | None = None
    sparse: SparseRecord | None = None
    origin: Origin | None = field(default=None, repr=False)

    @property
    def preprocessing(self) -> Preprocessing:
        """What happens to images that are of no data set before the network sees them."""
        return self.usual.overridden(*self.image_options)

    def preprocessing_of(self, images: ImageDataset) -> Preprocessing:
        """What happens to the images of a data set before the network sees them, as for the commands.

        What was chosen for the images counts most (:func:`load_dataset`), then what was chosen for the network
        (:func:`load_model`), then what its weights or the registry say, then what is usual for the data set.
        """
        options = (*self.image_options, images.chosen)
        return settled(self.name, options, images.preprocessing, images.decided_by)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the outputs, where they are known."""
        return None if self.classes is None else tuple(self.classes.names)

    @property
    def module(self) -> nn.Module:
        """The module, which maps normalised images (N, 3, H, W) to logits (N, C)."""
        return self.network.module

    @property
    def head_name(self) -> str:
        """The name of the submodule that is the head."""
        return self.network.head.name

    @property
    def num_features(self) -> int:
        """D, the number of features that enter the head."""
        return self.network.tensors.num_features

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return self.network.tensors.num_classes

    @property
    def is_decomposed(self) -> bool:
        """Whether each class has a head of its own features."""
        return self.network.tensors.kind not in ("dense", "absent")

    def held(self) -> Held:
        """The network as it is now, for the functions that look at it."""
        network = self.network.as_it_is()
        sparse = self.sparse if network.tensors is self.network.tensors else None
        known = self.image_options[:-1]
        return Held(
            self.name,
            network.tensors,
            network,
            known[0] if known else ImageOptions(),
            self.classes,
            self.gates,
            self.options,
            self.dataset,
            sparse,
            self.origin,
        )

    def of_classes(self, classes: Sequence[str | int]) -> Model:
        """A copy whose head has some classes alone, in this order, as the commands have it with ``--classes present``.

        >>> load_model().of_classes(["3", "5", "9"])
        Model('resnet20-digits', 64 features, 3 classes, full head)

        Args:
            classes: Names of classes, or their numbers.

        Raises:
            InputError: There is no such class, one is named twice, or the head cannot be cut.
        """
        known = {name: number for number, name in enumerate(self.class_names or ())}
        numbers = [known.get(name, -1) if isinstance(name, str) else name for name in classes]
        for name, number in zip(classes, numbers, strict=True):
            if not 0 <= number < self.num_classes:
                raise InputError(f"{self.name} has no class {name!r} among its {self.num_classes}.")
        if len(set(numbers)) != len(numbers) or not numbers:
            raise InputError("classes names a class twice." if numbers else "classes names no class.")
        names, gates = self.classes, self.gates
        if names is not None:
            ids = None if names.ids is None else [names.ids[number] for number in numbers]
            names = ClassNames([names.names[number] for number in numbers], ids, names.certain)
        network = self.network.as_it_is().of_classes(numbers, self.name)
        return replace(
            self, network=network, classes=names, gates=None if gates is None else gates[numbers], sparse=None
        )

    def __repr__(self) -> str:
        kind = {"dense": "full", "absent": "no"}.get(self.network.tensors.kind, "decomposed")
        return f"Model({self.name!r}, {self.num_features} features, {self.num_classes} classes, {kind} head)"


def load_model(
    model: str | nn.Module | None = None,
    weights: str | Path | None = None,
    *,
    ema: bool = False,
    weights_key: str | None = None,
    model_options: Mapping[str, str] | None = None,
    features_only: bool = False,
    head: str | None = None,
    input_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | tuple[int, int] | None = None,
    crop: int | tuple[int, int] | None = None,
    interpolation: str | None = None,
    class_names: Sequence[str] | None = None,
    allow_download: bool = True,
    seed: int = 0,
) -> Model:
    """Make a network by name and read its weights, or take a module that you have.

    >>> load_model()  # the network that ships with decompose
    Model('resnet20-digits', 64 features, 10 classes, full head)

    Args:
        model: A name from ``decompose models``, any torchvision classifier, ``timm:NAME``, ``hf:ORG/NAME`` or
            ``hf:FOLDER`` of transformers, ``package.module:callable``, or a module, which is used as it is and left as
            it was: it returns logits (N, C), or an object or dict with them under ``logits``. None for the network that
            ships with decompose, or for the one that ``weights`` say they belong to.
        weights: A path, a URL, ``default`` or ``random``; for a module None.
        ema: Whether the averaged weights are taken where the file has raw and averaged ones.
        weights_key: The place of the weights in the file, with dots, where it has several: ``teacher``.
        model_options: Options of the network, by name, where its weights do not say them; ``shortcut``, ``gate_map``...
        features_only: Whether a network of timm, of transformers or of yours is taken without a classifier, as DINO and
            CLIP are: :func:`sparsify` fits a head to its features. It needs ``class_names``. A module then returns
            features (N, D).
        head: Submodule that is the head, where several could be.
        input_size: Pixels that the network takes, or (height, width); needed for a module. As for the commands, images
            of a data set are resized so that the same share of them is seen as usually.
        mean: Mean per channel that pixel values in [0, 1] of a data set's images are normalised with; where neither
            this nor the weights say it, the data set's. :func:`save_model` writes down what is given.
        std: Standard deviation per channel, given as ``mean`` is.
        resize: Pixels of the shorter side before the crop, or (height, width).
        crop: Pixels of the centre crop, or (height, width).
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``.
        class_names: Names of the outputs, where the network does not say them.
        allow_download: Whether weights may be fetched.
        seed: Seed of random weights.

    Raises:
        InputError: There is no such network, it has no head, or the weights do not fit.
        DownloadError: The weights cannot be fetched.
    """
    if model_options is not None and not isinstance(model_options, Mapping):
        raise InputError("model_options are no names with values, such as {'shortcut': 'projection'}.")
    options = check_image_options(
        mean=mean, std=std, input_size=input_size, resize=resize, crop=crop, interpolation=interpolation
    )
    if features_only and class_names is None:
        raise InputError("The classes of a network without a classifier are not known; give class_names.")
    if isinstance(model, nn.Module):
        if weights is not None:
            raise InputError("A module has its weights already; load others into it with load_state_dict.")
        if options.input_size is None and options.crop is None:
            raise InputError("The size of a module's images is not known; give input_size.")
        usual = usual_preprocessing(None)
        name, size = type(model).__name__, usual.overridden(options).crop
        if features_only and class_names is not None:
            network = without_head(
                with_linear_head(completed(model, size, name), size, len(class_names), name), size, name
            )
        else:
            network = network_of(completed(model, size, name), size, head)
        warn_of_batch_dependence(network.module, network.input_size, network.head, name)
        chosen_options = dict(CHOSEN) if features_only else {}
        classes = _checked_names(class_names, network)
        return Model(name, network, (options,), usual, classes, options=chosen_options)
    inputs = Inputs(
        model=model,
        weights=None if weights is None else str(weights),
        ema=ema,
        weights_key=weights_key,
        model_options=model_options,
        features_only=features_only,
        head=head,
        allow_download=allow_download,
        seed=seed,
    )
    classifier = open_network(inputs)
    if class_names is not None:
        classifier = classifier.with_classes(tuple(class_names), None)
    usual = usual_preprocessing(classifier.entry.dataset)
    chosen = classifier.image_options, options
    network = classifier.load(usual.overridden(*chosen).crop)
    classes = _checked_names(class_names, network)
    known = class_names_of(classifier)
    if classes is None and known is not None and len(known.names) == network.tensors.num_classes:
        classes = known
    checkpoint = classifier.checkpoint
    metadata = checkpoint.metadata if checkpoint else None
    return Model(
        classifier.name,
        network,
        chosen,
        usual,
        classes,
        checkpoint.csg if checkpoint else None,
        dict(classifier.entry.chosen),
        (metadata.dataset if metadata else None)
        or (classifier.entry.dataset if classifier.uses_default_weights else None),
        checkpoint.sparse if checkpoint else None,
        Origin(classifier, state_digest(network.module)),
    )


def _checked_names(names: Sequence[str] | None, network: Network) -> ClassNames | None:
    count = network.tensors.num_classes
    if names is not None and len(names) != count:
        raise InputError(f"{len(names)} class names were given, but the network has {count} classes.")
    return None if names is None else ClassNames(tuple(names))


def decompose(model: Model, indices: Indices) -> Model:
    """Copy a classifier with a head that is one subspace of k features per class.

    With the full head W (C, D), b (C,) and the features S_c of class c, its logits are
    z_c = b_c + sum over j in S_c of W_cj x_j. The copy is an ordinary module, which can be trained further.

    >>> small = decompose(load_model(), {c: [c, c + 1] for c in range(10)})
    >>> small
    Model('resnet20-digits', 64 features, 10 classes, decomposed head)
    >>> small.module(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])

    Args:
        model: The classifier; left as it was.
        indices: An index set, a file with one, or feature numbers by class number: a mapping, or a row for each class.

    Raises:
        InputError: The index set does not fit, or the head is decomposed already.
    """
    network = model.network.as_it_is()
    if network.tensors.kind == "absent":
        raise no_head("A decomposition", model.name)
    if network.tensors.kind != "dense":
        raise InputError(f"{model.name} has a decomposed head already.")
    heads = resolve_heads(network.tensors, index_set_of(indices, model.num_classes, model.num_features))
    assert heads.decomposed is not None
    module = copied(network.module)
    with_decomposed_head(module, network.head, heads.decomposed)
    return replace(model, network=replace(network, module=module).as_it_is())


def save_model(model: Model, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the weights, with what is known of the network, to a ``.safetensors`` file that every command takes.

    >>> save_model(decompose(load_model(), {c: [c] for c in range(10)}), "small.safetensors")
    >>> load_model(weights="small.safetensors")
    Model('resnet20-digits', 64 features, 10 classes, decomposed head)

    Args:
        model: Any model; one made from a module cannot be read back by the file alone, which does not have its code.
        path: The file, which ends in ``.safetensors``.
        overwrite: Whether an existing file may be replaced.

    Raises:
        InputError: The path cannot be used.
        DecomposeError: The file cannot be written; nothing is left behind.
    """
    if model.network.tensors.kind == "absent":
        raise no_head("A checkpoint", model.name)
    target = user_path(path)
    if target.suffix != ".safetensors":
        raise InputError(f"{target} does not end in .safetensors.")
    if model.network.tensors.kind == "subspaces":
        raise InputError(
            f"The decomposed head of {model.name} is without its indices, so it cannot be written.",
            hint="Load the network from other weights, and decompose it.",
        )
    check_writable(target, overwrite=overwrite)
    metadata = Metadata(
        model=model.name,
        num_classes=model.num_classes,
        model_options=dict(model.options) or None,
        class_names=list(model.class_names) if model.class_names is not None else None,
        class_ids=list(model.classes.ids) if model.classes is not None and model.classes.ids is not None else None,
        dataset=model.dataset,
        **known_fields(model.image_options, model.usual),
    )
    # The weights are copied, as the file format has none that are shared between layers.
    state = {name: value.detach().cpu().clone() for name, value in model.module.state_dict().items()}
    if model.gates is not None:
        state["csg"] = model.gates
    sparse = model.sparse
    if sparse is not None and model.network.as_it_is().tensors is not model.network.tensors:
        sparse = None  # it is true of the head that was read
    write_checkpoint(target, state, metadata, sparse)
    try:
        find_entry(model.name)
    except InputError:  # the class of a module is no name that a network can be built by
        return
    check_read_back(target, model.module, model.network.input_size)
