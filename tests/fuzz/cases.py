"""Makes the case of a seed: the same seed makes the same case, as long as the program and these files are the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from random import Random

from fuzz.case import Case, Content
from fuzz.mutators.archives import safetensors_header, tar_members, zip_members
from fuzz.mutators.folders import journal, missing
from fuzz.mutators.lines import MINE, copied, line
from fuzz.mutators.pickled import pickled
from fuzz.mutators.pictures import picture
from fuzz.mutators.raw import bits, lengths, some_bytes, truncation
from fuzz.mutators.structure import structure
from fuzz.mutators.surroundings import surroundings
from fuzz.mutators.tables import table
from fuzz.mutators.tensors import tensors
from fuzz.readers import NET, SEEDS, Reader, readers

Mutator = Callable[[Random, bytes], bytes]
_ANY: dict[str, Mutator] = {"bits": bits, "bytes": some_bytes, "truncation": truncation, "lengths": lengths}
_ZIPS, _IMAGES = (".pt", ".npz"), (".png", ".jpg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
_BY_NAME: tuple[tuple[tuple[str, ...], str, Mutator], ...] = (
    ((".json",), "JSON", structure),
    (_ZIPS, "zip members", zip_members),
    ((".pt", ".safetensors"), "tensors", tensors),
    ((".safetensors",), "safetensors header", safetensors_header),
    (_IMAGES, "image", picture),
    ((".csv",), "table", table),
    ((".tar",), "tar members", tar_members),
    (("_batch", "batch_1", "batch_2", "batch_3", "batch_4", "batch_5", "/train", "/test"), "pickle", pickled),
)
_OTHER = (("option line", 0.3), ("environment", 0.08), ("journal", 0.02))
"""What changes no file of a reader, and its share of all cases."""


class Cases:
    """All cases.

    Args:
        seeds: The folder of :func:`fuzz.seeds.make_seeds`.
    """

    again = "python tests/fuzz --case"
    """What runs a case again, before its number."""

    def __init__(self, seeds: Path) -> None:
        self.seeds = seeds

    @cached_property
    def _readers(self) -> tuple[list[Reader], list[float]]:
        files = sorted(str(path.relative_to(self.seeds)) for path in self.seeds.rglob("*") if path.is_file())
        found = readers(files)
        shares = {reader.name: 0.0 for reader in found}
        for reader in found:
            shares[reader.name] += reader.share
        return found, [reader.share / shares[reader.name] * _WEIGHTS[reader.name] for reader in found]

    def of(self, seed: int) -> Case:
        """The case of a seed."""
        random = Random(seed)
        chance = random.random()
        for name, share in _OTHER:
            if chance < share:
                return self._other(name, seed, random)
            chance -= share
        found, weights = self._readers
        reader = random.choices(found, weights)[0]
        files: dict[str, Content] = {place: self.seeds / source for place, source in reader.beside.items()}
        content = (self.seeds / reader.source).read_bytes()
        if random.random() < 0.03:
            files = missing(random, {**files, reader.place: content}, reader.place, self.seeds)
            return Case(seed, "files", reader.name, list(reader.arguments), files)
        fitting = {name: change for ends, name, change in _BY_NAME if _fits(reader.source, ends)}
        name = random.choice(list(fitting) if fitting and random.random() < 0.65 else list(_ANY))
        files[reader.place] = ({**_ANY, **fitting})[name](random, content)
        return Case(seed, name, reader.name, list(reader.arguments), files)

    def _other(self, name: str, seed: int, random: Random) -> Case:
        if name == "option line":
            arguments = line(random)
            mine: dict[str, Content] = {f"work/{MINE}/{path}": self.seeds / path for path in copied(arguments)}
            return Case(seed, name, arguments[0] if arguments else "", arguments, mine)
        if name == "environment":
            changed, unset = surroundings(random)
            arguments = random.choice((["validate", *NET], ["cache"], ["datasets"], ["validate", *NET, "--json"]))
            return Case(seed, name, arguments[0], list(arguments), environment=changed, unset=unset)
        files: dict[str, Content] = {
            "work/results/first.json": self.seeds / "results/selectivity.json",
            "work/results/second.json": self.seeds / "results/mutual-info.json",
            "work/results/.decompose-journal": journal(random.randrange(2**32), "work/results"),
        }
        writes = ["mutual-info", "-i", f"{SEEDS}/document.json", "-o", "results/third.json"]
        arguments = writes if random.random() < 0.9 else ["report", "results", "-o", "page.html"]
        return Case(seed, name, arguments[0], arguments, files)


def _fits(source: str, ends: tuple[str, ...]) -> bool:
    return source.endswith(ends) or source.startswith(ends)


_WEIGHTS = {
    "index file": 4.0,
    "checkpoint": 4.0,
    "features": 2.5,
    "CIFAR": 1.0,
    "data set": 1.2,
    "class map": 0.6,
    "configuration": 0.6,
    "image": 0.5,
    "result": 1.5,
    "run": 0.2,
    "cache": 1.5,
}
"""How often a reader of such files is taken, compared to others."""
