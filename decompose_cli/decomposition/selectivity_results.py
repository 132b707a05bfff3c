"""What ``selectivity`` says in its result document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel
from typing_extensions import override

from decompose_cli.reporting.findings import Findings, Row
from decompose_cli.reporting.study_plots import layers_figure
from decompose_cli.storage.result_document import WeightsInfo

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ClassSelectivity(BaseModel):
    """One class in one layer: its images, how many no filter responds to, and Psi from the mean and the median of n."""

    name: str
    images: int
    silent: int
    psi_mean: float
    psi_median: float


class Layer(BaseModel):
    """One layer; the means are over the classes that have images (see :mod:`..decomposition.selectivity`)."""

    filters: int
    psi_mean: float
    psi_median: float
    class_selectivity: float | None
    per_class: dict[str, ClassSelectivity]


class Compared(BaseModel):
    """The same layers of the same architecture with other weights."""

    weights: WeightsInfo
    layers: dict[str, Layer]


class SelectivityResults(Findings):
    """``layers``: by name, in the order of the network; ``compared``: by the name given to other weights."""

    fraction: float
    layers: dict[str, Layer]
    compared: dict[str, Compared]

    @property
    def networks(self) -> dict[str, dict[str, Layer]]:
        """The layers of each network: of ``this`` one, then of those that it is compared with."""
        return {"this": self.layers, **{name: one.layers for name, one in self.compared.items()}}

    @override
    def tables(self) -> Mapping[str, list[Row]]:
        return {
            "layers": [
                {
                    "network": network,
                    "layer": name,
                    "filters": layer.filters,
                    "psi_mean": layer.psi_mean,
                    "psi_median": layer.psi_median,
                    "class_selectivity": layer.class_selectivity,
                }
                for network, layers in self.networks.items()
                for name, layer in layers.items()
            ],
            "classes": [
                {"network": network, "layer": name, "class": one.name}
                | one.model_dump(include={"images", "silent", "psi_mean", "psi_median"})
                for network, layers in self.networks.items()
                for name, layer in layers.items()
                for one in layer.per_class.values()
            ],
        }

    @override
    def drawn(self) -> Figure | None:
        curves = {
            f"{what}, {network}" if self.compared else what: [
                getattr(layers[name], field) if name in layers else None for name in self.layers
            ]
            for network, layers in self.networks.items()
            for what, field in (("Psi (mean)", "psi_mean"), ("class selectivity", "class_selectivity"))
        }
        return layers_figure("0 to 1", list(self.layers), curves)
