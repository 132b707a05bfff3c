"""What statistics on very many images cost: each in a process of its own, on features that are mapped from a file.

Features are made: non-negative, half of them zero, in a cluster for each class, with a head that gets most images
right. For each statistic and each number of images: seconds, processor seconds, and the anonymous memory at its peak,
which is the program and all that it made, without pages of the mapped features. The table has processor seconds, beside
those of the product of all features with the head's matrix (N D C). Their growth between the sizes is an exponent; it
gives times for ImageNet (1,281,167 images of 1000 classes) and, on paper, for ImageNet-21k (14,197,122 images of 21,841
classes), where what grows with the classes is multiplied by their number too.

    python benchmarks/bench_scale.py [--images 50000,200000] [--jobs NAME;...] [--device D] [--output FILE]

With --output figures are added to those in the file; `make docs` takes the table of docs/scale.md from docs/scale.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common
import scale_jobs

if TYPE_CHECKING:
    from torch import Tensor

    from decompose_cli.decomposition.index_set import IndexSet
    from decompose_cli.features.labelled import LabelledFeatures
    from decompose_cli.models.network import HeadTensors

IMAGENET = (1_281_167, 1000)
IMAGENET_21K = (14_197_122, 21_841)
SEARCHED = 100_000
PRODUCT = "full head"
Measured = dict[str, float]


@dataclass(frozen=True)
class Made:
    """Images of a made data set, as statistics take them."""

    features: Tensor
    labels: Tensor
    head: HeadTensors
    device: str = "cpu"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"class {number}" for number in range(self.head.num_classes))

    @property
    def data(self) -> LabelledFeatures:
        from decompose_cli.features.labelled import LabelledFeatures

        return LabelledFeatures(
            self.features, self.labels, self.head.weight, self.names, bias=self.head.bias, device=self.device
        )

    def strongest(self, k: int) -> IndexSet:
        """The k features of each class with the largest weights."""
        from decompose_cli.decomposition.ranking import select

        return select(self.data, "weight", min(k, self.head.num_features))


# ---------------------------------------------------------------------------------------------------------------- jobs


def evaluate_full_head(made: Made) -> None:
    from decompose_cli.decomposition.heads import full_head
    from decompose_cli.decomposition.metrics import predict

    predict(full_head(made.head), made.features, made.labels, made.head.num_classes, made.device)


def validate(made: Made) -> None:
    from decompose_cli.engines.validate import measure

    measure(made.head, made.features, made.labels, made.names, made.strongest(5), device=made.device)


def extract(method: str, *ks: int) -> Callable[[Made], None]:
    def run(made: Made) -> None:
        from decompose_cli.decomposition.ranking import RANKINGS

        list(RANKINGS[method].sets(made.data, _possible(ks, made)))

    return run


def sweep(methods: Sequence[str], ks: Sequence[int]) -> Callable[[Made], None]:
    def run(made: Made) -> None:
        from decompose_cli.decomposition.curves import accuracy_by_k
        from decompose_cli.decomposition.result_types import point_of

        for method in methods:
            by_k = accuracy_by_k(made.data, made.features, made.labels, made.head, _possible(ks, made), method)
            [point_of(predictions) for _, predictions in by_k]

    return run


def _possible(ks: Sequence[int], made: Made) -> list[int]:
    return [k for k in ks if k <= made.head.num_features]


@dataclass(frozen=True)
class Job:
    """A statistic.

    Attributes:
        name: What the table calls it.
        run: Takes the images.
        heads: Heads that it evaluates, where it does.
        is_search: Whether it looks at 100,000 images at most, beside a few looks at all.
        by_class: Whether its time grows with the number of classes.
        full_at: Images from which on it holds no more, where what it holds has a bound that so many reach.
    """

    name: str
    run: Callable[[Made], None]
    heads: int | None = None
    is_search: bool = False
    by_class: bool = True
    full_at: int | None = None


FEW = (1, 2, 5, 10, 20, 50)
JOBS = (
    Job(PRODUCT, evaluate_full_head, 1),
    Job("validate, k = 5", validate, 2),
    Job("extract-indices, frequency, k = 5", extract("frequency", 5), by_class=False),
    Job("extract-indices, frequency, k = 1 to 64", extract("frequency", *range(1, 65)), by_class=False),
    Job("extract-indices, mean, k = 5 and 10", extract("mean", 5, 10), by_class=False),
    Job("extract-indices, mass, k = 5", extract("mass", 5), by_class=False),
    Job("sweep, frequency and contribution, k of 1 to 50", sweep(("frequency", "contribution"), FEW), 2 * len(FEW)),
    Job("sweep, contribution, all k to 2048", sweep(("contribution",), range(1, 2049)), 2048),
    Job("sweep, frequency, all k to 2048", sweep(("frequency",), range(1, 2049)), 2048, full_at=(1 << 28) // 2048),
    Job("sweep --max-drop 1, contribution", scale_jobs.smallest, is_search=True),
    Job("images that choose a strength", scale_jobs.choose_strength, is_search=True, by_class=False),
    Job("sparsify, mean, k = 5", scale_jobs.sparsify("mean", 5), is_search=True),
    Job("essential, k = 5, 30 draws, 100 random sets", scale_jobs.essential(30, 100)),
    Job("selectivity, counts of a layer of 2048", scale_jobs.selectivity, by_class=False),
)


# -------------------------------------------------------------------------------------------------------------- images


def make(folder: Path, images: int, features: int, classes: int) -> None:
    """Write the features of so many images, class after class, with labels and head."""
    import torch

    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, features, generator=generator) / 5
    own = torch.rand(classes, features, generator=generator).topk(min(20, features // 16)).indices
    centres.scatter_(1, own, 2.0)  # so that a few features tell each class from most others
    labels = torch.arange(images) * classes // images
    with (folder / "features").open("wb") as file:
        for some in labels.split(8192):  # type: ignore[no-untyped-call]
            noise = torch.randn(len(some), features, generator=generator)
            file.write((centres[some] + noise).relu().numpy().data)
    # The mean of max(0, c + e), e normal, by which clusters are told apart.
    means = centres * torch.special.ndtr(centres) + torch.exp(-(centres**2) / 2) / math.sqrt(2 * math.pi)
    weight = (means - means.mean(0)) / features**0.5
    bias = -(means**2 - means.mean(0) ** 2).sum(1) / 2 / features**0.5
    torch.save({"labels": labels, "weight": weight, "bias": bias}, folder / "rest")


def opened(folder: Path, device: str = "cpu") -> Made:
    """What was made, with features that are mapped: whoever writes to them makes anonymous memory."""
    import torch

    import decompose_cli.engines.sweep
    import decompose_cli.engines.validate  # noqa: F401 - so that no job is charged with the imports
    from decompose_cli.models.network import HeadTensors

    torch.zeros(1, device=device)  # a GPU takes seconds to start
    rest = torch.load(folder / "rest", weights_only=True)
    images, features = len(rest["labels"]), rest["weight"].shape[1]
    mapped = torch.from_file(str(folder / "features"), shared=False, size=images * features).view(images, features)
    return Made(mapped, rest["labels"], HeadTensors("dense", "fc", rest["weight"], rest["bias"], features), device)


# --------------------------------------------------------------------------------------------------------- one process


@dataclass
class Watch:
    """Watches the anonymous memory of this process; Linux counts the pages of mapped files apart."""

    peak_mb: float = 0.0
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.peak_mb = max(self.peak_mb, anonymous_mb())  # what was made since it last looked

    def _watch(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, anonymous_mb())
            if self._ended.wait(0.02):
                return


def anonymous_mb() -> float:
    """Anonymous memory of this process in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("RssAnon:"))
    return int(kilobytes) * 1024 / 1e6


