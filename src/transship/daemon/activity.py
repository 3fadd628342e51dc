"""The one thing that the service is at."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from anyio import CancelScope, Event

from transship.api.models import Phase
from transship.daemon.tail import Tail
from transship.engine.events import RunEnded
from transship.engine.observer import Observer

if TYPE_CHECKING:
    from transship.engine.events import Event as RunEvent
    from transship.engine.progress import Measured
    from transship.engine.records import RunRecord
    from transship.errors import TransshipError


class Activity(Observer):
    """A migration or rollback (``phase`` says which) under way, and what is known of it so far."""

    def __init__(self, phase: Phase) -> None:
        self.phase = phase
        self.since = time.time()
        self.scope = CancelScope()
        self.run: RunRecord | None = None
        self.progress: Measured | None = None
        self.error: TransshipError | None = None
        """What has ended it before its time."""
        self.bytes = 0
        """What it has read in the end."""
        self.known = Event()
        """Set when it has a run in the journal, or has ended without one."""
        self.ended = Event()
        self.tail = Tail()
        self._last_event = time.monotonic()

    def started(self, run: RunRecord) -> None:
        self.run = run
        self.known.set()

    def planned(self, run: str, steps: int, progress: Measured) -> None:  # noqa: ARG002 - progress knows the rest
        self.progress = progress

    async def emit(self, event: RunEvent) -> None:
        self._last_event = time.monotonic()
        if isinstance(event, RunEnded):
            self.bytes = event.bytes

    def written(self, lines: bytes) -> None:
        self.tail.append(lines)

    def end(self) -> None:
        """It is over."""
        self.tail.close()
        self.known.set()
        self.ended.set()

    def quiet_for(self) -> float:
        """Return for how many seconds nothing has advanced. Planning, which ends by itself, counts as advancing."""
        if self.run is None or (self.progress is None and self.phase is Phase.MIGRATING):
            return 0.0
        quiet = time.monotonic() - self._last_event
        return quiet if self.progress is None else min(quiet, self.progress.snapshot().quiet)
