"""The configuration of a run: everything that decides what is trained, as it is kept in the run folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from decompose_cli.errors import InputError, shortened
from decompose_cli.features.inputs import Inputs
from decompose_cli.storage.text_files import read_json
from decompose_cli.training.export import Kind
from decompose_cli.training.recipes import RECIPES

FROM_INPUTS = (
    *("model", "weights", "ema", "weights_key", "model_options", "head", "dataset"),
    "columns",
    *("mean", "std", "input_size", "resize", "crop", "interpolation"),
    *("classes", "class_map"),
)
MOST_RUNS = 10_000
"""Seeds that a run trains with, each in a folder of its own."""
_SHOWN = tuple(name for name in FROM_INPUTS if name not in ("model", "model_options"))


def _known_recipe(name: str) -> str:
    if name not in RECIPES:
        raise ValueError(f"no recipe has the name {shortened(name)!r}")
    return name


class RunConfig(BaseModel):
    """The configuration that every run has; commands add fields of their own.

    Attributes:
        command: Name of the command.
        model: The network; this and all fields up to ``data_dir`` are those of
            :class:`decompose_cli.features.inputs.Inputs`.
        recipe: Preset of the settings.
        overrides: Settings that were given, by name.
        runs: Number of seeds, trained one after the other.
        final_test: Whether the test images are measured in the end where images are held out.
        export: Formats that the network is written in.
        settings: The values of :class:`decompose_cli.training.settings.Settings`.
        training_images: Fingerprint of the training images.
        checkpoint_every: Steps after which the run is saved within an epoch.
        processes: Number of processes when the run began.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    command: Annotated[str, Field(pattern=r"^[a-z-]+$")]  # it is shown as something to type
    model: str
    weights: str | None
    ema: bool = False
    weights_key: str | None = None
    model_options: dict[str, str] | None = None
    head: str | None
    dataset: str
    columns: str | None = None
    mean: str | None
    std: str | None
    input_size: str | None
    resize: str | None
    crop: str | None
    interpolation: str | None
    classes: str = Inputs().classes
    class_map: str | None = None
    data_dir: str | None
    recipe: Annotated[str, AfterValidator(_known_recipe)]
    overrides: dict[str, Any]
    runs: Annotated[int, Field(ge=1, le=MOST_RUNS)]
    final_test: bool
    export: list[Kind]
    settings: dict[str, Any]
    training_images: str
    checkpoint_every: Annotated[int, Field(ge=1)] | None
    processes: Annotated[int, Field(ge=1)]


def choices_of(inputs: Inputs) -> dict[str, Any]:
    """The values of :data:`FROM_INPUTS`, as they stand in a configuration."""
    values = {name: getattr(inputs, name) for name in FROM_INPUTS}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def read_config(path: Path, kind: type[RunConfig] = RunConfig) -> dict[str, Any]:
    """Read the configuration of a run.

    Raises:
        InputError: There is no configuration, it cannot be read, or a field is missing or of the wrong kind.
    """
    content = read_json(path, "The configuration of the run")
    try:
        return kind.model_validate(content).model_dump(by_alias=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = f"{where}: {first['msg']}" if where else str(first["msg"])
        raise InputError(f"{path} is not the configuration of a run ({reason}).") from error


def shown_command(config: Mapping[str, Any], seed: int, own: Mapping[str, Any]) -> str:
    """The command that trains such a network on any machine, for the description in its checkpoints.

    Args:
        config: Configuration of the run.
        seed: Seed of this network.
        own: Options of the command beside those of network, images and settings; those that are None are left out.
    """
    usual = Inputs()
    named = {name: config[name] for name in _SHOWN if config[name] not in (None, getattr(usual, name))}
    words = ["decompose", config["command"], config["model"]]
    for name, value in {**named, **own, "seed": seed}.items():
        if value is True:
            words.append(f"--{name.replace('_', '-')}")
        elif value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    for name, value in config["overrides"].items():
        if name != "seed":
            words += ["--set", f"{name}={','.join(map(str, value)) if isinstance(value, list | tuple) else value}"]
    return shlex.join(words)
