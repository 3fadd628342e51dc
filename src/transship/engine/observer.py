"""Whoever watches runs: a display on a terminal, the service."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transship.engine.events import Event
    from transship.engine.progress import Measured
    from transship.engine.records import RunRecord


class Observer:
    """Learns what a run does, in this order; what it does not override, it does not want to know.

    Called from the event loop; must not block.
    """

    def started(self, run: RunRecord) -> None:
        """``run`` is in the journal, begun or continued; what it has to do is not known yet."""

    def planned(self, run: str, steps: int, progress: Measured) -> None:
        """It is planned, and about to do ``steps``; how far it is can be read from ``progress`` at any time."""

    async def emit(self, event: Event) -> None:
        """Something has happened. The run waits until this returns."""

    def written(self, lines: bytes) -> None:
        """These whole lines have been added to the run's event log."""
