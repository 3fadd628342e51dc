"""A time by which something must have happened, cheap to move for every request."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_CLOSE_ENOUGH = 0.001  # the loop's timers count milliseconds


class Deadline:
    """Calls ``missed`` when the time set has come, once.

    Moving it later, or taking it back, does not touch the loop's timer: that goes off at the old time, and is then set anew
    if there is still something to wait for. A connection that is busy so costs one timer in many requests, not two per request.
    """

    __slots__ = ("_at", "_loop", "_missed", "_timer", "_timer_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, missed: Callable[[], None]) -> None:
        self._loop = loop
        self._missed = missed
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def set(self, seconds: float) -> None:
        """Let it be ``seconds`` from now."""
        self._at = self._loop.time() + seconds
        if self._timer is None or self._timer_at > self._at:
            self._start(seconds)

    def clear(self) -> None:
        """Wait for nothing."""
        self._at = None

    def stop(self) -> None:
        """Wait for nothing, and leave no timer behind."""
        self._at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._loop.time() + seconds
        self._timer = self._loop.call_later(seconds, self._went_off)

    def _went_off(self) -> None:
        self._timer = None
        if self._at is None:
            return
        left = self._at - self._loop.time()
        if left > _CLOSE_ENOUGH:
            self._start(left)
        else:
            self._at = None
            self._missed()
