"""Asks the service over its socket."""

from __future__ import annotations

import errno
import json
import os
import re
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
import httpx
import msgspec
from anyio import to_thread

from transship.api.models import MAX_RUNS, MAX_STEPS, Order, Run, RunDetails, Runs, Status
from transship.api.problem import Problem
from transship.errors import AccessDenied, Detached, RunNotFound, ServiceUnavailable, TransshipError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator
    from pathlib import Path
    from types import TracebackType

T = TypeVar("T")

_CONNECT_WITHIN = 30.0
"""Seconds: a service that is started by its socket, and other clients, come first."""
_ANSWER_WITHIN = 30.0
_RUN = re.compile(r"[0-9A-Za-z-]+")
_WITHOUT = "`migrate`, `resume` and `rollback` can do without it: --direct"


class Client:
    """A connection to the service behind the socket ``path``; an asynchronous context manager.

    All methods raise ServiceUnavailable if nobody answers, and the errors that the service tells of; those that have it do
    something raise Detached if they are cancelled, since it may do it all the same.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(path)),
            base_url="http://transship",
            timeout=httpx.Timeout(_ANSWER_WITHIN, connect=_CONNECT_WITHIN),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._http.aclose()

    async def status(self) -> Status:
        """Return how things stand."""
        return _converted(await self._ask("GET", "/v1/status"), Status)

    async def runs(self) -> list[Run]:
        """Return the newest runs, the newest first."""
        return _converted(await self._ask("GET", f"/v1/runs?limit={MAX_RUNS}"), Runs).runs

    async def run(self, run: str) -> RunDetails:
        """Return a run, with those of its steps that failed."""
        return _converted(await self._ask("GET", f"{_path(run)}?state=failed&limit={MAX_STEPS}"), RunDetails)

    async def start(self, order: Order) -> tuple[Run, bool]:
        """Have a migration begun; return its run, and whether it was not going on already. Raises RunGoesOn."""
        answer = await self._ask("POST", "/v1/runs", msgspec.json.encode(order))
        return _converted(answer, Run), answer.status_code == HTTPStatus.ACCEPTED

    async def cancel(self, run: str) -> Run:
        """Have ``run`` stopped; return when it has."""
        return _converted(await self._ask("POST", f"{_path(run)}/cancel"), Run)

    async def resume(self, run: str) -> Run:
        """Have ``run`` gone on with."""
        return _converted(await self._ask("POST", f"{_path(run)}/resume"), Run)

    async def rollback(self, run: str) -> Run:
        """Have what ``run`` made removed."""
        return _converted(await self._ask("POST", f"{_path(run)}/rollback"), Run)

    async def events(self, run: str, after: int = 0, *, further: bool = True) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the events of ``run`` that follow number ``after``, as JSON objects.

        Then go on, if ``further``, until the service is no longer at the run.
        """
        path = f"{_path(run)}/events?follow={'true' if further else 'false'}"
        headers = {"last-event-id": str(after)}
        with self._reaching():  # a silence on the stream the service breaks sooner than we lose patience
            async with self._http.stream("GET", path, headers=headers) as answer:
                if answer.is_error:
                    await answer.aread()
                    raise _error(answer)
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        yield json.loads(line.removeprefix("data: "))

    async def _ask(self, method: str, path: str, content: bytes | None = None) -> httpx.Response:
        headers = {"content-type": "application/json"} if content is not None else {}
        # What is asked for with POST may have to wait for steps that come to their end, or for a store to be read.
        timeout = httpx.Timeout(None if method == "POST" else _ANSWER_WITHIN, connect=_CONNECT_WITHIN)
        try:
            with self._reaching():
                answer = await self._http.request(method, path, content=content, headers=headers, timeout=timeout)
        except anyio.get_cancelled_exc_class():
            if method != "POST":
                raise
            raise Detached(
                "the service was asked, and may do it, but this command no longer waits for its answer",
                remedy="see `transship status`",
            ) from None
        if answer.is_error:
            raise _error(answer)
        return answer

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turn what keeps us from the service into ServiceUnavailable."""
        try:
            yield
        except httpx.RequestError as error:
            late = isinstance(error, httpx.TimeoutException)
            reason = f"no answer within {_ANSWER_WITHIN:g} s" if late else str(error) or type(error).__name__
            raise ServiceUnavailable(
                f"the service at {self._path} does not answer: {reason}",
                remedy=f"see `systemctl status transship.service`; {_WITHOUT}",
            ) from error


@asynccontextmanager
async def reached(path: Path, state_dir: Path) -> AsyncIterator[Client | None]:
    """Yield a client of the service at ``path``; None if there is none, or if it keeps its journal elsewhere.

    Raises AccessDenied if the socket is not for us, and ServiceUnavailable if something listens that does not answer.
    """
    if not await _listens(path):
        yield None
        return
    async with Client(path) as client:
        theirs = (await client.status()).state_dir
        same = await to_thread.run_sync(lambda: os.path.realpath(theirs) == os.path.realpath(state_dir))
        yield client if same else None


async def _listens(path: Path) -> bool:
    try:
        connection = await anyio.connect_unix(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except PermissionError as error:
        raise AccessDenied(
            f"{path}: {error.strerror}",
            remedy=f"ask as root, or as a member of the group that the socket belongs to; {_WITHOUT}",
        ) from error
    except OSError as error:
        if error.errno in {errno.ENOTDIR, errno.ENOTSOCK, None}:  # None: no socket has a path that long
            return False
        raise ServiceUnavailable(f"{path}: {error}", remedy="see `systemctl status transship.socket`") from error
    await connection.aclose()
    return True


def _converted(answer: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.convert(json.loads(answer.content), kind)
    except ValueError as error:
        raise ServiceUnavailable(
            f"what answers is not the transship service, or one of another version: {error}",
            remedy=f"start it anew: `systemctl restart transship.service`; {_WITHOUT}",
        ) from error


def _error(answer: httpx.Response) -> TransshipError:
    try:
        return msgspec.json.decode(answer.content, type=Problem).as_error()
    except ValueError:
        return ServiceUnavailable(
            f"what answers is not the transship service: {answer.status_code} {answer.reason_phrase}",
            remedy=f"see which program listens there; {_WITHOUT}",
        )


def _path(run: str) -> str:
    """Return where ``run`` is. Raises RunNotFound for what cannot be a run's ID."""
    if not _RUN.fullmatch(run):
        raise RunNotFound(f"there is no run {run!r}", remedy="see the runs with `transship status`")
    return f"/v1/runs/{run}"
