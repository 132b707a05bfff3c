"""Image files as they were when they were listed, and the digests that tell one set of files from another."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from decompose_cli.datasets.paths import PathTable
from decompose_cli.storage.fingerprints import content_sample, digest_of, file_stamp


@dataclass(frozen=True)
class Manifest:
    """Image files, in the order in which they are read.

    Attributes:
        paths: The files.
        sizes: Bytes of each, int64 (N,).
        times: When each was last changed, in ns, int64 (N,).
    """

    paths: PathTable
    sizes: np.ndarray
    times: np.ndarray

    @classmethod
    def of(cls, root: Path, files: Iterable[tuple[str, int, int]]) -> Manifest:
        """Make a manifest of names relative to ``root``, bytes and times in ns."""
        sizes, times = array("q"), array("q")

        def names() -> Iterable[str]:
            for name, size, time in files:
                sizes.append(size)
                times.append(time)
                yield name

        paths = PathTable.of(root, names())
        return cls(paths, np.array(sizes, dtype=np.int64), np.array(times, dtype=np.int64))

    @classmethod
    def of_paths(cls, root: Path, paths: Sequence[Path]) -> Manifest:
        """Make a manifest of files below ``root``.

        Raises:
            InputError: A file is not there.
        """
        return cls.of(root, file_stamp(paths, root))

    def take(self, numbers: np.ndarray) -> Manifest:
        """The files with these numbers, in this order."""
        return Manifest(self.paths.take(numbers), self.sizes[numbers], self.times[numbers])

    def part(self, files: range) -> Manifest:
        """The files with these numbers, one after another."""
        return self.take(np.arange(files.start, files.stop))

    @property
    def few_digest(self) -> str:
        """As :attr:`digest`, with a sample of the contents of the first and the last file alone."""
        return self._digest(self.paths.take([0, len(self.paths) - 1]))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of relative paths, sizes, times and a sample of the contents, wherever the files lie.

        Two sets may agree in all but the contents, such as uncompressed images of one size that were unpacked with the
        times of their archive.
        """
        return self._digest(self.paths)

    def _digest(self, sampled: PathTable) -> str:
        parts = [self.paths.text, self.paths.ends, self.sizes, self.times]
        little = [np.ascontiguousarray(part, part.dtype.newbyteorder("<")) for part in parts]
        digests = [hashlib.sha256(part.data) for part in little]
        return digest_of([*(each.hexdigest() for each in digests), content_sample(sampled)])

    def former_digest(self, labels: list[int]) -> str:
        """What earlier versions made of the files and their labels; it names the place of the files."""
        root = self.paths.root
        stamps = list(zip(self.paths.names(), self.sizes.tolist(), self.times.tolist(), strict=True))
        return digest_of([str(root.resolve()), stamps, labels])
