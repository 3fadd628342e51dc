"""The last lines of a run's event log, kept for all that follow it."""

from __future__ import annotations

import re
from collections import deque
from itertools import islice

from anyio import Event

_MAX_LINES = 1024
_SEQ = re.compile(rb'\{"seq":(\d+)')


class Tail:
    """What has been written last; belongs to the event loop. However many follow, and however slowly, it costs the same."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, bytes]] = deque(maxlen=_MAX_LINES)
        self.more = Event()
        """Set when more has come, or no more will; then there is a new one."""
        self.closed = False

    def append(self, lines: bytes) -> None:
        """Take whole lines of the log, in order."""
        self._lines.extend((seq_of(line), line) for line in lines.splitlines())
        self._wake()

    def close(self) -> None:
        """No more will come."""
        self.closed = True
        self._wake()

    def after(self, seq: int) -> list[bytes] | None:
        """Return the lines that follow number ``seq``; None if some of them may have been before those kept here."""
        if not self._lines or self._lines[0][0] > seq + 1:
            return None
        return [line for _, line in islice(self._lines, seq + 1 - self._lines[0][0], None)]

    def _wake(self) -> None:
        self.more.set()
        self.more = Event()


def seq_of(line: bytes) -> int:
    """Return the number of a line. Raises ValueError if it is no line of an event log."""
    if (match := _SEQ.match(line)) is None:
        raise ValueError(f"not an event: {line[:80]!r}")
    return int(match[1])
