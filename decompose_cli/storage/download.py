"""Fetch a file: announce the download, check what came, and let the file appear only when it is complete."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from decompose_cli.errors import DownloadError, InputError, first_line
from decompose_cli.messages import note, track
from decompose_cli.storage.files import atomic_path
from decompose_cli.storage.system_errors import write_error

_TIMEOUT_S = 30
_CHUNK = 1 << 16


def is_url(text: str) -> bool:
    """Whether the text is meant as a web address rather than as a path."""
    return "://" in text


def download(url: str, target: Path, *, digest: str | None = None, algorithm: str = "sha256", by_hand: str) -> Path:
    """Fetch ``url`` into ``target``.

    Args:
        url: Address, http or https.
        target: Path of the file, which appears only after all of it has come and its hash has been checked.
        digest: Leading hexadecimal digits that the file's hash must have.
        algorithm: Name of the hash, as ``hashlib`` knows it.
        by_hand: What to do if this fails, for the hint.

    Returns:
        ``target``.

    Raises:
        DownloadError: There is no connection, the server answers with an error, the transfer breaks off, or the hash is
            wrong; nothing is left behind.
        InputError: The URL is not a web address.
    """
    address = web_address(url)
    request = urllib.request.Request(address, headers={"User-Agent": "decompose"})
    note(f"Fetching {url}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            length = response.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
            note(f"Downloading {_human_size(total)} to {target}")
            _receive(response, target, total, digest, algorithm, url)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"Cannot download {url}: the server answered {error.code}.", hint=by_hand) from error
    except urllib.error.URLError as error:
        raise DownloadError(
            f"Cannot download {url}: no connection to {urlsplit(url).hostname} ({error.reason}).", hint=by_hand
        ) from error
    except (_BrokenOffError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise DownloadError(f"The download of {url} broke off: {error}.", hint=by_hand) from error
    except ValueError as error:  # an address to go on to, or a length, that cannot be
        what = f"the server's answer cannot be understood ({first_line(error)})"
        raise DownloadError(f"Cannot download {url}: {what}.", hint=by_hand) from error
    except _WrongHashError as error:
        raise DownloadError(f"What came from {url} is not the expected file: {error}.", hint=by_hand) from error
    except OSError as error:
        raise write_error(target, error) from error
    return target


def web_address(url: str) -> str:
    """The URL as it is sent: its path and its query percent-encoded where that is missing.

    Raises:
        InputError: Nothing can be fetched from there: another scheme, a host or a port that cannot be, blanks and other
            letters that cannot be seen, or a user name, which would not be sent.
    """
    try:
        parts = urlsplit(url)
        if parts.username is not None:
            raise InputError("Web addresses with a user name or a password are not fetched; fetch the file by hand.")
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname and parts.hostname.encode("idna"))
        has_port = parts.port != 0 and (parts.port is None or parts.netloc.endswith(f":{parts.port}"))
        if is_web and has_port and url.isprintable() and " " not in parts.netloc:
            path, query = quote(parts.path, safe="/%:@!$&'()*+,;=~"), quote(parts.query, safe="/?%:@!$&'()*+,;=~[]|")
            return urlunsplit(parts._replace(path=path, query=query))
    except ValueError:
        pass
    raise InputError(f"{url} is not a web address that can be fetched; only http and https are.")


class _BrokenOffError(Exception):
    pass


class _WrongHashError(Exception):
    pass


def _receive(
    response: http.client.HTTPResponse, target: Path, total: int | None, digest: str | None, algorithm: str, url: str
) -> None:
    received = 0
    checksum = hashlib.new(algorithm, usedforsecurity=False)
    with (
        atomic_path(target) as temporary,
        temporary.open("wb") as handle,
        track(f"Downloading {target.name}", total, unit="bytes") as advance,
    ):
        while chunk := response.read(_CHUNK):
            handle.write(chunk)
            checksum.update(chunk)
            received += len(chunk)
            advance(len(chunk))
        if total is not None and received != total:
            raise _BrokenOffError(f"{received} of {total} bytes came")
        if digest and not checksum.hexdigest().startswith(digest):
            raise _WrongHashError(f"its {algorithm} starts with {checksum.hexdigest()[: len(digest)]}, not {digest}")


def _human_size(size: int | None) -> str:
    if size is None:
        return "size unknown"
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
