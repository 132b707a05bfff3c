"""``explain``: figures beside what heads and features give by themselves."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.pictures import pixels
from matplotlib.figure import Figure
from PIL import Image
from torch.nn import functional as F

from decompose_cli.decomposition.explaining import Explanation
from decompose_cli.decomposition.heads import highest_weights
from decompose_cli.decomposition.index_set import IndexSet, read_index_set
from decompose_cli.engines.explain import SHEET, ExplainSettings, explain
from decompose_cli.engines.extract_indices import ExtractSettings, extract_indices
from decompose_cli.engines.layers import list_layers
from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import Study
from decompose_cli.models.checkpoint import Metadata, write_checkpoint
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.registry import get_entry

DIGITS = Inputs()


def heads_by_hand(indices: IndexSet) -> tuple[torch.Tensor, torch.Tensor, Study]:
    study = Study(DIGITS, ("test",))
    full = F.linear(study.bank.features, study.head.weight, study.head.bias)
    mask = torch.zeros_like(study.head.weight)
    for c, row in enumerate(indices.classes):
        mask[c, list(row)] = 1
    return full, F.linear(study.bank.features, study.head.weight * mask, study.head.bias), study


@pytest.mark.painted
@pytest.mark.usefixtures("warm")
def test_figures_are_those_of_both_heads(figures: list[Figure]) -> None:
    extract_indices(DIGITS, ExtractSettings(k=[5]), output=Path("indices.json"))
    indices = read_index_set(Path("indices.json"))
    numbers = [0, 17, 99, 359]
    document = explain(DIGITS, ExplainSettings(indices_of=numbers, indices=Path("indices.json")), folder=Path())
    full, decomposed, study = heads_by_hand(indices)
    results = document.results
    assert [found.image for found in results.explanations] == ["0", "17", "99", "359"]
    for number, found in zip(numbers, results.explanations, strict=True):
        assert found.label == int(study.labels[number])
        assert found.predicted == int(full[number].argmax())
        for scores, logits in ((found.original, full[number]), (found.decomposed, decomposed[number])):
            assert scores is not None
            assert [score.number for score in scores] == logits.topk(5).indices.tolist()
            assert [score.logit for score in scores] == pytest.approx(logits.topk(5).values.tolist(), abs=1e-3)
            assert [score.probability for score in scores] == pytest.approx(
                logits.softmax(0).topk(5).values.tolist(), abs=1e-4
            )
        sums = found.sums
        assert sums is not None
        assert sums.others is not None
        assert sums.filters == list(indices.classes[found.predicted])
        assert sums.error < 1e-4
        assert sums.own + sums.bias == pytest.approx(float(decomposed[number, found.predicted]), abs=1e-3)
        assert sums.own + sums.others + sums.bias == pytest.approx(float(full[number, found.predicted]), abs=1e-3)
        assert found.file is not None
    for number, found, figure in zip(numbers, results.explanations, figures, strict=True):
        check_explanation(figure, study, number, found)
    files = [pixels(str(found.file)) for found in results.explanations]
    assert len({file.tobytes() for file in files}) == 4
    assert np.array_equal(pixels(SHEET), np.concatenate(files)), "the sheet is all of them, one below the other"
    assert {figures.map for figures in results.deletion} == {"Grad-CAM", "own filters"}
    for figures in results.deletion:
        assert figures.images == 4
        assert figures.difference == pytest.approx(figures.highlighted - figures.elsewhere, abs=1e-4)
    assert json.loads(document.to_json())["dataset"]["name"] == "digits"


def check_explanation(figure: Figure, study: Study, number: int, found: Explanation) -> None:
    """The image, Grad-CAM, what either group of filters adds where, and what the heads say."""
    image, *panels, text = [axes for axes in figure.axes if axes.images or axes.texts]
    wrong = found.label != found.predicted
    assert image.get_title() == f"{number}: {found.predicted_name}" + (f" (is {found.label_name})" if wrong else "")
    shown = np.asarray(image.images[0].get_array())
    assert np.array_equal(shown, np.asarray(study.dataset.image(number).convert("RGB").resize(shown.shape[1::-1])))
    bars = [axes for axes in panels if axes.texts]
    panels = [axes for axes in panels if len(axes.images) == 2]
    titles = [panel.get_title().split("\n")[0] for panel in panels]
    cams = ["Grad-CAM, predicted", *(["Grad-CAM, true"] if wrong else [])]
    assert titles == [*cams, f"5 filters of {found.predicted_name}", "all other filters"]
    assert all(np.asarray(panel.images[1].get_array()).min() >= 0 for panel in panels[: len(cams)])
    assert found.sums is not None
    own, others = (float(np.asarray(panel.images[1].get_array()).sum()) for panel in panels[-2:])
    assert own == pytest.approx(found.sums.own, abs=1e-3)
    assert others == pytest.approx(found.sums.others, abs=1e-3)
    assert found.maps is not None
    assert [one.what for one in found.maps] == [panel.get_title().replace("\n", ": ") for panel in panels]
    for panel, bar, one in zip(panels, bars, found.maps, strict=True):
        values = np.asarray(panel.images[1].get_array())
        assert panel.images[1].get_clim() == (-one.largest if one.signed else 0, one.largest)
        assert values.max() <= one.largest + 1e-6
        ends = [label.get_text() for label in bar.texts]
        assert (ends[0], ends[-1]) == (f"{-one.largest if one.signed else 0:.2g}", f"{one.largest:.2g}")
    lines = text.texts[0].get_text().split("\n")
    assert (lines[0], lines[6], lines[7]) == ("full head", "", "decomposed")
    for line, score in zip([*lines[1:6], *lines[8:]], [*found.original, *found.decomposed], strict=True):  # type: ignore[misc]
        assert line.split() == [f"{100 * score.probability:.1f}%", score.name]


def test_what_is_highlighted_matters_more_than_what_is_elsewhere() -> None:
    """On the network and images that ship with the project."""
    results = explain(DIGITS, ExplainSettings(indices_of=list(range(40)))).results
    for figures in results.deletion:
        assert figures.ci95 is not None
        assert figures.ci95[0] > 0, figures


@pytest.mark.usefixtures("warm")
def test_the_worst_images_are_those_with_the_highest_loss() -> None:
    results = explain(DIGITS, ExplainSettings(worst=3)).results
    study = Study(DIGITS, ("test",))
    losses = F.cross_entropy(
        F.linear(study.bank.features, study.head.weight, study.head.bias), study.labels, reduction="none"
    )
    assert [int(found.image) for found in results.explanations] == losses.topk(3).indices.tolist()
    first = results.explanations[0]
    assert first.label_name != first.predicted_name
    # Why: of the full head by hand, or of the decomposed one where it says the same.
    assert first.reasons
    assert first.label is not None
    head = highest_weights(study.head, study.class_map.names, 5)
    _, decomposed, _ = heads_by_hand(head)
    is_alike = int(decomposed[int(first.image)].argmax()) == first.predicted
    values = study.bank.features[int(first.image)]
    given = {}
    for c in (first.predicted, first.label):
        used = head.classes[c] if is_alike else range(64)
        given[c] = {f: float(values[f] * study.head.weight[c, f]) for f in used}
    apart = {f: given[first.predicted].get(f, 0) - given[first.label].get(f, 0) for c in given for f in given[c]}
    wanted = sorted(apart, key=lambda f: -apart[f])[:3]
    assert [one.feature for one in first.reasons] == [f for f in wanted if apart[f] > 0]
    assert [one.apart for one in first.reasons] == pytest.approx([apart[f] for f in wanted if apart[f] > 0], abs=1e-3)
    assert [bool(one.reasons) for one in results.explanations] == [
        one.label != one.predicted for one in results.explanations
    ]


@pytest.mark.usefixtures("warm")
def test_classes_may_have_different_numbers_of_filters() -> None:
    rows = [[5, 9, 0] if c % 2 else [c + 20] for c in range(10)]
    numbers = list(range(0, 360, 40))
    results = explain(DIGITS, ExplainSettings(indices_of=numbers, indices=IndexSet(rows, 64, source="by hand"))).results
    _, decomposed, _ = heads_by_hand(IndexSet(rows, 64, source="by hand"))
    for number, found in zip(numbers, results.explanations, strict=True):
        assert found.sums is not None
        assert found.sums.filters == rows[found.predicted]
        assert found.sums.error < 1e-4
        assert found.sums.own + found.sums.bias == pytest.approx(float(decomposed[number, found.predicted]), abs=1e-3)
    assert {found.predicted % 2 for found in results.explanations} == {0, 1}


def test_without_index_file_a_class_has_its_highest_weights() -> None:
    results = explain(DIGITS, ExplainSettings(indices_of=[3], k=4)).results
    study = Study(DIGITS, ("test",))
    sums = results.explanations[0].sums
    assert sums is not None
    assert sorted(sums.filters) == sorted(study.head.weight[results.explanations[0].predicted].topk(4).indices.tolist())


def test_image_files_of_any_kind_and_a_network_without_class_names() -> None:
    for number, (mode, size) in enumerate([("RGB", (50, 40)), ("L", (32, 32)), ("RGBA", (20, 90))]):
        Image.effect_noise(size, 60).convert(mode).save(f"{number}.png")
    torch.manual_seed(0)
    torch.save(get_entry("resnet14").make(3, (32, 32)).state_dict(), "net.pt")
    files = [Path(f"{number}.png") for number in range(3)]
    document = explain(Inputs(model="resnet14", weights="net.pt"), ExplainSettings(images=files, k=2), folder=Path())
    assert [found.label for found in document.results.explanations] == [None] * 3
    assert {found.predicted_name for found in document.results.explanations} <= {"0", "1", "2"}
    assert document.dataset.images == 3
    assert sorted(path.name for path in Path().glob("*-*.png")) == ["01-0.png", "02-1.png", "03-2.png"]


def test_a_network_whose_features_are_no_means_has_grad_cam_alone() -> None:
    torch.manual_seed(0)
    torch.save(get_entry("custom_resnet").make(10, (32, 32)).state_dict(), "net.pt")
    inputs = Inputs(model="custom_resnet", weights="net.pt", dataset="digits")
    results = explain(inputs, ExplainSettings(indices_of=[0])).results
    assert results.explanations[0].sums is None
    assert [figures.map for figures in results.deletion] == ["Grad-CAM"]


def test_published_layouts_are_explained_with_the_head_that_they_have() -> None:
    """The full head that such a file still holds belongs to other weights; here it is made wrong on purpose."""
    rows = [[c, c + 10, c + 20] for c in range(10)]
    study = Study(DIGITS, ("test",))
    index = torch.tensor(rows)
    from decompose_cli.models.checkpoint import read_checkpoint
    from decompose_cli.models.weights import default_source

    state = dict(read_checkpoint(Path(str(default_source(get_entry("resnet20-digits"))))).state_dict)
    state["final_weights"] = study.head.weight.gather(1, index)
    state["final_bias"] = study.head.bias
    figures = []
    for name, shift in (("right.pt", 0), ("wrong.pt", 1)):
        stale = {
            **state,
            "linear.weight": state["linear.weight"].roll(shift, 0),
            "linear.bias": state["linear.bias"].roll(shift, 0),
        }
        torch.save(stale, name)
        inputs = Inputs(model="resnet20", weights=name, dataset="digits")
        results = explain(
            inputs, ExplainSettings(indices_of=[0, 50, 100], indices=IndexSet(rows, 64, source="by hand"))
        ).results
        assert all(found.original is None for found in results.explanations)
        assert all(found.sums is not None and found.sums.others is None for found in results.explanations)
        figures.append([(one.highlighted, one.elsewhere) for one in results.deletion])
    assert figures[1] == [pytest.approx(pair, rel=1e-4) for pair in figures[0]]


def test_a_decomposed_checkpoint_has_its_own_filters() -> None:
    torch.manual_seed(4)
    module = get_entry("resnet14").make(3, (32, 32)).eval()
    module.linear = DecomposedLinear.from_dense(torch.randn(3, 64), torch.randn(3), [[1, 2], [63], [0, 5]])  # type: ignore[assignment]
    metadata = Metadata(model="resnet14", num_classes=3, class_names=["0", "1", "2"], dataset="digits")
    write_checkpoint(Path("net.safetensors"), module.state_dict(), metadata)
    Image.effect_noise((32, 32), 60).save("a.png")
    results = explain(Inputs(weights="net.safetensors"), ExplainSettings(images=[Path("a.png")])).results
    (found,) = results.explanations
    assert found.original is None
    assert found.sums is not None
    assert found.sums.filters == [[1, 2], [63], [0, 5]][found.predicted]
    assert found.sums.error < 1e-4
    assert results.indices == "net.safetensors"
    with pytest.raises(InputError, match=r"^k has no effect here"):
        explain(Inputs(weights="net.safetensors"), ExplainSettings(images=[Path("a.png")], k=3))


def test_nothing_is_replaced_unless_asked_to_and_nothing_stale_stays() -> None:
    Path("out").mkdir()
    Path("out/01-0.png").write_text("mine")
    with pytest.raises(InputError, match=r"out/01-0.png exists"):
        explain(DIGITS, ExplainSettings(indices_of=[0, 1]), folder=Path("out"))
    assert [path.name for path in Path("out").iterdir()] == ["01-0.png"]
    Path("out/01-0.png").unlink()
    explain(DIGITS, ExplainSettings(indices_of=[0, 1]), folder=Path("out"))
    explain(DIGITS, ExplainSettings(indices_of=[7]), folder=Path("out"), overwrite=True)
    assert sorted(path.name for path in Path("out").iterdir()) == ["01-7.png", "result.json", "sheet.png"]
    image = Path("out/01-7.png")
    with pytest.raises(InputError, match="is one of the images that are to be explained"):
        explain(
            Inputs(model="resnet20-digits"),
            ExplainSettings(images=[image.rename("out/sheet.png")]),
            folder=Path("out"),
            overwrite=True,
        )


def test_a_network_that_gives_nan_leaves_nothing_behind() -> None:
    torch.manual_seed(0)
    state = get_entry("resnet14").make(3, (32, 32)).state_dict()
    state["bn1.weight"] = torch.full((16,), 1e38)
    torch.save(state, "net.pt")
    Image.effect_noise((32, 32), 60).save("a.png")
    with pytest.raises(DecomposeError, match="gives NaN or infinite numbers for random images"):
        explain(Inputs(model="resnet14", weights="net.pt"), ExplainSettings(images=[Path("a.png")]), folder=Path("out"))
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"indices_of": [5, 5]}, "Image number 5 is given twice"),
        (
            {"indices_of": [1], "k": 2, "indices": IndexSet([[c] for c in range(10)], 64, source="x")},
            "^indices and k both say",
        ),
        ({}, "Say which images: files, indices_of NUMBERS or worst N, and one of these only"),
        ({"indices_of": [1], "worst": 2}, "Say which images"),
        ({"indices_of": [360]}, "digits test has no image number 360; it has 360, from 0"),
        ({"indices_of": list(range(41))}, "41 images cannot be explained at a time; choose 1 to 40"),
        ({"worst": 0}, "0 images cannot be explained at a time"),
        ({"indices_of": [1], "layer": "fc9"}, "'fc9' is no layer of resnet20-digits with maps"),
        ({"indices_of": [1], "layer": "linear"}, "'linear' is no layer of resnet20-digits with maps"),
        ({"indices_of": [1], "k": 65}, "65"),
        ({"images": [Path("missing.png")]}, "The image missing.png does not exist"),
    ],
)
def test_what_cannot_be_explained(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        explain(DIGITS, ExplainSettings(**given), folder=Path())
    assert not list(Path().glob("*.png"))


# ---------------------------------------------------------------------------------------------- what the network saw


def test_pictures_say_what_the_network_saw_of_a_photograph(figures: list[Figure]) -> None:
    Image.effect_noise((80, 60), 60).save("photo.png")
    Image.effect_noise((32, 32), 60).save("small.png")
    images = [Path("photo.png"), Path("small.png")]
    results = explain(Inputs(model="resnet20-digits"), ExplainSettings(images=images), folder=Path("out")).results
    photo, small = results.explanations
    assert (photo.size, photo.resized) == ((60, 80), (32, 42))
    assert photo.geometry([32, 32]) == "60x80 pixels, made 32x42, of which the network sees the middle 32x32"
    assert (small.size, small.resized, small.geometry([32, 32])) == ((32, 32), (32, 32), None)
    first = figures[0].axes
    name = photo.predicted_name
    assert [axes.get_title() for axes in first[:2]] == [
        "photo.png\n60x80 pixels",
        f"photo.png: {name}\nas seen: 32x32 pixels",
    ]
    seen = np.asarray(Image.open("photo.png").convert("RGB").resize((42, 32), Image.Resampling.BILINEAR))[:, 5:37]
    assert np.array_equal(first[1].images[0].get_array(), seen)
    assert figures[1].axes[0].get_title() == f"small.png: {small.predicted_name}"


@pytest.mark.parametrize(
    ("size", "resized", "crop", "said"),
    [
        ((32, 32), (32, 32), [32, 32], None),
        ((60, 60), (32, 32), [32, 32], "60x60 pixels, made 32x32"),
        ((60, 80), (60, 80), [32, 32], "60x80 pixels, of which the network sees the middle 32x32"),
        ((20, 20), (20, 20), [32, 32], "20x20 pixels, which the network sees with black around them, as 32x32"),
        ((9, 12), (6, 8), [7, 7], "9x12 pixels, made 6x8, which the network sees with black around them, as 7x7"),
        (None, None, [32, 32], None),
    ],
)  # fmt: skip
def test_geometry_in_words(size: Any, resized: Any, crop: list[int], said: str | None) -> None:
    nothing = dict.fromkeys(("label", "label_name", "original", "decomposed", "sums", "file"))
    found = Explanation(image="a", predicted=0, predicted_name="", size=size, resized=resized, **nothing)
    assert found.geometry(crop) == said


# ------------------------------------------------------------------------------------------------- channels last

NETWORKS = """
import torch
from torch import nn

