"""One run at a time: starts it, cancels it, says how it stands, and goes on with it after a crash."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import structlog
from anyio import CancelScope, Event, Lock, move_on_after, to_thread

from transship import __version__
from transship.api.armed import FILE_NAME as ARMED
from transship.api.models import Current, Order, Phase, Run, Status
from transship.daemon import history, pledge
from transship.daemon.activity import Activity
from transship.daemon.memory import give_back
from transship.errors import (
    RunGoesOn,
    RunOver,
    ServiceUnavailable,
    SourceError,
    TargetError,
    TargetUnavailable,
    TransshipError,
)
from transship.legs.migrate import migrate
from transship.legs.request import Request
from transship.legs.rollback import rollback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from anyio.abc import TaskGroup

    from transship.config import Settings
    from transship.daemon.metrics import Metrics
    from transship.engine.observer import Observer

_log = structlog.get_logger()


class Supervisor:
    """What the service does. Belongs to the event loop; ``tasks`` carry out what it starts."""

    def __init__(self, settings: Settings, tasks: TaskGroup, metrics: Metrics) -> None:
        self.settings = settings
        """In force for what is started from now on."""
        self.state_dir: Path = settings.run.state_dir
        self.current: Activity | None = None
        self.before: Activity | None = None
        """What the service was at last."""
        self.changed = Event()
        """Set when ``current`` has changed; then there is a new one."""
        self._since = time.time()
        self._tasks = tasks
        self._metrics = metrics
        self._beginning = Lock(fast_acquire=True)
        self._stopping = False
        self._last_of: str | None = None
        self._last: Run | None = None

    def reload(self, settings: Settings) -> None:
        """Have ``settings`` for what is started from now on; the state directory stays the one that it is."""
        run = msgspec.structs.replace(settings.run, state_dir=self.state_dir)
        self.settings = msgspec.structs.replace(settings, run=run)

    async def migrate(self, order: Order) -> tuple[Run, bool]:
        """Begin, or go on with, what ``order`` asks for; return the run, and whether it was not going on already.

        Raises RunGoesOn if another run goes on, and what ``migrate`` raises before it has a run.
        """
        request = order.request(self.settings)
        async with self._beginning:
            if (activity := self.current) is not None:
                return await self._same(activity, request), False
            order = Order.of(request)  # as it is meant today, whatever the configuration says tomorrow
            work = partial(migrate, request)
            return await self._begin(Phase.MIGRATING, pledge.Migration(order), work), True

    async def resume(self, run: str) -> Run:
        """Go on with ``run``, or begin it anew if it has come to its end. Raises like ``migrate``, and RunNotFound."""
        record = await to_thread.run_sync(history.record, self.state_dir, run)
        resumed, _ = await self.migrate(Order.of(Request.of_run(record, self.settings)))
        return resumed

    async def rollback(self, run: str) -> Run:
        """Begin to roll ``run`` back. Raises RunGoesOn, and what ``rollback`` raises before it begins."""
        async with self._beginning:
            if self.current is not None:
                raise self._busy(self.current)

            async def work(observer: Observer) -> None:
                await rollback(run, self.state_dir, observer)

            return await self._begin(Phase.ROLLING_BACK, pledge.Return(run), work)

    async def cancel(self, run: str) -> Run:
        """Stop ``run``, so that it can be gone on with later; return when it has stopped. Raises RunOver, RunNotFound."""
        activity = self.current
        if activity is None or activity.run is None or activity.run.id != run:
            record = await to_thread.run_sync(history.record, self.state_dir, run)
            raise RunOver(f"run {run} is not going on: it is {record.state.value}", remedy="nothing is left to do")
        await to_thread.run_sync(pledge.redeem, self.state_dir)
        activity.scope.cancel()
        await activity.ended.wait()
        return Run.of(await to_thread.run_sync(history.record, self.state_dir, run))

    async def unfinished(self) -> pledge.Task | None:
        """Return what a crash, a power cut or a stop of the service has stopped. If that cannot be told, say so in the log."""
        try:
            return await to_thread.run_sync(pledge.given, self.state_dir)
        except TransshipError as error:
            _log.error("not_resumed", **error.fields())
            return None

    async def go_on(self, task: pledge.Task) -> None:
        """Go on with what was stopped: ``current`` is set before anything else runs. If it cannot be, say so in the log."""
        try:
            if isinstance(task, pledge.Migration):
                run, _ = await self.migrate(task.order)
            else:
                run = await self.rollback(task.run)
            _log.info("resumed", run=run.id)
        except TransshipError as error:
            _log.error("not_resumed", **error.fields())

    async def stop(self) -> bool:
        """Take no more work; stop what goes on, within the time that the settings allow; return whether that was enough."""
        self._stopping = True
        if (activity := self.current) is None:
            return True
        activity.scope.cancel()
        with move_on_after(self.settings.service.stop_within):
            await activity.ended.wait()
        return activity.ended.is_set()

    @property
    def phase(self) -> Phase:
        """What the service is doing."""
        if self._stopping:
            return Phase.STOPPING
        return self.current.phase if self.current else Phase.IDLE

    @property
    def stalled(self) -> bool:
        """True if what goes on does not advance."""
        return self.current is not None and self.current.quiet_for() > self.settings.service.stalled_after

    async def status(self) -> Status:
        """Return how things stand. Raises JournalError."""
        activity = self.current
        run = activity.run if activity else None
        armed, last = await to_thread.run_sync(self._looked_up, run.id if run else None)
        current = None
        if activity is not None:
            progress = activity.progress.snapshot() if activity.progress else None
            current = Current(Run.of(run) if run else None, activity.since, progress, stalled=self.stalled)
        return Status(__version__, self.phase, os.getpid(), self._since, str(self.state_dir), armed, current, last)

    def _looked_up(self, run: str | None) -> tuple[bool, Run | None]:
        if run is None or self._last_of != run:  # while a run goes on, no other can come
            newest, _ = history.runs(self.state_dir, 0, 2)
            others = [record for record in newest if record.id != run]
            self._last_of, self._last = run, Run.of(others[0]) if others else None
        return (self.state_dir / ARMED).exists(), self._last

    async def _same(self, activity: Activity, request: Request) -> Run:
        """Return the run that goes on, if it is what ``request`` asks for."""

        def options() -> dict[str, object]:
            return request.route().options

        run = activity.run
        if run is None or activity.phase is not Phase.MIGRATING:
            raise self._busy(activity)
        try:
            same = await to_thread.run_sync(options) == run.options
        except (SourceError, TargetError) as error:  # so it is something else
            raise self._busy(activity) from error
        if not same:
            raise self._busy(activity)
        return Run.of(run)

    def _busy(self, activity: Activity) -> RunGoesOn:
        run = activity.run.id if activity.run else None
        return RunGoesOn(
            f"the service is at run {run} ({activity.phase.value})" if run else f"the service is {activity.phase.value}",
            run=run,
            remedy="wait for it to end (`transship status --watch`), or stop it with `transship cancel`",
        )

    async def _begin(self, phase: Phase, task: pledge.Task, work: Callable[[Observer], Awaitable[object]]) -> Run:
        if self._stopping:
            raise ServiceUnavailable("the service is stopping", remedy="ask again: it will be started anew")
        activity = Activity(phase)
        self._become(activity)
        self._tasks.start_soon(self._carry_out, activity, task, work)
        await activity.known.wait()
        if activity.run is None:
            raise activity.error or ServiceUnavailable("the service is stopping", remedy="ask again")
        return Run.of(activity.run)

    async def _carry_out(self, activity: Activity, task: pledge.Task, work: Callable[[Observer], Awaitable[object]]) -> None:
        try:
            with activity.scope:
                await to_thread.run_sync(pledge.give, self.state_dir, task)
                await work(activity)
        except TransshipError as error:
            activity.error = error
            _log.error("stopped", **error.fields())
        except Exception as error:  # noqa: BLE001 - a defect ends the run, not the service that tells of it
            activity.error = TransshipError(f"unexpected {type(error).__name__}: {error}", remedy="please report this")
            _log.exception("stopped")
        with CancelScope(shield=True):
            await self._settle(activity)

    async def _settle(self, activity: Activity) -> None:
        """Clear away after ``activity``, which is over."""
        stopped = activity.scope.cancelled_caught or activity.error is not None
        to_go_on_with = (self._stopping and stopped) or isinstance(activity.error, TargetUnavailable)
        try:
            if not to_go_on_with:
                await to_thread.run_sync(pledge.redeem, self.state_dir)
            await self._metrics.ended(activity, self.settings)
        except TransshipError as error:
            _log.error("not_settled", **error.fields())
        await to_thread.run_sync(give_back)
        self.before = activity
        self._become(None)
        activity.end()

    def _become(self, activity: Activity | None) -> None:
        self.current = activity
        self.changed.set()
        self.changed = Event()
