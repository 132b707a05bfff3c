"""Checkpoints as other programs write them: what stands beside the weights, what they are wrapped in, their names."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import pathlib
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from decompose_cli.errors import InputError, UnsafeFileError
from decompose_cli.models.checkpoint import read_checkpoint
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.models.classifier import open_classifier

State = dict[str, Tensor]


def network(seed: int = 0, depth: int = 8) -> CifarResNet:
    torch.manual_seed(seed)
    return CifarResNet(depth)


RAW, OTHER = network(0).state_dict(), network(1).state_dict()


def saved(content: Any, name: str = "net.pth", **options: Any) -> str:
    torch.save(content, name, **options)
    return name


def loaded(file: str, model: str = "resnet8", **options: Any) -> State:
    state: State = open_classifier(model, file, **options).load((32, 32)).module.state_dict()
    return state


def assert_same(state: State, expected: State) -> None:
    assert all(torch.equal(value, expected[name]) for name, value in state.items())


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def renamed(old: str, new: str, state: State) -> State:
    return {name.replace(old, new): value for name, value in state.items()}


# ------------------------------------------------------------------------------------- what stands beside the weights


class AttributeDict(dict[str, Any]):
    """Lightning's class for hyperparameters, by which it saves them."""


class Shelf(list[Any]):
    """A list of a class of its own."""


