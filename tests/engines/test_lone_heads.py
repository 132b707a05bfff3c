"""``validate --features``: a head without a network is measured on features that were made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.checkpoints import Hostile
from helpers.command_line import FAILED, REFUSED, content, document_of, files_below, refused, row_of, run
from helpers.inputs import CLASSES, FEATURES, put
from helpers.sparse_heads import DIGITS, EMPTY, few_values, record, write_lone_head, write_sparse
from safetensors.torch import save_file

from decompose_cli.engines.catalogue import results_type
from decompose_cli.models.weights import cached_weights_path
from decompose_cli.storage.files import sha256_of
from decompose_cli.storage.result_document import FeaturesInfo, ResultDocument

HEAD, FILE = Path("head.safetensors"), Path("features.npz")
ON_FEATURES = ["validate", "-w", str(HEAD), "--features", str(FILE)]
IMAGES = 40


def made(**changes: Any) -> dict[str, np.ndarray]:
    """Features that the heads of the shipped network get right now and then, and no class 7 in any split."""
    random = np.random.default_rng(1)
    found: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        labels = random.integers(0, 7, IMAGES)
        along = record().dense_weight
        assert along is not None
        x = random.normal(size=(IMAGES, FEATURES)) + along.numpy()[labels]
        found |= {f"{split}_x": x.astype(np.float32), f"{split}_y": labels.astype(np.uint8)}
    return {name: value for name, value in {**found, **changes}.items() if value is not None}


def write(**changes: Any) -> None:
    write_lone_head(HEAD)
    np.savez(FILE, **made(**changes))


@pytest.mark.parametrize("split", ["test", "val", "train"])
def test_both_heads_are_measured_as_they_are_written_down(split: str) -> None:
    """The logits of each image, written out in float64."""
    write()
    document = document_of(*ON_FEATURES, *(["--split", split] if split != "test" else []))
    x, y = (torch.from_numpy(made()[f"{split}_{part}"]) for part in "xy")
    values, dense = few_values(), record().dense_weight
    assert dense is not None
    biases = torch.linspace(-1, 1, CLASSES)
    for name, weight, bias in (
        ("original", dense.double(), torch.zeros(CLASSES).double()),
        ("decomposed", values.folded().float().double(), biases.double()),
    ):
        logits = torch.stack([(weight * image).sum(1) + bias for image in x.double()])
        found = document["results"][name]
        assert found["correct"] == int((logits.argmax(1) == y).sum())
        assert found["loss"] == pytest.approx(float(F.cross_entropy(logits, y.long())), rel=1e-5)
        assert sum(map(sum, found["confusion"])) == IMAGES
        assert [row["name"] for row in found["per_class"]] == list(DIGITS)
    assert document["results"]["original"]["correct"] > IMAGES / 4
    assert document["results"]["total"] == IMAGES
    assert document["results"]["indices"]["k"] == [0, 4]
    assert document["results"]["difference"] is not None
    assert document["results"]["mistakes"]


def test_the_document_says_which_head_and_which_features() -> None:
    write()
    document = document_of(*ON_FEATURES)
    assert document["model"] == {
        "name": "features",
        "num_classes": CLASSES,
        "num_features": FEATURES,
        "head": "head",
        "options": {},
        "weights": {"source": str(HEAD), "sha256": sha256_of(HEAD)},
    }
    assert document["dataset"] == {
        "name": str(FILE),
        "split": "test",
        "images": IMAGES,
        "fingerprint": sha256_of(FILE),
        "classes": list(DIGITS),
    }
    assert document["arguments"]["features"] == str(FILE)
    assert document["cache"] is None
    read = ResultDocument[results_type("validate")].model_validate(document)  # type: ignore[misc]
    assert type(read.dataset) is FeaturesInfo
    assert read.model_dump(mode="json") == document


def test_the_result_is_shown_written_and_put_on_a_page() -> None:
    write(class_names=np.array(DIGITS), feature_names=np.array([f"f{j}" for j in range(FEATURES)]))
    said = run(*ON_FEATURES).stderr
    assert f"Features  {FILE}, test: {IMAGES} (sha256 {sha256_of(FILE)[:8]})" in said
    assert f"{HEAD}: 1 of 10 classes ({EMPTY}) has its bias alone" in said
    (result,) = files_below("results")
    assert result.startswith("validate-head-features-")
    correct = content(Path("results") / result)["results"]["decomposed"]["correct"]
    assert row_of(said, "decomposed, 0 to 4 per class")[1] == f"{correct} of {IMAGES}"
    run("report", "results", "-o", "page.html")
    page = Path("page.html").read_text(encoding="utf-8")
    assert f"{FILE}, test: {IMAGES}" in page
    assert "fingerprint of the features" in page
    assert "misclassified images, as a table" in page
    assert "The images are not at hand" not in page, "there never were any"
    assert "normalisation" not in page


def test_where_there_is_no_test_split_the_one_for_validation_is_measured() -> None:
    write(test_x=None, test_y=None)
    assert document_of(*ON_FEATURES)["dataset"]["split"] == "val"


REFUSALS: list[tuple[str, list[str], str]] = [
    ("a network", ["resnet20"], "The network that was named has no effect with --features, which were made elsewhere."),
    ("split", ["--split", "all"], "--split 'all' is unknown; choose train, val, test."),
    ("device", ["--device", "abacus"], "abacus"),
    ("indices", ["-i", "k.json"], "head.safetensors carries its own indices, so -i k.json cannot be used with it."),
    ("no weights", ["-w", "default"], "--features measures the file of a head that takes such features; none"),
    ("random weights", ["-w", "random"], "--features measures the file of a head that takes such features; none was"),
    ("absent weights", ["-w", "none.safetensors"], "The weights file none.safetensors does not exist."),
    ("weights of a network", ["-w", "network.safetensors"], "network.safetensors is no file of a head for features"),
    ("absent features", ["--features", "none.npz"], "The features file none.npz does not exist."),
    ("weights as features", ["--features", str(HEAD)], "head.safetensors lacks test_x and test_y or val_x and val_y"),
    ("replaced", ["-o", str(FILE), "--overwrite"], "features.npz is read by this command, so it is not overwritten."),
]  # fmt: skip


@pytest.mark.parametrize(("more", "sentence"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_what_has_no_part_in_it_is_refused(more: list[str], sentence: str) -> None:
    write()
    write_sparse(Path("network.safetensors"))
    put(Path(), {"k.json": str({str(c): [c] for c in range(CLASSES)}).replace("'", '"').encode()})
    refused([*ON_FEATURES, *more], REFUSED, sentence)


OTHERS: list[tuple[str, dict[str, Any], str]] = [
    ("features", {f"{split}_x": np.ones((IMAGES, 63), np.float32) for split in ("train", "val", "test")},
     "features.npz has 63 features, but the head of head.safetensors takes 64."),
    ("more classes", {"train_y": np.full(IMAGES, 10)}, "features.npz has 11 classes, but the head of head"),
    ("fewer names", {"class_names": np.array(DIGITS[:9])}, "features.npz has 9 classes, but the head of head"),
    ("other names", {"class_names": np.array([*DIGITS[:8], "9", "8"])},
     "features.npz calls class 8 '9', but the head of head.safetensors '8'."),
    ("other order", {"feature_names": np.array([f"f{j}" for j in [1, 0, *range(2, FEATURES)]])},
     "features.npz calls feature 0 'f1', but the head of head.safetensors 'f0'."),
    ("no images of the split", {"test_x": None, "test_y": None}, "features.npz lacks test_x and test_y; it has"),
    ("objects", {"test_x": np.full((IMAGES, FEATURES), Hostile())}, "test_x in features.npz holds Python objects"),
    ("NaN", {"test_x": np.full((IMAGES, FEATURES), np.nan)}, "test_x in features.npz has NaN in row 0, column 0"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS])
def test_features_that_do_not_fit_the_head_are_refused(changes: dict[str, Any], sentence: str) -> None:
    write(**changes)
    write_lone_head(HEAD, feature_names=[f"f{j}" for j in range(FEATURES)])
    refused([*ON_FEATURES, "--split", "test"], REFUSED, sentence)


def test_the_head_may_be_a_url() -> None:
    write()
    url = "https://example.org/head.safetensors"
    target = cached_weights_path(url)
    refused(["validate", "-w", url, "--features", str(FILE), "--no-download"], FAILED, "not on this machine")
    target.parent.mkdir(parents=True)
    target.write_bytes(HEAD.read_bytes())
    document = document_of("validate", "-w", url, "--features", str(FILE), "--no-download")
    assert document["model"]["weights"]["source"] == url
    assert document["results"] == {**document_of(*ON_FEATURES)["results"], "indices": document["results"]["indices"]}


def test_features_of_tensors_and_without_names_fit_any_head() -> None:
    write()
    write_lone_head(HEAD, feature_names=[f"f{j}" for j in range(FEATURES)])
    save_file({name: torch.from_numpy(value) for name, value in made().items()}, "features.safetensors")
    documents = [
        document_of("validate", "-w", str(HEAD), "--features", f"features.{end}") for end in ("npz", "safetensors")
    ]
    assert documents[0]["results"] == documents[1]["results"]
