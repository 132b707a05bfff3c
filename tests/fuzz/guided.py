"""Coverage-guided fuzzing of the readers that take files of others, with atheris (pip install atheris).

    python tests/fuzz/guided.py [--seconds 600] [READER ...]        what 'make fuzz-guided' runs

The readers are ``index-file``, ``checkpoint``, ``cifar`` and ``result``. Each is called in a process of its own, with
inputs that reach new places in the code, beginning with files that the program made. Half of the changes are those of
the mutators here, which know what such files are made of. Anything but a result or an expected error is a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
Change = Callable[[Random, bytes], bytes]

READERS: dict[str, tuple[str, ...]] = {
    "index-file": ("published.json", "document.json", "sparse/k2/indices.json", "published.result.json"),
    "checkpoint": ("last.pt", "state.pt", "state.safetensors", "sparse-net/k2/sparse.safetensors"),
    "cifar": ("cifar/cifar-10-batches-py/test_batch",),
    "result": ("results/*.json", "run/result.json", "sparse/result.json", "sweep/result.json", "explain/result.json"),
}
"""Names of readers, and the seeds that they begin with."""
_LARGEST, _MEGABYTES = 1 << 18, 3000
_WATCHED = ("decompose_cli", "pickletools")
"""Code whose branches guide the search."""


@contextlib.contextmanager
def our_modules() -> Iterator[None]:
    """Find the modules of the fuzzer in the block.

    With all folders of tests on the path for good, SciPy would take `sparse` for the package of that name.
    """
    sys.path.insert(0, str(HERE.parent))
    try:
        yield
    finally:
        sys.path.remove(str(HERE.parent))


def mutators() -> tuple[Change, ...]:
    """Those of files of the readers."""
    from fuzz.mutators.archives import safetensors_header, zip_members
    from fuzz.mutators.pickled import pickled
    from fuzz.mutators.raw import bits, lengths, some_bytes, truncation
    from fuzz.mutators.structure import structure
    from fuzz.mutators.tensors import tensors

    return structure, zip_members, safetensors_header, tensors, pickled, bits, some_bytes, truncation, lengths


def reading(reader: str, folder: Path) -> Callable[[bytes], object]:
    """A function that has the program read these bytes as a file."""
    from decompose_cli.datasets.cifar import open_cifar
    from decompose_cli.decomposition.index_set import read_index_set
    from decompose_cli.models.checkpoint import read_checkpoint
    from decompose_cli.page.report import report

    batch = folder / "cifar-10-batches-py" / "test_batch"
    batch.parent.mkdir()

    def index_file(content: bytes) -> object:
        return read_index_set(_written(folder / "indices.json", content))

    def checkpoint(content: bytes) -> object:
        return read_checkpoint(_written(folder / "weights", content))

    def cifar(content: bytes) -> object:
        _written(batch, content)
        return open_cifar("cifar10", "test", folder, allow_download=False).pixels_and_labels

    def result(content: bytes) -> object:
        return report(_written(folder / "result.json", content), with_images=False)

    return {"index-file": index_file, "checkpoint": checkpoint, "cifar": cifar, "result": result}[reader]


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


class Findings:
    """Inputs on which a reader fails in an unexpected way, one for each place in the code."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: set[tuple[str, int]] = set()

    def of(self, read: Callable[[bytes], object], content: bytes) -> None:
        """Read an input; keep it if that fails as nothing before."""
        from decompose_cli.errors import DecomposeError

        try:
            read(content)
        except DecomposeError:
            pass
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = next((one for one in reversed(frames) if "decompose_cli" in one.filename), frames[-1])
            where = (place.filename, place.lineno or 0)
            if where not in self._places:
                self._places.add(where)
                name = f"{Path(place.filename).stem}-{place.lineno}"
                (self._folder / name).write_bytes(content)
                (self._folder / f"{name}.txt").write_text(traceback.format_exc(), errors="backslashreplace")
                print(f"\nfinding: {type(error).__name__} in {where}: {self._folder / name}", flush=True)


def search(reader: str, corpus: Path, found: Path, seconds: int) -> None:
    """Search in this process, which ends with that."""
    import atheris
    import torch  # noqa: F401  # which is not to be watched

    folder = corpus.with_name(f"{corpus.name}-read")
    folder.mkdir()
    # Only what is imported here for the first time tells which of its branches were taken.
    with atheris.instrument_imports(include=list(_WATCHED)), our_modules():
        changes, read, findings = mutators(), reading(reader, folder), Findings(found)
        for seed in sorted(corpus.iterdir()):
            findings.of(read, seed.read_bytes())  # which imports the rest
    logging.disable()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def changed(content: bytes, size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.5:
            with contextlib.suppress(Exception):  # a mutator of another kind of file, or one that is broken by now
                new = random.choice(changes)(random, content)
                if len(new) <= size:
                    return new
        return bytes(atheris.Mutate(content, size))

    limits = [f"-max_total_time={seconds}", f"-max_len={_LARGEST}", "-timeout=20", "-report_slow_units=20"]
    limits.append(f"-rss_limit_mb={_MEGABYTES}")
    arguments = [sys.argv[0], *limits, f"-artifact_prefix={found}/", "-print_final_stats=1", str(corpus)]
    atheris.Setup(arguments, lambda content: findings.of(read, content), custom_mutator=changed)
    atheris.Fuzz()


@contextlib.contextmanager
def _place() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="guided-"))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def main() -> int:
    """Search with each reader; 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("readers", nargs="*", default=list(READERS), help=", ".join(READERS))
    parser.add_argument("--seconds", type=int, default=600, help="for each reader")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "decompose-guided")
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print(
            "Skipped: atheris is not installed (pip install atheris; it has wheels for Python 3.11 to 3.13 on Linux)."
        )
        return 0
    if asked.corpus:
        search(asked.readers[0], asked.corpus, asked.keep, asked.seconds)
        return 0
    with our_modules():
        from fuzz.campaign import in_copy
        from fuzz.seeds import make_seeds
    total = 0
    with _place() as root:
        in_copy(lambda: make_seeds(root / "seeds"))
        for reader in asked.readers:
            corpus, found = root / reader, asked.keep / reader
            corpus.mkdir()
            shutil.rmtree(found, ignore_errors=True)
            found.mkdir(parents=True)
            for pattern in READERS[reader]:
                for number, file in enumerate((root / "seeds").glob(pattern)):
                    shutil.copy(file, corpus / f"{pattern.replace('/', '-').replace('*', 'any')}-{number}")
            options = ["--seconds", str(asked.seconds), "--keep", str(found), "--corpus", str(corpus)]
            subprocess.run([sys.executable, __file__, reader, *options], check=False)
            inputs = [path for path in sorted(found.iterdir()) if path.suffix != ".txt"]
            total += len(inputs)
            print(f"{reader}: {len(inputs)} findings in {asked.seconds} s: {', '.join(map(str, inputs)) or 'none'}")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
