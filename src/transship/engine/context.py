"""What a running step asks of the engine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from anyio import from_thread

from transship.engine import process
from transship.engine.plan import before

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transship.engine.progress import Progress
    from transship.engine.step import Arguments, Step, T, Value

_INTERVAL = 0.05
"""Seconds between two reports to the progress, and looks whether the run is stopping: ``advance`` is called very often."""


class StepContext:
    """The ``step.Context`` of one step, for the worker thread that runs it."""

    def __init__(self, step: Step, values: Mapping[str, Value], progress: Progress) -> None:
        self._step = step
        self._values = values
        self._progress = progress
        self._visible = before(step)
        self._reported = 0
        self._due = 0.0
        self.bytes = 0
        """What the step has reported so far."""

    def advance(self, count: int) -> None:
        """Report ``count`` more bytes as done. Raises the engine's cancellation if the run is stopping."""
        self.bytes += count
        if (now := time.monotonic()) >= self._due:
            self._due = now + _INTERVAL
            self._progress.advanced(self._step.key, self.bytes - self._reported)
            self._reported = self.bytes
            self.check_cancelled()

    def check_cancelled(self) -> None:
        """Raise the engine's cancellation if the run is stopping."""
        from_thread.check_cancelled()

    def in_process(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Run ``function`` in a process of its own, which is killed if the run is stopping; see ``step.Context``."""
        return process.call(function, arguments, self.check_cancelled, self._progress.alive)

    def value(self, key: str) -> Value | None:
        """Return what the step ``key`` left, None if it did not succeed. Raises ValueError if the step does not wait for it."""
        if key not in self._visible:
            raise ValueError(f"step {self._step.key} does not wait for {key}")
        return self._values.get(key)
