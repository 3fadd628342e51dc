from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blockbuster import blockbuster_ctx
from structlog.testing import capture_logs

from tests.cli.harness import Sample
from transship.config import RunSettings, ServiceSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def _no_blocking_of_the_loop() -> Iterator[None]:
    with blockbuster_ctx("transship"):
        yield


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged."""
    with capture_logs() as entries:
        yield entries


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
def settings(sample: Sample, tmp_path: Path) -> Settings:
    """Settings of a service that keeps to the test's own places."""
    service = ServiceSettings(group="no-such-group", textfile=tmp_path / "transship.prom", stop_within=20)
    return Settings(run=RunSettings(state_dir=sample.state), service=service)
