"""The facts about a network that is known by name. Nothing here imports torch until a network is built."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decompose_cli.errors import InputError, param
from decompose_cli.norms.modes import NORM_OPTIONS, Norm, shown_norm
from decompose_cli.preprocessing import Preprocessing, Size

if TYPE_CHECKING:
    from torch import Tensor, nn

    from decompose_cli.models.checkpoint import Checkpoint

DEFAULT_MODEL = "resnet20-digits"
Options = Mapping[str, tuple[str, ...]]
OURS, OUR_LICENCE = "this project", "MIT"
TIMM, HF = "timm:", "hf:"
"""What names of networks of other libraries begin with."""
ANY = "..."
"""A value of an option that stands for further values, which ``settle`` checks."""
_SHOWN_NAMES = 4


@dataclass(frozen=True)
class ModelEntry:
    """A network and where its published weights are.

    Attributes:
        name: Name as written on the command line.
        build: Takes the number of classes and ``pretrained`` (whether the default weights will be loaded, which a few
            torchvision networks need to know), returns the untrained module.
        dataset: Name of the data set that the network was trained on, the default of ``--dataset``; None if unknown.
        num_classes: Number of classes of the default weights.
        parameters: Number of trainable parameters with that many classes.
        num_features: Number of features D, the size of the input of the head.
        weights: URL of the default weights, or the path of a file that ships with the package; None if there are none.
        fetch: Takes whether files may be downloaded, returns the default weights, where another library reads them.
        sha256: Leading hexadecimal digits of the file's hash (at least 8), if known.
        accuracy: Top-1 accuracy in percent stated by ``source`` for the default weights.
        source: Project that trained the default weights.
        licence: Licence of the weights.
        preprocessing: Preprocessing that the network expects; None for a network of the user's, which takes the data
            set's.
        unread: Prefixes of parameters that training used and inference never reads (auxiliary heads).
        caution: Warning to show when other than the default weights are loaded.
        architecture: Facts that identify the function that ``build`` makes; part of the key of cached features.
        options: Options of the network: keyword arguments of ``build`` and their values, default first.
        norm: Normalisation that replaces the batch norm with which every network is written.
        chosen: Options that are not at their default, with those of the normalisation.
        settle: Takes the options that were given and returns those to build with, without any that are at their
            default; raises InputError where options do not go together. Without it no option restricts another.
        recognise: Takes a state dict and returns the options, other than defaults, that it shows.
        unseen: Options that no name and no shape of a weight shows; ``recognise`` returns those of published weights.
        of_published_gates: Preprocessing that published networks with gates expect; their weights do not say it.
        depends_on_size: Whether ``build`` takes ``input_size``, (height, width).
        adapted: Takes weights by name and the network; returns those that fit it, where its library knows them under
            other names, or made for images of another size.
        outputs: Returns names of the outputs with the default weights, and further ones (WordNet ids) or None.
    """

    name: str
    build: Callable[..., nn.Module]
    dataset: str | None
    num_classes: int
    preprocessing: Preprocessing | None
    parameters: int | None = None
    num_features: int | None = None
    weights: str | Path | None = None
    fetch: Callable[[bool], Checkpoint] | None = None
    sha256: str | None = None
    accuracy: float | None = None
    source: str = ""
    licence: str = ""
    architecture: dict[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    caution: str | None = None
    options: Options = field(default_factory=dict)
    norm: Norm = field(default_factory=Norm)
    chosen: dict[str, str] = field(default_factory=dict)
    settle: Callable[[Mapping[str, str]], dict[str, str]] | None = None
    recognise: Callable[[Mapping[str, Tensor]], dict[str, str]] | None = None
    unseen: tuple[str, ...] = ()
    of_published_gates: Preprocessing | None = None
    depends_on_size: bool = False
    adapted: Callable[[Mapping[str, Tensor], nn.Module], dict[str, Tensor]] | None = None
    outputs: Callable[[], tuple[Sequence[str], Sequence[str] | None]] | None = None

    def make(self, num_classes: int, input_size: Size, *, pretrained: bool = False) -> nn.Module:
        """Build the untrained network, with its normalisation.

        Args:
            num_classes: Outputs of the head.
            input_size: (height, width) of the images, on which the weights of layer norm depend.
            pretrained: Whether the default weights will be loaded.

        Raises:
            InputError: The network cannot have this normalisation.
        """
        sized = {"input_size": input_size} if self.depends_on_size else {}
        module = self.build(num_classes, pretrained=pretrained, **sized)
        if self.norm.mode == "batch":
            return module
        from decompose_cli.norms.factory import convert_norm

        return convert_norm(module, self.norm, input_size)

    def configured(self, /, **options: str) -> ModelEntry:
        """The network with options chosen, as in ``configured(shortcut="projection")``; itself where nothing changes.

        Options of the normalisation (``norm_mode``, ``afwd``, ...) are for every network, others for some. Other
        options make another network, to which neither the default weights nor their accuracy belong. Options that are
        not at their default are in ``architecture``, so features of the two networks are cached apart.

        Raises:
            InputError: The network has no such option, or the option no such value.
        """
        of_norm = {name: value for name, value in options.items() if name in NORM_OPTIONS}
        own = {name: value for name, value in options.items() if name not in of_norm}
        for name, value in own.items():
            if name not in self.options:
                raise _no_such_option(self, name)
            if value not in self.options[name] and ANY not in self.options[name]:
                choices = ", ".join(self.options[name])
                raise InputError(f"{param(name)} {value!r} is not known to {self.name}; choose {choices}.")
        norm = Norm.parse({**self.norm.options(), **of_norm} if self._keeps_norm(of_norm) else of_norm)
        wanted = {**{name: value for name, value in self.chosen.items() if name not in NORM_OPTIONS}, **own}
        if self.settle is not None:
            settled = self.settle(wanted)
        else:
            settled = {name: value for name, value in wanted.items() if value != self.options[name][0]}
        chosen = settled | norm.options()
        if chosen == self.chosen:
            return self
        common = {
            name: value
            for name, value in self.architecture.items()
            if name not in self.chosen and name not in NORM_OPTIONS
        }
        return replace(
            self,
            build=partial(self.build, **{**own, **settled}) if {**own, **settled} else self.build,
            architecture={**common, **chosen},
            norm=norm,
            chosen=chosen,
            weights=None,
            sha256=None,
            parameters=None,
            num_features=None if "block" in settled else self.num_features,
            accuracy=None,
            source=OURS,
            licence=OUR_LICENCE,
            caution=None,
        )

    def as_settled(self, before: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, str]:
        """The options of ``given`` as they would be kept beside those of ``before``, or as they are if they cannot."""
        own = {name: str(value) for name, value in given.items() if name in self.options or name in NORM_OPTIONS}
        try:
            settled = self.configured(**{**before, **own}).chosen
        except InputError:
            return own
        return {name: settled.get(name, self.options.get(name, (value,))[0]) for name, value in own.items()}

    def shown_by(self, state: Mapping[str, Tensor]) -> dict[str, str]:
        """The options, other than defaults, that a state dict shows it was trained with."""
        own = self.recognise(state) if self.recognise is not None else {}
        return own if is_user_code(self.name) else own | shown_norm(state.keys())  # the user's code makes its own norms

    def _keeps_norm(self, options: dict[str, str]) -> bool:
        """Whether these options keep the mode of the normalisation and change its details only."""
        return options.get("norm_mode", self.norm.mode) == self.norm.mode

    def facts(self) -> dict[str, Any]:
        """The facts as JSON-ready values."""
        names = (
            "name",
            "dataset",
            "num_classes",
            "parameters",
            "num_features",
            "accuracy",
            "sha256",
            "licence",
            "source",
        )
        weights = None if self.weights is None else str(self.weights)
        options = {name: list(values) for name, values in self.options.items()}
        return {**{name: getattr(self, name) for name in names}, "weights": weights, "options": options}


def is_user_code(model: str) -> bool:
    """Whether a name is that of Python code of the user's, ``package.module:callable``, which no file may name."""
    return ":" in model and not model.startswith((TIMM, HF))


