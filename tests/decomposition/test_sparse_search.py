"""Sparse heads by every method: what is chosen, on which images, and what the heads are then."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from decompose_cli.decomposition import sampling, sparse_search
from decompose_cli.decomposition.index_set import IndexSet
from decompose_cli.decomposition.sparse_heads import SparseHead, fit_head
from decompose_cli.decomposition.sparse_methods import used_in
from decompose_cli.decomposition.sparse_search import Search, best_of
from decompose_cli.decomposition.sparse_settings import LADDER, SparsifySettings, parse_ks
from decompose_cli.errors import InputError
from decompose_cli.features.labelled import LabelledFeatures
from decompose_cli.sparse import cuts, qpm
from decompose_cli.sparse.elastic_net import elastic_net_path
from decompose_cli.sparse.problem import Problem

CLASSES, FEATURES = 4, 12


def data(seed: int = 0, count: int = 240) -> LabelledFeatures:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    centres = torch.randn(CLASSES, FEATURES, generator=generator)
    x = (centres[labels] + 1.5 * torch.randn(count, FEATURES, generator=generator)).relu()
    return LabelledFeatures(x, labels, centres, list("abcd"), bias=torch.zeros(CLASSES))


def found(images: LabelledFeatures, **settings: object) -> SparseHead:
    search = Search(images, SparsifySettings(**{"k": (3,), "l2": 1e-2, **settings}))  # type: ignore[arg-type]
    return search.head(best_of(search.candidates(search.settings.k), search.settings.k[0]))


def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("values", ["real", "binary"])
def test_a_pool_is_all_that_any_class_uses_and_the_head_is_that_of_these_features_alone(values: str) -> None:
    images = data()
    head = found(images, pool=5, method="backward", values=values)
    used = head.support.any(0)
    assert int(used.sum()) <= 5
    assert head.support.sum(1).tolist() == [3] * CLASSES
    columns = used.nonzero()[:, 0]
    alone = fit_head(
        images.of_features(columns),
        IndexSet(tuple(tuple(row[columns].nonzero()[:, 0].tolist()) for row in head.support), len(columns)),
        "real",
        1e-2,
    )
    if values == "real":
        assert torch.allclose(head.weight[:, columns], alone.weight, atol=1e-4)
    else:
        assert head.values is not None
        assert same(head.values.folded(), head.weight)
        assert head.values.mean.shape == (FEATURES,)
    assert same(torch.addmm(head.bias, images.features.double(), head.weight.t()), logits_on_z(images, head))


def logits_on_z(images: LabelledFeatures, head: SparseHead) -> Tensor:
    x = images.features.double()
    z = (x - x.mean(0)) / x.std(0, correction=0)
    return torch.addmm(head.on_z[:, -1], z, head.on_z[:, :-1].t())


def test_published_cuts_stand_as_they_are_and_are_tried_with_the_path() -> None:
    images = data()
    path = elastic_net_path(Problem(images.features, images.labels, CLASSES))
    for method, values, twin in (("sldd", "real", cuts.sldd), ("q-senn", "ternary", cuts.ternary)):
        head = found(images, method=method, values=values)
        assert head.l2 is None
        assert torch.allclose(head.on_z, twin(path, 3), atol=1e-6)
        assert (head.values is not None) == (values == "ternary")
        search = Search(images, SparsifySettings(k=(3,), method="elastic-net", values=values))  # type: ignore[arg-type]
        assert {one.method for one in search.candidates([3])} == {"elastic-net", method}


def test_sets_of_the_published_objective_are_kept() -> None:
    images = data()
    head = found(images, objective="qpm", pool=6)
    expected = qpm.select(Problem(images.features, images.labels, CLASSES), 3, size=6).support
    assert torch.equal(head.support, expected)
    assert head.values is not None
    assert torch.equal(head.values.integers != 0, expected)


@pytest.mark.parametrize("values", ["real", "nonnegative", "ternary", "binary"])
def test_the_features_of_an_index_file_are_kept(values: str) -> None:
    rows = ((0, 1, 2), (0, 1, 2), (5,), (3, 4, 5, 6))
    head = found(data(), indices=IndexSet(rows, source="file"), values=values)
    kept = tuple(tuple(sorted(row)) for row in head.index_set.classes)
    if values == "nonnegative":  # a weight that ends at zero leaves
        assert all(set(own) <= set(row) for own, row in zip(kept, rows, strict=True))
        assert int((head.weight != 0).sum()) == sum(map(len, kept))
        return
    assert kept == rows
    if values in ("ternary", "binary"):
        assert head.values is not None
        assert head.values.integers.abs().sum(1).tolist() == [3, 3, 1, 4]
        assert (int(head.values.integers.min()) < 0) == (values == "ternary")


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "contribution"},
        {"method": "backward"},
        {"method": "splicing"},
        {"method": "elastic-net"},
        {"method": "backward", "values": "nonnegative"},
        {"method": "mean", "values": "ternary"},
        {"method": "mean", "values": "binary"},
        {"objective": "qpm", "pool": 6},
    ],
)
def test_a_class_without_images_keeps_its_row_of_the_full_head(settings: dict[str, object]) -> None:
    whole = data()
    images = whole.of_images((whole.labels != 2).nonzero()[:, 0])
    head = found(images, **settings)
    assert whole.weight is not None
    assert torch.allclose(head.weight[2], whole.weight[2].double(), atol=1e-9)
    assert abs(float(head.bias[2])) < 1e-9
    assert head.index_set.classes[2] == tuple(range(FEATURES))
    sizes = used_in(head, torch.tensor([False, False, True, False])).sum(1).tolist()
    assert sizes[2] == 0
    assert sizes == [3, 3, 0, 3] or settings.get("values") == "nonnegative"
    # Its logits stay in the softmax, its mean probability that of the full head: with labels alone the others' biases
    # would rise together until the class is never predicted.
    logits = torch.addmm(head.bias, images.features.double(), head.weight.t())
    full = images.features.double() @ whole.weight.double().t()
    means = torch.softmax(logits, 1).mean(0), torch.softmax(full, 1).mean(0)
    assert abs(float(means[0][2] - means[1][2])) < 1e-4
    right = head.predict(whole.features, whole.labels).is_correct
    assert int(right[whole.labels == 2].sum()) > 20, "of 60, none of which was fitted"


def test_a_class_with_one_image_is_fitted() -> None:
    whole = data()
    kept = (whole.labels != 2) | (torch.arange(len(whole.labels)) == 2)
    images = whole.of_images(kept.nonzero()[:, 0])
    for values in ("real", "binary"):
        head = found(images, method="backward", values=values)
        assert head.support.sum(1).tolist() == [3] * CLASSES
        assert bool(torch.isfinite(head.weight).all())


def test_classes_count_the_same_where_they_are_balanced() -> None:
    whole = data()
    images = whole.of_images(((whole.labels != 2) | (torch.arange(len(whole.labels)) < 60)).nonzero()[:, 0])
    head = found(images, method="mean", class_weights="balanced")
    logits = torch.addmm(head.bias, images.features.double(), head.weight.t())
    residual = torch.softmax(logits, 1) - torch.nn.functional.one_hot(images.labels, CLASSES)
    weights = 1 / images.labels.bincount().double()[images.labels]
    assert float((weights @ residual).abs().max() / CLASSES) < 1e-3 < float(residual.mean(0).abs().max())


def test_soft_targets_are_those_of_the_full_head() -> None:
    images = data()
    head = found(images, method="mean", distil=True)
    assert images.weight is not None
    aims = torch.softmax(images.features @ images.weight.t(), 1).double()
    probabilities = torch.softmax(torch.addmm(head.bias, images.features.double(), head.weight.t()), 1)
    assert float((probabilities - aims).mean(0).abs().max()) < 1e-3
    truth = torch.nn.functional.one_hot(images.labels, CLASSES)
    assert float((probabilities - truth).mean(0).abs().max()) > 3e-3


def test_images_that_choose_are_not_fitted_meanwhile() -> None:
    images, others = data(), data(seed=1, count=40)
    given = Search(images, SparsifySettings(k=(2,)), (others.features, others.labels))
    assert given.chooser.fitted is given.data
    assert given.final is given.part is given.searched
    own = Search(images, SparsifySettings(k=(2,)))
    assert len(own.chooser.labels) == 48
    assert len(own.chooser.fitted.labels) == 192
    (one,) = own.candidates([2])[:1]
    assert one.predictions.total == 48


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "backward"},
        {"method": "backward", "values": "binary"},
        {"method": "backward", "values": "ternary", "pool": 6},
        {"method": "backward", "values": "binary", "pool": 6},
        {"method": "mean", "pool": 6},
    ],
)
def test_many_images_are_tried_on_a_sample_with_every_class_in_it(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = data()
    kept = (whole.labels != 2) | (torch.arange(len(whole.labels)) == 2)
    images = whole.of_images(kept.nonzero()[:, 0])
    monkeypatch.setattr(sparse_search, "MOST_PRODUCTS", 40 * FEATURES * CLASSES)
    search = Search(images, SparsifySettings(k=(2,), l2=1e-2, **settings))  # type: ignore[arg-type]
    assert len(search.searched.data.labels) <= 45
    assert set(search.searched.data.labels.tolist()) == set(range(CLASSES))
    head = search.head(best_of(search.candidates([2]), 2))
    assert head.support.sum(1).tolist() == [2] * CLASSES
    assert int(head.support.any(0).sum()) <= 6 or "pool" not in settings
    logits = torch.addmm(head.bias, images.features.double(), head.weight.t())
    residual = torch.softmax(logits, 1) - torch.nn.functional.one_hot(images.labels, CLASSES)
    assert float(residual.mean(0).abs().max()) < 1e-3, "weights are fitted on all images"


@pytest.mark.parametrize("has_others", [False, True])
def test_of_very_many_images_some_take_part_and_the_bank_is_not_copied(
    has_others: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features are read in parts of a sample alone; which images it is made of depends on the seed and the classes."""
    images, other = data(count=480), data(7, 40)
    monkeypatch.setattr(sampling, "MOST_FITTED", 100 * FEATURES * CLASSES)
    monkeypatch.setattr(sampling, "MOST_SEARCHED", 120)
    monkeypatch.setattr(sparse_search, "MOST_PRODUCTS", 40 * FEATURES * CLASSES)
    copied: list[int] = []
    original = LabelledFeatures.of_images

    def counting(one: LabelledFeatures, numbers: Tensor) -> LabelledFeatures:
        copied.append(len(numbers))
        return original(one, numbers)

    monkeypatch.setattr(LabelledFeatures, "of_images", counting)
    choosing = (other.features, other.labels) if has_others else None
    search = Search(images, SparsifySettings(k=(2,), method="mean"), choosing)
    part, few = len(search.data.labels), len(search.chooser.fitted.labels)
    assert 100 <= part <= 100 + CLASSES
    assert all(25 <= count <= 26 for count in search.data.labels.bincount().tolist())
    assert len(search.chooser.labels) in ([40] if has_others else range(19, 23))
    assert 40 <= few <= 44
    assert copied == [part, few]  # and not the images that are fitted before they are drawn from
    head = search.head(best_of(search.candidates([2]), 2))
    assert head.loss == pytest.approx(head.loss_on(search.data.features, search.data.labels))
    again = Search(images, SparsifySettings(k=(2,), method="mean", l2=0.01), choosing)
    assert torch.equal(again.data.features, search.data.features)
    monkeypatch.setattr(sampling, "MOST_FITTED", 1)
    assert len(Search(images, SparsifySettings(k=(2,), method="mean", l2=0.01), choosing).data.labels) in range(60, 65)
    monkeypatch.setattr(sampling, "MOST_FITTED", 480 * FEATURES * CLASSES)
    assert Search(images, SparsifySettings(k=(2,), method="mean", l2=0.01), choosing).data.labels is images.labels


