"""One connection: bytes in, requests to the app, answers out, within bounds."""

from __future__ import annotations

import urllib.parse
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from transship.daemon.http import refusal
from transship.daemon.http.deadline import Deadline
from transship.daemon.http.exchange import Exchange
from transship.daemon.http.outlet import Outlet
from transship.daemon.http.peer import EXTENSION, Connection

if TYPE_CHECKING:
    import asyncio

    from uvicorn.config import Config

    from transship.daemon.http.bounds import Bounds
    from transship.daemon.http.clients import Clients
    from transship.daemon.http.peer import Peer

_PER_HEADER = len(b": \r\n")
_FRAMING = 8  # a body in chunks of one byte is six times as long on the wire


class _Reading(Enum):
    """Which part of a request the next byte belongs to."""

    NOTHING = auto()
    HEAD = auto()
    BODY = auto()


class _Enough(Exception):
    """Raised inside the parser's callbacks to stop it: what follows is not heard."""


class Protocol(HttpToolsProtocol):
    """A connection of which the peer is known.

    A request goes to the app when it is there whole; while one is answered, some more may wait, and then reading pauses. So no
    app ever waits for a slow client's request. What breaks a bound is answered once all that came before it is answered, and
    nothing that comes after it is heard.
    """

    def __init__(self, config: Config, clients: Clients, bounds: Bounds, peer: Peer) -> None:
        super().__init__(config, clients, {})
        self._clients = clients
        self._bounds = bounds
        self._peer = peer
        self._extensions: dict[str, Any] = {}
        self._deadline = Deadline(self.loop, self._too_slow)
        self._reading = _Reading.NOTHING
        self._begun = False  # a head began in the data being read
        self._turned = False  # a head or a body ended in the data being read
        self._length = 0  # of the part being read, in bytes that came in data of its own
        self._body = bytearray()
        self._head_length = 0
        self._declared = 0
        self._keep_alive = True
        self._running: Exchange | None = None
        self._waiting: list[Exchange] = []
        self._deaf = False
        self._last_words = b""
        self._unread = Deadline(self.loop, self._not_reading)
        self._unsent = 0

    # Called by the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = Outlet(transport, self.loop)
        self.flow = FlowControl(transport)
        self.scheme = "http"
        self._extensions = {EXTENSION: Connection(self._peer, self.transport.abort)}
        self._deadline.set(self._bounds.head_within)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._deaf = True
        self._deadline.stop()
        self._unread.stop()
        self._waiting.clear()
        if self._running is not None:
            self._running.cut_off()
            self._running = None
        self.flow.resume_writing()
        self.parser = None  # type: ignore[assignment]  # it refers to this
        self._clients.left(self)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._pause()
            return
        self._begun = self._turned = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # answered like any request; what follows it may be another protocol
            self._hear_no_more()
        except httptools.HttpParserError:
            if not self._deaf:
                self._hear_no_more(refusal.NOT_HTTP)
        if not self._deaf:
            self._watch_the_rest(len(data))

    def _watch_the_rest(self, received: int) -> None:
        """Bound a part of which the end has not come: the parser does not tell of it, but holds some of it."""
        self._length = 0 if self._turned else self._length + received
        if self._reading is _Reading.BODY:
            if self._length > _FRAMING * self._bounds.body:
                self._hear_no_more(refusal.BODY_TOO_LARGE)
            elif self._turned:
                self._deadline.set(self._bounds.body_within)
        elif self._length > self._bounds.head:
            self._hear_no_more(refusal.HEAD_TOO_LARGE)
        elif self._begun and self._reading is _Reading.HEAD:
            self._deadline.set(self._bounds.head_within)
        if self._waiting and not self._deaf:
            self._pause()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_unsent()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._unread.clear()

    # Called by the parser.

    def on_message_begin(self) -> None:
        if self._deaf:
            raise _Enough
        super().on_message_begin()
        self.scope["extensions"] = self._extensions
        self._reading = _Reading.HEAD
        self._begun = True
        self._head_length = 0
        self._declared = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is _Reading.BODY:
            return  # a trailer: it must not pass for a header
        self._head_length += len(name) + len(value) + _PER_HEADER
        name = name.lower()
        if name == b"content-length":
            self._declared = int(value)
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._head_length + len(self.url) > self._bounds.head:
            self._refuse(refusal.HEAD_TOO_LARGE)
        if self._declared > self._bounds.body:
            self._refuse(refusal.BODY_TOO_LARGE)
        version = self.parser.get_http_version()
        url = httptools.parse_url(self.url)
        raw_path = url.path or b"/"
        if not raw_path.startswith(b"/"):  # "*": of the server as a whole there is nothing to ask
            self._refuse(refusal.NOT_HTTP)
        path = raw_path.decode("ascii")
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        self.scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        self.scope["raw_path"] = raw_path
        self.scope["query_string"] = url.query or b""
        self._keep_alive = version == "1.1" and self.parser.should_keep_alive() and not self.parser.should_upgrade()
        if self.expect_100_continue and self._running is None and version == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._turn_to(_Reading.BODY)

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > self._bounds.body:
            self._refuse(refusal.BODY_TOO_LARGE)

    def on_message_complete(self) -> None:
        self._turn_to(_Reading.NOTHING)
        body = bytes(self._body)
        self._body.clear()
        exchange = Exchange(
            self.scope,
            body,
            self.transport,
            self.flow,
            keep_alive=self._keep_alive,
            on_response=self.on_response_complete,
        )
        if len(self.tasks) >= self._bounds.connections:  # the apps of clients that are gone may still run
            self._refuse(refusal.TOO_MANY)
        if self._running is None:
            self._begin(exchange)
        else:
            self._waiting.append(exchange)
        if len(self._waiting) >= self._bounds.pipelined or not self._keep_alive:
            self._hear_no_more()

    # Exchanges, one after another.

    def _begin(self, exchange: Exchange) -> None:
        self._running = exchange
        if self._reading is _Reading.NOTHING:
            self._deadline.clear()
        self._start_asgi_task(exchange, self.app)

    def on_response_complete(self) -> None:
        self._running = None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._watch_unsent()
        elif self._waiting:
            self._begin(self._waiting.pop(0))
            if not self._waiting and not self._deaf:
                self._resume()
        elif self._deaf:
            self._close(self._last_words)
        elif self._reading is _Reading.NOTHING:
            self._deadline.set(self._bounds.idle_within)

    def shutdown(self) -> None:
        """Close when what was asked is answered: at once if nothing was."""
        self._hear_no_more()

    # Bounds.

    def _turn_to(self, part: _Reading) -> None:
        self._reading = part
        self._turned = True

    def _refuse(self, answer: bytes) -> None:
        self._hear_no_more(answer)
        raise _Enough

    def _hear_no_more(self, answer: bytes = b"") -> None:
        """Answer what was asked so far, then with ``answer``, then close."""
        if self._deaf:
            return
        self._deaf = True
        self._deadline.clear()
        self._body.clear()
        if self._running is None:
            self._close(answer)
            return
        self._last_words = answer
        if not answer:
            last = self._waiting[-1] if self._waiting else self._running
            last.keep_alive = False  # its answer says so

    def _close(self, answer: bytes) -> None:
        if answer:
            self.transport.write(answer)
        self.transport.close()
        self._watch_unsent()

    def _too_slow(self) -> None:
        started = self._reading is not _Reading.NOTHING
        self._hear_no_more(refusal.TOO_SLOW if started else b"")

    def _pause(self) -> None:
        if not self.transport.is_closing():
            self.flow.pause_reading()
            self._deadline.clear()  # it is not the client who is slow

    def _resume(self) -> None:
        self.flow.resume_reading()
        if self._reading is not _Reading.NOTHING:
            head = self._reading is _Reading.HEAD
            self._deadline.set(self._bounds.head_within if head else self._bounds.body_within)

    def _watch_unsent(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        if self._unsent:
            self._unread.set(self._bounds.read_within)

    def _not_reading(self) -> None:
        """Cut off a client that takes nothing of what is sent to it, however the answer goes on."""
        if self.transport.get_write_buffer_size() < self._unsent:
            self._watch_unsent()
        else:
            self.transport.abort()
