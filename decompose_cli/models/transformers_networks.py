"""Image classifiers of transformers, named as ``hf:ORG/NAME`` on its hub or ``hf:FOLDER`` on this machine.

No code that comes with a network is run, and weights are read from safetensors alone.
"""

from __future__ import annotations

import copy
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decompose_cli.errors import InputError, first_few, first_line, param
from decompose_cli.extras import import_extra
from decompose_cli.models.backbones import backbone_entry
from decompose_cli.models.checkpoint import Checkpoint
from decompose_cli.models.entry import HF, ModelEntry
from decompose_cli.models.processors import preprocessing_of
from decompose_cli.models.timm_networks import timm_preprocessing
from decompose_cli.preprocessing import Preprocessing, Size
from decompose_cli.storage.files import sha256_of, user_path
from decompose_cli.storage.fingerprints import digest_of
from decompose_cli.storage.hub import hub_address, hub_file
from decompose_cli.storage.ordinary_files import read_ordinary

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # the second beside texts, as CLIP has them
_CONFIG, _WEIGHTS, _SHARDS = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
)
_OF_IMAGENET = {0: "tench", 151: "chihuahua", 999: "toilet tissue"}
_Files = Callable[[str], Path | None]
"""Takes the name of a file; returns its path, or None if there is no such file."""


def transformers_entry(name: str, *, allow_download: bool = True, features_only: bool = False) -> ModelEntry:
    """The entry of an image classifier of transformers, as ``save_pretrained`` writes it.

    Args:
        name: ``hf:FOLDER``, or ``hf:ORG/NAME`` where there is no such folder.
        allow_download: Whether files may be downloaded.
        features_only: Whether it is taken without a classifier; see :mod:`.models.backbones`. Of a network of images
            and texts, such as CLIP, that is the tower of images.

    Raises:
        InputError: transformers is not installed, there is no such network, or it is no image classifier.
        DownloadError: The description of the network cannot be fetched.
    """
    transformers = import_extra("transformers", "hf", f"The model {name}")
    files, address = _place(name, allow_download)
    if _is_repository(name) and not address.startswith("http"):  # as what is saved has it, no repository elsewhere
        name = f"{HF}./{name.removeprefix(HF)}"
    path = files(_CONFIG)
    if path is None:
        raise InputError(
            f"{address} has no {_CONFIG}, so it is no network of transformers.",
            hint=f"Name a folder that 'save_pretrained' of transformers has written, or a repository as {HF}ORG/NAME.",
        )
    config = _config(name, path)
    whole = config
    if features_only:
        config = getattr(config, "vision_config", config)  # the tower of images
    elif type(config) not in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise InputError(
            f"{name} is a {config.model_type!r}, of which transformers has no image classifier.",
            hint=f"If it yields features of images, {param('features_only')} takes these, for 'decompose sparsify'.",
        )
    kind = _tower(name, config) if features_only else transformers.AutoModelForImageClassification
    if not features_only and config.id2label.keys() != set(range(config.num_labels)):
        raise InputError(
            f"id2label of {name} has {config.num_labels} classes that are not numbered 0 to {config.num_labels - 1}.",
            hint=f"Number them anew in {path}, in the order of the outputs of the classifier.",
        )
    names = [config.id2label.get(number, "") for number in range(config.num_labels)]
    is_imagenet = len(names) == 1000 and all(names[n].lower().startswith(own) for n, own in _OF_IMAGENET.items())
    are_named = not is_imagenet and names != [f"LABEL_{number}" for number in range(len(names))]
    has_weights = address.startswith("http") or any(Path(address, file).is_file() for file in (_WEIGHTS, _SHARDS))
    described = {key: value for key, value in config.to_dict().items() if key not in ("_name_or_path", "dtype")}
    entry = ModelEntry(
        name=name,
        build=partial(_build, name, kind, config),
        dataset="imagenet" if is_imagenet else None,
        num_classes=config.num_labels,
        preprocessing=_preprocessing(name, whole, getattr(config, "image_size", None), files),
        weights=address if has_weights else None,
        fetch=partial(_fetched, name, kind, config, address),
        source="transformers",
        architecture={"family": "transformers", "config": digest_of(described)},
        depends_on_size=True,
        adapted=_renamed,
        outputs=(lambda: (names, None)) if are_named else None,
    )
    return backbone_entry(entry) if features_only else entry


