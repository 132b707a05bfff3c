"""``models``: the networks that are known by name, and a search in those of torchvision and timm too."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from decompose_cli.errors import InputError, param
from decompose_cli.extras import import_extra
from decompose_cli.models.entry import TIMM
from decompose_cli.models.imagenet import torchvision_classifiers, torchvision_entry
from decompose_cli.models.registry import registered_models


@dataclass(frozen=True)
class FoundModels:
    """The networks whose names match, as JSON-ready facts; ``not_installed`` names libraries that have more."""

    models: list[dict[str, Any]]
    not_installed: list[str]


def find_models(pattern: str | None = None) -> FoundModels:
    """List the registered networks, or all of ours, of torchvision and of timm whose names match; none is built.

    Args:
        pattern: A part of the name, or a pattern with ``*``, ``?`` and ``[...]`` for all of it, in any case. Names of
            timm's match with and without ``timm:``.

    Raises:
        InputError: The pattern is empty.
    """
    registered = registered_models()
    if pattern is None:
        return FoundModels([entry.facts() for entry in registered], [])
    if not pattern.strip():
        raise InputError(f"{param('search')} is empty.", hint=f"{param('search')} '*' lists every network.")
    wanted = pattern.strip().lower()
    found = [entry.facts() for entry in registered if _matches(entry.name, wanted)]
    known = {entry.name for entry in registered}
    for name in torchvision_classifiers():
        if name not in known and _matches(name, wanted):
            entry = torchvision_entry(name)
            assert entry is not None
            found.append(entry.facts())
    try:
        import_extra("timm", "timm", "The search in timm")
    except InputError:
        return FoundModels(found, ["timm"])
    return FoundModels(found + _of_timm(wanted), [])


def _matches(name: str, wanted: str) -> bool:
    name = name.lower()
    return fnmatchcase(name, wanted) if any(sign in wanted for sign in "*?[") else wanted in name


def _of_timm(wanted: str) -> list[dict[str, Any]]:
    """The networks of timm, one for each set of weights, as its own names ``architecture.tag`` say."""
    import timm

    trained = timm.list_pretrained()
    untrained = set(timm.list_models()).difference(name.partition(".")[0] for name in trained)
    found: list[dict[str, Any]] = []
    for name in sorted([*trained, *untrained]):
        if not (_matches(name, wanted) or _matches(TIMM + name, wanted)):
            continue
        of_weights = timm.get_pretrained_cfg(name) if name not in untrained else None
        weights = (of_weights.hf_hub_id or of_weights.url) if of_weights is not None else None
        found.append(
            {
                "name": TIMM + name,
                "dataset": None,
                "num_classes": None if of_weights is None else of_weights.num_classes,
                "parameters": None,
                "num_features": None,
                "accuracy": None,
                "sha256": None,
                "licence": (of_weights.license or "") if of_weights is not None else "",
                "source": "timm",
                "weights": weights or None,
                "options": {},
            }
        )
    return found
