"""Sparse heads on fixed features: the elastic-net path against glm_saga, and what a refit costs.

The path has 100 strengths on 50,000 features of width 64, 10 classes, every point certified to 1e-6 of its objective.
The other side is glm_saga 0.1.2 (arXiv 2105.04857; `pip install glm-saga==0.1.2`, which nothing else here needs) at its
published settings: alpha 0.99, step 0.1, batch 512, at most 2000 epochs, ended by 5 epochs that do not improve by 1e-4.
It takes minutes for a few strengths, so it runs for those given with --strengths, each begun two strengths before, from
our optimum there with the gradients of all images, which is a better start than its own path would have; the mean of
the times of the strengths themselves is multiplied by 100. `--strengths all` runs its whole path instead, and
counts test images too: those that its head with a mean of 5 features per class gets right, and ours with exactly 5.
Both have the same standardised features, and all objectives are computed here in float64.

Features are those of the published ResNet-20 on CIFAR-10 (from JPEG) with DECOMPOSE_REFERENCE_DIR, else drawn. A refit
at a fixed support, and how its cost grows, is measured beside a product of the features with a matrix of the head's
size; --large adds 50,000 features of width 2048 with 1000 classes (minutes), in a process of its own, and what else a
run of `sparsify` does there, on the part of the images that it takes.

    python benchmarks/bench_sparsify.py [--repeats N] [--strengths 10,40,70,99] [--large]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import common

if TYPE_CHECKING:
    from torch import Tensor

    from decompose_cli.sparse.elastic_net import PathPoint
    from decompose_cli.sparse.problem import Problem

IMAGES, FEATURES, CLASSES, K, L2 = 50_000, 64, 10, 5, 1e-3
STRENGTHS = 100
LARGE = (50_000, 2048, 1000, 50)
SPEED_GOAL, GAP_GOAL, REFIT_GOAL, LARGE_GOAL, LARGE_MEMORY_GOAL = 50.0, 1e-6, 3.0, 600.0, 2000.0
SETTINGS = {"lr": 0.1, "nepochs": 2000, "alpha": 0.99, "tol": 1e-4, "lookbehind": 5}
BATCH = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="runs of ours (3)")
    parser.add_argument("--strengths", default="10,40,70,99", help="points at which glm_saga runs, 1 to 100, or all")
    parser.add_argument("--large", action="store_true", help="add 50,000 x 2048 features, 1000 classes (minutes)")
    given = parser.parse_args()
    large = common.run(common.python(Path(__file__).resolve(), "--refit-large")) if given.large else None
    apart = common.run(common.python(Path(__file__).resolve(), "--apart-large")) if given.large else None
    x, labels, test, description = features()
    numbers = [] if given.strengths == "all" else [int(number) for number in given.strengths.split(",")]
    lines, notes = of_path(x, labels, test, given.repeats, numbers)
    lines.append(of_refit(x, labels, given.repeats))
    notes += of_sizes(given.repeats)
    if large is not None:
        lines += of_large(large)
    if apart is not None:
        notes += json.loads(apart.output)
    common.report(
        f"sparse heads, {IMAGES:,} x {FEATURES} features, {CLASSES} classes",
        lines,
        common.conditions(given.repeats, description),
        notes,
    )


# --------------------------------------------------------------------------------------------------------------- path


def of_path(
    x: Tensor, labels: Tensor, test: tuple[Tensor, Tensor] | None, repeats: int, numbers: list[int]
) -> tuple[list[common.Line], list[str]]:
    from decompose_cli.sparse.elastic_net import elastic_net_path
    from decompose_cli.sparse.problem import Problem

    def ours() -> Any:
        problem = Problem(x, labels, CLASSES)
        return problem, elastic_net_path(problem, strengths=STRENGTHS, alpha=SETTINGS["alpha"])

    seconds, (problem, path) = timed("the path", ours, repeats)
    gap = max(point.relative_gap for point in path.points)
    steps = sum(point.steps for point in path.points)
    detail = f"{seconds:.2f} s for {STRENGTHS} strengths, {steps} evaluations of the loss"
    accuracies: list[str] = []
    lines = [
        common.Line("path, largest gap of a point / 1e-6", gap / GAP_GOAL, 1.0, at_least=False, detail=detail),
    ]
    if importlib.util.find_spec("glm_saga") is None:
        return lines, ["glm_saga is not installed, so the path is compared with nothing: pip install glm-saga==0.1.2"]
    if numbers:
        results = [by_glm_saga(problem, path.points, range(max(1, n - 2), n + 1))[-1] for n in numbers]
        how = f"{len(numbers)} strengths run, the rest extrapolated"
    else:
        numbers, how = list(range(1, STRENGTHS + 1)), "every strength run"
        results = by_glm_saga(problem, path.points, numbers)
        if test is not None:
            accuracies = at_five(problem, [result["head"] for result in results], x, labels, test)
    theirs = STRENGTHS * statistics.mean(result["seconds"] for result in results)
    above = [result["objective"] / path.points[n - 1].objective - 1 for n, result in zip(numbers, results, strict=True)]
    detail = f"{seconds:.2f} s; glm_saga {theirs:.0f} s, {how}"
    lines.append(common.Line("path, glm_saga / ours", theirs / seconds, SPEED_GOAL, detail=detail))
    detail = f"excess {min(above):.1e} to {max(above):.1e} of ours"
    name = "objective, largest excess of glm_saga's / largest gap of ours"
    lines.append(common.Line(name, max(above) / gap, 1.0, detail=detail))
    notes = [
        f"glm_saga at strength {number}: {result['epochs']} epochs in {result['seconds']:.1f} s, "
        f"objective {result['objective']:.6f}, ours {path.points[number - 1].objective:.6f}"
        for number, result in list(zip(numbers, results, strict=True))[-4:]
    ]
    return lines, notes + accuracies


def at_five(
    problem: Problem, theirs: Sequence[Tensor], x: Tensor, labels: Tensor, test: tuple[Tensor, Tensor]
) -> list[str]:
    """Test images right at a mean of K features per class by glm_saga, and at exactly K by ours."""
    import decompose_cli as dc

    def mean(head: Tensor) -> float:
        return float((head[:, :-1] != 0).sum()) / len(head)

    nearest = min(theirs, key=lambda head: abs(mean(head) - K))
    weight, bias = problem.scale.folded(nearest[:, :-1], nearest[:, -1])
    right = int(((test[0].double() @ weight.t() + bias).argmax(1) == test[1]).sum())
    said = [
        f"at a mean of {mean(nearest):.1f} features per class glm_saga gets {right:,} of {len(test[1]):,} test images"
    ]
    train = dc.Features(x, labels)
    for method in ("elastic-net", "backward", "splicing"):
        common.say(f"sparsify by {method}")
        head = dc.sparsify(train, k=K, method=method)
        right = head.fitted.predict(*test).correct
        said.append(f"at exactly {K} features per class sparsify --method {method} gets {right:,} ({head.method})")
    return said


def by_glm_saga(problem: Problem, points: Sequence[PathPoint], numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Run train_saga at points of the path, one after the other, from our optimum before the first."""
    import torch
    from glm_saga.elasticnet import IndexedTensorDataset, train_saga
    from torch.utils.data import DataLoader

    z = ((problem.features - problem.scale.mean) * problem.scale.inverse).float()
    loader = DataLoader(IndexedTensorDataset(z, problem.labels), batch_size=BATCH, shuffle=True)
    linear = torch.nn.Linear(FEATURES, CLASSES)
    head = points[max(0, numbers[0] - 2)].head.float()
    with torch.no_grad():
        linear.weight.copy_(head[:, :-1])
        linear.bias.copy_(head[:, -1])
        rest = linear(z).softmax(1) - torch.nn.functional.one_hot(problem.labels, CLASSES)
    state = {"a_table": rest, "w_grad_avg": rest.t() @ z / len(z), "b_grad_avg": rest.mean(0)}
    torch.manual_seed(0)
    results = []
    for number in numbers:
        common.say(f"glm_saga at strength {number}")
        strength, said = points[number - 1].strength, []
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a softmax without its dimension
            state = train_saga(
                linear, loader, lam=strength, group=False, state=state, n_ex=len(z), n_classes=CLASSES,
                verbose=1, logger=said.append, **SETTINGS,
            )  # fmt: skip
        seconds = time.perf_counter() - start
        found = torch.cat([linear.weight.detach(), linear.bias.detach()[:, None]], 1).double()
        loss, _ = problem.value_and_gradient(found)
        weight, alpha = found[:, :-1], SETTINGS["alpha"]
        penalty = strength * (alpha * weight.abs().sum() + (1 - alpha) / 2 * weight.square().sum())
        results.append({"seconds": seconds, "epochs": len(said) - 1, "objective": loss + float(penalty), "head": found})
    return results


