"""Looking before leaping: what a migration would do, leg by leg, without writing anything."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread

from transship.engine.journal import FILE_NAME, Journal
from transship.errors import UsageError
from transship.legs.aufs.steps import plan_relocation
from transship.legs.buildkit.job import Containerd, jobs
from transship.legs.buildkit.migrate import caches_of_docker
from transship.legs.buildkit.outlook import CacheOutlook
from transship.legs.buildkit.outlook import outlook as cache_outlook
from transship.legs.containerd.estimate import Estimate, estimate, guessed_seconds, rooms
from transship.legs.containerd.itinerary import plan_voyage, select
from transship.legs.containerd.migrate import opened
from transship.legs.containerd.voyage import voyage_of
from transship.legs.graph.left_behind import left_behind
from transship.legs.graph.mapping import SavedMapping
from transship.legs.graph.migrate import ledger_of, with_ancestors
from transship.legs.graph.outlook import Outlook, outlook
from transship.legs.graph.workspace import aside
from transship.stores.docker.store import read_store
from transship.stores.graph.store import read_graph
from transship.stores.root import Generation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transship.engine.step import Value
    from transship.legs.containerd.estimate import Room
    from transship.legs.left_out import LeftOut
    from transship.legs.request import Request, Route
    from transship.stores.docker.images import Image
    from transship.stores.docker.store import Store
    from transship.stores.graph.store import Graph
    from transship.stores.interfaces import Target
    from transship.stores.root import Place


@dataclass(frozen=True)
class PlannedImage:
    """An image: its ID, its names with a tag, its names with a digest, and how many layers it has.

    One of a store older than Docker 1.10 has the ID that it had there; its new one is found on the way.
    """

    id: str
    references: tuple[str, ...]
    repo_digests: tuple[str, ...]
    layers: int


@dataclass(frozen=True)
class PlannedLeg:
    """One leg of the voyage: its name, what it does, and how many of its steps are done already.

    ``steps`` is null for a leg whose steps are known only when those before it have ended.
    """

    leg: str
    what: str
    steps: int | None
    standing: int


@dataclass(frozen=True)
class Preview:
    """What a migration would do."""

    route: Route
    legs: tuple[PlannedLeg, ...]
    images: tuple[PlannedImage, ...]
    layers: int
    left_out: tuple[LeftOut, ...]
    estimate: Estimate


async def preview(request: Request) -> Preview:
    """Plan what ``request`` asks for. Writes nothing. Raises UsageError, SourceError, TargetError, JournalError."""
    route = await to_thread.run_sync(request.route)
    place = route.place
    if route.target.in_place:
        if request.images:
            raise UsageError("an upgrade in place is of the whole store", remedy="leave out --image")
        return await to_thread.run_sync(_of_caches if route.target.is_cache else _in_place, route)
    if place.generation is Generation.CONTENT_ADDRESSABLE:
        store = await to_thread.run_sync(read_store, place.root, place.driver)
        images = select(store, request.images)
        notes = await to_thread.run_sync(left_behind, place)
        before, more = await to_thread.run_sync(_caches_along, route)
        async with opened(route.target) as target:
            planning = partial(
                _of_store, route, target, store, images, damage=not request.images, before=before, notes=(*notes, *more)
            )
            return await to_thread.run_sync(planning)
    graph = await to_thread.run_sync(read_graph, place.root, place.driver)
    wanted = with_ancestors(graph, request.images)
    async with opened(route.target) as target:
        return await to_thread.run_sync(_of_graph, route, target, graph, wanted)


def _of_store(
    route: Route,
    target: Target,
    store: Store,
    images: Sequence[Image],
    *,
    damage: bool,
    before: tuple[PlannedLeg, ...] = (),
    notes: tuple[LeftOut, ...] = (),
) -> Preview:
    known = _standing(route)
    voyage = voyage_of(route, store, target)
    itinerary = plan_voyage(voyage, images, known, damage=damage)
    figures = estimate(voyage, itinerary, known)
    return Preview(
        route=route,
        legs=(*before, PlannedLeg("containerd", f"images into {route.target}", figures.steps, figures.standing)),
        images=tuple(
            PlannedImage(image.id, image.references, image.digest_references, len(image.chain_ids))
            for image in itinerary.images
        ),
        layers=len(itinerary.layers),
        left_out=(*notes, *itinerary.left_out),
        estimate=figures,
    )


def _of_graph(route: Route, target: Target, graph: Graph, wanted: frozenset[str]) -> Preview:
    found = outlook(graph, wanted, _standing(route), route.settings.run.parallel)
    legs = (
        *_relocation(route.place),
        PlannedLeg("graph", "metadata made anew, in the state directory", found.steps, found.standing),
    )
    if found.standing == found.steps:  # all of that is done: the rest can be told exactly
        metadata = aside(route.settings.run.state_dir, graph.root, graph.driver)
        store, mapping = read_store(graph.root, graph.driver, metadata), SavedMapping(metadata)
        new_ids = sorted({new_id for image in found.images if (new_id := mapping.get(image.id)) in store.images and new_id})
        return _of_store(route, target, store, [store.images[new_id] for new_id in new_ids], damage=False, before=legs)
    later = PlannedLeg("containerd", f"images into {route.target}", None, 0)
    written = {"content": (found.bytes // 2, 2 * len(found.images)), "snapshots": (found.bytes, found.files)}
    return _of_outlook(route, found, (*legs, later), rooms(target.file_systems(), written), passes=2)


def _in_place(route: Route) -> Preview:
    place, target = route.place, route.target
    known = _standing(route)
    graph = read_graph(place.root, place.driver)
    found = outlook(graph, frozenset(graph.images), known, route.settings.run.parallel, in_place=True)
    legs: list[PlannedLeg] = []
    if place.generation is Generation.BEFORE_DRIVERS or target.kind == "graph":
        steps, _ = plan_relocation(place.root, ledger_of(place.root, route.settings.run.state_dir, "plan"))
        standing = sum(step.key in known and step.check(known[step.key]) for step in steps)
        what = "layers moved to where the driver aufs has them, in the root itself"
        legs.append(PlannedLeg("aufs", what, len(steps), standing))
    if target.kind == "docker":
        legs.append(PlannedLeg("graph", "metadata made anew, in the root itself", found.steps, found.standing))
    written = {"metadata": (found.metadata, 12 * len(found.images))}
    return _of_outlook(route, found, tuple(legs), rooms({"metadata": place.root}, written), passes=1)


def _of_caches(route: Route) -> Preview:
    place, target = route.place, route.target
    run, known = _unfinished(route)
    containerd = Containerd(Path(target.path), target.namespace)
    found = [cache_outlook(job, known) for job in jobs(place.root, route.settings.run.state_dir, run, containerd)]
    size = sum(cache.bytes for cache in found)
    figures = Estimate(
        steps=sum(cache.steps for cache in found),
        standing=sum(cache.standing for cache in found),
        bytes_to_read=size,
        files=len(found),
        seconds=guessed_seconds(size, len(found), 1),
        rooms=rooms({"metadata": place.root}, {"metadata": (3 * size, 2 * len(found))}),
    )
    notes = tuple(left for cache in found for left in cache.damaged)
    return Preview(route, tuple(map(_cache_leg, found)), (), 0, notes, figures)


def _caches_along(route: Route) -> tuple[tuple[PlannedLeg, ...], tuple[LeftOut, ...]]:
    """Return the legs of a Docker data root's build caches, and what to say of them."""
    if route.request.images:
        return (), ()
    run, known = _unfinished(route)
    found, notes = caches_of_docker(route.place.root, route.settings.run.state_dir, run)
    outlooks = [cache_outlook(job, known) for job in found]
    damaged = [left for cache in outlooks for left in cache.damaged]
    return tuple(map(_cache_leg, outlooks)), (*notes, *damaged)


