"""Images of three of the network's classes: every command by both policies, beside a twin in float64.

The twin runs the network in float64, image by image, and makes everything else with plain loops over numbers. The
classes are three of the ten digits, and, in slow tests, three of the thousand of ImageNet.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import mutual_info_score
from torch import Tensor

from decompose_cli.datasets.digits import open_digits
from decompose_cli.datasets.entry import DatasetEntry
from decompose_cli.datasets.folders import FolderImages, folder_images
from decompose_cli.datasets.imagenet import imagenet_classes
from decompose_cli.datasets.registry import DATASETS
from decompose_cli.decomposition.index_set import IndexSet, read_index_set
from decompose_cli.engines.atlas import AtlasSettings, atlas
from decompose_cli.engines.essential import EssentialSettings, essential
from decompose_cli.engines.explain import ExplainSettings, explain
from decompose_cli.engines.extract_indices import ExtractSettings, extract_indices
from decompose_cli.engines.filters import FiltersSettings, filters
from decompose_cli.engines.finetune import FinetuneSettings, finetune
from decompose_cli.engines.mutual_info import MutualInfoSettings, mutual_info
from decompose_cli.engines.selectivity import SelectivitySettings, selectivity
from decompose_cli.engines.sparsify import SparsifySettings, sparsify
from decompose_cli.engines.sweep import SweepSettings, sweep
from decompose_cli.engines.validate import validate
from decompose_cli.errors import InputError
from decompose_cli.features.inputs import Inputs
from decompose_cli.features.study import Study
from decompose_cli.models.checkpoint import read_checkpoint
from decompose_cli.page.report import report
from decompose_cli.training.session import Request

K = 4
Rows = list[list[float]]


@dataclass(frozen=True)
class Case:
    """Images, the network, and which of its classes they are of.

    Attributes:
        root: Folder with ``train`` and ``test``.
        model: Name of the network.
        outputs: Number of its classes.
        numbers: Those with images, by the names of their folders.
        side: Pixels.
    """

    root: Path
    model: str
    outputs: int
    numbers: dict[str, int]
    side: int

    def inputs(self, policy: str, **more: Any) -> Inputs:
        weights = "random" if self.model == "resnet18" else None
        size = {"input_size": str(self.side), "resize": str(self.side)} if weights else {}
        given = {"model": self.model, "weights": weights, "dataset": f"folder:{self.root}", "workers": 0, **size}
        return Inputs(**{**given, "classes": policy, "device": "cpu", **more})

    def present(self) -> list[int]:
        return sorted(self.numbers.values())


@dataclass
class Twin:
    """The same by the definitions, in float64; class numbers are those of the head that a policy leaves."""

    case: Case
    policy: str
    known: dict[str, Rows] = field(default_factory=dict)

    @property
    def kept(self) -> list[int]:
        """The network's number of each class of the head."""
        return list(range(self.case.outputs)) if self.policy == "all" else self.case.present()

    @property
    def present(self) -> list[int]:
        """Numbers in the head of the classes with images."""
        return [self.kept.index(number) for number in self.case.present()]

    @cached_property
    def study(self) -> Study:
        return Study(self.case.inputs("all"), ("test",))

    @cached_property
    def module(self) -> torch.nn.Module:
        study = self.study
        return study.classifier.load(study.preprocessing.crop).module.double().eval()

    @cached_property
    def head(self) -> tuple[Rows, list[float]]:
        layer = self.module.get_submodule(self.study.head.name)
        weight, bias = layer.weight.detach().tolist(), layer.bias.detach().tolist()  # type: ignore[union-attr, operator]
        return [weight[number] for number in self.kept], [bias[number] for number in self.kept]

    def images(self, split: str) -> tuple[list[Path], list[int]]:
        files = [
            (path, self.kept.index(number))
            for name, number in sorted(self.case.numbers.items())
            for path in sorted((self.case.root / split / name).iterdir())
        ]
        return [path for path, _ in files], [label for _, label in files]

    def features(self, split: str) -> Rows:
        if split not in self.known:
            self.known[split] = self._features(split)
        return self.known[split]

    def _features(self, split: str) -> Rows:
        study, found = self.study, list[list[float]]()
        mean, std = (torch.tensor(each).double().view(3, 1, 1) for each in _constants(study))
        layer = self.module.get_submodule(study.head.name)
        handle = layer.register_forward_pre_hook(lambda _, args: found.append(args[0].flatten().tolist()))
        for path in self.images(split)[0]:
            pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
            with torch.no_grad():
                self.module(((pixels.double() / 255 - mean) / std)[None])
        handle.remove()
        return found

    def logits(self, features: Rows, classes: Sequence[Sequence[int]] | None = None) -> Rows:
        weight, bias = self.head
        every = [range(len(weight[0]))] * len(weight) if classes is None else classes
        matrix = np.array(weight)
        result = []
        for image in features:
            row = np.array(image)
            result.append(
                [bias[c] + sum((matrix[c, list(own)] * row[list(own)]).tolist()) for c, own in enumerate(every)]
            )
        return result

    def spread(self, chosen: dict[int, list[int]]) -> list[list[int]]:
        """The rows of all classes of the head: chosen ones, and all features for those without images."""
        everything = list(range(len(self.head[0][0])))
        return [chosen.get(number, everything) for number in range(len(self.kept))]

    def frequent(self, k: int) -> list[list[int]]:
        """The k features that are most often among the k largest of an image of the class."""
        features, labels = self.features("train"), self.images("train")[1]
        chosen = {}
        for number in self.present:
            counts = [0] * len(features[0])
            for image, label in zip(features, labels, strict=True):
                if label == number:
                    for j in sorted(range(len(image)), key=lambda j, image=image: (-image[j], -j))[:k]:
                        counts[j] += 1
            chosen[number] = sorted(range(len(counts)), key=lambda j, counts=counts: (-counts[j], -j))[:k]
        return self.spread(chosen)


