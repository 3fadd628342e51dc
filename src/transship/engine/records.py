"""What the journal remembers: runs, and how each of their steps ended."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from transship.engine.step import State
from transship.errors import TransshipError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transship.engine.step import Value


class RunState(Enum):
    """How a run stands."""

    RUNNING = "running"
    DONE = "done"
    """Every step is done."""
    INCOMPLETE = "incomplete"
    """It came to its end, but steps failed."""
    INTERRUPTED = "interrupted"
    """It stopped early: a signal, a target that does not answer, a kill."""
    ROLLED_BACK = "rolled-back"


@dataclass(frozen=True)
class ErrorInfo:
    """An error as it is journalled and reported: its class's name, its message, what to do about it (may be empty)."""

    type: str
    message: str
    remedy: str = ""

    @classmethod
    def of(cls, error: BaseException) -> ErrorInfo:
        """Describe ``error``, in text that can be stored and sent as UTF-8."""
        if isinstance(error, TransshipError):
            return cls(type(error).__name__, printable(error.message), printable(error.remedy))
        return cls(type(error).__name__, printable(str(error)))


@dataclass(frozen=True)
class Outcome:
    """How a step ended, ready to be journalled.

    ``skipped`` means that it was not run, because its journalled outcome still stood. Times are seconds since 1970 (UTC);
    ``bytes`` are those that the step reported with ``advance``.
    """

    key: str
    state: State
    started: float
    ended: float
    value: Value | None = None
    created: bool = False
    skipped: bool = False
    bytes: int = 0
    error: ErrorInfo | None = None


@dataclass(frozen=True)
class StepRecord:
    """A step's row in the journal. ``created``: this run made it and has not taken it back.

    ``seq`` grows with every outcome journalled: in its order, what was made comes after all that it needed.
    """

    run: str
    key: str
    kind: str
    state: State
    created: bool
    value: Value | None
    error: ErrorInfo | None
    started: float
    ended: float
    bytes: int
    seq: int


@dataclass(frozen=True)
class RunRecord:
    """A run's row in the journal. ``scope`` says from where to where; ``attempts`` counts how often it was started.

    Times are seconds since 1970 (UTC), ``ended`` is None while it runs or if it was killed. ``bytes`` are those of its
    steps; ``pid`` is the process that ran it last.
    """

    id: str
    leg: str
    scope: str
    options: Mapping[str, Any] = field(hash=False)
    state: RunState
    started: float
    ended: float | None
    pid: int
    attempts: int
    bytes: int


def merged(old: StepRecord | None, outcome: Outcome, *, run: str, seq: int) -> StepRecord:
    """Return the row that ``outcome``, with the fresh number ``seq``, makes of the step's ``old`` row in the same run.

    What the run has created stays its own until it is undone, with the value needed to undo it, even if a retry finds it
    there or fails. A row that nothing was created for anew keeps its number, so that newest first remains an order in
    which things can be removed; one that was only confirmed also keeps its times and bytes.
    """
    row = StepRecord(
        run=run,
        key=outcome.key,
        kind=outcome.key.partition(":")[0],
        state=outcome.state,
        created=outcome.created,
        value=outcome.value,
        error=outcome.error,
        started=outcome.started,
        ended=outcome.ended,
        bytes=outcome.bytes,
        seq=seq,
    )
    if old is None:
        return row
    if old.created:
        row = replace(row, created=True, value=old.value if outcome.value is None else outcome.value)
    if outcome.skipped and old.state is State.DONE:
        return replace(row, started=old.started, ended=old.ended, bytes=old.bytes, seq=old.seq)
    if old.created and outcome.state is not State.DONE:
        return replace(row, seq=old.seq)
    return row


def printable(text: str) -> str:
    """Return ``text`` as it can be stored as UTF-8: what cannot (bytes of names that are not UTF-8) is escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