# --------------------------------------------------------------------------------------------------------------- refit


def of_refit(x: Tensor, labels: Tensor, repeats: int) -> common.Line:
    seconds, product, steps = refitted(x, labels, CLASSES, K, repeats)
    detail = f"{steps} evaluations; {seconds / product:.0f} products of the same size"
    return common.Line(f"refit, k = {K}", seconds, REFIT_GOAL, at_least=False, detail=detail, unit=" s")


def of_sizes(repeats: int) -> list[str]:
    """What a refit costs at three numbers of images, classes and features per class, on drawn features."""
    notes = []
    base = {"N": IMAGES // 2, "C": CLASSES, "k": K}
    for name, sizes in (("N", (12_500, 25_000, 50_000)), ("C", (10, 30, 100)), ("k", (2, 8, 32))):
        for size in sizes:
            now = {**base, name: size}
            x, labels = drawn(now["N"], FEATURES, now["C"])
            seconds, product, steps = refitted(x, labels, now["C"], now["k"], repeats)
            what = ", ".join(f"{key} = {value:,}" for key, value in now.items())
            notes.append(
                f"refit, {what}: {seconds:.2f} s, {steps} evaluations, {seconds / product:.0f} products of "
                f"{1e3 * product:.1f} ms"
            )
    return notes


def refitted(x: Tensor, labels: Tensor, classes: int, k: int, repeats: int) -> tuple[float, float, int]:
    """Seconds of a refit and of a product of the features with a head, and the refit's evaluations."""
    from decompose_cli.sparse.problem import Problem
    from decompose_cli.sparse.refit import refit

    def fit() -> Any:
        return refit(Problem(x, labels, classes), by_means(x, labels, classes, k), L2)

    seconds, found = timed(f"a refit, {len(x)} x {classes}, k = {k}", fit, repeats)
    weight = found.head[:, :-1].to(x.dtype).t().contiguous()
    product, _ = timed("a product", lambda: x @ weight, 10 * repeats)
    return seconds, product, found.steps


def by_means(x: Tensor, labels: Tensor, classes: int, k: int) -> Tensor:
    """The k features of every class whose mean is furthest above that of all images, bool (C, D)."""
    import torch

    sums = torch.zeros(classes, x.shape[1]).index_add_(0, labels, x)
    means = sums / labels.bincount(minlength=classes)[:, None]
    chosen = (means - x.mean(0)).topk(k, dim=1).indices
    return torch.zeros_like(means, dtype=torch.bool).scatter_(1, chosen, True)


def of_large(process: common.Process) -> list[common.Line]:
    found = json.loads(process.output)
    images, width, classes, k = LARGE
    what = f"refit, {images:,} x {width}, {classes} classes, k = {k}"
    detail = f"{found['steps']} evaluations, bound {found['bound']:.1e}; {found['products']:.0f} products of its size"
    beyond = process.peak_mb - images * width * 4 / 1e6
    return [
        common.Line(what, found["seconds"], LARGE_GOAL, at_least=False, detail=detail, unit=" s"),
        common.Line("the same, peak memory beyond the features", beyond, LARGE_MEMORY_GOAL, at_least=False, unit=" MB"),
    ]


def refit_large() -> None:
    """Runs by itself, so that its memory is measured alone."""
    from decompose_cli.sparse.problem import Problem
    from decompose_cli.sparse.refit import refit

    images, width, classes, k = LARGE
    x, labels = drawn(images, width, classes)
    start = time.perf_counter()
    fit = refit(Problem(x, labels, classes), by_means(x, labels, classes, k), L2)
    seconds = time.perf_counter() - start
    weight = fit.head[:, :-1].float().t().contiguous()
    product, _ = timed("a product", lambda: [part @ weight for part in x.split(4096)], 3)
    bound = fit.bound / fit.objective
    print(json.dumps({"seconds": seconds, "steps": fit.steps, "bound": bound, "products": seconds / product}))


def apart_large() -> None:
    """What else a run does at that size, each by itself, on as many images as it takes."""
    import torch

    from decompose_cli.decomposition.index_set import IndexSet
    from decompose_cli.decomposition.sparse_heads import strength_for
    from decompose_cli.decomposition.sparse_search import MOST_PRODUCTS
    from decompose_cli.features.labelled import LabelledFeatures
    from decompose_cli.sparse.measures import measure
    from decompose_cli.sparse.problem import Problem
    from decompose_cli.sparse.refit import refit
    from decompose_cli.sparse.splicing import splice

    images, width, classes, k = LARGE
    x, labels = drawn(images, width, classes)
    count = MOST_PRODUCTS // (width * classes)
    some, truth, other = x[:count], labels[:count], slice(count, count + count // 4)
    support, others = by_means(some, truth, classes, k), (x[other], labels[other])
    rows = tuple(tuple(row.nonzero()[:, 0].tolist()) for row in support)
    data = LabelledFeatures(some, truth, None, list(map(str, range(classes))))
    problem, notes = Problem(some, truth, classes), []
    for what, job in (
        (f"full head on {images:,} images", lambda: refit(Problem(x, labels, classes), torch.ones_like(support), L2)),
        (
            f"strength at a support, {count:,} images",
            lambda: strength_for(data, IndexSet(rows), *others),
        ),
        (f"splicing, {count:,} images", lambda: splice(problem, [support], L2)),
        ("measures, 50,000 images", lambda: measure(x, labels, support)),
    ):
        seconds, _ = timed(what, job, 1)
        notes.append(f"{what}, {width} features, {classes} classes, k = {k}: {seconds:.0f} s")
    print(json.dumps(notes))


# -------------------------------------------------------------------------------------------------------------- inputs


def features() -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None, str]:
    """Features, labels, those of test images where there are any, and what they are."""
    if not os.environ.get("DECOMPOSE_REFERENCE_DIR"):
        return *drawn(IMAGES, FEATURES, CLASSES), None, "drawn features, float32"
    import decompose_cli as dc

    with tempfile.TemporaryDirectory() as name:
        inputs = common.make_inputs(Path(name), train=IMAGES, test=10_000)
        common.say("computing the features")
        network = dc.load_model("resnet20", inputs.weights)
        found, test = (
            dc.extract_features(network, dc.load_dataset("cifar10", split, data_dir=inputs.data))
            for split in ("train", "test")
        )
        return found.values, found.labels, (test.values, test.labels), f"features of {inputs.description}"


def drawn(images: int, width: int, classes: int) -> tuple[Tensor, Tensor]:
    """Rectified features of which every class raises a few, float32, made in blocks."""
    import torch

    generator = torch.Generator().manual_seed(0)
    raised = torch.rand(classes, width, generator=generator) < max(0.05, 4 / width)
    centres = torch.randn(classes, width, generator=generator) * raised
    labels = torch.arange(images) % classes
    x = torch.empty(images, width)
    for start in range(0, images, 4096):
        part = x[start : start + 4096]
        part.normal_(generator=generator).mul_(0.7).add_(centres[labels[start : start + 4096]]).relu_()
    return x, labels


def timed(what: str, job: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The median seconds of a job, and its result."""
    seconds, result = [], None
    for number in range(repeats):
        common.say(f"run {number + 1} of {repeats}: {what}")
        start = time.perf_counter()
        result = job()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


if __name__ == "__main__":
    if sys.argv[1:2] == ["--refit-large"]:
        refit_large()
    elif sys.argv[1:2] == ["--apart-large"]:
        apart_large()
    else:
        main()
