"""A GPU kept busy: extraction and training from files against bare passes on ready tensors, and against decoding alone.

Extraction is that of ResNet-50 at 224 pixels from JPEG files of 500 x 375 made here, in float32 and bfloat16. The bare
network is the same one, folded and on the device, with batches of normalised images that are there already; decoding is
the same reading of the same files without a network. Of these two the smaller is the limit. Training is the command
`decompose train`, as it measures itself in its last epoch, beside bare steps with the same optimizer and, for
ResNet-50, beside reading the same batches alone.

    python benchmarks/bench_cuda.py [--device cuda] [--images N] [--steps N] [--repeats N] [--only NAME;...]

Sides take turns in one process, but for the trainings: where CUDA starts slowly, it starts once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import common

if TYPE_CHECKING:
    import torch

    from decompose_cli.models.network import Network
    from decompose_cli.preprocessing import Preprocessing

CLASSES = 8
LIMIT_GOAL = 0.9
PRECISIONS = ("32", "bf16")
SIZE = (500, 375)
WARM = 20
TRAININGS = (("resnet20", 128), ("resnet50", 128))
READ = "reading batches of 224 pixels"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=16_384, help="JPEG files")
    parser.add_argument("--steps", type=int, default=100, help="of a training, in each of two epochs at least")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="resnet50", help="the network that reads JPEG files")
    parser.add_argument("--batch-size", type=int, default=256, help="of extraction")
    parser.add_argument("--workers", type=int, default=common.cores(), help="processes that decode")
    parser.add_argument("--only", default="", help="what names of sides contain, such as resnet20; decoding")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not has_cuda():
        print("There is no GPU here; nothing is measured.")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common.say(f"making {given.images:,} JPEG files")
        write_files(folder / "jpeg", given.images)
        small = common.make_inputs(folder / "small", test=256, train=max(12_800, given.steps * 128))
        sides = {**extraction_sides(folder), **training_sides(folder, small)}
        wanted = [part.strip() for part in given.only.split(";")]
        found = measured(given, {name: side for name, side in sides.items() if any(part in name for part in wanted)})
    median = {name: statistics.median(speeds) for name, speeds in found.items()}
    lines = [
        common.Line(
            f"{name} / what limits it", median[name] / min(limits), LIMIT_GOAL, detail=f"{median[name]:,.0f} images/s"
        )
        for name, by in limited_by().items()
        if name in median and (limits := [median[other] for other in by if other in median])
    ]
    notes = [
        f"{name}: {median[name]:,.0f} images/s ({min(speeds):,.0f} to {max(speeds):,.0f})"
        for name, speeds in found.items()
    ]
    conditions = [*common.conditions(given.repeats), card(given)]
    common.report(f"{given.model} and trainings on {given.device}", lines, conditions, notes)


def has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def measured(given: argparse.Namespace, sides: dict[str, tuple[str, ...]]) -> dict[str, list[float]]:
    """Images per second of each side, all sides in turn."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(given.repeats):
        for name, (side, *arguments) in sides.items():
            found[name].append(SIDES[side](given, *arguments))
            print(f"run {number + 1} of {given.repeats}: {name}: {found[name][-1]:,.0f} images/s", flush=True)
    return found


def extraction_sides(folder: Path) -> dict[str, tuple[str, ...]]:
    sides: dict[str, tuple[str, ...]] = {"decoding": ("decoding", str(folder / "jpeg"))}
    for precision in PRECISIONS:
        sides[f"bare network, {precision}"] = ("bare", precision)
        sides[f"extraction, {precision}"] = ("extraction", str(folder / "jpeg"), precision)
    return sides


