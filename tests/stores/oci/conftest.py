"""A layout of one's own for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from transship.stores.oci.target import LayoutTarget

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the layout will be; not there yet."""
    return tmp_path / "layout"


@pytest.fixture
def target(directory: Path) -> LayoutTarget:
    target = LayoutTarget(directory)
    target.open()
    return target
