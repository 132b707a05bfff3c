"""ImageNet without a devkit, and subsets of it: a class keeps its true number among the 1000."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from decompose_cli.datasets.classes import match_classes
from decompose_cli.datasets.imagenet import imagenet_classes, open_imagenet
from decompose_cli.datasets.registry import known_class_names, open_dataset
from decompose_cli.errors import InputError
from decompose_cli.preprocessing import IMAGENET

THREE = {"n01440764": 0, "n02123045": 281, "n15075141": 999}  # tench, tabby, toilet tissue


def write_image(path: Path, side: int = 80, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


def write_three(root: Path, split: str = "val") -> None:
    for wnid, number in THREE.items():
        for image in range(2):
            write_image(root / split / wnid / f"{image}.JPEG", seed=number + image)


def test_thousand_classes_in_the_order_of_their_ids() -> None:
    wnids, names = imagenet_classes()
    assert len(wnids) == len(set(wnids)) == len(names) == 1000
    assert list(wnids) == sorted(wnids)
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in wnids)
    assert all(name == name.strip() and name for name in names)
    assert [(wnids[n], names[n]) for n in (0, 281, 999)] == [
        ("n01440764", "tench"),
        ("n02123045", "tabby"),
        ("n15075141", "toilet tissue"),
    ]


def test_names_are_those_of_torchvision() -> None:
    import decompose_cli  # noqa: F401, I001 - makes torchvision importable beside a CPU-only torch
    from torchvision.models import ResNet18_Weights

    theirs = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    ours = imagenet_classes()[1]
    different = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.casefold() != b.casefold()]
    assert len(different) <= 5, different  # torchvision tells cranes and maillots apart by longer names


@pytest.mark.parametrize("place", ["imagenet/ILSVRC", "ILSVRC", "imagenet"])
@pytest.mark.parametrize("split", ["val", "train"])
def test_three_class_folders_keep_their_true_numbers(place: str, split: str, tmp_path: Path) -> None:
    write_three(tmp_path / place, split)
    dataset = open_dataset("imagenet", split, tmp_path)
    batches = list(dataset.batches(IMAGENET, 4, 0))
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 0, 281, 281, 999, 999]
    assert batches[0][0].shape == (4, 3, 224, 224)
    assert len(dataset.class_names) == 1000
    assert dataset.class_ids == imagenet_classes()[0]
    assert dataset.preprocessing == IMAGENET
    model = known_class_names("imagenet", certain=True)
    matched = match_classes(dataset.class_names, dataset.class_ids, model, 1000, what="x", present=[0, 281, 999])
    assert [matched.outputs[label] for label in (0, 281, 999)] == [0, 281, 999]


@pytest.mark.parametrize(
    "names", [list(THREE), ["tench", "tabby", "toilet tissue"], ["Tench", "tabby", "toilet_tissue"]]
)
def test_three_class_folders_of_a_plain_folder_keep_their_true_numbers(names: list[str], tmp_path: Path) -> None:
    for name in names:
        write_image(tmp_path / "val" / name / "0.JPEG")
    dataset = open_dataset(f"folder:{tmp_path}", "val", tmp_path)
    matched = match_classes(
        dataset.class_names, dataset.class_ids, known_class_names("imagenet", certain=True), 1000, what="x"
    )
    found = {dataset.class_names[label]: output for label, output in enumerate(matched.outputs)}
    shown = ["tench", "tabby", "toilet tissue"] if names == list(THREE) else names
    assert found == dict(zip(shown, THREE.values(), strict=True))


def test_flat_validation_folder_is_explained(tmp_path: Path) -> None:
    write_image(tmp_path / "imagenet" / "ILSVRC" / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(InputError, match="is not sorted into class folders, and there is no list") as refusal:
        open_imagenet("val", tmp_path)
    assert "one folder per WordNet id" in (refusal.value.hint or "")


def test_folder_that_is_no_class_of_imagenet(tmp_path: Path) -> None:
    write_three(tmp_path / "imagenet")
    write_image(tmp_path / "imagenet" / "val" / "n99999999" / "0.JPEG")
    with pytest.raises(InputError, match="class folder 'n99999999' which is no class of it"):
        open_imagenet("val", tmp_path)


def test_split_or_all_of_it_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ImageNet is not there; looked for") as refusal:
        open_imagenet("val", tmp_path)
    assert str(tmp_path / "imagenet" / "ILSVRC" / "val") in refusal.value.message
    assert "image-net.org" in (refusal.value.hint or "")
    write_three(tmp_path / "imagenet", "train")
    with pytest.raises(InputError, match="ImageNet is not there"):
        open_imagenet("val", tmp_path)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Tiny ImageNet as its archive unpacks, with two classes; the list of classes is not sorted."""
    root = tmp_path / "tiny-imagenet-200"
    root.mkdir()
    (root / "wnids.txt").write_text("n02123045\nn01440764\n")
    (root / "words.txt").write_text("n01440764\ttench, Tinca tinca\nn02123045\ttabby, tabby cat\nn00001740\tentity\n")
    for wnid in ("n02123045", "n01440764"):
        for number in range(3):
            write_image(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", side=64, seed=number)
    rows = []
    for number, wnid in enumerate(("n02123045", "n01440764", "n02123045")):
        write_image(root / "val" / "images" / f"val_{number}.JPEG", side=64, seed=number)
        rows.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    return root


def test_tiny_imagenet_in_its_own_layout(tiny: Path) -> None:
    train, val = (open_dataset("tiny-imagenet", split, tiny.parent) for split in ("train", "val"))
    assert train.class_ids == val.class_ids == ("n01440764", "n02123045")
    assert train.class_names == ("tench", "tabby")
    assert [len(train), len(val)] == [6, 3]
    (images, labels), *_ = train.batches(train.preprocessing, 10, 0)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.shape == (6, 3, 64, 64)
    assert next(iter(val.batches(val.preprocessing, 10, 0)))[1].tolist() == [1, 0, 1]
    matched = match_classes(
        val.class_names, val.class_ids, known_class_names("imagenet", certain=True), 1000, what="tiny"
    )
    assert matched.outputs == (0, 281)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("wnids.txt", None, r"wnids\.txt cannot be read: No such file"),
        ("words.txt", None, r"words\.txt cannot be read: No such file"),
        ("val/val_annotations.txt", None, r"val_annotations\.txt cannot be read: No such file"),
        ("val/val_annotations.txt", "val_0.JPEG\tn99999999\n", r"names a class that is not in wnids\.txt"),
        ("val/val_annotations.txt", "val_0.JPEG\n", r"names a class that is not in wnids\.txt"),
        ("val/val_annotations.txt", "", "has no images"),
    ],
)
def test_tiny_imagenet_that_is_damaged(tiny: Path, file: str, content: str | None, sentence: str) -> None:
    if content is None:
        (tiny / file).unlink()
    else:
        (tiny / file).write_text(content)
    with pytest.raises(InputError, match=sentence):
        open_dataset("tiny-imagenet", "val", tiny.parent)


