from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.stores.docker.builder import DRIVERS, StoreBuilder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def builder(tmp_path: Path, driver: str) -> StoreBuilder:
    """An empty store, of each driver in turn."""
    return StoreBuilder(tmp_path / "docker", driver)
