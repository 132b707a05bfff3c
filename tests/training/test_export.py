"""Exported networks compute what the network computes, and a failed export leaves nothing behind."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.models.checkpoint import Metadata, read_checkpoint
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.training import export
from decompose_cli.training.export import KINDS, Kind, check_export, export_network

PROGRAMS: tuple[Kind, ...] = ("onnx", "torchscript")
SIZE = (12, 9)  # not square: height and width must not be swapped
METADATA = Metadata(
    model="tiny", num_classes=4, class_names=["a", "b", "c", "d"], mean=[0.5, 0.5, 0.5], std=[1, 1, 1.0]
)
RAGGED = ((4, 1, 3), (0,), (), (3, 0, 5))


class Tiny(nn.Module):
    """Has what can go wrong: statistics, dropout, a flatten that knows the batch size, and either head."""

    def __init__(self, *, decomposed: bool) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 6, (3, 5), padding=(1, 2), stride=2)
            self.bn = nn.BatchNorm2d(6)
            self.drop = nn.Dropout(0.5)
            self.head: nn.Module = nn.Linear(6, 4)
            self.bn.running_mean = torch.randn(6)
            self.bn.running_var = torch.rand(6) + 0.5
            if decomposed:
                self.head = DecomposedLinear.from_dense(torch.randn(4, 6), torch.randn(4), RAGGED)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.drop(self.bn(self.conv(x)).relu())
        return self.head(maps.mean((2, 3)).view(x.shape[0], -1))  # type: ignore[no-any-return]


def images(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def run_onnx(path: Path, batch: Tensor) -> Tensor:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["images"]
    assert session.get_inputs()[0].shape == ["batch", 3, *SIZE]
    assert [o.name for o in session.get_outputs()] == ["logits"]
    return torch.from_numpy(session.run(None, {"images": batch.numpy()})[0])


def run_torchscript(path: Path, batch: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(str(path))(batch)  # type: ignore[no-any-return, no-untyped-call]


RUN: dict[Kind, Callable[[Path, Tensor], Tensor]] = {"onnx": run_onnx, "torchscript": run_torchscript}


@pytest.fixture(autouse=True)
def needs_packages(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and callspec.params.get("kind") == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)


Exported = Callable[[Kind], tuple[Tiny, Path]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The network with a decomposed head, and the file that it was exported to, once for each kind."""

    @cache
    def export_once(kind: Kind) -> tuple[Tiny, Path]:
        network, path = Tiny(decomposed=True), tmp_path_factory.mktemp(kind) / "net.safetensors"
        difference = export_network(network, SIZE, path, kind, METADATA)
        assert (difference is None) if kind == "safetensors" else (difference is not None and difference <= 1e-5)
        return network.eval(), path

    return export_once


def check_logits(kind: Kind, path: Path, network: nn.Module) -> None:
    for n in (1, 2, 3, 17):
        torch.testing.assert_close(RUN[kind](path, images(n)), network(images(n)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", PROGRAMS)
def test_programs_give_the_logits_of_the_network_for_any_batch(exported: Exported, kind: Kind) -> None:
    network, path = exported(kind)
    check_logits(kind, path, network)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kind", PROGRAMS)
def test_the_head_of_a_convolution_is_exported_too(kind: Kind) -> None:
    head = DecomposedLinear.from_dense(torch.randn(4, 3), torch.randn(4), ((0, 1), (2,), (1,), (2, 0)))
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), head, nn.Flatten())
    export_network(network, SIZE, Path("net"), kind, METADATA)
    check_logits(kind, Path("net"), network)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_safetensors_is_a_checkpoint_of_ours_without_counters(layout: torch.memory_format) -> None:
    network = Tiny(decomposed=True).to(memory_format=layout)
    network.tied = network.conv.weight  # tensors that share memory are no obstacle
    assert export_network(network, SIZE, Path("net.safetensors"), "safetensors", METADATA) is None
    read = read_checkpoint(Path("net.safetensors"))
    assert read.metadata == METADATA
    state = network.state_dict()
    assert read.state_dict.keys() == state.keys() - {"bn.num_batches_tracked"}
    assert all(torch.equal(value, state[name]) for name, value in read.state_dict.items())


