from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.files.trees import descriptors
from tests.stores.buildkit.caches import BUILDKIT, DOCKER, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


@pytest.fixture(params=[BUILDKIT, DOCKER])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A cache of BuildKit, and one of Docker."""
    return unpack(str(request.param), tmp_path / "cache")


@pytest.fixture
def buildkit(tmp_path: Path) -> Path:
    """BuildKit's cache."""
    return unpack(BUILDKIT, tmp_path / "cache")


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    """Docker's cache."""
    return unpack(DOCKER, tmp_path / "cache")
