"""Normalisations as plain data."""

from __future__ import annotations

import pytest

from decompose_cli.errors import InputError
from decompose_cli.messages import LoggingReporter, use_reporter
from decompose_cli.norms.modes import NORM_MODES, NORM_OPTIONS, Norm, NormMode, read_decay, shown_norm

ONLINE = {"norm_mode": "online", "afwd": "0.9990234375", "abkw": "0.9921875", "ecm": "ls"}


@pytest.mark.parametrize(
    ("options", "norm"),
    [
        ({}, Norm()),
        ({"norm_mode": "batch"}, Norm("batch")),
        ({"norm_mode": "none"}, Norm("none")),
        ({"norm_mode": "group"}, Norm("group", num_groups=8)),
        ({"norm_mode": "group", "gn_num_groups": "32"}, Norm("group", num_groups=32)),
        ({"norm_mode": "online"}, Norm("online", alpha_fwd=0.999, alpha_bkw=0.99, ecm="ac")),
        (ONLINE, Norm("online", alpha_fwd=1023 / 1024, alpha_bkw=127 / 128, ecm="ls")),
    ],
)
def test_options_are_read(options: dict[str, str], norm: Norm) -> None:
    assert Norm.parse(options) == norm


@pytest.mark.parametrize("mode", NORM_MODES)
def test_what_is_said_of_a_norm_is_what_was_read(mode: NormMode) -> None:
    norm = Norm(mode, num_groups=4, alpha_fwd=0.1 + 0.2, alpha_bkw=1 / 3, ecm="none")
    said = norm.options()
    assert set(said) <= set(NORM_OPTIONS)
    again = Norm.parse(said)
    assert again.mode == mode
    assert again.options() == said
    if mode == "online":
        assert (again.alpha_fwd, again.alpha_bkw, again.ecm) == (0.1 + 0.2, 1 / 3, "none")


def test_batch_norm_needs_no_words() -> None:
    assert Norm().options() == {}
    assert Norm("layer").options() == {"norm_mode": "layer"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"norm_mode": "spectral"}, "norm_mode 'spectral' is unknown; choose batch, group, layer,"),
        ({"norm_mode": "online", "ecm": "both"}, "ecm 'both' is unknown; choose ac, ls, none."),
        ({"norm_mode": "online", "afwd": "1.0"}, "afwd 1 is not between 0 and 1."),
        ({"norm_mode": "online", "abkw": "0.0"}, "abkw 0 is not between 0 and 1."),
        ({"norm_mode": "online", "abkw": "nan"}, "abkw nan is not between 0 and 1."),
        ({"norm_mode": "online", "afwd": "most"}, "afwd 'most' is not a number."),
        ({"norm_mode": "group", "gn_num_groups": "2.5"}, "gn_num_groups '2.5' is not a number."),
        ({"norm_mode": "group", "gn_num_groups": "0"}, "gn_num_groups 0 is not at least 1."),
    ],
)  # fmt: skip
def test_bad_options_are_a_sentence(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        Norm.parse(options)
    assert refusal.value.message.startswith(sentence)
    assert refusal.value.message.endswith(".")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ecm": "ls"}, "ecm has no effect with batch norm; it is of norm_mode online."),
        ({"norm_mode": "none", "afwd": "0.9"}, "afwd has no effect with no normalisation; it is of norm_mode online."),
        ({"norm_mode": "group", "abkw": "0.9"}, "abkw has no effect with group norm; it is of norm_mode online."),
        ({"norm_mode": "online", "gn_num_groups": "4"},
         "gn_num_groups has no effect with online norm; it is of norm_mode group."),
    ],
)  # fmt: skip
def test_what_belongs_to_another_mode_is_warned_of(
    options: dict[str, str], sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    with use_reporter(LoggingReporter()):
        assert Norm.parse(options) == Norm.parse({name: mode for name, mode in options.items() if name == "norm_mode"})
    assert caplog.messages == [sentence]


@pytest.mark.parametrize(
    ("text", "number"), [("0.999", "0.999"), ("1023/1024", "0.9990234375"), ("15/16", "0.9375"), (".5", "0.5")]
)
def test_a_decay_may_be_a_fraction(text: str, number: str) -> None:
    assert read_decay(text, "afwd") == number


@pytest.mark.parametrize("text", ["", "most", "1/0", "1/2/3", "1 2", "1,5"])
def test_a_decay_that_is_no_number(text: str) -> None:
    with pytest.raises(InputError, match=r"is not a number such as 0\.999 or 1023"):
        read_decay(text, "afwd")


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("bn1.norm.m", "bn1.norm.var", "bn1.weight"), {"norm_mode": "online", "ecm": "ls"}),
        (("module.layer1.0.bn1.norm.m",), {"norm_mode": "online", "ecm": "ls"}),
        (("bn1.running_mean", "bn1.weight"), {}),
        (("norm.weight", "layer.norm.mean"), {}),
        ((), {}),
    ],
)
def test_online_norm_is_seen_in_names(names: tuple[str, ...], shown: dict[str, str]) -> None:
    assert shown_norm(names) == shown