class Config:
    """An object with attributes, as omegaconf's are."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclasses.dataclass
class Settings:
    lr: float = 0.1
    folder: Any = dataclasses.field(default_factory=lambda: pathlib.PurePosixPath("/data"))


class Stage(enum.Enum):
    TRAIN = "train"


class ReduceLROnLoss:
    """An object with a state of its own kind."""

    def __getstate__(self) -> Any:
        return (1, [2.0, {"best": Stage.TRAIN}])

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("called")


BESIDE: dict[str, Any] = {
    "arguments": argparse.Namespace(data=pathlib.PurePosixPath("/data"), lr=0.1, device=torch.device("cpu")),
    "path": pathlib.PosixPath("/runs/1"),
    "defaultdict": collections.defaultdict(list, loss=[0.1, 0.2]),
    "defaultdict of defaultdicts": collections.defaultdict(dict, {"val": collections.defaultdict(int, n=3)}),
    "deque": collections.deque([1.0, 2.0], maxlen=5),
    "counter": collections.Counter("abca"),
    "frozenset": frozenset({1, 2}),
    "range": range(3),
    "array": np.arange(6.0).reshape(2, 3),
    "half of NumPy": np.float16(0.5),
    "text of NumPy": np.str_("resnet"),
    "state of NumPy": np.random.RandomState(0).get_state(),
    "generator of NumPy": np.random.default_rng(0),
    "hyperparameters": AttributeDict(lr=0.1, net=AttributeDict(depth=8)),
    "list of a class": Shelf([1, Shelf([2])]),
    "object": Config(content={"lr": Config(value=0.1)}, parent=None),
    "slots": Slotted(3),
    "data class": Settings(),
    "enum": Stage.TRAIN,
    "state of its own": ReduceLROnLoss(),
    "class": Config,
    "function": network,
    "module of a loss": nn.CrossEntropyLoss(torch.ones(10)),
    "in a key": {pathlib.PurePosixPath("/a"): 1, (Stage.TRAIN, 2): 3},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", BESIDE)
def test_objects_beside_the_weights_become_plain_data(kind: str, legacy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if legacy and kind == "module of a loss":
        pytest.skip("files of before 1.6 hold modules with their source code, and are refused")
    path = saved({"args": BESIDE[kind], "model": RAW, "epoch": 3}, _use_new_zipfile_serialization=not legacy)
    monkeypatch.delitem(sys.modules, __name__)  # nothing is imported from where a class was
    assert_same(read_checkpoint(Path(path)).state_dict, RAW)


def test_several_kinds_of_objects_beside_the_weights() -> None:
    path = saved({"hyper_parameters": BESIDE, "state_dict": RAW})
    assert_same(read_checkpoint(Path(path)).state_dict, RAW)


@pytest.mark.parametrize(
    "make", [AttributeDict, collections.OrderedDict, lambda state: collections.defaultdict(list, state)]
)
def test_weights_in_mappings_of_other_classes(make: Callable[[State], Any]) -> None:
    assert_same(loaded(saved({"model": make(RAW)})), RAW)
    assert_same(loaded(saved(make({"model": make(RAW), "args": argparse.Namespace(lr=1)}))), RAW)


def test_no_object_in_a_file_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def mark(*_: Any) -> Any:
        ran.append("ran")
        return {}

    class Runs:
        def __reduce__(self) -> Any:
            return mark, (1,), {"a": 1}, iter([1]), iter([("b", 2)])

    module = types.ModuleType("gone")
    monkeypatch.setitem(sys.modules, "gone", module)
    module.mark = mark  # type: ignore[attr-defined]
    mark.__module__, mark.__qualname__ = "gone", "mark"
    path = saved({"model": RAW, "args": argparse.Namespace(first=Config(), last=mark)})
    assert_same(read_checkpoint(Path(path)).state_dict, RAW)
    path = saved({"model": RAW, "args": Runs()})
    with pytest.raises(UnsafeFileError, match=r"gone\.mark"):  # both a list and a mapping: nothing that is known
        read_checkpoint(Path(path))
    assert not ran


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def _runs() -> dict[str, Any]:
    import importlib
    import os
    import runpy
    import shutil
    import subprocess

    return {
        "eval": (eval, "open('executed', 'w')"),
        "exec": (exec, "open('executed', 'w')"),
        "import": (__import__, "antigravity"),
        "system": (os.system, "touch executed"),
        "popen": (subprocess.Popen, ["touch", "executed"]),
        "check_output": (subprocess.check_output, ["touch", "executed"]),
        "import_module": (importlib.import_module, "antigravity"),
        "run_path": (runpy.run_path, "evil.py"),
        "copy": (shutil.copy, "net.pth", "executed"),
        "loads": (pickle.loads, b"cos\nsystem\n(S'touch executed'\ntR."),
    }


@pytest.mark.parametrize("how", _runs())
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_only_runs_code_is_refused_by_name(how: str, legacy: bool) -> None:
    function, *arguments = _runs()[how]
    content = {"args": argparse.Namespace(lr=0.1, hook=Calls(function, *arguments)), "state_dict": RAW}
    path = saved(content, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnsafeFileError, match=f"would execute code \\(.*{function.__name__}") as refusal:
        read_checkpoint(Path(path))
    assert "Namespace" not in refusal.value.message
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    "chain",
    [
        (getattr, Config, "__init__"),
        (map, len, ["a"]),
        (type, "Made", (), {}),
        (torch.hub.load, "owner/repo", "net"),
        (np.load, "evil.npy"),
    ],
    ids=["getattr", "map", "type", "hub", "np.load"],
)
def test_any_other_call_is_not_made(chain: Any) -> None:
    path = saved({"model": RAW, "args": Calls(*chain)})
    assert_same(read_checkpoint(Path(path)).state_dict, RAW)


def test_a_file_without_weights_is_still_refused_by_what_it_holds() -> None:
    for content in (network(), {"model": network(), "epoch": 3, "optimizer": {"state": {0: torch.ones(2)}}}):
        with pytest.raises(UnsafeFileError, match=r"cifar_resnet\.CifarResNet"):
            read_checkpoint(Path(saved(content)))
    with pytest.raises(UnsafeFileError, match="Namespace"):
        read_checkpoint(Path(saved(argparse.Namespace(model=RAW))))


def test_a_damaged_file_with_objects_is_refused() -> None:
    whole = Path(saved({"args": argparse.Namespace(lr=1), "model": RAW}, _use_new_zipfile_serialization=False))
    content = whole.read_bytes()
    for length in (400, 1000, 3000, len(content) - 10):
        Path("part.pth").write_bytes(content[:length])
        with pytest.raises(InputError, match=r"part\.pth"):
            read_checkpoint(Path("part.pth"))


def test_modules_in_files_of_old_are_refused_by_name() -> None:
    """They stand there with their source code, which torch's reader of weights lets through nowhere."""
    path = saved({"model": RAW, "criterion": nn.CrossEntropyLoss()}, _use_new_zipfile_serialization=False)
    with pytest.raises(UnsafeFileError, match="CrossEntropyLoss"):
        read_checkpoint(Path(path))


# ------------------------------------------------------------------------------------------- whole files of programs


def averaged(state: State) -> State:
    module = network()
    module.load_state_dict(state)
    return AveragedModel(module).state_dict()


