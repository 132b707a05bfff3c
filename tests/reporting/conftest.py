"""Pictures are what is tested here."""

import pytest


@pytest.fixture(autouse=True)
def unpainted() -> None:
    """Figures are painted, unlike elsewhere."""
