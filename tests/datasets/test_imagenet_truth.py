"""ImageNet's validation images in one folder, with each of the lists that say which class they are of."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from helpers.image_kinds import noise, png

from decompose_cli.datasets.imagenet import open_imagenet
from decompose_cli.datasets.registry import open_dataset
from decompose_cli.datasets.wnids import imagenet_classes
from decompose_cli.errors import InputError

WNIDS = imagenet_classes()[0]
TRUTH = {1: "n15075141", 2: "n01440764", 4: "n02123045"}  # of the images that are there; the third is not
ORDER = ["n02123045", "n01440764", "n15075141"]  # of the devkit's own numbers 1, 2, 3
BY_PLACE = "imagenet_2012_validation_synset_labels.txt"
DEVKIT = [3, 2, 1, 1]  # the ground truth of images 1 to 4 in these numbers


def name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08}.JPEG"


@pytest.fixture
def val(tmp_path: Path) -> Path:
    """The flat folder with three images, 80 pixels wide, in the place of Kaggle's archive."""
    folder = tmp_path / "imagenet" / "ILSVRC" / "Data" / "CLS-LOC" / "val"
    folder.mkdir(parents=True)
    for number in TRUTH:
        (folder / name(number)).write_bytes(png(noise(number, 80)))
    return folder


def write_meta(path: Path) -> None:
    kind: Any = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    table = np.empty(len(ORDER), dtype=kind)
    for number, wnid in enumerate(ORDER, 1):
        table[number - 1] = (np.array([[number]], dtype=np.uint8), wnid, "a thing")
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"synsets": table.reshape(-1, 1)})


def lists(truth: dict[int, str]) -> dict[str, str]:
    """The content of every list that is known by its name."""
    boxes = "".join(
        f"{name(n).removesuffix('.JPEG')},{wnid} 85 1 499 272 {wnid} 1 2 3 4\n" for n, wnid in truth.items()
    )
    return {
        "ILSVRC2012_validation_ground_truth.txt": "".join(f"{number}\n" for number in DEVKIT),
        "LOC_val_solution.csv": f"ImageId,PredictionString\n{boxes}",
        "val.txt": "".join(f"{name(n)} {WNIDS.index(wnid)}\n" for n, wnid in truth.items()),
        "val_map.txt": "".join(f"val/{name(n)}\t{wnid}\n" for n, wnid in truth.items()),
        BY_PLACE: "".join(f"{truth.get(n, WNIDS[5])}\n" for n in range(1, 5)),
    }


@pytest.mark.parametrize("place", [".", "..", "../../../..", "../../../../devkit/data"])
@pytest.mark.parametrize("table", list(lists(TRUTH)))
def test_every_list_says_the_classes(
    table: str, place: str, val: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = val / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / table).write_text(lists(TRUTH)[table])
    if "ground_truth" in table:
        write_meta(folder / "meta.mat")
    with caplog.at_level(logging.INFO):
        found = open_dataset("imagenet", "val", tmp_path)
    assert found.labels.tolist() == [WNIDS.index(wnid) for wnid in TRUTH.values()] == [999, 0, 281]
    assert found.class_names[281] == "tabby"
    assert found.called(2) == name(4)
    assert f"{val} is not sorted into class folders; " in caplog.text
    assert table in caplog.text