def training_sides(folder: Path, small: common.Inputs) -> dict[str, tuple[str, ...]]:
    sides: dict[str, tuple[str, ...]] = {READ: ("batches", str(folder / "jpeg"))}
    for model, size in TRAININGS:
        for precision in PRECISIONS:
            data = ("cifar10", str(small.data)) if model == "resnet20" else (f"folder:{folder / 'jpeg'}", str(folder))
            name = f"{model}, batch {size}, {precision}"
            sides[f"bare steps of {name}"] = ("steps", model, str(size), precision)
            sides[f"training {name}"] = ("training", model, str(size), precision, *data)
    return sides


def limited_by() -> dict[str, tuple[str, ...]]:
    """The sides that bound each of ours."""
    found: dict[str, tuple[str, ...]] = {}
    for precision in PRECISIONS:
        found[f"extraction, {precision}"] = ("decoding", f"bare network, {precision}")
        for model, size in TRAININGS:
            name = f"{model}, batch {size}, {precision}"
            read = () if model == "resnet20" else (READ,)
            found[f"training {name}"] = (f"bare steps of {name}", *read)
    return found


def card(given: argparse.Namespace) -> str:
    import torch

    if given.device == "cpu":
        return "no GPU"
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"


# --------------------------------------------------------------------------------------------------------------- files


