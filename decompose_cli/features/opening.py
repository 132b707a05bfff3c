"""How the processes that work together open the same network."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from decompose_cli.errors import DecomposeError, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.models.classifier import Classifier, open_classifier


@dataclass
class Opening:
    """A network that another process opens for itself, as weights are read faster than they are sent.

    Attributes:
        model: Name, weights and further options of the network, as it was opened by the first process.
        identity: What makes it the same: :attr:`.models.classifier.Classifier.identity`.
        here: The network in the process that has it; it is not sent to others.
    """

    model: str | None
    weights: str | None
    head: str | None
    ema: bool
    weights_key: str | None
    seed: int
    options: Mapping[str, str] | None
    features_only: bool
    identity: Mapping[str, Any]
    here: Classifier | None = field(repr=False)

    @classmethod
    def of(cls, inputs: Inputs, classifier: Classifier) -> Opening:
        """How to open a network that was opened with these inputs."""
        model = classifier.name if inputs.model is None and inputs.weights is None else inputs.model
        return cls(
            model,
            inputs.weights,
            inputs.head,
            inputs.ema,
            inputs.weights_key,
            inputs.seed,
            inputs.model_options,
            inputs.features_only,
            classifier.identity,
            classifier,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "here": None}

    def classifier(self, rank: int) -> Classifier:
        """The network.

        Args:
            rank: Number of this process, for messages.

        Raises:
            DecomposeError: It is another one in this process.
        """
        if self.here is not None:
            return self.here
        options = None if self.options is None else tuple(self.options.items())
        found = _opened(
            self.model,
            self.weights,
            self.head,
            self.ema,
            self.weights_key,
            self.seed,
            options,
            self.features_only,
        )
        if found.identity != self.identity:
            raise DecomposeError(
                f"Process {rank} has other weights than the first: {found.weights_source} gives a different network "
                "each time, or is another file there.",
                hint=f"Save the weights to a file that all machines share, and name it with {param('weights')}.",
            )
        return found


@functools.lru_cache(maxsize=1)
def _opened(
    model: str | None,
    weights: str | None,
    head: str | None,
    ema: bool,
    weights_key: str | None,
    seed: int,
    options: tuple[tuple[str, str], ...] | None,
    features_only: bool,
) -> Classifier:
    chosen = None if options is None else dict(options)
    return open_classifier(
        model,
        weights,
        head=head,
        ema=ema,
        weights_key=weights_key,
        seed=seed,
        options=chosen,
        features_only=features_only,
    )
