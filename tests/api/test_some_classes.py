"""Images of some of a network's classes, from Python."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import decompose_cli as dc


def images_of(three: tuple[str, ...], root: Path, names: tuple[str, ...]) -> dc.ImageDataset:
    from PIL import Image

    digits = dc.load_dataset("digits", "test")
    pixels = digits.in_memory()
    assert pixels is not None
    for name, digit in zip(names, three, strict=True):
        folder = root / "test" / name
        folder.mkdir(parents=True)
        for number in (digits.labels == int(digit)).nonzero().flatten()[:3].tolist():
            Image.fromarray(pixels[number].permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    return dc.load_dataset(f"folder:{root}", "test")


def test_classes_without_images_keep_all_features(tmp_path: Path) -> None:
    model = dc.load_model()
    features = dc.extract_features(model, images_of(("3", "5"), tmp_path, ("3", "5")))
    indices = dc.extract_indices(features, 4)
    assert indices.whole == set(range(10)) - {3, 5}
    assert {len(indices.classes[number]) for number in (3, 5)} == {4}
    assert indices.k_label == "4"
    assert dc.decompose(model, indices).is_decomposed
    dc.write_index_set(indices, "k.json")
    assert dc.read_index_set("k.json").whole == indices.whole


def test_a_model_of_some_classes(tmp_path: Path) -> None:
    model = dc.load_model()
    some = model.of_classes(["5", 3])
    assert (some.class_names, some.num_classes, model.num_classes) == (("5", "3"), 2, 10)
    images = images_of(("3", "5"), tmp_path, ("3", "5"))
    features, whole = dc.extract_features(some, images), dc.extract_features(model, images)
    assert torch.equal(features.values, whole.values)
    assert features.labels.tolist() == [1, 1, 1, 0, 0, 0]
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(some.module(x), model.module(x)[:, [5, 3]])
    small = dc.decompose(some, dc.extract_indices(features, 4))
    dc.save_model(small, "small.safetensors")
    again = dc.load_model(weights="small.safetensors")
    assert (again.class_names, again.is_decomposed) == (("5", "3"), True)
    torch.testing.assert_close(again.module(x), small.module(x))


@pytest.mark.parametrize("as_file", [False, True])
def test_a_class_map(tmp_path: Path, *, as_file: bool) -> None:
    model, images = dc.load_model(), images_of(("3", "5"), tmp_path, ("drei", "fünf"))
    with pytest.raises(dc.InputError, match="'drei' and 1 more are not among the network's 10 classes"):
        dc.extract_features(model, images)
    Path("map.csv").write_text("drei,3\nfünf,5\n", encoding="utf-8")
    features = dc.extract_features(model, images, class_map="map.csv" if as_file else {"drei": 3, "fünf": "5"})
    assert features.labels.tolist() == [3, 3, 3, 5, 5, 5]
