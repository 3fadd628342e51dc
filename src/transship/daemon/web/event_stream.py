"""A run's events as server-sent events (WHATWG HTML, section 9.2): from the log first, then as they happen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import anyio
from anyio import create_task_group, to_thread

from transship.daemon.tail import seq_of
from transship.engine.event_log import read_lines
from transship.errors import ServiceUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

    from transship.daemon.tail import Tail

MEDIA_TYPE = "text/event-stream"
_PIECE = 64 * 1024
_PAUSE = 0.1
"""Seconds in which what happens is gathered: what comes at once is sent at once."""
_SILENCE = 15.0
"""Seconds after which a comment is sent, so that a client that has gone is noticed."""
_TYPE = re.compile(rb'"type":"(\w+)"')


class Streams:
    """Counts the streams that are open."""

    def __init__(self) -> None:
        self.open = 0

    def ensure_room(self, limit: int) -> None:
        """Return if one more may be opened. Raises ServiceUnavailable."""
        if self.open >= limit:
            raise ServiceUnavailable(f"{limit} event streams are open", remedy="close one, or ask for the status instead")


async def follow(path: Path, tail: Tail | None, after: int) -> AsyncIterator[list[bytes]]:
    """Yield the lines of the event log ``path`` that follow number ``after``; with a ``tail`` go on until that is closed.

    Whoever iterates slowly holds up nobody: lines that the tail no longer has are in the file. Raises JournalError.
    """
    offset = 0
    while True:
        more = tail.more if tail else None
        lines = tail.after(after) if tail else None
        if lines is None:
            found, offset = await to_thread.run_sync(read_lines, path, offset, _PIECE)
            lines = [line for line in found if seq_of(line) > after]
            if found and not lines:
                continue
        if lines:
            after = seq_of(lines[-1])
            yield lines
        elif more is None or tail is None or tail.closed:
            return
        else:
            await more.wait()
            await anyio.sleep(_PAUSE)


class EventStream:
    """The answer that sends what ``follow`` yields, until the client goes. An ASGI app."""

    def __init__(self, lines: AsyncIterator[list[bytes]], streams: Streams) -> None:
        self._lines = lines
        self._streams = streams
        self._silent_since = 0.0

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        lock = anyio.Lock()

        async def put(data: bytes, *, more: bool = True) -> None:
            async with lock:
                await send({"type": "http.response.body", "body": data, "more_body": more})
                self._silent_since = anyio.current_time()

        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"cache-control", b"no-store")]
        self._streams.open += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await put(b":\n\n")
            async with create_task_group() as tasks:
                tasks.start_soon(self._until_gone, receive, tasks.cancel_scope)
                tasks.start_soon(self._keep_alive, put)
                async for lines in self._lines:
                    await put(b"".join(map(_sent, lines)))
                await put(b"", more=False)
                tasks.cancel_scope.cancel()
        finally:
            self._streams.open -= 1

    async def _keep_alive(self, put: Callable[[bytes], Awaitable[None]]) -> None:
        while True:
            await anyio.sleep_until(self._silent_since + _SILENCE)
            if anyio.current_time() >= self._silent_since + _SILENCE:
                await put(b":\n\n")

    @staticmethod
    async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()


def _sent(line: bytes) -> bytes:
    """Return one line of the log as it is sent."""
    kind = _TYPE.search(line)
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (seq_of(line), kind[1] if kind else b"message", line)
