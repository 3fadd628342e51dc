"""What the document says is what the service does: schemathesis asks a running one all that the document allows, and more."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from requests.adapters import HTTPAdapter
from schemathesis.config import SchemathesisConfig
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from tests.cli.harness import Sample
from tests.daemon.harness import order
from tests.daemon.process import Served, served
from tests.daemon.web.test_openapi import DOCUMENT

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONFIG = SchemathesisConfig.from_dict(
    {
        "generation": {"mode": "all"},
        "checks": {
            # What is right by its form may still be refused: a level that the codec does not have, a source that is not there.
            "positive_data_acceptance": {"expected-statuses": ["2xx", 400, 404, 409, 422]},
            # What is wrong by its size is refused before anyone looks at its form.
            "negative_data_rejection": {"expected-statuses": [400, 404, 405, 409, 413, 415, 422, 431]},
        },
    }
)
schema = schemathesis.openapi.from_dict(DOCUMENT, config=_CONFIG)


class _Connection(HTTPConnection):
    path = ""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self.path)


class _OverSocket(HTTPAdapter):
    """Lets requests, which schemathesis asks with, go to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._pool = HTTPConnectionPool("service")
        self._pool.ConnectionCls = type("_To", (_Connection,), {"path": os.fspath(path)})

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        self._pool.close()


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[Served, str]]:
    """A service with a run that is done. What is started without a source has none: nothing can be written anywhere."""
    with tempfile.TemporaryDirectory(prefix="transship-") as directory:
        place = Path(directory)
        sample = Sample(place)
        config = "\n".join(
            [
                f'source.directory = "{place}/nowhere"',
                f'target.to = "oci:{place}/fuzzed"',
                f'service.textfile = "{place}/transship.prom"',
            ]
        )
        with served(place, sample.state, config=config) as there:
            run = there.start(order(sample)).id
            there.until_idle()
            yield there, run
            assert there.http.get("/v1/health").status_code == 200
            assert not [entry for entry in there.log if "exception" in entry or "exc_info" in entry]


@schema.parametrize()
@settings(
    max_examples=100,
    deadline=None,
    derandomize="CI" in os.environ,  # elsewhere each time others; a failure says how to have them again
    suppress_health_check=list(HealthCheck),
)
def test_the_service_keeps_to_its_document(case: schemathesis.Case[Any], service: tuple[Served, str]) -> None:
    there, run = service
    if case.meta is not None and case.meta.generation.mode.is_positive and len(case.path_parameters.get("run", "")) % 2:
        case.path_parameters["run"] = run
    with requests.Session() as session:
        session.mount("http://", _OverSocket(there.path))
        session.trust_env = False
        case.call_and_validate(base_url="http://service", session=session)
