"""Files of repositories on the Hugging Face hub: from its cache on this machine, else fetched after saying so."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from decompose_cli.errors import DownloadError, InputError, first_line, param
from decompose_cli.messages import note


def hub_address(repository: str) -> str:
    """The page of a repository, on the hub that ``HF_ENDPOINT`` names."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}"


def hub_file(repository: str, name: str, *, allow_download: bool, revision: str | None = None) -> Path | None:
    """The path of a file of a repository in the hub's cache; it is fetched first where it is not there.

    Args:
        repository: ``ORG/NAME``.
        name: The file in it.
        allow_download: Whether it may be fetched.
        revision: The commit, branch or tag; the main branch by default.

    Returns:
        The path, or None if the repository has no such file.

    Raises:
        InputError: This is no name of a repository, or there is no such repository.
        DownloadError: The file is not on this machine, and may not or cannot be fetched.
    """
    import huggingface_hub as hub
    from huggingface_hub import errors

    where = hub_address(repository)
    by_hand = f"Download the files of {where} by hand into a folder, and name the folder."
    if not name.endswith(".json"):
        by_hand = f"Download {name} from {where} by hand, and give the file with {param('weights')}."
    try:
        cached: Any = hub.try_to_load_from_cache(repository, name, revision=revision)
    except errors.HFValidationError as error:
        raise InputError(f"{repository!r} is not a repository ORG/NAME: {first_line(error)}.") from error
    if isinstance(cached, str):
        return Path(cached)
    if cached is not None:  # it was looked for before, and the repository has none
        return None
    if not allow_download:
        raise DownloadError(f"{name} of {where} is not on this machine and downloads are off.", hint=by_hand)
    try:
        with _warnings_left_out():
            size = hub.get_hf_file_metadata(hub.hf_hub_url(repository, name, revision=revision)).size
            note(f"Fetching {name} ({_readable(size)}) from {where}")
            return Path(hub.hf_hub_download(repository, name, revision=revision))
    except errors.RemoteEntryNotFoundError:
        return None
    except errors.GatedRepoError as error:
        hint = "Ask for access on its page, and log in with 'hf auth login'."
        raise DownloadError(f"{where} lets only people in who have asked for it.", hint=hint) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"There is no repository {where}, or it is private.",
            hint="Is the name right? For a folder on this machine write its path; 'hf auth login' shows private ones.",
        ) from error
    except Exception as error:  # of the client of the hub, and of the one for the web beneath it
        raise DownloadError(f"Cannot download {name} from {where}: {first_line(error)}.", hint=by_hand) from error


def _readable(size: int | None) -> str:
    return "size unknown" if size is None else f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


@contextmanager
def _warnings_left_out() -> Iterator[None]:
    """Without the client's own words on being anonymous and on trying again."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
