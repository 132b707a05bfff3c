"""Weights files: every layout that is read, and every file that is refused without running anything in it."""

from __future__ import annotations

import io
import json
import pickle
import struct
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from decompose_cli.errors import DecomposeError, InputError, UnsafeFileError
from decompose_cli.models import torch_files
from decompose_cli.models.checkpoint import Metadata, read_checkpoint, write_checkpoint
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.storage.files import sha256_of


def weights() -> dict[str, Tensor]:
    return {"conv.weight": torch.arange(6.0).reshape(2, 3), "linear.bias": torch.tensor([1.0, -2.0])}


def save(content: Any, name: str = "net.pth", **options: Any) -> Path:
    path = Path(name)
    torch.save(content, path, **options)
    return path


def assert_is_weights(state: dict[str, Tensor]) -> None:
    assert list(state) == list(weights())
    assert all(torch.equal(state[name], value) for name, value in weights().items())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", [".th", ".pth", ".pt"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
def test_bare_and_wrapped_state_dicts(wrapper: str | None, suffix: str, legacy: bool) -> None:
    content = weights() if wrapper is None else {wrapper: weights(), "epoch": 3, "best_prec1": 91.5, "note": "x"}
    path = save(content, "net" + suffix, _use_new_zipfile_serialization=not legacy)
    checkpoint = read_checkpoint(path)
    assert_is_weights(checkpoint.state_dict)
    assert checkpoint.source == str(path)
    assert checkpoint.sha256 == sha256_of(path)
    assert checkpoint.metadata is None
    assert checkpoint.csg is None
    assert checkpoint.published_decomposition is None
    assert not checkpoint.has_decomposed_head


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_prefixes_of_data_parallel_and_compile_are_removed(prefix: str) -> None:
    path = save({"state_dict": {prefix + name: value for name, value in weights().items()}})
    assert_is_weights(read_checkpoint(path).state_dict)


def test_names_that_only_contain_a_prefix_are_kept() -> None:
    path = save({"a.module.weight": torch.ones(1), "modules.bias": torch.ones(1)})
    assert list(read_checkpoint(path).state_dict) == ["a.module.weight", "modules.bias"]


def test_two_keys_never_become_one() -> None:
    checkpoint = read_checkpoint(save({"a.weight": torch.ones(1), "module.a.weight": torch.zeros(1)}))
    assert {name: value.item() for name, value in checkpoint.state_dict.items()} == {
        "a.weight": 1,
        "module.a.weight": 0,
    }


def test_source_is_what_the_user_wrote() -> None:
    assert read_checkpoint(save(weights()), "https://host/net.pth").source == "https://host/net.pth"


def test_safetensors_without_description() -> None:
    save_file(weights(), "net.safetensors", metadata={"format": "pt"})
    checkpoint = read_checkpoint(Path("net.safetensors"))
    assert {k: v.tolist() for k, v in checkpoint.state_dict.items()} == {k: v.tolist() for k, v in weights().items()}
    assert checkpoint.metadata is None


def test_own_file_comes_back_as_it_was_written() -> None:
    metadata = Metadata(
        model="resnet20",
        num_classes=2,
        class_names=["cat", "dög"],
        dataset="digits",
        mean=[0.1, 0.2, 0.3],
        std=[1.0, 2.0, 3.0],
        command="decompose train",
    )
    write_checkpoint(Path("net.safetensors"), weights(), metadata)
    checkpoint = read_checkpoint(Path("net.safetensors"))
    assert checkpoint.metadata == metadata
    assert all(torch.equal(checkpoint.state_dict[name], value) for name, value in weights().items())
    assert [path.name for path in Path().iterdir()] == ["net.safetensors"]