def optimizer() -> dict[str, Any]:
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    module(torch.rand(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


FILES: dict[str, Callable[[], Any]] = {
    "torchvision": lambda: {
        "model": RAW,
        "optimizer": optimizer(),
        "lr_scheduler": {"milestones": collections.Counter([3]), "_schedulers": [Config(), {"last_epoch": 3}]},
        "epoch": 3,
        "args": argparse.Namespace(data_path="/data", model="resnet18", device=torch.device("cuda")),
        "model_ema": averaged(OTHER),
        "scaler": {"scale": 65536.0, "_growth_tracker": 3},
    },
    "timm": lambda: {
        "epoch": 3,
        "arch": "resnet8",
        "state_dict": RAW,
        "optimizer": optimizer(),
        "version": 2,
        "args": argparse.Namespace(model="resnet8", mean=None),
        "amp_scaler": {"scale": 65536.0},
        "state_dict_ema": OTHER,
        "metric": np.float64(91.5),
    },
    "PyTorch Lightning": lambda: {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**prefixed("model.", RAW), "criterion.weight": torch.ones(10)},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_path": pathlib.PosixPath("/runs/best.ckpt")}},
        "optimizer_states": [optimizer()],
        "lr_schedulers": [{"_last_lr": [0.1]}],
        "hparams_name": "kwargs",
        "hyper_parameters": AttributeDict(lr=0.1, net=Config(layers=[1]), out=pathlib.PosixPath("/runs")),
    },
    "Lightning with metrics": lambda: {
        "state_dict": {
            **prefixed("net.", RAW),
            "val_acc.correct": torch.tensor(3),
            "val_acc.total": torch.tensor(9),
            "loss_fn.weight": torch.ones(10),
        },
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 3}}}},
        "hyper_parameters": {"data": pathlib.PosixPath("/data")},
    },
    "fastai": lambda: {"model": RAW, "opt": {"state": [{"mom": torch.ones(2)}], "hypers": [{"lr": 0.1}]}},
    "DeepSpeed": lambda: {
        "module": prefixed("module.", RAW),
        "optimizer": None,
        "lr_scheduler": Config(),
        "ds_config": {"train_batch_size": 8},
        "ds_version": "0.15",
        "global_steps": 3,
    },
    "FSDP": lambda: {"model": renamed("layer", "_fsdp_wrapped_module.layer", prefixed("_fsdp_wrapped_module.", RAW))},
    "ignite": lambda: {"trainer": {"epoch": 3}, "model": RAW, "optimizer": optimizer()},
    "Catalyst": lambda: {"model_state_dict": RAW, "criterion_state_dict": {"weight": torch.ones(10)}, "stage": "train"},
    "mmengine": lambda: {"meta": {"cfg": "model = dict()", "dataset_meta": Config()}, "state_dict": RAW},
    "fairseq": lambda: {"args": argparse.Namespace(), "cfg": {"model": argparse.Namespace()}, "model": RAW},
    "Ray": lambda: {"model_state": RAW, "trial": Config(id=3), "time": collections.deque([1.0])},
    "Composer": lambda: {
        "state": {"model": prefixed("model.", RAW), "optimizers": {"SGD": optimizer()}, "run_name": "a"},
        "rng": [{"python": (3, (1, 2), None), "numpy": np.random.RandomState(0).get_state(), "torch": torch.ones(2)}],
    },
    "VISSL": lambda: {"classy_state_dict": {"base_model": {"model": {"trunk": RAW, "heads": {}}}}, "phase_idx": 3},
    "weights": lambda: {"weights": RAW, "epoch": 3},
    "nested": lambda: {"model": {"state_dict": RAW, "config": {"depth": 8}}, "epoch": 3},
    "nested again": lambda: {"checkpoint": {"net": {"weights": RAW, "step": torch.tensor(3)}}},
    "a name of its own": lambda: {"classifier_weights": RAW, "epoch": 3},
    "the same twice": lambda: {"model": RAW, "state_dict": RAW},
    "the same twice, wrapped": lambda: {"model": prefixed("module.", RAW), "state_dict": RAW},
    "a configuration in the place of weights": lambda: {"model": {"type": "resnet", "depth": 8}, "weights": RAW},
    "weights of classes beside": lambda: {"state_dict": RAW, "weights": {"classes": torch.ones(10)}},
    "names with everything": lambda: {
        "state_dict": renamed("layer1.", "layer1._orig_mod.", prefixed("_orig_mod.module.model.net.", RAW))
    },
    "a parallel part": lambda: renamed("layer1.", "layer1.module.", RAW),
    "a compiled part": lambda: {"model": renamed("layer2.0.", "layer2.0._orig_mod.", RAW), "n_averaged": 3},
    "averages alone": lambda: {"ema": {"module": RAW, "decay": 0.99, "updates": 5}},
    "averages alone, counted": lambda: {"model_ema": averaged(RAW)},
    "averages as the model": lambda: {"model": averaged(RAW)},
    "a loss beside bare names": lambda: {**RAW, "criterion.weight": torch.ones(10)},
    "a loss within": lambda: prefixed("module.", {**prefixed("model.", RAW), "criterion.inner.w": torch.ones(2)}),
    "any prefix": lambda: prefixed("lit.encoder.", {**RAW}),
    "a prefix and a projector": lambda: {**prefixed("backbone.", RAW), "projector.0.weight": torch.ones(3, 3)},
}


