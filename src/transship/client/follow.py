"""Following a run of the service as if it were our own."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import anyio

from transship.engine import events
from transship.engine.groups import first_error
from transship.engine.records import RunState
from transship.errors import Detached, RunStopped, ServiceUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from transship.api.models import Current, RunDetails
    from transship.client.client import Client
    from transship.engine.observer import Observer
    from transship.engine.progress import Snapshot

_POLL = 0.5
_GIVE_UP_AFTER = 60.0
"""Seconds in which a service that has gone may come back: its manager starts it again, and it goes on with the run."""
_TAKEN_UP_WITHIN = 5.0
"""Seconds in which a service that was started anew begins with what it was at."""
_ENDED = {RunState.DONE, RunState.INCOMPLETE, RunState.ROLLED_BACK}


class RemoteProgress:
    """The last progress that the service told of."""

    def __init__(self, first: Snapshot) -> None:
        self.last = first

    def snapshot(self) -> Snapshot:
        """Return it."""
        return self.last


async def follow(client: Client, run: str, since: float, observer: Observer) -> RunDetails:
    """Hand the events of ``run`` from the time ``since`` on, and its progress, to ``observer``; return how it ended.

    Raises what stopped it, ServiceUnavailable if the service stays away, and Detached if a signal ends the following.
    """
    failure: Exception | None = None
    try:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_poll, client, run, observer)
                stopped = await _hand_on(client, run, since, observer)
                tasks.cancel_scope.cancel()
        except ExceptionGroup as group:
            failure = first_error(group)
        if failure:
            raise failure
        return await _outcome(client, run, stopped=stopped)
    except anyio.get_cancelled_exc_class():
        raise detached(run) from None


def detached(run: str) -> Detached:
    """Return the error to raise when a signal ends the following of ``run``."""
    return Detached(
        f"no longer following run {run}, which goes on in the service",
        remedy="follow it with `transship status --watch`, stop it with `transship cancel`",
    )


async def under_way(client: Client) -> Current | None:
    """Return what the service is at, None if that is nothing. What it is just beginning is waited for until it has a run."""
    while True:
        current = (await client.status()).current
        if current is None or current.run is not None:
            return current
        await anyio.sleep(_POLL)


async def happenings(client: Client, run: str, since: float = 0) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the events of ``run`` as JSON objects, until it has ended or the service is no longer at it.

    Bears with a service that is killed, or stopped, and started anew. What happened before ``since`` does not tell how it
    ended. Raises ServiceUnavailable if the service stays away.
    """
    seen, over = 0, 0.0  # over: since when, 0 if it is not
    away, idle = _Patience(_GIVE_UP_AFTER), _Patience(_TAKEN_UP_WITHIN)
    while True:
        try:
            async with aclosing(client.events(run, seen)) as stream:
                async for event in stream:
                    seen = event["seq"]
                    if event["time"] >= since:
                        over = event["time"] if event["type"] == events.RunEnded.type else 0.0
                    yield event
            status = await client.status()
            away.restore()
            if (current := status.current) is None:
                if over >= status.since or await _is_settled(client, run, status.since, over) or idle.is_lost():
                    return
            elif current.run is not None and current.run.id != run:
                return
            else:
                idle.restore()
        except ServiceUnavailable:
            if over:
                return
            if away.is_lost():
                raise
        await anyio.sleep(_POLL)


class _Patience:
    """Lasts for so many seconds from the first time that it is tried."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None

    def restore(self) -> None:
        self._since = None

    def is_lost(self) -> bool:
        now = anyio.current_time()
        self._since = now if self._since is None else self._since
        return now - self._since >= self._seconds


async def _is_settled(client: Client, run: str, since: float, over: float) -> bool:
    """Tell whether a service that has lived since then, and is not at ``run``, will not go on with it by itself.

    ``over``: its end, if it was heard of. Without that, a run that is done may be one whose rollback was killed.
    """
    details = await client.run(run)
    stopped_by_it = details.run.state is RunState.INTERRUPTED and (details.run.ended or 0.0) >= since
    return details.problem is not None or (over > 0 and details.run.state in _ENDED) or stopped_by_it


async def _hand_on(client: Client, run: str, since: float, observer: Observer) -> bool:
    """Hand on events until the run has ended; return whether it has been stopped."""
    stopped = False
    async with aclosing(happenings(client, run, since)) as documents:
        async for document in documents:
            event = events.from_json(document)
            if event is not None and event.time >= since:
                stopped = isinstance(event, events.RunEnded) and event.state is RunState.INTERRUPTED
                await observer.emit(event)
    return stopped


async def _poll(client: Client, run: str, observer: Observer) -> None:
    progress: RemoteProgress | None = None
    while True:
        try:
            current = (await client.status()).current
        except ServiceUnavailable:  # told by who hands on events, if it lasts
            current = None
        if current and current.run and current.run.id == run and current.progress:
            if progress is None:
                progress = RemoteProgress(current.progress)
                observer.planned(run, current.progress.total.steps, progress)
            progress.last = current.progress
        await anyio.sleep(_POLL)


async def _outcome(client: Client, run: str, *, stopped: bool) -> RunDetails:
    """Return how ``run`` has ended. Raises what stopped it."""
    away = _Patience(_GIVE_UP_AFTER)
    while True:
        try:
            details = await client.run(run)
            break
        except ServiceUnavailable:  # it was stopped, and the run with it; or only the service, just after the run's end
            if stopped:
                raise _stopped(run) from None
            if away.is_lost():
                raise
        await anyio.sleep(_POLL)
    if details.problem is not None:
        raise details.problem.as_error()
    if details.run.state not in _ENDED:
        raise _stopped(run)
    return details


def _stopped(run: str) -> RunStopped:
    return RunStopped(
        f"run {run} was stopped before its end: by `transship cancel`, or with the service",
        remedy="go on with it: `transship resume`",
    )
