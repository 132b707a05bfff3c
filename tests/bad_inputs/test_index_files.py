"""Index files that cannot be used: what is in them, and that they belong to another network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import REFUSED, refused, run
from helpers.inputs import ROWS, document, published
from helpers.rows import Rows, cases, results, table, words

INDEX_FILES = [
    # name, content (text and bytes as they are, anything else as JSON), part of the sentence
    ("empty", "", "is empty"),
    ("blank", " \n\t\n", "is empty"),
    ("truncated", '{"0": [1, 2', "not valid JSON"),
    ("prose", "class 0: 1, 2, 3", "not valid JSON"),
    ("comment", "{} // none", "not valid JSON"),
    ("two values", "{} {}", "not valid JSON"),
    ("byte order mark", b"\xef\xbb\xbf" + json.dumps(ROWS).encode(), "not valid JSON"),
    ("not UTF-8", b'{"0": [1, 2], "\xff": 1}', "not a JSON text file"),
    ("UTF-16", json.dumps(ROWS).encode("utf-16"), "not a JSON text file"),
    ("binary", bytes(range(256)), "not a JSON text file"),
    ("deep nesting of lists", "[" * 200_000, "not valid JSON"),
    ("deep nesting of mappings", '{"a":' * 200_000, "not valid JSON"),
    ("number of 5000 digits", f"[[{'9' * 5000}]]", "not valid JSON"),
    ("NaN", '{"0": [NaN]}', "NaN is not a JSON number"),
    ("Infinity", '{"0": [Infinity]}', "Infinity is not a JSON number"),
    ("minus Infinity", '{"0": [1, -Infinity]}', "-Infinity is not a JSON number"),
    ("duplicate key", '{"0": [1], "1": [2], "0": [3]}', "the key '0' stands twice"),
    ("duplicate key below", '{"0": {"a": 1, "a": 2}}', "the key 'a' stands twice"),
    ("a number", 7, "holds 7, not a mapping"),
    ("a text", '"indices"', "not a mapping of classes to indices"),
    ("null", None, "holds null"),
    ("true", True, "holds true"),
    ("no class in a mapping", {}, "has no classes"),
    ("no class in a list", [], "has no classes"),
    ("class is a number", published(c3=7), "class 3 has 7, not a list"),
    ("class is null", [*ROWS[:4], None, *ROWS[5:]], "class 4 has null, not a list"),
    ("class is a mapping", published(c3={"0": 1}), 'class 3 has {"0": 1}, not a list'),
    ("class is a text", published(c3="7, 23"), "class 3 has '7, 23', not a list"),
    ("empty classes", [[]] * 10, "has no indices: every class is empty"),
    ("boolean", published(c3=[1, True]), "class 3 has true, which is not a whole number"),
    ("float", published(c3=[1.0]), "class 3 has 1.0, which is not a whole number"),
    ("text for an index", published(c3=["5"]), "class 3 has '5', which is not a whole number"),
    ("null for an index", published(c3=[None]), "class 3 has null, which is not a whole number"),
    ("list for an index", published(c3=[[5]]), "class 3 has [5], which is not a whole number"),
    ("negative", published(c3=[1, -1]), "class 3 has the index -1"),
    ("as large as D", published(c3=[1, 64]), "class 3 has the index 64, which is not one of 0 to 63"),
    ("huge", published(c3=[10**30]), "class 3 has the index 1000"),
    ("duplicate in a class", published(c3=[5, 6, 5]), "class 3 has the index 5 twice"),
    ("missing class", {**published(c3=None), "10": [1]}, "must be numbered 0 to 9, but '10' is there"),
    ("too few classes", published(c9=None), "has 9 classes, but the network has 10"),
    ("too many classes", published(c10=[1]), "has 11 classes, but the network has 10"),
    ("too many classes in a list", [*ROWS, [1]], "has 11 classes, but the network has 10"),
    ("class with a leading zero", {**published(c3=None), "03": [1]}, "but '03' is there"),
    ("class by name", {**published(c3=None), "three": [1]}, "but 'three' is there"),
    ("negative class", {**published(c3=None), "-1": [1]}, "but '-1' is there"),
    ("lone surrogate", '{"\\ud800": [1]}', "is there"),
    ("result document", {"schema_version": 1, "command": "validate", "results": {}}, "result document of 'validate'"),
    ("document of another format", document(format="other"), "is a 'other' file, not an index set"),
    ("document whose format is no text", document(format=[1]), "is a [1] file, not an index set"),
    ("document of another version", document(format_version=3), "has format version 3"),
    ("document without version", document(format_version=None), "has format version null"),
    ("document whose version is true", document(format_version=True), "has format version true"),
    ("document for another D", document(num_features=128), "is for 128 features, but the network has 64"),
    ("document with D as text", document(num_features="64"), "num_features is '64'"),
    ("document with D true", document(num_features=True), "num_features is true"),
    ("document with D zero", document(num_features=0), "num_features is 0"),
    ("document with D too small", document(num_features=20), "class 0 has the index 20, which is not one of 0 to 19"),
    ("document without classes", document(classes=None), "has no list of classes"),
    ("document with a mapping", document(classes=published()), "has no list of classes"),
    ("document with odd provenance", document(provenance=[1]), "provenance is [1]"),
]


@pytest.mark.parametrize(("content", "fragment"), table(INDEX_FILES))
def test_bad_index_file(inputs: Path, content: Any, fragment: str) -> None:
    file = inputs / "indices.json"
    if isinstance(content, str):
        content = content.encode()
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    refused(["validate", "-i", str(file)], REFUSED, fragment, str(file))


@pytest.mark.parametrize("classes", [9, 11])
def test_index_file_for_other_classes_is_refused_before_the_images_are_read(
    inputs: Path, forbid_forward_passes: Callable[[], None], classes: int
) -> None:
    """A mistake that the network's head shows should not cost a pass over all images."""
    forbid_forward_passes()
    (inputs / "indices.json").write_text(json.dumps([[1]] * classes), encoding="utf-8")
    arguments = ["validate", "--no-cache", "-i", str(inputs / "indices.json")]
    refused(arguments, REFUSED, f"has {classes} classes, but the network has 10")


