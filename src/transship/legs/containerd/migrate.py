"""A migration from end to end, and its rollback: what the command line and the service both call."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from anyio import create_task_group, sleep, to_thread

from transship.engine import rollback as engine_rollback
from transship.engine import run as engine_run
from transship.engine.event_log import open_event_log
from transship.engine.events import fan_out
from transship.engine.journal import Journal
from transship.engine.lock import StateLock
from transship.engine.logged import log_event
from transship.engine.progress import Progress
from transship.engine.records import RunState
from transship.engine.step import Resource, State
from transship.errors import JournalError
from transship.files.durable import write_file
from transship.formats.compression import Recipe
from transship.legs.containerd.itinerary import Itinerary, plan_voyage, select
from transship.legs.containerd.mapping import FILE_NAME, make_map
from transship.legs.containerd.targets import TargetSpec, parse_target
from transship.legs.containerd.undo import remove_torn_names, undo_of
from transship.legs.containerd.voyage import LEG, Voyage
from transship.stores.docker.busy import ensure_not_in_use
from transship.stores.docker.root import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from transship.config import Settings
    from transship.engine.events import Event, EventSink
    from transship.engine.records import RunRecord
    from transship.engine.rollback import Rollback
    from transship.engine.run import Summary
    from transship.stores.docker.store import Store
    from transship.stores.interfaces import Target

_HOLD_INTERVAL = 3600
"""Seconds between two renewals of the run's protection from garbage collection, which lasts a day."""
_REMOTE_CALLS = 4


class Observer(Protocol):
    """Whoever shows a run to people. Called from the event loop; must not block."""

    async def emit(self, event: Event) -> None:
        """Take an event."""
        ...

    def planned(self, run: str, steps: int, progress: Progress) -> None:
        """Learn what is about to run."""
        ...


@dataclass(frozen=True)
class Request:
    """A migration that was asked for: settings, and the images wanted (names or IDs; none: all)."""

    settings: Settings
    images: tuple[str, ...] = ()

    @property
    def recipe(self) -> Recipe:
        """The recipe for blobs. Raises UsageError."""
        return Recipe.make(self.settings.blobs.compression, self.settings.blobs.level)

    def open_source(self) -> Store:
        """Read the source. Raises SourceError, also if a daemon is using it."""
        store = open_store(self.settings.source.directory, driver=self.settings.source.driver)
        ensure_not_in_use(store.root)
        return store

    def target(self, store: Store) -> TargetSpec:
        """Return which target is meant. Raises UsageError."""
        target = self.settings.target
        return parse_target(target.to, target.namespace, target.snapshotter, store.driver)


@dataclass(frozen=True)
class Report:
    """How a migration ended: the engine's summary, what was planned, and where the map of identities is."""

    summary: Summary
    itinerary: Itinerary
    target: TargetSpec
    map_file: Path

    @property
    def complete(self) -> bool:
        """True if everything is in the target that was to go there."""
        return self.summary.state is RunState.DONE


async def migrate(request: Request, observer: Observer) -> Report:
    """Move what ``request`` asks for; continue a run of the same request that was stopped.

    Raises UsageError, SourceError, TargetError, StateLocked, JournalError. Things that cannot be moved do not raise: they are
    in the report.
    """
    recipe = request.recipe
    state_dir = request.settings.run.state_dir
    async with opened_state(state_dir) as journal:
        store = await to_thread.run_sync(request.open_source)
        images = select(store, request.images)
        spec = request.target(store)
        async with opened(spec) as target:
            scope, options = identity(request, store, spec)
            run, standing = await to_thread.run_sync(_start, journal, scope, options)
            voyage = Voyage(
                store, target, recipe, request.settings.snapshots.fill, spec.namespace, request.settings.run.parallel, run
            )
            await to_thread.run_sync(target.hold, run)
            planning = partial(plan_voyage, voyage, images, standing, damage=not request.images)
            itinerary = await to_thread.run_sync(planning)
            progress = Progress(itinerary.plan)
            observer.planned(run, len(itinerary.plan), progress)
            async with recorded(state_dir, run, observer) as emit, _held(target, run):
                summary = await engine_run.run(
                    itinerary.plan,
                    journal=journal,
                    run_id=run,
                    standing=standing,
                    limits=limits(request.settings),
                    emit=emit,
                    progress=progress,
                )
            map_file = state_dir / "runs" / run / FILE_NAME
            await to_thread.run_sync(_write_map, map_file, journal, run, spec, itinerary)
            await to_thread.run_sync(target.release, run)
            return Report(summary, itinerary, spec, map_file)


