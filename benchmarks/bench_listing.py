"""Opening a folder of 100,000 image files as often as a command does, against a list of paths made each time anew.

The plain way lists the class folders, asks for size and time of every path, and makes a digest of all, whenever the
folder is opened: as often as `finetune` opens the training images. Ours lists a folder once in a command, takes sizes
and times on the way, and keeps the paths as one array. Both know the same files. The files are small and in the
system's cache; on a network's file system each question costs a hundred times as much.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import common

GOALS = {"seconds": 2.5, "memory": 0.7}
OPENED = 3
CLASSES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="runs of each side (5)")
    parser.add_argument("--files", type=int, default=100_000, metavar="N", help="number of files (100,000)")
    given = parser.parse_args()
    script = Path(__file__).resolve()
    with tempfile.TemporaryDirectory() as folder:
        common.say("writing the files")
        common.run(common.python(script, "--write", folder, str(given.files)))
        answers: dict[str, list[dict[str, Any]]] = {"plain": [], "ours": []}
        for number in range(given.repeats):
            for way, found in answers.items():
                common.say(f"run {number + 1} of {given.repeats}: {way}")
                found.append(json.loads(common.run(common.python(script, "--measure", way, folder)).output))
    if len({answer["names"] for found in answers.values() for answer in found}) > 1:
        sys.exit("the two ways do not find the same files")

    def median(way: str, what: str) -> float:
        return statistics.median(answer[what] for answer in answers[way])

    seconds, memory = ({way: median(way, what) for way in answers} for what in ("seconds", "grown_mb"))
    lines = [
        common.Line(
            f"opened {OPENED} times, plain / ours",
            seconds["plain"] / seconds["ours"],
            GOALS["seconds"],
            detail=f"{seconds['ours']:.2f} s of {seconds['plain']:.2f} s",
        ),
        common.Line(
            "memory, ours / plain",
            memory["ours"] / memory["plain"],
            GOALS["memory"],
            at_least=False,
            detail=f"{memory['ours']:.0f} of {memory['plain']:.0f} MB",
        ),
    ]
    sent = {way: f"{median(way, 'sent_mb'):.1f} MB in {1000 * median(way, 'sent'):.0f} ms" for way in answers}
    notes = [f"sent to another process: {sent['ours']}, a list of paths {sent['plain']}"]
    common.report(f"{given.files:,} files in {CLASSES:,} folders", lines, common.conditions(given.repeats), notes)


def write(folder: Path, count: int) -> None:
    """Write the same small image under many names."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (80, 80), "red").save(buffer, "JPEG")
    each = -(-count // CLASSES)
    for number in range(count):
        if number % each == 0:
            target = folder / "train" / f"n{number // each:08d}"
            target.mkdir(parents=True)
        (target / f"{target.name}_{number}.JPEG").write_bytes(buffer.getvalue())


def measure(way: str, folder: Path) -> None:
    """Open the folder as a command does, in a process of its own that has imported everything."""
    from decompose_cli.datasets.listed_once import listed_once
    from decompose_cli.datasets.registry import open_dataset

    def mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    before, start = mb(), time.perf_counter()
    if way == "plain":
        opened = [_plain(folder / "train") for _ in range(OPENED)]
        paths = opened[0]
    else:
        with listed_once():
            opened = [open_dataset(f"folder:{folder}", "train", Path()) for _ in range(OPENED)]
            for dataset in opened:
                dataset.fingerprint()
        paths = opened[0].files
    seconds, grown = time.perf_counter() - start, mb() - before
    start = time.perf_counter()
    sent = pickle.dumps(paths)
    pickle.loads(sent)
    travelled = time.perf_counter() - start
    names = _hash_of(str(path.relative_to(folder)) for path in paths)
    print(
        json.dumps(
            {"seconds": seconds, "grown_mb": grown, "sent_mb": len(sent) / 1e6, "sent": travelled, "names": names}
        )
    )


def _hash_of(names: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\0")
    return digest.hexdigest()


def _plain(root: Path) -> list[Path]:
    from decompose_cli.storage.fingerprints import digest_of, file_stamp

    paths = [
        Path(folder, file)
        for folder in sorted(entry.path for entry in os.scandir(root) if entry.is_dir())
        for file in sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    ]
    digest_of(file_stamp(paths, root))
    return paths


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["--write"]:
        write(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
