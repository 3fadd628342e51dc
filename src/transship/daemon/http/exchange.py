"""One request and its answer: what the app calls as ``receive`` and ``send``."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from email.utils import formatdate
from typing import TYPE_CHECKING

import structlog
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from transship.daemon.http import refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvicorn._types import ASGI3Application, ASGIReceiveEvent, ASGISendEvent, HTTPScope
    from uvicorn.protocols.http.flow_control import FlowControl

_log = structlog.get_logger(__name__)
_unused = logging.getLogger("uvicorn")  # the class above wants loggers, and only uses them in what is replaced here


class ClientGone(OSError):
    """Raised by ``send`` when the client has closed the connection, or was cut off. The app ends by it; nobody sees it."""


class Exchange(RequestResponseCycle):
    """A request that is there whole, body and all, and the answer to it.

    Unlike the class it extends, ``send`` raises ClientGone when the client is gone, as later versions of ASGI have it: without,
    an app that streams without end would go on, and leave the event loop no time for anything else.
    """

    def __init__(
        self,
        scope: HTTPScope,
        body: bytes,
        transport: asyncio.Transport,
        flow: FlowControl,
        *,
        keep_alive: bool,
        on_response: Callable[[], None],
    ) -> None:
        super().__init__(
            scope=scope,
            transport=transport,
            flow=flow,
            logger=_unused,
            access_logger=_unused,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=on_response,
        )
        self._request: ASGIReceiveEvent | None = {"type": "http.request", "body": body, "more_body": False}

    def cut_off(self) -> None:
        """Tell the app that its client is gone."""
        self.disconnected = True
        self.message_event.set()

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Let the app answer. If it fails, or ends without an answer, the client gets a 500 or, in the middle, its end."""
        try:
            try:
                await app(self.scope, self.receive, self.send)
            except* ClientGone:
                pass
            if self._unanswered():
                _log.error("no whole answer to a request", method=self.scope["method"], path=self.scope["path"])
        except Exception:  # noqa: BLE001 - the app's errors end here: one request must not end the service
            _log.exception("a request failed", method=self.scope["method"], path=self.scope["path"])
        finally:
            if self._unanswered():
                with suppress(ClientGone):
                    await self._give_up()
            self.on_response = lambda: None  # refers to the connection, which refers to this

    async def receive(self) -> ASGIReceiveEvent:
        if self._request is not None:
            request, self._request = self._request, None
            return request
        await self.message_event.wait()  # set when the answer is complete, or the client gone
        return {"type": "http.disconnect"}

    async def send(self, message: ASGISendEvent) -> None:
        if self.flow.write_paused:
            await self.flow.drain()  # ends when the connection does, too
        if self.disconnected or self.transport.is_closing():
            raise ClientGone
        if not self.response_started:
            self.default_headers = [_date.header()]
        await super().send(message)

    def _unanswered(self) -> bool:
        """Return whether the client is there and still waits for an answer, or for the rest of it."""
        return not (self.response_complete or self.disconnected or self.transport.is_closing())

    async def _give_up(self) -> None:
        if self.response_started:  # what was sent is not whole, and the client must see it
            self.transport.abort()
            return
        headers = [
            (b"content-type", refusal.CONTENT_TYPE),
            (b"content-length", b"%d" % len(refusal.FAILED)),
            (b"connection", b"close"),
        ]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": refusal.FAILED, "more_body": False})


class _Date:
    """The Date header, made when an answer needs it, at most once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._header = (b"date", b"")

    def header(self) -> tuple[bytes, bytes]:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._header = (b"date", formatdate(second, usegmt=True).encode())
        return self._header


_date = _Date()
