"""``atlas``: figures beside what heads without a feature, features and pixels give by themselves."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.command_line import REFUSED, content, refused, run
from helpers.sparse_heads import EMPTY, write_sparse
from PIL import Image

from decompose_cli.decomposition.atlas_results import AtlasFeature
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.left_out import leave_out_each
from decompose_cli.engines.atlas import MOST_FEATURES, AtlasSettings, atlas
from decompose_cli.engines.filters import FiltersSettings, filters
from decompose_cli.engines.validate import validate
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import Study
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.maps import firing_square
from decompose_cli.reporting.atlas_sheet import TILE, AtlasSheet, atlas_strips
from decompose_cli.statistics import paired_difference_interval

DIGITS = Inputs()
ROWS = tuple((c, (c + 1) % 10, 40 + c) for c in range(10))
INDICES = IndexSet(ROWS, 64, source="by hand")


def logits_of(study: Study, rows: tuple[tuple[int, ...], ...]) -> torch.Tensor:
    """Float64 logits of the head that keeps these features, class by class."""
    x, head = study.bank.features.double(), study.head
    columns = [
        x[:, list(row)] @ head.weight[c, list(row)].double() + head.bias[c].double() for c, row in enumerate(rows)
    ]
    return torch.stack(columns, 1)


@pytest.fixture(scope="module")
def found(warm_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[AtlasFeature]:
    """The atlas of :data:`INDICES`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DECOMPOSE_CACHE", str(warm_cache))
        return atlas(DIGITS, AtlasSettings(INDICES)).results.features


@pytest.mark.usefixtures("warm")
def test_what_is_lost_is_what_a_head_without_the_feature_gets_wrong(found: list[AtlasFeature]) -> None:
    study = Study(DIGITS, ("test",))
    labels = study.labels
    right = logits_of(study, ROWS).argmax(1) == labels
    assert {one.feature for one in found} == {feature for row in ROWS for feature in row}
    for one in found:
        rows = tuple(tuple(feature for feature in row if feature != one.feature) for row in ROWS)
        after = logits_of(study, rows).argmax(1) == labels
        assert one.lost.correct == int(after.sum())
        assert one.lost.points == pytest.approx(100 * int(after.sum() - right.sum()) / len(labels))
        only_with, only_without = int((right & ~after).sum()), int((after & ~right).sum())
        assert (one.lost.only_with_correct, one.lost.only_without_correct) == (only_with, only_without)
        both = int((right & after).sum())
        interval = paired_difference_interval(
            both, only_with, only_without, len(labels) - both - only_with - only_without
        )
        assert one.lost.ci95 == pytest.approx([100 * limit for limit in interval])
        changed = {
            c: (before, now)
            for c in range(10)
            if (before := int(right[labels == c].sum())) != (now := int(after[labels == c].sum()))
        }
        assert {loss.number: (loss.before, loss.after) for loss in one.lost.classes} == changed
        worst = one.lost.worst_class
        falls = {c: now - before for c, (before, now) in changed.items() if now < before}
        assert (worst is None) == (not falls)
        assert worst is None or worst.number in falls
    assert [one.lost.correct for one in found] == sorted(one.lost.correct for one in found)
    assert len({one.lost.correct for one in found}) > 5, "the case can tell features apart"


@pytest.mark.usefixtures("warm")
def test_classes_images_and_selectivity_are_those_of_the_features(found: list[AtlasFeature]) -> None:
    study = Study(DIGITS, ("test",))
    features, labels, weight = study.bank.features.double(), study.labels, study.head.weight
    means = torch.stack([features[labels == c].mean(0) for c in range(10)])
    for one in found:
        users = [c for c, row in enumerate(ROWS) if one.feature in row]
        assert sorted(use.class_number for use in one.used_by) == users
        gains = [use.contribution for use in one.used_by]
        assert gains == sorted(gains, reverse=True)  # type: ignore[type-var]
        for use in one.used_by:
            c = use.class_number
            assert use.weight == pytest.approx(float(weight[c, one.feature]))
            by_feature = {feature: float(weight[c, feature] * means[c, feature]) for feature in ROWS[c]}
            assert use.contribution == pytest.approx(by_feature[one.feature])
            assert use.rank == 1 + sum(gain > by_feature[one.feature] for gain in by_feature.values())
        values = features[:, one.feature]
        assert [image.value for image in one.images] == pytest.approx(values.topk(9).values.tolist())
        assert [image.label for image in one.images] == labels[[image.image for image in one.images]].tolist()
        assert one.of_users == sum(image.label in users for image in one.images)
        first, *others = means[:, one.feature].sort(descending=True).values.tolist()
        rest = sum(others) / len(others)
        assert one.selectivity == pytest.approx((first - rest) / (first + rest + 1e-7))