def test_images_that_the_list_lacks_are_left_out_and_said(
    val: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (val / "val.txt").write_text(lists({1: TRUTH[1]})["val.txt"])
    with caplog.at_level(logging.INFO):
        found = open_imagenet("val", tmp_path)
    assert found.labels.tolist() == [999]
    assert f"images of no class are left out: 2 ({name(2)}, {name(4)})" in caplog.text
    assert "files that are not images" not in caplog.text, "the list is no stray file"


@pytest.mark.parametrize(
    ("table", "content", "says"),
    [
        ("ILSVRC2012_validation_ground_truth.txt", "3\n", "there is no meta.mat beside it"),
        ("LOC_val_solution.csv", "a,b\n1,2\n", "is not Kaggle's list"),
        ("LOC_val_solution.csv", "ImageId,PredictionString\nx,\n", "is not Kaggle's list"),
        ("val.txt", f"{name(1)} 1000\n", "which is not a name and one of 1000 classes"),
        ("val.txt", f"{name(1)}\n", "which is not a name and one of 1000 classes"),
        ("val_map.txt", f"{name(1)} n99999999\n", "names what is no class of ImageNet: n99999999"),
        (
            "val.txt",
            f"{name(1)} {'9' * 5000}\n",
            r"has the line 'ILSVRC2012_val_00000001.JPEG 9+\.\.\.', which is not a name",
        ),
        (
            "val.txt",
            f"{name(1)} 3\nval/{name(1)} 4\n",
            f"gives the image {name(1)} two classes: {WNIDS[3]} and {WNIDS[4]}",
        ),
        (
            "LOC_val_solution.csv",
            f"ImageId,PredictionString\nx,{WNIDS[3]} 1 2 3 4\nx,{WNIDS[4]} 1 2 3 4\n",
            f"gives the image x two classes: {WNIDS[3]} and {WNIDS[4]}",
        ),
        (BY_PLACE, f"{WNIDS[0]}\n\n{WNIDS[1]}\n{WNIDS[2]}\n{WNIDS[3]}\n", "Line 2 of .* is blank"),
        (BY_PLACE, f"{WNIDS[0]}\n" * 3, "has 3 lines, .* nor as many as the highest number of an image, 4"),
        (BY_PLACE, f"{WNIDS[0]}\n" * 5, "has 5 lines, which are neither one for each of ImageNet's 50,000"),
        (BY_PLACE, "", "has 0 lines"),
        ("val.txt", "other.JPEG 3\n", "names none of the images, such as ILSVRC2012_val_00000001.JPEG"),
        ("val.txt", "\udcff", "cannot be read as text"),
    ],
)
def test_damaged_lists_are_said(table: str, content: str, says: str, val: Path, tmp_path: Path) -> None:
    (val / table).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=says):
        open_imagenet("val", tmp_path)


@pytest.mark.parametrize("table", list(lists(TRUTH)))
def test_lists_with_a_byte_order_mark_and_blank_lines_at_the_end(table: str, val: Path, tmp_path: Path) -> None:
    (val / table).write_text(f"\ufeff{lists(TRUTH)[table]}\n\n", encoding="utf-8")
    write_meta(val / "meta.mat")
    assert open_imagenet("val", tmp_path).labels.tolist() == [WNIDS.index(wnid) for wnid in TRUTH.values()]


def test_some_of_the_images_and_the_whole_list(val: Path, tmp_path: Path) -> None:
    (val / BY_PLACE).write_text("".join(f"{WNIDS[number % 1000]}\n" for number in range(50_000)))
    assert open_imagenet("val", tmp_path).labels.tolist() == [number - 1 for number in TRUTH]


@pytest.mark.parametrize("lines", ["3\n\n2\n1\n1\n", "3\n2\n1\n", "3\n2\n1\n1\n1\n"])
def test_a_line_too_many_or_too_few_in_the_list_of_the_devkit_is_refused(lines: str, val: Path, tmp_path: Path) -> None:
    (val / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)
    write_meta(val / "meta.mat")
    with pytest.raises(InputError, match=r"is blank|has [35] lines"):
        open_imagenet("val", tmp_path)


def test_damaged_devkit(val: Path, tmp_path: Path) -> None:
    (val / "ILSVRC2012_validation_ground_truth.txt").write_text("3\n2\n7\n")
    (val / "meta.mat").write_bytes(b"no matrix")
    with pytest.raises(InputError, match=r"meta\.mat is not the meta\.mat of the ImageNet devkit, or damaged"):
        open_imagenet("val", tmp_path)
    write_meta(val / "meta.mat")
    with pytest.raises(InputError, match=r"is damaged: it has a line that is no class of .*meta\.mat: 7"):
        open_imagenet("val", tmp_path)


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "imagenet" / "val").mkdir(parents=True)
    with pytest.raises(InputError, match="has neither class folders nor images"):
        open_imagenet("val", tmp_path)
