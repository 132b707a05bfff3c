"""What files hold of sparse heads: written, read back, checked, and refused with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.command_line import REFUSED, refused
from helpers.inputs import CLASSES, FEATURES
from helpers.sparse_heads import EMPTY, few_values, head_of, record, write_lone_head, write_sparse
from torch import Tensor

from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import open_network
from decompose_cli.messages import use_reporter
from decompose_cli.models.checkpoint import Metadata, read_checkpoint, write_checkpoint
from decompose_cli.models.lone_head import read_lone_head
from decompose_cli.models.network import HeadTensors
from decompose_cli.models.sparse_record import FewValues, SparseRecord, take_record

FILE = Path("sparse.safetensors")


def test_weights_that_few_values_give_on_paper() -> None:
    values = FewValues(
        torch.tensor([[1, -1, 2], [0, 3, 0]], dtype=torch.int8),
        torch.tensor(0.5, dtype=torch.float64),
        torch.zeros(3, dtype=torch.float64),
        torch.tensor([2.0, 0.25, 0.0], dtype=torch.float64),
    )
    assert values.folded().tolist() == [[0.25, -2.0, 0.0], [0.0, 6.0, 0.0]]


def test_what_is_written_is_read_back_and_taken_out_of_the_network() -> None:
    write_sparse(FILE)
    read, expected = read_checkpoint(FILE), record()
    assert read.sparse is not None
    assert not [name for name in read.state_dict if name.startswith("sparse.")]
    found, wanted = read.sparse.tensors(), expected.tensors()
    assert found.keys() == wanted.keys()
    assert len(found) == 6
    for name, value in found.items():
        assert value.dtype == wanted[name].dtype, name
        assert torch.equal(value, wanted[name]), name


def test_the_network_has_the_sparse_head_and_the_dense_one_as_its_reference() -> None:
    tensors = open_network(Inputs(weights=str(write_sparse(FILE)))).load((32, 32)).tensors
    assert tensors.kind == "decomposed"
    assert tensors.mask is not None
    assert tensors.mask.sum(1).tolist() == [0 if c == EMPTY else 4 for c in range(CLASSES)]
    assert tensors.full is not None
    assert torch.equal(tensors.full.weight, record().dense_weight)  # type: ignore[arg-type]
    assert torch.equal(tensors.full.bias, record().dense_bias)  # type: ignore[arg-type]


def _changed(name: str, change: Callable[[Tensor], Tensor | None]) -> dict[str, Tensor | None]:
    return {name: change(record().tensors()[name].clone())}


def _with(row: int, column: int, value: float) -> Callable[[Tensor], Tensor]:
    def change(matrix: Tensor) -> Tensor:
        matrix[row, column] = value
        return matrix

    return change


BAD = [
    ("no bias", "sparse.dense_bias", lambda _: None, "lacks sparse.dense_bias"),
    ("no scale", "sparse.scale", lambda _: None, "lacks sparse.scale"),
    ("integers of 32 bits", "sparse.integers", Tensor.int, "sparse.integers holds int32 where int8 belong"),
    ("whole means", "sparse.mean", Tensor.long, "sparse.mean holds int64 where real numbers belong"),
    ("complex weight", "sparse.dense_weight", lambda w: w.cfloat(), "sparse.dense_weight holds complex64 where real"),
    ("bias with two axes", "sparse.dense_bias", lambda b: b[None], "sparse.dense_bias has the shape (1, 10), not (C,)"),
    ("scale with an axis", "sparse.scale", lambda s: s[None], "sparse.scale has the shape (1,), not ()"),
    ("fewer means", "sparse.mean", lambda m: m[:-1], "sparse.mean has the shape (63,), not (D,), D = 64"),
    ("fewer classes", "sparse.integers", lambda i: i[:-1], "sparse.integers has the shape (9, 64), not (C, D), C = 10"),
    ("NaN", "sparse.mean", lambda m: m * float("nan"), "sparse.mean contains NaN"),
    ("negative deviation", "sparse.deviation", lambda d: -d, "sparse.deviation is negative"),
    ("another scale", "sparse.scale", lambda s: s * 1.001, "are not the weights of its head"),
    ("an integer too many", "sparse.integers", _with(EMPTY, 0, 1), "are not the weights of its head"),
]


@pytest.mark.parametrize(("name", "change", "sentence"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_parts_that_do_not_fit_are_refused(name: str, change: Callable[[Tensor], Tensor | None], sentence: str) -> None:
    path = write_sparse(FILE, **{name.replace(".", "__"): _changed(name, change)[name]})
    refused(["validate", "-w", str(path), "--no-cache"], REFUSED, sentence, str(path))


@pytest.mark.parametrize("shape", [(CLASSES, FEATURES + 1), (CLASSES - 1, FEATURES)])
def test_a_record_for_a_head_of_another_size_is_refused(shape: tuple[int, int]) -> None:
    sparse = SparseRecord(torch.zeros(shape), torch.zeros(shape[0]))
    refused(["validate", "-w", str(write_sparse(FILE, sparse))], REFUSED, f"sparse.dense_weight {shape} does not fit a")


def test_few_values_may_differ_by_rounding_and_no_more() -> None:
    head = open_network(Inputs(weights=str(write_sparse(FILE)))).load((32, 32)).tensors
    for factor, fits in ((1 + 5e-6, True), (1 + 2e-5, False)):
        moved = replace(head, weight=head.weight * factor)
        if fits:
            record().joined(moved, "file")
        else:
            with pytest.raises(InputError, match="are not the weights"):
                record().joined(moved, "file")


def test_a_dense_head_has_no_record() -> None:
    with pytest.raises(InputError, match=r"has sparse.dense_weight, but no sparse head"):
        take_record({"fc.weight": torch.zeros(2, 3), **record().tensors()}, "file")


def test_a_network_with_a_part_called_sparse_is_left_alone() -> None:
    metadata = Metadata(model="net:net", num_classes=2)
    state = {"sparse.scale": torch.ones(3), "sparse.mean": torch.zeros(3)}
    write_checkpoint(FILE, state, metadata)
    read = read_checkpoint(FILE)
    assert (read.sparse, read.state_dict.keys()) == (None, state.keys())
    with pytest.raises(DecomposeError, match=r"sparse.scale of the network has a name that is reserved"):
        write_checkpoint(Path("other.safetensors"), state, metadata, record())
    assert not Path("other.safetensors").exists()


def test_files_of_others_are_no_sparse_heads() -> None:
    """Without a description of ours, names mean nothing."""
    torch.save(dict(record().tensors()), "bare.pth")
    read = read_checkpoint(Path("bare.pth"))
    assert read.sparse is None
    assert len(read.state_dict) == 6


def test_the_reference_is_that_of_the_head_that_was_read() -> None:
    network = open_network(Inputs(weights=str(write_sparse(FILE)))).load((32, 32))
    assert network.as_it_is().tensors.full is not None
    with torch.no_grad():
        network.module.get_submodule("linear").bias[0] += 1  # type: ignore[operator]
    assert network.as_it_is().tensors.full is None


# ------------------------------------------------------------------------------------------------ heads without network


class _Said:
    """A reporter that keeps notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_a_head_alone_is_read_with_its_description() -> None:
    said = _Said()
    with use_reporter(said):  # type: ignore[arg-type]
        head, checkpoint = read_lone_head(write_lone_head(FILE))
    assert (head.kind, head.num_classes, head.num_features) == ("decomposed", CLASSES, FEATURES)
    assert head.full is not None
    assert head.full.bias.tolist() == [0.0] * CLASSES
    assert checkpoint.metadata is not None
    assert checkpoint.metadata.class_names == [str(c) for c in range(CLASSES)]
    assert said.notes == [f"{FILE}: 1 of 10 classes ({EMPTY}) has its bias alone, no feature."]
    assert isinstance(head, HeadTensors)
    assert few_values().integers.any(1).sum() == CLASSES - 1


