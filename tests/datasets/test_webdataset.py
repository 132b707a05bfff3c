"""Tar shards: samples, labels, patterns of names, and what is wrong with them."""

from __future__ import annotations

import gzip
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.image_kinds import noise, png, write_tar

from decompose_cli.datasets import shard_notes
from decompose_cli.datasets.base import ImageDataset
from decompose_cli.datasets.registry import available_splits, open_dataset
from decompose_cli.datasets.tar_shards import ShardImages, read_shard
from decompose_cli.engines.cache import clear_cache, list_cache
from decompose_cli.errors import InputError

IMAGES = [png(noise(number, 8)) for number in range(4)]


def shard(name: str, *samples: tuple[str, dict[str, bytes]]) -> Path:
    return write_tar(
        Path(name), [(f"{key}.{end}", content) for key, parts in samples for end, content in parts.items()]
    )


def sample(number: int, label: str = "0") -> tuple[str, dict[str, bytes]]:
    return f"{number:04}", {"png": IMAGES[number], "cls": label.encode()}


def opened(name: str = "wds:x.tar", split: str = "test", **columns: str) -> ImageDataset:
    return open_dataset(name, split, Path(), columns=columns)


def refused(name: str = "wds:x.tar", **columns: str) -> str:
    with pytest.raises(InputError) as refusal:
        opened(name, **columns)
    return f"{refusal.value.message} {refusal.value.hint or ''}"


def test_samples_of_several_members_in_folders_of_the_archive() -> None:
    members = [("./deep/a.b/0.json", b"{}"), ("./deep/a.b/0.PNG", IMAGES[1]), ("./deep/a.b/0.cls", b" 3\n")]
    members += [("./deep/a.b/._0.png", b"hidden"), ("README", b"text"), ("1.cls", b"1"), ("1.txt", b"a caption")]
    write_tar(Path("x.tar"), [*members, ("1.jpg", IMAGES[2])])
    found = opened()
    assert found.labels.tolist() == [3, 1]
    assert (found.class_names, found.is_numbered) == (("0", "1", "2", "3"), True)
    assert [found.called(number) for number in (0, 1)] == ["x.tar/./deep/a.b/0.PNG", "x.tar/1.jpg"]
    assert found.image(1).tobytes() == noise(2, 8).tobytes()


def test_what_is_noted_of_shards_is_listed_and_cleared() -> None:
    shard("a-0.tar", sample(0))
    shard("a-1.tar", sample(1, "1"))
    opened("wds:a-{0..1}.tar")
    (entry,) = list_cache().entries
    assert (entry.description, entry.file) == ("what is in 2 tar shards", "shards")
    assert clear_cache() == (2, entry.size)
    assert list_cache().entries == []
    assert opened("wds:a-{0..1}.tar").labels.tolist() == [0, 1]


def test_long_names_and_images_of_several_shards() -> None:
    long = "folder/" * 40
    shard("a-0.tar", (f"{long}one", sample(0)[1]))
    shard("a-1.tar", sample(1, "1"), sample(2, "2"))
    found = opened("wds:a-{0..1}.tar")
    assert found.called(0) == f"a-0.tar/{long}one.png"
    for number, seed in enumerate((0, 1, 2)):
        assert np.array_equal(np.asarray(found.image(number)), noise(seed, 8))


def test_many_shards_are_not_all_kept_open() -> None:
    paths = [shard(f"{number:03}.tar", sample(number % 4)) for number in range(100)]
    images = ShardImages.within([read_shard(path, None, None) for path in paths])
    for _ in range(2):
        assert [images[number].content for number in range(100)] == [IMAGES[number % 4] for number in range(100)]
        assert len(images._handles.opened) == 64
    again = pickle.loads(pickle.dumps(images))
    assert (len(again._handles.opened), again[3].content) == (0, IMAGES[3])
    assert [each.content for each in images[1:3]] == [IMAGES[1], IMAGES[2]]


