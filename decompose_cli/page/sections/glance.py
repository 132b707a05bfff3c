"""The few numbers to see first."""

from __future__ import annotations

from decompose_cli.page.blocks import Figures, Section
from decompose_cli.page.context import Context
from decompose_cli.page.sections.accuracy import differences, measurements

_MOST = 6


def section(context: Context) -> Section | None:
    """Accuracies and differences, the first few."""
    items: list[tuple[str, str, str]] = []
    for source in context.of("validate", "finetune", "train", "train-gate"):
        for found in measurements(source):
            low, high = found.interval
            count = f"{found.correct:,} of {found.total:,} {found.split} images; 95% interval {low:.2f} to {high:.2f}"
            items.append((found.what, f"{found.top1:.2f}%", count))
        for which, difference in differences(source):
            low, high = difference.ci95
            items.append(
                (
                    "decomposed minus full head" + (f", {which}" if which else ""),
                    f"{difference.points:+.2f} points",
                    f"95% interval {low:+.2f} to {high:+.2f}; McNemar p = {difference.mcnemar_p:.3g}",
                )
            )
    for source in context.of("sweep"):
        chosen = source.results.chosen
        if chosen is not None and source.document.model is not None:
            every = source.document.model.num_classes * source.document.model.num_features
            items.append(
                (
                    f"weights kept, within {chosen.max_drop:g} points",
                    f"{chosen.features:,} of {every:,}",
                    f"of the head; {chosen.features_per_class[0]} to {chosen.features_per_class[1]} features per class",
                )
            )
    unique = list(dict.fromkeys(items))[:_MOST]
    return Section("glance", "At a glance", "", [Figures(unique)]) if unique else None
