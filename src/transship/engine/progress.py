"""How far a run is: counted by its worker threads, read by whoever shows it."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from transship.engine.step import work

if TYPE_CHECKING:
    from collections.abc import Callable

    from transship.engine.plan import Plan
    from transship.engine.step import Step

WINDOW = 30.0
"""Seconds over which the rate is taken."""
_INTERVAL = 0.25
"""Seconds between two samples of it, at least."""


@dataclass(frozen=True)
class Amount:
    """Steps, and the bytes and files that they cost."""

    steps: int = 0
    bytes: int = 0
    files: int = 0

    @classmethod
    def of(cls, step: Step) -> Amount:
        """Return what ``step`` costs."""
        return cls(1, step.cost.bytes, step.cost.files)

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.steps + other.steps, self.bytes + other.bytes, self.files + other.files)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.steps - other.steps, self.bytes - other.bytes, self.files - other.files)

    @property
    def work(self) -> int:
        """The time it takes; see ``step.work``."""
        return work(self.steps, self.bytes, self.files)


@dataclass(frozen=True)
class RunningStep:
    """A step that is running: how much of its bytes is done, and for how many seconds it has been at it."""

    key: str
    title: str
    bytes: int
    bytes_done: int
    seconds: float


@dataclass(frozen=True)
class Snapshot:
    """How far a run is at one moment.

    ``total`` = ``done`` + ``skipped`` + ``left_out`` (failed or blocked) + what remains; bytes of running steps count as
    done as they are read. ``rate`` is in bytes per second over the last ``WINDOW`` seconds; ``elapsed``, ``quiet`` (since
    anything advanced: a step's bytes, its begin or end, the work of its process) and ``eta`` in seconds; ``eta`` is None while
    there is nothing to go by.
    """

    total: Amount
    done: Amount
    skipped: Amount
    left_out: Amount
    rate: float
    elapsed: float
    quiet: float
    eta: float | None
    running: tuple[RunningStep, ...]


class Measured(Protocol):
    """A run whose progress can be read at any time."""

    def snapshot(self) -> Snapshot:
        """Return how things stand now."""
        ...


class Progress:
    """Counts what a run's steps report. All methods may be called from any thread; none of them waits for long.

    ``clock`` returns seconds that only grow.
    """

    def __init__(self, plan: Plan, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._total = Amount(len(plan), plan.cost.bytes, plan.cost.files)
        self._done = self._skipped = self._left_out = Amount()
        self._running: dict[str, _Running] = {}
        self._begun = clock()
        self._read = Amount()  # by all steps that ran, also those that failed: never shrinks
        self._samples = deque([_Sample(self._begun, self._read)])
        self._sign = self._begun

    def alive(self) -> None:
        """Something advances that cannot be counted."""
        self._sign = self._clock()

    def started(self, step: Step) -> None:
        """``step`` begins to run."""
        with self._lock:
            self._sign = self._clock()
            self._running[step.key] = _Running(step, self._clock())

    def advanced(self, key: str, count: int) -> None:
        """The running step ``key`` has done ``count`` more of its bytes."""
        with self._lock:
            self._running[key].read += count
            self._moved(Amount(bytes=count))

    def ended(self, step: Step) -> None:
        """The running ``step`` is done: all of its cost is, whatever it has reported."""
        with self._lock:
            running = self._running.pop(step.key)
            self._moved(Amount(1, max(0, step.cost.bytes - running.read), step.cost.files))
            self._done += Amount.of(step)

    def skipped(self, step: Step) -> None:
        """``step`` does not run, because its outcome still stands."""
        with self._lock:
            self._sign = self._clock()
            self._skipped += Amount.of(step)

    def left_out(self, step: Step) -> None:
        """``step`` has failed, or is blocked."""
        with self._lock:
            self._sign = self._clock()
            self._running.pop(step.key, None)
            self._left_out += Amount.of(step)

    def snapshot(self) -> Snapshot:
        """Return how things stand now."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            running = tuple(step.at(now) for step in self._running.values())
            done = self._done + Amount(bytes=sum(step.bytes_done for step in running))
            remaining = self._total - done - self._skipped - self._left_out
            span = now - self._samples[0].time
            moved = self._read - self._samples[0].read
            return Snapshot(
                total=self._total,
                done=done,
                skipped=self._skipped,
                left_out=self._left_out,
                rate=moved.bytes / span if span > 0 else 0.0,
                elapsed=now - self._begun,
                quiet=now - self._sign,
                eta=_eta(remaining, moved, span),
                running=running,
            )

    def _moved(self, amount: Amount) -> None:
        self._read += amount
        now = self._sign = self._clock()
        if now - self._samples[-1].time >= _INTERVAL:
            self._samples.append(_Sample(now, self._read))
            self._forget(now)

    def _forget(self, now: float) -> None:
        """Drop the samples older than the window; of those, keep the last if there is no other."""
        while len(self._samples) > 1 and now - self._samples[0].time > WINDOW:
            self._samples.popleft()


@dataclass(frozen=True)
class _Sample:
    time: float
    read: Amount


@dataclass
class _Running:
    step: Step
    since: float
    read: int = 0

    def at(self, now: float) -> RunningStep:
        cost = self.step.cost.bytes
        return RunningStep(self.step.key, self.step.title, cost, min(self.read, cost), now - self.since)


def _eta(remaining: Amount, moved: Amount, span: float) -> float | None:
    if remaining.steps == 0:
        return 0.0
    return span * remaining.work / moved.work if moved.work > 0 else None