class Twin(nn.Module):
    def __init__(self, is_last):
        super().__init__()
        self.is_last = is_last
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.mix = nn.Linear(8, 8) if is_last else nn.Conv2d(8, 8, 1)
        self.act = nn.ReLU()
        self.attention, self.linear = nn.Softmax(-1), nn.Linear(8, 10)

    def forward(self, x):
        x = self.embed(x)
        if self.is_last:
            x = self.act(self.mix(x.permute(0, 2, 3, 1)))
            tokens = x.flatten(1, 2)
            self.attention((tokens @ tokens.transpose(1, 2))[:, None])
            return self.linear(x.mean((1, 2)))
        return self.linear(self.act(self.mix(x)).mean((2, 3)))

def made(is_last):
    torch.manual_seed(5)
    first = Twin(False)
    if not is_last:
        return first
    state = first.state_dict()
    last = Twin(True)
    last.load_state_dict({**state, "mix.weight": state["mix.weight"].flatten(1)})
    return last

def first(): return made(False)
def last(): return made(True)
"""


@pytest.mark.painted
def test_a_network_with_channels_last_is_explained_as_with_channels_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, and at a layer that is named."""
    Path("twins.py").write_text(NETWORKS, encoding="utf-8")
    monkeypatch.syspath_prepend(".")
    for layer in (None, "mix"):
        found = []
        for name in ("first", "last"):
            inputs = Inputs(model=f"twins:{name}", dataset="digits", input_size="32", mean="0,0,0", std="1,1,1")
            settings = ExplainSettings(indices_of=[3, 9], layer=layer)
            results = explain(inputs, settings, folder=Path(f"{name}-{layer}")).results
            assert results.layer == (layer or "act")
            assert results.explanations[0].sums is not None
            assert results.explanations[0].sums.error < 1e-4
            found.append((results, pixels(f"{name}-{layer}/{SHEET}")))
        (one, shown), (other, shown_too) = found
        for a, b in zip(one.deletion, other.deletion, strict=True):
            assert (a.map, a.images) == (b.map, b.images)
            assert (a.highlighted, a.elsewhere) == pytest.approx((b.highlighted, b.elsewhere), rel=1e-3)
        assert np.abs(shown.astype(int) - shown_too.astype(int)).max() <= 3
    inputs = Inputs(model="twins:last", dataset="digits", input_size="32")
    with pytest.raises(InputError) as caught:
        explain(inputs, ExplainSettings(indices_of=[3], layer="attention"))
    assert caught.value.message == (
        "'attention' of twins:last yields values of shape (1, 64, 64), and it cannot be told which of these axes are "
        "channels, rows and columns of the image."
    )


