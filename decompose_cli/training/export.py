"""Files of a classifier for other programs: ONNX, TorchScript, or safetensors."""

from __future__ import annotations

import importlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from decompose_cli.errors import DecomposeError, one_of, raised
from decompose_cli.extras import import_extra
from decompose_cli.models.checkpoint import METADATA_KEY, Metadata, write_checkpoint
from decompose_cli.models.copying import copied
from decompose_cli.models.head import PART_OF_SPREAD
from decompose_cli.models.logits import logits_of
from decompose_cli.models.read_back import PART_OF_LARGEST, difference_beyond, in_words
from decompose_cli.models.sparse_record import SparseRecord
from decompose_cli.models.tracing import varied_images
from decompose_cli.storage.files import write_with

Kind = Literal["onnx", "safetensors", "torchscript"]
SUFFIXES: dict[Kind, str] = {"onnx": ".onnx", "safetensors": ".safetensors", "torchscript": ".torchscript.pt"}
KINDS: tuple[Kind, ...] = get_args(Kind)
TOLERANCE = 1e-4
_REASONS = "Does the network branch on its input, draw random numbers, or give NaN?"
_PACKAGES: dict[Kind, tuple[str, ...]] = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
_CHATTY = ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")  # loggers that report progress

_Run = Callable[[Tensor], Tensor]


def check_export(kind: str, parameter: str = "export") -> Kind:
    """Refuse a kind of file that cannot be written here, before any work is done for it.

    Args:
        kind: Name of the kind.
        parameter: The parameter that it was given as, for the sentence.

    Raises:
        InputError: There is no such kind, or a package that it needs is missing.
    """
    chosen = one_of(kind, KINDS, parameter)
    for package in _PACKAGES.get(chosen, ()):
        with _quiet():
            import_extra(package, "export", f"Export to {chosen}")
    return chosen


def export_network(
    module: nn.Module,
    input_size: tuple[int, int],
    path: Path,
    kind: Kind,
    metadata: Metadata,
    *,
    sparse: SparseRecord | None = None,
    gates: Tensor | None = None,
) -> float | None:
    """Write a classifier, in evaluation mode and float32, to one file, whole or not at all.

    - ``onnx``: from ``torch.export``; input ``images`` (batch, 3, H, W), output ``logits`` (batch, C), any batch size.
    - ``torchscript``: a trace, for any batch size. PyTorch has deprecated TorchScript; choose ONNX where you can.
    - ``safetensors``: the state dict without the counters of batch norms, which inference never reads. This is the
      only kind that ``--weights`` reads: the others are programs.

    All carry the metadata: ONNX among the model's properties, TorchScript as the extra file ``decompose.json``.

    Args:
        module: Maps normalised images (N, 3, H, W) to logits (N, C). It is left as it was: a copy is exported.
        input_size: (H, W); programs take images of this size.
        path: The file; an existing one is replaced.
        kind: Kind of file; :func:`check_export` says whether it can be written here.
        metadata: What the file says about itself.
        sparse: What belongs to a sparse head beside the network; a checkpoint keeps it, a program has no use for it.
        gates: Class-specific gates (C, D), which a checkpoint keeps likewise.

    Returns:
        For programs, how far the logits of what was written are from those of the network on random images, in batches
        of three and of one: the larger of ``max |a - b| / max |a|``. None for ``safetensors``, which
        :func:`decompose_cli.models.read_back.check_read_back` compares.

    Raises:
        InputError: :func:`check_export` refuses the kind.
        DecomposeError: The network cannot be exported, the difference exceeds 1e-4 or for one class 1e-4 of the spread
            of its logits and 1e-5 of the largest, or the file cannot be written. No file is left behind, and one that
            was there stays.

    Example:
        >>> export_network(model, (32, 32), Path("resnet20.onnx"), check_export("onnx"), Metadata(...))
        1.2e-06
    """
    check_export(kind)
    if kind == "safetensors":
        beside = {} if gates is None else {"csg": gates}
        write_checkpoint(path, {**_weights(module), **beside}, metadata, sparse)
        return None
    generator = torch.Generator().manual_seed(0)
    # Two images to trace with, as exporters take a batch of one for a constant.
    example, three, one = (torch.randn(n, 3, *input_size, generator=generator) for n in (2, 3, 1))
    with torch.no_grad(), _quiet(), torch.random.fork_rng(devices=[]), torch.autocast("cpu", enabled=False):
        network = _plain_copy(module)
        try:
            varied = varied_images(input_size, network)
            if not isinstance(network(one), Tensor):
                network = _LogitsAlone(network)
            expected = [network(images) for images in (three, one, varied)]
            if not all(logits.ndim == 2 for logits in expected):
                raise TypeError("it does not return logits of the shape (N, C)")
            data, run = (_to_onnx if kind == "onnx" else _to_torchscript)(network, example, metadata)
            results = [run(images) for images in (three, one, varied)]
        except Exception as error:  # an exporter, and the user's code in it, can raise nearly anything
            raise DecomposeError(
                f"The network cannot be exported to {kind}: {raised(error.__cause__ or error)}.",
                hint="Export to safetensors works for every network.",
            ) from error
    differences = [_relative_difference(a, b) for a, b in zip(expected[:2], results[:2], strict=True)]
    if not all(difference <= TOLERANCE for difference in differences):  # also for NaN, which max would overlook
        apart = [
            f"{'are not numbers (NaN)' if math.isnan(part) else f'differ by {part:.1e} of the largest'} for {images}"
            for part, images in zip(differences, ("three images", "one image"), strict=True)
        ]
        raise DecomposeError(
            f"The {kind} export computes something else than the network: logits {' and '.join(apart)}, where "
            f"{TOLERANCE:.0e} is allowed; {path} was not written.",
            hint=_REASONS,
        )
    beyond = difference_beyond(expected[2], results[2])
    if beyond is not None:
        raise DecomposeError(
            f"The {kind} export computes something else than the network: logits of eight varied images "
            f"{in_words(beyond)}, where {PART_OF_SPREAD:.0e} of their spread in each class and {PART_OF_LARGEST:.0e} "
            f"of the largest logit, together, are allowed; {path} was not written.",
            hint=_REASONS,
        )
    write_with(path, lambda temporary: temporary.write_bytes(data))
    return max(differences)


