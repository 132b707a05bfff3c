"""Reading, checking and writing index sets."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from decompose_cli.decomposition.index_set import (
    FORMAT,
    FORMAT_VERSION,
    IndexSet,
    index_set_from_json,
    read_index_set,
    write_index_set,
)
from decompose_cli.errors import DecomposeError, InputError


def document(**changes: Any) -> dict[str, Any]:
    """Our own layout, valid unless changed; a change to ... takes the entry out."""
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "num_features": 8,
        "provenance": {"method": "frequency"},
        "classes": [[7, 2], [0, 1]],
        **changes,
    }
    return {name: value for name, value in content.items() if value is not ...}


def read(tmp_path: Path, content: Any) -> IndexSet:
    path = tmp_path / "indices.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_index_set(path)


# ---------------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("content", "classes", "num_features"),
    [
        ({"0": [7, 2], "1": [0, 1]}, ((7, 2), (0, 1)), None),
        ({"1": [0, 1], "0": [7, 2]}, ((7, 2), (0, 1)), None),
        ([[7, 2], [0, 1]], ((7, 2), (0, 1)), None),
        (document(), ((7, 2), (0, 1)), 8),
        (document(num_features=None), ((7, 2), (0, 1)), None),
        (document(num_features=..., provenance=...), ((7, 2), (0, 1)), None),
        ({"0": [3], "1": [0, 1, 2]}, ((3,), (0, 1, 2)), None),
        ({"0": [], "1": [3, 0]}, ((), (3, 0)), None),
        ([[3], []], ((3,), ()), None),
        (document(classes=[[], [7]]), ((), (7,)), 8),
        (
            {
                "schema_version": 1,
                "command": "extract-indices",
                "results": {"5": {"indices": {"0": [], "1": [2]}}},
                "model": {"num_features": 8},
            },
            ((), (2,)),
            8,
        ),
        ([[5]], ((5,),), None),
        ({str(n): [n] for n in range(12)}, tuple((n,) for n in range(12)), None),
        ({str(n): [n] for n in sorted(range(12), key=str)}, tuple((n,) for n in range(12)), None),
    ],
    ids=[
        "mapping",
        "mapping in another order",
        "lists",
        "document",
        "document without D",
        "bare document",
        "ragged",
        "a class without indices",
        "a class without indices in lists",
        "a class without indices in a document",
        "a class without indices in a result",
        "one class",
        "twelve classes",
        "twelve classes in the order of their text",
    ],
)
def test_every_layout_is_read(
    tmp_path: Path, content: Any, classes: tuple[tuple[int, ...], ...], num_features: int | None
) -> None:
    found = read(tmp_path, content)
    assert found.classes == classes
    assert found.num_features == num_features
    assert found.source == str(tmp_path / "indices.json")
    assert found.num_classes == len(classes)


def test_provenance_comes_from_our_document_only(tmp_path: Path) -> None:
    assert read(tmp_path, document(provenance={"k": 5})).provenance == {"k": 5}
    assert read(tmp_path, {"0": [1]}).provenance == {}


def test_a_result_says_of_which_classes_its_images_are(tmp_path: Path) -> None:
    part = {"policy": "present", "outputs": 10, "present": [3, 5], "names": ["cat", "dog"]}
    content = {"schema_version": 1, "command": "extract-indices", "results": {"5": {"indices": {"0": [1], "1": [2]}}}}
    model = {"name": "m", "num_features": 8}
    for more, provenance in (
        ({"model": model, "dataset": {"part": part}}, {"model": model, "part": part}),
        ({"dataset": {"part": part}}, {"part": part}),
        ({"model": model, "dataset": {"part": None}}, {"model": model}),
        ({"model": model, "dataset": None}, {"model": model}),
    ):
        assert read(tmp_path, {**content, **more}).provenance == provenance


def test_order_inside_a_class_is_kept(tmp_path: Path) -> None:
    assert read(tmp_path, {"0": [9, 3, 5, 1]}).classes == ((9, 3, 5, 1),)


@pytest.mark.parametrize(
    ("classes", "largest", "ragged"),
    [
        (((1, 2), (3, 4)), 2, False),
        (((1,), (3, 4, 0), (2, 1)), 3, True),
        (((4,),), 1, False),
        (((), (4,)), 1, True),
    ],
)
def test_sizes(classes: tuple[tuple[int, ...], ...], largest: int, ragged: bool) -> None:
    found = IndexSet(classes)
    assert (found.largest_k, found.is_ragged) == (largest, ragged)


def test_classes_without_indices_are_said_once_where_a_file_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = read(tmp_path, [[], [3, 1, 0], [], [], [2], []])
    assert caplog.messages == [f"{found.source}: 4 of 6 classes (0, 2, 3, ...) have their bias alone, no feature."]
    assert (found.sizes, found.k_label) == ((0, 3), "0-3")
    caplog.clear()
    read(tmp_path, [[1], [2]])
    assert caplog.messages == []


# --------------------------------------------------------------------------------------------------------- refusals

BAD_CONTENT = [
    ("no class in a mapping", {}, " has no classes."),
    ("no class in a list", [], " has no classes."),
    ("no class in a document", document(classes=[]), " has no classes."),
    ("no class with indices", {"0": [], "1": []}, " has no indices: every class is empty."),
    ("float", {"0": [1, 2.5]}, ": class 0 has 2.5, which is not a whole number."),
    ("whole float", {"0": [1, 2.0]}, ": class 0 has 2.0, which is not a whole number."),
    ("boolean", [[1], [True]], ": class 1 has true, which is not a whole number."),
    ("null", [[None]], ": class 0 has null, which is not a whole number."),
    ("text", [["3"]], ": class 0 has '3', which is not a whole number."),
    ("nested", [[[1]]], ": class 0 has [1], which is not a whole number."),
    ("mapping as index", [[{"a": 1}]], ': class 0 has {"a": 1}, which is not a whole number.'),
    ("long text", [["x" * 60]], ": class 0 has '" + "x" * 36 + "..., which is not a whole number."),
    ("negative, D unknown", [[0], [4, -1]], ": class 1 has the index -1, which is no feature."),
    ("negative", document(classes=[[0], [-3]]), ": class 1 has the index -3, which is not one of 0 to 7."),
    ("too large", document(classes=[[7], [8]]), ": class 1 has the index 8, which is not one of 0 to 7."),
    ("twice", {"0": [1], "1": [4, 2, 4]}, ": class 1 has the index 4 twice."),
    ("row is a number", {"0": 3}, ": class 0 has 3, not a list of indices."),
    ("row is a text", [[1], "12"], ": class 1 has '12', not a list of indices."),
    ("row is a mapping", [{"0": 1}], ': class 0 has {"0": 1}, not a list of indices.'),
    ("row is null", {"0": None}, ": class 0 has null, not a list of indices."),
    ("flat list", [1, 2, 3], ": class 0 has 1, not a list of indices."),
    ("number", 7, " holds 7, not a mapping of classes to indices."),
    ("null document", None, " holds null, not a mapping of classes to indices."),
    ("boolean document", True, " holds true, not a mapping of classes to indices."),
    ("text document", '"abc"', " holds 'abc', not a mapping of classes to indices."),
    (
        "numbered from one",
        {"1": [1], "2": [2]},
        " has 2 classes, so they must be numbered 0 to 1, but '2' is there.",
    ),
    ("gap", {"0": [1], "2": [2]}, " has 2 classes, so they must be numbered 0 to 1, but '2' is there."),
    ("named", {"cat": [1]}, " has 1 classes, so they must be numbered 0 to 0, but 'cat' is there."),
    ("leading zero", {"00": [1]}, " has 1 classes, so they must be numbered 0 to 0, but '00' is there."),
    ("negative class", {"-1": [1]}, " has 1 classes, so they must be numbered 0 to 0, but '-1' is there."),
    ("other format", document(format="index"), " is a 'index' file, not an index set."),
    ("format no text", document(format=3), " is a 3 file, not an index set."),
    (
        "newer version",
        document(format_version=3),
        " has format version 3; this program reads versions 1 and 2.",
    ),
    ("no version", document(format_version=...), " has format version null; this program reads versions 1 and 2."),
    (
        "boolean version",
        document(format_version=True),
        " has format version true; this program reads versions 1 and 2.",
    ),
    ("D is a text", document(num_features="8"), ": num_features is '8', not a whole number."),
    ("D is a boolean", document(num_features=True), ": num_features is true, not a whole number."),
    ("D is a float", document(num_features=8.0), ": num_features is 8.0, not a whole number."),
    ("D is zero", document(num_features=0), ": num_features is 0, not between 1 and 1,000,000."),
    ("D is huge", document(num_features=2**62), ": num_features is 4611686018427387904, not between 1 and 1,000,000."),
    ("D is negative", document(num_features=-8), ": num_features is -8, not between 1 and 1,000,000."),
    ("provenance is a text", document(provenance="mine"), ": provenance is 'mine', not a mapping."),
    ("provenance is null", document(provenance=None), ": provenance is null, not a mapping."),
    ("no classes in a document", document(classes=...), " has no list of classes."),
    ("classes as mapping in a document", document(classes={"0": [1]}), " has no list of classes."),
]


@pytest.mark.parametrize(("content", "sentence"), [row[1:] for row in BAD_CONTENT], ids=[row[0] for row in BAD_CONTENT])
def test_content_that_is_refused_and_the_sentence(tmp_path: Path, content: Any, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, content)
    assert caught.value.message == f"{tmp_path / 'indices.json'}{sentence}"
    assert caught.value.exit_code == 2


BAD_BYTES = [
    ("empty", b"", "is empty."),
    ("blank", b" \n\t", "is empty."),
    ("not UTF-8", b'{"0": [\xff\xfe]}', "is not a JSON text file."),
    ("cut off", b'{"0": [1, 2', "is not valid JSON: "),
    ("not JSON", b"0: [1, 2]", "is not valid JSON: "),
    ("two documents", b"[[1]] [[2]]", "is not valid JSON: "),
    ("NaN", b"[[NaN]]", "is not valid JSON: NaN is not a JSON number."),
    ("infinity", b"[[Infinity]]", "is not valid JSON: Infinity is not a JSON number."),
    ("too large", b"[[1e999]]", "is not valid JSON: 1e999 is too large for a number."),
    ("minus infinity", b"[[-Infinity]]", "is not valid JSON: -Infinity is not a JSON number."),
    ("a class twice", b'{"0": [1], "0": [2]}', "is not valid JSON: the key '0' stands twice."),
    ("nested too deeply", b"[" * 100_000, "is not valid JSON: "),
    ("too many digits", b"[[" + b"9" * 5000 + b"]]", "is not valid JSON: "),
]


@pytest.mark.parametrize(("content", "sentence"), [row[1:] for row in BAD_BYTES], ids=[row[0] for row in BAD_BYTES])
def test_files_that_are_refused_and_the_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "indices.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_index_set(path)
    assert caught.value.message.startswith(f"The index file {path} {sentence}")


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^The index file .*absent\.json does not exist\.$"):
        read_index_set(tmp_path / "absent.json")
    with pytest.raises(InputError, match=r"^The index file .* is a folder, not a file\.$"):
        read_index_set(tmp_path)


def test_no_depth_of_nesting_escapes_the_sentence(tmp_path: Path) -> None:
    """Some depths can be parsed but hardly be shown."""
    path = tmp_path / "indices.json"
    for depth in range(3, 1100):
        path.write_text("[" * depth + "]" * depth)
        with pytest.raises(InputError):
            read_index_set(path)


@pytest.mark.parametrize(
    ("classes", "num_features", "sentence"),
    [
        ((), None, "index set has no classes."),
        (((), ()), None, "index set has no indices: every class is empty."),
        (((1, 1),), None, "index set: class 0 has the index 1 twice."),
        (((4,),), 4, "index set: class 0 has the index 4, which is not one of 0 to 3."),
        (((True,),), None, "index set: class 0 has true, which is not a whole number."),
    ],
)
def test_construction_checks_too(classes: Any, num_features: int | None, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        IndexSet(classes, num_features)
    assert caught.value.message == sentence


# -------------------------------------------------------------------------------------------------------- fitted_to


def test_fitting_to_a_head_records_its_size_and_keeps_the_rest() -> None:
    found = IndexSet(((7, 2), (0, 1)), None, {"a": 1}, "file.json").fitted_to(2, 8)
    assert (found.classes, found.num_features) == (((7, 2), (0, 1)), 8)
    assert (found.provenance, found.source) == ({"a": 1}, "file.json")


@pytest.mark.parametrize(
    ("index_set", "size", "sentence"),
    [
        (IndexSet(((1,), (2,))), (3, 8), "index set has 2 classes, but the network has 3."),
        (IndexSet(((1,), (2,)), 9), (2, 8), "index set is for 9 features, but the network has 8."),
        (
            IndexSet(((1,), (0, 8))),
            (2, 8),
            "index set: class 1 has the index 8, which is not one of 0 to 7.",
        ),
    ],
)
def test_a_head_of_another_size_is_refused(index_set: IndexSet, size: tuple[int, int], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        index_set.fitted_to(*size)
    assert caught.value.message == sentence


# ---------------------------------------------------------------------------------------------------------- writing


def test_the_default_layout_is_the_published_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "indices.json"
    write_index_set(path, IndexSet(((7, 2), (0, 1, 5)), 8))
    assert json.loads(path.read_text()) == {"0": [7, 2], "1": [0, 1, 5]}
    assert list(json.loads(path.read_text())) == ["0", "1"]
    assert [file.name for file in path.parent.iterdir()] == ["indices.json"]


def test_our_document_holds_everything(tmp_path: Path) -> None:
    path = tmp_path / "indices.json"
    write_index_set(path, IndexSet(((7, 2), (0, 1)), 8, {"method": "frequency"}), document=True)
    assert json.loads(path.read_text()) == document()


def test_a_file_that_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(DecomposeError, match="Cannot write"):
        write_index_set(tmp_path / "file" / "indices.json", IndexSet(((1,),)))
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(DecomposeError, match="Cannot write"):
        write_index_set(folder, IndexSet(((1,),)))
    assert (tmp_path / "file").read_text() == "kept"
    assert list(folder.iterdir()) == []
    assert not [file for file in tmp_path.iterdir() if file.suffix == ".tmp"]


# ------------------------------------------------------------------------------------------------------- properties

QUICK = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
any_index = st.integers(-2, 12) | st.booleans() | st.sampled_from([1.0, 2.5, "1", None, [1], 10**30])
good_rows = st.lists(st.integers(0, 9), max_size=5, unique=True)
any_row = good_rows | st.lists(any_index, max_size=5) | json_values
rows = st.lists(good_rows, min_size=1, max_size=4) | st.lists(any_row, max_size=4)
mappings = st.one_of(
    rows.map(lambda found: {str(number): row for number, row in enumerate(found)}),
    st.dictionaries(st.sampled_from(["0", "1", "2", "00", "01", "-0", " 0", "0.0", "+1", "1 "]), any_row, max_size=4),
)
documents = st.fixed_dictionaries(
    {"format": st.just(FORMAT) | json_values},
    optional={
        "format_version": st.just(FORMAT_VERSION) | st.sampled_from([0, 2, "1", None, 1.5, True, 1.0]),
        "num_features": st.sampled_from([10, 10, 5, 0, -1, None, True, 10.0, "10"]),
        "provenance": st.just({}) | json_values,
        "classes": rows | mappings | json_values,
        "more": json_values,
    },
)
almost_index_sets = st.one_of(rows, mappings, documents, json_values)


def is_index_set(content: Any) -> bool:
    """The rules once more, as one predicate."""
    limit: int | None = None
    if isinstance(content, dict) and "format" in content:
        limit = content.get("num_features")
        fits = (
            content["format"] == FORMAT
            and type(content.get("format_version")) is int
            and content["format_version"] == FORMAT_VERSION
            and (limit is None or (type(limit) is int and limit > 0))
            and isinstance(content.get("provenance", {}), dict)
            and isinstance(content.get("classes"), list)
        )
        if not fits:
            return False
        content = content["classes"]
    if isinstance(content, dict):
        if sorted(content) != sorted(str(number) for number in range(len(content))):
            return False
        content = list(content.values())
    return (
        isinstance(content, list)
        and len(content) > 0
        and all(
            isinstance(row, list)
            and all(type(index) is int and index >= 0 and (limit is None or index < limit) for index in row)
            and len(set(row)) == len(row)
            for row in content
        )
        and any(len(row) > 0 for row in content)
    )


def assert_valid(found: IndexSet) -> None:
    assert any(found.classes)
    for row in found.classes:
        assert len(set(row)) == len(row)
        assert all(type(index) is int and index >= 0 for index in row)
        assert found.num_features is None or max(row) < found.num_features


def assert_valid_or_named(read: Callable[[], IndexSet], name: str) -> bool:
    """Whether it was accepted; any exception but InputError fails the test."""
    message = None
    try:
        found = read()
    except InputError as error:
        message = error.message
    if message is not None:
        assert name in message
        return False
    assert_valid(found)
    return True


@QUICK
@given(content=st.binary(max_size=200))
def test_any_bytes_give_an_index_set_or_our_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "indices.json"
    path.write_bytes(content)
    assert_valid_or_named(lambda: read_index_set(path), str(path))


@QUICK
@given(content=almost_index_sets, cut=st.integers(0, 400), extra=st.sampled_from(["", "", "]", "\0", "\ufeff", ","]))
def test_any_almost_valid_text_gives_an_index_set_or_our_error(
    tmp_path: Path, content: Any, cut: int, extra: str
) -> None:
    path = tmp_path / "indices.json"
    path.write_text(json.dumps(content)[: cut or None] + extra, encoding="utf-8")
    assert_valid_or_named(lambda: read_index_set(path), str(path))


@QUICK
@given(content=almost_index_sets)
def test_exactly_the_valid_contents_are_accepted(content: Any) -> None:
    accepted = assert_valid_or_named(lambda: index_set_from_json(content, "here"), "here")
    assert accepted == is_index_set(content)


@QUICK
@given(
    classes=st.lists(st.lists(st.integers(0, 63), max_size=8, unique=True).map(tuple), min_size=1, max_size=12)
    .filter(any)
    .map(tuple),
    as_document=st.booleans(),
)
def test_what_is_written_is_read_back(tmp_path: Path, classes: tuple[tuple[int, ...], ...], as_document: bool) -> None:
    written = IndexSet(classes, 64, {"k": 5, "of": ["a", None]})
    path = tmp_path / "indices.json"
    write_index_set(path, written, document=as_document)
    found = read_index_set(path)
    assert found.classes == written.classes
    if as_document:
        assert found == written
        assert found.provenance == written.provenance


# -------------------------------------------------------------------------------------------------- published files


@pytest.mark.parametrize(
    ("file", "num_classes", "k", "num_features"),
    [
        ("resnet20_cifar-10_indices.json", 10, 5, 64),
        ("resnet20_cifar-10_10_10_indices.json", 10, 10, 64),
        ("resnet20_cifar-10_20_20_indices.json", 10, 20, 64),
        ("resnet50_imagenet_indices.json", 1000, None, 2048),
    ],
)
def test_published_files_are_read_whole(
    reference_dir: Path, file: str, num_classes: int, k: int | None, num_features: int
) -> None:
    path = reference_dir / "weights" / file
    found = read_index_set(path).fitted_to(num_classes, num_features)
    assert found.published_layout() == json.loads(path.read_text())
    assert k is None or ({len(row) for row in found.classes} == {k})
