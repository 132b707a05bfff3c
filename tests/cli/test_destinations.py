"""Places for results: found unusable before the work, written all or none, and whose files are replaced."""

from __future__ import annotations

import csv
import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from helpers.command_line import FAILED, REFUSED, content, files_below, invoke, names_in, only_error, run

from decompose_cli.errors import InputError
from decompose_cli.storage.files import check_folder_writable, check_writable

ODD = os.fsdecode(b"caf\xe9")
"""A name that is no UTF-8."""
utf8_only = pytest.mark.skipif(sys.platform == "darwin", reason="its file system has no such names")

FILES = ["validate", "mutual-info -i i.json", "essential", "selectivity", "extract-indices", "report v.json"]
FILES += ["compare i.json j.json"]
FOLDERS = [
    "demo",
    "extract-indices -k 5,6",
    "sweep",
    "filters --class 3",
    "atlas",
    "explain --worst 1",
    "lr-find resnet8",
    "train resnet8",
    "train-gate resnet14",
    "finetune",
]
EVALUATING = ["train -e -w default resnet20", "train-gate -e -w w.pt"]


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reads weights, images or results fails the test."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("work was done")

    # What is imported for the first time now would keep the patch.
    for module in ("engines.demo", "engines.train", "engines.train_gate", "engines.finetune", "page.report"):
        import_module(f"decompose_cli.{module}")
    for place in (
        "decompose_cli.models.classifier.read_weights",
        "decompose_cli.datasets.registry.open_dataset",
        "decompose_cli.page.report.read_sources",
        "decompose_cli.decomposition.index_set.read_json",
    ):
        monkeypatch.setattr(place, fail)


LONG = {
    "name": "n" * 300,
    "name in a folder that is not there": f"new/{'n' * 300}",
    "folder in a folder that is not there": f"new/{'n' * 300}/x",
    "path of 5,000 characters": "/".join(["n" * 99] * 50),
}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("command", [*FILES, *FOLDERS, *EVALUATING])
def test_names_that_are_too_long_are_refused_before_the_work(command: str) -> None:
    for kind, name in LONG.items():
        said = only_error(run(*command.split(), "-o", name, code=REFUSED).stderr)
        assert "File name too long" in said, kind
        assert names_in(".") == []


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("command", ["validate", "essential", "report v.json", "selectivity", "mutual-info -i i.json"])
def test_a_working_directory_that_cannot_be_written_is_refused_before_the_work(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "permission denied" in only_error(run(*command.split(), code=REFUSED).stderr)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("number", "code"), [(errno.EROFS, REFUSED), (errno.EDQUOT, FAILED), (errno.ENOSPC, FAILED), (errno.EIO, FAILED)]
)
def test_a_place_where_no_file_can_be_made_is_found_before_the_work(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the system says that it may be written."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    for line in ("validate -o v.json", "validate -o new/v.json", "sweep -o out", "validate"):
        assert invoke(*line.split()).exit_code == code, line
    assert names_in(".") == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
@pytest.mark.usefixtures("no_work")
def test_a_file_system_without_new_files_is_found_before_the_work() -> None:
    for line in ("validate -o /proc/v.json", "sweep -o /proc/out", "demo -o /proc/out", "validate -o /proc/self/x/v"):
        assert "Cannot write" in only_error(run(*line.split(), code=REFUSED).stderr)


@pytest.mark.parametrize("name", ["half\ud800.json", "null\0.json", "half\ud800/x.json", "a/null\0/b"])
def test_what_cannot_be_a_path_is_refused_in_python(name: str) -> None:
    with pytest.raises(InputError, match="cannot be a path"):
        check_writable(Path(name), overwrite=True)
    with pytest.raises(InputError, match="cannot be a path"):
        check_folder_writable(Path(name))


@pytest.mark.parametrize(
    "line",
    [
        *("train --resume {}", "train -e --resume {}", "validate -w {}", "validate -i {}", "validate {}", "explain {}"),
        *("report {}", "validate --dataset folder:{}", "sweep -i {}"),
    ],
)
def test_inputs_whose_names_are_too_long_are_refused_in_a_sentence(line: str) -> None:
    for name in LONG.values():
        run(*line.format(name).split(), code=REFUSED)


# --- names that are no UTF-8 ------------------------------------------------------------------------------------------


def numbers_of(path: Path) -> Any:
    document = json.loads(path.read_bytes().decode("utf-8"))
    return document["results"]


@utf8_only
@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("validate", "v.json"),
        ("mutual-info", "m.json"),
        ("sweep --ks 1-2 --methods weight", "s"),
        ("filters --class 3", "f"),
        ("atlas -c 3 --images 1", "a"),
    ],
)
def test_results_are_written_to_and_read_from_names_that_are_no_utf8(command: str, name: str) -> None:
    Path(ODD).mkdir()
    run("extract-indices", "-o", f"{ODD}/i{ODD}.json", "--layout", "document")
    indices = () if "sweep" in command else ("-i", f"{ODD}/i{ODD}.json")
    target = Path(ODD, f"{ODD}{name}")
    run(*command.split(), *indices, "-o", str(target))
    run(*command.split(), *indices, "-o", str(target), "--overwrite")
    written = target / "result.json" if target.is_dir() else target
    assert b"caf\\udce9" in written.read_bytes(), "escaped, as JSON has it"
    printed = run(*command.split(), *indices, "--json").stdout
    assert "caf\\udce9" in printed or "sweep" in command
    page = Path(ODD, "page.html")
    run("report", str(target), "-o", str(page))
    assert "caf\\udce9" in page.read_text(encoding="utf-8")