def measured(job: Job, made: Made) -> Measured:
    """Run a job and measure it, in this process."""
    import resource

    with Watch() as watch:
        started, processor = time.perf_counter(), time.process_time()
        job.run(made)
        seconds, processor = time.perf_counter() - started, time.process_time() - processor
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"seconds": seconds, "processor": processor, "anonymous_mb": watch.peak_mb, "rss_mb": most}


# ------------------------------------------------------------------------------------------------------------ the table


def exponent(by_images: dict[int, Measured]) -> float:
    """By which power of the number of images processor time grows, between the smallest and the largest number."""
    few, many = min(by_images), max(by_images)
    return math.log(by_images[many]["processor"] / by_images[few]["processor"]) / math.log(many / few)


def extrapolated(job: Job, by_images: dict[int, Measured], size: tuple[int, int], classes: int) -> float:
    """Processor seconds for a size, (images, classes), from those for so many classes."""
    many = max(by_images)
    power, base = max(1.0, exponent(by_images)), by_images[many]["processor"]
    if job.is_search and many >= SEARCHED:
        power = 1.0  # the rest, what is not searched, grows with the images
    return base * (size[0] / many) ** power * (size[1] / classes if job.by_class else 1.0)


def peak_for(job: Job, by_images: dict[int, Measured], images: int) -> float:
    """Anonymous memory in MB for so many images, by a line through the smallest and the largest number.

    What a search holds is of 100,000 images at most, however many there are; places of leading features are 2^28.
    """
    few, many = min(by_images), max(by_images)
    full_at = SEARCHED if job.is_search else job.full_at
    if full_at is not None and many >= full_at:
        return by_images[many]["anonymous_mb"]
    low, high = by_images[few]["anonymous_mb"], by_images[many]["anonymous_mb"]
    return high + max(0.0, (high - low) / (many - few)) * (images - many)


