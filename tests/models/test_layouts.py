"""Checkpoints as other programs write them: what stands beside the weights, what they are wrapped in, their names."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import functools
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
from helpers.command_line import run
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from decompose_cli.errors import InputError, UnsafeFileError
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.opening import Opening
from decompose_cli.features.study import open_network
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
    "exception": ValueError("x"),
    "date": datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
    "part of a call": functools.partial(print, 1),
    "optimiser": torch.optim.AdamW([torch.ones(2)]),
    "tensors of an object": types.SimpleNamespace(weight=torch.ones(2)),
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


@pytest.mark.parametrize(
    "losses",
    [[0.5 + number for number in range(400_000)], list(range(400_000)), [[0.25] * 3] * 100_000],
    ids=["reals", "whole numbers", "one list many times"],
)
def test_a_long_history_beside_the_weights_is_read(losses: Any) -> None:
    path = saved({"args": argparse.Namespace(lr=0.1), "losses": losses, "state_dict": network(depth=20).state_dict()})
    assert_same(read_checkpoint(Path(path)).state_dict, network(depth=20).state_dict())


def test_millions_of_numbers_beside_the_weights_are_read_and_too_many_objects_are_said() -> None:
    path = saved({"losses": [0.5] * 2_100_000, "state_dict": RAW})
    assert_same(read_checkpoint(Path(path)).state_dict, RAW)
    path = saved({"args": argparse.Namespace(lr=0.1), "losses": [0] * 700_000, "state_dict": RAW})
    with pytest.raises(InputError, match=r"net\.pth holds more than \S+ plain values beside its tensors, too many"):
        read_checkpoint(Path(path))


def test_layers_that_are_used_many_times_share_their_weights() -> None:
    block = nn.Linear(1500, 1500)
    shared = nn.ModuleList([block] * 40).state_dict()
    found = read_checkpoint(Path(saved(shared))).state_dict
    assert len(found) == 80
    assert {value.data_ptr() for name, value in found.items() if "weight" in name} == {found["0.weight"].data_ptr()}


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


@pytest.mark.parametrize("protocol", [4, 5])
def test_newer_pickles_are_not_called_damaged(protocol: int) -> None:
    path = saved({"model": RAW, "args": argparse.Namespace(lr=1)}, pickle_protocol=protocol)
    with pytest.raises(InputError, match="saved with a pickle protocol of 4 or above"):
        read_checkpoint(Path(path))
    assert_same(loaded(saved({"model": RAW, "args": argparse.Namespace(lr=1)}, pickle_protocol=3)), RAW)


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


KEYS: dict[str, tuple[Callable[[], Any], str]] = {
    "a key with dots": (lambda: {"model": OTHER, "model.best": RAW}, "model.best"),
    "a position": (lambda: {"nets": [OTHER, RAW], "model": OTHER}, "nets.1"),
    "a number": (lambda: {0: OTHER, 1: RAW}, "1"),
    "a wrapper within": (lambda: {"a": {"state_dict": RAW, "epoch": 3}, "b": OTHER}, "a"),
    "averages": (lambda: {"model": OTHER, "model_ema": averaged(RAW)}, "model_ema"),
    "what optimisers keep": (lambda: {"model": OTHER, "optimizer": {"slow": RAW}}, "optimizer.slow"),
    "names from the top": (
        lambda: {"state_dict": {**prefixed("a.b.", RAW), **prefixed("a.c.", OTHER)}},
        "state_dict.a.b",
    ),
    "accents": (lambda: {"pre\u0301ce\u0301dent": RAW, "model": OTHER}, "pr\xe9c\xe9dent"),
    "a Namespace beside": (lambda: {"a": RAW, "b": OTHER, "args": argparse.Namespace(a=1)}, "a"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_places_that_a_key_names(kind: str) -> None:
    make, key = KEYS[kind]
    assert_same(loaded(saved(make()), weights_key=key), RAW)


@pytest.mark.parametrize(
    ("key", "sentence", "hint"),
    [
        (
            "teacher",
            "has nothing at weights_key teacher",
            "It has tensors at model, swa.a, optimizer.x",
        ),
        ("swa.c", "has nothing at weights_key swa.c", "model"),
        ("swa.", "has nothing at weights_key", "model"),
        (".", "has nothing at weights_key", "model"),
        ("epoch", "holds no state dict at weights_key epoch", "torch.save"),
        ("model.conv1.weight", "holds no state dict at weights_key model.conv1.weight", "torch.save"),
        ("swa", "holds no state dict at weights_key swa", "torch.save"),
        ("mixed", "mixes tensors with other values (lr)", ""),
        ("model.layer1", "does not fit resnet8", ""),
        ("a.x.y", "has 2 places that weights_key a.x.y could mean", "alone"),
    ],
)
def test_keys_that_name_no_weights(key: str, sentence: str, hint: str) -> None:
    twice = {"a": {"x": {"y": RAW}, "x.y": OTHER}}
    path = saved(
        {
            "model": RAW,
            "swa": {"a": {"w": torch.ones(1)}},
            "optimizer": {"x": {"w": torch.ones(1)}},
            "epoch": 3,
            **twice,
            "mixed": {"lr": 1, **RAW},
        }
    )
    with pytest.raises(InputError) as refusal:
        loaded(path, weights_key=key)
    assert sentence in refusal.value.message
    assert hint in (refusal.value.hint or "")


def test_keys_are_not_for_files_that_describe_themselves(make_images: Any) -> None:
    make_images(Path("images"), ["a", "b", "c"], n=4, side=8)
    size = ("--dataset", "folder:images", "--input-size", "8", "-j", "0", "-b", "4")
    run("train", "resnet8", *size, "--epochs", "1", "-q", "-o", "run")
    said = run("validate", "-w", "run/last.pt", *size, "--weights-key", "state_dict", code=2).stderr
    assert "run/last.pt says itself which weights it holds." in said.replace("\n", " ")
    assert "Leave --weights-key out." in said.replace("\n", " ")


def test_features_of_several_weights_are_kept_apart(make_images: Any) -> None:
    make_images(Path("images"), [str(number) for number in range(10)], ("test",), n=2)
    path = saved({"first": RAW, "second": OTHER})
    command = ("validate", "resnet8", "-w", path, "--dataset", "folder:images", "-j", "0")
    assert "--weights-key names those that you mean" in run(*command, code=2).stderr.replace("\n", " ")
    said = [run(*command, "--weights-key", key).stderr for key in ("first", "second", "first")]
    assert ["no forward pass" in text for text in said] == [False, False, True]


def test_other_processes_open_the_weights_at_the_same_place() -> None:
    inputs = Inputs(model="resnet8", weights=saved({"first": RAW, "second": OTHER}), weights_key="second")
    opening = pickle.loads(pickle.dumps(Opening.of(inputs, open_network(inputs))))
    assert_same(opening.classifier(1).load((32, 32)).module.state_dict(), OTHER)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weights": "net.pth", "weights_key": " "}, "weights_key names no place in the file"),
        ({"weights_key": "a"}, "weights_key needs a file or URL"),
        ({"weights": "random", "weights_key": "a"}, "weights_key needs a file or URL"),
        ({"weights": "net.pth", "weights_key": "a", "ema": True}, "both say which weights of the file are taken"),
    ],
)
def test_keys_that_cannot_be(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Inputs(model="resnet8", **options)


# ------------------------------------------------------------------------------------------------------------- names


class Accents(nn.Module):
    """A network whose layers have accents in their names, composed or not."""

    form = "te\u0302te"

    def __init__(self) -> None:
        super().__init__()
        self.add_module(self.form, nn.Conv2d(3, 4, 1))
        self.add_module("d\xe9but", nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule("d\xe9but")(self.get_submodule(self.form)(x).mean((2, 3)))


class Composed(Accents):
    form = "t\xeate"


@pytest.mark.parametrize(("model", "other"), [(Accents, Composed), (Composed, Accents)])
@pytest.mark.parametrize("prefix", ["", "module.", "lit."])
def test_names_with_accents_in_either_form(model: type[Accents], other: type[Accents], prefix: str) -> None:
    module = other()
    path = saved({"state_dict": prefixed(prefix, module.state_dict())})
    state = open_classifier(f"{__name__}:{model.__name__}", path).load((8, 8)).module.state_dict()
    assert set(state) != set(module.state_dict())
    assert all(torch.equal(one, two) for one, two in zip(state.values(), module.state_dict().values(), strict=True))


class Wrapped(nn.Module):
    """A network whose own layers are called as what wraps networks."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(collections.OrderedDict(net=nn.Conv2d(3, 4, 1), module=nn.Conv2d(4, 4, 1)))
        self.net = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.model(x).mean((2, 3)))


