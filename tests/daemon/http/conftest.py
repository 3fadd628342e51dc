from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from blockbuster import blockbuster_ctx

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def _no_blocking_of_the_loop() -> Iterator[None]:
    with blockbuster_ctx("transship"):
        yield


@pytest.fixture
def path() -> Iterator[Path]:
    """Where a server may listen: short enough for a socket, and open to other users."""
    with tempfile.TemporaryDirectory(prefix="transship-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory) / "test.sock"
