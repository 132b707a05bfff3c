"""``sparsify``: heads with a few features per class, chosen and fitted anew on the features of a frozen network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from decompose_cli.decomposition.choosing import say_part
from decompose_cli.decomposition.heads import decomposed_head, full_head
from decompose_cli.decomposition.index_set import index_set_text
from decompose_cli.decomposition.metrics import Predictions, evaluate_head, predict
from decompose_cli.decomposition.prediction_tables import add_heads
from decompose_cli.decomposition.result_types import point_of, warn_of_halved
from decompose_cli.decomposition.sparse_files import FileSource
from decompose_cli.decomposition.sparse_heads import SparseHead, as_full
from decompose_cli.decomposition.sparse_methods import used_in
from decompose_cli.decomposition.sparse_results import (
    Baseline,
    Few,
    Nec,
    SearchedOn,
    Smallest,
    Sparse,
    SparsifyResults,
    Tried,
    Versus,
    measures_of,
    rows_of,
    versus,
    weights_of,
)
from decompose_cli.decomposition.sparse_search import Candidate, Search, best_of
from decompose_cli.decomposition.sparse_settings import SparsifySettings
from decompose_cli.decomposition.sparse_sources import NetworkSource, Source
from decompose_cli.errors import DecomposeError, first_few, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.messages import note
from decompose_cli.models.bias_alone import say_bias_alone
from decompose_cli.printable import counted
from decompose_cli.reporting.predictions import PredictionTable
from decompose_cli.sparse.cuts import nearest_the_mean
from decompose_cli.sparse.measures import NEC, measure, nec
from decompose_cli.sparse.threads import few_threads
from decompose_cli.storage.file_sets import Content, write_result
from decompose_cli.storage.names import RESULT
from decompose_cli.storage.result_document import ResultDocument, Stopwatch

_NEAR = 0.1
"""Share of a number of features by which the mean of a point of the path may be off, to stand for it."""
CHECKPOINT, INDICES = "sparse.safetensors", "indices.json"


def files_of(ks: Sequence[int]) -> list[str]:
    """The names of the files beside the result, for these k."""
    return [f"k{k}/{name}" for k in ks for name in (CHECKPOINT, INDICES)]


def sparsify(
    inputs: Inputs,
    settings: SparsifySettings | None = None,
    *,
    features: Path | None = None,
    folder: Path | None = None,
) -> ResultDocument[SparsifyResults]:
    """Choose features and fit weights on training images, and measure the heads on a split (``test``, else ``val``).

    Args:
        inputs: The network and the images.
        settings: What the heads are like; by default five features per class by the best method.
        features: A file of features that were made elsewhere (:mod:`decompose_cli.features.elsewhere`), in place of a
            network; nothing of the inputs is about one then.
        folder: Gets ``result.json`` and for each k ``k5/sparse.safetensors`` and ``k5/indices.json``, all or none.

    Raises:
        InputError: Something given cannot be used; nothing has been written.
        DecomposeError: The work failed, or no k is within ``max_drop``.
    """
    watch = Stopwatch()
    settings = settings or SparsifySettings()
    source: Source = NetworkSource(inputs, settings) if features is None else FileSource(inputs, features, settings)
    return sparsified(source, settings, inputs.seed, watch, folder=folder)


def sparsified(
    source: Source, settings: SparsifySettings, seed: int, watch: Stopwatch, *, folder: Path | None = None
) -> ResultDocument[SparsifyResults]:
    """The same for features of any source; arguments and errors as for :func:`sparsify`."""
    return found_for(source, settings, seed, watch, folder=folder)[0]


def found_for(
    source: Source, settings: SparsifySettings, seed: int, watch: Stopwatch, *, folder: Path | None = None
) -> tuple[ResultDocument[SparsifyResults], Run]:
    """The same, and the run with its heads."""
    locality = source.locality() if settings.objective == "qpm" and settings.maps else None
    if settings.objective == "qpm" and locality is None:
        why = "the network's features are no means of maps" if settings.maps else "no maps were looked at"
        note(f"The objective is without its term for locality, as {why}.")
    search = Search(source.train, settings, source.choosing, seed=seed, locality=locality)
    with few_threads(source.train.features, source.train.num_classes):
        run = Run(source, settings, search)
    heads = list(run.heads.values())
    diversity = source.local_diversity(heads) if settings.maps else [None] * len(heads)
    with few_threads(source.train.features, source.train.num_classes):
        results = run.results(diversity)
    if settings.predictions:
        results._predictions = run.said()
    contents: dict[Path, Content] = {}
    checks: dict[Path, Callable[[Path], object]] = {}
    if folder is not None:
        for k, head in run.heads.items():
            place, described = folder / f"k{k}", results.heads[str(k)]
            described.checkpoint = str(place / CHECKPOINT)
            contents[place / CHECKPOINT], checks[place / CHECKPOINT] = source.checkpoint(head, run.full)
            provenance = {"method": described.method, "k": k, **source.provenance()}
            index_set = dataclasses.replace(head.index_set, provenance=provenance)
            contents[place / INDICES] = index_set_text(index_set, document=True)
    document = source.document(_arguments(search.settings), results, watch)
    names = document.dataset.classes if document.dataset is not None else ()
    for size, described in results.heads.items():
        if described.versus_original is not None:
            warn_of_halved(described.versus_original, names, f"The head with k = {size}")
    if folder is not None:
        write_result(document, folder / RESULT, contents)
        for path, check in checks.items():
            check(path)
    return document, run


def _arguments(settings: SparsifySettings) -> dict[str, Any]:
    found = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    del found["predictions"]  # it changes no result
    indices = settings.indices
    return {**found, "k": sorted(set(settings.k)), "indices": None if indices is None else indices.source}


@dataclass
class Run:
    """One run: the choices, the heads and the baselines."""

    source: Source
    settings: SparsifySettings
    search: Search

    def __post_init__(self) -> None:
        source, search = self.source, self.search
        if source.choosing is None and search.chosen:
            say_part(
                _as_subject(search.chosen),
                search.chooser,
                len(search.data.labels),
                is_seen=source.full is not None,
                by_rule="strength" in search.chosen,
            )
        fitted = search.chooser.fitted
        if len(search.data.labels) < len(source.train.labels):
            note(
                f"Of the {len(source.train.labels):,} training images {len(search.data.labels):,} take part, drawn by "
                "class: all that is chosen is chosen on these, and weights are fitted on them."
            )
        if search.searched is not search.final:
            note(
                f"Methods are tried on {len(fitted.labels):,} training images, and features are looked for on "
                f"{len(search.searched.data.labels):,}, drawn by class; weights are fitted on all."
            )
        wanted = sorted(set(search.settings.k))
        more = [k for k in NEC if search.can_have(k)] if self.settings.nec else []
        self.found = search.candidates(sorted({*wanted, *more}))
        self.best = {k: best_of(self.found, k) for k in {one.k for one in self.found}}
        self.smallest = self._smallest(wanted) if self.settings.max_drop is not None else None
        if self.smallest is not None:
            wanted = [self.smallest.k]
        self.heads = {k: search.head(self.best[k]) for k in wanted}
        refitted = search.refitted
        self.refitted = refitted.predict(source.features, source.labels, source.train.device)
        self.full = source.full or as_full(refitted)
        self.original = None
        if source.full is not None:
            full = source.full
            device = source.train.device
            self.original = predict(full_head(full), source.features, source.labels, full.num_classes, device)
        self._say_what_is_odd()

    def said(self) -> PredictionTable:
        """What each head says of each image that is reported on."""
        source, device = self.source, self.source.train.device
        heads: dict[str, Callable[[Tensor], Tensor]] = {}
        if source.full is not None:
            heads["full"] = full_head(source.full)
        heads |= {f"k{k}": head.linear() for k, head in self.heads.items()}
        classes, images = self.full.num_classes, (source.features, source.labels)
        found = {name: evaluate_head(head, *images, classes, device) for name, head in heads.items()}
        return add_heads(source.table(), found)

    def _smallest(self, ks: Sequence[int]) -> Smallest:
        limit = self.settings.max_drop
        assert limit is not None
        of_class = self.settings.max_class_drop
        bounds = self.search.bounds(self.best, ks)
        by_class = None if of_class is None else self.search.class_bounds(self.best, ks)
        within = self._those_within(bounds, limit, "")
        if by_class is not None and of_class is not None:
            within = self._those_within({k: by_class[k] for k in within}, of_class, " for every class")
        return Smallest(
            max_drop=limit,
            k=min(within),
            tried={str(k): bound for k, bound in bounds.items()},
            max_class_drop=of_class,
            tried_by_class=None if by_class is None else {str(k): bound for k, bound in by_class.items()},
        )

    def _those_within(self, bounds: Mapping[int, float], limit: float, whose: str) -> list[int]:
        """The k whose bound is within a limit; at least one."""
        within = [k for k, bound in bounds.items() if bound <= limit]
        if not within:
            nearest = min(bounds, key=lambda k: bounds[k])
            raise DecomposeError(
                f"No k of {first_few(bounds)} is within {counted(limit, 'point')} of the full head{whose} on the "
                f"{counted(len(self.search.chooser.labels), 'choosing image')}; k = {nearest} comes nearest, "
                "with a bound of "
                f"{bounds[nearest]:.2f} points.",
                hint=f"Try more features with {param('k')}, or allow more with {param('max_drop')}."
                if not whose
                else f"Allow a class more with {param('max_class_drop')}, or try more features with {param('k')}.",
            )
        return within

    def _say_what_is_odd(self) -> None:
        """Say what a user would not expect: separable images, constant features, classes with their bias alone."""
        data, search = self.search.data, self.search
        right = search.refitted.predict(data.features, data.labels, data.device)
        if right.correct == right.total:
            note(
                "A linear head separates the training images without error, so weights are kept finite by the penalty "
                f"alone (strength {search.refitted_l2:.3g})."
            )
        constant = int((data.features.amin(0) == data.features.amax(0)).sum())
        if constant:
            verb = "is" if constant == 1 else "are"
            note(
                f"{constant} of the {counted(data.num_features, 'feature')} {verb} the same for every training "
                "image: no weight."
            )
        for k, head in self.heads.items():
            say_bias_alone(head.index_set.classes, f"k = {k}")
            if head.values is not None and float(head.values.scale) == 0:
                note(f"k = {k}: no positive scale is better than none, so all weights are 0 and biases decide alone.")

    def results(self, diversity: Sequence[float | None]) -> SparsifyResults:
        """What is known of the heads, with SID@5 of each."""
        source, search = self.source, self.search
        results = SparsifyResults(
            total=len(source.labels),
            original=None if self.original is None else point_of(self.original),
            refitted=Baseline(
                point=point_of(self.refitted),
                l2=search.refitted_l2,
                versus_original=self._versus_original(self.refitted),
            ),
            chosen_on=SearchedOn(
                split="val" if source.choosing is not None else source.train_split,
                images=len(search.chooser.labels),
                fitted=len(search.chooser.fitted.labels),
                part_of_training=source.choosing is None,
                searched=len(search.searched.data.labels),
                fitted_in_the_end=len(search.data.labels),
                chosen=search.chosen,
            ),
            heads={
                str(k): self._described(k, head, sid5)
                for (k, head), sid5 in zip(self.heads.items(), diversity, strict=True)
            },
            smallest=self.smallest,
            nec=self._nec() if self.settings.nec else None,
            locality=search.locality is not None if self.settings.objective == "qpm" else None,
            feature_names=None if source.feature_names is None else list(source.feature_names),
        )
        path = search.searched.computed_path
        if path is not None:
            results.path = rows_of(path)
        return results

    def _versus_original(self, head: Predictions) -> Versus | None:
        return None if self.original is None else versus(self.original, head)

    def _described(self, k: int, head: SparseHead, sid5: float | None) -> Sparse:
        source, best, data = self.source, self.best[k], self.search.data
        held = data.held
        features, labels, device = source.features, source.labels, data.device
        own = head.predict(features, labels, device)
        cut = predict(decomposed_head(self.full, head.index_set), features, labels, self.full.num_classes, device)
        used = used_in(head, held)
        sizes = used.sum(1) if held is None else used.sum(1)[~held]
        kept = [] if held is None else held.nonzero()[:, 0].tolist()
        order = sorted((one for one in self.found if one.k == k), key=lambda one: (-one.correct, one.loss))
        return Sparse(
            method=best.method,
            k=k,
            values=self.settings.kind,
            l2=head.l2,
            point=point_of(own),
            loss=head.loss_on(features, labels, device),
            cut=point_of(cut),
            versus_original=self._versus_original(own),
            versus_refitted=versus(self.refitted, own),
            features=int(used.any(0).sum()),
            features_per_class=(int(sizes.min()), int(sizes.max())),
            bias_alone=[number for number, row in enumerate(head.index_set.classes) if not row],
            kept_whole=kept,
            indices=head.index_set.published_layout(),
            weights=weights_of(head),
            biases=head.on_z[:, -1].tolist(),
            scale=None if head.values is None else float(head.values.scale),
            measures=measures_of(measure(data.features, data.labels, used, sid5=sid5)),
            checkpoint=None,
            candidates=[_tried(one) for one in order],
        )

    def _nec(self) -> Nec:
        source, search = self.source, self.search
        features, labels = source.features, source.labels
        count = self.settings.pool or source.train.num_features
        bench, means = search.searched, dict[str, float]()

        def on_the_path(number: int) -> float | None:
            point = nearest_the_mean(bench.path, number)
            means[str(number)] = point.weights / len(point.stored)
            if abs(means[str(number)] - number) > _NEAR * number:  # the path ends before
                return None
            return point_of(bench.path_head(point).predict(features, labels, bench.data.device)).top1

        def exactly(number: int) -> float | None:
            if not search.can_have(number):
                return None
            head = self.heads.get(number) or search.head(self.best[number])
            return point_of(head.predict(features, labels, bench.data.device)).top1

        return Nec(elastic_net=_few(nec(count, on_the_path)), sparse=_few(nec(count, exactly)), means=means)


def _as_subject(chosen: Sequence[str]) -> str:
    """What is chosen, as the subject of a sentence, with its verb."""
    plural = [name if name == "k" else {"method": "methods", "strength": "strengths"}[name] for name in chosen]
    words = f"{', '.join(plural[:-1])} and {plural[-1]}" if len(plural) > 1 else plural[0]
    return f"{words[0].upper() if words != 'k' else 'k'}{words[1:]} {'is' if words == 'k' else 'are'}"


def _few(found: Any) -> Few:
    return Few(accuracy={str(number): value for number, value in found.accuracy.items()}, mean=found.mean)


def _tried(one: Candidate) -> Tried:
    return Tried(method=one.method, correct=one.correct, loss=one.loss, l2=one.l2)