def test_soft_targets_are_made_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = data()
    images = whole.of_images((whole.labels != 2).nonzero()[:, 0])
    settings = [SparsifySettings(k=(2,), method="mean", l2=0.01, distil=distil) for distil in (True, False)]
    at_once = [Search(images, each).data.targets for each in settings]
    monkeypatch.setattr("decompose_cli.features.blocks.VALUES_AT_ONCE", 7 * FEATURES)
    for expected, each in zip(at_once, settings, strict=True):
        found = Search(images, each).data.targets
        assert found is not None
        assert expected is not None
        assert torch.allclose(found, expected, atol=1e-6)
        assert torch.allclose(found.sum(1), torch.ones(len(found)))
        assert float(found[:, 2].min()) > 0


@pytest.mark.parametrize(("method", "values"), [("sldd", "real"), ("q-senn", "ternary")])
def test_a_published_cut_is_that_of_the_images_it_was_found_on(
    method: str, values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = data()
    monkeypatch.setattr(sparse_search, "MOST_PRODUCTS", 100 * FEATURES * CLASSES)
    search = Search(images, SparsifySettings(k=(2,), method=method, values=values, l2=1e-2))  # type: ignore[arg-type]
    head = search.head(best_of(search.candidates([2]), 2))
    drawn = search.searched.data
    path = elastic_net_path(Problem(drawn.features, drawn.labels, CLASSES))
    published = (cuts.sldd if method == "sldd" else cuts.ternary)(path, 2)
    x = drawn.features.double()
    z = (x - x.mean(0)) / x.std(0, correction=0)
    expected = torch.addmm(published[:, -1], z, published[:, :-1].t())
    assert torch.allclose(torch.addmm(head.bias, x, head.weight.t()), expected, atol=1e-6)
    assert head.loss == pytest.approx(head.loss_on(images.features, images.labels))


def test_weights_that_end_at_zero_are_no_features_of_a_class() -> None:
    images = data()
    assert images.weight is not None
    order = images.weight.argsort(dim=1)
    rows = [order[0, :2].tolist(), *order[1:, -2:].tolist()]  # what speaks most against the first, for the others
    head = found(images, indices=IndexSet(tuple(map(tuple, rows))), values="nonnegative")
    assert torch.equal(head.support, head.weight != 0)
    assert head.index_set.classes[0] == ()
    assert bool((head.weight >= 0).all())
    against = IndexSet(tuple(map(tuple, order[:, :1].tolist())))
    with pytest.raises(InputError, match="no chosen feature speaks for its class"):
        found(images, indices=against, values="nonnegative")


def test_real_weights_are_pulled_to_the_full_head_and_so_is_the_baseline() -> None:
    images = data()
    strong = SparsifySettings(k=(3,), method="mean", toward="dense", l2=1e4)
    search = Search(images, strong)
    head = search.head(best_of(search.candidates([3]), 3))
    assert images.weight is not None
    kept = torch.where(head.support, images.weight.double(), 0.0)
    assert torch.allclose(head.weight, kept, atol=1e-3)
    assert torch.allclose(search.refitted.weight, images.weight.double(), atol=1e-3)
    # Towards zero, so strong a penalty leaves next to nothing.
    assert float(found(images, method="mean", l2=1e4).weight.abs().max()) < 1e-3
    chosen = Search(images, SparsifySettings(k=(3,), method="mean", toward="dense")).candidates([3])[0].l2
    zero = Search(images, SparsifySettings(k=(3,), method="mean")).candidates([3])[0].l2
    assert chosen != zero, "the strength is chosen for what it is used for"


def test_what_is_chosen_is_said_and_nothing_needs_images_that_choose() -> None:
    images = data()
    assert Search(images, SparsifySettings(k=(2,))).chosen == ["method", "strength"]
    assert Search(images, SparsifySettings(k=(2,), max_drop=1.0, l2=1e-2)).chosen == ["method", "k"]
    alone = images.of_images(torch.arange(CLASSES))  # one image of each class
    given = Search(alone, SparsifySettings(k=(2,), method="weight", l2=1e-2))
    assert given.chosen == []
    assert given.head(given.candidates([2])[0]).support.sum(1).tolist() == [2] * CLASSES
    with pytest.raises(InputError, match="No class has two training images"):
        Search(alone, SparsifySettings(k=(2,), method="weight"))


def test_the_loss_of_a_small_k_is_bounded_against_the_full_head_fitted_alike() -> None:
    search = Search(data(), SparsifySettings(k=(1, 6), method="backward", max_drop=1.0))
    tried = search.candidates([1, 6])
    bounds = search.bounds({k: best_of(tried, k) for k in (1, 6)}, [1, 6])
    assert bounds[1] > bounds[6] > 0


def test_without_a_full_head_one_is_fitted() -> None:
    images = dataclasses.replace(data(), weight=None, bias=None)
    head = found(images, method="contribution")
    assert head.support.sum(1).tolist() == [3] * CLASSES
    for name in ("distil", "toward"):
        with pytest.raises(InputError, match="needs a full head"):
            Search(images, SparsifySettings(**{name: True if name == "distil" else "dense"}))  # type: ignore[arg-type]
    without = images.of_images((images.labels != 2).nonzero()[:, 0])
    with pytest.raises(InputError, match="There are no training images of 1 of the 4 classes"):
        Search(without, SparsifySettings())


def test_features_that_never_vary_are_refused() -> None:
    images = dataclasses.replace(data(), features=torch.ones(240, FEATURES))
    with pytest.raises(InputError, match="All features are the same for every training image"):
        Search(images, SparsifySettings())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"k": ()}, "No k was given"),
        ({"k": (0,)}, "k 0 is not at least 1"),
        ({"pool": 0}, "pool 0 is not at least 1"),
        ({"pool": 2, "k": (3,)}, "k 3 is more than the 2 features of pool"),
        ({"max_drop": float("nan")}, "max_drop nan is not between 0 and 100"),
        ({"max_drop": -1.0}, "max_drop -1 is not between"),
        ({"objective": "qpm", "method": "mean"}, "qpm chooses features itself"),
        ({"objective": "qpm", "values": "real"}, "qpm has binary weights"),
        ({"method": "q-senn", "values": "real"}, "q-senn has ternary weights: add values ternary"),
        ({"method": "sldd", "values": "binary"}, "sldd has real weights"),
        ({"toward": "dense", "values": "ternary"}, "toward dense has no effect"),
        ({"toward": "dense", "method": "sldd"}, "toward dense has no effect with method sldd"),
        ({"class_weights": "even"}, "class_weights 'even' is unknown"),
        ({"indices": IndexSet(((0,),)), "pool": 3, "k": (1,)}, "leave out pool"),
        ({"indices": IndexSet(((0,),)), "method": "mean", "k": (1,)}, "leave out method"),
    ],
)
def test_what_contradicts_itself_is_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        SparsifySettings(**settings)  # type: ignore[arg-type]
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"k": (FEATURES + 1,)}, "k 13 is more than the 12 features"),
        ({"pool": FEATURES + 1}, "pool 13 is more than the 12 features"),
        ({"indices": IndexSet(((0,), (1,))), "k": (1,)}, "has 2 classes, but the network has 4"),
        ({"objective": "qpm", "pool": 3, "k": (3,)}, "fewer than 4 sets of 3"),
        ({"values": "binary", "k": (12,)}, "k 12 cannot be had with values binary: 12 features that vary have fewer"),
    ],
)
def test_what_does_not_fit_the_features_is_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        Search(data(), SparsifySettings(**settings)).candidates([3])  # type: ignore[arg-type]
    assert sentence in str(caught.value)


def test_numbers_of_features_are_ascending_and_each_once() -> None:
    assert parse_ks("5,1,5, 2", None, None) == [1, 2, 5]
    assert parse_ks(None, None, None) == [5]
    assert parse_ks(None, None, 1.0) == []
    assert Search(data(), SparsifySettings(k=(), max_drop=1.0)).settings.k == [k for k in LADDER if k <= FEATURES]
    assert Search(data(), SparsifySettings(k=(), max_drop=1.0, pool=5)).settings.k == [1, 2, 3, 5]
    few = SparsifySettings(k=(), max_drop=1.0, pool=5, values="binary")
    assert Search(data(), few).settings.k == [1, 2, 3], "five features have one set of five"
    assert parse_ks(None, IndexSet(((0, 1), (2,))), None) == [2]
    with pytest.raises(InputError, match="both say which filters"):
        parse_ks("3", IndexSet(((0,),)), None)
    with pytest.raises(InputError):
        parse_ks("5,", None, None)
