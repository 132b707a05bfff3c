"""Class-specific gates: the matrix in a checkpoint, and what is ranked by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from decompose_cli.decomposition.class_gates import Gates, default_ks, read_gates
from decompose_cli.decomposition.index_set import IndexSet, read_index_set
from decompose_cli.errors import InputError
from decompose_cli.storage.files import sha256_of

MATRIX = torch.tensor([[0.1, 0.9, 0.5, 0.3], [0.8, 0.2, 0.7, 0.6]])


def save(csg: Any, name: str = "gates.pth", prefix: str = "") -> Path:
    state = {f"{prefix}linear.weight": torch.ones(2, 4)}
    torch.save({"state_dict": state if csg is None else {**state, f"{prefix}csg": csg}}, name)
    return Path(name)


def gates(matrix: Tensor = MATRIX) -> Gates:
    return Gates(matrix, "g.pth", "0" * 64)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_the_matrix_is_read_from_a_checkpoint(dtype: torch.dtype, prefix: str) -> None:
    path = save(MATRIX.to(dtype), prefix=prefix)
    found = read_gates(path)
    assert found.matrix.dtype == torch.float32
    torch.testing.assert_close(found.matrix, MATRIX.to(dtype).float(), rtol=0, atol=0)
    assert (found.source, found.sha256, found.num_features) == (str(path), sha256_of(path), 4)


def test_the_matrix_is_read_from_safetensors() -> None:
    save_file({"linear.weight": torch.ones(2, 4), "csg": MATRIX}, "gates.safetensors")
    assert torch.equal(read_gates(Path("gates.safetensors")).matrix, MATRIX)


def test_a_checkpoint_without_gates_is_refused_by_name() -> None:
    path = save(None)
    with pytest.raises(InputError, match="no matrix 'csg'") as caught:
        read_gates(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("matrix", [torch.rand(4), torch.rand(2, 4, 1), torch.rand(0, 4), torch.rand(2, 0)])
def test_gates_that_are_no_matrix_of_numbers_are_refused(matrix: Tensor) -> None:
    path = save(matrix)
    with pytest.raises(InputError) as caught:
        read_gates(path)
    assert str(tuple(matrix.shape)) in caught.value.message
    assert str(path) in caught.value.message


def test_gates_that_are_whole_numbers_are_refused() -> None:
    path = save(torch.ones(2, 4).long())
    with pytest.raises(InputError, match="'csg' holds int64, not floating-point gates"):
        read_gates(path)


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match=r"nowhere\.pth"):
        read_gates(Path("nowhere.pth"))


@pytest.mark.parametrize(
    ("order", "k", "expected"),
    [
        ("highest", 1, ((1,), (0,))),
        ("highest", 3, ((1, 2, 3), (0, 2, 3))),
        ("lowest", 1, ((0,), (1,))),
        ("lowest", 3, ((0, 3, 2), (1, 3, 2))),
        ("highest", 4, ((1, 2, 3, 0), (0, 2, 3, 1))),
    ],
)
def test_each_class_gets_its_highest_or_lowest_gates_best_first(
    order: Any, k: int, expected: tuple[tuple[int, ...], ...]
) -> None:
    found = gates().index_set(k, order)
    assert found.classes == expected
    assert found.num_features == 4


def test_what_an_index_set_is_called_says_file_order_and_k() -> None:
    source = gates().index_set(2, "lowest").source
    assert "g.pth" in source
    assert "lowest" in source
    assert "2" in source


def test_a_fraction_keeps_the_fewest_gates_that_sum_to_it() -> None:
    # Of the first row 0.72 is needed and 0.9 suffices; of the second 0.92, which takes 0.8 + 0.7.
    assert gates().index_set(0.4, "highest").classes == ((1,), (0, 2))


def test_a_fraction_of_negative_gates_is_refused() -> None:
    with pytest.raises(InputError, match="not negative"):
        gates(MATRIX - 0.5).index_set(0.5, "highest")


def test_more_gates_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="5 is more than the 4 features"):
        gates().index_set(5, "highest")


def ragged(*sizes: int) -> IndexSet:
    return IndexSet(tuple(tuple(range(size)) for size in sizes))


@pytest.mark.parametrize(
    ("sets", "width", "expected"),
    [
        ([], 64, [5, 10, 20]),
        ([], 12, [5, 10]),
        ([], 3, [3]),
        ([ragged(7, 7)], 64, [7]),
        ([ragged(10, 10), ragged(3, 3), ragged(10, 10)], 64, [3, 10]),
        ([ragged(2, 6)], 64, [6]),
        ([ragged(4, 4), ragged(9, 9)], 8, [4]),
        ([ragged(9, 9)], 8, [8]),
    ],
)
def test_default_sizes_are_those_of_the_other_sets(sets: list[IndexSet], width: int, expected: list[int]) -> None:
    assert default_ks(sets, width) == expected


def test_published_lowest_gates_are_the_published_index_file(reference_dir: Path) -> None:
    found = read_gates(reference_dir / "weights" / "best_save_CSG.pth").index_set(5, "lowest")
    published = read_index_set(reference_dir / "weights" / "resnet20_cifar-10_csg_indices.json")
    assert [set(row) for row in found.classes] == [set(row) for row in published.classes]


def test_published_highest_gates_are_those_of_the_reference(reference_dir: Path) -> None:
    content = json.loads((reference_dir / "reference" / "published-code-on-shared-data.json").read_text())
    found = read_gates(reference_dir / "weights" / "best_save_CSG.pth").index_set(5, "highest")
    assert found.published_layout() == content["csg_top5_highest_gate"]["indices"]
