"""Decoding JPEG files of ImageNet's size: Pillow, with which images are read, against what else can be installed.

Each way decodes a file, resizes its shorter side to 256 and cuts 224 x 224 out of the middle, in one thread, whose
processor time counts. The files are made here: 500 x 375 pixels with the spectrum of photographs, at quality 90, which
take about as much as those of ImageNet, of 110 kB on average. Ways that are not installed are left out. A way is worth
taking if it gives the same pixels and is 1.5 times as fast; those that let the decoder scale down, and leave pixels out
on the way, are there to compare.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

GOAL = 1.5
SIZE = (500, 375)
QUALITY = 90
RESIZE, CROP = 256, 224
OURS = "Pillow, as images are read"
LARGE = (1000, 750)  # Pillow's draft halves, so that nothing comes of it at the usual size


def main() -> None:
    parser = common.speed_options(__doc__, 5, 200)
    given = parser.parse_args()
    script = Path(__file__).resolve()
    sections = []
    for size in (SIZE, LARGE):
        with tempfile.TemporaryDirectory() as folder:
            common.say("writing the images")
            common.run(common.python(script, "--write", folder, str(given.images), *map(str, size)))
            common.say(f"decoding {size[0]} x {size[1]}")
            answer = json.loads(common.run(common.python(script, "--measure", folder, str(given.repeats))).output)
        base = statistics.median(answer["seconds"][OURS])
        lines = []
        for way, seconds in answer["seconds"].items():
            if way != OURS:
                largest, mean = answer["differences"][way]
                pixels = f"pixels differ by {mean:.3f} on average, {largest} at most" if largest else "the same pixels"
                speed = given.images / statistics.median(seconds)
                lines.append(
                    common.Line(way, base / statistics.median(seconds), GOAL, detail=f"{speed:.0f} images/s, {pixels}")
                )
        notes = [f"{way} is not installed, or cannot be loaded here: {why}" for way, why in answer["missing"].items()]
        conditions = common.conditions(
            given.repeats,
            f"{OURS}: {given.images / base:.0f} images/s",
            f"{given.images} files of {answer['kb']:.0f} kB on average",
        )
        sections.append((f"decoding JPEG files of {size[0]} x {size[1]} pixels", lines, conditions, notes))
    for number, section in enumerate(sections):
        if number:
            print()
        common.report(*section)


def write(folder: Path, count: int, width: int, height: int) -> None:
    """Write images whose amplitudes fall with the frequency, as those of photographs do, with noise."""
    import numpy as np
    from PIL import Image

    for number in range(count):
        random = np.random.default_rng(number)
        pixels = np.full((height, width, 3), 128, dtype=np.float32)
        side = 3
        while side < width:
            coarse = random.standard_normal((side * height // width + 1, side, 3)).astype(np.float32)
            for channel in range(3):
                level = Image.fromarray(0.5 * coarse[..., channel] + coarse[..., 0])
                pixels[..., channel] += (
                    110 / side**0.6 * np.asarray(level.resize((width, height), Image.Resampling.BICUBIC))
                )
            side *= 2
        pixels += random.normal(0, 20, pixels.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04d}.jpg", quality=QUALITY)


def measure(folder: Path, repeats: int) -> None:
    """Time all ways in turn over all files, in a process of its own."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    files = sorted(folder.glob("*.jpg"))
    ways, missing = all_ways(files)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(-1, repeats):  # the first of each is not counted
        for way, decode in ways.items():
            start = time.process_time()
            for file in files:
                decode(file)
            if number >= 0:
                seconds[way].append(time.process_time() - start)
    differences = {}
    for way, decode in ways.items():
        apart = [np.abs(decode(file).numpy().astype(int) - ways[OURS](file).numpy()) for file in files[:50]]
        differences[way] = (int(max(each.max() for each in apart)), float(np.mean([each.mean() for each in apart])))
    kb = sum(file.stat().st_size for file in files) / len(files) / 1000
    print(json.dumps({"seconds": seconds, "differences": differences, "missing": missing, "kb": kb}))


