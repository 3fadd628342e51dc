from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from blockbuster import blockbuster_ctx

from tests.cli.harness import Sample, Service

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def _no_blocking_of_the_loop() -> Iterator[None]:
    with blockbuster_ctx("transship"):
        yield


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path is short enough for sockets, and open to other users."""
    with tempfile.TemporaryDirectory(prefix="transship-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return Sample(tmp_path)


@pytest.fixture
def service(sample: Sample) -> Iterator[Service]:
    with Service(sample.state) as service:
        service.start()
        yield service