@utf8_only
def test_classes_may_have_names_that_no_terminal_should_see(make_images: Callable[..., Path]) -> None:
    """Folders that are no UTF-8, and those with an escape sequence and a line break, are classes like others."""
    names = ["a\x1b[31mb\nc", ODD, "dog"]
    make_images(Path("images"), names, n=2, side=8)
    rest = ("-j", "0", "-w", "run/last.pt", "--no-cache")
    size = ("--dataset", "folder:images", "--input-size", "8", "--epochs", "1", "-j", "0")
    run("train", "resnet8", *size, "-o", "run", "-q")
    result = run("validate", *rest, "--json", "-o", "validate.json")
    assert json.loads(result.stdout)["dataset"]["classes"] == names
    assert json.loads(Path("validate.json").read_text(encoding="utf-8"))["dataset"]["classes"] == names
    assert "\x1b[31m" not in result.stdout + result.stderr
    assert r"a\x1b[31mb\nc" in result.stderr
    run("extract-indices", *rest, "-k", "2", "-o", "indices.json", "--layout", "document")
    run("validate", *rest, "-i", "indices.json", "-q", "-o", "decomposed.json")
    run("report", "decomposed.json", "-o", "page.html")
    assert "\x1b" not in Path("page.html").read_text(encoding="utf-8")


def test_runs_are_kept_in_and_trained_from_names_that_are_no_utf8(make_images: Callable[..., Path]) -> None:
    images = make_images(Path(ODD, "images"), ["a", "b", "c"], n=6, side=8)
    for path in list(images.rglob("*.png")):
        path.rename(path.with_name(f"{path.stem}{ODD}.png"))
    few = ("--dataset", f"folder:{images}", "--input-size", "8", "-j", "0", "-b", "6", "--epochs", "1", "--lr", "0.01")
    run("train-gate", "resnet14", *few, "-o", f"run{ODD}", "--label-noise", "0.3")
    with Path(f"run{ODD}", "label_noise.csv").open(encoding="utf-8", newline="") as handle:
        assert all(row["file"].endswith("caf\\udce9.png") for row in csv.DictReader(handle))
    assert content(Path(f"run{ODD}", "config.json"))["dataset"] == f"folder:{images}"
    weights = f"run{ODD}/last.pt"
    run("finetune", "-w", weights, *few, "-k", "2", "-o", f"tuned{ODD}", "--export", "torchscript")
    assert content(Path(f"tuned{ODD}", "result.json"))["arguments"]["dataset"] == f"folder:{images}"
    image = str(next((images / "test").rglob("*.png")))
    run("explain", "-w", weights, image, "-o", f"seen{ODD}")
    assert numbers_of(Path(f"seen{ODD}", "result.json"))["explanations"]


# --- whose files are replaced -----------------------------------------------------------------------------------------

