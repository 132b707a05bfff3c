"""Statistics of bench_scale.py that fit heads, put noise on features or look at layers; each takes its made images."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench_scale import Made

_AT_ONCE = 4  # images of 224 pixels that a CPU pushes through a network at a time


def smallest(made: Made) -> None:
    from decompose_cli.decomposition.heads import full_head
    from decompose_cli.decomposition.metrics import predict
    from decompose_cli.decomposition.smallest import Search

    study: Any = SimpleNamespace(
        bank=SimpleNamespace(features=made.features),
        labels=made.labels,
        device=made.device,
        inputs=SimpleNamespace(seed=0),
        dataset=SimpleNamespace(split="train"),
    )
    full = predict(full_head(made.head), made.features, made.labels, made.head.num_classes, made.device)
    search = Search(study, study, made.head, made.data, 1.0)
    search.smallest({"contribution": None}, [k for k in range(1, 65) if k <= made.head.num_features], full)


def choose_strength(made: Made) -> None:
    """The images that settle the strength of a penalty are drawn; the fits are those of sparsify."""
    from decompose_cli.decomposition.choosing import chooser_for

    chooser_for(made.data, None, 0)


def sparsify(method: str, k: int) -> Callable[[Made], None]:
    """A sparse head at a given strength with its measures, beside the full head that is there."""

    def run(made: Made) -> None:
        from decompose_cli.decomposition.sparse_methods import used_in
        from decompose_cli.decomposition.sparse_search import Search, best_of
        from decompose_cli.decomposition.sparse_settings import SparsifySettings
        from decompose_cli.sparse.measures import measure

        search = Search(made.data, SparsifySettings(k=(k,), method=method, l2=1e-3))
        head = search.head(best_of(search.candidates([k]), k))
        head.predict(made.features, made.labels, made.device)
        measure(search.data.features, search.data.labels, used_in(head, search.data.held))

    return run


def essential(repeats: int, controls: int) -> Callable[[Made], None]:
    """Noise on the five strongest features of each class, and on random sets."""

    def run(made: Made) -> None:
        from decompose_cli.decomposition.essentiality import essentiality

        head, sets = made.head, made.strongest(5).classes
        essentiality(
            made.features,
            made.labels,
            head.weight,
            head.bias,
            sets,
            repeats=repeats,
            controls=controls,
            device=made.device,
        )

    return run


def selectivity(made: Made) -> None:
    """The counts of one layer, whose values are the features, without the network."""
    from decompose_cli.decomposition.selectivity import SelectivityCounter

    counter = SelectivityCounter("layer", made.head.num_classes, 0.5)
    for start in range(0, len(made.labels), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        counter.add(made.features[rows].to(made.device), made.labels[rows])
    counter.result()