def test_labels_in_json_and_in_a_member_that_is_named() -> None:
    parts = {"png": IMAGES[0], "json": json.dumps({"label": "cat", "other": 7}).encode(), "target": b"dog"}
    shard("x.tar", ("a", parts), ("b", {**parts, "target": b"emu"}))
    assert opened().class_names == ("cat",)
    assert opened(label="target").class_names == ("dog", "emu")
    assert opened(image="PNG", label="Target").class_names == ("dog", "emu")
    assert opened(label="JSON.other").labels.tolist() == [7, 7]
    shard("y.tar", ("a", {"png": IMAGES[0], "seg.png": IMAGES[1], "top.cls": b"4"}))
    assert opened("wds:y.tar", image="Seg.PNG", label="top.cls").labels.tolist() == [4]
    assert opened(label="json.other").labels.tolist() == [7, 7]
    assert "has no field 'none' with a number or a name" in refused(label="json.none")
    two = {"input.png": IMAGES[0], "mask.png": IMAGES[1], "cls": b"0"}
    shard("x.tar", ("a", two))
    assert "The sample a in x.tar has several images; its members end in input.png, mask.png, cls." in refused()
    assert opened(image="mask.png").image(0).tobytes() == noise(1, 8).tobytes()


def test_names_of_classes_lie_beside_the_shards() -> None:
    shard("x.tar", sample(0, "1"))
    Path("classnames.txt").write_text("ant\nbee\n\n", encoding="utf-8")
    assert (opened().class_names, opened().is_numbered) == (("ant", "bee"), False)
    shard("x.tar", sample(0, "2"))
    assert "label of 0000.png in x.tar is '2', and 2 classes have names" in refused()
    Path("classnames.txt").write_bytes(b"\xff\xfe")
    assert "classnames.txt is there but cannot be read as text" in refused()


def test_splits_by_names_of_shards_and_classes_of_the_training_images() -> None:
    for split in ("train", "validation"):
        for number in range(2):
            label = f"{'abc'[number] if split == 'train' else 'b'}"
            shard(f"data/set-{split}-{number}.tar", sample(number, label))
    for name in ("wds:data", "wds:data/set-{split}-{0..1}.tar", "wds:data/set-{split}-*.tar"):
        assert available_splits(name) == ("val", "train")
        assert opened(name, "train").labels.tolist() == [0, 1]
        assert opened(name, "val").labels.tolist() == [1, 1]
        assert opened(name, "val").class_names == ("a", "b")
    for split in ("train", "val"):
        shard(f"other/{split}/0.tar", sample(0), sample(1))
    assert available_splits("wds:other") == ("val", "train")
    assert available_splits("wds:other/train/0.tar") == ("train",)


@pytest.mark.parametrize("name", ["*.tar", "c-{train,test}-{0..1}.tar", "**/*.tar", "{c-train,c-test}*.tar"])
def test_shards_of_several_splits_that_one_pattern_names_stay_apart(name: str) -> None:
    for split, number in (("train", 0), ("train", 1), ("test", 0), ("test", 1)):
        shard(f"sh/c-{split}-{number}.tar", sample(number))
        shard(f"sh/deep/{split}/{number}/0.tar", sample(number))
    assert available_splits(f"wds:sh/{name}") == ("test", "train")
    count = 4 if name.startswith("**") else 2
    assert len(opened(f"wds:sh/{name}", "test")) == len(opened(f"wds:sh/{name}", "train")) == count
    assert available_splits("wds:sh/deep/**/*.tar") == ("test", "train"), "a folder above says the split, too"


def test_a_blank_line_in_the_names_of_the_classes_is_refused() -> None:
    shard("sh/0.tar", sample(0, "1"))
    for text in ("\ufeffant\nbee\ncow\n\n", "ant\r\nbee\r\ncow"):
        Path("sh/classes.txt").write_text(text, encoding="utf-8")
        assert opened("wds:sh/0.tar").class_names == ("ant", "bee", "cow")
    Path("sh/classes.txt").write_text("ant\n\nbee\n")
    assert "Line 2 of sh/classes.txt is blank; it names classes in the order of their numbers." in refused(
        "wds:sh/0.tar"
    )


@pytest.mark.parametrize("name", ["wds:sh", "wds:sh/*.tar"])
def test_shards_of_which_only_some_say_the_split_are_refused(name: str) -> None:
    for file in ("a-train-0", "b-0", "b-1"):
        shard(f"sh/{file}.tar", sample(0))
    assert (
        f"sh/b-0.tar and 1 more do not say which split they are of, while other files of dataset {name} do "
        "(a-train-0.tar)." in refused(name)
    )
    assert available_splits("wds:sh/b-*.tar") == ("test",)