class WithExtraState(nn.Module):
    def get_extra_state(self) -> dict[str, int]:
        return {"epoch": 3}


def test_what_is_no_tensor_is_not_dropped_silently() -> None:
    with pytest.raises(DecomposeError, match="cannot be exported to safetensors: _extra_state is not a tensor"):
        export_network(WithExtraState(), SIZE, Path("net"), "safetensors", METADATA)
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_describes_itself(exported: Exported, kind: Kind) -> None:
    path = exported(kind)[1]
    if kind == "onnx":
        model = pytest.importorskip("onnx").load(str(path))
        text = {entry.key: entry.value for entry in model.metadata_props}["decompose"]
    elif kind == "torchscript":
        files = {"decompose.json": ""}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.load(str(path), _extra_files=files)  # type: ignore[no-untyped-call]
        text = files["decompose.json"]
    else:
        found = read_checkpoint(path).metadata
        assert found is not None
        text = found.model_dump_json()
    assert Metadata.model_validate(json.loads(text)) == METADATA


@pytest.mark.parametrize("kind", ["onnx"])
def test_onnx_is_valid_and_names_no_file_of_this_machine(exported: Exported, kind: Kind) -> None:
    onnx: Any = pytest.importorskip("onnx")
    path = exported(kind)[1]
    onnx.checker.check_model(onnx.load(str(path)), full_check=True)
    content = path.read_bytes()
    assert b".py" not in content
    assert str(Path(export.__file__).parent).encode() not in content


# ------------------------------------------------------------------------------------------- the network stays as it is


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_left_as_it_was(kind: Kind) -> None:
    network = Tiny(decomposed=True).to(memory_format=torch.channels_last).train()
    network.bn.eval()
    network.conv.requires_grad_(False)
    network.head.weight.grad = torch.ones_like(network.head.weight)
    calls: list[int] = []
    network.bn.register_forward_hook(lambda *_: calls.append(1))
    before = {name: (value.clone(), value.stride(), value.data_ptr()) for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    needed = [parameter.requires_grad for parameter in network.parameters()]
    torch.manual_seed(5)
    random = torch.random.get_rng_state()
    export_network(network, SIZE, Path("net"), kind, METADATA)
    for name, value in network.state_dict().items():
        content, stride, address = before[name]
        assert torch.equal(value, content)
        assert (value.stride(), value.data_ptr()) == (stride, address)
    assert network.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == needed
    assert torch.equal(network.head.weight.grad, torch.ones_like(network.head.weight))
    assert len(network.bn._forward_hooks) == 1
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("kind", "dtype"), [("onnx", torch.bfloat16), ("torchscript", torch.float64)])
def test_programs_compute_in_float32_whatever_the_network_is_in(kind: Kind, dtype: torch.dtype) -> None:
    network = Tiny(decomposed=True).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        difference = export_network(network, SIZE, Path("net"), kind, METADATA)
    assert difference is not None
    assert difference <= 1e-5
    assert network.conv.weight.dtype == dtype
    assert RUN[kind](Path("net"), images(2)).dtype == torch.float32


@pytest.mark.slow
def test_nothing_is_printed_warned_or_logged_in_a_process_of_its_own() -> None:
    """Where nothing has been imported or warned of yet."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    code = """
import warnings, logging
logging.basicConfig(level=logging.DEBUG)
for name in ("matplotlib", "torch"): logging.getLogger(name).setLevel(logging.WARNING)
warnings.simplefilter("always")
import torch
from pathlib import Path
from torch import nn
from decompose_cli.models.checkpoint import Metadata
from decompose_cli.training.export import check_export, export_network
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
for kind in ("torchscript", "onnx"):
    print(check_export(kind))
    export_network(net, (8, 8), Path("net"), kind, Metadata(model="tiny", num_classes=4))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "torchscript\nonnx\n", "")