def test_write_takes_strided_tensors_and_parameters() -> None:
    transposed = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
    write_checkpoint(Path("net.safetensors"), {"w": transposed}, Metadata(model="m", num_classes=2))
    assert torch.equal(read_checkpoint(Path("net.safetensors")).state_dict["w"], transposed)


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "{}",
        json.dumps({"model": "resnet20"}),
        json.dumps({"model": "resnet20", "num_classes": "ten"}),
        json.dumps({"model": "resnet20", "num_classes": 10, "mean": [1, 2]}),
        json.dumps({"model": "resnet20", "num_classes": 10, "std": [1.0, 0.0, 1.0]}),
        '{"model": "resnet20", "num_classes": 10, "mean": [NaN, 0.0, 0.0]}',
        json.dumps({"model": "resnet20", "num_classes": 10, "surprise": 1}),
    ],
)
def test_description_that_cannot_be_understood(text: str) -> None:
    save_file(weights(), "net.safetensors", metadata={"decompose": text})
    with pytest.raises(InputError, match=r"The description inside net.safetensors cannot be understood"):
        read_checkpoint(Path("net.safetensors"))


def test_description_of_a_newer_format() -> None:
    text = json.dumps({"format_version": 2, "model": "resnet20", "num_classes": 10})
    save_file(weights(), "net.safetensors", metadata={"decompose": text})
    with pytest.raises(InputError, match="newer version"):
        read_checkpoint(Path("net.safetensors"))


TRAINING = {
    "epoch": 3,
    "best": None,
    "optimizer": {
        "state": {0: {"momentum": torch.tensor([float("nan")])}},
        "param_groups": [{"lr": 0.1, "betas": (0.9, 1)}],
    },
    "rng": torch.get_rng_state(),
    "a.weight": torch.ones(1),
}


def save_described(text: Any, name: str = "net.pt", **parts: Any) -> Path:
    return save({"decompose": text, "state_dict": weights(), **parts}, name)


@pytest.mark.parametrize("training", [{}, {"training": TRAINING}], ids=["alone", "with what training needs"])
@pytest.mark.parametrize("name", ["net.pt", "net.pth"])
def test_described_torch_file_comes_back_as_it_was_written(training: dict[str, Any], name: str) -> None:
    metadata = Metadata(
        model="resnet20", num_classes=2, model_options={"shortcut": "projection"}, class_names=["a", "ö"]
    )
    checkpoint = read_checkpoint(save_described(metadata.model_dump_json(exclude_none=True), name, **training))
    assert checkpoint.metadata == metadata
    assert_is_weights(checkpoint.state_dict)


def test_described_torch_file_with_prefixes_gates_and_a_decomposed_head() -> None:
    head = {"linear.indices": torch.zeros(2, 1, dtype=torch.int64), "linear.mask": torch.ones(2, 1, dtype=torch.bool)}
    state = {f"module.{name}": value for name, value in {**weights(), **head, "csg": torch.rand(2, 3)}.items()}
    text = Metadata(model="resnet20", num_classes=2).model_dump_json()
    checkpoint = read_checkpoint(save_described(text, state_dict=state, training=TRAINING))
    assert list(checkpoint.state_dict) == [*weights(), *head]
    assert checkpoint.has_decomposed_head
    assert checkpoint.csg is not None
    assert checkpoint.metadata is not None


def test_only_the_weights_of_a_described_torch_file_have_to_be_finite() -> None:
    text = Metadata(model="resnet20", num_classes=2).model_dump_json()
    state = {**weights(), "linear.bias": torch.tensor([0.0, float("nan")])}
    read_checkpoint(save_described(text, training={"loss": torch.tensor(float("nan"))}))
    with pytest.raises(InputError, match=r"not finite: linear\.bias"):
        read_checkpoint(save_described(text, state_dict=state))


@pytest.mark.parametrize(
    "text", ["not json", "[]", "{}", '{"model": "resnet20"}', "[" * 100_000, None, 3, {"model": "m"}]
)
def test_description_in_a_torch_file_that_cannot_be_understood(text: Any) -> None:
    with pytest.raises(InputError, match=r"The description inside net\.pt cannot be understood") as refusal:
        read_checkpoint(save_described(text))
    assert len(refusal.value.message) < 200