def _preprocessing(name: str, config: Any, image_size: object, files: _Files) -> Preprocessing:
    """That of the image processor, or of timm's description where the network is one of timm in a wrapper."""
    pretrained = getattr(config, "pretrained_cfg", None)
    path = next((found for file in _PROCESSORS if (found := files(file)) is not None), None)
    if path is None and isinstance(pretrained, dict):
        return timm_preprocessing(name, pretrained)
    return preprocessing_of(name, path, image_size)


def _tower(name: str, config: Any) -> Any:
    """The class of the network without a classifier, as transformers has it for such a configuration."""
    import transformers

    try:
        return transformers.MODEL_MAPPING[type(config)]
    except KeyError:
        raise InputError(
            f"{name} is a {config.model_type!r}, of which transformers has no network without a classifier."
        ) from None


def _without_untrained_pooler(kind: Any) -> dict[str, Any]:
    """Arguments of a class of transformers that leave out a layer after the class token, as BERT has one for texts.

    Few weights of networks for images have been trained with it, and those without would get random ones. Other
    poolings stay: they are means, or attention that belongs to the network.
    """
    has_choice = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    pooler = sys.modules[kind.__module__].__dict__.get(f"{kind.__name__.removesuffix('Model')}Pooler")
    has_layer = pooler is not None and "nn.Linear" in inspect.getsource(pooler)
    return {"add_pooling_layer": False} if has_choice and has_layer else {}


def _place(name: str, allow_download: bool) -> tuple[_Files, str]:
    """How files are found, and the folder or the page of the repository."""
    where = name.removeprefix(HF)
    folder = user_path(where)
    if folder.is_dir():
        return lambda file: path if (path := folder / file).is_file() else None, str(folder)
    if not _is_repository(name):
        raise InputError(
            f"There is no folder {where}, and it is no name of a repository on the hub.",
            hint=f"Write {HF}FOLDER for a folder of this machine, or {HF}ORG/NAME.",
        )
    return partial(_hub_file, where, allow_download), hub_address(where)


def _is_repository(name: str) -> bool:
    """Whether a repository may have the name."""
    where = name.removeprefix(HF)
    return where.count("/") == 1 and not where.startswith((".", "/", "~"))


def _hub_file(repository: str, allow_download: bool, file: str) -> Path | None:
    """A file of the commit that the configuration is of, so that all files belong together."""
    if file == _CONFIG:
        return hub_file(repository, file, allow_download=allow_download)
    config = hub_file(repository, _CONFIG, allow_download=False)
    assert config is not None
    return hub_file(repository, file, allow_download=allow_download, revision=config.parent.name)


def _config(name: str, path: Path) -> Any:
    from transformers import AutoConfig

    try:
        content = json.loads(read_ordinary(path, "The configuration"))
        if "architecture" in content and "model_type" not in content:
            raise InputError(
                f"{name} is a network of timm, as {path} says.", hint=f"Name it as timm:{content['architecture']}."
            )
        if content.get("model_type") == "timm_wrapper" and ":" in str(content.get("architecture")):
            raise InputError(
                f"{path} of {name} names the network {content['architecture']!r}, which timm would "
                "ask of another place.",
                hint="Name that network itself, as hf:ORG/NAME.",
            )
        return AutoConfig.from_pretrained(path.parent, trust_remote_code=False, local_files_only=True)
    except InputError:
        raise
    except Exception as error:  # whatever is in the file
        if "auto_map" in path.read_text(errors="replace"):
            raise InputError(
                f"{name} is made by Python code of its own, which is not run.",
                hint="If you trust the code, write a function that returns the network, and name it as "
                "package.module:callable.",
            ) from error
        raise InputError(f"The configuration {path} of {name} cannot be used: {first_line(error)}.") from error