def test_of_tiny_imagenet_nothing_vanishes(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_image(tiny / "val" / "images" / "val_9.JPEG", side=64, seed=9)
    write_image(tiny / "train" / "n01440764" / "images" / "more" / "x.png", side=64, seed=9)
    assert len(open_dataset("tiny-imagenet", "val", tiny.parent)) == 3
    assert caplog.messages == [f"{tiny / 'val'}: images of no class are left out: 1 (val_9.JPEG)."]
    assert open_dataset("tiny-imagenet", "train", tiny.parent).labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    (tiny / "train" / "n02123045").rename(tiny / "train" / "n0")
    with pytest.raises(InputError, match=r"train names a class that is not in wnids\.txt: 'n0'"):
        open_dataset("tiny-imagenet", "train", tiny.parent)


def test_tiny_imagenet_with_a_missing_image_names_it(tiny: Path) -> None:
    (tiny / "val" / "images" / "val_1.JPEG").unlink()
    with pytest.raises(InputError, match=r"val_1\.JPEG"):
        open_dataset("tiny-imagenet", "val", tiny.parent).fingerprint()


def test_tiny_imagenet_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Tiny ImageNet is not there") as refusal:
        open_dataset("tiny-imagenet", "val", tmp_path)
    assert "tiny-imagenet-200.zip" in (refusal.value.hint or "")