@pytest.mark.usefixtures("warm")
def test_ranks_are_those_of_filters_and_the_head_that_of_validate(found: list[AtlasFeature]) -> None:
    looked = filters(DIGITS, FiltersSettings("7", INDICES)).results.filters
    own = {use.rank: one.feature for one in found for use in one.used_by if use.class_number == 7}
    assert own == {info.rank: info.feature for info in looked}
    results = atlas(DIGITS, AtlasSettings(INDICES, classes=["7", "7"], images=2)).results
    assert {one.feature for one in results.features} == {7, 8, 47}
    assert results.classes == ["7"]
    everywhere = {one.feature: one.lost for one in found}
    assert all(one.lost == everywhere[one.feature] for one in results.features), "left out of all, not of the class"
    measured = validate(DIGITS, INDICES).results
    assert measured.decomposed is not None
    assert (results.head.correct, results.total) == (measured.decomposed.correct, measured.total)


def test_many_classes_agree_with_heads_that_lack_the_feature() -> None:
    """All classes use feature 0, a third each of the next three; in some images all values are 0, or one is large."""
    generator = torch.Generator().manual_seed(0)
    rows = [(0, 1 + c % 3, 4 + c % 7, 11 + c) for c in range(30)]
    head = DecomposedLinear(rows, 41)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
        head.weight[:, 1].abs_()
        head.weight[0, 0] = 5
    weights = head.weight.detach().tolist()
    features = torch.rand(60, 41, generator=generator)
    features[::7] = 0  # where all logits are the bias, which is 0
    features[1::3, 1:4] = 0
    features[1::3, 1] = 9
    features[::5, 0] = 9
    labels = torch.randint(30, (60,), generator=generator)
    users = {j: {c: weights[c][row.index(j)] for c, row in enumerate(rows) if j in row} for j in range(41)}
    without = leave_out_each(head, features, labels, users)
    seen = set()
    for j in range(41):
        logits = torch.zeros(60, 30, dtype=torch.float64)
        for c, row in enumerate(rows):
            for feature in row:
                weight = users[feature][c]
                logits[:, c] += (feature != j) * weight * features[:, feature].double()
        assert torch.equal(without.feature(j).predictions.long(), logits.argmax(1)), j
        seen.add(int((without.feature(j).predictions != without.whole.predictions).sum()))
    assert len(seen) > 3, "the case can tell features apart"


@pytest.mark.slow
def test_three_hundred_features_of_a_thousand_classes_take_seconds() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [tuple(torch.randperm(300, generator=generator)[:20].tolist()) for _ in range(1000)]
    head = DecomposedLinear(rows, 512)
    features = torch.rand(10_000, 512, generator=generator)
    users = {j: {c: 1.0 for c, row in enumerate(rows) if j in row} for j in range(300)}
    start = time.process_time()
    leave_out_each(head, features, torch.zeros(10_000, dtype=torch.int64), users)
    assert time.process_time() - start < 60


def test_crops_are_where_the_feature_fires() -> None:
    values = torch.zeros(8, 8)
    values[6, 1] = 1
    assert firing_square(values, 32, 32) == (0, 20, 12)
    values[6, 6] = 0.9  # far to the right of it
    left, top, side = firing_square(values, 32, 32) or (0, 0, 0)
    assert side >= 4 * 5
    assert left <= 5
    assert left + side >= 26
    assert top + side <= 32
    assert firing_square(torch.zeros(8, 8), 32, 32) is None
    assert firing_square(torch.full((8, 8), -1.0), 32, 32) is None
    assert firing_square(torch.ones(4, 4), 20, 40) is not None


def test_crops_are_squares_inside_the_image_with_the_maximum() -> None:
    generator = torch.Generator().manual_seed(0)
    for height, width in ((32, 32), (20, 50), (61, 23)):
        for _ in range(20):
            values = torch.rand(5, 7, generator=generator) ** 4
            left, top, side = firing_square(values, height, width) or (-1, -1, -1)
            scaled = F.interpolate(values[None, None], size=(height, width), mode="bilinear")[0, 0]
            row, column = divmod(int(scaled.argmax()), width)
            assert 3 / 8 * min(height, width) <= side <= min(height, width)
            assert 0 <= left <= column < left + side <= width
            assert 0 <= top <= row < top + side <= height


