"""One writer at a time: the lock on the state directory."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from transship.engine.state_dir import make_state_dir
from transship.errors import JournalError, StateLocked

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

FILE_NAME = "lock"
_MAX_HOLDER = 64 * 1024


class StateLock:
    """An exclusive lock (flock(2)) on ``<state_dir>/lock``, held from ``acquire`` to ``release``; a context manager.

    The kernel lets go of it when its process dies, however it dies. The file stays, and says who holds it, for the message
    that the next one gets: ``{"pid": 1, "command": "…", "started": "2026-11-20T18:45:12+00:00"}``.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, at once or not at all.

        Raises StateLocked, naming the holder, and JournalError if the file cannot be opened.
        """
        make_state_dir(self._state_dir)
        path = self._state_dir / FILE_NAME
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _myself(), 0)
            except BlockingIOError:
                holder = os.pread(descriptor, _MAX_HOLDER, 0)
                os.close(descriptor)
                raise StateLocked(
                    f"{self._state_dir} is in use by {_described(holder)}",
                    remedy="wait for it to end, or use another state directory",
                ) from None
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise JournalError(f"cannot lock {path}: {error}", remedy="check its file system and permissions") from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go of the lock; without effect if it is not held."""
        if self._descriptor is not None:
            with suppress(
                OSError
            ):  # on a disk that has failed: the lock goes all the same, and errors before this one matter more
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def _myself() -> bytes:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "command": shlex.join(sys.argv), "started": started}).encode()


def _described(holder: bytes) -> str:
    try:
        fields = json.loads(holder)
        return f"process {fields['pid']}, started {fields['started']}: {fields['command']}"
    except (ValueError, KeyError, TypeError):  # it has the lock, but has not written its name yet
        return "another process"
