"""The benchmark of statistics on many images: its jobs run on few, and its table follows from what was measured."""

from __future__ import annotations

import gc
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def loaded() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("bench_scale", BENCHMARKS / "bench_scale.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["bench_scale"] = module  # where dataclasses look for their types
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


scale = loaded()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scale")
    scale.make(path, 400, 64, 5)
    return path


def test_images_are_like_features_of_a_network(folder: Path) -> None:
    made = scale.opened(folder)
    assert made.features.shape == (400, 64)
    assert float(made.features.min()) == 0.0
    assert 0.4 < float((made.features == 0).double().mean()) < 0.6
    assert made.labels.bincount().tolist() == [80] * 5
    right = (made.features @ made.head.weight.T + made.head.bias).argmax(1) == made.labels
    assert float(right.double().mean()) > 0.6


@pytest.mark.parametrize("job", scale.JOBS, ids=lambda job: job.name)
def test_every_job_runs_and_leaves_the_features_as_they_are(job: Any, folder: Path) -> None:
    made = scale.opened(folder)
    before = made.features.clone()
    found = scale.measured(job, made)
    assert 0 < found["processor"] < 60
    assert 10 < found["anonymous_mb"] < found["rss_mb"] + 1
    assert torch.equal(made.features, before)


def test_memory_that_is_made_and_freed_is_noticed_but_not_that_of_a_mapped_file(folder: Path) -> None:
    import mmap

    path = folder / "large"
    path.write_bytes(bytes(200_000_000))
    start = scale.anonymous_mb()
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        scale.Watch() as watch,
    ):
        assert sum(mapped[place] for place in range(0, len(mapped), 4096)) == 0
    assert watch.peak_mb < start + 50
    gc.collect()  # so that nothing of earlier tests is let go of in between
    start = scale.anonymous_mb()
    # New pages, as the allocator would first take what earlier tests have left free.
    own = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, 100_000_000, flags=own) as held, scale.Watch() as watch:
        held.write(b"x" * len(held))
    assert watch.peak_mb > start + 90


def made_up(seconds: float, images: int, power: float, mb: float) -> dict[int, dict[str, float]]:
    return {
        size: {"processor": seconds * (size / images) ** power, "seconds": 1.0, "anonymous_mb": mb + size / 1000}
        for size in (images, 4 * images)
    }


def test_growth_is_measured_and_extrapolated() -> None:
    by_images = made_up(3.0, 50_000, 1.5, 300.0)
    grows, fixed, search = (
        scale.Job("a", lambda _: None, **more) for more in ({}, {"by_class": False}, {"is_search": True})
    )
    assert scale.exponent(by_images) == pytest.approx(1.5)
    assert scale.extrapolated(grows, by_images, (800_000, 1000), 1000) == pytest.approx(3.0 * 16**1.5)
    assert scale.extrapolated(grows, by_images, (800_000, 3000), 1000) == pytest.approx(9.0 * 16**1.5)
    assert scale.extrapolated(fixed, by_images, (800_000, 3000), 1000) == pytest.approx(3.0 * 16**1.5)
    assert scale.extrapolated(search, by_images, (800_000, 1000), 1000) == pytest.approx(3.0 * 4**1.5 * 4)
    assert scale.peak_for(grows, by_images, 1_000_000) == pytest.approx(1300.0)
    assert scale.peak_for(search, by_images, 1_000_000) == pytest.approx(500.0)
    assert [scale.span(seconds) for seconds in (0.1234, 119, 600, 7200)] == ["0.123 s", "119 s", "10 min", "2.0 h"]


def test_the_table_has_what_was_measured_at_both_sizes() -> None:
    sweep = next(job for job in scale.JOBS if job.heads == 2048)
    found = {scale.PRODUCT: made_up(1.0, 50_000, 1.0, 100.0), sweep.name: made_up(128.0, 50_000, 1.0, 300.0)}
    content = scale.table({**found, "validate, k = 5": {50_000: found[scale.PRODUCT][50_000]}}, 1000)
    assert [row[0] for row in content["rows"]] == [scale.PRODUCT, sweep.name]
    row = dict(zip(content["columns"], content["rows"][1], strict=True))
    assert (row["50,000 images"], row["200,000 images"], row["MB at 200,000"]) == ("2 min", "9 min", "500")
    assert (row["exponent"], row["products N D C"]) == ("1.00", "1.3e+02 (0.062 a head)")
    assert (row["ImageNet"], row["MB there"]) == ("55 min", "1581")


@pytest.mark.slow
def test_the_script_measures_in_processes_of_their_own(tmp_path: Path) -> None:
    import subprocess

    output = tmp_path / "scale.json"
    command = [sys.executable, BENCHMARKS / "bench_scale.py", "--features", "16", "--classes", "5", "--output", output]
    for images in ("300,900", "1200"):
        jobs = "full head;validate"
        subprocess.run([*command, "--images", images, "--jobs", jobs], check=True, capture_output=True)
    content = json.loads(output.read_text())
    assert {name: list(sizes) for name, sizes in content["measured"].items()} == {
        "full head": ["300", "900", "1200"],
        "validate, k = 5": ["300", "900", "1200"],
    }
    assert [row[0] for row in content["tables"]["scale"]["rows"]] == ["full head", "validate, k = 5"]
