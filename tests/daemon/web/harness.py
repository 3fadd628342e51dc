"""The whole app behind the real server, and clients of it."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import msgspec
from anyio import to_thread

from tests.daemon.harness import opened, until_idle
from transship.api.encoding import encoded
from transship.api.models import Order, Run
from transship.api.problem import MEDIA_TYPE, Problem
from transship.daemon.http.server import serving
from transship.daemon.listen import listening
from transship.daemon.web.app import make_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from transship.config import Settings
    from transship.daemon.service import Service

T = TypeVar("T")


@dataclass(frozen=True)
class Answering:
    """A service that answers on ``socket``."""

    service: Service
    socket: Path
    http: httpx.AsyncClient

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.http.get(path, **options)

    async def post(self, path: str, **options: Any) -> httpx.Response:
        return await self.http.post(path, **options)

    async def migrated(self, order: Order) -> Run:
        """The run that has done what ``order`` says."""
        answer = await self.post("/v1/runs", json=msgspec.to_builtins(order))
        assert answer.status_code == 202, answer.text
        await until_idle(self.service)
        return decoded(answer, Run)


@asynccontextmanager
async def answering(settings: Settings, socket: Path) -> AsyncIterator[Answering]:
    async with opened(settings) as service:
        listener = await to_thread.run_sync(listening, socket, settings.service.group)
        try:
            async with serving(make_app(service), listener.socket), client(socket) as http:
                yield Answering(service, socket, http)
        finally:
            await to_thread.run_sync(listener.close)


def client(socket: Path) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    return httpx.AsyncClient(transport=transport, base_url="http://service", timeout=20)


def decoded(answer: httpx.Response, kind: type[T]) -> T:
    """The good answer, which must be JSON of just these fields."""
    assert answer.is_success, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    found = msgspec.convert(json.loads(answer.content), kind)
    assert encoded(found) == answer.content
    return found


def problem(answer: httpx.Response, status: int) -> Problem:
    """The problem document, which must be of that status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    found = msgspec.json.decode(answer.content, type=Problem)
    assert found.status == status
    assert found.title
    assert found.detail
    assert found.exit_code > 0
    return found
