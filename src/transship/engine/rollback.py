"""Taking back what a run created, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyio import CancelScope, to_thread

from transship.engine.events import RollbackStarted, RunEnded, StepFailed, StepUndone
from transship.engine.records import ErrorInfo, RunState
from transship.engine.run import FATAL
from transship.engine.step import Value
from transship.engine.summary import Failure
from transship.errors import JournalError, TransshipError

if TYPE_CHECKING:
    from transship.engine.events import EventSink
    from transship.engine.journal import Journal
    from transship.engine.records import StepRecord

Undo = Mapping[str, Callable[[str, Value], bool]]
"""For each kind of step, what removes the result of the step with that key and value.

It blocks, and returns when the removal is durable: True if nothing of it is there any more (also if nothing was), False if
it was kept, because something else uses it.
"""


@dataclass(frozen=True)
class Rollback:
    """How a rollback ended: the keys removed, those kept because something else uses them, those that could not be."""

    run: str
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    failed: tuple[Failure, ...]


async def rollback(
    run_id: str, journal: Journal, undo: Undo, emit: EventSink, finish: Callable[[], None] = lambda: None
) -> Rollback:
    """Undo what the journal says the run created, newest first, and write each removal down before the next.

    ``finish`` blocks, and does what is to be done at the end, before the run counts as rolled back: also once more, if the
    rollback was killed there.

    What is kept is looked at again after the others, since one of them may have been what used it, and stays in the journal
    as created: a later rollback of the same run tries it again. The run ends ``rolled-back`` unless a step failed; then, and
    when the rollback is stopped or killed, it stays as it is, and rolling back again does what is left.

    Raises JournalError if a kind is not in ``undo``, and errors of FATAL and those that are not TransshipErrors.
    """
    made = await to_thread.run_sync(journal.created_by, run_id)
    if unknown := {step.kind for step in made} - set(undo):
        raise JournalError(
            f"run {run_id} created things of a kind unknown here: {', '.join(sorted(unknown))}",
            remedy="roll back with the version of transship that made the run",
        )
    return await _Rollback(run_id, journal, undo, emit, finish).run(made)


class _Rollback:
    def __init__(self, run_id: str, journal: Journal, undo: Undo, emit: EventSink, finish: Callable[[], None]) -> None:
        self._run = run_id
        self._journal = journal
        self._undo = undo
        self._emit = emit
        self._finish = finish
        self._removed: list[str] = []
        self._failed: list[Failure] = []
        self._kept: list[StepRecord] = []
        self._begun = time.monotonic()

    async def run(self, made: list[StepRecord]) -> Rollback:
        record = await to_thread.run_sync(self._journal.run, self._run)
        state = record.state
        try:
            await self._emit(RollbackStarted(self._run, time.time(), len(made)))
            await self._pass(made)
            before = len(made)
            while 0 < len(self._kept) < before:
                again, self._kept = self._kept, []
                before = len(again)
                await self._pass(again)
            for step in self._kept:
                await self._emit(StepUndone(self._run, time.time(), step.key, removed=False))
            if not self._failed:
                await to_thread.run_sync(self._finish)
                await to_thread.run_sync(self._journal.end_run, self._run, RunState.ROLLED_BACK)
                state = RunState.ROLLED_BACK
        finally:
            with CancelScope(shield=True):
                await self._emit(self._ended(state, len(made)))
        return Rollback(self._run, tuple(self._removed), tuple(step.key for step in self._kept), tuple(self._failed))

    async def _pass(self, steps: list[StepRecord]) -> None:
        for step in steps:
            try:
                removed = await to_thread.run_sync(self._undo[step.kind], step.key, step.value or {})
            except FATAL:
                raise
            except TransshipError as error:
                failure = Failure(step.key, step.key, ErrorInfo.of(error))
                self._failed.append(failure)
                await self._emit(StepFailed(self._run, time.time(), step.key, step.key, failure.error))
                continue
            if not removed:
                self._kept.append(step)
                continue
            with CancelScope(shield=True):
                await to_thread.run_sync(self._journal.mark_undone, self._run, step.key)
                self._removed.append(step.key)
                await self._emit(StepUndone(self._run, time.time(), step.key, removed=True))

    def _ended(self, state: RunState, made: int) -> RunEnded:
        return RunEnded(
            self._run,
            time.time(),
            state,
            done=len(self._removed),
            skipped=0,
            failed=len(self._failed),
            blocked=0,
            remaining=made - len(self._removed) - len(self._failed),
            bytes=0,
            seconds=time.monotonic() - self._begun,
        )
