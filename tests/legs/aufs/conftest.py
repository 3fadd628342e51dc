from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import unpack_archive
from tests.stores.graph.builder import GraphBuilder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = Path(__file__).parents[2] / "data" / "graph"


@pytest.fixture
def unpacked(as_root: None, tmp_path: Path) -> Callable[[str], Path]:  # noqa: ARG001
    """Unpack a data root of tests/data/graph by name, and return it."""

    def unpack(name: str) -> Path:
        root = tmp_path / name
        root.mkdir()
        unpack_archive(DATA / f"docker-{name}.tar.zst", root)
        return root

    return unpack


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory: where there are many changes, a disk would be slow to write them out."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        yield Path(place)


@pytest.fixture
def builder(place: Path) -> GraphBuilder:
    """An empty store as of Docker 0.6."""
    return GraphBuilder(place / "docker", None)
