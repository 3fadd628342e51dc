from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import SOCKET_VARIABLE, Sample, Service, add_endless_layer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return Sample(tmp_path)


@pytest.fixture
def service(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service that keeps its journal where the sample does, and to which commands turn."""
    with Service(sample.state) as service:
        monkeypatch.setenv(SOCKET_VARIABLE, str(service.socket))
        service.start()
        yield service


@pytest.fixture
def endless(sample: Sample) -> Sample:
    """The sample, with an image whose migration goes on until it is stopped."""
    sample.builder.add_image(add_endless_layer(sample.builder), "endless:1")
    return sample
