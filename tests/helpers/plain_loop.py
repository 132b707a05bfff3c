"""A network of another library, measured by commands, beside what a plain loop over the same images makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers.command_line import document_of, run

CLASSES, EACH = ("amber", "blue", "coral", "dun"), 5


def picture_folder(folder: Path, side: int) -> Path:
    """Twenty images of four classes for training and as many for testing, each class of a colour of its own."""
    generator = np.random.default_rng(1)
    for split in ("train", "test"):
        for number, name in enumerate(CLASSES):
            place = folder / split / name
            place.mkdir(parents=True)
            for each in range(EACH):
                low = generator.integers(0, 90, (4, 4, 3)) + 40 * np.eye(4, 3, dtype=int)[number] * (each + 1) // 2
                large = Image.fromarray(low.astype(np.uint8)).resize((side, side), Image.Resampling.BILINEAR)
                large.save(place / f"{each}.png")
    return folder


def opened(folder: Path, split: str) -> tuple[list[Image.Image], Tensor]:
    """The images of a split in the order of their paths, and the numbers of their classes."""
    paths = sorted((folder / split).rglob("*.png"))
    return [Image.open(path).convert("RGB") for path in paths], torch.arange(len(CLASSES)).repeat_interleave(EACH)


def settle_averages(module: nn.Module, images: Tensor) -> None:
    """Let batch norms see images, so that networks with random weights tell images apart."""
    module.train()
    with torch.no_grad():
        for _ in range(20):
            module(images)
    module.eval()


def check_commands(
    network: list[str],
    size: list[str],
    folder: Path,
    loop: Callable[[Image.Image], tuple[Tensor, Tensor]],
    names: Sequence[str] = CLASSES,
) -> None:
    """Check ``layers``, ``validate``, ``sparsify``, ``explain`` and ``filters`` of a network.

    Args:
        network: What names the network and its weights.
        size: What says how large its images are, which are neither resized nor cropped then.
        folder: A folder of :func:`picture_folder`.
        loop: Takes an image; returns the features that enter the head, and the logits.
        names: Names of the network's classes, in its order.
    """
    resize = ["--resize", size[1]] if size else []
    named = [*network, *size, *resize, "--dataset", f"folder:{folder}", "-j", "0"]
    images, labels = opened(folder, "test")
    labels = torch.tensor([names.index(one) for one in CLASSES])[labels]
    coral = labels == names.index("coral")
    rows = [loop(image) for image in images]
    features, logits = (torch.cat([row[part] for row in rows]).double() for part in (0, 1))
    close = {"rel": 2e-3, "abs": 2e-3 * float(logits.std(0).mean())}
    guesses = logits.argmax(1)

    document = document_of("validate", *named)
    original = document["results"]["original"]
    assert document["model"]["num_features"] == features.shape[1]
    assert original["correct"] == int((guesses == labels).sum())
    assert original["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), **close)
    confusion = torch.zeros(4, 4, dtype=torch.int64).index_put_((labels, guesses), torch.tensor(1), accumulate=True)
    assert original["confusion"] == confusion.tolist()

    chosen = document_of("filters", *named, "--class", "coral", "-k", "3", "-o", "filters")["results"]
    assert len(chosen["filters"]) == 3
    for one in chosen["filters"]:
        values = features[:, one["feature"]]
        allowed = {"rel": 2e-3, "abs": 2e-3 * float(values.std())}
        assert one["mean"] == pytest.approx(float(values[coral].mean()), **allowed)
        assert one["mean_elsewhere"] == pytest.approx(float(values[~coral].mean()), **allowed)
        assert one["images"][0]["value"] == pytest.approx(float(values.max()), **allowed)

    explained = document_of("explain", *named, "--indices-of", "0,7,19", "-k", "3", "-o", "maps")["results"]
    for number, one in zip((0, 7, 19), explained["explanations"], strict=True):
        assert one["predicted"] == int(guesses[number])
        for score in one["original"]:
            assert score["logit"] == pytest.approx(float(logits[number, score["number"]]), **close)

    run("sparsify", *named, "-k", "3", "--method", "contribution", "-o", "sparse")
    state = load_file("sparse/k3/sparse.safetensors")
    place = next(name for name in state if name.endswith(".indices")).removesuffix(".indices")
    weight, kept, is_kept = (state[f"{place}.{part}"] for part in ("weight", "indices", "mask"))
    sparse = torch.einsum("ck,nck->nc", weight.double() * is_kept, features[:, kept]) + state[f"{place}.bias"].double()
    decomposed = document_of("validate", "-w", "sparse/k3/sparse.safetensors", "-j", "0")["results"]["decomposed"]
    assert decomposed["loss"] == pytest.approx(float(F.cross_entropy(sparse, labels)), rel=2e-3, abs=2e-3)
    assert decomposed["correct"] == int((sparse.argmax(1) == labels).sum())

    listed = document_of("layers", network[0], *size)["layers"]
    assert [one["name"] for one in listed if one["is_head"]] == [place]