@pytest.mark.parametrize("kind", PROGRAMS)
def test_nothing_is_printed_warned_or_logged_and_loggers_speak_again_afterwards(
    kind: Kind,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    warnings.simplefilter("always")
    names = ("torch.onnx", "onnxscript", "torch.export")
    for name in names:
        monkeypatch.setattr(logging.getLogger(name), "level", logging.INFO)
    network = Tiny(decomposed=False)
    export_network(network, SIZE, Path("net"), kind, METADATA)
    assert [logging.getLogger(name).level for name in names] == [logging.INFO] * 3
    assert capfd.readouterr() == ("", "")
    records = [record for record in caplog.records if record.levelno >= logging.WARNING or "torch" not in record.name]
    assert not records, "torch traces itself, for whoever asks"
    assert not recwarn.list
    check_logits(kind, Path("net"), network.eval())


# ------------------------------------------------------------------------------------------------------------ refusals


class UnlikeItsExport(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        logits = x.mean((2, 3))
        return logits if torch.compiler.is_exporting() else 2 * logits


class ByBatchSize(nn.Module):
    """A trace keeps the number as it was."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * float(x.shape[0])


class WithNan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * float("nan")


class NanForSingleImages(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) / (x.std((0, 2, 3)) * 0 + x.mean((1, 2, 3)).std())


class Maps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no luck today\nand more")


def exporting_fails(network: nn.Module, kind: Kind, match: str) -> None:
    Path("net").write_text("mine", encoding="utf-8")
    with pytest.raises(DecomposeError, match=match) as error:
        export_network(network, SIZE, Path("net"), kind, METADATA)
    assert not isinstance(error.value, InputError)
    assert "\n" not in error.value.message
    assert error.value.hint is not None
    assert Path("net").read_text(encoding="utf-8") == "mine"
    assert [path.name for path in Path.cwd().iterdir()] == ["net"]


@pytest.mark.parametrize(
    ("kind", "network"),
    [
        ("onnx", UnlikeItsExport()),
        ("torchscript", ByBatchSize()),
        ("torchscript", WithNan()),
        ("torchscript", NanForSingleImages()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_program_that_computes_something_else_is_not_written(kind: Kind, network: nn.Module) -> None:
    exporting_fails(network, kind, "computes something else than the network.*1e-04 is allowed; net was not written")


def linear(bias: list[float]) -> nn.Module:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    with torch.no_grad():
        network[2].weight.zero_()
        network[2].bias.copy_(torch.tensor(bias))
    return network


def exporter(monkeypatch: pytest.MonkeyPatch, kind: Kind, error: Tensor) -> None:
    """The exporter makes programs that compute what the network computes, and so much more."""

    def wrong(network: nn.Module, *_: Any) -> Any:
        return b"a program", lambda x: network(x) + error

    monkeypatch.setattr(export, f"_to_{kind}", wrong)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (0.9e-5, None),
        (0.9e-4, r"eight varied images differ by up to 0\.18"),
        (1.1e-4, r"by 1\.1e-04 of the largest for one image"),
    ],
)
@pytest.mark.parametrize("kind", PROGRAMS)
def test_the_difference_is_relative_to_the_largest_logit(
    kind: Kind, change: float, refused: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = linear([1000.0, -2000, 0, 1])
    exporter(monkeypatch, kind, torch.tensor([0, 0, 2000 * change, 0]))
    if refused is None:
        difference = export_network(network, SIZE, Path("net"), kind, METADATA)
        assert difference == pytest.approx(change, rel=1e-3)
        assert Path("net").read_bytes() == b"a program"
    else:
        exporting_fails(network, kind, refused)


class BranchingForOneClass(nn.Module):
    """A trace keeps one of the branches; the logits of the other class hide it."""

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3))
        last = means[:, 1:2] * (1 if float(x.abs().max()) < 6 else 2)
        return torch.cat([2e4 * means[:, :1], last], 1)


def test_a_class_with_small_logits_counts_as_well() -> None:
    limits = "where 1e-04 of their spread in each class and 1e-05 of the largest logit, together, are allowed"
    exporting_fails(BranchingForOneClass(), "torchscript", f"eight varied images differ .*, {limits}; net was not")


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (
            3,
            "logits are not numbers \\(NaN\\) for three images and differ by 0.0e\\+00 of the largest for one",
        ),
        (8, "logits of eight varied images are not numbers \\(NaN\\), where"),
    ],
)
def test_nan_is_said_in_words(images: int, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(network: nn.Module, *_: Any) -> Any:
        return b"a program", lambda x: network(x) * (float("nan") if len(x) == images else 1)

    monkeypatch.setattr(export, "_to_torchscript", wrong)
    exporting_fails(linear([1.0, 2, 3, 4]), "torchscript", sentence)


def test_a_network_whose_logits_are_all_zero_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert export_network(linear([0.0] * 4), SIZE, Path("net"), "torchscript", METADATA) == 0
    exporter(monkeypatch, "torchscript", torch.tensor([0, 1e-9, 0, 0]))
    exporting_fails(linear([0.0] * 4), "torchscript", "computes something else than the network")


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_network_that_cannot_be_exported_gives_one_sentence(kind: Kind) -> None:
    exporting_fails(Failing(), kind, rf"cannot be exported to {kind}: ValueError: no luck today\.$")
    exporting_fails(
        Maps(), kind, rf"cannot be exported to {kind}: TypeError: it does not return logits of the shape \(N, C\)\.$"
    )


@pytest.mark.parametrize("kind", ["onnx"])
def test_what_the_exporter_raises_becomes_one_sentence(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Failed to export the model.\n# long\nreport")

    monkeypatch.setattr(torch.onnx, "export", fail)
    exporting_fails(
        Tiny(decomposed=False), kind, r"cannot be exported to onnx: RuntimeError: Failed to export the model\.$"
    )


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_network_that_cannot_be_copied_is_refused(kind: Kind) -> None:
    network = Tiny(decomposed=False)
    network.log = open(__file__, encoding="utf-8")  # noqa: PTH123, SIM115
    with network.log, pytest.raises(DecomposeError, match="cannot be copied, which is needed to leave it as it is"):
        export_network(network, SIZE, Path("net"), kind, METADATA)
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("kind", ["safetensors", "torchscript"])
def test_a_folder_that_is_a_file_is_refused(kind: Kind) -> None:
    Path("taken").write_text("mine", encoding="utf-8")
    with pytest.raises(DecomposeError, match="taken"):
        export_network(Tiny(decomposed=False), SIZE, Path("taken/net"), kind, METADATA)
    assert [path.name for path in Path.cwd().iterdir()] == ["taken"]


@pytest.mark.parametrize("kind", ["ONNX", "", "pickle", "tflite"])
def test_unknown_kinds_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match=r"is unknown; choose onnx, safetensors, torchscript\."):
        check_export(kind)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_packages_are_named_up_front(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in {"onnx", "onnxscript", "onnxruntime"} - {package}:
        pytest.importorskip(other)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"Export to onnx needs the package {package}, which cannot be") as error:
        check_export("onnx")
    assert "decompose-cli[export]" in str(error.value.hint)
    with pytest.raises(InputError, match=package):
        export_network(Tiny(decomposed=False), SIZE, Path("net"), "onnx", METADATA)
    assert not list(Path.cwd().iterdir())
    assert check_export("safetensors") == "safetensors"
    assert check_export("torchscript") == "torchscript"
