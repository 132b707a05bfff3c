"""Which output of the network a class of the data set is."""

from __future__ import annotations

import pytest

from decompose_cli.datasets.classes import ClassNames, match_classes
from decompose_cli.datasets.imagenet import imagenet_classes
from decompose_cli.datasets.registry import known_class_names
from decompose_cli.errors import InputError

MODEL = ClassNames(("cat", "dog", "sea lion"), ("n1", "n2", "n3"))
GUESS = ClassNames(MODEL.names, MODEL.ids, certain=False)


def test_classes_are_matched_by_name_in_any_order() -> None:
    matched = match_classes(("sea lion", "cat"), None, MODEL, 3, what="x")
    assert matched.outputs == (2, 0)
    assert matched.names == ("cat", "dog", "sea lion")
    assert not matched.by_position


@pytest.mark.parametrize("spelling", ["sea lion", "sea_lion", "Sea-Lion", "SEA LION", " sea lion "])
def test_spelling_of_a_name_does_not_matter(spelling: str) -> None:
    assert match_classes((spelling,), None, MODEL, 3, what="x").outputs == (2,)


def test_wordnet_ids_go_before_names() -> None:
    assert match_classes(("n3", "n1"), None, MODEL, 3, what="x").outputs == (2, 0)
    assert match_classes(("cat", "dog"), ("n2", "n3"), MODEL, 3, what="x").outputs == (1, 2)
    assert match_classes(("cat", "dog"), ("n9", "n3"), MODEL, 3, what="x").outputs == (0, 2)


def test_class_that_the_network_does_not_have_is_named() -> None:
    with pytest.raises(InputError, match=r"my-net: the class 'horse' is not among the network's 3 classes \(cat, dog"):
        match_classes(("cat", "horse"), None, MODEL, 3, what="my-net")
    with pytest.raises(InputError, match="the class 'horse' and 1 more are not among"):
        match_classes(("cat", "horse", "cow"), None, MODEL, 3, what="my-net")


def test_classes_without_images_need_no_match() -> None:
    matched = match_classes(("cat", "horse", "dog"), None, MODEL, 3, what="x", present=[0, 2])
    assert matched.outputs == (0, -1, 1)


def test_certain_names_are_not_overruled_by_equal_numbers() -> None:
    with pytest.raises(InputError, match="'a' and 2 more"):
        match_classes(("a", "b", "c"), None, MODEL, 3, what="x")


def test_guessed_names_are_overruled_where_none_matches() -> None:
    matched = match_classes(("a", "b", "c"), None, GUESS, 3, what="x")
    assert matched.outputs == (0, 1, 2)
    assert matched.names == ("a", "b", "c")
    assert matched.by_position


def test_guessed_names_of_which_some_match_are_refused() -> None:
    with pytest.raises(InputError, match="'b' and 1 more"):
        match_classes(("cat", "b", "c"), None, GUESS, 3, what="x")


@pytest.mark.parametrize("model", [None, GUESS])
def test_without_names_the_numbers_must_agree(model: ClassNames | None) -> None:
    with pytest.raises(InputError, match="my-net: the data set has 2 classes, but the network has 3"):
        match_classes(("a", "b"), None, model, 3, what="my-net")


def test_names_that_are_not_as_many_as_the_outputs_are_not_used() -> None:
    assert match_classes(("a", "b"), None, MODEL, 2, what="x").by_position


def test_name_that_several_classes_share_stands_for_none() -> None:
    model = ClassNames(("crane", "dog", "crane"), ("n1", "n2", "n3"))
    with pytest.raises(InputError, match="'crane'"):
        match_classes(("crane", "dog"), None, model, 3, what="x")
    assert match_classes(("n1", "n3"), None, model, 3, what="x").outputs == (0, 2)


@pytest.mark.parametrize(
    ("dataset", "count", "first"), [("cifar10", 10, "airplane"), ("cifar100", 100, "apple"), ("digits", 10, "0")]
)
def test_known_names(dataset: str, count: int, first: str) -> None:
    names = known_class_names(dataset, certain=True)
    assert names is not None
    assert (len(names.names), names.names[0], names.ids, names.certain) == (count, first, None, True)
    guess = known_class_names(dataset, certain=False)
    assert guess is not None
    assert not guess.certain


def test_known_names_of_imagenet() -> None:
    names = known_class_names("imagenet", certain=True)
    assert names is not None
    assert (names.ids, names.names) == imagenet_classes()


@pytest.mark.parametrize("dataset", [None, "folder:x", "tiny-imagenet"])
def test_unknown_names(dataset: str | None) -> None:
    assert known_class_names(dataset, certain=True) is None
