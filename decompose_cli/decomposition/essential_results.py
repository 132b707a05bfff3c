"""What ``essential`` says in its result document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict
from typing_extensions import override

from decompose_cli.decomposition.index_set import Layout
from decompose_cli.reporting.findings import Findings, Row
from decompose_cli.reporting.study_plots import NoiseMarks, essentiality_figure
from decompose_cli.storage.result_document import WeightsInfo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Interval = tuple[float, float] | None


class Kept(BaseModel):
    """How many images are still assigned to their class, for one class or for all.

    ``images``: number of images. ``clean``: images assigned to their class without noise. ``noise_at_inf``,
    ``noise_at_noninf``: such images with noise on the class's features, and on all others, averaged over the repeats,
    with standard error and 95% interval over the repeats, which is about the noise and not about other images (null
    for one repeat). ``essentiality``: ``noise_at_noninf`` minus ``noise_at_inf`` in percentage points, with its 95%
    interval over the images (null for one image). ``control_mean``: mean essentiality of random feature sets of the
    same size; ``control_range``: the smallest and the largest of theirs; ``p``: (1 + sets with at least as much) /
    (1 + sets); all null without such sets, and the range in results of before.
    """

    images: int
    clean: int
    noise_at_inf: float
    noise_at_inf_se: float | None
    noise_at_inf_ci95: Interval
    noise_at_noninf: float
    noise_at_noninf_se: float | None
    noise_at_noninf_ci95: Interval
    essentiality: float
    essentiality_ci95: Interval
    control_mean: float | None
    control_range: Interval = None
    p: float | None

    @property
    def marks(self) -> NoiseMarks:
        """What is drawn of it, in percent of the images."""
        own, others = (100 * count / self.images for count in (self.noise_at_inf, self.noise_at_noninf))
        points, interval = self.essentiality, self.essentiality_ci95
        return NoiseMarks(own, others, points, interval, self.control_mean, self.control_range)


class MethodSummary(Kept):
    """All classes of one method together; the weights, where the features come from, and the features."""

    weights: WeightsInfo
    indices: str
    indices_sha256: str | None
    features_per_class: tuple[int, int]
    features: Layout


class EssentialResults(Findings):
    """Results by method, then by class number; classes without images, or without features of their own, are left out.

    A class without training images keeps its whole row of the full head, so it has no features of its own.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Kept]]

    repeats: int
    noise: str
    controls: int
    summary: dict[str, MethodSummary]

    def by_class(self, method: str) -> dict[str, Kept]:
        """The results of one method, by class number."""
        return self.__pydantic_extra__[method]

    @override
    def tables(self) -> Mapping[str, list[Row]]:
        return {
            "classes": [
                {"method": name, "class": self.called(number)} | _cells(kept)
                for name in self.summary
                for number, kept in self.by_class(name).items()
            ],
            "summary": [{"method": name} | _cells(kept) for name, kept in self.summary.items()],
        }

    @override
    def drawn(self) -> Figure | None:
        numbers, marks = self.marks()
        return essentiality_figure([self.called(number) for number in numbers], marks)

    def marks(self) -> tuple[list[int], dict[str, list[NoiseMarks | None]]]:
        """The numbers of the classes, ascending, and what is drawn of each, by method; None where it has no images."""
        by_method = {name: self.by_class(name) for name in self.summary}
        numbers = sorted({int(number) for kept in by_method.values() for number in kept})
        return numbers, {
            name: [one.marks if (one := kept.get(str(number))) is not None else None for number in numbers]
            for name, kept in by_method.items()
        }


def _cells(kept: Kept) -> Row:
    low, high = kept.essentiality_ci95 or (None, None)
    return {
        "images": kept.images,
        "clean": kept.clean,
        "noise_at_inf": kept.noise_at_inf,
        "noise_at_noninf": kept.noise_at_noninf,
        "essentiality": kept.essentiality,
        "low": low,
        "high": high,
        "control_mean": kept.control_mean,
        "p": kept.p,
    }
