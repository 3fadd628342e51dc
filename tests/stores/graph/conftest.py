from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.stores.graph.builder import DRIVERS, GraphBuilder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def builder(tmp_path: Path, driver: str) -> GraphBuilder:
    """An empty store, of each driver in turn."""
    return GraphBuilder(tmp_path / "docker", driver)