@pytest.mark.parametrize(
    "arguments",
    [("validate",), ("validate", "resnet20"), ("finetune",), ("explain", "--worst", "1"), ("export", "-o", "x.onnx")],
    ids=" ".join,
)
def test_other_commands_say_that_the_network_is_missing(arguments: tuple[str, ...]) -> None:
    path = write_lone_head(FILE)
    said = refused([*arguments, "-w", str(path)], REFUSED, f"{path} holds a head for features from elsewhere and no")
    assert "'decompose validate -w FILE --features FEATURES' measures it." in said


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"conv__weight": torch.zeros(2)}, "holds more than a head: conv.weight"),
        ({"head__mask": torch.zeros(CLASSES, 4, dtype=torch.bool)}, "do not fit each other"),
        ({"head__bias": torch.zeros(9)}, "do not fit each other"),
        ({f"sparse__{name}": None for name in ("dense_weight", "dense_bias", "integers", "scale", "mean", "deviation")},
         "does not say how many features"),
    ],
    ids=["more", "no feature in any class", "other classes", "no record"],
)  # fmt: skip
def test_a_head_alone_that_does_not_fit_is_refused(changes: dict[str, Tensor | None], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        read_lone_head(write_lone_head(FILE, **changes))


def test_a_head_that_is_written_alone_is_read_back_as_it_was() -> None:
    names = [f"f{j}" for j in range(FEATURES)]
    head, checkpoint = read_lone_head(write_lone_head(FILE, feature_names=names))
    wanted = head_of(few_values()).state_dict()
    for name in ("weight", "bias", "indices", "mask"):
        assert torch.equal(getattr(head, name), wanted[name]), name
    assert head.full is not None
    assert torch.equal(head.full.weight, record().dense_weight)  # type: ignore[arg-type]
    assert checkpoint.metadata is not None
    assert checkpoint.metadata.feature_names == names
    assert checkpoint.sparse is not None
    for name, value in record().tensors().items():
        if name != "sparse.dense_bias":
            assert torch.equal(checkpoint.sparse.tensors()[name], value), name


def test_names_of_other_features_are_refused() -> None:
    with pytest.raises(InputError, match=r"sparse\.safetensors names 3 features, but its head takes 64\."):
        read_lone_head(write_lone_head(FILE, feature_names=["a", "b", "c"]))


def test_a_network_is_no_head_alone() -> None:
    with pytest.raises(InputError, match="is no file of a head for features from elsewhere"):
        read_lone_head(write_sparse(FILE))