class Within(nn.Module):
    """A network that is all in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Alone(Within):
    def __init__(self) -> None:
        super().__init__()
        del self.steps


@pytest.mark.parametrize("model", [Wrapped, Within, Alone])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "net.", "_orig_mod.", "module.model.", "lit.", "a.b."])
def test_networks_whose_layers_are_called_as_wrappers_are(model: type[nn.Module], prefix: str) -> None:
    torch.manual_seed(1)
    module = model()
    path = saved(prefixed(prefix, module.state_dict()))
    state = open_classifier(f"{__name__}:{model.__name__}", path).load((8, 8)).module.state_dict()
    assert list(state) == list(module.state_dict())
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in state.items())


class Twice(nn.Module):
    """A network with two layers whose names differ in what wraps only."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.module = nn.ModuleDict({"fc": nn.Linear(3, 3)})

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.module["fc"](x.mean((2, 3))))


def test_two_names_never_become_one() -> None:
    module = Twice()
    state = open_classifier(f"{__name__}:Twice", saved(module.state_dict()), head="fc").load((8, 8)).module.state_dict()
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in state.items())
    path = saved({**prefixed("module.model.", RAW), "model.linear.bias": RAW["linear.bias"]})
    with pytest.raises(InputError, match="holds this network under module, and other weights of its names"):
        loaded(path)


