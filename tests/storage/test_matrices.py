"""Large matrices lie in a file beside the document, belong to the result, and come back as they were."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command_line import files_below

from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.storage.file_sets import replaced_with, write_new_document, write_result
from decompose_cli.storage.matrices import put_back, set_apart
from decompose_cli.storage.result_document import ResultDocument

COUNTS = np.arange(101 * 103).reshape(101, 103).tolist()
SHARES = (np.arange(150 * 101).reshape(150, 101) / 7).tolist()
SMALL = np.ones((100, 100), dtype=int).tolist()
RESULTS = {"a": {"b": COUNTS, "small": SMALL}, "list": [{"c": SHARES}, 1], "long": [[1, 2]] * 300, "text": "x"}


def document(results: Any) -> ResultDocument[Any]:
    return ResultDocument[Any](
        command="validate", arguments={}, environment={}, started_at="now", seconds=1.0, results=results
    )


def stored(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_large_matrices_alone_are_set_apart_and_come_back_as_they_were(tmp_path: Path) -> None:
    before = json.dumps(RESULTS)
    rest, content = set_apart(RESULTS, "r.npz")
    assert content is not None
    assert json.dumps(RESULTS) == before
    assert set(np.load(io.BytesIO(content)).files) == {"a/b", "list/0/c"}
    digest = hashlib.sha256(content).hexdigest()
    assert rest["a"]["b"] == {"file": "r.npz", "array": "a/b", "shape": [101, 103], "sha256": digest}
    assert rest["a"]["small"] == SMALL
    assert (rest["long"], rest["text"]) == (RESULTS["long"], "x")
    (tmp_path / "r.npz").write_bytes(content)
    assert json.dumps(put_back(rest, tmp_path / "r.json")) == before  # whole numbers are whole numbers again
    assert set_apart(RESULTS, "r.npz")[1] == content  # the same bytes each time


@pytest.mark.parametrize(
    "value",
    [
        SMALL,
        [[1] * 100] * 101,
        [[1] * 101] * 100,
        [*COUNTS[:100], [1] * 102],
        [["1"] * 101] * 101,
        [[True] * 101] * 101,
        [[None, *[1] * 100]] * 101,
    ],
    ids=["100 by 100", "100 columns", "100 rows", "ragged", "texts", "truth values", "gaps"],
)
def test_what_is_small_or_no_matrix_stays_in_the_document(value: Any) -> None:
    assert set_apart({"x": value}, "r.npz") == ({"x": value}, None)


def test_a_result_without_large_matrices_is_written_as_ever() -> None:
    found = document({"matrix": SMALL})
    found.write(Path("r.json"))
    assert files_below() == ["r.json"]
    assert Path("r.json").read_text(encoding="utf-8") == found.to_json()
    assert stored(Path("r.json"))["files"] == []


def test_a_result_and_its_matrices_replace_those_that_were_there() -> None:
    document(RESULTS).write(Path("r.json"))
    assert files_below() == ["r.json", "r.npz"]
    assert stored(Path("r.json"))["files"] == ["r.npz"]
    assert {path.name for path in replaced_with(Path("r.json"), "result.json")} == {"r.json", "r.npz"}
    document({"m": COUNTS}).write(Path("r.json"))
    assert files_below() == ["r.json", "r.npz"]
    assert put_back(stored(Path("r.json")), Path("r.json"))["results"] == {"m": COUNTS}
    document({"m": 1}).write(Path("r.json"))
    assert files_below() == ["r.json"]


def test_a_file_of_the_users_is_kept_and_the_matrices_get_another_name() -> None:
    Path("r.npz").write_text("mine")
    for _ in range(2):
        found = document(RESULTS)
        found.write(Path("r.json"))
        assert found.files == ["r-2.npz"]
        assert files_below() == ["r-2.npz", "r.json", "r.npz"]
        assert Path("r.npz").read_text() == "mine"
        assert put_back(stored(Path("r.json")), Path("r.json"))["results"] == RESULTS


def test_matrices_are_among_the_files_of_a_folder_of_results() -> None:
    folder = Path("folder")
    write_result(document(RESULTS), folder / "result.json", {folder / "k5" / "indices.json": "{}"})
    assert files_below() == ["folder/k5/indices.json", "folder/result.json", "folder/result.npz"]
    assert stored(folder / "result.json")["files"] == ["k5/indices.json", "result.npz"]
    write_result(document({"m": 1}), folder / "result.json", {})
    assert files_below() == ["folder/result.json"]


def test_new_names_are_free_for_both_files() -> None:
    Path("a.npz").write_text("mine")
    Path("b.json").write_text("mine")
    found = document(RESULTS)
    assert write_new_document(found, iter([Path("a.json"), Path("b.json"), Path("c.json")])) == Path("c.json")
    assert files_below() == ["a.npz", "b.json", "c.json", "c.npz"]
    assert put_back(stored(Path("c.json")), Path("c.json"))["results"] == RESULTS
    assert found.files == ["c.npz"]


def test_a_result_that_cannot_be_written_leaves_no_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        if content[:1] == b"{":
            raise OSError(28, "No space left on device")
        return len(content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DecomposeError, match=r"No space left on the disk while writing .*r\.json"):
        write_new_document(document(RESULTS), iter([Path("r.json")]))
    assert files_below() == []


def with_reference(**changes: Any) -> dict[str, Any]:
    rest, content = set_apart({"m": COUNTS}, "r.npz")
    assert content is not None
    Path("r.npz").write_bytes(content)
    return {"m": {**rest["m"], **changes}}


def test_a_missing_or_damaged_file_of_matrices_is_one_sentence() -> None:
    value = with_reference()
    whole = Path("r.npz").read_bytes()
    Path("r.npz").write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"^r\.npz is not the file that was written together with r\.json: it"):
        put_back(value, Path("r.json"))
    Path("r.npz").unlink()
    with pytest.raises(InputError, match=r"^r\.json keeps its matrices in r\.npz, which cannot be read: No such file"):
        put_back(value, Path("r.json"))


@pytest.mark.parametrize(
    "changes",
    [
        {"array": "other"},
        {"array": 3},
        {"shape": [103, 101]},
        {"shape": [101]},
        {"shape": [True, 5]},
        {"shape": "101"},
    ],
    ids=str,
)
def test_a_reference_that_is_not_so_is_one_sentence(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^r\.npz does not hold the matrix '.*' as r\.json says\.$"):
        put_back(with_reference(**changes), Path("r.json"))


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive", "objects"], ids=["empty", "cut", "text", "objects"])
def test_a_file_that_holds_no_arrays_is_one_sentence(content: bytes | str) -> None:
    if content == "objects":
        stream = io.BytesIO()
        np.savez(stream, m=np.array([[{}] * 103] * 101, dtype=object))
        content = stream.getvalue()
    assert isinstance(content, bytes)
    value = with_reference(sha256=hashlib.sha256(content).hexdigest())
    Path("r.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"^r\.npz does not hold the matrix 'm' as r\.json says\.$"):
        put_back(value, Path("r.json"))


def test_weights_of_many_classes_are_set_apart_with_rows_of_their_own_lengths() -> None:
    weights = {str(number): [number / 7] * (number % 150) for number in range(300)}
    assert json.loads(json.dumps(weights)) == weights
    rest, content = set_apart({"w": weights}, "r.npz")
    assert content is not None
    assert rest["w"].keys() == {"file", "array", "sizes", "sha256"}
    Path("r.npz").write_bytes(content)
    assert put_back(rest, Path("r.json")) == {"w": weights}
    with pytest.raises(InputError, match=r"^r\.npz does not hold the matrix 'w/sizes' as r\.json says\.$"):
        put_back({"w": {**rest["w"], "array": "w/sizes"}}, Path("r.json"))
    for inline in (
        {str(number): [number] * 150 for number in range(300)},  # indices, which index files have as well
        {str(number): [0.5] * 20 for number in range(300)},
        {f"class {number}": [0.5] * 150 for number in range(300)},
    ):
        assert set_apart({"w": inline}, "r.npz") == ({"w": inline}, None)


@pytest.mark.slow
def test_matrices_of_many_sets_of_a_thousand_classes_are_read_as_they_were_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix = np.random.default_rng(0).random((1000, 1000))
    rows = matrix.tolist()
    rest, content = set_apart({str(number): rows for number in range(36)}, "r.npz")
    assert content is not None
    assert len(content) > 200_000_000
    Path("r.npz").write_bytes(content)
    assert all(found == rows for found in put_back(rest, Path("r.json")).values())
    monkeypatch.setattr("decompose_cli.storage.memory._left_on_machine", lambda: 1.1e9)
    with pytest.raises(
        InputError, match=r"^Reading the matrices of r\.json takes 1\.2 GB of memory at least, and 1\.1"
    ):
        put_back(rest, Path("r.json"))


def test_a_table_of_many_classes_has_a_line_for_each() -> None:
    rows = {str(number): {"images": 5, "ci95": [0.5, 1.5]} for number in range(101)}
    text = document({"classes": rows}).to_json()
    assert '\n      "7": {"images": 5, "ci95": [0.5, 1.5]},\n' in text
    assert json.loads(text)["results"] == {"classes": rows}
    few = dict(list(rows.items())[:100])
    assert '\n      "7": {\n        "images": 5,\n' in document({"classes": few}).to_json()


@pytest.mark.parametrize("name", ["../r.npz", "/etc/r.npz", "r.json", "", 3])
def test_matrices_are_taken_from_beside_the_document_only(name: Any) -> None:
    with pytest.raises(InputError, match=r"^r\.json names .* as the file of its matrices, which is no file beside it"):
        put_back(with_reference(file=name), Path("r.json"))
