"""Which of the weights in a file are taken, and what kind of numbers they may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command_line import run
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from decompose_cli.errors import InputError
from decompose_cli.models.checkpoint import read_checkpoint
from decompose_cli.models.cifar_resnet import CifarResNet
from decompose_cli.models.classifier import open_classifier

State = dict[str, Tensor]


def states() -> tuple[State, State]:
    torch.manual_seed(0)
    raw = CifarResNet(8)
    averaged = AveragedModel(CifarResNet(8))
    return raw.state_dict(), averaged.state_dict()


def save(content: Any, name: str = "net.pth") -> Path:
    torch.save(content, name)
    return Path(name)


NAMES = ["state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict", "swa_model"]


@pytest.mark.parametrize("averages", NAMES)
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "net"])
def test_raw_weights_are_taken_and_averaged_ones_spoken_of(
    wrapper: str, averages: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    raw, averaged = states()
    path = save({wrapper: raw, averages: averaged, "epoch": 3, "optimizer": {"state": {}}})
    assert torch.equal(read_checkpoint(path).state_dict["conv1.weight"], raw["conv1.weight"])
    assert caplog.messages == [
        f"net.pth also holds other weights of this network ({averages}); ema takes averaged ones."
    ]
    caplog.clear()
    taken = read_checkpoint(path, ema=True)
    assert torch.equal(taken.state_dict["conv1.weight"], averaged["module.conv1.weight"])
    assert taken.is_averaged
    assert not caplog.messages
    open_classifier("resnet8", str(path), ema=True).load((32, 32))


def test_nested_averages_are_found(caplog: pytest.LogCaptureFixture) -> None:
    raw, averaged = states()
    path = save({"state_dict": raw, "ema": {"decay": 0.999, "state_dict": averaged}})
    caplog.set_level("INFO")
    read_checkpoint(path)
    assert "other weights of this network (ema.state_dict)" in caplog.text
    assert torch.equal(read_checkpoint(path, ema=True).state_dict["conv1.weight"], averaged["module.conv1.weight"])


def test_averages_alone_are_taken(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    _, averaged = states()
    path = save({"model_ema": averaged, "epoch": 3})
    assert torch.equal(read_checkpoint(path).state_dict["conv1.weight"], averaged["module.conv1.weight"])
    assert caplog.messages == ["net.pth holds averaged weights only (model_ema), which are taken."]


@pytest.mark.parametrize("content", ["bare", "wrapped", "settings"])
def test_averages_that_are_not_there(content: str) -> None:
    raw, _ = states()
    path = save({"bare": raw, "wrapped": {"state_dict": raw}, "settings": {"model": raw, "ema": 0.999}}[content])
    read_checkpoint(path)
    with pytest.raises(InputError, match=r"^net\.pth holds no averaged weights, which ema asks for\.$"):
        read_checkpoint(path, ema=True)


def test_features_of_raw_and_averaged_weights_are_kept_apart(
    make_images: Any, caplog: pytest.LogCaptureFixture
) -> None:
    make_images(Path("images"), [str(number) for number in range(10)], ("test",), n=2)
    raw, averaged = states()
    path = save({"state_dict": raw, "state_dict_ema": averaged})
    command = ("validate", "resnet8", "-w", str(path), "--dataset", "folder:images", "-j", "0")
    said = [run(*command, *more).stderr for more in ((), ("--ema",), (), ("--ema",))]
    assert ["no forward pass" in text for text in said] == [False, False, True, True]
    assert ["--ema takes averaged ones" in text for text in said] == [True, False, True, False]
    assert "--ema needs a file or URL" in run("validate", "resnet8", "--ema", code=2).stderr


# --------------------------------------------------------------------------------------------------- kinds of numbers


def with_kind(name: str, change: Any) -> Path:
    raw, _ = states()
    return save({**raw, name: change(raw[name])})


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        (
            "linear.weight",
            lambda w: w.mul(100).round().to(torch.int64),
            "whole numbers (int64) where the network has r",
        ),
        ("conv1.weight", lambda w: w.mul(100).to(torch.uint8), "whole numbers (uint8)"),
        ("linear.bias", lambda b: torch.complex(b, b), "complex numbers (complex64)"),
        ("linear.weight", lambda w: w > 0, "true-or-false numbers (bool)"),
        ("bn1.running_var", lambda v: v.to(torch.int32), "whole numbers (int32)"),
        ("linear.weight", lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "quantised numbers (qint8)"),
    ],
)
def test_another_kind_of_number_is_refused(name: str, change: Any, sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        open_classifier("resnet8", str(with_kind(name, change))).load((32, 32))
    assert f"net.pth: {name} holds {sentence}" in refusal.value.message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_is_no_other_kind(dtype: torch.dtype) -> None:
    path = with_kind("linear.weight", lambda w: w.to(dtype))
    open_classifier("resnet8", str(path)).load((32, 32))


@pytest.mark.parametrize("change", [lambda n: n.to(torch.float32), lambda n: n.to(torch.int32)])
def test_counters_may_be_of_any_kind(change: Any) -> None:
    raw, _ = states()
    raw["bn1.num_batches_tracked"] = change(torch.tensor(7))
    open_classifier("resnet8", str(save(raw))).load((32, 32))


class WithIndices(nn.Module):
    """A network with a buffer of whole numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.register_buffer("order", torch.tensor([2, 0, 1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3))[:, self.order])


