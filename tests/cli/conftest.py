from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import Sample

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return Sample(tmp_path)
