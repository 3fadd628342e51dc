from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.legs.graph.upgrades import Upgrade, upgrade_of
from tests.stores.graph.builder import GraphBuilder
from tests.v1_stores import copy_v1_root

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def v1_root(docker_fixture: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a copy of a store that Docker 1.9.1 wrote, by name."""
    return lambda name: copy_v1_root(docker_fixture(name), tmp_path / name)


@pytest.fixture
def builder(tmp_path: Path) -> GraphBuilder:
    return GraphBuilder(tmp_path / "docker")


@pytest.fixture
def upgrade(builder: GraphBuilder, tmp_path: Path) -> Upgrade:
    return upgrade_of(builder.root, tmp_path / "state")