async def rollback(run: str | None, state_dir: Path, observer: Observer) -> Rollback:
    """Remove what ``run`` (None: the last migration that is not rolled back) made, and nothing else.

    Raises JournalError, TargetError, StateLocked.
    """
    async with opened_state(state_dir) as journal:
        record = await to_thread.run_sync(_to_roll_back, journal, run)
        spec = TargetSpec.from_json(record.options["target"])
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
        target.close()


@asynccontextmanager
async def opened_state(state_dir: Path) -> AsyncIterator[Journal]:
    """Yield the journal in ``state_dir``, which nobody else writes meanwhile. Raises StateLocked, JournalError."""
    with StateLock(state_dir):
        journal = await to_thread.run_sync(Journal.open, state_dir)
        try:
            yield journal
        finally:
            journal.close()


@asynccontextmanager
async def recorded(state_dir: Path, run: str, observer: Observer) -> AsyncIterator[EventSink]:
    """Yield where the events of ``run`` go: to its event log, to the log, to ``observer``. Raises JournalError."""
    async with open_event_log(state_dir, run) as event_log:
        yield fan_out(event_log, log_event, observer.emit)


@asynccontextmanager
async def _held(target: Target, run: str) -> AsyncIterator[None]:
    """Renew the run's protection from garbage collection while the block lasts."""

    async def renew() -> None:
        while True:
            await sleep(_HOLD_INTERVAL)
            await to_thread.run_sync(target.hold, run)

    async with create_task_group() as tasks:
        tasks.start_soon(renew)
        yield
        tasks.cancel_scope.cancel()


def identity(request: Request, store: Store, spec: TargetSpec) -> tuple[str, dict[str, Any]]:
    """Return the scope in which outcomes may be used again, and the options by which a stopped run is recognised."""
    options = {
        "source": str(store.root.resolve()),
        "driver": store.driver,
        "target": spec.to_json(),
        "recipe": request.recipe.name,
        "fill": request.settings.snapshots.fill.value,
        "images": sorted(request.images),
    }
    scope = "|".join([LEG, str(store.root.resolve()), store.driver, str(spec), request.recipe.name])
    return scope, options


def _start(journal: Journal, scope: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Mapping[str, Any]]]:
    standing = journal.standing(scope)
    unfinished = journal.last_unfinished(scope, options)
    if unfinished is None:
        return journal.start_run(LEG, scope, options), standing
    journal.reopen_run(unfinished.id)
    return unfinished.id, standing


def _to_roll_back(journal: Journal, run: str | None) -> RunRecord:
    if run is not None:
        record = journal.run(run)
    else:
        candidates: Sequence[RunRecord] = [
            record for record in journal.runs() if record.leg == LEG and record.state is not RunState.ROLLED_BACK
        ]
        if not candidates:
            raise JournalError("there is no run to roll back", remedy="see the runs with `transship status`")
        record = candidates[0]
    if record.leg != LEG:
        raise JournalError(f"run {record.id} moved nothing", remedy="name a run of the leg " + LEG)
    return record


def _write_map(path: Path, journal: Journal, run: str, spec: TargetSpec, itinerary: Itinerary) -> None:
    write_file(path, make_map(run, str(spec), itinerary.images, journal.steps(run)))