def test_description_in_a_torch_file_of_a_newer_format() -> None:
    text = json.dumps({"format_version": 2, "model": "resnet20", "num_classes": 10})
    with pytest.raises(InputError, match="newer version"):
        read_checkpoint(save_described(text))


@pytest.mark.parametrize("options", ["projection", ["projection"], {"shortcut": 1}, {"shortcut": None}])
def test_options_in_a_description_are_words(options: Any) -> None:
    text = json.dumps({"model": "resnet20", "num_classes": 10, "model_options": options})
    with pytest.raises(InputError, match="cannot be understood"):
        read_checkpoint(save_described(text))


def test_a_parameter_may_be_called_as_the_description_is() -> None:
    checkpoint = read_checkpoint(save({"decompose": torch.ones(1), "other": torch.zeros(1)}))
    assert (list(checkpoint.state_dict), checkpoint.metadata) == (["decompose", "other"], None)


def test_code_beside_a_description_is_refused_and_not_executed() -> None:
    text = Metadata(model="resnet20", num_classes=2).model_dump_json()
    with pytest.raises(UnsafeFileError, match="execute code"):
        read_checkpoint(save_described(text, training={"scheduler": Hostile()}))
    assert not Path("executed").exists()


class Hostile:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> Any:
        return open, ("executed", "w")


class HostileSystem:
    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch executed",)


@pytest.mark.parametrize("payload", [Hostile, HostileSystem])
@pytest.mark.parametrize("layout", ["torch", "legacy", "bare pickle", "beside the weights"])
def test_hostile_pickle_is_refused_and_not_executed(payload: type, layout: str) -> None:
    path = Path("net.pth")
    if layout == "bare pickle":
        path.write_bytes(pickle.dumps(payload(), protocol=2))
    elif layout == "beside the weights":
        torch.save({"state_dict": weights(), "args": payload()}, path)
    else:
        torch.save(payload(), path, _use_new_zipfile_serialization=layout == "torch")
    with pytest.raises(UnsafeFileError, match="execute code") as refusal:
        read_checkpoint(path)
    assert "net.pth" in refusal.value.message
    assert "\n" not in refusal.value.message
    assert "state_dict" in (refusal.value.hint or "")
    assert not Path("executed").exists()


def test_the_hostile_file_of_the_test_above_does_execute_when_unpickled() -> None:
    pickle.loads(pickle.dumps(Hostile()))
    assert Path("executed").exists()


def test_whole_pickled_module_is_refused_by_name() -> None:
    with pytest.raises(UnsafeFileError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(save(nn.Linear(2, 2)))


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused_as_such() -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), "net.pt")
    with pytest.raises(UnsafeFileError):
        read_checkpoint(Path("net.pt"))


@pytest.mark.parametrize(
    "number", [np.float64(91.5), np.int64(3), np.float32(0.5)], ids=["float64", "int64", "float32"]
)
def test_numpy_numbers_among_the_metrics(number: Any) -> None:
    assert_is_weights(read_checkpoint(save({"state_dict": weights(), "best": number})).state_dict)


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numpy_numbers_by_either_name_of_their_module(module: str) -> None:
    """NumPy 2 moved the function that rebuilds numbers; files of both times are about."""
    path = save({"state_dict": weights(), "best": np.float64(1.5)}, _use_new_zipfile_serialization=False)
    stored = path.read_bytes()
    for name in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        stored = stored.replace(b"c" + name + b"\n", b"c" + module.encode() + b"\n")
    assert module.encode() in stored
    path.write_bytes(stored)
    assert_is_weights(read_checkpoint(path).state_dict)


