"""Tables of the library `datasets`: which columns are meant, which splits there are, and what is wrong with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from helpers.dataset_hub import hub
from helpers.image_kinds import noise, png

from decompose_cli.datasets.arrow_images import TableImages
from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.registry import available_splits, open_dataset
from decompose_cli.engines.cache import clear_cache, list_cache
from decompose_cli.errors import DownloadError, InputError

IMAGES = [png(noise(number, 8)) for number in range(3)]
LABELS = [1, 0, 1]


def parquet(name: str, **columns: Any) -> str:
    Path(name).parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), name)
    return f"hf:{name}"


def opened(name: str, split: str = "test", columns: Mapping[str, str] | None = None) -> ImageDataset:
    return open_dataset(name, split, Path(), columns=columns, allow_download=False)


def refused(name: str, columns: Mapping[str, str] | None = None) -> str:
    with pytest.raises(InputError) as refusal:
        opened(name, "test", columns)
    return f"{refusal.value.message} {refusal.value.hint or ''}"


@pytest.mark.parametrize("images", [IMAGES, [{"bytes": image, "path": None} for image in IMAGES]])
def test_a_file_of_bytes_and_numbers(images: list[Any]) -> None:
    found = opened(parquet("x.parquet", img=images, label=LABELS, text=["a", "b", "c"]))
    assert (found.labels.tolist(), found.class_names, found.is_numbered) == (LABELS, ("0", "1"), True)
    assert found.image(2).tobytes() == noise(2, 8).tobytes()
    assert found.called(2) == "row 2"


def test_labels_that_are_names_and_columns_that_are_named() -> None:
    name = parquet("x.parquet", image=IMAGES, other=IMAGES[::-1], kind=["b", "a", "b"], number=LABELS)
    assert "several columns that may hold labels: kind, number" in refused(name)
    found = opened(name, columns={"image": "other", "label": "kind"})
    assert (found.class_names, found.labels.tolist()) == (("a", "b"), LABELS)
    assert found.image(0).tobytes() == noise(2, 8).tobytes()
    said = refused(name, {"label": "other"})
    assert "The column 'other' of hf:x.parquet test, which columns names, holds images, not labels. Labels are" in said
    assert "The column 'kind' of hf:x.parquet test, which columns names, holds string, not images." in (
        refused(name, {"image": "kind"})
    )
    assert "has no column 'x', which columns names; it has image, other, kind, number." in refused(name, {"label": "x"})


def test_labels_that_are_real_numbers_are_taken_where_that_is_said() -> None:
    name = parquet("x.parquet", image=IMAGES, kind=[1.0, 0.0, 1.0])
    assert "such as 1.0 is taken where columns label=NAME says so." in refused(name)
    assert opened(name, columns={"label": "kind"}).labels.tolist() == LABELS


def test_the_table_that_is_made_of_a_file_is_said_listed_and_cleared(caplog: pytest.LogCaptureFixture) -> None:
    name = parquet("x.parquet", image=IMAGES, label=LABELS)
    with caplog.at_level("INFO"):
        opened(name)
    (said,) = [text for text in caplog.messages if "is written as a table in" in text]
    caplog.clear()
    with caplog.at_level("INFO"):
        opened(name)
    assert "is written as a table in" not in caplog.text, "it is there"
    folder = Path(said.partition(" table in ")[2].partition(" first")[0])
    (table,) = folder.rglob("*.arrow")
    (entry,) = [entry for entry in list_cache().entries if entry.file.startswith("huggingface/")]
    assert entry.size >= table.stat().st_size
    assert clear_cache(1) == (0, 0)
    assert clear_cache() == (1, entry.size)
    assert not table.exists()
    assert opened(name).labels.tolist() == LABELS


def test_splits_of_a_folder_called_parquet_and_classes_of_the_training_images() -> None:
    parquet("parquet/train-00000-of-00001.parquet", image=IMAGES, label=["a", "b", "c"])
    parquet("parquet/validation-00000-of-00001.parquet", image=IMAGES[:1], label=["b"])
    Path("other.csv").write_text("of no concern to a folder that is called as a format is")
    assert available_splits("hf:parquet") == ("val", "train")
    found = opened("hf:parquet", "val")
    assert (found.labels.tolist(), found.class_names) == ([1], ("a", "b", "c"))


def test_a_table_that_is_called_as_the_split_goes_before_others(caplog: pytest.LogCaptureFixture) -> None:
    tables = {
        name: datasets.Dataset.from_dict({"image": IMAGES[:n], "label": LABELS[:n]})
        for n, name in ((3, "unsup_train"), (2, "train"))
    }
    datasets.DatasetDict(tables).save_to_disk("saved")
    with caplog.at_level("INFO"):
        assert len(opened("hf:saved", "train")) == 2
    assert "hf:saved has train, unsup_train for the split train, of which train is used." in caplog.text


def test_splits_of_a_table_are_those_of_its_column() -> None:
    name = parquet("all.parquet", image=IMAGES, label=LABELS, split=["train", "Test", "train"])
    assert available_splits(name) == ("test", "train")
    assert [opened(name, split).labels.tolist() for split in ("train", "test")] == [[1, 1], [0]]
    assert opened(name, "train").fingerprint() != opened(name).fingerprint()
    other = parquet("other.parquet", image=IMAGES, label=LABELS, split=["train", "left", "train"])
    assert available_splits(other) == ("test",)  # the column says something else


@pytest.mark.parametrize("is_dictionary", [True, False])
def test_what_the_library_saves(is_dictionary: bool) -> None:
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cow"])})
    rows = {"image": [{"bytes": image, "path": None} for image in IMAGES], "label": LABELS}
    table = datasets.Dataset.from_dict(rows, features=kinds)
    saved = datasets.DatasetDict({"train": table, "extra": table}) if is_dictionary else table
    saved.save_to_disk("saved")
    split = "train" if is_dictionary else "test"
    assert available_splits("hf:saved") == (split,)
    found = opened("hf:saved", split)
    assert (found.class_names, found.is_numbered, found.labels.tolist()) == (("ant", "bee", "cow"), False, LABELS)


def test_images_that_a_table_names_by_their_path() -> None:
    Path("x.png").write_bytes(IMAGES[1])
    kinds = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
    rows = {"image": [{"bytes": None, "path": str(Path("x.png").absolute())}], "label": [0]}
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk("saved")
    assert opened("hf:saved").image(0).tobytes() == noise(1, 8).tobytes()


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"x": [1, 2], "label": [0, 1]}, "has no column of images; it has x, label."),
        ({"image": IMAGES[:2], "label": [0.5, float("nan")]}, "has no column of labels; it has image, label."),
        (
            {"image": IMAGES[:2], "label": [0, None]},
            "The label of row 1 of hf:x.parquet test is '', which is no class number",
        ),
        ({"image": IMAGES[:2], "label": [0, -1]}, "is '-1'"),
        (
            {"image": IMAGES[:2], "picture": IMAGES[:2], "img": IMAGES[:2], "label": [0, 0]},
            "columns that may hold images",
        ),
    ],
)
def test_what_a_table_lacks_is_said(columns: dict[str, Any], says: str) -> None:
    assert says in refused(parquet("x.parquet", **columns))


def test_a_missing_image_is_one_that_cannot_be_read() -> None:
    found = opened(parquet("x.parquet", image=[IMAGES[0], None], label=[0, 1]))
    with pytest.raises(InputError, match=r"The image in row 1 of hf:x\.parquet test is missing"):
        found.image(1)
    assert found.without([1]).in_memory() is not None


def test_a_pipe_that_a_row_names_is_not_waited_for() -> None:
    os.mkfifo("pipe.png")
    found = opened(parquet("x.parquet", image=[{"bytes": None, "path": str(Path("pipe.png").absolute())}], label=[0]))
    with pytest.raises(InputError, match=r"The image in row 0 of hf:x\.parquet test is .*pipe\.png, which is no reg"):
        found.image(0)


def test_an_image_of_which_no_sample_is_taken_makes_another_fingerprint() -> None:
    large = [png(noise(seed, 80)) for seed in range(2)]
    found = [
        opened(
            parquet("x.parquet", image=[large[number == changed] for number in range(40)], label=[0] * 40)
        ).fingerprint()
        for changed in (None, 4)
    ]
    assert found[0] != found[1]


@pytest.mark.parametrize("in_table", [False, True])
def test_another_image_in_a_file_that_a_row_names_makes_another_fingerprint(in_table: bool) -> None:
    files = [Path(f"images/test/{name}/{number:02}.png") for name in "ab" for number in range(20)]
    for seed, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(noise(seed, 80)))
    named = [{"bytes": None, "path": str(file.absolute())} for file in files]
    name = parquet("x.parquet", image=named, label=[0] * 40) if in_table else "hf:images"
    before = opened(name).fingerprint()
    assert opened(name).fingerprint() == before
    files[4].write_bytes(png(noise(99, 80)))  # of which no sample is taken
    changed = opened(name).fingerprint()
    files[7].unlink()
    assert len({before, changed, opened(name).fingerprint()}) == 3


def test_a_table_of_which_nothing_else_is_known_is_told_by_a_sample_of_its_images() -> None:
    def digest(images: list[bytes], rows: list[int]) -> str:
        table = datasets.Dataset.from_dict({"image": images})
        return TableImages(table, "image", "x", np.array(rows)).digest

    every = [0, 1, 2]
    assert digest(IMAGES, every) == digest(IMAGES, every)
    assert digest(IMAGES, every) != digest([*IMAGES[:2], IMAGES[1]], every)
    assert digest(IMAGES, every) != digest(IMAGES, [0, 1])


def test_damaged_files_and_folders_without_tables(caplog: pytest.LogCaptureFixture) -> None:
    whole = Path(parquet("x.parquet", image=IMAGES, label=LABELS).removeprefix("hf:")).read_bytes()
    for content in (b"", whole[:100], b"text" * 99):
        Path("x.parquet").write_bytes(content)
        assert "x.parquet cannot be read as a data set: " in refused("hf:x.parquet")
    Path("empty").mkdir()
    assert "empty cannot be read as a data set: " in refused("hf:empty")
    assert not caplog.records, "the library says nothing of its own"


def test_nothing_is_asked_of_the_hub_where_downloads_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def connect(*_: Any) -> None:
        raise AssertionError("the network is used")

    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("nothing").absolute())
    with pytest.raises(DownloadError, match="'org/name' is not on this machine and downloads are off"):
        opened("hf:org/name")
    assert not datasets.config.HF_HUB_OFFLINE, "the setting is as it was"


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_fetched_once_and_found_again_without_it(tmp_path: Path) -> None:
    parquet("test.parquet", image=IMAGES, label=LABELS)
    code = """
    import json, sys
    from pathlib import Path
    from decompose_cli.datasets.registry import available_splits, open_dataset
    from decompose_cli.errors import DecomposeError
    try:
        images = open_dataset(sys.argv[1], "test", Path(), allow_download=sys.argv[2] == "yes")
        print(json.dumps([images.labels.tolist(), images.image(2).tobytes().hex(), images.fingerprint()]))
    except DecomposeError as error:
        print(json.dumps(error.message))
    """

    def run(name: str, downloads: str) -> Any:
        command = [sys.executable, "-c", textwrap.dedent(code), name, downloads]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with hub("org/name", {"test.parquet": Path("test.parquet").read_bytes()}) as (address, asked):
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub")}
        assert "downloads are off" in run("hf:org/name", "no")
        assert asked == []
        first = run("hf:org/name", "yes")
        assert first[:2] == [LABELS, noise(2, 8).tobytes().hex()]
        assert any(path.endswith("test.parquet") for path in asked)
        assert "BuilderConfig 'other' not found" in run("hf:org/name:other", "yes")
        asked.clear()
        assert run("hf:org/name", "no") == first
        assert asked == []
    assert run("hf:org/name", "no") == first
    assert "is not on this machine and cannot be fetched" in run("hf:org/other", "yes")
