from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(place: Path) -> Path:
    """Where a server may listen."""
    return place / "test.sock"
