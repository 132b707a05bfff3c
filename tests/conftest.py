"""Fixtures shared by all tests."""

from __future__ import annotations

import functools
import gc
import io
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# The networks here are tiny. With one thread each, several test processes share a machine without fighting over cores:
# OpenMP threads that wait for one another by spinning are many times slower where there are more of them than cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import typer.testing
from filelock import FileLock
from matplotlib.figure import Figure, FigureBase
from PIL import Image

pytest.register_assert_rewrite("helpers")

# Only `helpers` can be imported by its name, no other folder here: with all of them on the path for good, SciPy would
# take the tests of `sparse` for the package of that name.
HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)
from helpers.power_cut import PowerCut, power_cut

sys.path.remove(HERE)

# Typer makes all commands, with their seven hundred options, anew for each call of a CliRunner: 15 ms of the same.
typer.testing._get_command = functools.cache(typer.testing._get_command)
# Nobody's work is lost if the power fails now, and waiting for the disk takes as long as everything else.
os.fsync = lambda _: None
# As the program itself does: the collector would walk through the million objects of torch again and again.
gc.set_threshold(100_000, 10, 10)


def pytest_collection_finish() -> None:
    """What has been imported by now stays, and the collector need not look at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test an empty working directory, cache and data folder of its own, and forget modules it has there."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("DECOMPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DECOMPOSE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = len(sys.modules)
    yield
    for name in list(itertools.islice(reversed(sys.modules), max(0, len(sys.modules) - before))):
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def unpainted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are put together, with one panel for many, and a PNG of one pixel stands for what would be painted.

    That takes longer than training the networks here. Tests that look at pictures are marked ``painted``.
    """
    if request.node.get_closest_marker("painted") is None:
        monkeypatch.setattr(FigureBase, "subplots", _subplots)
        monkeypatch.setattr(Figure, "savefig", _savefig)


_real_subplots, _real_savefig = FigureBase.subplots, Figure.savefig
_PIXEL = io.BytesIO()
Image.new("RGB", (1, 1)).save(_PIXEL, "PNG")


def _subplots(self: FigureBase, rows: int = 1, columns: int = 1, **how: Any) -> Any:
    if rows * columns < 10:
        return _real_subplots(self, rows, columns, **how)
    return np.full((rows, columns), self.add_subplot())


def _savefig(self: Figure, target: Any, *, format: str, **how: Any) -> None:
    if format == "png":
        target.write(_PIXEL.getvalue())
    else:
        _real_savefig(self, target, format=format, **how)


MadeOnce = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def made_once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """``made_once(name, make)`` is a folder that ``make`` has filled, once for all processes that run the tests.

    What lies in there must not be changed.
    """
    root = tmp_path_factory.getbasetemp()
    root = root.parent if hasattr(request.config, "workerinput") else root

    def find(name: str, make: Callable[[Path], None]) -> Path:
        folder, unfinished = root / name, root / f"{name}.unfinished"
        with FileLock(root / f"{name}.lock"):
            if not folder.exists():
                unfinished.mkdir(exist_ok=True)
                make(unfinished)
                unfinished.rename(folder)
        return folder

    return find


@pytest.fixture(scope="session")
def warm_cache(made_once: MadeOnce) -> Path:
    """A feature cache that holds the shipped network's features of both splits of the digits; to be copied."""

    def make(folder: Path) -> None:
        from decompose_cli.features.inputs import Inputs
        from decompose_cli.features.study import Study

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DECOMPOSE_CACHE", str(folder))
            for split in ("train", "test"):
                _ = Study(Inputs(), (split,)).bank

    return made_once("warm-cache", make)


@pytest.fixture(scope="session")
def few(made_once: MadeOnce) -> str:
    """The first two images of each digit of either split, as a data set: where a network has to run, it soon has."""
    from decompose_cli.datasets.digits import open_digits

    def make(root: Path) -> None:
        for split in ("train", "test"):
            pixels, labels = open_digits(split).pixels_and_labels
            for digit in range(10):
                folder = root / split / str(digit)
                folder.mkdir(parents=True)
                for number in (labels == digit).nonzero().flatten()[:2].tolist():
                    Image.fromarray(pixels[number].permute(1, 2, 0).numpy()).save(folder / f"{number}.png")

    return f"folder:{made_once('few', make)}"


@pytest.fixture
def warm(isolated: None, warm_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of the shipped network are in the cache; what a test adds to it stays there for that test only."""
    shutil.copytree(warm_cache, tmp_path / "warm")
    monkeypatch.setenv("DECOMPOSE_CACHE", str(tmp_path / "warm"))


@pytest.fixture
def forbid_forward_passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it makes computing features fail from then on; those in the cache can still be read."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a forward pass was made")

    def forbid() -> None:
        for where in ("extraction", "filling"):
            monkeypatch.setattr(f"decompose_cli.features.{where}.features_of_chunks", fail)

    return forbid


@pytest.fixture
def no_forward_pass(warm: None, forbid_forward_passes: Callable[[], None]) -> None:
    """Features of the shipped network are in the cache, and computing any others fails the test."""
    forbid_forward_passes()


@pytest.fixture(scope="session", name="power_cut")
def _power_cut() -> PowerCut:
    """``with power_cut("last.pt", 2):`` the power fails right after the second file of that name has been written."""
    return power_cut


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, here and in processes started here, also where the tests run as a job in the background.

    Shells start such jobs with SIGINT ignored, and Python, as all that it starts, then goes on ignoring it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Published checkpoints, images and the numbers that belong to them."""
    folder = os.environ.get("DECOMPOSE_REFERENCE_DIR")
    if not folder:
        pytest.skip("needs the published checkpoints and images; set DECOMPOSE_REFERENCE_DIR")
    return Path(folder)


@pytest.fixture(scope="session")
def make_images() -> Callable[..., Path]:
    """Write ``root/<split>/<class>/<n>.png`` with random pixels; returns ``root``."""

    def make(
        root: Path, classes: list[str], splits: tuple[str, ...] = ("train", "test"), n: int = 3, side: int = 32
    ) -> Path:
        random = np.random.default_rng(0)
        for split in splits:
            for name in classes:
                folder = root / split / name
                folder.mkdir(parents=True)
                for number in range(n):
                    pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        return root

    return make
