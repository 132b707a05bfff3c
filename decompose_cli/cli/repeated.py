"""Result documents and configurations of runs as the options that were typed for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from decompose_cli.errors import InputError, shortened

_DERIVED = frozenset(
    {
        *("command", "processes", "settings", "training_images", "starting_weights", "baseline_weights"),
        *("class_map_entries", "document", "ranking", "overrides", "use_cache", "allow_download", "indices_source"),
    }
)
"""What arguments say beside the options, or as an option is not typed; :func:`_translated` has the latter."""
_OF_RECIPES = ("batch_size", "precision", "seed")
"""Settings of a training; the arguments of its document have those of the measuring by the same names."""


def is_document(content: Mapping[str, Any]) -> bool:
    """Whether the content of a JSON file is a result document or the configuration of a run."""
    return "command" in content and ("schema_version" in content or "settings" in content)


def options_of(content: Mapping[str, Any], command: str, names: Collection[str], path: Path) -> dict[str, Any]:
    """The options with which the command is repeated, by name.

    Args:
        content: A result document, or the configuration of a run.
        command: The command that is to be repeated.
        names: Names of its options.
        path: The file.

    Raises:
        InputError: It is of another command, or of a later version of the program.
    """
    from decompose_cli.storage.result_document import SCHEMA_VERSION

    of = content["command"]
    if not isinstance(of, str) or of != command:
        raise InputError(
            f"{path} is a result of {shortened(repr(of))}, so '{command}' cannot be repeated with it.",
            hint="Options that both commands have can be given to both in a configuration of yours.",
        )
    arguments = content
    if "schema_version" in content:
        if content["schema_version"] != SCHEMA_VERSION:
            raise InputError(
                f"{path} has the schema version {shortened(repr(content['schema_version']))}, and this program reads "
                f"version {SCHEMA_VERSION}."
            )
        arguments = content.get("arguments", {})
    if not isinstance(arguments, dict):
        raise InputError(f"{path} has no arguments with names.")
    given = _translated(arguments, command, names, path)
    return {name: value for name, value in given.items() if value not in (None, False, [], {})}


def _translated(arguments: Mapping[str, Any], command: str, names: Collection[str], path: Path) -> dict[str, Any]:
    is_trained = "overrides" in arguments
    found = {
        name: value
        for name, value in arguments.items()
        if name not in _DERIVED and not (is_trained and name in _OF_RECIPES)
    }
    for name in ("no_cache", "no_download"):
        found[name] = arguments.get("use_cache" if name == "no_cache" else "allow_download") is False
    if command == "explain":
        found["images"] = found.pop("files", None)
    if command == "extract-indices":
        found["layout"] = "document" if arguments.get("document") is True else None
    if command == "finetune":
        found.pop("recipe", None)  # there is one only
        found["indices"] = arguments.get("indices_source")
        found |= _mapping(arguments, "ranking", path)
    if command in ("train", "lr-find", "train-gate") and is_trained:  # which have an option for each
        found |= _mapping(found, "model_options", path)
        found.pop("model_options", None)
    if command == "train-gate":
        for name in ("shortcut", "final_test"):  # the gate decides the one, and the other is always so
            found.pop(name, None)
    if is_trained:
        overrides = _mapping(arguments, "overrides", path)
        found |= {name: value for name, value in overrides.items() if name in names}
        rest = {name: value for name, value in overrides.items() if name not in names and value is not None}
        found["set"] = [f"{name}={_joined(value)}" for name, value in rest.items()]
    return found


def _joined(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _mapping(content: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    value = content.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged: its {name} are not given by names.")
    return value