def _weights(module: nn.Module) -> dict[str, Tensor]:
    state = {name: value for name, value in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise DecomposeError(f"The network cannot be exported to safetensors: {name} is not a tensor.")
    return {name: value.detach().cpu().clone() for name, value in state.items()}  # weights may share memory


class _LogitsAlone(nn.Module):
    """A network whose only output are its logits, as programs have it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.network(images))


def _plain_copy(module: nn.Module) -> nn.Module:
    network = copied(module).requires_grad_(False).to("cpu", torch.float32).eval()
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.contiguous()
    return network


def _to_onnx(network: nn.Module, example: Tensor, metadata: Metadata) -> tuple[bytes, _Run]:
    program = torch.onnx.export(
        network,
        (example,),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: "batch"},),  # Dim.DYNAMIC with a name that is shown
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    for part in (proto.graph, *proto.functions):
        for node in part.node:
            # These say where in the source the node comes from, with names of files on this machine.
            del node.metadata_props[:]
    proto.metadata_props.add(key=METADATA_KEY, value=metadata.as_text())
    data: bytes = proto.SerializeToString()
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return data, lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _to_torchscript(network: nn.Module, example: Tensor, metadata: Metadata) -> tuple[bytes, _Run]:
    # The tracer's own check would repeat the example; ours takes other images and batch sizes.
    traced = torch.jit.trace(network, (example,), check_trace=False)  # type: ignore[no-untyped-call]
    buffer = io.BytesIO()
    description = metadata.as_text()
    torch.jit.save(traced, buffer, _extra_files={f"{METADATA_KEY}.json": description})
    buffer.seek(0)
    loaded: _Run = torch.jit.load(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue(), loaded


def _relative_difference(expected: Tensor, result: Tensor) -> float:
    """``max |a - b| / max |a|``; 0 where both are nothing but zeros, and NaN for logits of other shapes."""
    if result.shape != expected.shape:
        return float("nan")
    largest = (expected - result).abs().max().item()
    return 0.0 if largest == 0 else largest / (expected.abs().max().item() or float("nan"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the warnings and logs of exporters from the terminal; the comparison of logits says whether they matter."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
