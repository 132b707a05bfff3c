"""Networks by name: those of this project and of torchvision, of timm, of transformers, and of the user."""

from __future__ import annotations

from decompose_cli.errors import InputError, param
from decompose_cli.models.backbones import backbone_entry, is_features_only
from decompose_cli.models.checkpoint import Checkpoint
from decompose_cli.models.entry import HF, TIMM, is_user_code
from decompose_cli.models.registry import ModelEntry, get_entry
from decompose_cli.models.timm_networks import timm_entry
from decompose_cli.models.transformers_networks import transformers_entry
from decompose_cli.models.user import user_entry


def described_entry(checkpoint: Checkpoint, *, allow_download: bool = True) -> ModelEntry:
    """The entry of the network that a checkpoint describes itself to be of; errors as for :func:`find_entry`."""
    assert checkpoint.metadata is not None
    features_only = is_features_only(checkpoint.metadata.model_options)
    return find_entry(checkpoint.metadata.model, allow_download=allow_download, features_only=features_only)


def find_entry(model: str, *, allow_download: bool = True, features_only: bool = False) -> ModelEntry:
    """Look a network up by name, here, in timm or in transformers, or import it as ``package.module:callable``.

    Args:
        model: The name.
        allow_download: Whether a description of the network may be downloaded.
        features_only: Whether the network is taken without its classifier; see :mod:`.models.backbones`.

    Raises:
        InputError: There is no such network, or it is not to be had without its classifier.
        DownloadError: Its description cannot be fetched.
    """
    if model.startswith(TIMM):
        return timm_entry(model, features_only=features_only)
    if model.startswith(HF):
        return transformers_entry(model, allow_download=allow_download, features_only=features_only)
    if is_user_code(model):
        return backbone_entry(user_entry(model)) if features_only else user_entry(model)
    entry = get_entry(model)
    if features_only:
        raise InputError(
            f"{param('features_only')} is for networks of timm, of transformers and of yours; {entry.name} has its "
            "classifier.",
            hint=f"Leave {param('features_only')} out.",
        )
    return entry
