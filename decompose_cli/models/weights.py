"""Find and read the weights that a user names: a path, a URL, or the default of the model."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path

from decompose_cli.errors import DownloadError, InputError, param
from decompose_cli.messages import note, warn
from decompose_cli.models.checkpoint import Checkpoint, read_checkpoint
from decompose_cli.models.entry import ModelEntry, hash_in_name, is_user_code
from decompose_cli.storage.download import download, is_url, web_address
from decompose_cli.storage.files import cache_root, sha256_of, user_path

RANDOM = "random"
DEFAULT = "default"
_PACKAGE = Path(__file__).parent.parent


def shipped_weights(file: Path) -> Path:
    """A weights file that comes with the project, in an installed package or in a source checkout."""
    installed = _PACKAGE / "weights" / file
    return installed if installed.exists() else _PACKAGE.parent / "weights" / file


def default_source(entry: ModelEntry) -> str | None:
    """Source of the default weights of a model: a URL, or the path of a shipped file."""
    return str(shipped_weights(entry.weights)) if isinstance(entry.weights, Path) else entry.weights


def read_weights(
    entry: ModelEntry,
    weights: str | None,
    *,
    allow_download: bool = True,
    ema: bool = False,
    weights_key: str | None = None,
) -> Checkpoint | None:
    """Read what ``--weights`` names for a model.

    Args:
        entry: The model.
        weights: A path, a URL, ``default`` or None for the model's published weights, ``random`` for none at all.
        allow_download: Whether files may be downloaded.
        ema: Whether the averaged weights of the file are taken.
        weights_key: The place of the weights in the file, where one was named.

    Returns:
        The checkpoint; None for ``random``, and for a model of the user's that was given no weights.

    Raises:
        InputError: There is no such file, it cannot be read, or the model has no default weights.
        DownloadError: The file could not be fetched.
    """
    if weights == RANDOM:
        return None
    if weights in (None, DEFAULT):
        if entry.weights is None:
            if weights is None and is_user_code(entry.name):
                return None
            raise InputError(
                f"{entry.name} has no default weights; give a file or a URL with {param('weights')}.",
                hint=f"Or train one with 'decompose train {entry.name}'.",
            )
        if entry.fetch is not None:
            return entry.fetch(allow_download)
        if isinstance(entry.weights, Path):
            return read_checkpoint(shipped_weights(entry.weights))
        return _fetched(entry.weights, entry.sha256, allow_download)
    assert weights is not None
    return read_named(weights, allow_download=allow_download, ema=ema, weights_key=weights_key)


def read_named(
    weights: str, *, allow_download: bool = True, ema: bool = False, weights_key: str | None = None
) -> Checkpoint:
    """Read a weights file by its path or URL; arguments and errors are those of :func:`read_weights`."""
    if is_url(weights):
        return _fetched(weights, hash_in_name(weights), allow_download, ema, weights_key)
    return read_checkpoint(user_path(weights), weights, ema=ema, weights_key=weights_key)


def _fetched(
    url: str, digest: str | None, allow_download: bool, ema: bool = False, weights_key: str | None = None
) -> Checkpoint:
    path = fetched_file(url, digest, allow_download=allow_download)
    return read_checkpoint(path, url, ema=ema, weights_key=weights_key)


def fetched_file(url: str, digest: str | None = None, *, allow_download: bool = True) -> Path:
    """The path of a weights file in the cache; it is fetched where it is not there, or damaged.

    Args:
        url: Address of the file.
        digest: Leading hexadecimal digits of its SHA-256, where they are known.
        allow_download: Whether it may be fetched.

    Raises:
        InputError: The URL is not a web address.
        DownloadError: The file could not be fetched.
    """
    web_address(url)
    target = cached_weights_path(url)
    by_hand = f"Download {url} by hand and give the file with {param('weights')}, or put it at {target}."
    is_damaged = target.is_file() and digest is not None and not sha256_of(target).startswith(digest)
    if is_damaged or not target.is_file():
        if not allow_download:
            state = "damaged in the cache" if is_damaged else "not on this machine"
            raise DownloadError(f"The weights {url} are {state} and downloads are off.", hint=by_hand)
        if is_damaged:
            warn(f"The cached file {target} is damaged and is fetched again.")
        download(url, target, digest=digest, by_hand=by_hand)
    elif digest is None:
        fetched = datetime.fromtimestamp(target.stat().st_mtime).isoformat(sep=" ", timespec="minutes")
        note(f"Using {target}, fetched from {url} on {fetched}; delete it to fetch it again.")
    return target


def cached_weights_path(url: str) -> Path:
    """Path of a downloaded weights file in the cache, in a folder of its own unless its name holds its hash."""
    name = Path(url.split("?")[0].split("#")[0]).name or "weights"
    folder = cache_root() / "weights"
    return folder / name if hash_in_name(url) else folder / hashlib.sha256(url.encode()).hexdigest()[:16] / name