def test_a_sheet_is_cut_into_what_was_put_in(tmp_path: Path) -> None:
    sheet = AtlasSheet([3, 17], 2)
    red, blue = (torch.zeros(3, 16, 16, dtype=torch.uint8) for _ in range(2))
    red[0], blue[2] = 255, 255
    blue[1, :4, :4] = 255
    sheet.put(0, 1, red, None)
    sheet.put(1, 0, blue, (0, 0, 4))
    path = tmp_path / "sheet.png"
    path.write_bytes(sheet.png())
    with Image.open(path) as opened:
        strips = atlas_strips(opened, [2, 1])
        assert atlas_strips(opened, [1, 1]) == []
    assert [strip.size for strip in strips] == [(2 * TILE, TILE), (TILE, TILE)]
    assert strips[0].getpixel((TILE // 2, 5)) == (255, 255, 255)
    assert strips[0].getpixel((TILE + 5, 5)) == (255, 0, 0)
    assert set(strips[1].get_flattened_data()) == {(0, 255, 255)}


@pytest.mark.usefixtures("warm")
def test_the_picture_has_the_parts_of_the_images() -> None:
    document = atlas(DIGITS, AtlasSettings(INDICES, classes=["7"], images=3), folder=Path("out"))
    assert document.files == ["atlas.png"]
    features = document.results.features
    with Image.open("out/atlas.png") as sheet:
        strips = atlas_strips(sheet, [len(one.images) for one in features])
    assert len(strips) == 3
    study = Study(DIGITS, ("test",))
    for strip, one in zip(strips, features, strict=True):
        for number, image in enumerate(one.images):
            tile = np.asarray(strip.crop((TILE * number, 0, TILE * (number + 1), TILE)), dtype=float)
            whole = study.dataset.image(image.image).convert("RGB").resize((TILE, TILE))
            assert tile.max() <= 255
            assert tile.std() > 20
            if np.abs(tile - np.asarray(whole, dtype=float)).mean() > 10:
                break
        else:
            raise AssertionError("no image was cropped")


def test_networks_without_maps_show_whole_images(few: str) -> None:
    from decompose_cli.models.registry import get_entry

    torch.manual_seed(0)
    torch.save(get_entry("custom_resnet").make(10, (32, 32)).state_dict(), "net.pt")
    inputs = Inputs(model="custom_resnet", weights="net.pt", dataset=few, workers=0)
    results = atlas(inputs, AtlasSettings(k=1, images=1, classes=["0"]), folder=Path()).results
    with Image.open("atlas.png") as sheet:
        (strip,) = atlas_strips(sheet, [1])
    image = Study(inputs, ("test",)).split.image(results.features[0].images[0].image).convert("RGB")
    whole = image.resize((TILE, TILE), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(strip), np.asarray(whole))


def test_a_sparse_head_has_features_and_weights_of_its_own(few: str) -> None:
    path = write_sparse(Path("sparse.safetensors"))
    inputs = Inputs(weights=str(path), dataset=few, workers=0)
    results = atlas(inputs, AtlasSettings(images=1)).results
    measured = validate(inputs).results.decomposed
    assert measured is not None
    assert results.head.correct == measured.correct
    looked = filters(inputs, FiltersSettings("0")).results.filters
    own = {
        use.rank: (one.feature, use.weight) for one in results.features for use in one.used_by if use.class_number == 0
    }
    assert own == {info.rank: (info.feature, pytest.approx(info.weight)) for info in looked}
    refused(
        ["atlas", "-w", str(path), "--dataset", few, "-c", str(EMPTY)],
        REFUSED,
        "The class 3 has no features to show: its head is its bias alone.",
    )
    refused(["atlas", "-w", str(path), "--dataset", few, "-k", "2"], REFUSED, "-k has no effect here")


@pytest.mark.usefixtures("warm")
def test_the_table_has_the_features_that_cost_most() -> None:
    shown = run("atlas", "-k", "5", "-o", "out").stderr
    results = content("out/result.json")["results"]
    features, right = results["features"], results["head"]["correct"]
    assert f"{len(features)} features; with all of them {right} of 360 images are right" in shown
    assert re.findall(r"^ (\d+) {2,}", shown, re.MULTILINE) == [str(one["feature"]) for one in features][:40]
    assert (f"{len(features) - 40} more feature" in shown) == (len(features) > 40)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"classes": ["10"]}, "There is no class '10'; classes are 0, 1, 2"),
        ({"images": 0}, "^images 0 is not between 1 and 16"),
        ({"images": 17}, "^images 17 is not between 1 and 16"),
        ({"k": 0}, "^k 0 is not at least 1"),
        ({"k": 2, "indices": INDICES}, "indices and k both say"),
        ({"indices": IndexSet([(0, 64)] * 10, source="by hand")}, "64"),
        (
            {"indices": IndexSet(((), *[tuple(range(64))] * 9), 64, source="by hand", whole=frozenset(range(1, 10)))},
            "by hand gives no class features of its own",
        ),
    ],
)
def test_what_cannot_be_shown(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        atlas(DIGITS, AtlasSettings(**given), folder=Path())
    assert not list(Path().glob("*"))


@pytest.mark.usefixtures("warm")
def test_too_many_features_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_FEATURES == 300
    monkeypatch.setattr("decompose_cli.engines.atlas.MOST_FEATURES", 2)
    said = r"These classes use 20 features, and an atlas shows at most 2; choose classes with class\."
    with pytest.raises(InputError, match=said):
        atlas(DIGITS, AtlasSettings(INDICES))
    with pytest.raises(InputError, match="use 3 features, and an atlas shows at most 2; choose fewer classes"):
        atlas(DIGITS, AtlasSettings(INDICES, classes=["7"]))
