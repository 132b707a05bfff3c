"""Opening a network in Python, with all that is looked at before the first image, against one pass over 8 images.

`load_model` of a module finds the head, compares it with the network's own logits for 8 images, and sees whether an
image gives the same alone and among others. Both sides have one thread, which is as good for their ratio.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import common

GOAL = 2.2
NETWORKS = {"ResNet-18, 224x224": ("resnet18", 224), "ResNet-50, 224x224": ("resnet50", 224)}
IMAGES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="runs of each side (5)")
    given = parser.parse_args()
    script = Path(__file__).resolve()
    lines = []
    for name, (model, size) in NETWORKS.items():
        common.say(name)
        ran = json.loads(common.run(common.python(script, "--measure", model, str(size), str(given.repeats))).output)
        opening, one_pass = common.Runs(ran["opening"]), common.Runs(ran["pass"])
        detail = f"{ran['images']} images, {1000 * opening.median:.0f} ms, the pass {1000 * one_pass.median:.0f} ms"
        what = f"{name}: opening / a pass over {IMAGES} images"
        lines.append(common.Line(what, opening.median / one_pass.median, GOAL, at_least=False, detail=detail))
    common.report("opening a network", lines, common.conditions(given.repeats, "random weights, float32"))


def measure(model: str, size: int, repeats: int) -> None:
    """Time both in turn, and count the images that opening takes, in a process of its own."""
    import time

    import torch

    import decompose_cli as dc
    from decompose_cli.models.registry import get_entry

    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = get_entry(model).build(1000).eval()
    images = torch.randn(IMAGES, 3, size, size)
    shown: list[int] = []
    seconds: dict[str, list[float]] = {"opening": [], "pass": []}
    for number in range(-1, repeats):  # the first of each is not counted
        hook = module.register_forward_pre_hook(lambda _, given: shown.append(len(given[0])))
        shown.clear()
        start = time.perf_counter()
        dc.load_model(module, input_size=size)
        opened = time.perf_counter()
        hook.remove()
        with torch.no_grad():
            module(images)
        if number >= 0:
            seconds["opening"].append(opened - start)
            seconds["pass"].append(time.perf_counter() - opened)
    print(json.dumps({**seconds, "images": sum(shown)}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
