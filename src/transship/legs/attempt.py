"""One attempt at a run: what every leg needs to get its steps done, and to leave behind what happened."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from anyio import CancelScope, create_task_group, sleep, to_thread

from transship.engine import run as engine_run
from transship.engine.event_log import open_event_log
from transship.engine.events import fan_out
from transship.engine.groups import first_error
from transship.engine.journal import Journal
from transship.engine.lock import StateLock
from transship.engine.logged import log_event
from transship.engine.progress import Progress
from transship.engine.records import RunState
from transship.engine.step import Resource, State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from transship.config import Settings
    from transship.engine.events import EventSink
    from transship.engine.observer import Observer
    from transship.engine.plan import Plan
    from transship.engine.records import RunRecord
    from transship.engine.step import Value
    from transship.engine.summary import Summary
    from transship.legs.left_out import LeftOut

_REMOTE_CALLS = 4

Watch = tuple[float, "Callable[[], None]"]
"""Something to be called every so many seconds while steps run. What it raises stops them."""


class Attempt:
    """An attempt at the run ``record``, which may have several parts, each planned from what the one before left.

    ``standing`` are the values of steps that earlier runs, or attempts, have done.
    """

    def __init__(
        self,
        journal: Journal,
        record: RunRecord,
        standing: Mapping[str, Value],
        *,
        settings: Settings,
        observer: Observer,
        watches: tuple[Watch, ...] = (),
    ) -> None:
        self.journal = journal
        self.record = record
        self.standing = standing
        self.settings = settings
        self.notes: list[LeftOut] = []
        """What parts have to say besides what failed."""
        self._observer = observer
        self._watches = watches
        self.summary: Summary | None = None
        """How the parts so far have gone."""

    def values(self) -> dict[str, Value]:
        """Return what the steps that are done have left, by key. Reads the journal. Raises JournalError."""
        done = self.journal.steps(self.record.id, State.DONE)
        return {step.key: step.value for step in done if step.value is not None}

    async def sail(self, plan: Plan, *watches: Watch, last: bool = True) -> Summary:
        """Run the steps of the next part, watched and recorded; return how the run stands. Raises as ``engine.run.run``."""
        run, progress = self.record.id, Progress(plan)
        self._observer.planned(run, len(plan), progress)
        async with AsyncExitStack() as stack:
            emit = await stack.enter_async_context(recorded(self.settings.run.state_dir, run, self._observer))
            for watch in (*self._watches, *watches):
                await stack.enter_async_context(_meanwhile(*watch))
            self.summary = await engine_run.run(
                plan,
                journal=self.journal,
                run_id=run,
                standing=self.standing,
                limits=limits(self.settings),
                emit=emit,
                progress=progress,
                earlier=self.summary,
                last=last,
            )
        return self.summary


def limits(settings: Settings) -> Mapping[Resource, int]:
    """Return how many steps of each kind may run at once."""
    jobs = settings.run.parallel
    return {Resource.CPU: jobs, Resource.DISK: jobs, Resource.REMOTE: _REMOTE_CALLS}


@asynccontextmanager
async def opened_state(state_dir: Path) -> AsyncIterator[Journal]:
    """Yield the journal in ``state_dir``, which nobody else writes meanwhile. Raises StateLocked, JournalError."""
    lock = StateLock(state_dir)
    await to_thread.run_sync(lock.acquire)
    try:
        journal = await to_thread.run_sync(Journal.open, state_dir)
        try:
            yield journal
        finally:
            await put_away(journal.close)
    finally:
        await put_away(lock.release)


async def put_away(close: Callable[[], None]) -> None:
    """Call what may wait for the disk, also if the run is being cancelled."""
    with CancelScope(shield=True):
        await to_thread.run_sync(close)


@asynccontextmanager
async def recorded(state_dir: Path, run: str, observer: Observer) -> AsyncIterator[EventSink]:
    """Yield where the events of ``run`` go: to its event log, to the log, to ``observer``. Raises JournalError."""
    async with open_event_log(state_dir, run, observer.written) as event_log:
        yield fan_out(event_log, log_event, observer.emit)


@asynccontextmanager
async def ended(journal: Journal, run: str) -> AsyncIterator[None]:
    """See to it that a run that stops while the engine has not got it, but is planned, is not called running for ever."""
    try:
        yield
    except BaseException:
        with CancelScope(shield=True):
            if (await to_thread.run_sync(journal.run, run)).state is RunState.RUNNING:
                await to_thread.run_sync(journal.end_run, run, RunState.INTERRUPTED)
        raise


@asynccontextmanager
async def _meanwhile(seconds: float, check: Callable[[], None]) -> AsyncIterator[None]:
    """Call ``check`` every ``seconds`` while the block lasts. What it raises ends the block."""

    async def again() -> None:
        while True:
            await sleep(seconds)
            await to_thread.run_sync(check)

    failure: Exception | None = None
    try:
        async with create_task_group() as tasks:
            tasks.start_soon(again)
            yield
            tasks.cancel_scope.cancel()
    except ExceptionGroup as group:
        failure = first_error(group)
    if failure:
        raise failure
