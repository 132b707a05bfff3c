"""Read and write weights: tensors and plain values only, never code.

Files of other projects are read as they are found (``.th``, ``.pth``, ``.pt``, ``.safetensors``; wrapped or bare; with
or without the ``module.`` that ``DataParallel`` adds). Files of our own describe themselves (see :class:`Metadata`): in
the header of a ``.safetensors`` file, or under ``decompose`` beside the ``state_dict`` of a ``.pt`` file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from decompose_cli.errors import InputError, param
from decompose_cli.messages import note
from decompose_cli.models.averages import Averages
from decompose_cli.models.bias_alone import say_bias_alone
from decompose_cli.models.names import without_prefix
from decompose_cli.models.sparse_record import NAMES, SparseRecord, take_record
from decompose_cli.models.state_dicts import (
    Choice,
    chosen_state,
    unwrapped,
    without_averages,
)
from decompose_cli.models.torch_files import read_torch
from decompose_cli.preprocessing import LARGEST_SIDE, ImageOptions, Interpolation
from decompose_cli.storage.files import as_bytes, sha256_of, write_with
from decompose_cli.storage.journal import settle
from decompose_cli.storage.names import BEST, LAST
from decompose_cli.storage.ordinary_files import check_ordinary
from decompose_cli.storage.result_document import PartOfClasses
from decompose_cli.storage.tensor_files import readable_path, write_tensors

METADATA_KEY = "decompose"
SPARSE_KEY = "sparse"
_MOST_HEADER = 10_000_000  # bytes, of a hundred thousand tensors


_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
_Sides = Annotated[list[_Side], Field(min_length=2, max_length=2)]


class Metadata(BaseModel):
    """The description of itself in a checkpoint.

    Attributes:
        format_version: Version of this description.
        model: Name of the network in the registry, or ``package.module:callable``.
        num_classes: Outputs of the head.
        model_options: Options of the network that are not at their defaults; None if there are none.
        class_names: Names of the classes in the order of the outputs.
        class_ids: Other names of the classes (WordNet ids), in the same order, where there are any.
        part: What was done about classes without images, where there were some.
        class_map: For classes of the data set that a class map gave an output, a name, id or number of that output.
        feature_names: Names of the features that enter a head without a network.
        dataset: Name of the data set that the network was trained on.
        mean: Mean of :class:`decompose_cli.preprocessing.Preprocessing`.
        std: Standard deviation of the same.
        resize: Resize of the same.
        crop: Centre crop of the same.
        interpolation: Interpolation of the same.
        input_size: (height, width) of the images that the network takes, where the data set decides how they come to
            that size.
        command: Command line that made the checkpoint.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    format_version: int = 1
    model: str
    num_classes: int
    model_options: dict[str, str] | None = None
    class_names: list[str] | None = None
    class_ids: list[str] | None = None
    part: PartOfClasses | None = None
    class_map: dict[str, str] | None = None
    feature_names: list[str] | None = None
    dataset: str | None = None
    mean: Annotated[list[_Finite], Field(min_length=3, max_length=3)] | None = None
    std: Annotated[list[_Positive], Field(min_length=3, max_length=3)] | None = None
    resize: _Side | _Sides | None = None
    crop: _Sides | None = None
    interpolation: Interpolation | None = None
    input_size: _Sides | None = None
    command: str | None = None

    def image_options(self) -> ImageOptions:
        """What is described of the preprocessing."""
        lists = {name: getattr(self, name) for name in vars(ImageOptions())}
        chosen: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in lists.items()}
        return ImageOptions(**chosen)

    def as_text(self) -> str:
        """The description as JSON, also where a path in it is no UTF-8."""
        plain = self.model_dump(exclude_none=True)
        return as_bytes(json.dumps(plain, ensure_ascii=False, separators=(",", ":"))).decode()


