"""A network that has been built and holds its weights, with its head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from decompose_cli.errors import DecomposeError, InputError, param
from decompose_cli.models.affine import Following
from decompose_cli.models.copying import copied
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.head import Head, find_head
from decompose_cli.preprocessing import Size


@dataclass(frozen=True)
class HeadTensors:
    """The parameters of a head, constant factor folded in, float32.

    The ``kind`` is ``dense``: weight (C, D); ``decomposed``: weight (C, k) with indices (C, k) and mask (C, k);
    ``subspaces``: weight (C, k) whose indices are not known (the authors' fine-tuned layout); or ``absent``: weight
    (C, 0), for a network without a classifier to which no head has been fitted. The bias is (C,) throughout.
    ``reference`` (C, D) is the full head that a decomposed one is compared with, if the file holds one: for
    ``decomposed`` with its bias, ``reference_bias`` (C,); for ``subspaces`` the one that fine-tuning started from, of
    other features than those of now.
    """

    kind: str
    name: str
    weight: Tensor
    bias: Tensor
    num_features: int
    indices: Tensor | None = None
    mask: Tensor | None = None
    reference: Tensor | None = None
    reference_bias: Tensor | None = None

    @classmethod
    def absent(cls, name: str, num_classes: int, num_features: int) -> HeadTensors:
        """Those of a network without a classifier."""
        return cls("absent", name, torch.zeros(num_classes, 0), torch.zeros(num_classes), num_features)

    @property
    def full(self) -> HeadTensors | None:
        """The full head: this one, or the one that this decomposed one is compared with; None if there is none."""
        if self.kind == "dense":
            return self
        if self.reference is None or self.reference_bias is None:
            return None
        return HeadTensors("dense", self.name, self.reference, self.reference_bias, self.num_features)

    def is_same(self, other: HeadTensors) -> bool:
        """Whether another head is of the same kind with the same parameters; their references may differ."""
        own, others = ((head.weight, head.bias, head.indices, head.mask) for head in (self, other))
        return self.kind == other.kind and all(
            a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in zip(own, others, strict=True)
        )

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.bias)

    def of_classes(self, numbers: Sequence[int]) -> HeadTensors:
        """The head of some classes alone, in this order."""
        rows = torch.tensor(numbers)
        by_class = ("weight", "bias", "indices", "mask", "reference", "reference_bias")
        cut = {name: value[rows] for name in by_class if (value := getattr(self, name)) is not None}
        if self.kind == "decomposed":
            width = int(cut["mask"].sum(1).max())
            cut |= {name: cut[name][:, :width] for name in ("weight", "indices", "mask")}
        return replace(self, **cut)


@dataclass(frozen=True)
class Network:
    """A built network with its weights and its head.

    Attributes:
        module: The network.
        head: The part that is the head, full or decomposed, and what follows it.
        tensors: Parameters of the head, with what follows it folded in.
        input_size: (height, width) of the images that the module takes.
        depends_on_batch: Whether features of an image were found to depend on the other images of its batch.
    """

    module: nn.Module
    head: Head
    tensors: HeadTensors
    input_size: Size
    depends_on_batch: bool = False

    @property
    def is_decomposed(self) -> bool:
        """Whether a decomposed head stands in the module."""
        return isinstance(self.head.module, DecomposedLinear)

    def of_classes(self, numbers: Sequence[int], name: str) -> Network:
        """A copy whose head has some classes alone, in this order; features are the same.

        A full head becomes a plain linear layer, or a pointwise convolution, that gives these logits.

        Args:
            numbers: Numbers of classes.
            name: Name of the network, for messages.

        Raises:
            InputError: What follows the head in the network takes all classes.
        """
        module, tensors = copied(self.module), self.tensors.of_classes(numbers)
        rows, place = torch.tensor(numbers), self.head
        own = module.get_submodule(place.name)
        following = Following(place.following.factor[rows], place.following.shift[rows])
        new: nn.Module
        if isinstance(own, DecomposedLinear):
            classes = [own.classes()[number] for number in numbers]
            width = max(map(len, classes))
            new = DecomposedLinear.from_subspaces(own.weight[rows, :width], own.bias[rows], classes, own.num_features)
        else:
            weight, bias = following.unfold(place.weight[rows], place.bias[rows])
            shape = place.num_features, len(numbers)
            new = nn.Conv2d(*shape, 1) if place.is_pointwise else nn.Linear(*shape)
            new.load_state_dict({"weight": weight.reshape(new.weight.shape), "bias": bias})
        like = next(iter(own.parameters()), next(module.parameters()))
        module.set_submodule(place.name, new.to(like.device, like.dtype).train(own.training))
        try:
            cut = network_of(module, self.input_size, place.name, name)
        except DecomposeError as error:
            raise InputError(
                f"The head {place.name!r} of {name} cannot be cut to {len(numbers)} of its {place.num_classes} "
                "classes: the network goes on with the logits of all.",
                hint=f"Keep all with {param('classes')} all.",
            ) from error
        return replace(cut, tensors=tensors, depends_on_batch=self.depends_on_batch)

    def as_it_is(self) -> Network:
        """The network with the present parameters of the head, which training changes in the module only.

        Raises:
            InputError: The part that was the head no longer is.
        """
        if self.tensors.kind == "subspaces":  # such a head is not in the module
            return self
        present = network_of(self.module, self.input_size, self.head.name)
        if self.tensors.kind == "absent" and present.tensors.kind == "dense":  # it still holds the place of a head
            return self
        # While the head is the same, so is the full head that it is compared with.
        return replace(present, tensors=self.tensors) if present.tensors.is_same(self.tensors) else present


def network_of(module: nn.Module, input_size: Size, head: str | None = None, name: str | None = None) -> Network:
    """The network of a module that has been built and holds its weights, with its head.

    Args:
        module: The module, used as it is.
        input_size: (height, width) of the images that the module takes.
        head: Name of the submodule that is the head, where tracing does not settle it.
        name: Name of the network in messages.

    Raises:
        InputError: There is no head.
    """
    traced = find_head(module, input_size, name=head, model_name=name or type(module).__name__)
    if isinstance(traced.module, DecomposedLinear):
        return Network(module, traced, _decomposed_tensors(traced, traced.module), input_size)
    return Network(
        module, traced, HeadTensors("dense", traced.name, traced.weight, traced.bias, traced.num_features), input_size
    )


def check_head_stays(module: nn.Module, head: str, input_size: Size, name: str) -> None:
    """Refuse a network whose training would make its head one of several ways from features to logits.

    A low-rank update or a factor computed from the features that begins at zero is of no effect, and shows in no
    logit, until it is trained. So all parameters that are zero throughout are moved in a copy, where the head has to be
    found again.

    Raises:
        InputError: It is not found.
    """
    moved = copied(module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in moved.parameters():
            if parameter.is_floating_point() and not bool(parameter.any()):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    try:
        find_head(moved, input_size, name=head, model_name=name)
    except InputError as error:
        raise InputError(
            f"{head!r} would not stay the head of {name} in training: something that begins at zero adds to its "
            "logits, or scales them, by the features."
        ) from error


def _decomposed_tensors(head: Head, module: DecomposedLinear) -> HeadTensors:
    weight, bias = head.following.fold(module.weight, module.bias)
    return HeadTensors(
        "decomposed", head.name, weight, bias, module.num_features, module.indices.cpu(), module.mask.cpu()
    )