_NETWORKS: dict[str, ModelEntry] = {}


def register(entry: ModelEntry) -> None:
    """Add a network to those known by name.

    Raises:
        ValueError: The name is taken.
    """
    if entry.name in _NETWORKS:
        raise ValueError(f"a model named {entry.name!r} is registered already")
    _NETWORKS[entry.name] = entry


def registered_models() -> tuple[ModelEntry, ...]:
    """All registered networks, in the order in which they are shown."""
    return tuple(_NETWORKS.values())


def _no_such_option(entry: ModelEntry, option: str) -> InputError:
    having = [e.name for e in registered_models() if option in e.options and e.name != DEFAULT_MODEL]
    if having:
        shown = ", ".join(having[:_SHOWN_NAMES]) + (" and others" if len(having) > _SHOWN_NAMES else "")
        return InputError(f"{entry.name} has no {param(option)} option; networks with it: {shown}.")
    own = ", ".join(map(param, entry.options)) or "none"
    return InputError(f"{entry.name} has no {param(option)} option; its options: {own}.")


def hash_in_name(url: str) -> str | None:
    """The leading digits of the SHA-256 in a file name such as ``resnet50-19c8e357.pth`` (torch.hub's convention).

    A number without letters is rather a date or an epoch.
    """
    match = re.search(r"-([0-9a-f]{8,64})\.[A-Za-z]+$", url.split("?")[0])
    return match.group(1) if match and not match.group(1).isdigit() else None
