"""Networks with other norms than batch norm on the command line: trained, evaluated, decomposed, fine-tuned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.command_line import content, names_in, run
from helpers.power_cut import PowerCut

from decompose_cli.norms.modes import NORM_MODES


def slow(value: str) -> Any:
    """A case that others cover, for want of time."""
    return pytest.param(value, marks=pytest.mark.slow)


# Batch norm is everywhere else; layer and instance norm are trained and evaluated below, and looked at in tests/norms.
QUICK_MODES = ("group", "online", "none")
NORMED = ("resnet8", "--dataset", "folder:images", "--input-size", "8", "-j", "0", "-b", "8", "--device", "cpu", "-q")


@pytest.mark.usefixtures("images")
def test_the_published_commands_of_online_normalisation() -> None:
    run("train", *NORMED, *("--norm-mode", "online", "--afwd", "0.9990234375", "--abkw", "127/128", "--epochs", "2"),
        *("--model-dir", "run", "--lr-milestones", "1", "150", "200", "--lr-multiplier", "0.2", "--wd", "0.0003"),
        *("--learning-rate", "0.02", "--seed", "3", "--ecm", "ac", "--shortcut", "projection"))  # fmt: skip
    config = content("run/config.json")
    assert config["recipe"] == "online-norm"
    assert config["model_options"] == {
        "shortcut": "projection",
        "norm_mode": "online",
        "afwd": "0.9990234375",
        "abkw": "0.9921875",
        "ecm": "ac",
    }
    expected = {"milestones": [1, 150, 200], "gamma": 0.2, "weight_decay": 0.0003, "lr": 0.02, "seed": 3, "epochs": 2}
    assert {name: config["settings"][name] for name in expected} == expected
    assert [record["lr"] for record in content("run/result.json")["results"]["epochs"]] == [0.02, 0.004]
    assert content("run/result.json")["model"]["options"] == config["model_options"]
    other = ("--decay-factor-forward", "0.5", "--decay-factor-backward", "0.25")
    run("train", *NORMED, "--norm-mode", "online", *other, "--epochs", "1", "-o", "other", "--recipe", "cifar-resnet")
    config = content("other/config.json")
    assert config["recipe"] == "cifar-resnet"
    assert config["model_options"] == {"norm_mode": "online", "afwd": "0.5", "abkw": "0.25", "ecm": "ls"}


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("mode", [mode if mode in QUICK_MODES else slow(mode) for mode in NORM_MODES])
def test_a_network_with_any_norm_is_trained_measured_decomposed_and_finetuned(mode: str) -> None:
    # A network without any normalisation needs a gentle rate.
    options = ("--norm-mode", mode, "--epochs", "2", "--lr", "0.01", "--final-test", "-o", "run")
    said = run("train", *NORMED[:-1], *options).stderr
    assert "Recipe online-norm (arXiv 1905.05894 and its code)" in said
    assert (f"resnet8 with norm mode {mode}" in said) == (mode != "batch")
    test = content("run/result.json")["results"]["last"]["test"]
    data = ("-j", "0", "--device", "cpu", "-q")
    run("validate", "-w", "run/last.pt", *data, "-o", "v.json")
    assert content("v.json")["results"]["original"]["correct"] == test["correct"]
    run("extract-indices", "-w", "run/last.pt", "-k", "4", *data, "-o", "i.json")
    run("validate", "-w", "run/last.pt", "-i", "i.json", *data, "-o", "d.json")
    run("finetune", "-w", "run/last.pt", "-i", "i.json", "--epochs", "1", *data, "-o", "tuned")
    tuned = content("tuned/result.json")["results"]
    assert tuned["original"]["correct"] == test["correct"]
    assert tuned["before"]["correct"] == content("d.json")["results"]["decomposed"]["correct"]
    run("validate", "-w", "tuned/last.pt", *data, "-o", "t.json")
    assert content("t.json")["results"]["decomposed"]["correct"] == tuned["after"]["correct"]


@pytest.mark.usefixtures("images")
def test_weights_with_a_norm_are_trained_further_with_it(power_cut: PowerCut) -> None:
    run("train", *NORMED, "--norm-mode", "online", "--afwd", "0.9", "--epochs", "2", "-o", "first")
    again = ("train", *NORMED[1:], "-w", "first/last.pt", "--epochs", "3", "--start-epoch", "2", "-o")
    run(*again, "second")
    assert content("second/config.json")["model_options"]["afwd"] == "0.9"
    assert [record["epoch"] for record in content("second/result.json")["results"]["epochs"]] == [3]
    run(*again, "third", "--norm-mode", "online", "--abkw", "0.5")
    options = content("third/config.json")["model_options"]
    assert options == {"norm_mode": "online", "afwd": "0.9", "abkw": "0.5", "ecm": "ls"}
    weights = [torch.load(f"{name}/last.pt", weights_only=True)["state_dict"] for name in ("second", "third")]
    assert not torch.equal(weights[0]["conv1.weight"], weights[1]["conv1.weight"]), "the other decay was used"
    with power_cut("last.pt"):
        run("train", *NORMED, "--norm-mode", "online", "--afwd", "0.9", "--epochs", "2", "-o", "cut")
    same = ("--norm-mode", "online", "--afwd", "0.90")
    refused = run("train", "--resume", "cut", "--norm-mode", "group", code=2)
    assert "was begun otherwise: norm-mode online, now group" in refused.stderr
    refused = run("train", "--resume", "cut", "--afwd", "0.5", code=2)
    assert "was begun otherwise: afwd 0.9, now 0.5" in refused.stderr
    run("train", "--resume", "cut", *same, "-q")
    first, second = (content(f"{name}/result.json")["results"]["epochs"] for name in ("first", "cut"))
    assert [record["train"] for record in first] == [record["train"] for record in second]


@pytest.mark.usefixtures("images")
def test_evaluate_is_what_validate_says_and_trains_nothing() -> None:
    run("train", *NORMED, "--norm-mode", "online", "--epochs", "1", "--final-test", "-o", "run")
    expected = content("run/result.json")["results"]["last"]["test"]["correct"]
    data = ("--dataset", "folder:images", "-j", "0", "--device", "cpu")
    for number, options in enumerate((("-w", "run/last.pt"), ("--resume", "run"), ("--resume", "run/last.pt"))):
        said = run("train", "resnet8", "--evaluate", *options, *data, "--norm-mode", "online", "-o", f"out{number}")
        assert f"{expected} of 15" in said.stderr
        assert content(f"out{number}/evaluation.json")["results"]["original"]["correct"] == expected
        assert names_in(f"out{number}") == ["evaluation.json"]
    assert run("train", "-e", "-w", "run/last.pt", *data, "--json", "-q").stdout.startswith("{")


@pytest.mark.usefixtures("images")
def test_weights_that_do_not_say_their_error_compensation_can_be_told() -> None:
    run("train", *NORMED, "--norm-mode", "online", "--ecm", "ac", "--epochs", "1", "--final-test", "-o", "run")
    expected = content("run/result.json")["results"]["last"]["test"]
    torch.save(torch.load("run/last.pt", weights_only=True)["state_dict"], "foreign.pth")
    data = ("resnet8", "--dataset", "folder:images", "--input-size", "8", "-j", "0", "--device", "cpu", "-q", "-e")
    losses = {}
    for ecm in ("ac", "ls"):
        run("train", *data, "-w", "foreign.pth", "--norm-mode", "online", "--ecm", ecm, "-o", ecm)
        losses[ecm] = content(f"{ecm}/evaluation.json")["results"]["original"]["loss"]
    assert losses["ac"] == pytest.approx(expected["loss"], rel=1e-4)
    assert losses["ls"] != pytest.approx(expected["loss"], rel=1e-2)


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("mode", ["group", "layer", "instance", "none"])
def test_weights_that_do_not_say_their_norm_can_be_told(mode: str) -> None:
    options = ("--norm-mode", mode, "--lr", "0.01")
    run("train", *NORMED, *options, "--epochs", "1", "--final-test", "-o", "run")
    expected = content("run/result.json")["results"]["last"]["test"]["correct"]
    torch.save(torch.load("run/last.pt", weights_only=True)["state_dict"], "foreign.pth")
    data = (
        "resnet8",
        "--dataset",
        "folder:images",
        "--input-size",
        "8",
        "-j",
        "0",
        "--device",
        "cpu",
        "-w",
        "foreign.pth",
    )
    run("train", *data, "-q", "-e", "--norm-mode", mode, "-o", "e")
    assert content("e/evaluation.json")["results"]["original"]["correct"] == expected
    run("train", *data, "-q", "--epochs", "1", *options, "-o", "more")
    assert content("more/config.json")["model_options"]["norm_mode"] == mode
    if mode in ("group", "instance"):
        refused = run("validate", *data, code=2).stderr
        assert "say so: 'decompose train resnet8 --evaluate -w foreign.pth --norm-mode MODE'" in refused


@pytest.mark.usefixtures("images")
def test_going_on_with_online_normalisation_is_by_its_recipe_and_measured_with_caution() -> None:
    run("train", *NORMED, "--norm-mode", "online", "--epochs", "1", "-o", "run")
    said = run("train", *NORMED[1:-1], "-w", "run/last.pt", "--epochs", "1", "-o", "more").stderr
    assert "Recipe online-norm" in said
    assert "The weights may have been trained on the images that are held out now" in said
    assert "--shortcut projection" not in said
    said = run("validate", "-w", "run/last.pt", "-j", "0").stderr
    assert "resnet8 with norm mode online, afwd 0.9990234375, abkw 0.9921875, ecm ls: 64 features" in said


@pytest.mark.usefixtures("images")
def test_the_publications_shortcuts_are_recommended_where_they_matter() -> None:
    options = ("--dataset", "folder:images", "--input-size", "8", "-j", "0", "--device", "cpu", "--iterations", "1")
    advice = "--shortcut projection"
    assert advice in run("train", "resnet8", *options, "--norm-mode", "online", "--schedule", "constant").stderr
    for more in (("--norm-mode", "online", advice.split()[0], "projection"), ("--norm-mode", "group")):
        assert advice not in run("train", "resnet8", *options, *more, "--schedule", "constant").stderr
    assert advice not in run("train", "preresnet8", *options, "--norm-mode", "online", "--schedule", "constant").stderr
