"""Names without an end in pickles of torch."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path

import pytest
import torch

from decompose_cli.errors import InputError
from decompose_cli.models.torch_files import read_torch

ENDLESS = {"to the end of the file": b"c" + b"x" * 60_000, "with an end": b"c" + b"x" * 60_000 + b"\ny\n."}


@pytest.mark.parametrize("pickle", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("is_archive", [True, False])
def test_a_name_without_an_end_costs_no_time(pickle: bytes, is_archive: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    if is_archive:
        whole = io.BytesIO()
        torch.save({"x": torch.zeros(2)}, whole)
        with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                new.writestr(name, pickle if name.endswith("data.pkl") else old.read(name))
    else:
        path.write_bytes(pickle)
    begun = time.process_time()
    with pytest.raises(InputError, match="is damaged"):
        read_torch(path)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("is_archive", [True, False])
def test_files_of_both_kinds_are_read(is_archive: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    state = {"x" * 5000: torch.arange(6.0).view(2, 3).t()}
    torch.save(state, path, _use_new_zipfile_serialization=is_archive)
    read = read_torch(path)
    assert read.keys() == state.keys()
    assert all(value.equal(state[name]) for name, value in read.items())
