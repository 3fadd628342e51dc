"""Who is connected, and the wait for nobody being so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from uvicorn.server import ServerState

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Clients(ServerState):
    """The open connections, and the tasks that answer their requests."""

    def __init__(self) -> None:
        super().__init__()
        self.some = asyncio.Event()
        self.none = asyncio.Event()
        self.none.set()

    def joined(self, connection: HttpToolsProtocol) -> None:
        """Count a connection."""
        self.connections.add(connection)
        self.some.set()
        self.none.clear()

    def left(self, connection: HttpToolsProtocol) -> None:
        """Count it no more."""
        self.connections.discard(connection)
        if not self.connections:
            self.some.clear()
            self.none.set()
