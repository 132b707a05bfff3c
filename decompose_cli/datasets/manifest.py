"""Image files as they were when they were listed, and the digests that tell one set of files from another."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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
        changes: When the system last saw a change of each, in ns, int64 (N,); a copy has another. Zeros: not known.
    """

    paths: PathTable
    sizes: np.ndarray
    times: np.ndarray
    changes: np.ndarray

    @classmethod
    def of(cls, root: Path, files: Iterable[Sequence[Any]]) -> Manifest:
        """Make a manifest of names relative to ``root``, bytes, times in ns and, where known, times of changes."""
        sizes, times, changes = array("q"), array("q"), array("q")

        def names() -> Iterable[str]:
            for name, size, time, *changed in files:
                sizes.append(size)
                times.append(time)
                changes.append(changed[0] if changed else 0)
                yield name

        paths = PathTable.of(root, names())
        return cls(paths, *(np.array(values, dtype=np.int64) for values in (sizes, times, changes)))

    @classmethod
    def of_paths(cls, root: Path, paths: Sequence[Path]) -> Manifest:
        """Make a manifest of files below ``root``.

        Raises:
            InputError: A file is not there.
        """
        return cls.of(root, file_stamp(paths, root))

    @property
    def files(self) -> PathTable:
        """The files, as every list of images has them."""
        return self.paths

    def name(self, number: int) -> str:
        """The name of a file, relative to the folder; that of one elsewhere is absolute."""
        return Path(self.paths.name(number)).as_posix()

    def take(self, numbers: np.ndarray) -> Manifest:
        """The files with these numbers, in this order."""
        return Manifest(self.paths.take(numbers), self.sizes[numbers], self.times[numbers], self.changes[numbers])

    def stamp(self, files: range) -> str | None:
        """A digest of some files where they lie, which changes with any change of one; None where that is not known."""
        part = self.take(np.arange(files.start, files.stop))
        if not part.changes.all():
            return None
        return digest_of([digests_of(part.paths.text, part.paths.ends, part.sizes, part.times, part.changes)])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of relative paths, sizes, times and a sample of the contents, wherever the files lie.

        Two sets may agree in all but the contents, such as uncompressed images of one size that were unpacked with the
        times of their archive.
        """
        parts = digests_of(self.paths.text, self.paths.ends, self.sizes, self.times)
        return digest_of([*parts, content_sample(self.paths)])

    def former_digest(self, labels: list[int]) -> str:
        """What earlier versions made of the files and their labels; it names the place of the files."""
        root = self.paths.root
        stamps = list(zip(self.paths.names(), self.sizes.tolist(), self.times.tolist(), strict=True))
        return digest_of([str(root.resolve()), stamps, labels])


def digests_of(*parts: np.ndarray) -> list[str]:
    """SHA-256 of the numbers in each of some arrays, the same on all machines."""
    little = [np.ascontiguousarray(part, part.dtype.newbyteorder("<")) for part in parts]
    return [hashlib.sha256(part.data).hexdigest() for part in little]