def test_whole_numbers_stay_where_the_network_has_them() -> None:
    network = WithIndices()
    state = network.state_dict()
    open_classifier(f"{__name__}:WithIndices", str(save(state))).load((8, 8))
    with pytest.raises(InputError, match="order holds real numbers"):
        open_classifier(f"{__name__}:WithIndices", str(save({**state, "order": torch.ones(3)}))).load((8, 8))


@pytest.mark.parametrize(("part", "kind"), [("final_weights", torch.int64), ("final_bias", torch.complex64)])
def test_published_heads_are_real(part: str, kind: torch.dtype) -> None:
    raw, _ = states()
    head = {"final_weights": torch.ones(10, 3), "final_bias": torch.ones(10)}
    with pytest.raises(InputError, match=f"{part} holds"):
        read_checkpoint(save({**raw, **head, part: head[part].to(kind)}))


@pytest.mark.parametrize(
    "place", [["model_avg"], ["teacher"], ["EMA"], ["extra", "ema"], ["callbacks", "Average", "weights"]]
)
def test_other_weights_are_found_by_what_they_are(place: list[str], caplog: pytest.LogCaptureFixture) -> None:
    raw, averaged = states()
    content: Any = averaged
    for name in reversed(place):
        content = {name: content}
    path = save({"state_dict": raw, **content, "optimizer": {"momentum": {"conv1.weight": torch.ones(2)}}})
    caplog.set_level("INFO")
    read_checkpoint(path)
    assert f"other weights of this network ({'.'.join(place)})" in caplog.text
    taken = read_checkpoint(path, ema=True).state_dict
    assert torch.equal(taken["conv1.weight"], averaged["module.conv1.weight"])


def test_several_others_are_not_chosen_among() -> None:
    raw, averaged = states()
    path = save({"state_dict": raw, "teacher": averaged, "swa": averaged})
    with pytest.raises(InputError, match=r"several weights that ema could mean: teacher, swa"):
        read_checkpoint(path, ema=True)
    assert read_checkpoint(save({"state_dict": raw, "teacher": averaged, "ema": averaged}), ema=True).is_averaged


def test_an_averaged_model_saved_alone_is_read() -> None:
    _, averaged = states()
    for content in (averaged, {"state_dict": averaged}):
        taken = read_checkpoint(save(content)).state_dict
        assert torch.equal(taken["conv1.weight"], averaged["module.conv1.weight"])
        assert "n_averaged" not in taken


def test_the_raw_weights_in_our_own_runs_are_nobodys_business(
    make_images: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that averages keeps the raw weights to go on with; its state dict is the averaged one, as it says."""
    make_images(Path("images"), ["a", "b", "c"], n=4, side=8)
    size = ("--dataset", "folder:images", "--input-size", "8", "-j", "0", "-b", "4", "--epochs", "1", "-q")
    run("train", "resnet8", *size, "--ema-decay", "0.9", "-o", "run")
    caplog.set_level("INFO")
    read_checkpoint(Path("run/last.pt"))
    assert not caplog.messages
