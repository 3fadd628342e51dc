"""Following a run of the service as if it were our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from transship.engine import events
from transship.engine.groups import first_error
from transship.engine.records import RunState
from transship.errors import Detached, RunStopped, ServiceUnavailable

if TYPE_CHECKING:
    from transship.api.models import RunDetails
    from transship.client.client import Client
    from transship.engine.observer import Observer
    from transship.engine.progress import Snapshot

_POLL = 0.5
_GIVE_UP_AFTER = 60.0
"""Seconds in which a service that has gone may come back: its manager starts it again, and it goes on with the run."""
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
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_poll, client, run, observer)
            await _hand_on(client, run, since, observer)
            tasks.cancel_scope.cancel()
    except ExceptionGroup as group:
        failure = first_error(group)
    except anyio.get_cancelled_exc_class():
        raise Detached(
            f"no longer following run {run}, which goes on in the service",
            signal_number=2,
            remedy="follow it with `transship status --watch`, stop it with `transship cancel`",
        ) from None
    if failure:
        raise failure
    details = await client.run(run)
    if details.run.state not in _ENDED:
        if details.problem is not None:
            raise details.problem.as_error()
        raise RunStopped(f"run {run} was stopped", remedy="go on with it: transship resume")
    return details


async def _hand_on(client: Client, run: str, since: float, observer: Observer) -> None:
    """Hand on events until the run has ended; bear with a service that is started anew."""
    seen = 0
    deadline = anyio.current_time() + _GIVE_UP_AFTER
    while True:
        try:
            async for document in client.events(run, seen):
                seen = document["seq"]
                event = events.from_json(document)
                if event is not None and event.time >= since:
                    await observer.emit(event)
                deadline = anyio.current_time() + _GIVE_UP_AFTER
            current = (await client.status()).current
            if current is None or current.run is None or current.run.id != run:
                return
        except ServiceUnavailable:
            if anyio.current_time() > deadline:
                raise
        await anyio.sleep(_POLL)


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