QUICK = {
    "sweep": ("sweep", "--ks", "1-2", "--methods", "weight", "--max-drop", "50"),
    "filters": ("filters", "--class", "3"),
    "explain": ("explain", "--worst", "2"),
    "extract-indices": ("extract-indices", "-k", "3,4"),
}
each_quick = pytest.mark.parametrize(
    "command", [pytest.param(name, marks=pytest.mark.slow) if name == "explain" else name for name in QUICK]
)


@pytest.mark.usefixtures("warm")
@each_quick
@pytest.mark.parametrize("where", ["out", "."])
def test_only_files_of_the_command_are_replaced_and_what_it_no_longer_writes_goes(command: str, where: str) -> None:
    arguments = QUICK[command]
    run(*arguments, "-o", where)
    listed = content(Path(where, "result.json"))["files"]
    assert sorted([*listed, "result.json"]) == names_in(where)
    Path(where, "notes.txt").write_text("mine")
    Path(where, "07-mine.png").write_text("mine")
    before = {name: Path(where, name).read_bytes() for name in listed}
    run(*arguments, "-o", where, code=REFUSED)
    fewer = {"sweep": ("--max-drop", "0"), "explain": ("--worst", "1"), "extract-indices": ("-k", "3,5")}
    run(*arguments, *fewer.get(command, ()), "-o", where, "--overwrite")
    again = content(Path(where, "result.json"))["files"]
    assert sorted([*again, "result.json", "notes.txt", "07-mine.png"]) == names_in(where)
    assert (set(before) == set(again)) == (command == "filters")
    for name in names_in(where):
        Path(where, name).unlink()
    Path(where, listed[0]).write_text("mine")
    said = only_error(run(*arguments, "-o", where, "--overwrite", code=REFUSED).stderr)
    assert f"{listed[0]} is not listed in a result of decompose" in said
    assert names_in(where) == [listed[0]]


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_a_demo_replaces_its_own_files_and_no_others(few: str) -> None:
    arguments = ("demo", "-o", "out", "--overwrite", "-q")
    run(*arguments)
    names = files_below("out")
    assert sorted([*content("out/accuracy-by-k.json")["files"], "accuracy-by-k.json"]) == names
    Path("out/explain/99-mine.png").write_text("mine")
    said = only_error(run(*arguments, code=REFUSED).stderr)
    assert "out/explain/99-mine.png is not listed" in said
    Path("out/explain/99-mine.png").rename("out/explain/mine.png")
    document = content("out/accuracy-by-k.json")
    document.pop("files")  # as earlier versions wrote it
    Path("out/accuracy-by-k.json").write_text(json.dumps(document))
    run(*arguments, "--dataset", few)
    assert "explain/mine.png" in files_below("out")
    assert content("out/validate.json")["results"]["total"] == 20


@pytest.mark.usefixtures("warm")
@each_quick
def test_a_disk_that_fails_in_the_middle_leaves_all_as_it_was(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = QUICK[command]
    run(*arguments, "-o", "out")
    before = {name: Path("out", name).read_bytes() for name in names_in("out")}
    replace = Path.replace
    for name in ("result.json", before.keys() - {"result.json"}):
        wanted = name if isinstance(name, str) else sorted(name)[0]

        def place(path: Path, target: Path, wanted: str = wanted) -> Path:
            if target.name == wanted and path.suffix == ".tmp":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return replace(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", place)
            assert invoke(*arguments, "-o", "out", "--overwrite").exit_code == FAILED
        assert {name: Path("out", name).read_bytes() for name in names_in("out")} == before


@pytest.mark.parametrize("place", ["x/../up", "link/../up", ".."])
def test_a_folder_may_be_named_by_way_of_another(place: str) -> None:
    Path("work/x").mkdir(parents=True)
    Path("real/deep").mkdir(parents=True)
    Path("work/link").symlink_to(Path("../real/deep"))
    os.chdir("work")
    run("extract-indices", "-k", "1,2", "--method", "weight", "-o", place, "-q")
    folder = {"x/../up": Path("up"), "link/../up": Path("../real/up"), "..": Path("..")}[place]
    assert (folder / "result.json").exists()
    assert not list(Path("..").rglob("*.tmp"))