def test_a_pattern_that_is_none_is_said() -> None:
    shard("sh/0.tar", sample(0))
    assert "sh/**x" in refused("wds:sh/**x"), "which Python 3.13 takes for sh/*x"


def test_shards_that_are_named_have_to_be_there() -> None:
    shard("set-train-0.tar", sample(0))
    assert "The file set-train-1.tar of dataset wds:set-{split}-{0..1}.tar does not exist" in refused(
        "wds:set-{split}-{0..1}.tar"
    )
    Path("set-train-1.tar").mkdir()
    assert "is no file" in refused("wds:set-{split}-{0..1}.tar")


def test_what_a_sample_lacks_is_said() -> None:
    shard("x.tar", sample(0), ("b", {"png": IMAGES[1]}))
    assert "The sample b in x.tar has no label; its members end in png." in refused()
    shard("x.tar", ("b", {"txt": b"x", "cls": b"0"}))
    assert "The sample b in x.tar has no image; its members end in txt, cls." in refused()
    shard("x.tar", sample(0), sample(1, "1"), sample(2, "nan"))
    assert "The label of 0002.png in x.tar is 'nan', which is no class number, as others are." in refused()
    shard("x.tar", ("a", {"png": IMAGES[0], "json": b"{"}))
    assert "The label a.json in x.tar cannot be read" in refused()
    shard("x.tar", ("a", {"png": IMAGES[0], "cls": b"\xff"}))
    assert "The label a.cls in x.tar cannot be read" in refused()
    shard("x.tar", ("a", {"png": IMAGES[0], "cls": b"0" * 100_000}))
    assert "The label a.cls in x.tar has 100,000 bytes, which is no label." in refused()
    write_tar(Path("x.tar"), [("a.png", IMAGES[0]), ("a.PNG", IMAGES[0]), ("a.cls", b"0")])
    assert "The sample a in x.tar has two members that end in PNG." in refused()
    write_tar(Path("x.tar"), [])
    assert "x.tar has no samples." in refused()


def _with_size(content: bytes, header: int, size: bytes) -> bytes:
    """A tar file in which a header, at this byte, has another size, and a sum that fits."""
    block = bytearray(content[header : header + 512])
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return content[:header] + bytes(block) + content[header + 512 :]


def test_damaged_archives_are_refused() -> None:
    path = shard("x.tar", *(sample(number) for number in range(4)))
    whole = path.read_bytes()
    used = 4 * 4 * 512
    cases = {
        whole[: used // 2 + 100]: "x.tar",
        whole[: used // 2]: "x.tar is cut off after 4,096 bytes.",
        whole[:used]: "x.tar is cut off after 8,192 bytes.",
        whole[:2148] + b"?" * 60 + whole[2208:]: "x.tar is damaged at byte 2,048.",
        b"": "x.tar is empty.",
        _with_size(
            whole, 1024, b"\xff" * 11 + b"\x00"
        ): "x.tar is no tar file, or damaged: 0000.cls has a negative size",
        b"text " * 500: "x.tar is no tar file, or damaged",
        gzip.compress(whole): "x.tar is compressed, so that its images cannot be read one by one.",
    }
    assert [len(image) <= 512 for image in IMAGES] == [True] * 4, "a member is a header and a block"
    for content, says in cases.items():
        path.write_bytes(content)
        assert says in refused()
    path.write_bytes(whole)
    assert len(opened()) == 4


def test_what_shards_hold_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shard("x.tar", sample(0, "caf\u00e9"), sample(1, "b"))
    first = opened()
    (note,) = (tmp_path / "cache" / "shards").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(shard_notes, "read_shard", lambda *_: pytest.fail("it is looked through again"))
        again = opened()
    assert (again.class_names, again.labels.tolist()) == (first.class_names, [1, 0])
    assert again.fingerprint() == first.fingerprint()
    assert again.image(1).tobytes() == noise(1, 8).tobytes()
    for damaged in (b"", b"text" * 99, note.read_bytes()[:-50]):
        note.write_bytes(damaged)
        assert opened().labels.tolist() == [1, 0]
    shard("x.tar", sample(2, "d"))
    os.utime(path, ns=(1, 1))
    assert opened().class_names == ("d",), "another file"
