"""How a run ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.engine.records import RunState

if TYPE_CHECKING:
    from transship.engine.records import ErrorInfo


@dataclass(frozen=True)
class Failure:
    """A step that failed, and why."""

    key: str
    title: str
    error: ErrorInfo


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    ``done`` counts all steps done, ``skipped`` those of them that did not have to run. ``failed`` and ``blocked`` are in
    the order in which they were left out. ``bytes`` were read by steps in this attempt, in ``seconds``.

    Of a run in several parts, each of which is planned from what the one before left, it counts all parts so far.
    """

    run: str
    state: RunState
    steps: int
    done: int
    skipped: int
    created: int
    failed: tuple[Failure, ...]
    blocked: tuple[str, ...]
    bytes: int
    seconds: float

    def after(self, earlier: Summary | None) -> Summary:
        """Return how the run stands when ``earlier`` are the parts before this one."""
        if earlier is None:
            return self
        states = {earlier.state, self.state}
        worst = next(state for state in (RunState.INTERRUPTED, RunState.INCOMPLETE, RunState.DONE) if state in states)
        return Summary(
            run=self.run,
            state=worst,
            steps=earlier.steps + self.steps,
            done=earlier.done + self.done,
            skipped=earlier.skipped + self.skipped,
            created=earlier.created + self.created,
            failed=earlier.failed + self.failed,
            blocked=earlier.blocked + self.blocked,
            bytes=earlier.bytes + self.bytes,
            seconds=earlier.seconds + self.seconds,
        )
