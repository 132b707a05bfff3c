"""Files that say which class of a data set is which class of a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from decompose_cli.datasets.class_map import read_class_map
from decompose_cli.datasets.classes import ClassMap, ClassNames, match_classes
from decompose_cli.errors import InputError

MODEL = ClassNames(("cat", "dog", "sea lion", "7"), ("n1", "n2", "n3", "n4"))
GUESS = ClassNames(MODEL.names, MODEL.ids, certain=False)


def written(name: str, text: str | bytes) -> Path:
    path = Path(name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.json", '{"kitty": "cat", "hound": "n2", "x": 2}'),
        ("map.csv", "kitty,cat\nhound,n2\nx,2\n"),
        ("map.txt", "\ufeffdataset,network\r\nkitty , cat\r\n\r\nhound,n2\r\nx,2\r\n"),
        ("map.csv", '"kitty","cat"\nhound,n2\nx,2\nx,2\n'),
        ("map.csv", '"kitty";"cat"\nhound;n2\nx;2\n'),
        ("map.tsv", "dataset\tnetwork\nkitty\tcat\nhound\tn2\nx\t2\n"),
    ],
)
def test_json_and_lines_say_the_same(name: str, text: str) -> None:
    found = read_class_map(written(name, text))
    assert {key: str(value) for key, value in found.items()} == {"kitty": "cat", "hound": "n2", "x": "2"}


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("map.csv", "", "The class map map.csv is empty."),
        ("map.csv", b"\xff\xfe\x00", "The class map map.csv is not a text file."),
        ("map.csv", "kitty\n", "The class map map.csv has the line 'kitty', which is not two values: "),
        ("map.csv", "a,b,c\n", "has the line 'a,b,c', which is not two values"),
        ("map.csv", "a,\n", "has the line 'a,', which is not two values"),
        ("map.csv", 'a,"b\n', "The class map map.csv is no table: "),
        ("map.csv", "a,b\na,c\n", "The class map map.csv gives 'a' two classes: b and c."),
        ("map.csv", "dataset,network\n", "The class map map.csv names no class."),
        ("map.json", "[]", 'The class map map.json is no object such as {"my cat": "tabby"}.'),
        ("map.json", "{}", "The class map map.json names no class."),
        ("map.json", '{"a": 1.5}', "The class map map.json gives 'a' neither a name nor a number, but 1.5."),
        ("map.json", '{"a": true}', "gives 'a' neither a name nor a number, but true."),
        ("map.json", '{"a": ["b"]}', "gives 'a' neither a name nor a number, but [\"b\"]."),
        ("map.json", '{"a": "b", "a": "c"}', "The class map map.json is not valid JSON: the key 'a' stands twice."),
        ("map.json", "{", "The class map map.json is not valid JSON: "),
        ("map.json", '{"a":' + "[" * 100_000, "The class map map.json is not valid JSON: "),
    ],
)
def test_a_file_of_another_form_is_refused_by_a_sentence(name: str, text: str | bytes, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        read_class_map(written(name, text))
    assert sentence in caught.value.message


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"^The class map nowhere\.csv does not exist\.$"):
        read_class_map(Path("nowhere.csv"))
    with pytest.raises(InputError, match=r"^The class map \. is a folder, not a file\.$"):
        read_class_map(Path())


@pytest.mark.parametrize("wanted", ["sea lion", "Sea_Lion", "n3", "2", 2])
def test_a_class_that_is_given_is_a_name_an_id_or_a_number(wanted: str | int) -> None:
    found = match_classes(("dog", "seal"), None, MODEL, 4, what="x", given={"seal": wanted})
    assert found.outputs == (1, 2)
    assert (found.names, found.ids, found.by_position) == (MODEL.names, MODEL.ids, False)


def test_what_is_given_goes_before_names_and_ids() -> None:
    assert match_classes(("dog", "cat"), None, MODEL, 4, what="x", given={"dog": "cat", "cat": "dog"}).outputs == (0, 1)
    assert match_classes(("Hund",), ("n2",), MODEL, 4, what="x", given={"n2": 0}).outputs == (0,)
    # A name that looks like a number is a name first.
    assert match_classes(("seven",), None, MODEL, 4, what="x", given={"seven": 7}).outputs == (3,)


def test_a_guess_that_matches_no_name_is_not_taken_by_position_where_classes_are_given() -> None:
    with pytest.raises(InputError, match="'b' and 2 more"):
        match_classes(("a", "b", "c", "d"), None, GUESS, 4, what="x", given={"a": "cat"})


def test_outputs_without_names_are_given_by_number() -> None:
    found = match_classes(("a", "b"), None, None, 4, what="x", given={"a": 3, "b": "0"})
    assert found.outputs == (3, 0)
    assert found.names == ("b", "1", "2", "a")
    with pytest.raises(InputError, match="the class 'b' is not among the network's 4 classes"):
        match_classes(("a", "b"), None, None, 4, what="x", given={"a": 3})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"cats": 0}, "class_map names the class 'cats', which is not among the data set's (cat, dog)."),
        ({"cat": "cow"}, "net: class_map gives 'cat' the class 'cow', which is neither a name, an id nor a number of "),
        ({"cat": 4}, "net: class_map gives 'cat' the class 4, which is neither"),
        ({"cat": "-1"}, "net: class_map gives 'cat' the class '-1', which is neither"),
        ({"cat": "9" * 5000}, f"net: class_map gives 'cat' the class '{'9' * 59}..., which is neither"),
        ({"cat": "dog"}, "net: 'cat' and 'dog' are both class 1 of the network."),
    ],
)
def test_classes_that_are_not_there_are_named(given: dict[str, str | int], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        match_classes(("cat", "dog"), None, MODEL, 4, what="net", given=given)
    assert sentence in caught.value.message
    assert "cats" not in given or caught.value.hint == "Did you mean cat?"


@pytest.mark.parametrize("model", [None, ClassNames(("ant", "bee", "cow", "dog", "emu", "fox"))])
def test_numbers_that_are_not_given_stand_for_themselves(model: ClassNames | None) -> None:
    numbers = tuple("01234")  # of which 1, 3 and 4 have images

    def found(given: dict[str, str | int], present: list[int]) -> tuple[tuple[int, ...], tuple[str, ...], bool]:
        matched = match_classes(numbers, None, model, 6, what="x", present=present, is_numbered=True, given=given)
        return matched.outputs, matched.names, matched.by_position

    names = tuple("012345") if model is None else tuple(model.names)
    assert found({"3": 5}, [1, 3, 4]) == ((-1, 1, -1, 5, 4), names, True)
    assert found({"3": 0}, [1, 3, 4]) == ((-1, 1, -1, 0, 4), names, True), (
        "class 0 has no images, so its output is free"
    )
    assert found({"1": 1, "3": 5, "4": 0}, [1, 3, 4])[0] == (-1, 1, -1, 5, 0)
    with pytest.raises(InputError, match="x: '3' and '4' are both class 4 of the network"):
        found({"3": 4}, [1, 3, 4])
    with pytest.raises(InputError, match="the class '6' is not among") as caught:
        match_classes(tuple("0123456"), None, model, 6, what="x", present=[1, 6], is_numbered=True, given={"1": 0})
    assert caught.value.hint == "Say in the file of class_map which class of the network each of them is."


def test_numbers_that_are_also_the_names_of_outputs_are_names() -> None:
    model = ClassNames(tuple("543210"))
    matched = match_classes(
        tuple("01234"), None, model, 6, what="x", present=[1, 3], is_numbered=True, given={"3": "4"}
    )
    assert (matched.outputs, matched.by_position) == ((-1, 4, -1, 1, -1), False), "class 4 has no images"


def test_several_classes_of_one_name_are_not_taken_for_one() -> None:
    with pytest.raises(InputError, match="net: two classes that are called 'cat' are both class 0 of the network"):
        match_classes(("cat", "cat"), None, MODEL, 4, what="net")


def test_a_partial_match_says_how_to_settle_it() -> None:
    with pytest.raises(InputError) as caught:
        match_classes(("cat", "cow"), None, GUESS, 4, what="net")
    assert "the class 'cow' is not among the network's 4 classes" in caught.value.message
    assert "(class_map)" in str(caught.value.hint)
    with pytest.raises(InputError) as caught:
        match_classes(("cow", "hen"), None, None, 4, what="net")
    assert caught.value.hint == (
        "Say with a file of names and numbers which is which (class_map). If they are other classes, 'decompose train "
        "--new-head' fits a head for them."
    )


def test_the_map_to_some_of_the_outputs() -> None:
    found = match_classes(("dog", "n3", "cat"), None, MODEL, 4, what="x").of_classes([1, 2])
    assert (found.outputs, found.names, found.ids) == ((0, 1, -1), ("dog", "sea lion"), ("n2", "n3"))


@pytest.mark.parametrize("ids", [("n1", "n2", "n3", "n4"), None])
def test_an_output_is_called_by_a_text_that_means_it(ids: tuple[str, ...] | None) -> None:
    found = ClassMap((0, 1, 2, 3), ("crane", "dog", "crane", "1"), by_position=False, ids=ids)
    texts = [found.called(output) for output in range(4)]
    assert texts == (["n1", "dog", "n3", "1"] if ids else ["0", "dog", "2", "1"])
    given = dict(zip("abcd", texts, strict=True))
    again = match_classes("abcd", None, ClassNames(found.names, found.ids), 4, what="x", given=given)
    assert again.outputs == (0, 1, 2, 3)
