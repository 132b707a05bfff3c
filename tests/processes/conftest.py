"""Fixtures for commands of several processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.forks import Forks, forks


@pytest.fixture(scope="session", name="forks")
def _forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Runs the program in several processes at once."""
    with forks(tmp_path_factory.mktemp("forks")) as made:
        yield made
