"""A migration from end to end, and its rollback: what the command line and the service both call."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from anyio import CancelScope, create_task_group, sleep, to_thread

from transship.engine import rollback as engine_rollback
from transship.engine import run as engine_run
from transship.engine.event_log import open_event_log
from transship.engine.events import fan_out
from transship.engine.groups import first_error
from transship.engine.journal import Journal
from transship.engine.lock import StateLock
from transship.engine.logged import log_event
from transship.engine.progress import Progress
from transship.engine.records import RunState
from transship.engine.state_dir import run_directory
from transship.engine.step import Resource, State
from transship.errors import JournalError, RunNotFound
from transship.files.durable import write_file
from transship.legs.containerd import mapping
from transship.legs.containerd.itinerary import plan_voyage, select
from transship.legs.containerd.report import Report, write_report
from transship.legs.containerd.targets import TargetSpec
from transship.legs.containerd.undo import remove_torn_names, undo_of
from transship.legs.containerd.voyage import LEG, Voyage
from transship.stores.docker.busy import ensure_not_in_use

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from transship.config import Settings
    from transship.engine.events import EventSink
    from transship.engine.observer import Observer
    from transship.engine.records import RunRecord
    from transship.engine.rollback import Rollback
    from transship.engine.run import Summary
    from transship.engine.step import Value
    from transship.legs.containerd.itinerary import Itinerary
    from transship.legs.containerd.request import Request
    from transship.stores.docker.store import Store
    from transship.stores.interfaces import Target

_HOLD_INTERVAL = 3600
"""Seconds between two renewals of the run's protection from garbage collection, which lasts a day."""
_LOOK_INTERVAL = 5
"""Seconds between two looks whether a daemon has come to use the source."""
_REMOTE_CALLS = 4


async def migrate(request: Request, observer: Observer) -> Report:
    """Move what ``request`` asks for; continue a run of the same request that was stopped.

    Raises UsageError, SourceError, TargetError, StateLocked, JournalError. Things that cannot be moved do not raise: they are
    in the report.
    """
    recipe, settings = request.recipe, request.settings
    async with opened_state(settings.run.state_dir) as journal:
        store = await to_thread.run_sync(request.open_source)
        images = select(store, request.images)
        spec = await to_thread.run_sync(request.target, store)
        async with opened(spec) as target:
            record, standing = await to_thread.run_sync(_start, journal, request, store, spec)
            async with _ended(journal, record.id):
                observer.started(record)
                voyage = Voyage(
                    store, target, recipe, settings.snapshots.fill, spec.namespace, settings.run.parallel, record.id
                )
                await to_thread.run_sync(target.hold, record.id)
                planning = partial(plan_voyage, voyage, images, standing, damage=not request.images)
                itinerary = await to_thread.run_sync(planning)
                summary = await _sail(voyage, itinerary, standing, journal=journal, settings=settings, observer=observer)
                report = await to_thread.run_sync(_write_reports, journal, settings.run.state_dir, summary, itinerary, spec)
                await to_thread.run_sync(target.release, record.id)
                return report


async def rollback(run: str | None, state_dir: Path, observer: Observer) -> Rollback:
    """Remove what ``run`` (None: the last migration that is not rolled back) made, and nothing else.

    Raises JournalError, TargetError, StateLocked.
    """
    async with opened_state(state_dir) as journal:
        record = await to_thread.run_sync(_to_roll_back, journal, run)
        spec = TargetSpec.from_json(record.options["target"])
        observer.started(record)
        async with opened(spec) as target:
            made = await to_thread.run_sync(journal.created_by, record.id)
            torn = await to_thread.run_sync(journal.steps, record.id, State.BEGUN)
            await to_thread.run_sync(remove_torn_names, target, spec.namespace, record.id, torn, made)
            await to_thread.run_sync(target.release, record.id)
            async with recorded(state_dir, record.id, observer) as emit:
                return await engine_rollback.rollback(record.id, journal, undo_of(target, made), emit)


