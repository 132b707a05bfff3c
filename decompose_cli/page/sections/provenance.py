"""The section on where every number comes from."""

from __future__ import annotations

import re

from decompose_cli.page.blocks import Block, Column, Section, Table
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source
from decompose_cli.printable import printable
from decompose_cli.storage.result_document import DatasetInfo

_LEAD = "What was run, on which weights and images, and with which versions; enough to run it again and to compare."


def section(context: Context) -> Section | None:
    """Make the section, with one table per result file."""
    blocks: list[Block] = [_table(source) for source in context.sources]
    return Section("provenance", "Provenance", _LEAD, blocks)


_HOMES = re.compile(
    r"""(?:(?<![\w.-])/(?:home|Users)/|[A-Za-z]:\\Users\\)[^/\\\s:'"]+(?=[/\\\s:'"]|$)|(?<![\w.-])/root(?=[/\s:'"]|$)"""
)


def _table(source: Source) -> Table:
    document = source.document
    rows: list[tuple[str, str]] = [("result file", printable(str(source.path))), ("command", document.command)]
    environment = document.environment
    if document.model is not None:
        model, weights = document.model, document.model.weights
        options = "".join(f", {name} {value}" for name, value in model.options.items())
        rows += [
            (
                "network",
                f"{model.name}{options}: {model.num_features} features, {model.num_classes} classes, head {model.head}",
            ),
            ("weights", weights.source),
            ("SHA-256 of the weights", weights.sha256),
        ]
    if document.dataset is not None:
        dataset = document.dataset
        what = "images" if isinstance(dataset, DatasetInfo) else "features"
        rows += [
            (what, f"{dataset.name}, {dataset.split}: {dataset.images:,}"),
            (f"fingerprint of the {what}", dataset.fingerprint),
        ]
    if isinstance(document.dataset, DatasetInfo):
        dataset = document.dataset
        rows += [
            ("normalisation", f"mean {_listed(dataset.mean)}, std {_listed(dataset.std)}"),
            ("resize, crop", f"{dataset.resize}, {'x'.join(map(str, dataset.crop))} ({dataset.interpolation})"),
        ]
    names = (
        "command_line",
        "working_directory",
        "decompose",
        "torch",
        "python",
        "platform",
        "device",
        "threads",
        "seed",
    )
    rows += [(name.replace("_", " "), str(environment[name])) for name in names if name in environment]
    rows += [("started", document.started_at), ("seconds", f"{document.seconds:.1f}")]
    if document.cache is not None:
        rows.append(("cached features", document.cache.features))
    shown = [(what, _without_home(value)) for what, value in rows]
    return Table(source.name, [Column("What"), Column("Value")], shown, is_folded=True)


def _without_home(text: str) -> str:
    """The text with ``~`` for folders of people, which a page that is sent to others need not name."""
    return _HOMES.sub("~", text)


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