def span(seconds: float) -> str:
    """A time as a table shows it."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def table(found: dict[str, dict[int, Measured]], classes: int) -> dict[str, Any]:
    """The table of docs/scale.md."""
    sizes = sorted({images for by_images in found.values() for images in by_images})
    rows = []
    for job in JOBS:
        by_images = found.get(job.name, {})
        if len(by_images) < 2:
            continue
        most = by_images[max(by_images)]
        product = found.get(PRODUCT, {}).get(max(by_images))
        products = most["processor"] / product["processor"] if product else math.nan
        rows.append(
            [
                job.name,
                *(span(by_images[size]["processor"]) if size in by_images else "" for size in sizes),
                *(f"{by_images[size]['anonymous_mb']:.0f}" if size in by_images else "" for size in sizes),
                f"{exponent(by_images):.2f}",
                f"{products:.2g}" + ("" if job.heads in (None, 1) else f" ({products / job.heads:.2g} a head)"),
                span(extrapolated(job, by_images, IMAGENET, classes)),
                f"{peak_for(job, by_images, IMAGENET[0]):.0f}",
                span(extrapolated(job, by_images, IMAGENET_21K, classes)),
            ]
        )
    return {
        "columns": [
            "statistic",
            *(f"{size:,} images" for size in sizes),
            *(f"MB at {size:,}" for size in sizes),
            "exponent",
            "products N D C",
            "ImageNet",
            "MB there",
            "ImageNet-21k",
        ],
        "rows": rows,
    }


def known(path: Path | None, device: str) -> dict[str, dict[int, Measured]]:
    """Figures of earlier runs, which have to be of the same device."""
    if path is None or not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if (other := content.get("device", "cpu")) != device:
        sys.exit(f"{path} has figures of {other}")
    found = content["measured"]
    return {name: {int(size): one for size, one in by_images.items()} for name, by_images in found.items()}


def main() -> None:
    """Make the images, run every job in a process of its own, and show what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", default="50000,200000")
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--jobs", default=None, help="names, or beginnings of names, separated by semicolons")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--device", default="cpu", help="where logits, counts and fits are made")
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measured({job.name: job for job in JOBS}[given.one], opened(given.folder, given.device))))
        return
    starts = [""] if given.jobs is None else given.jobs.split(";")
    jobs = [job for job in JOBS if any(job.name.startswith(start) for start in starts)]
    found = known(given.output, given.device)
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    for images in map(int, given.images.split(",")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            common.say(f"making {images:,} images")
            make(folder, images, given.features, given.classes)
            for job in jobs:
                one = _run(job, folder, given.device)
                found.setdefault(job.name, {})[images] = one
                print(
                    f"{images:>9,} images  {job.name:<50} {one['seconds']:8.1f} s  {one['processor']:8.1f} s processor"
                    f"  {one['anonymous_mb']:6.0f} MB anonymous, {one['rss_mb']:6.0f} MB with pages of the file",
                    flush=True,
                )
                if given.output is not None:
                    _write(given.output, found, given)
    for row in _lines(table(found, given.classes)):
        print(row)


def _run(job: Job, folder: Path, device: str) -> Measured:
    common.say(job.name)
    arguments = [__file__, "--one", job.name, "--folder", str(folder), "--device", device]
    done = common.run(common.python(*arguments))
    answer: Measured = json.loads(done.output)
    return answer


def _write(path: Path, found: dict[str, dict[int, Measured]], given: argparse.Namespace) -> None:
    import torch

    content = {
        "torch": torch.__version__,
        "device": given.device,
        "threads": given.threads,
        "features": given.features,
        "classes": given.classes,
        "measured": found,
        "tables": {"scale": table(found, given.classes)},
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _lines(content: dict[str, Any]) -> Iterator[str]:
    lines = [content["columns"], *content["rows"]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


if __name__ == "__main__":
    sys.exit(main())
