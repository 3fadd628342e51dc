"""What happens in a run, as it happens.

Events are an API for scripts: ``to_json`` gives a flat JSON object with ``type``, ``run`` (the run's ID), ``time`` (seconds
since 1970, UTC) and the fields of the class. Fields are added, never renamed or removed. Sequence: one ``run_started``; for
each step either ``step_started`` and then ``step_done`` or ``step_failed``, or only ``step_done`` with ``skipped`` (or
``step_failed``, if the look whether it still stands failed), or only ``step_blocked``; one ``run_ended``. A rollback is
``rollback_started``, ``step_undone`` or ``step_failed`` for each step, ``run_ended``. A step that a signal stopped has a
``step_started`` and no end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from transship.engine.records import ErrorInfo, RunState

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Event:
    """What all events have: the run's ID and the time, in seconds since 1970 (UTC)."""

    type: ClassVar[str]

    run: str
    time: float

    def to_json(self) -> dict[str, Any]:
        """Return the event as a JSON object."""
        fields = asdict(self).items()
        return {"type": self.type} | {name: value.value if isinstance(value, Enum) else value for name, value in fields}


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins (``attempt`` 1) or is continued. ``bytes`` and ``files`` are the plan's cost."""

    type: ClassVar[str] = "run_started"

    leg: str
    attempt: int
    steps: int
    bytes: int
    files: int


@dataclass(frozen=True)
class StepStarted(Event):
    """A step begins to run."""

    type: ClassVar[str] = "step_started"

    key: str
    title: str


@dataclass(frozen=True)
class StepDone(Event):
    """A step's result is in the target and journalled.

    ``created``: it was not there before. ``skipped``: an earlier outcome still stood, so it did not run. ``bytes`` is what
    it read, ``seconds`` how long it took.
    """

    type: ClassVar[str] = "step_done"

    key: str
    title: str
    created: bool
    skipped: bool
    bytes: int
    seconds: float


@dataclass(frozen=True)
class StepFailed(Event):
    """A step, or its removal in a rollback, has failed. ``error``: ``{"type", "message", "remedy"}``."""

    type: ClassVar[str] = "step_failed"

    key: str
    title: str
    error: ErrorInfo


@dataclass(frozen=True)
class StepBlocked(Event):
    """A step will not run: of what it needs, ``needs`` failed or are blocked themselves; ``cause`` is the step that failed."""

    type: ClassVar[str] = "step_blocked"

    key: str
    title: str
    needs: tuple[str, ...]
    cause: str


@dataclass(frozen=True)
class RollbackStarted(Event):
    """A rollback begins; ``steps`` are those whose results it will try to remove."""

    type: ClassVar[str] = "rollback_started"

    steps: int


@dataclass(frozen=True)
class StepUndone(Event):
    """What a step created was removed, or kept (``removed`` false) because something else uses it."""

    type: ClassVar[str] = "step_undone"

    key: str
    removed: bool


@dataclass(frozen=True)
class RunEnded(Event):
    """A run or rollback has ended, or stopped.

    ``done`` counts all steps done, ``skipped`` those of them that did not run; ``remaining`` are neither done, failed nor
    blocked. In a rollback ``done`` are the removed, ``remaining`` the kept. ``bytes`` were read in ``seconds``.
    """

    type: ClassVar[str] = "run_ended"

    state: RunState
    done: int
    skipped: int
    failed: int
    blocked: int
    remaining: int
    bytes: int
    seconds: float


def from_json(document: Mapping[str, Any]) -> Event | None:
    """Return the event that ``to_json`` made ``document`` of, None for a type that this version does not know.

    Raises ValueError if fields are missing.
    """
    kind = _KINDS.get(str(document.get("type")))
    if kind is None:
        return None
    try:
        values = {field.name: document[field.name] for field in fields(kind)}
        if kind is StepFailed:
            values["error"] = ErrorInfo(**values["error"])
        if kind is RunEnded:
            values["state"] = RunState(values["state"])
        return kind(**values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an event: {document}") from error


_KINDS = {
    kind.type: kind
    for kind in (RunStarted, StepStarted, StepDone, StepFailed, StepBlocked, RollbackStarted, StepUndone, RunEnded)
}

EventSink = Callable[[Event], Awaitable[None]]
"""Takes an event; called from the event loop, one event at a time in the order in which they happened.

The run waits for it, so one that is slow slows the run, and one that raises ends it.
"""


def fan_out(*sinks: EventSink) -> EventSink:
    """Return a sink that hands each event to all ``sinks``, one after the other."""

    async def emit(event: Event) -> None:
        for sink in sinks:
            await sink(event)

    return emit