PASSED_OVER = """
import torch
from torch import nn

class Step(nn.Module):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def forward(self, x):
        return self.step(x)

class Net(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.first, self.second = nn.Conv2d(3, 8, 5, 3), Step(first), Step(second)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.second(self.first(self.conv(x))).mean((2, 3)).abs())

def nothing(x): return x + 0
def both(x): return torch.complex(x, x)

def upside_down(): return Net(nothing, lambda x: x.flip(2))
def shuffled(): return Net(nothing, lambda x: torch.channel_shuffle(x, 2))
def complex(): return Net(nothing, both)
def only_frequencies():
    net = Net(nothing, nothing)
    net.conv = Step(lambda x: torch.fft.fftn(x, dim=(1, 2, 3)).abs()[:, [0] * 8, :10, :10])
    return net
"""


@pytest.fixture
def nets(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Inputs]:
    """Networks whose last maps pass an operation, by the name of it."""
    Path("passed_over.py").write_text(PASSED_OVER, encoding="utf-8")
    monkeypatch.syspath_prepend(".")
    monkeypatch.delitem(sys.modules, "passed_over", raising=False)
    return lambda name: Inputs(model=f"passed_over:{name}", dataset="digits", input_size="32")


@pytest.mark.filterwarnings("error:Casting complex values")
@pytest.mark.parametrize(
    ("name", "layer", "why"),
    [
        ("upside_down", "first", "it cannot be told what its axes are after the operation flip"),
        ("complex", "first", "its values are complex numbers"),
        ("shuffled", "second", None),
    ],
)
def test_a_default_layer_that_is_not_the_last_is_said(
    name: str, layer: str, why: str | None, nets: Callable[[str], Inputs], caplog: pytest.LogCaptureFixture
) -> None:
    expected = (
        f"Grad-CAM of passed_over:{name} looks at {layer!r} by default and not at 'second', which comes later, as "
        f"{why}; 'explain' takes another layer as layer."
    )
    with caplog.at_level(logging.WARNING, "decompose_cli"):
        assert explain(nets(name), ExplainSettings(indices_of=[3])).results.layer == layer
        assert [said for said in caplog.messages if "Grad-CAM" in said] == ([expected] if why else [])
        caplog.clear()
        assert explain(nets(name), ExplainSettings(indices_of=[3], layer="conv")).results.layer == "conv"
        assert not [said for said in caplog.messages if "Grad-CAM" in said], "the layer was chosen"
        (marked,) = [one.name for one in list_layers(f"passed_over:{name}", input_size="32").layers if one.is_cam_layer]
        assert marked == layer
        assert [said for said in caplog.messages if "Grad-CAM" in said] == ([expected] if why else [])


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        (
            "upside_down",
            "second",
            "'second' of passed_over:upside_down yields values of shape (8, 10, 10), and it cannot be told which of "
            "these axes are channels, rows and columns of the image after the operation flip.",
        ),
        ("complex", "second", "'second' of passed_over:complex yields complex numbers, and Grad-CAM needs real ones."),
        (
            "only_frequencies",
            None,
            "passed_over:only_frequencies has no layer with maps of which it can be told what their axes are: of "
            "'second', it cannot be told what its axes are after the operation _fft_c2c; Grad-CAM needs one.",
        ),
    ],
)
def test_a_layer_whose_maps_cannot_be_read_is_refused_with_the_reason(
    name: str, layer: str | None, message: str, nets: Callable[[str], Inputs]
) -> None:
    with pytest.raises(InputError) as caught:
        explain(nets(name), ExplainSettings(indices_of=[3], layer=layer))
    assert caught.value.message == message