@dataclass(frozen=True)
class PublishedDecomposition:
    """The authors' fine-tuned head, without indices: ``final_weights`` (C, k) and ``final_bias`` (C,)."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Checkpoint:
    """The content of a weights file.

    Attributes:
        source: Path or URL as given by the user.
        sha256: SHA-256 of the file.
        state_dict: Parameters and buffers of the network, prefixes removed.
        metadata: Description of itself, if the file has one.
        is_averaged: Whether these are the averaged weights of a file that has raw and averaged ones.
        weights_key: The place in the file that was named for them.
        averages: Averages that take the place of the network's parameters once it is built.
        csg: Class-specific gates (C, D) of arXiv 2007.08194, if the file has them; no part of the network's function.
        published_decomposition: Fine-tuned head, if the file has the authors' decomposed layout.
        sparse: What belongs to a sparse head beside the network, if the file has it.
    """

    source: str
    sha256: str
    state_dict: dict[str, Tensor]
    metadata: Metadata | None = None
    is_averaged: bool = False
    weights_key: str | None = None
    averages: Averages | None = None
    csg: Tensor | None = None
    published_decomposition: PublishedDecomposition | None = None
    sparse: SparseRecord | None = None

    @property
    def has_decomposed_head(self) -> bool:
        """Whether the file holds a decomposed head together with its indices."""
        return self._mask is not None

    @property
    def _mask(self) -> Tensor | None:
        """The mask (C, k) of the decomposed head, as it stands in the file."""
        places = (name.removesuffix(".indices") for name in self.state_dict if name.endswith(".indices"))
        return next((self.state_dict[f"{name}.mask"] for name in places if f"{name}.mask" in self.state_dict), None)

    @property
    def kept_whole(self) -> frozenset[int]:
        """Classes of its decomposed head that had no images, so that they may have their whole row of the full head."""
        part = self.metadata.part if self.metadata is not None else None
        mask = self._mask
        if part is None or part.policy != "all" or mask is None or not mask.ndim:
            return frozenset()
        return frozenset(range(len(mask))).difference(part.present)

    def say_bias_alone(self) -> None:
        """Say which classes of a decomposed head have their bias alone; whether its parts fit is seen later."""
        mask = self._mask
        if mask is not None and mask.ndim == 2 and mask.dtype == torch.bool:
            say_bias_alone([row.nonzero() for row in mask], self.source)


def read_checkpoint(
    path: Path, source: str | None = None, *, ema: bool = False, weights_key: str | None = None
) -> Checkpoint:
    """Read a weights file without executing anything in it.

    Where the file has averaged weights beside raw ones, a note says which are taken.

    Args:
        path: The file.
        source: Name of the file in messages and results; the path by default.
        ema: Whether the averaged weights are taken.
        weights_key: The place of the weights in the file; None where the file has one that is clear.

    Raises:
        InputError: The file is missing, empty, truncated, of no known format, without tensors, without the averaged
            weights that were asked for, or has NaN among the weights.
        UnsafeFileError: Reading the file would execute code.
    """
    source = source or str(path)
    settle(path.parent)
    try:
        if path.is_dir():
            raise InputError(f"The weights {path}: that is a folder, not a file.", hint=_named_in(path))
        if path.exists():
            check_ordinary(path, "The weights file")
        else:
            raise InputError(
                f"The weights file {path} does not exist.",
                hint=f"Is the path right? A network is named without {param('weights')}, as in 'decompose validate "
                "resnet20'; 'default' stands for its published weights, and a URL is fetched.",
            )
        if path.stat().st_size == 0:
            raise InputError(f"The weights file {path} is empty.")
        content, metadata = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
        digest = sha256_of(path)
    except OSError as error:
        raise InputError(f"The weights file {path} cannot be read: {error.strerror or error}.") from error
    if metadata is not None:  # our own files: beside the weights they hold the state of a training, raw weights as well
        if ema:
            raise without_averages(path)
        if weights_key is not None:
            raise InputError(f"{path} says itself which weights it holds.", hint=f"Leave {param('weights_key')} out.")
        choice = Choice({**unwrapped(content, path), **_beside(content)})
    else:
        choice = chosen_state(content, path, ema=ema, key=weights_key)
    state = without_prefix(choice.state)
    _refuse_nan({**state, **(choice.averages.named() if choice.averages is not None else {})}, path)
    csg = state.pop("csg", None)
    sparse = take_record(state, source) if metadata is not None else None
    if choice.remark is not None:
        note(f"{source} {choice.remark}")
    published = _pop_published_decomposition(state, path)
    return Checkpoint(source, digest, state, metadata, ema, weights_key, choice.averages, csg, published, sparse)


def _named_in(folder: Path) -> str | None:
    """The file of weights in a folder that is likely meant: of a run the best ones."""
    found = [path for path in sorted(folder.iterdir()) if path.suffix in (".pt", ".pth", ".safetensors")]
    names = {path.name: path for path in reversed(found)}
    file = names.get(BEST) or names.get(LAST) or next(iter(found), None)
    return None if file is None else f"Name the file in it: {param('weights')} {file}"


def write_checkpoint(
    path: Path, state_dict: Mapping[str, Tensor], metadata: Metadata, sparse: SparseRecord | None = None
) -> None:
    """Write a self-describing ``.safetensors`` file, whole or not at all.

    Args:
        path: The file.
        state_dict: State dict of the network; no two tensors share memory.
        metadata: Description of the network.
        sparse: What belongs to its sparse head beside the network.

    Raises:
        DecomposeError: The file cannot be written, or the network has a tensor under a name of the record.
    """
    beside = sparse.beside(state_dict, path) if sparse is not None else {}
    tensors = {name: value.detach().cpu().contiguous() for name, value in {**state_dict, **beside}.items()}
    header = {METADATA_KEY: metadata.as_text()}
    write_with(path, lambda temporary: write_tensors(temporary, tensors, header))


def _beside(content: Any) -> dict[str, Tensor]:
    """The tensors of a sparse head that a checkpoint of a run has beside its state dict."""
    beside = content.get(SPARSE_KEY)
    if not isinstance(beside, dict):
        return {}
    return {name: value for name, value in beside.items() if name in NAMES and isinstance(value, Tensor)}


def _is_safetensors(path: Path) -> bool:
    """Whether a file is safetensors by its content: the length of its header, and the header, which is JSON.

    What begins as none of the formats is by its name.
    """
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" or (path.suffix == ".safetensors" and not start.startswith((b"PK", b"\x80\x02")))


def _read_safetensors(path: Path) -> tuple[Any, Metadata | None]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if _MOST_HEADER < length <= path.stat().st_size:  # a length beyond the file is damage
        raise InputError(
            f"{path} has a header of {length / 1e6:,.0f} MB, and no network has one of more than "
            f"{_MOST_HEADER / 1e6:,.0f} MB."
        )
    try:
        with readable_path(path) as name, safe_open(name, framework="pt") as handle:
            header = handle.metadata() or {}
            content = {each: handle.get_tensor(each) for each in handle.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise InputError(f"The weights file {path} is damaged or not safetensors: {error}.") from error
    return content, _parse_metadata(header[METADATA_KEY], path) if METADATA_KEY in header else None


def _parse_metadata(text: Any, path: Path) -> Metadata:
    try:
        if not isinstance(text, str):
            raise ValueError(f"a {type(text).__name__} instead of text")
        metadata = Metadata.model_validate(json.loads(text))
    except (ValueError, ValidationError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The description inside {path} cannot be understood: {reason}.") from error
    if metadata.format_version != 1:
        raise InputError(f"{path} was written by a newer version (format {metadata.format_version}); please update.")
    return metadata


def _read_torch(path: Path) -> tuple[Any, Metadata | None]:
    """The content, and the description in it."""
    content = read_torch(path)
    return content, _parse_metadata(content[METADATA_KEY], path) if _describes_itself(content) else None


def _describes_itself(content: Any) -> bool:
    """Whether the content has our layout: a description, a state dict, and perhaps the state of a training."""
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        return False
    return METADATA_KEY in content


def _refuse_nan(state: dict[str, Tensor], path: Path) -> None:
    for name, value in state.items():
        if value.layout != torch.strided or value.is_meta:
            raise InputError(f"{path}: {name} is no ordinary tensor ({value.layout}, {value.device}).")
        if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
            raise InputError(f"The weights in {path} are not finite: {name} contains NaN or infinity.")


def check_kind(value: Tensor, expected: str, what: str) -> None:
    """Refuse a tensor that holds another kind of numbers than it should.

    Args:
        value: The tensor.
        expected: ``real``, ``complex``, ``whole`` or ``true-or-false``.
        what: The file and the name of the tensor, for the sentence.

    Raises:
        InputError: The numbers are of another kind, or are quantised.
    """
    if kind_of(value) != expected:
        dtype = str(value.dtype).removeprefix("torch.")
        raise InputError(f"{what} holds {kind_of(value)} numbers ({dtype}) where the network has {expected} ones.")


def kind_of(value: Tensor) -> str:
    """The kind of numbers that a tensor holds: real, complex, whole, true-or-false or quantised."""
    if value.is_quantized:
        return "quantised"
    if value.dtype == torch.bool:
        return "true-or-false"
    return "complex" if value.is_complex() else "real" if value.is_floating_point() else "whole"


def _pop_published_decomposition(state: dict[str, Tensor], path: Path) -> PublishedDecomposition | None:
    weight, bias = state.pop("final_weights", None), state.pop("final_bias", None)
    if weight is None and bias is None:
        return None
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        shapes = [None if value is None else tuple(value.shape) for value in (weight, bias)]
        raise InputError(
            f"{path}: final_weights and final_bias have shapes {shapes[0]} and {shapes[1]}, not (C, k), (C,)."
        )
    for name, value in (("final_weights", weight), ("final_bias", bias)):
        check_kind(value, "real", f"{path}: {name}")
    return PublishedDecomposition(weight.float(), bias.float())
