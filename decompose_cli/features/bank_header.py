"""The header of a bank of features: what it is of, as JSON with a checksum, each field of its kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from decompose_cli.storage.fingerprints import digest_of

FORMAT_VERSION = 4
HEADER = "header.json"


class _Header(BaseModel):
    model_config = ConfigDict(strict=True)

    format: Annotated[int, Field(ge=FORMAT_VERSION, le=FORMAT_VERSION)]
    images: Annotated[int, Field(ge=1)]
    features: Annotated[int, Field(ge=1)]
    kind: str
    head: str
    description: str
    computed_on: str
    stamps: list[str] | None
    key: dict[str, Any]
    head_checksum: int


def read_header(folder: Path) -> dict[str, Any]:
    """The header of the bank in a folder.

    Raises:
        OSError: There is none, or it cannot be read.
        ValueError: It is damaged, as a KeyError, TypeError, AttributeError or RecursionError says as well.
    """
    header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    if header.pop("checksum") != digest_of(header):
        raise ValueError("checksum of the header")
    return _Header.model_validate(header).model_dump()


def header_text(header: Mapping[str, Any]) -> str:
    """A header as it is written."""
    return json.dumps({**header, "checksum": digest_of(dict(header))})
