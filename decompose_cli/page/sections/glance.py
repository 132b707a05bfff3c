"""The section with the few numbers to see first."""

from __future__ import annotations

from decompose_cli.page.blocks import Block, Figures, Section, Text, Verdict
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source
from decompose_cli.page.sections.accuracy import FULL, differences, measurements
from decompose_cli.page.sections.sparse import heads_of
from decompose_cli.page.verdicts import answers
from decompose_cli.statistics import mean_interval

_LEAD = (
    "A classifier is features and a head: for each image the network computes some dozens to thousands of numbers, its "
    "penultimate features, and the full head makes a score for each class from all of them. A decomposed head makes "
    "the score of each class from a few features only, those that the class uses most. This page says what that costs, "
    "and what those features are."
)
_OF_TRAININGS = "Networks that were trained: how many images they get right, and how their trainings went."
_MOST = 12
_TRAININGS = ("train", "train-gate")
_EPOCHS = {
    "best test top1": ", best epoch",
    "last test top1": ", last epoch",
    "test top1 after fine-tuning": ", fine-tuned",
}
"""The spreads of test accuracies, the first of which is shown, and which weights they are of."""


def section(context: Context) -> Section | None:
    """Make the section: accuracies, differences and chosen sets, the first few."""
    compared = [source for source in context.of("compare") if _between_trainings(source, "")]
    items = [
        item
        for source in compared
        for item in _between_trainings(source, f"{source.name}: " if len(compared) > 1 else "")
    ]
    measured = [*context.of("finetune"), *context.of("validate"), *context.of(*_TRAININGS)]
    seen: set[tuple[object, ...]] = set()
    is_many = sum(source.command in _TRAININGS for source in measured) > 1  # one figure of each: the best epoch
    is_several = len({_network(source) for source in measured}) > 1
    for source in measured:
        whose = f"{source.name}: " if len(measured) > 1 else ""
        if hasattr(source.results, "runs"):
            items += _over_seeds(source, whose)
            continue
        scores = list(measurements(source))
        for one in scores[-1:] if is_many and source.command in _TRAININGS else scores:
            is_full = one.what == FULL
            whose_head = (*_network(source), FULL) if is_full else (source.subject, round(one.loss, 4))
            identity = (*whose_head, one.split, one.correct, one.total)
            if identity in seen:  # a head may have been measured by several commands, the full one by nearly all
                continue
            seen.add(identity)
            low, high = one.interval
            count = f"{one.correct:,} of {one.total:,} {one.split} images; 95% interval {low:.2f} to {high:.2f}"
            of_whom = f"{source.subject}: " if is_several else ""
            items.append(((of_whom if is_full else whose) + one.what, f"{one.top1:.2f}%", count))
        for _, difference in differences(source):
            low, high = difference.ci95
            items.append(
                (
                    f"{whose}decomposed minus full head",
                    f"{difference.points:+.2f} points",
                    f"95% interval {low:+.2f} to {high:+.2f}; McNemar p = {difference.mcnemar_p:.2g}",
                )
            )
    sweeps = [source for source in context.of("sweep") if source.results.chosen is not None]
    for source in sweeps:
        whose = f"{source.name}: " if len(sweeps) > 1 else ""
        chosen = source.results.chosen
        if chosen is not None and source.document.model is not None:
            every = source.document.model.num_classes * source.document.model.num_features
            items.append(
                (
                    f"{whose}weights kept by the chosen set",
                    f"{chosen.features:,} of {every:,}",
                    f"{chosen.features_per_class[0]} to {chosen.features_per_class[1]} features per class; "
                    f"{chosen.reported_on.points:+.2f} points on the {chosen.reported_on.split} images "
                    f"({chosen.reported_on.ci95[0]:+.2f} to {chosen.reported_on.ci95[1]:+.2f})",
                )
            )
    sparse = list(context.of("sparsify"))
    for source in sparse:
        whose = f"{source.name}: " if len(sparse) > 1 else ""
        for head in heads_of(source):
            versus, whom = head.versus_original, "the full head"
            if versus is None:  # features from elsewhere
                versus, whom = head.versus_refitted, "the full head, refitted"
            low, high = versus.ci95
            more = f"{head.point.correct:,} of {source.results.total:,} images; {versus.points:+.2f} points "
            more += f"({low:+.2f} to {high:+.2f}) against {whom}"
            items.append((f"{whose}sparse head, k = {head.k}", f"{head.point.top1:.2f}%", more))
    others = (one for one in context.sources if one.command not in (*_TRAININGS, "lr-find"))
    is_of_trainings = all(one.command == "compare" and one.results.is_of_trainings for one in others)
    lead = _OF_TRAININGS if is_of_trainings and items else _LEAD
    said = answers(context)
    shown = items if len(items) <= _MOST + 1 else items[:_MOST]  # what says that one is left out is no shorter than it
    blocks: list[Block] = [*([Verdict(said)] if said else []), *([Figures(shown)] if shown else [])]
    if len(items) > len(shown):
        blocks.append(Text(f"{len(items) - len(shown)} more figures like these: in the sections below."))
    return Section("glance", "At a glance", lead, blocks, is_open=True) if blocks else None


def _between_trainings(source: Source, whose: str) -> list[tuple[str, str, str]]:
    """Differences of trainings as wholes; where there is one pair of networks alone, that of these."""
    results = source.results
    found = [
        (
            f"{whose}{one.second} minus {one.first}: mean of {len(one.seeds)} seeds",
            f"{one.points:+.2f} points",
            f"95% interval over seeds and images {one.ci95[0]:+.2f} to {one.ci95[1]:+.2f}",
        )
        for one in results.seed_differences
    ]
    if found or not results.is_of_trainings or len(results.differences) != 1:
        return found
    (one,) = results.differences
    more = f"95% interval over images {one.ci95[0]:+.2f} to {one.ci95[1]:+.2f}; McNemar p = {one.mcnemar_p:.2g}"
    return [(f"{whose}{one.second} minus {one.first}: a network of each", f"{one.points:+.2f} points", more)]


def _over_seeds(source: Source, whose: str) -> list[tuple[str, str, str]]:
    """The mean test accuracy of several seeds, of the epoch that held-out images choose, else of the last."""
    summary = {spread.what: spread for spread in source.results.summary}
    for what in _EPOCHS:
        if what not in summary or len(summary[what].values) < 2:
            continue
        mean, _, interval = mean_interval(summary[what].values)
        assert interval is not None
        low, high = (min(max(limit, 0.0), 100.0) for limit in interval)
        of = f"mean of {len(summary[what].values)} seeds{_EPOCHS[what]}"
        return [(whose + of, f"{mean:.2f}%", f"test images; 95% interval over seeds {low:.2f} to {high:.2f}")]
    return []


def _network(source: Source) -> tuple[str, str | None, str | None]:
    """What tells a network and its images from others."""
    model, dataset = source.document.model, source.document.dataset
    weights = None if model is None else model.weights.sha256
    return source.subject, weights, None if dataset is None else dataset.fingerprint
