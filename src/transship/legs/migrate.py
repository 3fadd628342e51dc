"""A migration from end to end: which legs it takes, one after another. What the command line and the service both call."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from anyio import to_thread

from transship.errors import SourceCorrupt, UsageError
from transship.legs.attempt import Attempt, ended, opened_state
from transship.legs.buildkit.migrate import take_caches_along, upgrade_caches
from transship.legs.containerd.itinerary import select
from transship.legs.containerd.migrate import move_images, opened
from transship.legs.containerd.voyage import voyage_of
from transship.legs.graph.left_behind import left_behind
from transship.legs.graph.migrate import upgrade, upgrade_in_place, with_ancestors, workspace_of
from transship.stores.busy import ensure_not_in_use
from transship.stores.docker.store import read_store
from transship.stores.graph.store import read_graph
from transship.stores.root import Generation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from transship.engine.journal import Journal
    from transship.engine.observer import Observer
    from transship.engine.records import RunRecord
    from transship.engine.step import Value
    from transship.formats.digest import Digest
    from transship.legs.report import Report
    from transship.legs.request import Request, Route
    from transship.stores.docker.images import Image
    from transship.stores.docker.store import Store
    from transship.stores.interfaces import Target

_LOOK_INTERVAL = 5
"""Seconds between two looks whether a daemon has come to use the source."""


async def migrate(request: Request, observer: Observer) -> Report:
    """Move what ``request`` asks for; continue a run of the same request that was stopped.

    Raises UsageError, SourceError, TargetError, StateLocked, JournalError. Things that cannot be moved do not raise: they are
    in the report.
    """
    _ = request.recipe
    async with opened_state(request.settings.run.state_dir) as journal:
        route = await to_thread.run_sync(request.route)
        if route.target.in_place:
            if request.images:
                raise UsageError("an upgrade in place is of the whole store", remedy="leave out --image")
            async with _begun(journal, route, observer) as attempt:
                if route.target.is_cache:
                    return await upgrade_caches(attempt, route.place.root, route.target)
                return await upgrade_in_place(attempt, route.place, route.target)
        async with opened(route.target) as target:
            if route.place.generation is Generation.CONTENT_ADDRESSABLE:
                return await _from_store(journal, route, target, observer)
            return await _from_graph(journal, route, target, observer)


async def _from_store(journal: Journal, route: Route, target: Target, observer: Observer) -> Report:
    place, wanted = route.place, route.request.images
    store = await to_thread.run_sync(read_store, place.root, place.driver)
    images = select(store, wanted)
    async with _begun(journal, route, observer) as attempt:
        attempt.notes += await to_thread.run_sync(left_behind, place)
        if not wanted:
            await take_caches_along(attempt, place.root)
        voyage = voyage_of(route, store, target, attempt.record.id)
        return await move_images(attempt, voyage, images, route.target, damage=not wanted)


async def _from_graph(journal: Journal, route: Route, target: Target, observer: Observer) -> Report:
    """Move a store of Docker 1.9 or older: what it lacks is made in the state directory first."""
    place = route.place
    graph = await to_thread.run_sync(read_graph, place.root, place.driver)
    wanted = with_ancestors(graph, route.request.images)
    async with _begun(journal, route, observer) as attempt:
        workspace = await to_thread.run_sync(workspace_of, route.settings.run.state_dir, graph)
        new_ids = await upgrade(attempt, workspace, wanted)
        store = await to_thread.run_sync(read_store, place.root, place.driver, workspace.place)
        images = [_made(store, image_id) for image_id in sorted(set(new_ids.values()))]
        voyage = voyage_of(route, store, target, attempt.record.id)
        return await move_images(attempt, voyage, images, route.target, damage=False, former=new_ids)


def _made(store: Store, image_id: Digest) -> Image:
    """Return an image that was just made. Raises SourceCorrupt if it cannot be read back."""
    if image_id not in store.images:
        cause = store.broken.get(image_id)
        raise SourceCorrupt(
            f"image {image_id}, as made in {store.metadata}, cannot be read back{f': {cause.message}' if cause else ''}",
            remedy="remove that directory, and run again",
        )
    return store.images[image_id]


@asynccontextmanager
async def _begun(journal: Journal, route: Route, observer: Observer) -> AsyncIterator[Attempt]:
    """Begin a run, or go on with one of the same request that was stopped. A daemon that comes to use the source stops it."""
    record, standing = await to_thread.run_sync(_start, journal, route)
    async with ended(journal, record.id):
        observer.started(record)
        busy = (_LOOK_INTERVAL, partial(ensure_not_in_use, route.place.root))
        yield Attempt(journal, record, standing, settings=route.settings, observer=observer, watches=(busy,))


def _start(journal: Journal, route: Route) -> tuple[RunRecord, dict[str, Value]]:
    standing = journal.standing(route.scope)
    unfinished = journal.last_unfinished(route.scope, route.options)
    if unfinished is None:
        return journal.run(journal.start_run(route.target.leg, route.scope, route.options)), standing
    journal.reopen_run(unfinished.id)
    return journal.run(unfinished.id), standing
