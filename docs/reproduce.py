"""Measure what can be compared with published code, and write ``reproduced.json``.

Needs the published checkpoints, index files, images and figures in ``$DECOMPOSE_REFERENCE_DIR``; takes seconds.
After it ``make docs`` puts the figures into ``reproduce.md``.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import decompose_cli as dc
from decompose_cli.engines.essential import EssentialSettings, essential
from decompose_cli.engines.extract_indices import ExtractSettings, extract_indices
from decompose_cli.engines.mutual_info import MutualInfoSettings, mutual_info
from decompose_cli.engines.selectivity import SelectivitySettings, selectivity
from decompose_cli.engines.validate import validate
from decompose_cli.norms.online import OnlineNorm1d, OnlineNorm2d

TARGET = Path(__file__).with_name("reproduced.json")
PLAIN, GATED, TUNED = "resnet20-12fca82f.th", "best_save_CSG.pth", "resnet20-decomposed.pth"
FILES = {
    5: "resnet20_cifar-10_indices.json",
    10: "resnet20_cifar-10_10_10_indices.json",
    20: "resnet20_cifar-10_20_20_indices.json",
}
CSG_FILE = "resnet20_cifar-10_csg_indices.json"
HEADS = (
    ("ResNet-20, full head", PLAIN, None),
    ("ResNet-20, published indices, k = 5", PLAIN, FILES[5]),
    ("ResNet-20, published indices, k = 10", PLAIN, FILES[10]),
    ("ResNet-20, published indices, k = 20", PLAIN, FILES[20]),
    ("ResNet-20 trained with class-specific gates, full head", GATED, None),
    ("the same, published CSG indices, k = 5", GATED, CSG_FILE),
    ("fine-tuned decomposition, in the order of indices that belongs to it", TUNED, "resnet20-decomposed.indices.json"),
    ("ResNet-20 trained with a selectivity regulariser", "resnet20-regularized.pth", None),
)
# The published code of the later repository, run on the same 4000 training images.
SELECTIVITY = {"psi_mean": 0.80704, "psi_median": 0.80938, "class_selectivity": 0.46227}


class Reference:
    """The published material, and our measurements of it."""

    def __init__(self, folder: Path) -> None:
        self.weights = folder / "weights"
        self.images = f"folder:{folder / 'data' / 'cifar10-lossless'}"
        self.figures = json.loads((folder / "reference" / "published-code-on-shared-data.json").read_text())
        self.online = np.load(folder / "reference" / "online_norm_published_numpy.npz")
        self.classes = dc.load_dataset(self.images, "test").class_names

    def inputs(self, weights: str) -> dc.Inputs:
        """A published network on the images."""
        return dc.Inputs(model="resnet20", weights=str(self.weights / weights), dataset=self.images)

    def counts(self) -> tuple[list[list[Any]], list[list[Any]]]:
        """Images right, for each head: of all classes, and by class where the published ones are known."""
        rows, by_class = [], [[name] for name in self.classes]
        for what, weights, indices in HEADS:
            published = self.figures["validate"][weights if indices is None else f"{weights} + {indices}"]
            results = validate(self.inputs(weights), self.weights / indices if indices else None).results
            head = results.decomposed if indices else results.original
            assert head is not None
            rows.append([what, published["correct"], head.correct])
            if "per_class_correct" in published:
                for row, theirs, ours in zip(by_class, published["per_class_correct"], head.per_class, strict=True):
                    row.append(f"{theirs} / {ours.correct}")
        highest = self.highest_gates()
        found = validate(self.inputs(GATED), highest).results.decomposed
        assert found is not None
        published = self.figures["csg_top5_highest_gate"]["decomposed_correct"]
        rows.append(["the same network with gates, its five highest gates per class", published, found.correct])
        return rows, by_class

    def highest_gates(self) -> dc.IndexSet:
        """The features with the five highest gates of each class."""
        extracted = extract_indices(self.inputs(GATED), ExtractSettings(k=(5,), method="csg")).results["5"]
        return dc.IndexSet(tuple(tuple(row) for row in extracted.indices.values()), 64, source="five highest gates")

    def logits(self) -> list[list[Any]]:
        """The largest difference of ten logits of the first image, for each head."""
        model = dc.load_model("resnet20", self.weights / PLAIN)
        dataset = dc.load_dataset(self.images, "test")
        first = [f"{path.parent.name}/{path.name}" for path in dataset.files].index("cat/00000.png")  # type: ignore[attr-defined]
        image = next(images for images, _ in dataset.batches(model.preprocessing, len(dataset), 0))[first : first + 1]
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.preprocessing.mean, model.preprocessing.std))
        rows = []
        for what, file, expected in [
            ("full head", None, self.figures["first_image_logits"]),
            *((f"k = {k}", file, self.figures["first_image_logits_decomposed"][file]) for k, file in FILES.items()),
        ]:
            network = model if file is None else dc.decompose(model, self.weights / file)
            with torch.inference_mode():
                found = network.module((image / 255 - mean) / std)[0]
            largest = float((found - torch.tensor(expected)).abs().max())
            rows.append([what, f"{max(expected):.4f}", f"{float(found.max()):.4f}", f"{largest:.0e}"])
        return rows

    def overlap(self) -> list[list[Any]]:
        """Mutual information, as published: the mean over all ordered pairs of classes."""
        files = [f"ours={self.weights / file}" for file in FILES.values()]
        found = mutual_info(
            dc.Inputs(), MutualInfoSettings(indices=files, csg=str(self.weights / GATED), order="lowest")
        ).results.sets
        return [
            [f"{what}, k = {k}", f"{published[str(k)]:.8f}", f"{found[name][str(k)].mean:.8f}"]
            for name, what in (("ours", "published indices"), ("csg", "lowest gates"))
            for k in FILES
            for published in [self.figures["mutual_info"][name]]
        ]

    def essential(self) -> list[list[Any]]:
        """Images kept under noise, mean and standard error of 30 draws on both sides."""
        inputs = self.inputs(PLAIN)
        found = essential(
            inputs,
            EssentialSettings(
                indices=self.weights / FILES[5], csg=str(self.weights / GATED), order="lowest", repeats=30, controls=0
            ),
        ).results
        rows = []
        for number, name in enumerate(self.classes):
            row: list[Any] = [name]
            for method in ("ours", "csg"):
                theirs, ours = (
                    self.figures["essential_30_seeds"][method][str(number)],
                    found.by_class(method)[str(number)],
                )
                for noise in ("noise_at_inf", "noise_at_noninf"):
                    error = theirs[f"{noise}_std"] / math.sqrt(30)
                    own = getattr(ours, noise), getattr(ours, f"{noise}_se")
                    row.append(f"{theirs[f'{noise}_mean']:.1f} ± {error:.1f} / {own[0]:.1f} ± {own[1]:.1f}")
            rows.append(row)
        return rows

    def indices(self) -> list[list[Any]]:
        """Features extracted from the first 4000 training images that the published files have too."""
        found = extract_indices(self.inputs(PLAIN), ExtractSettings(k=tuple(FILES))).results
        rows = []
        for k, file in FILES.items():
            theirs = json.loads((self.weights / file).read_text())
            ours = found[str(k)].indices
            common = sum(len(set(ours[number]) & set(theirs[number])) for number in theirs)
            published = self.figures["extract_overlap"][f"k={k}"]
            rows.append([f"k = {k}", f"{published} of {10 * k}", f"{common} of {10 * k}"])
        gates = self.figures["csg_top5_highest_gate"]["indices"]
        ours = dict(enumerate(self.highest_gates().classes))
        common = sum(len(set(ours[int(number)]) & set(row)) for number, row in gates.items())
        rows.append(["five highest gates", "50 of 50", f"{common} of 50"])
        return rows

    def selectivity(self) -> list[list[Any]]:
        """Of the last residual unit, over the first 4000 training images."""
        layer = selectivity(self.inputs(PLAIN), SelectivitySettings(layers=("layer3.2",))).results.layers["layer3.2"]
        names = {"psi_mean": "Psi, mean", "psi_median": "Psi, median", "class_selectivity": "class selectivity"}
        return [[names[field], f"{value:.5f}", f"{getattr(layer, field):.6f}"] for field, value in SELECTIVITY.items()]

    def online_norm(self) -> list[list[Any]]:
        """Largest differences over three batches, in units of the largest value."""
        rows = []
        for ecm, alphas in (("ac", (0.99, 0.9)), ("ls", (0.999, 0.99)), ("none", (0.9, 0.9))):
            for kind, layer_type in (("1d", OnlineNorm1d), ("2d", OnlineNorm2d)):
                layer = layer_type(6, *alphas, ecm=ecm, affine=ecm != "none").double()
                differences: dict[str, float] = {}
                for step in range(3):
                    value = {
                        name: torch.from_numpy(self.online[f"{kind}_{ecm}_step{step}_{name}"])
                        for name in ("input", "output", "grad_output", "grad_input", "m", "var", "u", "v")
                    }
                    given = value["input"].clone().requires_grad_()
                    output = layer(given)
                    output.backward(value["grad_output"])
                    assert given.grad is not None
                    found = {"output": output.detach(), "grad_input": given.grad}
                    found |= {name: getattr(layer.norm, name).detach() for name in ("m", "var", "u", "v")}
                    for name, ours in found.items():
                        scale = float(value[name].abs().max())
                        difference = float((ours.reshape(value[name].shape) - value[name]).abs().max()) / scale
                        what = {"output": "outputs", "grad_input": "gradients"}.get(name, "statistics")
                        differences[what] = max(differences.get(what, 0.0), difference)
                rows.append(
                    [f"{kind}, {ecm}", *(f"{differences[w]:.0e}" for w in ("outputs", "gradients", "statistics"))]
                )
        return rows


def tables(reference: Reference) -> dict[str, Any]:
    """All of them, by the name that they have in ``reproduce.md``."""

    def made(columns: Sequence[str], rows: list[list[Any]]) -> dict[str, Any]:
        return {"columns": list(columns), "rows": rows}

    counts, by_class = reference.counts()
    both = ("published code", "decompose")
    own, rest = "on the features", "on all others"
    return {
        "counts": made(("network and head", *both), counts),
        "by class": made(
            ("class", "full head", "k = 5", "k = 10", "k = 20", "with gates, full head", "CSG indices"), by_class
        ),
        "logits": made(
            ("head", "largest logit, published code", "decompose", "largest difference"), reference.logits()
        ),
        "indices": made(("set", *both), reference.indices()),
        "overlap": made(("sets", *both), reference.overlap()),
        "essential": made(
            ("class", f"ResNet-20, noise {own}", f"noise {rest}", f"with gates, noise {own}", f"noise {rest}"),
            reference.essential(),
        ),
        "selectivity": made(("of `layer3.2`", *both), reference.selectivity()),
        "online norm": made(("layer", "outputs", "gradients", "statistics"), reference.online_norm()),
    }


def main() -> None:
    """Measure and write."""
    folder = os.environ.get("DECOMPOSE_REFERENCE_DIR")
    if not folder:
        sys.exit("Set DECOMPOSE_REFERENCE_DIR to the folder with the published material.")
    content = {"torch": torch.__version__, "decompose": dc.__version__, "tables": tables(Reference(Path(folder)))}
    TARGET.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
