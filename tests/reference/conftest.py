"""What the checks against published numbers share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def shared_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes that run the tests."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if hasattr(request.config, "workerinput") else root) / "reference-cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def one_cache_for_all(isolated: None, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of the same network on the same images are computed once for all tests here."""
    monkeypatch.setenv("DECOMPOSE_CACHE", str(shared_cache))


@pytest.fixture(scope="session")
def published(reference_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (reference_dir / "reference" / "published-code-on-shared-data.json").read_text()
    )
    return content
