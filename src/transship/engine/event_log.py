"""A run's events as JSON lines, in ``<state_dir>/runs/<run>/events.jsonl``.

Each line is an event's ``to_json`` with ``seq`` in front: 1, 2, 3 … without a gap, also across the attempts of a run.
"""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiofiles
from anyio import (
    BrokenResourceError,
    CancelScope,
    EndOfStream,
    WouldBlock,
    create_memory_object_stream,
    create_task_group,
    to_thread,
)

from transship.engine.events import Event
from transship.engine.groups import first_error
from transship.engine.state_dir import make_state_dir, run_directory
from transship.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from aiofiles.threadpool.binary import AsyncBufferedIOBase
    from anyio.streams.memory import MemoryObjectReceiveStream

    from transship.engine.events import EventSink

FILE_NAME = "events.jsonl"
_BACKLOG = 256
"""Events that may wait for the disk before the run does."""
_TAIL = 64 * 1024


def event_log_path(state_dir: Path, run: str) -> Path:
    """Return where the events of ``run`` are."""
    return run_directory(state_dir, run) / FILE_NAME


def read_lines(path: Path, offset: int, size: int) -> tuple[list[bytes], int]:
    """Return whole lines of an event log from ``offset`` (bytes), ``size`` bytes or one line at least, and where to go on.

    No lines: there are no more so far. Raises JournalError.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
            while data and b"\n" not in data and (more := file.read(size)):
                data += more
    except FileNotFoundError:
        return [], offset
    except OSError as error:
        raise JournalError(f"cannot read {path}: {error}", remedy="check its file system and permissions") from error
    whole = data[: data.rfind(b"\n") + 1]
    return whole.splitlines(), offset + len(whole)


@asynccontextmanager
async def open_event_log(state_dir: Path, run: str, written: Callable[[bytes], None]) -> AsyncIterator[EventSink]:
    """Yield a sink that appends each event to the log of ``run``; when the block is left, all of them have been written.

    ``written`` gets the lines that have been added, each time.

    A slow disk holds up whoever hands in events, never the event loop, and cancellation loses none. Raises JournalError if
    the file cannot be read or written: from the sink, else from leaving the block.
    """
    path = event_log_path(state_dir, run)
    await to_thread.run_sync(make_state_dir, path.parent)
    log = _EventLog(path, written)
    failure: Exception | None = None
    try:
        async with create_task_group() as tasks:
            tasks.start_soon(log.write_all)
            try:
                yield log.emit
            finally:
                log.close()
    except ExceptionGroup as group:
        failure = first_error(group)
    if failure := failure or log.error:
        raise failure


class _EventLog:
    def __init__(self, path: Path, written: Callable[[bytes], None]) -> None:
        self._path = path
        self._written = written
        self._send, self._receive = create_memory_object_stream[Event](_BACKLOG)
        self.error: JournalError | None = None

    async def emit(self, event: Event) -> None:
        try:
            await self._send.send(event)
        except BrokenResourceError:
            if self.error is None:
                raise
            raise self.error from None

    def close(self) -> None:
        self._send.close()

    async def write_all(self) -> None:
        """Write until the sink is closed. Shielded: what was handed in is written, even if the run is being cancelled."""
        with CancelScope(shield=True), self._receive as events:
            try:
                async with aiofiles.open(self._path, "a+b") as file:
                    seq = await self._last_seq(file)
                    async for event in events:
                        batch = [event, *_waiting(events)]
                        lines = b"".join(_line(number, event) for number, event in enumerate(batch, seq + 1))
                        await file.write(lines)
                        await file.flush()
                        seq += len(batch)
                        self._written(lines)
            except OSError as error:
                self.error = JournalError(f"cannot write {self._path}: {error}", remedy="check its file system and room")
                self.error.__cause__ = error
            except JournalError as error:
                self.error = error

    async def _last_seq(self, file: AsyncBufferedIOBase) -> int:
        """Cut off a last line that a crash has torn, and return the number of the one before it, 0 if there is none."""
        start = await file.seek(0, os.SEEK_END)
        tail = b""
        while start > 0 and tail.count(b"\n") < 2:
            size = min(_TAIL, start)
            start = await file.seek(start - size)
            tail = await file.read(size) + tail
        whole = tail[: tail.rfind(b"\n") + 1]
        if len(whole) < len(tail):
            await file.truncate(start + len(whole))
        await file.seek(0, os.SEEK_END)
        if not whole:
            return 0
        try:
            return int(json.loads(whole.splitlines()[-1])["seq"])
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(f"{self._path} is damaged", remedy="move it aside; nothing else depends on it") from error


def _waiting(events: MemoryObjectReceiveStream[Event]) -> list[Event]:
    waiting: list[Event] = []
    try:
        while len(waiting) < _BACKLOG:
            waiting.append(events.receive_nowait())
    except (WouldBlock, EndOfStream):
        pass
    return waiting


def _line(seq: int, event: Event) -> bytes:
    fields: dict[str, Any] = {"seq": seq} | event.to_json()
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"
