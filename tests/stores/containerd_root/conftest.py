"""containerd's root of one's own for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from transship.stores.containerd_root.target import ContainerdRootTarget

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the root will be; not there yet."""
    return tmp_path / "root"


@pytest.fixture
def target(directory: Path) -> Iterator[ContainerdRootTarget]:
    """A target that is open."""
    target = ContainerdRootTarget(directory)
    target.open()
    yield target
    target.close()


@pytest.fixture
def held(target: ContainerdRootTarget) -> Iterator[ContainerdRootTarget]:
    """The same, during a run; what is left after it is collected."""
    target.hold("test")
    yield target
    target.release("test")
