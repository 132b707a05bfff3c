"""A checkpoint that is written is read back once, and what it lacks is said."""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import head_kinds
from helpers.head_kinds import SIZE, trained
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import decompose_cli
import decompose_cli as dc
from decompose_cli.engines.finetune import FinetuneSettings, finetune
from decompose_cli.engines.train import train
from decompose_cli.features.inputs import Inputs
from decompose_cli.models.checkpoint import Metadata, write_checkpoint
from decompose_cli.models.read_back import check_read_back
from decompose_cli.models.registry import get_entry
from decompose_cli.training.export import KINDS
from decompose_cli.training.session import Request


def written(module: nn.Module, model: str, classes: int = head_kinds.CLASSES) -> Path:
    path = Path("net.safetensors")
    write_checkpoint(
        path, {n: v.clone() for n, v in module.state_dict().items()}, Metadata(model=model, num_classes=classes)
    )
    return path


@pytest.mark.parametrize("make", [head_kinds.plain, head_kinds.batch_normed, head_kinds.normed_by_hooks])
def test_a_whole_checkpoint_gives_back_its_network(make, caplog: pytest.LogCaptureFixture) -> None:
    module = trained(make)
    assert check_read_back(written(module, f"helpers.head_kinds:{make.__name__}"), module, SIZE)
    assert not caplog.messages


def test_what_is_in_no_state_dict_is_missed(caplog: pytest.LogCaptureFixture) -> None:
    module = trained(head_kinds.plain)
    module.head.register_forward_hook(lambda _, __, output: output * torch.tensor([1, 1, 1, 1.01]))
    assert not check_read_back(written(module, "helpers.head_kinds:plain"), module, SIZE)
    (said,) = caplog.messages
    assert "net.safetensors does not give back the network that it was written from" in said
    assert "neither a parameter nor a buffer" in said


def test_another_network_cannot_be_read_back(caplog: pytest.LogCaptureFixture) -> None:
    module = trained(head_kinds.plain)
    assert not check_read_back(written(module, "helpers.head_kinds:masked"), module, SIZE)
    assert "net.safetensors cannot be read back: " in caplog.messages[0]


def test_a_network_that_draws_in_evaluation_is_compared_with_the_same_numbers(caplog: pytest.LogCaptureFixture) -> None:
    module = trained(head_kinds.always_dropping)
    before = torch.get_rng_state()
    assert check_read_back(written(module, "helpers.head_kinds:always_dropping"), module, SIZE)
    assert torch.equal(torch.get_rng_state(), before)


COUNTING = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.seen = torch.tensor(1.0)

    def forward(self, x):
        if self.training:
            self.seen = self.seen + 1
        return self.fc(x.mean((2, 3))) * self.seen
"""


def test_train_and_save_model_say_so(
    make_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_images(Path("images"), ["a", "b", "c"], ("train", "test"), n=2, side=8)
    Path("counting_net.py").write_text(COUNTING)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    inputs = Inputs(model="counting_net:Net", dataset="folder:images", input_size="8", workers=0, use_cache=False)
    train(Request(inputs, {"epochs": 1, "batch_size": 2, "val_split": 0.5}, folder=Path("run"), export=KINDS[1:]))
    said = [message for message in caplog.messages if "does not give back the network" in message]
    assert sorted(message.split()[0] for message in said) == ["run/best.pt", "run/last.pt", "run/model.safetensors"]
    caplog.clear()
    model = dc.load_model("counting_net:Net", input_size=8)
    model.module.seen *= 5
    dc.save_model(model, "net.safetensors")
    assert any("net.safetensors does not give back" in said for said in caplog.messages)


def test_a_fine_tuned_network_is_read_back_wherever_it_is_written(
    make_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(Path("images"), ["a", "b", "c"], ("train", "test"), n=4, side=8)
    inputs = Inputs(model="resnet8", dataset="folder:images", input_size="8", workers=0, use_cache=False)
    training = {"epochs": 1, "batch_size": 2, "val_split": 0.5}
    train(Request(inputs, training, folder=Path("run")))
    inputs = dataclasses.replace(inputs, model=None, weights="run/last.pt")
    checked: dict[str, bool] = {}

    def check(path: Path, module: nn.Module, size: tuple[int, int]) -> bool:
        checked[path.name] = check_read_back(path, module, size)
        return checked[path.name]

    monkeypatch.setattr("decompose_cli.training.runner.check_read_back", check)
    training |= {"epochs": 3, "lr": 1e-4}
    tuned = finetune(Request(inputs, training, folder=Path("tuned"), export=["safetensors"]), FinetuneSettings(k=3))
    assert tuned.results.best.epoch < tuned.results.last.epoch, "else the two networks would be the same"
    assert checked == {"last.pt": True, "best.pt": True, "model.safetensors": True}
    with safe_open("tuned/model.safetensors", "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        header = json.loads(file.metadata()["decompose"])
    weights["linear.bias"][0] += 1
    save_file(weights, "tuned/model.safetensors", {"decompose": json.dumps(header)})
    whole = dc.load_model(weights="tuned/best.pt").module
    assert not check_read_back(Path("tuned/model.safetensors"), whole, SIZE)


WRITES = {"write_checkpoint", "write_state", "write_tensors", "save_file", "save"}
WRITERS = {
    "storage/tensor_files.py": "write_tensors itself",
    "models/checkpoint.py": "write_checkpoint itself",
    "training/run_folder.py": "write_state itself",
    "training/fit.py": "last.pt and best.pt, which the runner reads back",
    "training/export.py": "model.safetensors, which the runner reads back, and a program that is run before",
    "api/model.py": "save_model, which reads back",
    "decomposition/sparse_sources.py": "sparse.safetensors, which sparsify reads back",
    "models/lone_head.py": "a head alone, which sparsify reads back",
    "features/bank.py": "features with their checksum",
}


def test_nothing_else_writes_weights() -> None:
    """Whoever writes weights in another place has to have them read back, and to say here how."""
    package = Path(decompose_cli.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)
            is_torch = not isinstance(called, ast.Attribute) or ast.unparse(called.value).startswith("torch")
            if name in WRITES and is_torch:
                found.add(path.relative_to(package).as_posix())
    assert found == WRITERS.keys()


def test_a_checkpoint_of_a_registered_network(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    module = get_entry("resnet20").build(3)
    assert check_read_back(written(module, "resnet20", 3), module, (32, 32))
    with torch.no_grad():
        module.linear.weight[0, 0] += 1
    assert not check_read_back(Path("net.safetensors"), module, (32, 32))
    assert len(caplog.messages) == 1