def write_files(folder: Path, count: int) -> None:
    """Write so many images of noise of several sizes, which compress as photographs do (about 90 kB)."""
    each = -(-count // CLASSES)
    jobs = [
        (folder / split / f"class{number}", images)
        for split, images in (("train", each), ("test", max(1, each // 64)))
        for number in range(CLASSES)
    ]
    with ProcessPoolExecutor(common.cores()) as pool:
        list(pool.map(_write_class, jobs))


def _write_class(job: tuple[Path, int]) -> None:
    import numpy as np
    from PIL import Image

    folder, count = job
    folder.mkdir(parents=True)
    random = np.random.default_rng(zlib.crc32(f"{folder.parent.name}/{folder.name}".encode()))
    for number in range(count):
        layers = []
        for cell in (100, 12, 3):
            shape = (SIZE[1] // cell + 1, SIZE[0] // cell + 1, 3)
            noise = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
            layers.append(np.asarray(noise.resize(SIZE, Image.Resampling.BILINEAR), dtype=np.float32))
        pixels = 0.6 * layers[0] + 0.25 * layers[1] + 0.15 * layers[2]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=92)


# --------------------------------------------------------------------------------------------------------------- sides


def _opened(model: str) -> tuple[Network, Preprocessing]:
    """A network with random weights and the preprocessing of its images."""
    from decompose_cli.models.classifier import open_classifier
    from decompose_cli.models.registry import get_entry

    preprocessing = get_entry(model).preprocessing
    assert preprocessing is not None
    return open_classifier(model, "random").load(preprocessing.crop), preprocessing


def decoding(given: argparse.Namespace, folder: str) -> float:
    """The files read as extraction reads them."""
    from decompose_cli.datasets.registry import open_dataset
    from decompose_cli.features.bank import chunks_of
    from decompose_cli.models.registry import get_entry

    entry = get_entry(given.model)
    dataset = open_dataset(f"folder:{folder}", "train", Path())
    start, images = time.perf_counter(), 0
    for chunk in dataset.chunks(entry.preprocessing, chunks_of(len(dataset), 2048), given.workers):
        images += len(chunk.images)
    return images / (time.perf_counter() - start)


def extraction(given: argparse.Namespace, folder: str, precision: str) -> float:
    """Features of all files, in chunks as they are written to the cache."""
    import torch

    from decompose_cli.datasets.registry import open_dataset
    from decompose_cli.features.bank import chunks_of
    from decompose_cli.features.extraction import Computing, features_of_chunks

    network, preprocessing = _opened(given.model)
    dataset = open_dataset(f"folder:{folder}", "train", Path())
    computing = Computing(torch.device(given.device), precision, given.batch_size, given.workers, common.cores())
    wanted = chunks_of(len(dataset), network.tensors.num_features)
    if given.device != "cpu":
        torch.zeros(1, device=given.device)  # CUDA itself takes seconds to start
    start, images = time.perf_counter(), 0
    for done in features_of_chunks(network, dataset, preprocessing, wanted, computing):
        images += len(done.features)
    return images / (time.perf_counter() - start)


def bare(given: argparse.Namespace, precision: str) -> float:
    """The network of the extraction on batches that are ready."""
    import torch

    from decompose_cli.models.convolutions import fastest_algorithms
    from decompose_cli.models.inference import FeatureReader

    device = torch.device(given.device)
    network, preprocessing = _opened(given.model)
    reader = FeatureReader(network, device, precision, torch.randn(8, 3, *preprocessing.crop))
    size = given.batch_size if device.type != "cpu" else 4
    images = torch.randn(size, 3, *preprocessing.crop, device=device).contiguous(memory_format=torch.channels_last)
    count = max(1, min(given.images, 8192) // size)
    with fastest_algorithms(device):
        for _ in range(5 if device.type != "cpu" else 1):
            reader(images)
        _wait(device)
        start = time.perf_counter()
        for _ in range(count):
            reader(images)
        _wait(device)
    return size * count / (time.perf_counter() - start)


def batches(given: argparse.Namespace, folder: str) -> float:
    """Training batches of the files, read, augmented and on the device, without a step."""
    import torch

    from decompose_cli.datasets.augment import Augmentation
    from decompose_cli.datasets.registry import open_dataset
    from decompose_cli.datasets.training_images import TrainingImages
    from decompose_cli.models.registry import get_entry

    entry, device = get_entry(given.model), torch.device(given.device)
    dataset = open_dataset(f"folder:{folder}", "train", Path())
    wanted = Augmentation("resized-crop")
    images = TrainingImages(dataset, entry.preprocessing, wanted, seed=0, device=device, workers=given.workers)
    order = torch.randperm(len(dataset))
    start, count = time.perf_counter(), 0
    for batch in images.batches(0, torch.split(order, 128)):
        count += len(batch)
    _wait(device)
    return count / (time.perf_counter() - start)


def training(given: argparse.Namespace, model: str, size: str, precision: str, dataset: str, data_dir: str) -> float:
    """What `decompose train` says of its last epoch."""
    with tempfile.TemporaryDirectory() as folder:
        command = common.decompose(
            "train", model, "-w", "random", "--dataset", dataset, "--data-dir", data_dir, "--no-download",
            "--optimizer", "sgd", "--lr", "0.01", "--schedule", "constant", "-b", size, "--epochs", "2",
            "--val-split", "0", "--precision", precision, "-o", Path(folder) / "run", "--json", "-q",
            "--device", given.device, "--workers", str(given.workers),
        )  # fmt: skip
        results = json.loads(common.run(command).output)["results"]
    return float(results["epochs"][-1]["images_per_second"])


def steps(given: argparse.Namespace, model: str, size: str, precision: str) -> float:
    """Bare steps on a batch that is ready."""
    import torch
    import torch.nn.functional as F

    from decompose_cli.models.registry import get_entry

    torch.backends.cudnn.benchmark = True
    device, count = torch.device(given.device), int(size)
    entry = get_entry(model)
    module = entry.build(CLASSES).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    images = torch.randn(count, 3, *entry.preprocessing.crop, device=device).contiguous(
        memory_format=torch.channels_last
    )
    labels = torch.randint(0, CLASSES, (count,), device=device)
    for number in range(WARM + given.steps):
        if number == WARM:
            _wait(device)
            start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = module(images)
        F.cross_entropy(output.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    _wait(device)
    return count * given.steps / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


SIDES: dict[str, Callable[..., float]] = {
    "decoding": decoding,
    "extraction": extraction,
    "bare": bare,
    "batches": batches,
    "training": training,
    "steps": steps,
}

if __name__ == "__main__":
    sys.exit(main())