def _zip_bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"\0",
        b"garbage, no checkpoint at all",
        b"<!DOCTYPE html><html>not found</html>",
        b"\x80\x02",
        b"PK\x03\x04" + bytes(100),
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"{}"[:1],
        bytes(range(256)) * 8,
    ],
    ids=["null", "text", "html", "pickle start", "zip start", "huge header", "short header", "bytes"],
)
def test_garbage_is_refused_with_a_sentence(name: str, content: bytes) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        read_checkpoint(Path(name))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_file_cut_off_anywhere_is_refused(legacy: bool) -> None:
    whole = save(weights(), "whole.pth", _use_new_zipfile_serialization=not legacy).read_bytes()
    for length in range(1, len(whole) - 1, max(1, len(whole) // 60)):
        Path("net.pth").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"net\.pth"):
            read_checkpoint(Path("net.pth"))


def test_cut_off_safetensors_are_refused() -> None:
    save_file(weights(), "whole.safetensors")
    whole = Path("whole.safetensors").read_bytes()
    for length in range(1, len(whole), 7):
        Path("net.safetensors").write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged or not safetensors"):
            read_checkpoint(Path("net.safetensors"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_flipped_bytes_give_a_checkpoint_or_one_of_our_errors(kind: str) -> None:
    name = "net.safetensors" if kind == "safetensors" else "net.pth"
    if kind == "safetensors":
        write_checkpoint(Path(name), weights(), Metadata(model="m", num_classes=2))
    else:
        save({"state_dict": weights(), "best": 1.5}, name, _use_new_zipfile_serialization=kind == "zip")
    whole = Path(name).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 2):
            damaged[place] = int(random.integers(0, 256))
        Path(name).write_bytes(damaged)
        try:
            read_checkpoint(Path(name))
        except DecomposeError as error:
            assert name in error.message  # noqa: PT017 - either outcome is right


def test_missing_empty_and_folder() -> None:
    with pytest.raises(InputError, match=r"nowhere\.pth does not exist"):
        read_checkpoint(Path("nowhere.pth"))
    Path("empty.pth").touch()
    with pytest.raises(InputError, match=r"empty\.pth is empty"):
        read_checkpoint(Path("empty.pth"))
    Path("folder.pth").mkdir()
    with pytest.raises(InputError, match=r"folder\.pth: that is a folder"):
        read_checkpoint(Path("folder.pth"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_weights_that_are_not_finite_are_named(name: str, value: float) -> None:
    content = weights()
    content["linear.bias"][1] = value
    torch.save(content, name) if name == "net.pth" else save_file(content, name)
    with pytest.raises(InputError, match=r"not finite: linear\.bias"):
        read_checkpoint(Path(name))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([torch.ones(2)], "holds a list, not a state dict"),
        (torch.ones(2), "holds a Tensor, not a state dict"),
        ("text", "holds a str, not a state dict"),
        (3, "holds a int, not a state dict"),
        ({}, "holds no tensors"),
        ({"state_dict": {}}, "holds no tensors"),
        ({"epoch": 3}, "holds no tensors"),
        ({1: torch.ones(2)}, "holds no tensors"),
        ({"a.weight": torch.ones(2), "epoch": 3}, r"mixes tensors with other values \(epoch\)"),
        ({"model": {"a.weight": torch.ones(2), "lr": 0.1}}, r"mixes tensors with other values \(lr\)"),
        ({"a": torch.ones(2), 5: torch.ones(2)}, "mixes tensors with other values"),
    ],
)
def test_files_without_a_clear_state_dict(content: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as refusal:
        read_checkpoint(save(content))
    assert refusal.value.hint


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.zeros(3, device="meta"),
        torch.zeros(3).to(torch.float8_e4m3fn),
    ],
    ids=["sparse", "without data", "float8"],
)
def test_unusual_tensors_are_read_or_refused_with_a_sentence(tensor: Tensor) -> None:
    path = save({"a.weight": tensor})
    try:
        read_checkpoint(path)
    except DecomposeError as error:
        assert "net.pth" in error.message  # noqa: PT017 - either outcome is right


def test_class_specific_gates_are_set_apart() -> None:
    gates = torch.rand(2, 3)
    checkpoint = read_checkpoint(save({"state_dict": {**weights(), "csg": gates}}))
    assert_is_weights(checkpoint.state_dict)
    assert checkpoint.csg is not None
    assert torch.equal(checkpoint.csg, gates)


def test_published_decomposition_is_set_apart() -> None:
    final = {"final_weights": torch.arange(4.0).reshape(2, 2).double(), "final_bias": torch.tensor([1.0, 2.0])}
    checkpoint = read_checkpoint(save({**weights(), **final}))
    assert_is_weights(checkpoint.state_dict)
    published = checkpoint.published_decomposition
    assert published is not None
    assert published.weight.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert published.weight.dtype == torch.float32
    assert published.bias.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("final", "shapes"),
    [
        ({"final_weights": torch.ones(2, 2)}, r"\(2, 2\) and None"),
        ({"final_bias": torch.ones(2)}, r"None and \(2,\)"),
        ({"final_weights": torch.ones(2, 2), "final_bias": torch.ones(3)}, r"\(2, 2\) and \(3,\)"),
        ({"final_weights": torch.ones(4), "final_bias": torch.ones(4)}, r"\(4,\) and \(4,\)"),
        ({"final_weights": torch.ones(2, 2), "final_bias": torch.ones(2, 1)}, r"\(2, 2\) and \(2, 1\)"),
    ],
)
def test_published_decomposition_of_a_wrong_shape(final: dict[str, Tensor], shapes: str) -> None:
    with pytest.raises(InputError, match=f"final_weights and final_bias have shapes {shapes}"):
        read_checkpoint(save({**weights(), **final}))