def test_what_is_left_out_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    loaded(saved(FILES["Lightning with metrics"]()))
    assert "net.pth: of names with different beginnings, those with 'net.' are this network." in caplog.messages
    left = "loss_fn.weight, val_acc.correct, val_acc.total"
    assert f"net.pth: left out, as no part of this network: {left}." in caplog.messages
    caplog.clear()
    loaded(saved(FILES["PyTorch Lightning"]()))
    assert caplog.messages == ["net.pth: left out, as no part of this network: criterion.weight."]


def test_what_could_be_part_of_the_network_is_not_left_out() -> None:
    for beside in ("extra.weight", "layer1.criterion.weight", "linear.scale"):
        with pytest.raises(InputError, match=rf"1 unexpected \({beside}\)"):
            loaded(saved({**RAW, beside: torch.ones(1)}))


# ----------------------------------------------------------------------------------------------------- names of files


@pytest.mark.parametrize("name", ["model.bin", "model.pth", "model.pt", "model.ckpt", "model"])
def test_safetensors_are_told_by_their_content(name: str) -> None:
    save_file(RAW, name)
    assert_same(loaded(name), RAW)
    save_file(RAW, name, metadata={"format": "pt"})
    assert_same(loaded(name), RAW)
    whole = Path(name).read_bytes()
    Path(name).write_bytes(whole[:5000])
    with pytest.raises(InputError, match=f"{name} is damaged"):
        loaded(name)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["net.safetensors", "net", "net.bin", "net.th.tar"])
def test_files_of_torch_are_told_by_their_content(name: str, legacy: bool) -> None:
    assert_same(loaded(saved({"model": RAW}, name, _use_new_zipfile_serialization=not legacy)), RAW)


def test_the_description_in_a_file_of_any_name_is_read(make_images: Any) -> None:
    make_images(Path("images"), ["a", "b", "c"], n=4, side=8)
    size = ("--dataset", "folder:images", "--input-size", "8", "-j", "0", "-b", "4")
    run("train", "resnet8", *size, "--epochs", "1", "-q", "-o", "run", "--export", "safetensors")
    (file,) = Path("run").glob("*.safetensors")
    file.rename("mine.bin")
    assert open_classifier(None, "mine.bin").name == "resnet8"
