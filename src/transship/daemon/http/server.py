"""Accepts connections, and ends them."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import structlog
from uvicorn.config import Config

from transship.daemon.http import refusal
from transship.daemon.http.bounds import Bounds
from transship.daemon.http.clients import Clients
from transship.daemon.http.peer import peer_of
from transship.daemon.http.protocol import Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

_log = structlog.get_logger(__name__)
_AT_ONCE = 64  # connections accepted before the loop turns to those that are open


class Server:
    """Serves an ASGI app on a listening socket; made by ``serving``.

    It accepts by itself instead of leaving it to the event loop: uvloop closes a listening socket for good, and silently, when
    accepting fails once. Nothing here wakes up while no connection is open.
    """

    def __init__(self, app: Any, listening: socket.socket, bounds: Bounds) -> None:
        self._listening = listening
        self._bounds = bounds
        self._owners = {0, os.geteuid()}
        self._config = Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
        )
        self._config.load()
        self._clients = Clients()
        self._loop = asyncio.get_running_loop()
        self._joining: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._clients.connections)

    @property
    def requests(self) -> int:
        """How many requests were answered."""
        return self._clients.total_requests

    async def idle(self) -> None:
        """Wait until no connection is open."""
        await self._clients.none.wait()

    async def opened(self) -> None:
        """Wait until a connection is open, or one was opened since the call."""
        await self._clients.some.wait()

    def accept(self) -> None:
        """Begin to accept connections."""
        self._pause = None
        self._loop.add_reader(self._listening.fileno(), self._accept_some)

    async def end(self) -> None:
        """Accept no more, and close the listening socket; let requests be answered for a while, then cancel and cut them off.

        Connections that wait to be accepted stay with whoever else holds the listening socket, such as systemd.
        """
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listening.fileno())
        self._listening.close()
        await self._wait_for(self._joining)
        for connection in list(self._clients.connections):
            connection.shutdown()
        if not await self._all_gone():
            for task in list(self._clients.tasks):
                task.cancel()
            for connection in list(self._clients.connections):
                connection.transport.abort()
            if not await self._all_gone():
                _log.error("requests go on that were cancelled", requests=len(self._clients.tasks))

    async def _all_gone(self) -> bool:
        with anyio.move_on_after(self._bounds.end_within):
            await self._clients.none.wait()
            await self._wait_for(self._clients.tasks)
            return True
        return False

    async def _wait_for(self, tasks: set[asyncio.Task[None]]) -> None:
        if tasks:
            await asyncio.wait(set(tasks))

    def _accept_some(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connected, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._accept_later(error)
                return
            self._welcome(connected)

    def _accept_later(self, error: OSError) -> None:
        """Leave connections waiting: the socket stays readable, and would be tried without a rest."""
        _log.warning("cannot accept a connection", error=str(error), again_after=self._bounds.accept_again_after)
        self._loop.remove_reader(self._listening.fileno())
        self._pause = self._loop.call_later(self._bounds.accept_again_after, self.accept)

    def _welcome(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        try:
            peer = peer_of(connected)
            room = self._bounds.connections - (0 if peer.uid in self._owners else self._bounds.reserved)
            if len(self._clients.connections) >= room:
                connected.send(refusal.TOO_MANY)
                connected.close()
                return
        except OSError as error:  # the client is gone, or the kernel does not know who it is
            _log.debug("a connection was dropped", error=str(error))
            connected.close()
            return
        connection = Protocol(self._config, self._clients, self._bounds, peer)
        self._clients.joined(connection)
        task = self._loop.create_task(self._join(connected, connection))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    async def _join(self, connected: socket.socket, connection: Protocol) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, connected)
        except OSError as error:
            _log.debug("a connection was dropped", error=str(error))
            connected.close()
            self._clients.left(connection)


@asynccontextmanager
async def serving(app: Any, listening: socket.socket, bounds: Bounds | None = None) -> AsyncIterator[Server]:
    """Serve the ASGI ``app`` on ``listening`` (AF_UNIX, listening, not blocking), which it closes at the end.

    Requests have ``scope["extensions"]["transship"]``: see ``peer.connection_of``. There are no lifespan events. The end is
    graceful, within ``bounds.end_within``, also if the block was cancelled.
    """
    server = Server(app, listening, bounds or Bounds())
    server.accept()
    try:
        yield server
    finally:
        with anyio.CancelScope(shield=True):
            await server.end()