def test_decomposed_head_is_recognised() -> None:
    head = {"linear.indices": torch.zeros(2, 1, dtype=torch.int64), "linear.mask": torch.ones(2, 1, dtype=torch.bool)}
    assert read_checkpoint(save({**weights(), **head})).has_decomposed_head
    del head["linear.mask"]
    assert not read_checkpoint(save({**weights(), **head})).has_decomposed_head


def test_memory_that_runs_out_is_no_damage_unless_the_file_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    path = save(weights())
    monkeypatch.setattr(torch_files, "_loaded", fail)
    with pytest.raises(InputError, match="is damaged or truncated"):
        read_checkpoint(path)
    monkeypatch.setattr(torch_files, "FREE", 0)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        read_checkpoint(path)


MASKS = {
    "8 bits": torch.ones(2, 1).to(torch.float8_e4m3fn),
    "quantised": torch.quantize_per_tensor(torch.ones(2, 1), 1.0, 0, torch.qint8),
    "complex": torch.ones(2, 1, dtype=torch.complex64),
    "scalar": torch.tensor(True),
    "row": torch.ones(2, dtype=torch.bool),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_of_another_kind_is_left_to_whoever_fits_it(kind: str) -> None:
    head = {"linear.indices": torch.zeros(2, 1, dtype=torch.int64), "linear.mask": MASKS[kind]}
    checkpoint = read_checkpoint(save({**weights(), **head}))
    checkpoint.say_bias_alone()
    assert checkpoint.has_decomposed_head
    assert checkpoint.kept_whole == frozenset()


@pytest.mark.parametrize(
    ("file", "has_gates", "is_published"),
    [
        ("resnet20-12fca82f.th", False, False),
        ("best_save_CSG.pth", True, False),
        ("resnet20-decomposed.pth", False, True),
        ("resnet20-regularized.pth", False, False),
    ],
)
def test_published_files(reference_dir: Path, file: str, has_gates: bool, is_published: bool) -> None:
    checkpoint = read_checkpoint(reference_dir / "weights" / file)
    assert (checkpoint.csg is not None) == has_gates
    assert (checkpoint.published_decomposition is not None) == is_published
    assert checkpoint.state_dict["conv1.weight"].shape == (16, 3, 3, 3)


@pytest.mark.parametrize("size", [100, 5000, 100_000])
def test_any_beginning_of_a_file_is_called_damaged(size: int) -> None:
    torch.save({"state_dict": CifarResNet(20).state_dict(), "training": {"epoch": 1}}, "whole.pt")
    Path("part.pt").write_bytes(Path("whole.pt").read_bytes()[:size])
    with pytest.raises(InputError, match=r"part\.pt is damaged or truncated"):
        read_checkpoint(Path("part.pt"))
