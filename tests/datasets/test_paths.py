"""A table of paths is a sequence of them, whatever the bytes of their names, and travels in little more than those."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from decompose_cli.datasets.paths import PathTable

NAMES = ["a/1.png", "b/deep/er/2.png", "ä/雪.png", os.fsdecode(b"b/\xff.png"), "a/1.png.png", "/elsewhere/3.png"]
PATHS = [Path("root") / name for name in NAMES]


@pytest.fixture
def table() -> PathTable:
    return PathTable.of(Path("root"), iter(NAMES))


def test_it_is_a_sequence_of_the_paths(table: PathTable) -> None:
    assert isinstance(table, Sequence)
    assert len(table) == len(PATHS)
    assert list(table) == PATHS
    assert list(table.names()) == NAMES
    assert [table[number] for number in range(-len(PATHS), 0)] == PATHS
    assert table[5] == Path("/elsewhere/3.png")
    assert PATHS[2] in table
    assert table.index(PATHS[3]) == 3
    for number in (len(PATHS), -len(PATHS) - 1):
        with pytest.raises(IndexError):
            table[number]


@pytest.mark.parametrize("part", [slice(1, 4), slice(None, None, -1), slice(4, 1), slice(0, 100, 2)])
def test_a_part_of_it_is_such_a_table(part: slice, table: PathTable) -> None:
    assert isinstance(table[part], PathTable)
    assert list(table[part]) == PATHS[part]


@pytest.mark.parametrize("at_once", [1, 2, 1 << 16])
def test_paths_are_taken_in_any_order(at_once: int, table: PathTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decompose_cli.datasets.paths._AT_ONCE", at_once)
    numbers = [3, 0, 5, 0, 2]
    for chosen in (numbers, np.array(numbers), []):
        taken = table.take(chosen)
        assert list(taken) == [PATHS[number] for number in chosen]
        assert list(pickle.loads(pickle.dumps(taken))) == list(taken)
    assert list(table) == PATHS


def test_an_empty_table() -> None:
    assert list(PathTable.of(Path("root"), [])) == []


def test_it_travels_in_little_more_than_its_bytes() -> None:
    names = [f"n{number % 1000:08d}/n{number % 1000:08d}_{number}.JPEG" for number in range(20_000)]
    table = PathTable.of(Path("root"), names)
    packed = pickle.dumps(table)
    assert len(packed) < sum(map(len, names)) + 8 * len(names) + 1000
    assert list(pickle.loads(packed).names()) == names


@pytest.mark.slow
def test_paths_of_all_of_imagenet_need_the_memory_of_their_bytes() -> None:
    """In a process of its own, whose memory nothing else has used."""
    program = """
import pickle, resource, time
from pathlib import Path
import numpy
from decompose_cli.datasets.paths import PathTable

def used():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

N = 1_281_167
PathTable.of(Path("root"), ["a"])
before, started = used(), time.perf_counter()
names = (f"n{number // 1300:08d}/n{number // 1300:08d}_{number}.JPEG" for number in range(N))
table = PathTable.of(Path("/data/imagenet/ILSVRC/train"), names)
made, grown = time.perf_counter() - started, used() - before
started = time.perf_counter()
packed = pickle.dumps(table)
again = pickle.loads(packed)
travelled = time.perf_counter() - started
assert again[N - 1] == table[N - 1]
print(made, grown, len(packed), travelled)
"""
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    made, grown, packed, travelled = map(float, found.split())
    assert grown < 150e6, "a list of paths takes 370 MB"
    assert packed < 60e6
    assert made < 30
    assert travelled < 3
