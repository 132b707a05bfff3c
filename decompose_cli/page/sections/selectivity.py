"""The section on how selective the filters of each layer are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from decompose_cli.page.blocks import Block, Column, Group, Section, Table, Text
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source
from decompose_cli.reporting.study_plots import layers_figure

_LEAD = (
    "Psi is 1 where few filters of a layer respond to an image and 0 where all do, as a mean over classes. Class "
    "selectivity is 1 where a filter responds to one class only and 0 where it responds to all alike."
)


def section(context: Context) -> Section | None:
    """Make the section from selectivity."""
    blocks: list[Block] = [Group(source.name, _blocks(context, source)) for source in context.of("selectivity")]
    return Section("selectivity", "Selectivity by layer", _LEAD, blocks) if blocks else None


def _blocks(context: Context, source: Source) -> list[Block]:
    results = source.results
    networks: dict[str, Mapping[str, Any]] = {"": results.layers}
    networks |= {f", {name}": compared.layers for name, compared in results.compared.items()}
    layers = list(results.layers)
    values = Table(
        "By layer",
        [
            Column("Layer"),
            Column("Filters"),
            Column("Psi (mean)", 4),
            Column("Psi (median)", 4),
            Column("Class selectivity", 4),
        ],
        [
            [f"{name}{suffix}", layer.filters, layer.psi_mean, layer.psi_median, layer.class_selectivity]
            for suffix, by_layer in networks.items()
            for name, layer in by_layer.items()
        ],
    )
    curves = {
        f"{what}{suffix}": [getattr(by_layer[name], field) if name in by_layer else None for name in layers]
        for suffix, by_layer in networks.items()
        for what, field in (("Psi (mean)", "psi_mean"), ("class selectivity", "class_selectivity"))
    }
    blocks: list[Block] = []
    if len(layers) > 1:
        blocks.append(context.chart("Selectivity by layer", partial(layers_figure, "0 to 1", layers, curves), values))
    elif results.compared:
        blocks.append(values)
    elif layers:
        blocks.append(Text(_said(layers[0], results.layers[layers[0]])))
    last = results.layers[layers[-1]] if layers else None
    if last is not None:
        blocks.append(
            Table(
                f"By class, in {layers[-1]}",
                [
                    Column("Class"),
                    Column("Images"),
                    Column("Images without response"),
                    Column("Psi (mean)", 4),
                    Column("Psi (median)", 4),
                ],
                [[c.name, c.images, c.silent, c.psi_mean, c.psi_median] for c in last.per_class.values()],
                is_folded=True,
            )
        )
    return blocks


def _said(name: str, layer: Any) -> str:
    """The figures of a layer that has no other beside it."""
    selectivity = "" if layer.class_selectivity is None else f"; class selectivity {layer.class_selectivity:.4f}"
    return (
        f"{name}, {layer.filters:,} filters: psi {layer.psi_mean:.4f} (mean), {layer.psi_median:.4f} (median)"
        f"{selectivity}."
    )