def limits(settings: Settings) -> Mapping[Resource, int]:
    """Return how many steps of each kind may run at once."""
    jobs = settings.run.parallel
    return {Resource.CPU: jobs, Resource.DISK: jobs, Resource.REMOTE: _REMOTE_CALLS}


@asynccontextmanager
async def opened(spec: TargetSpec) -> AsyncIterator[Target]:
    """Yield the target that ``spec`` names, ready for use. Raises TargetError."""
    target = spec.connect()
    await to_thread.run_sync(target.open)
    try:
        yield target
    finally:
        await _put_away(target.close)


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
            await _put_away(journal.close)
    finally:
        await _put_away(lock.release)


async def _put_away(close: Callable[[], None]) -> None:
    """Call what may wait for the disk, also if the run is being cancelled."""
    with CancelScope(shield=True):
        await to_thread.run_sync(close)


@asynccontextmanager
async def recorded(state_dir: Path, run: str, observer: Observer) -> AsyncIterator[EventSink]:
    """Yield where the events of ``run`` go: to its event log, to the log, to ``observer``. Raises JournalError."""
    async with open_event_log(state_dir, run, observer.written) as event_log:
        yield fan_out(event_log, log_event, observer.emit)


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


async def _sail(
    voyage: Voyage,
    itinerary: Itinerary,
    standing: Mapping[str, Value],
    *,
    journal: Journal,
    settings: Settings,
    observer: Observer,
) -> Summary:
    """Run the steps, watched and recorded. A daemon that comes to use the source stops them.

    The target's protection from garbage collection is renewed again and again.
    """
    run, progress = voyage.run, Progress(itinerary.plan)
    observer.planned(run, len(itinerary.plan), progress)
    async with (
        recorded(settings.run.state_dir, run, observer) as emit,
        _meanwhile(_HOLD_INTERVAL, partial(voyage.target.hold, run)),
        _meanwhile(_LOOK_INTERVAL, partial(ensure_not_in_use, voyage.store.root)),
    ):
        return await engine_run.run(
            itinerary.plan,
            journal=journal,
            run_id=run,
            standing=standing,
            limits=limits(settings),
            emit=emit,
            progress=progress,
        )


@asynccontextmanager
async def _ended(journal: Journal, run: str) -> AsyncIterator[None]:
    """See to it that a run that stops before the engine has it, while it is planned, is not called running for ever."""
    try:
        yield
    except BaseException:
        with CancelScope(shield=True):
            if (await to_thread.run_sync(journal.run, run)).state is RunState.RUNNING:
                await to_thread.run_sync(journal.end_run, run, RunState.INTERRUPTED)
        raise


def _start(journal: Journal, request: Request, store: Store, spec: TargetSpec) -> tuple[RunRecord, dict[str, Value]]:
    scope, options = request.scope(store, spec), request.options(store, spec)
    standing = journal.standing(scope)
    unfinished = journal.last_unfinished(scope, options)
    if unfinished is None:
        return journal.run(journal.start_run(LEG, scope, options)), standing
    journal.reopen_run(unfinished.id)
    return journal.run(unfinished.id), standing


def _to_roll_back(journal: Journal, run: str | None) -> RunRecord:
    if run is not None:
        record = journal.run(run)
    else:
        candidates: Sequence[RunRecord] = [
            record for record in journal.runs() if record.leg == LEG and record.state is not RunState.ROLLED_BACK
        ]
        if not candidates:
            raise RunNotFound("there is no run to roll back", remedy="see the runs with `transship status`")
        record = candidates[0]
    if record.leg != LEG:
        raise JournalError(f"run {record.id} moved nothing", remedy="name a run of the leg " + LEG)
    return record


def _write_reports(journal: Journal, state_dir: Path, summary: Summary, itinerary: Itinerary, spec: TargetSpec) -> Report:
    directory = run_directory(state_dir, summary.run)
    map_file = directory / mapping.FILE_NAME
    write_file(map_file, mapping.make_map(summary.run, str(spec), itinerary.images, journal.steps(summary.run)))
    report = Report.make(summary, itinerary, spec, map_file)
    write_report(directory, report)
    return report