def _constants(study: Study) -> tuple[Sequence[float], Sequence[float]]:
    return study.preprocessing.mean, study.preprocessing.std


def correct(logits: Rows, labels: Sequence[int]) -> int:
    return sum(row.index(max(row)) == label for row, label in zip(logits, labels, strict=True))


def cross_entropy(logits: Rows, labels: Sequence[int]) -> float:
    terms = [np.logaddexp.reduce(row) - row[label] for row, label in zip(logits, labels, strict=True)]
    return float(np.mean(terms))


def make_digits(root: Path) -> None:
    """Three of the digits, twelve training and ten test images of each."""
    for split, count in (("train", 12), ("test", 10)):
        pixels, labels = open_digits(split).pixels_and_labels
        for digit in (3, 5, 9):
            folder = root / split / str(digit)
            folder.mkdir(parents=True)
            for number in (labels == digit).nonzero().flatten()[:count].tolist():
                Image.fromarray(pixels[number].permute(1, 2, 0).numpy()).save(folder / f"{number:04d}.png")


def make_photographs(root: Path) -> None:
    """Stripes in three colours, as JPEG files in folders that are named by WordNet ids."""
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 6)):
        for colour, name in enumerate(("n01440764", "n02102040", "n03394916")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.normal(60, 30, (64, 64, 3))
                pixels[..., colour] += 60 + 60 * np.sin(np.arange(64) / (3 + 4 * colour) + 6 * random.random())
                shown = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                shown.save(folder / f"{number}.jpg", quality=92)


@pytest.fixture(scope="module", params=["ten", pytest.param("thousand", marks=pytest.mark.slow)])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    root = tmp_path_factory.mktemp(request.param) / "images"
    if request.param == "ten":
        make_digits(root)
        return Case(root, "resnet20-digits", 10, {"3": 3, "5": 5, "9": 9}, 32)
    make_photographs(root)
    wnids = imagenet_classes()[0]
    return Case(root, "resnet18", 1000, {path.name: wnids.index(path.name) for path in (root / "train").iterdir()}, 64)


@pytest.fixture(scope="module", params=["all", "present"])
def policy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def twin(case: Case, policy: str) -> Twin:
    return Twin(case, policy)


@pytest.fixture(autouse=True)
def shared_cache(isolated: None, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are computed once for all tests here."""
    monkeypatch.setenv("DECOMPOSE_CACHE", str(case.root.parent / "cache"))


def indices_file(case: Case, policy: str) -> Path:
    extract_indices(case.inputs(policy), ExtractSettings(k=[K]), output=Path("indices.json"))
    return Path("indices.json")


def test_features_are_those_of_the_network(case: Case, policy: str, twin: Twin) -> None:
    study = Study(case.inputs(policy), ("test",))
    assert study.labels.tolist() == twin.images("test")[1]
    assert study.head.num_classes == study.classifier.load(study.preprocessing.crop).tensors.num_classes
    np.testing.assert_allclose(study.bank.features, twin.features("test"), atol=1e-3)
    np.testing.assert_allclose(study.head.weight, twin.head[0], atol=1e-6)


def test_extract_indices(case: Case, policy: str, twin: Twin) -> None:
    document = extract_indices(case.inputs(policy), ExtractSettings(k=[K]), output=Path("indices.json"))
    expected = twin.frequent(K)
    read = read_index_set(Path("indices.json"))
    assert [list(row) for row in read.classes] == expected
    extracted = document.results[str(K)]
    assert extracted.features_per_class == (K, K)
    if policy == "all":
        others = set(range(case.outputs)) - set(case.present())
        assert read.whole == others
        assert {int(name) for name, row in extracted.indices.items() if row == "all"} == others
    else:
        assert [extracted.indices[str(number)] for number in range(3)] == expected
    content = json.loads(Path("indices.json").read_text())
    assert content["provenance"]["part"]["present"] == case.present()
    assert content["provenance"]["part"]["policy"] == policy
    assert Path("indices.json").stat().st_size < 20_000
    assert document.dataset is not None
    assert document.dataset.part.outputs == case.outputs  # type: ignore[union-attr]


def test_validate(case: Case, policy: str, twin: Twin) -> None:
    results = validate(case.inputs(policy), indices_file(case, policy)).results
    features, labels = twin.features("test"), twin.images("test")[1]
    for found, classes in ((results.original, None), (results.decomposed, twin.frequent(K))):
        logits = twin.logits(features, classes)
        assert found is not None
        assert found.correct == correct(logits, labels)
        assert found.loss == pytest.approx(cross_entropy(logits, labels), abs=1e-4)
        assert sum(one.total for one in found.per_class) == results.total == len(labels)
        assert len(found.per_class) == len(twin.kept)
    assert results.indices is not None
    assert results.indices.k == (K, K)


def test_index_files_of_all_classes_are_cut_to_those_that_are_studied(case: Case) -> None:
    rows = IndexSet(tuple((c % 7, 7 + c % 11) for c in range(case.outputs)), source="by hand")
    found = validate(case.inputs("present"), rows).results.decomposed
    twin = Twin(case, "present")
    logits = twin.logits(twin.features("test"), [list(rows.classes[number]) for number in twin.kept])
    assert found is not None
    assert found.loss == pytest.approx(cross_entropy(logits, twin.images("test")[1]), abs=1e-4)
    extract_indices(case.inputs("present"), ExtractSettings(k=[K]), output=Path("indices.json"))
    with pytest.raises(InputError, match=rf"has 3 classes, but the network has {case.outputs}") as caught:
        validate(case.inputs("all"), Path("indices.json"))
    assert "classes present" in str(caught.value.hint)


def test_sweep(case: Case, policy: str, twin: Twin) -> None:
    settings = SweepSettings(methods=["frequency", "weight"], ks=[1, K], max_drop=60)
    results = sweep(case.inputs(policy), settings, folder=Path("sweep")).results
    features, labels = twin.features("test"), twin.images("test")[1]
    assert results.original.correct == correct(twin.logits(features), labels)
    weight = twin.head[0]
    for k in (1, K):
        largest = {c: sorted(range(len(weight[c])), key=lambda j, c=c: -weight[c][j])[:k] for c in twin.present}
        for method, classes in (("frequency", twin.frequent(k)), ("weight", twin.spread(largest))):
            assert results.curves[method][str(k)].correct == correct(twin.logits(features, classes), labels)
    alone = sweep(case.inputs(policy), SweepSettings(methods=["weight"], ks=[1, K])).results
    assert alone.curves["weight"] == results.curves["weight"]  # though no features of images are needed
    if results.chosen is not None:
        read = read_index_set(Path("sweep/indices.json"))
        assert results.chosen.features == sum(len(read.classes[number]) for number in twin.present)
        assert read.whole == (set(range(case.outputs)) - set(case.present()) if policy == "all" else set())
        assert results.chosen.reported_on.correct == correct(twin.logits(features, read.classes), labels)


def sides(twin: Twin, classes: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training features, targets, full weight and bias, all float64."""
    x = torch.tensor(twin.features("train"), dtype=torch.float64)
    weight, bias = (torch.tensor(each, dtype=torch.float64) for each in twin.head)
    full = torch.softmax(x @ weight.t() + bias, 1)
    targets = torch.zeros_like(full)
    absent = [number for number in range(len(classes)) if number not in twin.present]
    for image, label in enumerate(twin.images("train")[1]):
        targets[image, absent] = full[image, absent]
        targets[image, label] = 1 - full[image, absent].sum()
    return x, targets, weight, bias


def refitted(twin: Twin, classes: Sequence[Sequence[int]], l2: float) -> tuple[Rows, list[float]]:
    """The minimum of the objective over the rows of classes with images, by Newton's method (L-BFGS) in float64."""
    x, targets, weight, bias = sides(twin, classes)
    mean, deviation = x.mean(0), x.std(0, correction=0)
    z = torch.where(deviation > 0, (x - mean) / deviation.clamp(min=1e-300), 0.0)
    mask = torch.zeros_like(weight)
    for number in twin.present:
        mask[number, [j for j in classes[number] if float(deviation[j]) > 0]] = 1
    is_free = torch.zeros(len(bias), dtype=torch.bool)
    is_free[twin.present] = True
    fixed = x @ weight.t() + bias
    own = torch.zeros_like(weight).requires_grad_()
    shift = torch.zeros_like(bias).requires_grad_()
    solver = torch.optim.LBFGS(
        [own, shift], max_iter=3000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        logits = torch.where(is_free, z @ (own * mask).t() + shift, fixed)
        value = -(targets * logits.log_softmax(1)).sum(1).mean() + l2 / 2 * (own * mask).square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(closure)  # type: ignore[arg-type, no-untyped-call]
    on_x = torch.where(deviation > 0, (own * mask).detach() / deviation.clamp(min=1e-300), 0.0)
    found = torch.where(is_free[:, None], on_x, weight)
    return found.tolist(), torch.where(is_free, shift.detach() - on_x @ mean, bias).tolist()


def objective(twin: Twin, classes: Sequence[Sequence[int]], head: tuple[Rows, list[float]], l2: float) -> float:
    """What a refit minimises, for any head that has these features."""
    x, targets, _, _ = sides(twin, classes)
    weight, bias = (torch.tensor(each, dtype=torch.float64) for each in head)
    value = -(targets * (x @ weight.t() + bias).log_softmax(1)).sum(1).mean()
    on_z = weight[twin.present] * x.std(0, correction=0)
    return float(value + l2 / 2 * on_z.square().sum())


def plain_logits(features: Rows, head: tuple[Rows, list[float]]) -> Rows:
    return (np.array(features) @ np.array(head[0]).T + np.array(head[1])).tolist()


def test_weights_fitted_anew(case: Case, policy: str, twin: Twin) -> None:
    l2 = 0.05
    results = validate(case.inputs(policy), indices_file(case, policy), refit=True, l2=l2).results
    logits = plain_logits(twin.features("test"), refitted(twin, twin.frequent(K), l2))
    assert results.refitted is not None
    loss = cross_entropy(logits, twin.images("test")[1])
    # Where the full head gives all but a few thousandths to other classes, biases hardly change the objective.
    assert results.refitted.loss == pytest.approx(loss, abs=2e-3 if len(twin.kept) <= 10 else 5e-2)
    assert results.refitted.correct == correct(logits, twin.images("test")[1])
    swept = sweep(
        case.inputs(policy), SweepSettings(methods=["frequency"], ks=[K], refit=True, l2=l2), folder=None
    ).results
    assert swept.refitted["frequency"][str(K)].correct == results.refitted.correct


def test_sparsify_and_its_checkpoint(case: Case, policy: str, twin: Twin) -> None:
    l2 = 0.05
    settings = SparsifySettings(k=[K], method="frequency", l2=l2)
    document = sparsify(case.inputs(policy), settings, folder=Path("sparse"))
    results = document.results
    found, labels, features = results.heads[str(K)], twin.images("test")[1], twin.features("test")
    assert results.original is not None
    assert results.original.correct == correct(twin.logits(features), labels)
    classes = twin.frequent(K)
    assert found.cut.correct == correct(twin.logits(features, classes), labels)
    assert found.features_per_class == (K, K)
    read = read_index_set(Path(f"sparse/k{K}/indices.json"))
    assert [sorted(row) for row in read.classes] == [sorted(row) for row in classes]
    assert read.provenance["part"]["policy"] == policy
    path = Path(f"sparse/k{K}/sparse.safetensors")
    metadata = read_checkpoint(path).metadata
    state, name = read_checkpoint(path).state_dict, twin.study.head.name
    weight = torch.zeros(len(twin.kept), _width(twin), dtype=torch.float64)
    weight.scatter_add_(1, state[f"{name}.indices"], (state[f"{name}.weight"] * state[f"{name}.mask"]).double())
    written = weight.tolist(), state[f"{name}.bias"].double().tolist()
    assert found.loss == pytest.approx(cross_entropy(plain_logits(features, written), labels), abs=1e-4)
    assert found.point.correct == correct(plain_logits(features, written), labels)
    least = objective(twin, classes, refitted(twin, classes, l2), l2)
    assert least * (1 - 1e-9) <= objective(twin, classes, written, l2) <= least * (1 + 1e-5)
    for number in set(range(len(twin.kept))) - set(twin.present):
        np.testing.assert_allclose(weight[number], twin.head[0][number], atol=1e-5)
    assert metadata is not None
    assert metadata.part is not None
    assert (metadata.part.present, metadata.num_classes) == (case.present(), len(twin.kept))
    assert Path("sparse/result.json").stat().st_size < 400_000
    for again in ("all", policy):  # a head of the three classes has images of all of its own
        inputs = Inputs(weights=str(path), dataset=f"folder:{case.root}", classes=again, workers=0, device="cpu")
        checked = validate(inputs).results
        assert checked.decomposed is not None
        assert checked.original is not None
        assert checked.decomposed.correct == found.point.correct
        assert checked.decomposed.loss == pytest.approx(found.loss, abs=1e-4)
        assert checked.original.correct == results.original.correct
        assert checked.indices is not None
        assert checked.indices.k == (K, K)


def test_essential(case: Case, policy: str, twin: Twin) -> None:
    settings = EssentialSettings(indices=indices_file(case, policy), noise="zero", controls=3)
    results = essential(case.inputs(policy), settings).results
    features, (_, labels) = np.array(twin.features("test")), twin.images("test")
    classes = twin.frequent(K)
    assert set(results.by_class("ours")) == {str(number) for number in twin.present}
    for number in twin.present:
        own = np.array([label == number for label in labels])
        at, elsewhere = features[own].copy(), np.zeros_like(features[own])
        at[:, classes[number]] = 0
        elsewhere[:, classes[number]] = features[own][:, classes[number]]
        found = results.by_class("ours")[str(number)]
        truth = [number] * int(own.sum())
        assert found.images == len(truth)
        assert found.clean == correct(twin.logits(features[own].tolist()), truth)
        assert found.noise_at_inf == correct(twin.logits(at.tolist()), truth)
        assert found.noise_at_noninf == correct(twin.logits(elsewhere.tolist()), truth)


def test_mutual_information(case: Case, policy: str, twin: Twin) -> None:
    path = indices_file(case, policy)
    of_file = mutual_info(Inputs(), MutualInfoSettings(indices=[f"ours={path}"], num_features=_width(twin)))
    ranked = mutual_info(case.inputs(policy), MutualInfoSettings(k=[K]))
    classes = twin.frequent(K)
    members = [[j in classes[number] for j in range(_width(twin))] for number in twin.present]
    expected = [[mutual_info_score(a, b) for b in members] for a in members]
    for document in (of_file, ranked):
        found = document.results.sets["ours"][str(K)]
        np.testing.assert_allclose(found.matrix, expected, atol=1e-6)
        assert found.mean == pytest.approx(np.mean(expected), abs=1e-9)
        assert found.classes == (twin.present if policy == "all" else None)
        used = {j for number in twin.present for j in classes[number]}
        assert found.unused == _width(twin) - len(used)


def _width(twin: Twin) -> int:
    return len(twin.head[0][0])


def test_filters(case: Case, policy: str, twin: Twin) -> None:
    number = twin.present[1]
    settings = FiltersSettings(class_name=str(number), indices=indices_file(case, policy), images=3)
    results = filters(case.inputs(policy), settings).results
    features, labels, classes = np.array(twin.features("test")), twin.images("test")[1], twin.frequent(K)
    assert results.class_number == number
    assert {info.feature for info in results.filters} == set(classes[number])
    for info in results.filters:
        values = features[:, info.feature]
        own = [value for value, label in zip(values, labels, strict=True) if label == number]
        assert info.mean == pytest.approx(np.mean(own), abs=1e-4)
        assert info.weight == pytest.approx(twin.head[0][number][info.feature], abs=1e-6)
        assert [image.value for image in info.images] == pytest.approx(sorted(values, reverse=True)[:3], abs=1e-4)
        sharing = [other for other in twin.present if other != number and info.feature in classes[other]]
        assert len(info.shared_with) == len(sharing)


def test_atlas_leaves_classes_alone_that_keep_all_features(case: Case, policy: str, twin: Twin) -> None:
    path = indices_file(case, policy)
    results = atlas(case.inputs(policy), AtlasSettings(path, images=1)).results
    classes, used = twin.frequent(K), {j for number in twin.present for j in twin.frequent(K)[number]}
    assert {one.feature for one in results.features} == used
    whole = [number for number in range(len(twin.kept)) if number not in twin.present]
    assert len(results.kept_whole) == len(whole)
    features, labels = np.array(twin.features("test")), np.array(twin.images("test")[1])
    weight, bias = (np.array(part) for part in twin.head)
    mask = np.array([[c in whole or j in classes[c] for j in range(_width(twin))] for c in range(len(twin.kept))])
    for one in results.features:
        assert sorted(use.class_number for use in one.used_by) == [c for c in twin.present if one.feature in classes[c]]
        without = mask.copy()
        without[twin.present, one.feature] = False
        logits = features @ (weight * without).T + bias
        assert one.lost.correct == int((logits.argmax(1) == labels).sum())
    if whole:
        name = results.kept_whole[0]
        with pytest.raises(InputError, match=f"The class {name} keeps all features, as it has no training images"):
            atlas(case.inputs(policy), AtlasSettings(path, classes=[str(whole[0])]))


def test_selectivity_is_of_the_classes_with_images(case: Case, policy: str, twin: Twin) -> None:
    layer = twin.study.head.name
    name = {"resnet20-digits": "stem", "resnet18": "relu"}[case.model]
    found = selectivity(case.inputs(policy), SelectivitySettings(layers=[name])).results.layers[name]
    other = selectivity(
        case.inputs({"all": "present", "present": "all"}[policy]), SelectivitySettings(layers=[name])
    ).results.layers[name]
    assert layer
    assert set(found.per_class) == {str(number) for number in twin.present}
    per_class = list(found.per_class.values())
    assert per_class == list(other.per_class.values())
    assert found.psi_mean == pytest.approx(np.mean([one.psi_mean for one in per_class]))
    assert found.class_selectivity == pytest.approx(other.class_selectivity)


def test_explain(case: Case, policy: str, twin: Twin) -> None:
    settings = ExplainSettings(indices_of=[0, 7], indices=indices_file(case, policy))
    results = explain(case.inputs(policy), settings).results
    features, classes = twin.features("test"), twin.frequent(K)
    full, small = twin.logits(features), twin.logits(features, classes)
    for number, found in zip((0, 7), results.explanations, strict=True):
        assert found.label == twin.images("test")[1][number]
        assert found.predicted == full[number].index(max(full[number]))
        assert found.original is not None
        assert found.decomposed is not None
        for scores, logits in ((found.original, full[number]), (found.decomposed, small[number])):
            best = sorted(range(len(logits)), key=lambda c, logits=logits: -logits[c])[: len(scores)]
            assert [score.logit for score in scores] == pytest.approx([logits[c] for c in best], abs=1e-3)
        assert found.sums is not None
        assert found.sums.filters == classes[found.predicted]
        assert found.sums.own + found.sums.bias == pytest.approx(small[number][found.predicted], abs=1e-3)


def test_finetune_and_its_checkpoint(case: Case, policy: str, twin: Twin) -> None:
    tuning = {"epochs": 1, "batch_size": 8, "lr": 0.01, "val_split": 0.0, "weight_decay": 0.1, "optimizer": "sgd"}
    request = Request(case.inputs(policy, use_cache=False), tuning, folder=Path("run"))
    results = finetune(request, FinetuneSettings(k=K)).results
    features, labels, classes = twin.features("test"), twin.images("test")[1], twin.frequent(K)
    assert results.original is not None
    assert results.original.correct == correct(twin.logits(features), labels)
    assert results.before.correct == correct(twin.logits(features, classes), labels)
    assert results.before.loss == pytest.approx(cross_entropy(twin.logits(features, classes), labels), abs=1e-4)
    checkpoint = read_checkpoint(Path("run/last.pt"))
    assert checkpoint.metadata is not None
    assert checkpoint.metadata.num_classes == len(twin.kept)
    name = twin.study.head.name
    trained, bias = checkpoint.state_dict[f"{name}.weight"].double(), checkpoint.state_dict[f"{name}.bias"].double()
    for number in set(range(len(twin.kept))) - set(twin.present):
        np.testing.assert_allclose(trained[number], twin.head[0][number], atol=1e-6)
        assert float(bias[number]) == pytest.approx(twin.head[1][number], abs=1e-6)
    for number in twin.present:
        start = [twin.head[0][number][j] for j in classes[number]]
        assert float((trained[number, :K] - torch.tensor(start)).abs().max()) > 1e-4
    inputs = Inputs(weights="run/last.pt", dataset=f"folder:{case.root}", workers=0, device="cpu")
    again = validate(inputs).results
    assert again.decomposed is not None
    assert again.decomposed.correct == results.after.correct
    assert again.decomposed.loss == pytest.approx(results.after.loss, abs=1e-4)
    assert again.indices is not None
    assert again.indices.k == (K, K)


def test_the_page_shows_what_was_chosen(case: Case, policy: str, twin: Twin) -> None:
    results = Path("results")
    results.mkdir()
    extract_indices(
        case.inputs(policy), ExtractSettings(k=[K]), output=results / "ix.json", result=results / "extract.json"
    )
    mutual_info(case.inputs(policy), MutualInfoSettings(k=[K])).write(results / "mi.json")
    validate(case.inputs(policy), results / "ix.json").write(results / "validate.json")
    sparsify(case.inputs(policy), SparsifySettings(k=[K], method="frequency", l2=0.05), folder=results / "sparse")
    page = report([results])
    assert {"filters", "overlap", "sums"} <= {section.id for section in page.sections}
    used = {j for number in twin.present for j in twin.frequent(K)[number]}
    assert f"Classes by filters: {len(used)} of {_width(twin)} filters are used" in page.html


# --------------------------------------------------------------------------------------------------- other splits, maps


@pytest.fixture
def some_digits(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    """A data set of which five digits have test images, and three of these training images; folders are labels."""
    if case.outputs != 10:
        pytest.skip("once is enough")
    root, names = tmp_path / "some", [str(number) for number in range(10)]
    pixels, labels = open_digits("test").pixels_and_labels
    (root / "train").mkdir(parents=True)
    for name in case.numbers:
        (root / "train" / name).symlink_to(case.root / "train" / name)
    for digit in (0, 3, 5, 7, 9):
        folder = root / "test" / str(digit)
        folder.mkdir(parents=True)
        for number in (labels == digit).nonzero().flatten()[:4].tolist():
            Image.fromarray(pixels[number].permute(1, 2, 0).numpy()).save(folder / f"{number:04d}.png")

    def opened(split: str, _: Path, __: bool) -> FolderImages:
        return folder_images("some-digits", split, root / split, names, reference=root / "train")

    entry = DatasetEntry("some-digits", ("test", "train"), 10, "some digits", "not at all", opened)
    monkeypatch.setitem(DATASETS, "some-digits", entry)
    return case.inputs("present", dataset="some-digits")


def test_images_of_classes_without_training_images_are_left_out(
    some_digits: Inputs, caplog: pytest.LogCaptureFixture
) -> None:
    everything = validate(dataclasses.replace(some_digits, classes="all"))
    document = validate(some_digits)
    assert (everything.results.total, document.results.total) == (20, 12)
    assert document.dataset is not None
    assert (document.dataset.images, document.dataset.classes) == (12, ["3", "5", "9"])
    assert document.dataset.part is not None  # type: ignore[union-attr]
    assert "8 of the 20 images of some-digits test are of classes without training images (0, 7)" in caplog.text
    study = Study(some_digits, ("test",))
    whole = Study(dataclasses.replace(some_digits, classes="all"), ("test",))
    kept = [*range(4, 12), *range(16, 20)]
    assert study.in_split(range(12)) == kept
    assert torch.equal(study.bank.features, whole.bank.features[kept])
    assert [study.class_map.names[label] for label in study.labels.tolist()] == ["3"] * 4 + ["5"] * 4 + ["9"] * 4
    assert (len(study.dataset), len(study.split)) == (12, 20)
    assert study.label_in_split(4) == 0
    with pytest.raises(InputError, match="Image number 0 of some-digits test is of the class 0, which has no training"):
        explain(some_digits, ExplainSettings(indices_of=[0]))


def test_a_split_without_images_of_the_classes_is_refused(some_digits: Inputs, tmp_path: Path) -> None:
    for name in ("3", "5", "9"):
        shutil.rmtree(tmp_path / "some" / "test" / name)
    with pytest.raises(InputError, match=r"some-digits test has no image of a class that has training images"):
        validate(some_digits)


def test_training_images_that_are_not_there_decide_nothing(
    some_digits: Inputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(tmp_path / "some" / "train")
    caplog.set_level(logging.INFO)
    assert validate(some_digits).results.total == 20
    assert "Which classes have images is decided by the images of split test" in caplog.text


def test_a_class_map_says_which_class_an_image_is_of(case: Case, tmp_path: Path) -> None:
    root, names = tmp_path / "renamed", list(case.numbers)
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        for new, old in zip(("first", "second", "third"), names, strict=True):
            (root / split / new).symlink_to(case.root / split / old)
    renamed = dataclasses.replace(case, root=root)
    with pytest.raises(InputError, match=r"the class 'first' and 2 more|the data set has 3 classes") as caught:
        validate(renamed.inputs("all"))
    assert "class_map" in str(caught.value.hint)
    Path("map.csv").write_text("".join(f"{a},{b}\n" for a, b in zip(("first", "second", "third"), names, strict=True)))
    found = validate(renamed.inputs("present", class_map=Path("map.csv")))
    expected = validate(case.inputs("present"))
    assert found.results.original is not None
    assert expected.results.original is not None
    assert found.results.original.correct == expected.results.original.correct
    assert found.results.original.per_class == expected.results.original.per_class


# ------------------------------------------------------------------------------------------- images of other classes


@pytest.fixture
def others(case: Case, tmp_path: Path) -> Case:
    """Images of three digits of which one is among those of the case."""
    if case.outputs != 10:
        pytest.skip("once is enough")
    return other_digits(case, tmp_path / "others", (0, 1, 3))


def other_digits(case: Case, root: Path, digits: tuple[int, ...]) -> Case:
    for split, count in (("train", 6), ("test", 4)):
        pixels, labels = open_digits(split).pixels_and_labels
        for digit in digits:
            folder = root / split / str(digit)
            folder.mkdir(parents=True)
            for number in (labels == digit).nonzero().flatten()[:count].tolist():
                Image.fromarray(pixels[number].permute(1, 2, 0).numpy()).save(folder / f"{number:04d}.png")
    return dataclasses.replace(case, root=root, numbers={str(digit): digit for digit in digits})


def test_a_result_of_some_classes_is_no_set_of_others(case: Case, others: Case) -> None:
    extract_indices(case.inputs("present"), ExtractSettings(k=[K])).write(Path("result.json"))
    with pytest.raises(InputError, match=r"result.json is of the classes 3, 5, 9, but those .* are 0, 1, 3"):
        validate(others.inputs("present"), Path("result.json"))
    assert validate(case.inputs("present"), Path("result.json")).results.decomposed is not None


def test_rows_that_keep_everything_are_no_decomposition(
    case: Case, others: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    indices = indices_file(case, "all")
    found = validate(others.inputs("present"), indices).results
    assert found.indices is not None
    assert found.indices.k == (K, K)
    assert "no features of its own for 2 of the 3 classes that are studied (0, 1); they keep all" in caplog.text
    none = other_digits(case, tmp_path / "none", (0, 1, 2))
    with pytest.raises(InputError, match=r"indices.json has no features of its own for any of the 3 classes") as caught:
        validate(none.inputs("present"), indices)
    assert "classes all" in str(caught.value.hint)
    sparsify(case.inputs("all"), SparsifySettings(k=[K], method="frequency", l2=0.05), folder=Path("sparse"))
    with pytest.raises(InputError, match=r"sparse.safetensors has no features of its own for any of the 3 classes"):
        validate(none.inputs("present", weights=f"sparse/k{K}/sparse.safetensors"))


def test_training_images_that_do_not_fit_are_not_needed_to_measure(
    others: Case, caplog: pytest.LogCaptureFixture
) -> None:
    (others.root / "train" / "0").rename(others.root / "train" / "unicorn")
    shutil.rmtree(others.root / "test" / "0")
    caplog.set_level(logging.INFO)
    document = validate(others.inputs("all", split="test"))
    assert document.results.total == 8
    assert document.dataset is not None
    assert document.dataset.part.present == [1, 3]  # type: ignore[union-attr]
    assert "is decided by the images of split test, as the training images cannot be used" in caplog.text
    with pytest.raises(InputError, match="'unicorn' is not among the network's 10 classes"):
        validate(others.inputs("present", split="test"))


def test_no_training_image_is_looked_at_to_see_which_classes_there_are(others: Case) -> None:
    next((others.root / "train" / "0").iterdir()).write_bytes(b"no image")
    document = validate(others.inputs("present", split="test", skip_unreadable=0))
    assert document.results.total == 12
    assert document.dataset is not None
    assert document.dataset.part.present == [0, 1, 3]  # type: ignore[union-attr]
