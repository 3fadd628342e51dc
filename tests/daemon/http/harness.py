"""Servers of small apps, and clients that can misbehave."""

from __future__ import annotations

import json
import os
import socket
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
from anyio import to_thread

from transship.daemon.http.bounds import Bounds
from transship.daemon.http.server import Server, serving
from transship.daemon.listen import listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SOON = 20
"""Seconds after which a test has failed."""

GET = b"GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n"


async def answer(send: Any, body: bytes, *headers: tuple[bytes, bytes], status: int = 200) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what was asked."""
    request = await receive()
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    said = {"method": scope["method"], "path": scope["path"], "query": scope["query_string"].decode("latin-1")}
    await answer(send, json.dumps(said | {"headers": headers, "body": request["body"].decode("latin-1")}).encode())


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@asynccontextmanager
async def listening_at(path: Path) -> AsyncIterator[socket.socket]:
    """Listen at ``path``, which asks the file system, and so is done beside the event loop."""
    listener = await to_thread.run_sync(listening, path, "no-such-group")
    try:
        yield listener.socket
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(listener.close)


@asynccontextmanager
async def running(path: Path, app: Any = hello, **bounds: Any) -> AsyncIterator[Server]:
    """Serve ``app``; at the end, wait until all clients are gone, and see that nothing was left open."""
    with anyio.fail_after(SOON):
        async with listening_at(path) as listening_, serving(app, listening_, Bounds(**bounds)) as server:
            async with Client.of(path) as first:  # what the event loop opens once for all is open then
                await first.send(GET)
                assert (await first.answer()).status in {200, 500}
            await server.idle()
            before = open_files()
            yield server
            await server.idle()
            assert server.connections == 0
            while open_files() > before:
                await anyio.lowlevel.checkpoint()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        document: dict[str, Any] = json.loads(self.body)
        assert document["status"] == self.status
        return document


class Client:
    """A raw connection to a server."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._received = b""

    @classmethod
    @asynccontextmanager
    async def of(cls, path: Path) -> AsyncIterator[Client]:
        with socket.socket(socket.AF_UNIX) as connected:
            connected.setblocking(False)
            while True:
                try:
                    connected.connect(os.fspath(path))
                except BlockingIOError:  # so many wait to be accepted
                    await anyio.lowlevel.checkpoint()
                else:
                    break
            yield cls(connected)

    async def send(self, data: bytes) -> None:
        """Send all of it. Raises OSError if the server does not want it."""
        left = memoryview(data)
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)

    async def receive(self) -> bytes:
        """Return what comes next, nothing at the end, however the server ended it."""
        while True:
            with suppress(BlockingIOError):
                try:
                    return self._socket.recv(65536)
                except ConnectionResetError:
                    return b""
            await anyio.wait_readable(self._socket)

    async def until(self, mark: bytes) -> bytes:
        """Return what comes up to ``mark`` and with it."""
        while mark not in self._received:
            more = await self.receive()
            assert more, self._received
            self._received += more
        wanted, _, self._received = self._received.partition(mark)
        return wanted + mark

    async def answer(self) -> Answer:
        head = (await self.until(b"\r\n\r\n")).decode("latin-1").removesuffix("\r\n\r\n")
        status, *lines = head.split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers["content-length"])
        while len(self._received) < length:
            more = await self.receive()
            assert more
            self._received += more
        body, self._received = self._received[:length], self._received[length:]
        return Answer(int(status.split()[1]), headers, body)

    async def rest(self) -> bytes:
        """Return all that comes until the end."""
        while more := await self.receive():
            self._received += more
        rest, self._received = self._received, b""
        return rest


async def asked(path: Path, request: bytes = GET) -> Answer:
    """Return the answer that a client gets that does nothing wrong."""
    async with Client.of(path) as client:
        await client.send(request)
        return await client.answer()
