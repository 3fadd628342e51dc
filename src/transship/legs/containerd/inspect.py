"""Looking before leaping: the plan of a migration, without writing anything; and the check of one that was made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from anyio import to_thread

from transship.engine import run as engine_run
from transship.engine.journal import FILE_NAME, Journal
from transship.engine.plan import Plan
from transship.engine.progress import Progress
from transship.legs.containerd.damage import find_damage, lost_step
from transship.legs.containerd.estimate import Estimate, estimate
from transship.legs.containerd.itinerary import Itinerary, plan_voyage, select
from transship.legs.containerd.migrate import limits, opened, opened_state, recorded
from transship.legs.containerd.verify import LEG, plan_verification
from transship.legs.containerd.voyage import Voyage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transship.engine.observer import Observer
    from transship.engine.run import Summary
    from transship.engine.step import Value
    from transship.legs.containerd.request import Request
    from transship.legs.containerd.targets import TargetSpec
    from transship.stores.docker.store import Store


@dataclass(frozen=True)
class Preview:
    """What a migration would do."""

    store: Store
    target: TargetSpec
    itinerary: Itinerary
    estimate: Estimate


async def preview(request: Request) -> Preview:
    """Plan what ``request`` asks for. Writes nothing. Raises UsageError, SourceError, TargetError, JournalError."""
    store = await to_thread.run_sync(request.open_source)
    images = select(store, request.images)
    spec = await to_thread.run_sync(request.target, store)
    async with opened(spec) as target:
        settings = request.settings
        voyage = Voyage(store, target, request.recipe, settings.snapshots.fill, spec.namespace, settings.run.parallel)
        scope = await to_thread.run_sync(request.scope, store, spec)
        known = await to_thread.run_sync(_standing, settings.run.state_dir, scope)
        planning = partial(plan_voyage, voyage, images, known, damage=not request.images)
        itinerary = await to_thread.run_sync(planning)
        figures = await to_thread.run_sync(estimate, voyage, itinerary, known)
    return Preview(store, spec, itinerary, figures)


async def verify(request: Request, observer: Observer) -> Summary:
    """Hold the target against the source. What differs is in the summary's failed steps. Raises like ``migrate``."""
    state_dir = request.settings.run.state_dir
    async with opened_state(state_dir) as journal:
        store = await to_thread.run_sync(request.open_source)
        images = select(store, request.images)
        spec = await to_thread.run_sync(request.target, store)
        async with opened(spec) as target:
            damage = [lost_step(left) for left in find_damage(store) if left.lost and not request.images]
            plan = Plan([*await to_thread.run_sync(plan_verification, store, target, images), *damage])
            options = {"source": str(store.root.resolve()), "target": spec.to_json(), "images": sorted(request.images)}
            run = await to_thread.run_sync(journal.start_run, LEG, f"{LEG}|{store.root}|{spec}", options)
            observer.started(await to_thread.run_sync(journal.run, run))
            progress = Progress(plan)
            observer.planned(run, len(plan), progress)
            async with recorded(state_dir, run, observer) as emit:
                return await engine_run.run(
                    plan,
                    journal=journal,
                    run_id=run,
                    standing={},
                    limits=limits(request.settings),
                    emit=emit,
                    progress=progress,
                )


def _standing(state_dir: Path, scope: str) -> Mapping[str, Value]:
    """Return what earlier runs have done; nothing if there were none."""
    if not (state_dir / FILE_NAME).exists():
        return {}
    with Journal.read_only(state_dir) as journal:
        return journal.standing(scope)
