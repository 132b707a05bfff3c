"""Missing rights read as missing rights, whichever path of the user's they are missing for."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import REFUSED, invoke, only_error, run
from helpers.rights import closed
from PIL import Image

NETWORK = ("resnet20", "-w", "random", "-j", "0", "--no-cache", "-q", "--json")
DENIED = "Permission denied"
MISREAD = ("damaged", "does not exist", "not an image", "No such file", "unforeseen", "corrupt", "no checkpoint")


def denied(*arguments: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == REFUSED, result.stderr
    error = only_error(result.stderr)
    assert DENIED in error, error
    assert not any(word in error for word in MISREAD), error


@pytest.fixture
def images(make_images: Callable[..., Path]) -> Path:
    return make_images(Path("images"), [*"abcdefghij"], n=1, side=8)


@pytest.mark.parametrize("place", [".", "test", "test/d", "test/d/000.png"])
def test_images_in_folders(images: Path, place: str) -> None:
    with closed(images / place):
        denied("validate", *NETWORK, "--dataset", "folder:images")


@pytest.mark.parametrize("place", [".", "test/a"])
def test_a_folder_that_may_be_listed_and_not_entered(images: Path, place: str) -> None:
    with closed(images / place, 0o444):
        denied("validate", *NETWORK, "--dataset", "folder:images")


BELOW = [
    *(
        ("validate", *NETWORK, "--dataset", kind)
        for kind in ("folder:up/x", "csv:up/x.csv", "npz:up/x.npz", "wds:up/x.tar", "wds:up/x-{0..2}.tar", "hf:./up/x")
    ),
    *(
        ("validate", *NETWORK, "--data-dir", "up", "--dataset", name)
        for name in ("cifar10", "tiny-imagenet", "imagenet")
    ),
    ("validate", "resnet20", "-w", "up/w.pt"),
    ("validate", "-w", "up/w.pt"),
    ("validate", "-i", "up/i.json"),
    ("validate", "hf:up/model"),
    ("validate", "--class-map", "up/map.csv", "--dataset", "folder:images"),
    ("mutual-info", "-i", "a=up/i.json"),
    ("essential", "--csg", "up/w.pt"),
    ("sweep", "-i", "a=up/i.json"),
    ("explain", "up/x.png"),
    ("report", "up"),
    ("report", "up/x"),
    ("train", "--resume", "up/run"),
    ("train", "-e", "--resume", "up/run"),
    ("validate", "-o", "up/x.json"),
    ("demo", "-o", "up/demo"),
    ("extract-indices", "-k", "2,3", "-o", "up/x"),
    ("train", "resnet8", "--dataset", "folder:images", "-o", "up/run"),
    ("report", "images", "-o", "up/x.html"),
]


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("arguments", BELOW, ids=lambda arguments: " ".join(arguments).replace("/", "|"))
def test_what_lies_in_a_folder_that_is_closed(arguments: tuple[str, ...]) -> None:
    Path("up/x").mkdir(parents=True)
    with closed(Path("up")):
        denied(*arguments)


@pytest.mark.parametrize("where", ["results", "."])
def test_a_folder_that_nothing_can_be_written_in(where: str) -> None:
    Path(where).mkdir(exist_ok=True)
    with closed(Path(where), 0o555):
        for command in (("validate",), ("extract-indices",), ("demo",), ("report", ".")):
            denied(*command, *(("-o", f"{where}/x.html") if command[0] == "report" else ()))


def cifar_batch(folder: Path) -> Path:
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number in range(1, 6):
        (folder / f"data_batch_{number}").write_bytes(b"x")
    (folder / "test_batch").write_bytes(b"x")
    return folder / "test_batch"


def test_a_file_of_cifar() -> None:
    with closed(cifar_batch(Path("data"))):
        denied("validate", *NETWORK, "--dataset", "cifar10", "--data-dir", "data")


def tar_of(folder: Path) -> Path:
    with tarfile.open(folder / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    return folder / "x.tar"


def npz_of(folder: Path) -> Path:
    np.savez(folder / "x.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.zeros(2, int))
    return folder / "x.npz"


@pytest.mark.parametrize(("kind", "make"), [("wds", tar_of), ("npz", npz_of)])
def test_a_file_of_images(kind: str, make: Callable[[Path], Path]) -> None:
    with closed(make(Path.cwd())) as _:
        denied("validate", *NETWORK, "--dataset", f"{kind}:x.{'tar' if kind == 'wds' else 'npz'}")


def test_the_checkpoint_of_a_run_that_goes_on(images: Path) -> None:
    run(
        "train",
        "resnet8",
        "--dataset",
        f"folder:{images}",
        "--input-size",
        "8",
        "-j",
        "0",
        "--epochs",
        "2",
        "--val-split",
        "0",
        "-o",
        "r",
    )
    Path("r/result.json").unlink()
    with closed(Path("r/last.pt")):
        denied("train", "--resume", "r")


def test_a_cache_that_is_closed_costs_a_warning(few: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("DECOMPOSE_CACHE", str(tmp_path / "mine"))
    with closed(tmp_path / "mine"):
        said = run("validate", "--dataset", few, "-j", "0", "-o", "v.json").stderr
        assert DENIED in said
        assert Path("v.json").exists()
        assert DENIED in run("cache").stderr


def test_tables_of_parquet_files_are_kept_elsewhere_where_the_cache_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pytest.importorskip("datasets").Dataset.from_dict({"image": [png_image()] * 2, "label": [0, 1]})
    table.to_parquet("test.parquet")
    (tmp_path / "mine").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("DECOMPOSE_CACHE", str(tmp_path / "mine"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with closed(tmp_path / "mine", 0o555):
        run("validate", *NETWORK, "--dataset", "hf:test.parquet")
    assert list((tmp_path / "temporary").rglob("dataset_info.json"))


def png_image() -> dict[str, bytes]:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue()}
