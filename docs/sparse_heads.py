"""Measure sparse heads on CIFAR-10 and write ``sparse-heads.json``.

Needs the published ResNet-20 and the images in ``$DECOMPOSE_REFERENCE_DIR``; takes about an hour on two cores, or less
for some of its parts by name: ``python docs/sparse_heads.py [lossless] [methods] [values]``. After it ``make docs``
puts the figures into ``sparsify.md`` and the first page.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import decompose_cli as dc
from decompose_cli.decomposition.ranking import RANKINGS
from decompose_cli.decomposition.sparse_results import Sparse, SparsifyResults
from decompose_cli.decomposition.sparse_settings import AUTO, CUTS, VALUES, SparsifySettings
from decompose_cli.engines.sparsify import sparsify

TARGET = Path(__file__).with_name("sparse-heads.json")
WHERE = "$DECOMPOSE_REFERENCE_DIR"
WEIGHTS = "weights/resnet20-12fca82f.th"
ALL_K, FEW_K = tuple(range(1, 11)), (1, 2, 3, 5, 10)
METHODS = [name for name, ranking in RANKINGS.items() if not ranking.needs_gates]


def inputs(folder: Path, images: Path) -> dc.Inputs:
    """The published ResNet-20 on some images."""
    return dc.Inputs(model="resnet20", weights=str(folder / WEIGHTS), dataset=f"folder:{images}")


def counted(heads: Sequence[Sparse]) -> list[int]:
    """Images right of sparse heads, by k."""
    return [head.point.correct for head in heads]


def cells(head: Sparse) -> list[Any]:
    """What a table says of a head beside its count."""
    low, high = head.versus_refitted.ci95
    found = head.measures
    figures = (found.class_independence, found.contrastiveness, found.correlation)
    return [
        head.point.correct,
        f"{head.versus_refitted.points:+.2f} [{low:+.2f}, {high:+.2f}]",
        f"{head.versus_refitted.mcnemar_p:.2g}",
        head.features,
        *("-" if value is None else f"{value:.3f}" for value in figures),
    ]


def made(columns: Sequence[str], rows: list[list[Any]]) -> dict[str, Any]:
    """A table."""
    return {"columns": list(columns), "rows": rows}


def methods(given: dc.Inputs) -> dict[str, Any]:
    """50,000 and 10,000 images: every method at every k, and both baselines."""
    rows: list[list[Any]] = []
    results: SparsifyResults | None = None
    for method in METHODS:
        results = sparsify(given, SparsifySettings(k=ALL_K, method=method)).results
        heads = list(results.heads.values())
        if not RANKINGS[method].is_fitted:
            rows.append([f"`{method}`, cut", *(head.cut.correct for head in heads)])
        rows.append([f"`{method}`, fitted", *counted(heads)])
        print(rows[-1], flush=True)
    for method, kind in CUTS.items():
        found = sparsify(given, SparsifySettings(k=ALL_K, method=method, values=kind)).results
        rows.append([f"`{method}`, as published, k on average", *counted(list(found.heads.values()))])
        print(rows[-1], flush=True)
    assert results is not None
    assert results.original is not None
    refitted = results.refitted
    assert refitted.versus_original is not None
    low, high = refitted.versus_original.ci95
    baselines = [
        ["full head", results.original.correct, "", ""],
        [
            "full head, fitted anew",
            refitted.point.correct,
            f"{refitted.versus_original.points:+.2f} [{low:+.2f}, {high:+.2f}]",
            f"{refitted.l2:.3g}",
        ],
    ]
    return {
        "sparse, all images": made(("10,000 test images right at k =", *map(str, ALL_K)), rows),
        "sparse, baselines": made(("", "right", "points more than the full head", "strength"), baselines),
    }


def values(given: dc.Inputs) -> dict[str, Any]:
    """50,000 and 10,000 images: the best of all methods for each kind of values, and NEC."""
    best: list[list[Any]] = []
    nec: list[list[Any]] = []
    counts: list[str] = []
    for kind in VALUES:
        # Searches with few values take longest, and exchange features wherever they begin.
        method = "backward" if kind in ("ternary", "binary") else AUTO
        settings = SparsifySettings(k=FEW_K, method=method, values=kind, nec=kind == "real")
        results = sparsify(given, settings).results
        best += [[kind, k, head.method, *cells(head)] for k, head in results.heads.items()]
        print(best[-1], flush=True)
        if results.nec is not None:
            counts = list(results.nec.sparse.accuracy)
            for name, few in (
                ("elastic-net path, on average", results.nec.elastic_net),
                ("sparsify, exactly", results.nec.sparse),
            ):
                nec.append(
                    [name, *(f"{value:.2f}" for value in (*few.accuracy.values(), few.mean) if value is not None)]
                )
    columns = ("values", "k", "chosen by", "right", "points more than the full head fitted anew", "McNemar p")
    measures = ("features", "independence", "contrastiveness", "correlation")
    return {
        "sparse, values": made((*columns, *measures), best),
        "sparse, nec": made(("top-1 %, features per class", *counts, "mean"), nec),
    }


def lossless(given: dc.Inputs) -> dict[str, Any]:
    """4,000 and 1,000 images: cut, real, ternary and binary heads, and pools."""
    cut = sparsify(given, SparsifySettings(k=FEW_K, method="frequency")).results
    assert cut.original is not None
    rows = [
        ["full head", *[cut.original.correct] * len(FEW_K)],
        ["full head, fitted anew", *[cut.refitted.point.correct] * len(FEW_K)],
        ["the published method: `frequency`, cut", *(head.cut.correct for head in cut.heads.values())],
        ["the same features, weights fitted anew", *counted(list(cut.heads.values()))],
    ]
    for what, more in (
        ("`sparsify`", {}),
        ("`sparsify --values nonnegative`: no weight below zero", {"values": "nonnegative"}),
        ("`sparsify --values ternary`: weights -a, 0, a", {"values": "ternary"}),
        ("`sparsify --values binary`: weights 0, a", {"values": "binary"}),
        ("`sparsify --pool 20`: 20 features for all classes together", {"pool": 20}),
    ):
        found = sparsify(given, SparsifySettings(k=FEW_K, **more)).results  # type: ignore[arg-type]
        rows.append([what, *counted(list(found.heads.values()))])
        print(rows[-1], flush=True)
    return {"sparse, lossless": made(("1,000 test images right at k =", *map(str, FEW_K)), rows)}


PARTS = {"lossless": lossless, "methods": methods, "values": values}


def main() -> None:
    """Measure and write."""
    place = os.environ.get("DECOMPOSE_REFERENCE_DIR")
    if not place:
        sys.exit("Set DECOMPOSE_REFERENCE_DIR to the folder with the published material.")
    folder, parts = Path(place), sys.argv[1:] or list(PARTS)
    known = json.loads(TARGET.read_text(encoding="utf-8")) if TARGET.exists() else {"tables": {}}
    tables = known["tables"]
    with tempfile.TemporaryDirectory() as name:
        if set(parts) - {"lossless"}:
            with tarfile.open(folder / "data" / "cifar10-jpeg.tar.gz") as archive:
                archive.extractall(name, filter="data")
        for part in parts:
            images = folder / "data" / "cifar10-lossless" if part == "lossless" else Path(name) / "cifar10-jpeg"
            tables |= PARTS[part](inputs(folder, images))
            content = {
                "torch": torch.__version__,
                "decompose": dc.__version__,
                "weights": f"{WHERE}/{WEIGHTS}",
                "images": [f"{WHERE}/data/cifar10-lossless", f"{WHERE}/data/cifar10-jpeg.tar.gz"],
                "seed": 0,
                "tables": tables,
            }
            TARGET.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
