"""CSV files that list images: their columns, their splits, and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from helpers.image_kinds import noise, png, write_csv

from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.registry import available_splits, open_dataset
from decompose_cli.errors import InputError


@pytest.fixture(autouse=True)
def images() -> None:
    """Images 0.png to 5.png in the folder ``pictures``."""
    Path("pictures").mkdir()
    for number in range(6):
        Path(f"pictures/{number}.png").write_bytes(png(noise(number, 8)))


def table(name: str, header: str, *lines: str) -> str:
    write_csv(Path(name), [line.split(",") for line in (header, *lines)])
    return f"csv:{name}"


def opened(name: str, split: str = "test", columns: Mapping[str, str] | None = None) -> ImageDataset:
    return open_dataset(name, split, Path(), columns=columns)


def refused(name: str, columns: Mapping[str, str] | None = None) -> str:
    with pytest.raises(InputError) as refusal:
        opened(name, "test", columns)
    return f"{refusal.value.message} {refusal.value.hint or ''}"


def test_names_become_classes_in_the_order_of_the_alphabet() -> None:
    found = opened(table("pictures/all.csv", "path,label", "3.png,dog", "0.png,cat", "1.png,dog"))
    assert found.class_names == ("cat", "dog")
    assert not found.is_numbered
    assert found.labels.tolist() == [1, 0, 1]
    assert [found.called(number) for number in range(3)] == ["3.png", "0.png", "1.png"]
    assert found.image(0).tobytes() == noise(3, 8).tobytes()


@pytest.mark.parametrize("labels", [("0", "2"), ("0.0", "2.0"), ("00", "02")])
def test_numbers_are_class_numbers(labels: tuple[str, str]) -> None:
    found = opened(table("x.csv", "path,label", *(f"pictures/{n}.png,{label}" for n, label in enumerate(labels))))
    assert found.class_names == ("0", "1", "2")
    assert found.is_numbered
    assert found.labels.tolist() == [0, 2]


def test_ids_of_imagenet_are_shown_as_words() -> None:
    found = opened(table("x.csv", "path,label", "pictures/0.png,n02123045", "pictures/1.png,n01440764"))
    assert (found.class_names, found.class_ids) == (("tench", "tabby"), ("n01440764", "n02123045"))
    assert found.labels.tolist() == [1, 0]


def test_a_column_of_splits_and_the_classes_of_the_training_images() -> None:
    lines = ("pictures/0.png,a,train", "pictures/1.png,b,Training", "pictures/2.png,b,valid", "pictures/3.png,b,TEST")
    name = table("x.csv", "file_name,class,subset", *lines)
    assert available_splits(name) == ("test", "val", "train")
    assert [opened(name, split).labels.tolist() for split in ("train", "val", "test")] == [[0, 1], [1], [1]]
    assert opened(name, "val").class_names == ("a", "b")
    name = table("x.csv", "file_name,class,subset", *lines, "pictures/4.png,c,test")
    assert (
        "The label of line 6 of x.csv is 'c', which is none of the 2 classes of the training split (a, b)."
        in refused(name)
    )
    with pytest.raises(InputError, match=r"has no split 'val'; it has test"):
        opened(table("y.csv", "path,label", "pictures/0.png,a"), "val")


@pytest.mark.parametrize("name", ["csv:lists", "csv:lists/my-{split}.csv", "csv:lists/my-{train,test}.csv"])
def test_files_of_several_splits(name: str) -> None:
    Path("lists").mkdir()
    table("lists/my-train.csv", "path,label", "../pictures/0.png,a", "../pictures/1.png,b")
    table("lists/my-test.csv", "path,label", "../pictures/2.png,b")
    assert available_splits(name) == ("test", "train")
    assert opened(name).labels.tolist() == [1]


@pytest.mark.parametrize("column", ["fold", "set", "split"])
def test_a_column_without_any_split_is_not_taken_for_one(column: str, caplog: pytest.LogCaptureFixture) -> None:
    name = table("x.csv", f"path,label,{column}", "pictures/0.png,a,1", "pictures/1.png,b,2")
    with caplog.at_level("INFO"):
        assert available_splits(name) == ("test",)
    assert f"The column '{column}' of x.csv names no splits (1, 2)." in caplog.text
    assert "The split in line 2 of x.csv is '1'" in refused(name, {"split": column})


def test_a_pipe_is_no_image() -> None:
    os.mkfifo("pictures/pipe.png")
    name = table("x.csv", "path,label", "pictures/0.png,a", "pictures/pipe.png,b")
    assert "The image 'pictures/pipe.png' in line 3 of x.csv is not there (it is no regular file)." in refused(name)


def test_columns_that_are_named_and_other_separators() -> None:
    Path("x.tsv").write_text("\ufeffid\twhere\twhat\tpart\n1\tpictures/0.png\tit's\ttest\n", encoding="utf-8")
    found = opened("csv:x.tsv", "test", {"image": "where", "label": "what", "split": "part"})
    assert (found.class_names, found.called(0)) == (("it's",), "pictures/0.png")
    Path("x.csv").write_text('path;label\n"pictures/0.png";"a;b"\n\n', encoding="utf-8")
    assert opened("csv:x.csv").class_names == ("a;b",)
    assert "has no column 'here', which columns names; it has 'id', 'where'" in refused("csv:x.tsv", {"image": "here"})


def test_images_elsewhere_have_their_whole_path() -> None:
    place = Path("pictures/0.png").absolute()
    Path("lists").mkdir()
    found = opened(table("lists/x.csv", "path,label", f"{place},a"))
    assert found.called(0) == str(place)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "x.csv is empty."),
        ("path,label\n", "x.csv lists no images."),
        ("name,label\na,b\n", "no column that is known to hold the image; it has 'name', 'label'."),
        ("path,y,label\na,b,c\n", "several columns that may hold the label: y, label."),
        ("path,x\na,b\n", "no column that is known to hold the label"),
        ("path,label\npictures/0.png\n", "Line 2 of x.csv has 1 columns, but its first line names 2."),
        ("path,label\npictures/0.png,\n", "The label of line 2 of x.csv is '', which names no class."),
        (
            "path,label\npictures/0.png,1\npictures/0.png,0\npictures/1.png,nan\n",
            "The label of line 4 of x.csv is 'nan', which is no class number, as others are.",
        ),
        ("path,label\npictures/0.png,0\npictures/1.png,-1\n", "is '-1', which is no class number, as others are."),
        ("path,label\npictures/0.png,9999999\n", "is '9999999', which is no number of a class."),
        (f"path,label\npictures/0.png,{'9' * 400}\n", f"is '{'9' * 60}...', which is no number of a class."),
        ("path,label\nno.png,a\npictures/0.png,a\nnono.png,a\n", "'no.png' in line 2 of x.csv is not there"),
        ("path,label\nno.png,a\npictures/0.png,a\nnono.png,a\n", "and so are 1 more"),
        (
            "path,label,split\npictures/0.png,a,test\npictures/1.png,a,other\n",
            "The split in line 3 of x.csv is 'other', which is none of train, val, test. Take out rows of other splits",
        ),
        ("path,label\n,a\n", "Line 2 of x.csv names no image."),
        ("path,label\n\0,a\n", "x.csv"),
        ('path,label\nx,"a\n', "x.csv is no CSV file in UTF-8"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(content: str, says: str) -> None:
    Path("x.csv").write_text(content, encoding="utf-8")
    assert says in refused("csv:x.csv")


def test_other_bytes_and_a_missing_split() -> None:
    Path("x.csv").write_bytes(b"\xff\xfe\0p")
    assert "x.csv is no CSV file in UTF-8" in refused("csv:x.csv")
    for name in ("train", "test"):
        table(f"{name}.csv", "path,label,split", "pictures/0.png,a,test")
    assert "both list images of the split test" in refused("csv:{split}.csv")
