"""The check of a migration that was made: what is in the target against what is in the source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread

from transship.engine.plan import Plan
from transship.errors import SourceMissing
from transship.legs.attempt import Attempt, opened_state
from transship.legs.aufs import verify as relocation
from transship.legs.buildkit import verify as caches
from transship.legs.buildkit.job import Containerd
from transship.legs.containerd.damage import find_damage
from transship.legs.containerd.itinerary import select
from transship.legs.containerd.migrate import opened
from transship.legs.containerd.verify import plan_verification
from transship.legs.graph import verify as upgrade
from transship.legs.graph.mapping import SavedMapping
from transship.legs.graph.migrate import ledger_of, with_ancestors
from transship.legs.graph.workspace import aside
from transship.legs.left_out import LeftOut, lost_step
from transship.stores.docker.store import read_store
from transship.stores.graph.store import read_graph
from transship.stores.root import Generation

if TYPE_CHECKING:
    from transship.engine.journal import Journal
    from transship.engine.observer import Observer
    from transship.engine.step import Step
    from transship.engine.summary import Summary
    from transship.formats.digest import Digest
    from transship.legs.request import Request, Route
    from transship.stores.docker.images import Image
    from transship.stores.docker.store import Store

LEG = "verify"


async def verify(request: Request, observer: Observer) -> Summary:
    """Hold the target against the source. What differs is in the summary's failed steps. Raises like ``migrate``."""
    async with opened_state(request.settings.run.state_dir) as journal:
        route = await to_thread.run_sync(request.route)
        if route.target.in_place:
            return await _sail(journal, route, await to_thread.run_sync(_checks_in_place, route), observer)
        store, images, damage = await to_thread.run_sync(_source, route)
        async with opened(route.target) as target:
            plan = await to_thread.run_sync(plan_verification, store, target, images)
            return await _sail(journal, route, [*plan, *damage], observer)


def _checks_in_place(route: Route) -> list[Step]:
    place = route.place
    if route.target.is_cache:
        containerd = Containerd(Path(route.target.path), route.target.namespace)
        return caches.plan_check(place.root, route.settings.run.state_dir, containerd)
    if route.target.kind == "graph":
        return relocation.plan_check(place.root, ledger_of(place.root, route.settings.run.state_dir, "verify"))
    return upgrade.plan_check(read_graph(place.root, place.driver))


def _source(route: Route) -> tuple[Store, list[Image], list[Step]]:
    """Return the store, the images asked for, and steps for what is lost of all if all were asked for."""
    place, wanted = route.place, route.request.images
    if place.generation is Generation.CONTENT_ADDRESSABLE:
        store = read_store(place.root, place.driver)
        damage = [lost_step(left) for left in find_damage(store) if left.lost and not wanted]
        return store, select(store, wanted), damage
    graph = read_graph(place.root, place.driver)
    metadata = aside(route.settings.run.state_dir, graph.root, graph.driver)
    if not metadata.is_dir():
        raise SourceMissing(
            f"{place.root} is a store of Docker 1.9 or older, and nothing has been made of it yet",
            remedy="verify after `transship migrate`, with the same --state-dir",
        )
    store, mapping = read_store(graph.root, graph.driver, metadata), SavedMapping(metadata)
    found: set[Digest] = set()
    lost: list[Step] = []
    for v1_id in sorted(with_ancestors(graph, wanted) | (set() if wanted else graph.broken.keys())):
        new_id = mapping.get(v1_id)
        if new_id is not None and new_id in store.images:
            found.add(new_id)
        else:
            reason = f"image {v1_id} was not carried over"
            lost.append(lost_step(LeftOut(v1_id, reason, "run `transship migrate` again", lost=True)))
    return store, [store.images[new_id] for new_id in sorted(found)], lost


async def _sail(journal: Journal, route: Route, steps: list[Step], observer: Observer) -> Summary:
    root, target = route.place.root, route.target
    options = {"source": str(root.resolve()), "target": target.to_json(), "images": sorted(route.request.images)}
    run = await to_thread.run_sync(journal.start_run, LEG, f"{LEG}|{root}|{target}", options)
    record = await to_thread.run_sync(journal.run, run)
    observer.started(record)
    return await Attempt(journal, record, {}, settings=route.settings, observer=observer).sail(Plan(steps))
