"""Noise on a class's features and on all others, against plain arithmetic on the features."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from scipy import stats
from torch import Tensor

from decompose_cli.decomposition.essential_results import EssentialResults
from decompose_cli.decomposition.essentiality import Noise
from decompose_cli.decomposition.index_set import IndexSet, write_index_set
from decompose_cli.decomposition.ranking import data_for, select
from decompose_cli.engines.essential import EssentialSettings, NamedMethod, essential, parse_method, parse_noise
from decompose_cli.engines.validate import validate
from decompose_cli.errors import InputError
from decompose_cli.features.study import Inputs, Study
from decompose_cli.models.checkpoint import read_checkpoint
from decompose_cli.models.registry import DEFAULT_MODEL
from decompose_cli.storage.result_document import ResultDocument

FEW = {"repeats": 3, "controls": 2}


def shipped_weights() -> dict[str, Tensor]:
    return read_checkpoint(Path(Study(Inputs(), ("test",)).classifier.weights_source)).state_dict


def write_other_weights(name: str = "other.pth", **more: Tensor) -> str:
    """The shipped network with two classes swapped in its head, so that it does otherwise."""
    state = shipped_weights()
    for part in ("linear.weight", "linear.bias"):
        state[part] = state[part][[1, 0, *range(2, 10)]].clone()
    torch.save({**state, **more}, name)
    return name


@pytest.fixture
def few_images(few: str) -> Inputs:
    """The shipped network on two images of each class."""
    return Inputs(model=DEFAULT_MODEL, dataset=few)


def some_indices() -> IndexSet:
    """Not the most frequent features, and of different numbers."""
    return IndexSet(tuple(tuple(range(c, 64, 9))[: 5 + c % 3] for c in range(10)), 64, source="some")


def by_class(noise: str, classes: Sequence[Sequence[int]], order: Tensor | None = None) -> dict[str, dict[str, Any]]:
    """Counts for noise that is not random, or for one permutation, image by image in double precision."""
    study = Study(Inputs(), ("test",))
    features, labels, head = study.bank.features.double(), study.labels, study.head
    weight, bias = head.weight.double(), head.bias.double()
    stand_in = {"zero": torch.zeros(64, dtype=torch.float64), "mean": features.mean(0)}[noise]
    found = {}
    for number in range(10):
        scores, clean, at, elsewhere = [], 0, 0, 0
        for x in features[labels == number]:
            noisy, only = x.clone(), stand_in.clone()
            for j in classes[number]:
                noisy[j], only[j] = stand_in[j], x[j]
            kept = [int((weight @ vector + bias).argmax()) == number for vector in (x, noisy, only)]
            clean, at, elsewhere = clean + kept[0], at + kept[1], elsewhere + kept[2]
            scores.append(int(kept[2]) - int(kept[1]))
        found[str(number)] = {"clean": clean, "at": at, "elsewhere": elsewhere, "scores": scores}
    return found


# ------------------------------------------------------------------------------------------------------------- counts


@pytest.mark.usefixtures("no_forward_pass")
@pytest.mark.parametrize("noise", ["zero", "mean"])
def test_noise_that_is_not_random_against_plain_arithmetic(noise: Any) -> None:
    indices = some_indices()
    results = essential(Inputs(), EssentialSettings(indices=indices, noise=noise, repeats=7, controls=0)).results
    assert results.repeats == 1
    expected = by_class(noise, indices.classes)
    assert list(results.by_class("ours")) == [str(c) for c in range(10)]
    for number, one in results.by_class("ours").items():
        counted = expected[number]
        assert (one.images, one.clean) == (len(counted["scores"]), counted["clean"])
        assert (one.noise_at_inf, one.noise_at_noninf) == (counted["at"], counted["elsewhere"])
        assert (one.noise_at_inf_se, one.noise_at_noninf_se) == (0, 0)
        assert one.noise_at_inf_ci95 == (counted["at"], counted["at"])
        check_interval(one, counted["scores"])
    total = results.summary["ours"]
    assert total.images == 360
    assert total.noise_at_inf == sum(one["at"] for one in expected.values())
    assert total.noise_at_noninf == sum(one["elsewhere"] for one in expected.values())
    check_interval(total, [score for one in expected.values() for score in one["scores"]])
    assert 0 < total.noise_at_inf < 360
    assert total.noise_at_inf != total.noise_at_noninf


def check_interval(found: Any, scores: list[int]) -> None:
    mean = sum(scores) / len(scores)
    assert found.essentiality == pytest.approx(100 * mean, abs=1e-9)
    error = math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1) / len(scores))
    half = float(stats.t.ppf(0.975, len(scores) - 1)) * error
    low, high = max(-100, 100 * (mean - half)), min(100, 100 * (mean + half))  # a difference of shares
    assert found.essentiality_ci95 == pytest.approx((low, high), abs=1e-6)


@pytest.mark.usefixtures("no_forward_pass")
@pytest.mark.parametrize("noise", ["gaussian", "matched", "permute"])
def test_random_noise_against_draws_of_our_own(noise: Any) -> None:
    indices = some_indices()
    results = essential(Inputs(), EssentialSettings(indices=indices, noise=noise, repeats=30, controls=0)).results
    study = Study(Inputs(), ("test",))
    features, labels, head = study.bank.features.double(), study.labels, study.head
    weight, bias = head.weight.double(), head.bias.double()
    generator = torch.Generator().manual_seed(99)
    for number, row in enumerate(indices.classes):
        own = features[labels == number]
        mask = torch.zeros(64, dtype=torch.bool)
        mask[list(row)] = True
        counts = []
        for _ in range(60):
            z = torch.randn(own.shape, generator=generator, dtype=torch.float64)
            if noise == "matched":
                z = z * features.std(0, correction=0) + features.mean(0)
            if noise == "permute":
                z = own[torch.randperm(len(own), generator=generator)]
            vectors = (torch.where(mask, z, own), torch.where(mask, own, z))
            counts.append([int(((v @ weight.T + bias).argmax(1) == number).sum()) for v in vectors])
        found = results.by_class("ours")[str(number)]
        table = torch.tensor(counts, dtype=torch.float64)
        for value, error, mean, spread in (
            (found.noise_at_inf, found.noise_at_inf_se, table[:, 0].mean(), table[:, 0].std()),
            (found.noise_at_noninf, found.noise_at_noninf_se, table[:, 1].mean(), table[:, 1].std()),
        ):
            assert error is not None
            tolerance = 4.5 * math.sqrt(max(float(spread), 0.5) ** 2 / 60 + max(error, 0.1) ** 2)
            assert value == pytest.approx(float(mean), abs=tolerance)


@pytest.mark.usefixtures("no_forward_pass")
def test_standard_error_and_interval_of_the_counts_belong_together() -> None:
    results = essential(Inputs(), EssentialSettings(repeats=5, controls=0)).results
    factor = float(stats.t.ppf(0.975, 4))
    for one in [*results.by_class("ours").values(), results.summary["ours"]]:
        for mean, error, interval in (
            (one.noise_at_inf, one.noise_at_inf_se, one.noise_at_inf_ci95),
            (one.noise_at_noninf, one.noise_at_noninf_se, one.noise_at_noninf_ci95),
        ):
            assert error is not None
            assert interval == pytest.approx((mean - factor * error, mean + factor * error))
        assert one.essentiality == pytest.approx(100 * (one.noise_at_noninf - one.noise_at_inf) / one.images)
    assert any(one.noise_at_inf_se for one in results.by_class("ours").values())


@pytest.mark.usefixtures("no_forward_pass")
def test_without_noise_the_classes_do_as_validate_says() -> None:
    results = essential(Inputs(), EssentialSettings(**FEW)).results
    original = validate(Inputs()).results.original
    assert original is not None
    found = results.by_class("ours").values()
    assert [(one.clean, one.images) for one in found] == [(row.correct, row.total) for row in original.per_class]
    assert results.summary["ours"].clean == original.correct


@pytest.mark.usefixtures("no_forward_pass")
def test_the_summary_is_all_classes_together() -> None:
    results = essential(Inputs(), EssentialSettings(**FEW)).results
    parts, total = list(results.by_class("ours").values()), results.summary["ours"]
    for name in ("images", "clean", "noise_at_inf", "noise_at_noninf"):
        assert getattr(total, name) == pytest.approx(sum(getattr(part, name) for part in parts))
    weighted = sum(part.control_mean * part.images for part in parts if part.control_mean is not None) / total.images
    assert total.control_mean == pytest.approx(weighted)


@pytest.mark.usefixtures("no_forward_pass")
def test_one_draw_has_no_error() -> None:
    one = essential(Inputs(), EssentialSettings(repeats=1, controls=0)).results.summary["ours"]
    assert (one.noise_at_inf_se, one.noise_at_inf_ci95) == (None, None)
    assert (one.noise_at_noninf_se, one.noise_at_noninf_ci95) == (None, None)
    assert one.essentiality_ci95 is not None


# ----------------------------------------------------------------------------------------------------------- controls


@pytest.mark.usefixtures("no_forward_pass")
def test_p_counts_random_sets_that_do_as_well() -> None:
    results = essential(Inputs(), EssentialSettings(repeats=2, controls=9)).results
    for one in [*results.by_class("ours").values(), results.summary["ours"]]:
        assert one.p is not None
        assert one.p * 10 == pytest.approx(round(one.p * 10))
        assert 0.1 <= one.p <= 1
    assert results.summary["ours"].p == pytest.approx(0.1), "random sets matter less than the most frequent features"
    assert results.controls == 9


@pytest.mark.usefixtures("no_forward_pass")
def test_a_set_of_all_features_is_as_good_as_every_random_set() -> None:
    everything = IndexSet((tuple(range(64)),) * 10, 64)
    for one in (
        essential(Inputs(), EssentialSettings(indices=everything, repeats=2, controls=5))
        .results.by_class("ours")
        .values()
    ):
        assert one.p == 1
        assert one.control_mean == pytest.approx(one.essentiality)
        assert one.noise_at_noninf == one.clean


@pytest.mark.usefixtures("no_forward_pass")
def test_without_controls_there_is_no_p() -> None:
    one = essential(Inputs(), EssentialSettings(repeats=2, controls=0)).results.summary["ours"]
    assert (one.control_mean, one.p) == (None, None)


@pytest.mark.usefixtures("no_forward_pass")
def test_controls_do_not_change_the_counts() -> None:
    without, with_some = (
        essential(Inputs(), EssentialSettings(repeats=3, controls=number)).results for number in (0, 4)
    )
    for number, one in without.by_class("ours").items():
        other = with_some.by_class("ours")[number]
        assert (one.noise_at_inf, one.noise_at_noninf) == (other.noise_at_inf, other.noise_at_noninf)


# ------------------------------------------------------------------------------------------------------ which features


@pytest.mark.usefixtures("no_forward_pass")
@pytest.mark.parametrize(("k", "size"), [(None, 5), (9, 9)])
def test_without_indices_the_most_frequent_features_are_used(k: int | None, size: int) -> None:
    found = essential(Inputs(), EssentialSettings(k=k, **FEW)).results
    expected = select(data_for(Study(Inputs(), ("train",)), ["frequency"]), "frequency", size)
    given = essential(Inputs(), EssentialSettings(indices=expected, **FEW)).results
    assert found.by_class("ours") == given.by_class("ours")
    assert found.summary["ours"].features_per_class == (size, size)


@pytest.mark.usefixtures("no_forward_pass")
def test_an_index_file_is_the_same_as_its_set() -> None:
    write_index_set(Path("i.json"), some_indices())
    from_file = essential(Inputs(), EssentialSettings(indices=Path("i.json"), **FEW)).results
    assert from_file.by_class("ours") == essential(
        Inputs(), EssentialSettings(indices=some_indices(), **FEW)
    ).results.by_class("ours")
    summary = from_file.summary["ours"]
    assert summary.indices == "i.json"
    assert summary.features_per_class == (5, 7)
    assert from_file.by_class("ours") != essential(Inputs(), EssentialSettings(**FEW)).results.by_class("ours")


@pytest.mark.parametrize("order", ["highest", "lowest"])
def test_gates_are_looked_at_in_their_own_network_with_as_many_features(order: Any, few_images: Inputs) -> None:
    gates = torch.rand(10, 64, generator=torch.Generator().manual_seed(1))
    other = write_other_weights("gates.pth", csg=gates)
    results = essential(few_images, EssentialSettings(indices=some_indices(), csg=other, order=order, **FEW)).results
    assert list(results.summary) == ["ours", "csg"]
    assert results.summary["csg"].features_per_class == (7, 7)
    assert results.summary["csg"].weights.source == other
    assert results.summary["ours"].weights.source != other
    ranks = gates.argsort(1, descending=order == "highest")[:, :7].tolist()
    alone = essential(
        dataclasses.replace(few_images, weights=other),
        EssentialSettings(indices=IndexSet(tuple(map(tuple, ranks)), 64), **FEW),
    ).results
    assert results.by_class("csg") == alone.by_class("ours")
    # Classes 0 and 1 are swapped in the other network.
    assert results.by_class("csg")["0"].clean == 0
    assert results.by_class("ours")["0"].clean == 2


@pytest.mark.parametrize(
    ("classes", "k", "sizes", "warned"),
    [
        (some_indices().classes, 3, ((5, 7), (3, 3)), True),
        (tuple(tuple(range(c, c + 5)) for c in range(10)), 7, ((5, 5), (7, 7)), True),
        (tuple(tuple(range(c, c + 5)) for c in range(10)), None, ((5, 5), (5, 5)), False),
    ],
)
def test_a_given_k_goes_for_gates_too_and_sets_of_other_sizes_are_compared_with_a_warning(
    classes: Any, k: int | None, sizes: Any, warned: bool, few_images: Inputs, caplog: pytest.LogCaptureFixture
) -> None:
    other = write_other_weights("gates.pth", csg=torch.rand(10, 64))
    settings = EssentialSettings(indices=IndexSet(classes, 64), csg=other, k=k, **FEW)
    with caplog.at_level(logging.WARNING, "decompose_cli"):
        summary = essential(few_images, settings).results.summary
    assert (summary["ours"].features_per_class, summary["csg"].features_per_class) == sizes
    warnings = [message for message in caplog.messages if "different numbers of features per class" in message]
    assert len(warnings) == warned


def test_further_networks_stand_beside_ours_as_they_would_alone(few_images: Inputs) -> None:
    other = write_other_weights()
    write_index_set(Path("i.json"), some_indices())
    methods = [NamedMethod("with", other, Path("i.json")), NamedMethod("without", other, None)]
    document = essential(few_images, EssentialSettings(method=methods, k=4, **FEW))
    results = document.results
    assert list(results.summary) == ["ours", "with", "without"]
    inputs = dataclasses.replace(few_images, weights=other)
    alone = essential(inputs, EssentialSettings(indices=Path("i.json"), **FEW)).results
    assert results.by_class("with") == alone.by_class("ours")
    assert results.summary["with"] == alone.summary["ours"]
    assert results.by_class("without") == essential(inputs, EssentialSettings(k=4, **FEW)).results.by_class("ours")
    assert document.arguments["method"] == [f"with={other},i.json", f"without={other}"]


# --------------------------------------------------------------------------------------------------------- once, again


def test_first_a_miss_then_a_hit_with_the_same_results(
    few_images: Inputs, forbid_forward_passes: Callable[[], None]
) -> None:
    first = essential(few_images, EssentialSettings(**FEW))
    forbid_forward_passes()
    second = essential(few_images, EssentialSettings(**FEW))
    assert first.cache is not None
    assert second.cache is not None
    assert (first.cache.features, second.cache.features) == ("miss", "hit")
    assert first.results == second.results
    essential(few_images, EssentialSettings(k=11, noise="permute", **FEW))
    with pytest.raises(AssertionError, match="a forward pass was made"):
        essential(dataclasses.replace(few_images, use_cache=False), EssentialSettings(**FEW))


@pytest.mark.usefixtures("no_forward_pass")
def test_the_seed_decides() -> None:
    first, again, other = (essential(Inputs(seed=seed), EssentialSettings(**FEW)).results for seed in (1, 1, 2))
    assert first == again
    assert first.by_class("ours") != other.by_class("ours")


def test_networks_with_the_same_weights_and_features_meet_the_same_noise(few_images: Inputs) -> None:
    torch.save(shipped_weights(), "same.pth")
    write_index_set(Path("i.json"), some_indices())
    results = essential(
        few_images,
        EssentialSettings(indices=Path("i.json"), method=[NamedMethod("same", "same.pth", Path("i.json"))], **FEW),
    )
    assert results.results.by_class("ours") == results.results.by_class("same")


# ----------------------------------------------------------------------------------------------------------- document


@pytest.mark.usefixtures("warm")
def test_the_document_has_the_published_shape_and_survives_json() -> None:
    other = write_other_weights("gates.pth", csg=torch.rand(10, 64))
    document = essential(Inputs(), EssentialSettings(csg=other, **FEW))
    content = json.loads(document.to_json())
    assert ResultDocument[EssentialResults].model_validate(content) == document
    assert content["command"] == "essential"
    assert (content["dataset"]["name"], content["dataset"]["split"]) == ("digits", "test")
    results = content["results"]
    assert set(results) == {"repeats", "noise", "controls", "summary", "ours", "csg"}
    assert (results["repeats"], results["noise"], results["controls"]) == (3, "gaussian", 2)
    fields = {"images", "noise_at_inf", "noise_at_inf_se", "noise_at_noninf", "noise_at_noninf_se"}
    for name in ("ours", "csg"):
        assert list(results[name]) == [str(c) for c in range(10)]
        assert all(fields <= set(one) for one in results[name].values())
        assert fields <= set(results["summary"][name])


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=w.pth", NamedMethod("a", "w.pth", None)),
        (" a = w.pth , i.json", NamedMethod("a", "w.pth", Path("i.json"))),
        ("a=default", NamedMethod("a", "default", None)),
        ("a=w.pth,i.txt", NamedMethod("a", "w.pth", Path("i.txt"))),
        ("a=i.json", NamedMethod("a", "i.json", None)),
        ("a=x,y.pth,i.json", NamedMethod("a", "x,y.pth", Path("i.json"))),
        ("a=w=1.pth,i.json", NamedMethod("a", "w=1.pth", Path("i.json"))),
    ],
)
def test_methods_are_read(text: str, expected: NamedMethod) -> None:
    assert parse_method(text) == expected


def test_a_comma_in_the_name_of_a_file_that_exists_is_no_separator() -> None:
    assert parse_method("a=x,y.pth") == NamedMethod("a", "x", Path("y.pth"))
    Path("x,y.pth").touch()
    assert parse_method("a=x,y.pth") == NamedMethod("a", "x,y.pth", None)
    assert parse_method("a=x,y.pth,i.json") == NamedMethod("a", "x,y.pth", Path("i.json"))


@pytest.mark.parametrize("text", ["", "w.pth", "=w.pth", "a=", "a= ", "a=,i.json", "a=w.pth,", "a=w.pth, "])
def test_methods_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="NAME=WEIGHTS"):
        parse_method(text)


def test_noises_are_known_by_name() -> None:
    assert parse_noise("matched") == "matched"
    with pytest.raises(InputError, match="'loud' is unknown; choose gaussian, matched, zero, mean, permute"):
        parse_noise("loud")


@pytest.mark.usefixtures("no_forward_pass")
@pytest.mark.parametrize("name", ["repeats", "noise", "controls", "summary"])
def test_names_that_the_result_uses_otherwise_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=name):
        essential(Inputs(), EssentialSettings(method=[NamedMethod(name, "default", None)]))


@pytest.mark.usefixtures("no_forward_pass")
def test_names_that_stand_twice_are_refused() -> None:
    with pytest.raises(InputError, match="Two methods are named 'a'"):
        essential(Inputs(), EssentialSettings(method=[NamedMethod("a", "default", None)] * 2))
    with pytest.raises(InputError, match=r"^method cannot be named 'ours', which is the network of MODEL and weights"):
        essential(Inputs(), EssentialSettings(method=[NamedMethod("ours", "default", None)]))
    with pytest.raises(InputError, match=r"^method cannot be named 'csg', which is the network of csg"):
        essential(Inputs(), EssentialSettings(csg="gates.pth", method=[NamedMethod("csg", "default", None)]))
    with pytest.raises(InputError, match=r"^method cannot be named 'csg', which is the network of csg"):
        essential(Inputs(), EssentialSettings(method=[NamedMethod("csg", "default", None)]))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"repeats": 0}, "^repeats 0 is not at least 1"),
        ({"controls": -1}, "^controls -1 is negative"),
        ({"k": 65}, "^k 65 is more than the 64 features"),
        ({"indices": IndexSet(((1,),) * 9)}, "9 classes, but the network has 10"),
        ({"indices": IndexSet(((1,),) * 10, 32)}, "32 features, but the network has 64"),
        ({"indices": IndexSet(((64,),) * 10)}, "the index 64"),
        ({"csg": "none.pth"}, r"none\.pth"),
        ({"method": [NamedMethod("a", "none.pth", None)]}, r"none\.pth"),
        ({"method": [NamedMethod("a", "default", Path("none.json"))]}, r"none\.json"),
    ],
)
def test_what_cannot_work_is_refused_before_any_image_is_looked_at(
    options: dict[str, Any], sentence: str, forbid_forward_passes: Callable[[], None]
) -> None:
    forbid_forward_passes()
    with pytest.raises(InputError, match=sentence):
        essential(Inputs(), EssentialSettings(**options))


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((10, 32), r"gates\.pth have the shape \(10, 32\), but the network has 10 classes and 64 features"),
        ((9, 64), r"gates\.pth have the shape \(9, 64\), but the network has 10 classes and 64 features"),
        (None, r"gates\.pth holds no class-specific gates.*'csg'"),
    ],
)
def test_gates_that_do_not_fit_are_refused(shape: tuple[int, int] | None, sentence: str) -> None:
    more = {} if shape is None else {"csg": torch.rand(shape)}
    with pytest.raises(InputError, match=sentence):
        essential(Inputs(), EssentialSettings(csg=write_other_weights("gates.pth", **more), **FEW))


# ------------------------------------------------------------------------------------------------------ few images

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.stem(x).relu().mean((2, 3)))
"""


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A small network of the user's in the current directory."""
    Path("essential_net.py").write_text(NET, encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield "essential_net:Net"
    sys.modules.pop("essential_net", None)


def test_one_image_per_class_has_no_interval_over_images(
    net: str, tmp_path: Path, make_images: Callable[..., Path]
) -> None:
    root = make_images(tmp_path / "images", ["a", "b", "c"], n=1, side=12)
    inputs = Inputs(model=net, dataset=f"folder:{root}", workers=0)
    for noise in get_args(Noise):
        results = essential(inputs, EssentialSettings(k=2, noise=noise, **FEW)).results
        for one in results.by_class("ours").values():
            assert one.images == 1
            assert one.essentiality_ci95 is None
            if noise == "permute":
                assert (one.noise_at_inf, one.noise_at_noninf) == (one.clean, one.clean)
        assert results.summary["ours"].images == 3
        assert results.summary["ours"].essentiality_ci95 is not None


def test_classes_without_images_are_left_out_with_a_warning(
    net: str, tmp_path: Path, make_images: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = make_images(tmp_path / "images", ["a", "b", "c"], n=2, side=12)
    shutil.rmtree(root / "test" / "b")
    inputs = Inputs(model=net, dataset=f"folder:{root}", workers=0)
    with caplog.at_level(logging.WARNING, "decompose_cli"):
        results = essential(inputs, EssentialSettings(indices=IndexSet(((0,), (1,), (2,)), 8), **FEW)).results
    assert list(results.by_class("ours")) == ["0", "2"]
    assert results.summary["ours"].images == 4
    (warning,) = [message for message in caplog.messages if "left out" in message]
    assert "no images of 1 of the 3 classes (b)" in warning


def test_batch_size_changes_nothing(few_images: Inputs) -> None:
    few, many = (
        essential(
            dataclasses.replace(few_images, split="test", use_cache=False, batch_size=size),
            EssentialSettings(indices=some_indices(), **FEW),
        ).results
        for size in (7, 400)
    )
    for number, one in few.by_class("ours").items():
        other = many.by_class("ours")[number]
        # The network itself rounds otherwise with other batches; an image on the border may change sides.
        assert one.noise_at_inf == pytest.approx(other.noise_at_inf, abs=0.4)
        assert one.noise_at_noninf == pytest.approx(other.noise_at_noninf, abs=0.4)