@pytest.mark.parametrize("program", FILES)
def test_files_as_programs_write_them(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(FILES[program]())
    monkeypatch.delitem(sys.modules, __name__)
    assert_same(loaded(path), RAW)


@pytest.mark.parametrize("program", ["torchvision", "timm"])
def test_averages_in_files_of_programs(program: str) -> None:
    assert_same(loaded(saved(FILES[program]()), ema=True), OTHER)


# ------------------------------------------------------------------------------------ two readings, and --weights-key


SEVERAL: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "two usual names": (lambda: {"model": RAW, "net": OTHER}, ["model", "net"]),
    "usual names, one nested": (
        lambda: {"state_dict": RAW, "model": {"weights": OTHER}},
        ["state_dict", "model.weights"],
    ),
    "usual names of other shapes": (lambda: {"net": RAW, "model": network(0, 14).state_dict()}, ["model", "net"]),
    "a module and a model": (lambda: {"module": RAW, "model_state": OTHER}, ["model_state", "module"]),
    "unusual names": (lambda: {"first": RAW, "second": OTHER}, ["first", "second"]),
    "unusual names, nested": (lambda: {"nets": {"a": RAW, "b": OTHER}, "epoch": 3}, ["nets.a", "nets.b"]),
    "unusual names, three": (lambda: {"a": RAW, "b": OTHER, "c": {"d": OTHER}}, ["a", "b", "c.d"]),
    "folds": (lambda: {"model": {"fold0": RAW, "fold1": OTHER}}, ["model.fold0", "model.fold1"]),
    "averages, two": (lambda: {"ema": RAW, "swa": OTHER}, ["ema", "swa"]),
    "averages, two nested": (lambda: {"ema": {"fast": RAW, "slow": OTHER}}, ["ema.fast", "ema.slow"]),
    "among the names": (
        lambda: {"state_dict": {**prefixed("encoder_q.", RAW), **prefixed("encoder_k.", OTHER)}},
        ["encoder_q", "encoder_k"],
    ),
    "among the names, wrapped": (
        lambda: prefixed("module.", {**prefixed("first.module.", RAW), **prefixed("second.module.", OTHER)}),
        ["first", "second"],
    ),
    "among the names, nested": (
        lambda: {**prefixed("nets.a.", RAW), **prefixed("nets.b.", OTHER), "other": torch.ones(1)},
        ["nets.a", "nets.b"],
    ),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_where_two_readings_are_possible_they_are_named(kind: str) -> None:
    make, places = SEVERAL[kind]
    path = saved(make())
    with pytest.raises(InputError) as refusal:
        loaded(path)
    assert f": {', '.join(places)}." in refusal.value.message or f"({', '.join(places)})" in refusal.value.message
    assert "weights_key names" in (refusal.value.hint or "")


@pytest.mark.parametrize("kind", SEVERAL)
def test_a_key_names_one_reading(kind: str) -> None:
    make, places = SEVERAL[kind]
    path = saved(make())
    for place in places:
        state = loaded(
            path,
            "resnet14" if kind == "usual names of other shapes" and place == "model" else "resnet8",
            weights_key=place,
        )
        value: Any = make()
        if "among" in kind:
            expected = RAW if place == places[0] else OTHER
        else:
            for key in place.split("."):
                value = value[key]
            expected = value
        assert_same(state, expected)
