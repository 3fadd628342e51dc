from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.v1_stores import copy_v1_root

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def v1_root(docker_fixture: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a copy of a store that Docker 1.9.1 wrote, by name."""
    return lambda name: copy_v1_root(docker_fixture(name), tmp_path / name)
