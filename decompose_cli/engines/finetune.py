"""``finetune``: restore the accuracy of a decomposed network by training it further."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from decompose_cli.decomposition.heads import (
    check_index_request,
    check_made_from,
    of_studied_classes,
    own_index_set,
    resolve_heads,
    with_decomposed_head,
)
from decompose_cli.decomposition.index_set import IndexSet, index_set_from_json, read_index_set
from decompose_cli.decomposition.metrics import Evaluation, evaluate_head
from decompose_cli.decomposition.prediction_tables import add_heads, table_of
from decompose_cli.decomposition.ranking import RANKINGS, check_order, data_for, select
from decompose_cli.decomposition.refitting import Refitting, settle
from decompose_cli.decomposition.result_types import difference_of
from decompose_cli.decomposition.sizes import check_k
from decompose_cli.decomposition.sparse_heads import fit_head
from decompose_cli.errors import InputError, param
from decompose_cli.features.labelled import Order
from decompose_cli.features.study import Inputs, Study
from decompose_cli.messages import note
from decompose_cli.models.checkpoint import Checkpoint, Metadata
from decompose_cli.models.copying import copied
from decompose_cli.models.decomposed import DecomposedLinear
from decompose_cli.models.network import check_head_stays
from decompose_cli.models.new_head import NewHead
from decompose_cli.models.passing_maps import find_place
from decompose_cli.models.sparse_record import SparseRecord
from decompose_cli.models.tracing import varied_images
from decompose_cli.models.weights import RANDOM
from decompose_cli.printable import counted
from decompose_cli.processes.team import on_first
from decompose_cli.reporting.predictions import PredictionTable
from decompose_cli.storage.result_document import ResultDocument, Stopwatch
from decompose_cli.training.config import shown_command
from decompose_cli.training.data import check_trainable, divide, never_held_out
from decompose_cli.training.diversity import DiversityObjective
from decompose_cli.training.evaluate import LabelledImages, evaluate, score_of
from decompose_cli.training.finetune_results import FinetuneResults, RepeatedFinetuning
from decompose_cli.training.finetune_settings import FinetuneConfig
from decompose_cli.training.finetune_settings import FinetuneSettings as FinetuneSettings
from decompose_cli.training.freezing import Trained, freeze
from decompose_cli.training.full_head_control import full_head_control
from decompose_cli.training.job import Job
from decompose_cli.training.learnable import check_learns
from decompose_cli.training.objective import Objective
from decompose_cli.training.outcome import spread
from decompose_cli.training.recipes import LARGEST_SMALL_SIDE, RECIPES, check_for_any_images
from decompose_cli.training.run_folder import RunFolder
from decompose_cli.training.runner import Files, Finished, Training, run_training, with_best_weights
from decompose_cli.training.session import Request, Session
from decompose_cli.training.settings import Settings
from decompose_cli.training.transfer import check_transfer, fitted_new_head, offering_new_head, part_to_fit
from decompose_cli.training.unchanged import check_same, check_same_images


def finetune(request: Request, settings: FinetuneSettings | None = None) -> ResultDocument[Any]:
    """Replace the head by one subspace per class and train the network further.

    Args:
        request: The network, the images, how it is trained, and where the run is kept.
        settings: How the network is decomposed, and what of it is trained.

    Returns:
        A document with :class:`FinetuneResults`, or :class:`RepeatedFinetuning` where several runs were asked for.

    Raises:
        InputError: Something given cannot be used; nothing has been changed.
        StoppedError: A signal came; the run can be resumed.
        DecomposeError: The work failed; the last checkpoint is still there.
    """
    return finetuned(request, settings)[0]


def finetuned(request: Request, settings: FinetuneSettings | None = None) -> tuple[ResultDocument[Any], nn.Module]:
    """The same, and the decomposed network that training began with, which takes the weights of its checkpoints."""
    settings = settings or FinetuneSettings()
    given = settings.indices
    index_set = read_index_set(given) if isinstance(given, Path) else given
    request = dataclasses.replace(request, choices=settings.choices(index_set))
    training = _Finetune(request, index_set, settings)
    document = run_training(training, request)
    if settings.predictions:
        document.results._predictions = training.said()
    return document, training.start


class _Finetune(Training[FinetuneResults]):
    command = "finetune"
    config = FinetuneConfig
    results = FinetuneResults

    def __init__(self, request: Request, index_set: IndexSet | None, settings: FinetuneSettings) -> None:
        self._overrides, self._index_set, self._settings = request.overrides, index_set, settings
        self._measured_heads: dict[str, Evaluation] = {}

    def said(self) -> PredictionTable:
        """What each head that was measured says of each test image."""
        return add_heads(table_of(self._test), {"full": self._original, **self._measured_heads})

    @override
    def configure(self, inputs: Inputs) -> tuple[Inputs, Settings, Mapping[str, Any]]:
        if inputs.split is not None:
            raise InputError(f"{param('split')} has no effect: training images are trained on, test images measured.")
        plan = partial(self._settings.of_training, self._overrides)
        check_for_any_images(plan)
        study = Study(inputs, ("test", "val"))
        is_new = self._settings.new_head
        checkpoint = None if is_new else study.classifier.checkpoint
        own = checkpoint is not None and checkpoint.has_decomposed_head
        if own and self._settings.ranks:
            raise InputError(
                f"{study.classifier.weights_source} is decomposed already, so there is nothing to rank: leave "
                f"{param('k')}, {param('method')} and {param('order')} out."
            )
        if own and self._settings.refit:
            raise InputError(
                f"{study.classifier.weights_source} is decomposed already and has weights of its own: leave "
                f"{param('refit')} out."
            )
        given = self._index_set
        check_index_request(checkpoint, given)
        if self._settings.refit and not is_new:
            study.require_full_head(param("refit"))
        if self._settings.full_head_control and not is_new:
            study.require_full_head(param("full_head_control"), in_network=True)
        check_transfer({"new_head": is_new}, None if inputs.weights == RANDOM else study.classifier.weights_source)
        settings = plan(max(study.preprocessing.crop) > LARGEST_SMALL_SIDE, study.dataset.name)
        check_trainable(study.inputs, study.dataset.name)
        ranking = None if own or given is not None else self._settings.ranking()
        choices = {
            "recipe": "finetune",
            "indices": None if given is None else given.published_layout(),
            "indices_source": None if given is None else given.source,
            "ranking": ranking,
            "only": self._settings.only or "all",
            "refit": self._settings.refit,
            "l2": self._settings.l2,
            "diversity": float(self._settings.diversity or 0),
            "new_head": is_new,
            "full_head_control": self._settings.full_head_control,
            "starting_weights": study.classifier.weights_sha256,
            "class_map_entries": study.stated_classes,
            "training_images": study.on_training_split().dataset.fingerprint(),
        }
        filled = dataclasses.replace(inputs, model=study.classifier.name, dataset=study.dataset.name)
        return filled, settings, choices

    @override
    def open(self, session: Session) -> None:
        config = session.config
        note(f"Recipe {config['recipe']} ({RECIPES['finetune'].source}): {session.settings.shown()}")
        test = Study(session.inputs, ("test", "val"))
        train = test.on_training_split()
        check_same(session, starting_weights=test.classifier.weights_sha256, class_map_entries=test.stated_classes)
        check_same_images(session, train.dataset)
        self._new_head: Refitting | None = None
        if config["new_head"]:
            test, train = self._with_new_head(session, test, train)
        else:
            with offering_new_head():
                _ = test.class_map
        index_set = self._index_set
        if index_set is None and config["indices"] is not None:  # a run that goes on has them in its configuration
            known = str(config["indices_source"]), test.head.num_features
            index_set = index_set_from_json(config["indices"], *known)
        if index_set is not None:
            index_set = of_studied_classes(index_set, test)
        checkpoint = None if config["new_head"] else test.classifier.checkpoint
        own = checkpoint is not None and checkpoint.has_decomposed_head
        given = index_set

        def decide() -> tuple[IndexSet | None, Evaluation | None]:
            """The index set, and how the full head does; the other processes help where the network runs."""
            index_set = _ranked(train, **config["ranking"]) if given is None and not own else given
            check_index_request(checkpoint, index_set)
            if index_set is not None:
                check_made_from(index_set, test.classifier)
            full, original = resolve_heads(test.head, index_set).original, None
            if full is not None:
                features, classes = test.bank.features, test.head.num_classes
                original = evaluate_head(full, features, test.labels, classes, device=test.device)
            return index_set, original

        index_set, original = on_first(session.fabric, decide)
        for study in (test, train):
            study.release()
        heads = resolve_heads(test.head, index_set)
        assert heads.decomposed is not None
        network = test.classifier.load(test.preprocessing.crop)
        module = copied(network.module).float()
        if not network.is_decomposed:
            with_decomposed_head(module, network.head, heads.decomposed)
        check_learns(module, test.classifier.name, network.input_size)
        check_head_stays(module, network.head.name, network.input_size, test.classifier.name)
        kept_whole = test.classifier.kept_whole
        used = index_set or own_index_set(test.head, test.classifier.weights_source, kept_whole)
        self._sparse = self._still_true(checkpoint, config["only"])
        self._test, self._train, self.start = test, train, module
        self._head = network.head
        self._place = None
        if config["diversity"]:
            images = varied_images(network.input_size, network.module)
            self._place = find_place(network.module, network.head.module, images)
            if self._place is None:
                raise InputError(
                    f"{param('diversity')} needs features that are means of maps over positions, and those of "
                    f"{test.classifier.name} are not."
                )
        self._used, self._original = used, original
        self._held = LabelledImages(test.dataset.split, test.dataset, test.labels, test.preprocessing)

    def _with_new_head(self, session: Session, test: Study, train: Study) -> tuple[Study, Study]:
        """The same images with a network whose head is fitted for their classes."""
        plain = test.classifier

        def studies(new: NewHead) -> tuple[Study, Study]:
            classifier = plain.with_new_head(new)
            return Study(session.inputs, ("test", "val"), classifier), Study(session.inputs, ("train",), classifier)

        first = NewHead(tuple(train.dataset.class_names), session.settings.seed)
        of, share, seed, l2 = studies(first), session.settings.val_split, session.settings.seed, session.config["l2"]
        seeds = range(seed, seed + session.config["runs"])
        new, self._new_head = on_first(
            session.fabric, lambda: fitted_new_head(*of, l2, never_held_out(of[1].labels, share, seeds))
        )
        return studies(new)

    @override
    def job(self, session: Session, settings: Settings) -> Job:
        test, train, config = self._test, self._train, session.config
        names = test.class_map.names
        data = divide(
            train.dataset,
            train.labels,
            self._held,
            names,
            test.preprocessing,
            val_split=settings.val_split,
            seed=settings.seed,
        )
        entry = test.classifier.entry
        options = ",".join(f"{name}={value}" for name, value in (config["model_options"] or {}).items())
        own = {"indices": config["indices_source"], **(config["ranking"] or {}), "only": config["only"]}
        own |= {"refit": config["refit"] or None, "l2": config["l2"], "diversity": config["diversity"] or None}
        own |= {"model_options": options or None, "new_head": config["new_head"] or None}
        metadata = Metadata(
            model=entry.name,
            **train.described_classes(),
            dataset=config["dataset"],
            **test.preprocessing.described(),
            model_options=dict(entry.chosen) or None,
            command=shown_command(config, settings.seed, own),
        )
        module = copied(self.start)
        self._cut, self._refitting = None, None
        if config["refit"]:
            self._cut = self._measured(session, module)
            refitted, self._refitting = on_first(session.fabric, lambda: self._refitted(data.indices, config["l2"]))
            with_decomposed_head(module, self._head, refitted)
        name = self._head.name
        frozen = freeze(module, name, config["only"], test.preprocessing.crop)
        objective: Objective | None = None
        if self._place is not None:
            head = module.get_submodule(name)
            assert isinstance(head, DecomposedLinear)
            objective = DiversityObjective(settings.label_smoothing, config["diversity"], head, self._place)
        self._before = self._measured(session, module)
        if self._original is not None:
            split = self._held.split
            note(f"Full head: {self._original.correct:,} of {counted(self._original.total, f'{split} image')} correct.")
        if self._cut is not None:
            note(f"Decomposed, with the weights of the full head: {self._cut.correct:,} of {self._cut.total:,}.")
        note(f"Decomposed, before fine-tuning: {self._before.correct:,} of {self._before.total:,}.")
        return Job(module, metadata, data, frozen, objective, self._rows_held(name), self._sparse)

    def _rows_held(self, head: str) -> dict[str, Tensor]:
        """The rows of the head of classes without images, which no image speaks for, so that they stay as they are."""
        is_held = torch.zeros(self._used.num_classes, dtype=torch.bool)
        is_held[sorted(self._used.whole)] = True
        if not bool(is_held.any()):
            return {}
        note(
            f"The rows of {counted(len(self._used.whole), 'class', 'classes')} without training images stay as "
            "they are."
        )
        return {f"{head}.{name}": is_held for name in ("weight", "bias")}

    def _refitted(self, images: Tensor, l2: float | None) -> tuple[DecomposedLinear, Refitting]:
        """The head with weights fitted to these training images, and how they were fitted."""
        data = part_to_fit(self._train.labelled().for_fits(), images, self._train.inputs.seed)
        refitting, _ = settle(self._test, data, lambda _: self._used, l2)
        self._train.release()
        return fit_head(data, self._used, "real", refitting.l2).linear(), refitting

    @staticmethod
    def _still_true(checkpoint: Checkpoint | None, only: Trained) -> SparseRecord | None:
        """What a sparse checkpoint says of its head that still holds after training; what does not is said."""
        record = checkpoint.sparse if checkpoint is not None else None
        if checkpoint is None or record is None:
            return None
        kept = record.without_dense() if only == "backbone" else None
        lost = "the dense head" if record.values is None or kept is not None else "the dense head and the few values"
        note(f"The checkpoints of this run leave out {lost} of {checkpoint.source}; the result keeps their accuracy.")
        return kept

    def _measured(self, session: Session, module: nn.Module) -> Evaluation:
        device = session.fabric.device
        count = len(self._test.class_map.names)
        module = module.to(device)
        how: dict[str, Any] = {"batch_size": session.images_at_once, "workers": session.workers}

        def work() -> Evaluation:
            return evaluate(module, self._held, num_classes=count, device=device, **how)

        return on_first(session.fabric, work)

    @property
    @override
    def title(self) -> str:
        return f"{self._test.classifier.entry.name} on {self._train.dataset.name}, decomposed"

    @override
    def finish(
        self, session: Session, folder: RunFolder, settings: Settings, trained: Finished, files: Files
    ) -> FinetuneResults:
        results, job, module = trained
        after = self._measured(session, with_best_weights(module, results, folder))
        original, split = self._original, self._held.split
        which = f"_seed{settings.seed}" if session.config["runs"] > 1 else ""
        self._measured_heads |= {f"before{which}": self._before, f"after{which}": after}
        control = None
        if session.config["full_head_control"]:
            assert original is not None  # a full head is required
            network, name = self._test.classifier.load(self._test.preprocessing.crop).module, self._head.name
            control, found = full_head_control(
                session,
                folder,
                settings,
                job,
                network,
                name,
                self._rows_held(name),
                lambda module: self._measured(session, module),
                (original, after),
                split,
            )
            self._measured_heads[f"full_trained{which}"] = found
        return FinetuneResults(
            **dict(results),
            control=control,
            original=score_of(original, split) if original is not None else None,
            new_head=self._new_head,
            cut=score_of(self._cut, split) if self._cut is not None else None,
            refitting=self._refitting,
            before=score_of(self._before, split),
            after=score_of(after, split),
            difference=None if original is None else difference_of(original, after, self._test.class_map.names),
            indices=self._used.source,
            features_per_class=self._used.sizes,
        )

    @override
    def together(self, runs: Sequence[FinetuneResults]) -> FinetuneResults | RepeatedFinetuning:
        if len(runs) == 1:
            return runs[0]
        what = f"{runs[0].after.split} top1 after fine-tuning"
        summary = [spread(what, [run.after.top1 for run in runs])]
        if controls := [run.control.score.top1 for run in runs if run.control is not None]:
            summary.append(spread(f"{runs[0].after.split} top1 of the full head, trained too", controls))
        return RepeatedFinetuning(runs=list(runs), summary=summary)

    @override
    def document(self, session: Session, results: Any, watch: Stopwatch) -> ResultDocument[Any]:
        whole = self._test.document("finetune", {}, results, watch, [self._train])
        whole.arguments = {**whole.arguments, **session.config}
        return whole


def _ranked(train: Study, k: int | float, method: str, order: Order) -> IndexSet:
    """The index set that a ranking over the training images makes."""
    check_order(order, uses_gates=RANKINGS[method].needs_gates)
    check_k(k, train.head.num_features)
    index_set = select(data_for(train, [method], order), method, k)
    note(f"{counted(k, 'feature')} per class by {method}, ranked over {counted(len(train.labels), 'image')}.")
    return index_set