def _build(
    name: str, kind: Any, config: Any, num_classes: int, *, input_size: Size, pretrained: bool = False
) -> nn.Module:
    own = copy.deepcopy(config)
    own.dtype = "float32"
    if num_classes:
        own.num_labels = num_classes
    side = getattr(own, "image_size", None)
    if side is not None:
        own.image_size = input_size[0] if isinstance(side, int) and input_size[0] == input_size[1] else list(input_size)
    try:
        with _quietly():
            module: nn.Module
            if hasattr(kind, "from_config"):  # one that finds the class by the configuration
                module = kind.from_config(own, trust_remote_code=False)
            else:
                module = kind(own, **_without_untrained_pooler(kind))
    except Exception as error:  # whatever is in the configuration
        shown = "x".join(map(str, input_size))
        raise InputError(
            f"transformers cannot build {name} for images of {shown} pixels: {first_line(error)}.",
            hint=f"{param('input_size')} takes another size.",
        ) from error
    return module


def _fetched(name: str, kind: Any, config: Any, address: str, allow_download: bool) -> Checkpoint:
    """The default weights, as transformers puts them into the network."""
    files, _ = _place(name, allow_download)
    paths = _weights_files(name, files, address)
    try:
        with _quietly():
            module, report = kind.from_pretrained(
                paths[0].parent,
                config=copy.deepcopy(config),
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **({} if hasattr(kind, "from_config") else _without_untrained_pooler(kind)),
            )
    except Exception as error:  # a damaged file can raise nearly anything
        raise InputError(
            f"transformers cannot read the weights of {name} in {paths[0]}: {first_line(error)}."
        ) from error
    absent = sorted({*report["missing_keys"], *(key for key, *_ in report.get("mismatched_keys", ()))})
    if absent:
        what = "its classifier" if hasattr(kind, "from_config") else "the network"
        raise InputError(
            f"The weights of {name} at {address} lack {len(absent)} parts of {what} ({first_few(absent)}).",
            hint=f"Give weights that were trained on classes with {param('weights')}; {param('features_only')} takes a "
            "network without a classifier.",
        )
    sha256 = sha256_of(paths[0]) if len(paths) == 1 else digest_of([sha256_of(path) for path in paths])
    return Checkpoint(address, sha256, dict(module.state_dict()))


def _renamed(state: Mapping[str, Tensor], module: Any) -> dict[str, Tensor]:
    """Give weights the names that this version of transformers has for them in the network; files keep older ones."""
    names = module.state_dict().keys()
    if state.keys() <= names or len(state.keys() & names) == len(names):
        return dict(state)
    with _quietly(), suppress(Exception):  # that these weights do not fit is said with their names
        made, report = type(module).from_pretrained(
            None, config=module.config, state_dict=dict(state), output_loading_info=True
        )
        if not any(report.values()):
            return dict(made.state_dict())
    return dict(state)


def _weights_files(name: str, files: _Files, address: str) -> list[Path]:
    """The file with the weights, or those that it is spread over."""
    whole = files(_WEIGHTS)
    if whole is not None:
        return [whole]
    index = files(_SHARDS)
    if index is None:
        raise InputError(
            f"{address} has no weights in {_WEIGHTS}, and pickled ones are not read.",
            hint="Write them with save_pretrained of a newer transformers, which is safe to read.",
        )
    try:
        shards = sorted(set(json.loads(read_ordinary(index, "The list of weights"))["weight_map"].values()), key=str)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"The list of weights {index} of {name} cannot be read: {first_line(error)}.") from error
    if others := [shard for shard in shards if not isinstance(shard, str) or Path(shard).name != shard]:
        raise InputError(
            f"The list of weights {index} of {name} has {first_few(map(repr, others))}, no name of a file."
        )
    found = [files(shard) for shard in shards]
    if missing := [shard for shard, path in zip(shards, found, strict=True) if path is None]:
        raise InputError(f"{address} lacks {first_few(missing)}, which {_SHARDS} names.")
    return [path for path in found if path is not None]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the remarks and the progress of transformers; what matters of them is said in sentences."""
    from transformers import utils

    logging: Any = utils.logging
    level, shows = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shows:
            logging.enable_progress_bar()
