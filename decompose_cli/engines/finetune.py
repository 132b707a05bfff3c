"""``finetune``: restore the accuracy of a decomposed network by training it further."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel
from torch import nn

from decompose_cli.decomposition.heads import check_index_request, check_made_from, resolve_heads, with_decomposed_head
from decompose_cli.decomposition.index_set import IndexSet, read_index_set
from decompose_cli.decomposition.metrics import Evaluation, evaluate_head
from decompose_cli.decomposition.ranking import DEFAULT_K, RANKINGS, check_k, check_order, data_for, select
from decompose_cli.decomposition.result_types import Difference, difference_of
from decompose_cli.errors import InputError
from decompose_cli.features.labelled import Order
from decompose_cli.features.study import Inputs, Study
from decompose_cli.models.checkpoint import Metadata
from decompose_cli.models.gate_kinds import GATES
from decompose_cli.models.gated_resnet import GatedNetwork
from decompose_cli.models.head import trace_layers
from decompose_cli.progress import note
from decompose_cli.reporting.training_plots import training_curves
from decompose_cli.storage.files import write_files
from decompose_cli.storage.result_document import ResultDocument, Stopwatch
from decompose_cli.training.config import RunConfig, shown_command
from decompose_cli.training.data import check_trainable, divide
from decompose_cli.training.devices import on_first
from decompose_cli.training.evaluate import LabelledImages, evaluate, score_of
from decompose_cli.training.outcome import RunResults, Spread, spread
from decompose_cli.training.recipes import LARGEST_SMALL_SIDE, RECIPES, resolve
from decompose_cli.training.records import Score, curves
from decompose_cli.training.run_folder import RunFolder, read_state
from decompose_cli.training.seeds import repeated
from decompose_cli.training.session import Job, Request, Session, check_same, opened, train_job
from decompose_cli.training.settings import Settings
from decompose_cli.training.setup import copied

Trained = Literal["all", "head", "head+last-block"]
TRAINED: tuple[Trained, ...] = ("all", "head", "head+last-block")


class FinetuneConfig(RunConfig):
    """``indices``: in the published layout, with the file they came from; else ``ranking``: how they were found.

    ``only``: what is trained. ``starting_weights``: SHA-256 of the original network's.
    """

    indices: dict[str, list[int]] | None
    indices_source: str | None
    ranking: dict[str, Any] | None
    only: Trained
    starting_weights: str


class FinetuneResults(RunResults):
    """``original``: the full head (null where the checkpoint has none); ``before``: decomposed, not yet trained.

    ``after``: the network of ``checkpoints``, ``best`` if there is one, else ``last``. ``difference``: after minus
    original. All on the same test images, which chose nothing. ``features_per_class``: smallest and largest.
    """

    original: Score | None
    before: Score
    after: Score
    difference: Difference | None
    indices: str
    features_per_class: tuple[int, int]


class RepeatedFinetuning(BaseModel):
    """The same fine-tuning with several seeds."""

    runs: list[FinetuneResults]
    summary: list[Spread]


@dataclass(frozen=True)
class Decomposition:
    """How the network is decomposed, where there is no index file.

    Attributes:
        k: Features per class, or a fraction.
        method: How features are scored.
        order: Which gates the method ``csg`` takes.
    """

    k: int | float = DEFAULT_K
    method: str = "frequency"
    order: Order = "highest"


@dataclass(frozen=True)
class _Opened:
    """The network, its heads, and the images."""

    test: Study
    train: Study
    module: nn.Module
    head_name: str
    index_set: IndexSet
    original: Evaluation | None


def finetune(
    request: Request,
    *,
    indices: Path | IndexSet | None = None,
    decomposition: Decomposition | None = None,
    only: Trained | None = None,
) -> ResultDocument[Any]:
    """Replace the head by one subspace per class and train the network further.

    Args:
        request: Which network, which images, how, and where the run is kept.
        indices: An index file or set. Without it the features are ranked first.
        decomposition: How they are ranked.
        only: What is trained: ``all`` parameters, the ``head``, or ``head+last-block``.

    Returns:
        A document with :class:`FinetuneResults`, or :class:`RepeatedFinetuning` where several runs were asked for.

    Raises:
        InputError: Something given cannot be used; nothing has been changed.
        StoppedError: A signal came; the run can be resumed.
        DecomposeError: The work failed; the last checkpoint is still there.
    """
    watch = Stopwatch()
    if indices is not None and decomposition is not None:
        raise InputError("With an index file there is nothing to rank: leave -k, --method and --order out.")
    index_set = read_index_set(indices) if isinstance(indices, Path) else indices
    choices: dict[str, Any] = {}
    if index_set is not None:
        choices["indices"] = index_set.published_layout()
    if decomposition is not None:
        choices["ranking"] = dataclasses.asdict(decomposition)
    if only is not None:
        choices["only"] = only
    request = dataclasses.replace(request, choices=choices)

    def configure(inputs: Inputs) -> tuple[Inputs, Settings, Mapping[str, Any]]:
        return _configure(inputs, request, index_set, decomposition, only)

    with opened("finetune", request, configure, FinetuneConfig) as session:
        config = session.config
        note(f"Recipe {config['recipe']} ({RECIPES['finetune'].source}): {session.settings.shown()}")
        found = _open(session, index_set)

        def run(folder: RunFolder, settings: Settings) -> FinetuneResults:
            return _run(session, found, folder, settings)

        def document(results: Any) -> ResultDocument[Any]:
            whole = found.test.document("finetune", {}, results, watch, [found.train])
            whole.arguments = {**whole.arguments, **config}
            return whole

        def write(path: Path, results: FinetuneResults) -> None:
            document(results).write(path)

        runs = repeated(session, run, FinetuneResults, write)
        results = runs[0] if len(runs) == 1 else RepeatedFinetuning(runs=runs, summary=_summary(runs))
        whole = on_first(session.fabric, lambda: document(results))
        on_first(session.fabric, lambda: whole.write(session.folder.result))
    return whole


def _configure(
    inputs: Inputs,
    request: Request,
    index_set: IndexSet | None,
    decomposition: Decomposition | None,
    only: Trained | None,
) -> tuple[Inputs, Settings, Mapping[str, Any]]:
    if inputs.split is not None:
        raise InputError("--split has no effect here: training images are trained on, test images measured.")
    study = Study(inputs, ("test", "val"))
    checkpoint = study.classifier.checkpoint
    own = checkpoint is not None and checkpoint.has_decomposed_head
    if own and decomposition is not None:
        raise InputError(
            f"{study.classifier.weights_source} is decomposed already, so there is nothing to rank: leave -k, --method "
            "and --order out."
        )
    check_index_request(checkpoint, index_set)
    is_large = max(study.preprocessing.crop) > LARGEST_SMALL_SIDE
    settings = resolve("finetune", request.overrides, large_images=is_large, dataset=study.dataset.name)
    weights = inputs.weights
    filled = dataclasses.replace(inputs, model=study.classifier.name, dataset=study.dataset.name, weights=weights)
    check_trainable(study.dataset.name)
    ranking = None if own or index_set is not None else dataclasses.asdict(decomposition or Decomposition())
    return (
        filled,
        settings,
        {
            "recipe": "finetune",
            "indices": None if index_set is None else index_set.published_layout(),
            "indices_source": None if index_set is None else index_set.source,
            "ranking": ranking,
            "only": only or "all",
            "starting_weights": study.classifier.weights_sha256,
            "training_images": study.on_training_split().dataset.fingerprint(),
        },
    )


def _open(session: Session, given: IndexSet | None) -> _Opened:
    config = session.config
    test = Study(session.inputs, ("test", "val"))
    train = test.on_training_split()
    check_same(
        session,
        starting_weights=test.classifier.weights_sha256,
        training_images=train.dataset.fingerprint(),
    )
    index_set = given
    if index_set is None and config["indices"] is not None:  # of a run that goes on
        rows = tuple(tuple(config["indices"][str(number)]) for number in range(len(config["indices"])))
        index_set = IndexSet(rows, source=str(config["indices_source"]))
    checkpoint = test.classifier.checkpoint
    own = checkpoint is not None and checkpoint.has_decomposed_head
    if index_set is None and not own:
        ranking = config["ranking"]
        check_order(ranking["order"], uses_gates=RANKINGS[ranking["method"]].needs_gates)
        check_k(ranking["k"], train.head.num_features)
        index_set = select(data_for(train, [ranking["method"]], ranking["order"]), ranking["method"], ranking["k"])
        note(f"{ranking['k']} features per class by {ranking['method']}, ranked over {len(train.labels):,} images.")
    check_index_request(checkpoint, index_set)
    if index_set is not None:
        check_made_from(index_set, test.classifier)
    heads = resolve_heads(test.head, index_set)
    assert heads.decomposed is not None
    classes = test.head.num_classes
    original = None
    if heads.original is not None:
        original = evaluate_head(heads.original, test.bank.features, test.labels, classes)
    network = test.classifier.load(test.preprocessing.crop)
    module = copied(network.module)
    if network.head is not None:
        with_decomposed_head(module, network.head, network.head_name, heads.decomposed)
    used = index_set or IndexSet(
        heads.decomposed.classes(), test.head.num_features, source=test.classifier.weights_source
    )
    return _Opened(test, train, module, network.head_name, used, original)


def _run(session: Session, found: _Opened, folder: RunFolder, settings: Settings) -> FinetuneResults:
    test, train, config = found.test, found.train, session.config
    device = session.fabric.device
    names = test.class_map.names
    held = LabelledImages(test.dataset.split, test.dataset, test.labels, test.preprocessing)
    data = divide(
        train.dataset,
        train.labels,
        held,
        names,
        test.preprocessing,
        val_split=settings.val_split,
        seed=settings.seed,
    )
    entry = test.classifier.entry
    metadata = Metadata(
        model=entry.name,
        num_classes=len(names),
        class_names=list(names),
        dataset=config["dataset"],
        **test.preprocessing.described(),
        model_options=dict(entry.chosen) or None,
        command=shown_command(config, settings.seed),
    )
    module = copy.deepcopy(found.module)
    frozen = _freeze(module, found.head_name, config["only"], test.preprocessing.crop)

    def measured(network: nn.Module) -> Evaluation:
        return evaluate(network.to(device), held, num_classes=len(names), device=device, workers=session.workers)

    before = measured(module)
    split = held.split
    if found.original is not None:
        note(f"Full head: {found.original.correct:,} of {found.original.total:,} {split} images correct.")
    note(f"Decomposed, before fine-tuning: {before.correct:,} of {before.total:,}.")
    results, network = train_job(session, folder, settings, Job(module, metadata, data, frozen))
    title = f"{entry.name} on {train.dataset.name}, decomposed, seed {settings.seed}"
    on_first(session.fabric, lambda: write_files({folder.curve: training_curves(title, **curves(results.epochs))}))
    if results.best is not None:
        network = copy.deepcopy(network)
        network.load_state_dict(read_state(folder.best)["state_dict"])
    after = measured(network)
    sizes = [len(row) for row in found.index_set.classes]
    return FinetuneResults(
        **dict(results),
        original=score_of(found.original, split) if found.original is not None else None,
        before=score_of(before, split),
        after=score_of(after, split),
        difference=difference_of(found.original, after) if found.original is not None else None,
        indices=found.index_set.source,
        features_per_class=(min(sizes), max(sizes)),
    )


def _freeze(module: nn.Module, head_name: str, only: Trained, size: tuple[int, int]) -> list[nn.Module]:
    """Leave only a part to be trained; returns what has to stay in evaluation mode, so that no statistics move."""
    if only == "all":
        _hold_classifiers_of_gates(module)
        return []
    kept = {head_name}
    if only == "head+last-block":
        block = _last_block(module, head_name, size)
        kept.add(block)
        note(f"Trained: {head_name} and {block}.")
    trained = [module.get_submodule(name) for name in kept]
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    for part in trained:
        for parameter in part.parameters():
            parameter.requires_grad_(True)
    inside = {id(child) for part in trained for child in part.modules()}
    return [child for child in module.modules() if id(child) not in inside and not list(child.children())]


def _hold_classifiers_of_gates(module: nn.Module) -> None:
    """They learn from a loss of their own, which is that of ``train-gate``; here they stay as they are."""
    if not isinstance(module, GatedNetwork):
        return
    if GATES[module.gate_name].penalty:
        note("The penalty of the gates, which keeps g small, is no part of the loss here.")
    if not GATES[module.gate_name].has_classifier:
        return
    for gate in module.gates():
        gate.requires_grad_(False)
    note("The classifiers of the gates stay as they are.")


def _last_block(module: nn.Module, head_name: str, size: tuple[int, int]) -> str:
    """The last block that finishes before the head: a module of several layers that is no mere sequence of others."""
    _, calls = trace_layers(module, torch.zeros(2, 3, *size))
    before = [
        call for call in calls if not f"{head_name}.".startswith(f"{call.name}.") and list(call.module.parameters())
    ]
    blocks = [call for call in before if list(call.module.children()) and not isinstance(call.module, nn.Sequential)]
    chosen = blocks or [call for call in before if not list(call.module.children())]
    if not chosen:
        raise InputError("The network has no layer before its head; use --only head.")
    return chosen[-1].name


def _summary(runs: list[FinetuneResults]) -> list[Spread]:
    return [spread(f"{runs[0].after.split} top1 after fine-tuning", [run.after.top1 for run in runs])]