def test_index_file_that_is_valid_is_the_counter_example(inputs: Path) -> None:
    """The network and images of the table are fine: with a good file the same command works."""
    for name, content in (("mapping", published()), ("rows", ROWS), ("document", document())):
        (inputs / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        run("validate", "--json", "-i", str(inputs / f"{name}.json"))


def test_missing_index_file(inputs: Path) -> None:
    refused(["validate", "-i", str(inputs / "none.json")], REFUSED, "none.json does not exist")


def test_index_file_that_is_a_folder(inputs: Path) -> None:
    refused(["validate", "-i", str(inputs)], REFUSED, f"{inputs} is a folder, not a file")


def test_index_file_below_a_file(inputs: Path) -> None:
    (inputs / "file").write_text("x", encoding="utf-8")
    refused(["validate", "-i", str(inputs / "file" / "indices.json")], REFUSED, "indices.json", "Not a directory")


def test_index_file_with_a_name_that_is_too_long(inputs: Path) -> None:
    refused(["validate", "-i", "n" * 300], REFUSED, "cannot be read: File name too long")


def test_index_file_that_is_a_dangling_link(inputs: Path) -> None:
    (inputs / "link.json").symlink_to(inputs / "nowhere.json")
    refused(["validate", "-i", str(inputs / "link.json")], REFUSED, "link.json does not exist")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_index_file_that_may_not_be_read(inputs: Path) -> None:
    (inputs / "secret.json").write_text("{}", encoding="utf-8")
    (inputs / "secret.json").chmod(0)
    refused(["validate", "-i", str(inputs / "secret.json")], REFUSED, "secret.json cannot be read: Permission denied")


# --- of the studies ---------------------------------------------------------------------------------------------------


BAD_INDEX_FILES = [
    # file, part of the sentence
    ("none.json", "none.json does not exist"),
    ("empty.json", "empty.json is empty"),
    ("half.json", "half.json is not valid JSON"),
    ("hostile.pth", "hostile.pth is not"),
    ("taken", "taken is a folder, not a file"),
]


INDEX_OPTIONS = [
    "mutual-info -i {file}",
    "mutual-info -i a={m}/document.json -i b={file}",
    "essential -i {file}",
    "essential --method a={m}/plain.pth,{file}",
    "sweep -i {file}",
    "sweep -i a={m}/document.json -i b={file}",
]


# Every file for one of them; all others read it in the same way, so two show that they do.
OF_STUDIES = [
    (option, file, fragment)
    for option in INDEX_OPTIONS
    for file, fragment in BAD_INDEX_FILES
    if option == INDEX_OPTIONS[0] or file in ("none.json", "half.json")
]


@pytest.mark.parametrize(("option", "file", "fragment"), OF_STUDIES)
def test_bad_index_file_of_a_study(material: Path, option: str, file: str, fragment: str) -> None:
    refused(words(option.replace("{file}", f"{{m}}/{file}"), material), REFUSED, fragment)


# --- for another network ----------------------------------------------------------------------------------------------


INDEX_SETS: Rows = [
    (
        "mutual-info: more features than said",
        "mutual-info -i {m}/wide.json --num-features 64",
        "wide.json is for 128 features, but --num-features is 64",
    ),
    (
        "mutual-info: fewer features than said",
        "mutual-info -i {m}/document.json --num-features 128",
        "is for 64 features, but --num-features is 128",
    ),
    ("mutual-info: index beyond the model", "mutual-info resnet20-digits -i {m}/beyond.json", "class 3", "0 to 63"),
    ("mutual-info: index beyond the number", "mutual-info -i {m}/plain.json --num-features 20", "class 0", "0 to 19"),
    ("mutual-info: index beyond the gates", "mutual-info -i {m}/beyond.json --csg {m}/csg.pth", "class 3", "0 to 63"),
    (
        "mutual-info: number of features 0",
        "mutual-info -i {m}/plain.json --num-features 0",
        "--num-features 0 is not between 1 and",
    ),
    (
        "mutual-info: negative number",
        "mutual-info -i {m}/plain.json --num-features -1",
        "--num-features -1 is not between 1 and 1,000,000",
    ),
    (
        "mutual-info: number too large",
        "mutual-info -i {m}/plain.json --num-features 99999999999",
        "--num-features 99999999999 is not between 1 and 1,000,000",
    ),
    ("mutual-info: number for no file", "mutual-info --num-features 64", "--num-features is for index files"),
    (
        "mutual-info: number for gates only",
        "mutual-info --csg {m}/csg.pth --num-features 64",
        "--num-features is for index files, and there is none",
    ),
    (
        "mutual-info: other D than the model",
        "mutual-info resnet20-digits -i {m}/wide.json",
        "wide.json is for 128 features, but resnet20-digits has 64",
    ),
    (
        "mutual-info: other number than the model",
        "mutual-info resnet20-digits -i {m}/plain.json --num-features 100",
        "--num-features 100 contradicts resnet20-digits, which has 64",
    ),
    ("mutual-info: nobody knows D", "mutual-info -i {m}/plain.json", "plain.json does not say how many features"),
    (
        "mutual-info: one of two files does not say D",
        "mutual-info -i a={m}/document.json -i b={m}/plain.json",
        "plain.json does not say how many features",
    ),
    ("mutual-info: index twice", "mutual-info resnet20-digits -i {m}/twice.json", "class 3 has the index 5 twice"),
    ("mutual-info: unknown model", "mutual-info networks:nobody -i {m}/plain.json", "no callable 'nobody'"),
    ("mutual-info: model without a head", "mutual-info networks:no_head -i {m}/plain.json", "no linear layer"),
    ("essential: other D", "essential -i {m}/wide.json", "wide.json is for 128 features, but the network has 64"),
    ("essential: index beyond D", "essential -i {m}/beyond.json", "class 3 has the index 64"),
    ("essential: other C", "essential -i {m}/nine.json", "nine.json has 9 classes, but the network has 10"),
    ("method: other D", "essential --method a={m}/plain.pth,{m}/wide.json", "wide.json is for 128 features"),
    ("method: index beyond D", "essential --method a={m}/plain.pth,{m}/beyond.json", "class 3 has the index 64"),
    ("method: other C", "essential --method a={m}/plain.pth,{m}/nine.json", "nine.json has 9 classes"),
    ("sweep: other D", "sweep -i {m}/wide.json", "wide.json is for 128 features, but the network has 64"),
    ("sweep: index beyond D", "sweep -i {m}/beyond.json", "class 3 has the index 64"),
    ("sweep: other C", "sweep -i {m}/nine.json", "nine.json has 9 classes, but the network has 10"),
    ("sweep: second file is for another C", "sweep -i {m}/plain.json -i {m}/nine.json", "nine.json has 9 classes"),
]


@pytest.mark.parametrize(("line", "fragments"), cases(INDEX_SETS))
def test_index_set_for_another_network(material: Path, line: str, fragments: tuple[str, ...]) -> None:
    refused(words(line, material), REFUSED, *fragments)


@pytest.mark.parametrize(
    ("line", "widths", "counts"),
    [
        ("mutual-info -i a={m}/document.json --csg {m}/csg_columns.pth", [64, 65], [10, 10]),
        ("mutual-info -i a={m}/nine.json --csg {m}/csg.pth", [64, 64], [9, 10]),
        ("mutual-info -i a={m}/wide.json --csg {m}/csg.pth", [128, 64], [10, 10]),
    ],
)
def test_sets_of_networks_of_other_sizes_are_compared_with_a_warning(
    material: Path, line: str, widths: list[int], counts: list[int]
) -> None:
    found, said = results(line, material)
    assert [found["sets"][name]["3"]["num_features"] for name in ("a", "csg")] == widths
    assert [len(found["sets"][name]["3"]["matrix"]) for name in ("a", "csg")] == counts
    warnings = [line for line in said.splitlines() if line.startswith("Warning: ")]
    assert warnings == ["Warning: These index sets are of networks with different numbers of classes or features."]