def all_ways(files: list[Path]) -> tuple[dict[str, Callable[[Path], Any]], dict[str, str]]:
    """The ways that there are here, and why others are not."""
    import numpy as np
    import torch
    from PIL import Image

    from decompose_cli.datasets.reading import ImageFiles
    from decompose_cli.datasets.transforms import image_to_tensor, resize_and_crop
    from decompose_cli.preprocessing import IMAGENET

    images = ImageFiles(files)
    numbers = {file: number for number, file in enumerate(files)}

    def loaded(image: Image.Image) -> Image.Image:
        image.load()
        return image

    def bare(file: Path) -> Any:
        with Image.open(file) as image:
            return image_to_tensor(loaded(image), IMAGENET)

    def draft(file: Path) -> Any:
        with Image.open(file) as image:
            image.draft("RGB", (RESIZE, RESIZE))
            return image_to_tensor(loaded(image), IMAGENET)

    def by_torch(file: Path) -> Any:
        with Image.open(file) as image:
            pixels = torch.from_numpy(np.array(loaded(image))).permute(2, 0, 1)
            return resize_and_crop(pixels, IMAGENET).contiguous()

    ways: dict[str, Callable[[Path], Any]] = {
        OURS: lambda file: image_to_tensor(images.read(numbers[file]), IMAGENET),
        "Pillow alone": bare,
        "Pillow, scaled by draft": draft,
        "Pillow, resized by torch": by_torch,
    }
    missing: dict[str, str] = {}

    def found(package: str, make: Callable[[], dict[str, Callable[[Path], Any]]]) -> None:
        if importlib.util.find_spec(package) is None:
            missing[package] = "there is no such package"
            return
        try:
            made = make()
            for decode in made.values():
                decode(files[0])
        except Exception as error:  # whatever a package lacks
            missing[package] = str(error).strip().splitlines()[0]
        else:
            ways.update(made)

    def from_array(array: Any) -> Any:
        return image_to_tensor(Image.fromarray(array), IMAGENET)

    def of_simplejpeg() -> dict[str, Callable[[Path], Any]]:
        from simplejpeg import decode_jpeg

        return {
            "simplejpeg": lambda file: from_array(decode_jpeg(file.read_bytes())),
            "simplejpeg, scaled by the decoder": lambda file: from_array(
                decode_jpeg(file.read_bytes(), min_height=RESIZE, min_width=RESIZE)
            ),
        }

    def of_turbojpeg() -> dict[str, Callable[[Path], Any]]:
        from turbojpeg import TJPF_RGB, TurboJPEG

        library = TurboJPEG()

        def scaled(file: Path) -> Any:
            content = file.read_bytes()
            width, height = library.decode_header(content)[:2]
            eighths = next(part for part in range(1, 9) if min(width, height) * part >= 8 * RESIZE)
            factor = {1: (1, 8), 2: (1, 4), 4: (1, 2), 6: (3, 4), 8: (1, 1)}.get(eighths, (eighths, 8))
            return from_array(library.decode(content, pixel_format=TJPF_RGB, scaling_factor=factor))

        return {
            "PyTurboJPEG": lambda file: from_array(library.decode(file.read_bytes(), pixel_format=TJPF_RGB)),
            "PyTurboJPEG, scaled by the decoder": scaled,
        }

    def of_torchcodec() -> dict[str, Callable[[Path], Any]]:
        from torchcodec.decoders import decode_image

        return {
            "TorchCodec, resized by Pillow": lambda file: from_array(decode_image(file).permute(1, 2, 0).numpy()),
            "TorchCodec, resized by torch": lambda file: resize_and_crop(decode_image(file), IMAGENET),
        }

    found("simplejpeg", of_simplejpeg)
    found("turbojpeg", of_turbojpeg)
    found("torchcodec", of_torchcodec)
    return ways, missing


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write(Path(sys.argv[2]), *map(int, sys.argv[3:6]))
    elif sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
