"""Commands that are killed at random moments and started again, until they come to their end."""

from __future__ import annotations

import io
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from helpers.forks import Forks
from PIL import Image

# A tenth of a second for each chunk, whose beginning is written down; other passes are over a few images.
NET = """
import os, time
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        if len(x) > 20:
            with open("begun", "a") as file:
                file.write("x")
            time.sleep(0.1)
        return self.fc(self.stem(x).relu().mean((2, 3)))
"""
COUNT, CHUNKS, KILLS = 12 * 256 + 77, 13, 20


@pytest.fixture
def arguments() -> list[str]:
    Path("slow_net.py").write_text(NET)
    numbers = np.random.default_rng(0)
    files = []
    for _ in range(64):
        buffer = io.BytesIO()
        Image.fromarray(numbers.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
        files.append(buffer.getvalue())
    for number in range(COUNT):
        folder = Path("images", "test", "abcd"[number * 4 // COUNT])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05d}.png").write_bytes(files[int(numbers.integers(64))])
    network = ["slow_net:Net", "--seed", "3", "--mean", "0,0,0", "--std", "1,1,1"]
    return ["validate", *network, "--dataset", "folder:images", "--json", "-q"]


def marked() -> set[int]:
    """Chunks that the bank has lines of."""
    lines = [
        line
        for file in Path(os.environ["DECOMPOSE_CACHE"]).glob("features/*.bank/done/*")
        for line in file.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]
    numbers = [int(line.split()[0]) for line in lines]
    assert len(numbers) == len(set(numbers)), "each chunk is written once"
    return set(numbers)


def begun() -> int:
    """Chunks that have been begun since this was last asked."""
    path = Path("begun")
    count = path.stat().st_size if path.exists() else 0
    path.unlink(missing_ok=True)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_moments_it_ends_the_same(forks: Forks, arguments: list[str], processes: int) -> None:
    """Whatever is killed, the first or the second; each time at most one chunk of each process is lost.

    One that is being written at that moment may be lost beside one that has just been begun.
    """
    expected = json.loads(forks.program(*arguments, "--no-cache", processes=1)[0].stdout)["results"]
    assert begun() == CHUNKS
    chances, lost, kills, ends = random.Random(processes), [], 0, 0
    while kills < KILLS:
        there, victim = marked(), chances.randrange(processes)
        killed = None
        if len(there) < CHUNKS:
            size = chances.randint(1, CHUNKS - len(there))
            killed = victim, str(Path.cwd() / "begun"), size, chances.uniform(0, 0.15)
        ended = forks.program(*arguments, processes=processes, killed=killed)
        assert there <= marked() <= set(range(CHUNKS))
        lost_now = begun() - len(marked() - there)
        if ended[victim].code == -9:
            kills += 1
            lost.append(lost_now)
            assert 0 <= lost_now <= 2 * processes, lost
        else:
            assert lost_now == 0
        if ended[0].code == 0:
            assert json.dumps(json.loads(ended[0].stdout)["results"]) == json.dumps(expected)
            ends += 1
            for bank in Path(os.environ["DECOMPOSE_CACHE"]).glob("features/*.bank"):
                bank.rename(f"ended{ends}")
    there = marked()
    ended = forks.program(*arguments, processes=processes)
    assert json.dumps(json.loads(ended[0].stdout)["results"]) == json.dumps(expected)
    assert begun() == CHUNKS - len(there)
    print(f"{processes} processes, {kills} kills, {ends + 1} ends; chunks lost by each kill: {lost}")
    assert sum(lost) <= processes * kills