def _cache_leg(found: CacheOutlook) -> PlannedLeg:
    what = f"{found.records} records of {found.job.cache.metadata} to version 2, beside it"
    return PlannedLeg("buildkit", what, found.steps, found.standing)


def _unfinished(route: Route) -> tuple[str, Mapping[str, Value]]:
    """Return the run that would be gone on with, empty if there is none, and what has been done."""
    state_dir = route.settings.run.state_dir
    if not (state_dir / FILE_NAME).exists():
        return "", {}
    with Journal.read_only(state_dir) as journal:
        run = journal.last_unfinished(route.scope, route.options)
        return run.id if run is not None else "", journal.standing(route.scope)


def _relocation(place: Place) -> tuple[PlannedLeg, ...]:
    if place.generation is not Generation.BEFORE_DRIVERS:
        return ()
    return (PlannedLeg("aufs", "layers read where Docker 0.6 has them", 0, 0),)


def _of_outlook(
    route: Route, found: Outlook, legs: tuple[PlannedLeg, ...], places: tuple[Room, ...], *, passes: int
) -> Preview:
    """Put together what can be told of a store whose new image IDs are not known yet; its layers are read ``passes`` times."""
    names: dict[str, list[str]] = {}
    for name, v1_id in found.names.items():
        names.setdefault(v1_id, []).append(name)
    images = tuple(
        PlannedImage(
            image.id,
            tuple(name for name in names.get(image.id, ()) if "@" not in name),
            tuple(name for name in names.get(image.id, ()) if "@" in name),
            found.depths[image.id],
        )
        for image in found.images
    )
    steps, standing = sum(leg.steps or 0 for leg in legs), sum(leg.standing for leg in legs)
    figures = Estimate(steps, standing, passes * found.bytes, passes * found.files, passes * found.seconds, places)
    return Preview(route, legs, images, len(images), found.left_out, figures)


def _standing(route: Route) -> Mapping[str, Value]:
    """Return what earlier runs have done; nothing if there were none."""
    return _unfinished(route)[1]
