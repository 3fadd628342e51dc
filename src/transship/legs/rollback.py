"""Taking a run back: whatever it made, in a target or in an old root, and nothing else."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread

from transship.engine import rollback as engine_rollback
from transship.engine.records import RunState
from transship.engine.step import State
from transship.errors import JournalError, RunNotFound
from transship.legs.attempt import opened_state, recorded
from transship.legs.buildkit.job import Containerd
from transship.legs.buildkit.migrate import USUAL_CONTAINERD
from transship.legs.buildkit.undo import CacheRestoration
from transship.legs.containerd.migrate import opened
from transship.legs.containerd.undo import remove_torn_names, undo_of
from transship.legs.graph.undo import Restoration, undo_of_metadata
from transship.legs.targets import LEGS, TargetSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transship.engine.journal import Journal
    from transship.engine.observer import Observer
    from transship.engine.records import RunRecord
    from transship.engine.rollback import Rollback


async def rollback(run: str | None, state_dir: Path, observer: Observer) -> Rollback:
    """Remove what ``run`` (None: the last migration that is not rolled back) made, and nothing else.

    Raises JournalError, SourceError, TargetError, StateLocked.
    """
    async with opened_state(state_dir) as journal:
        record = await to_thread.run_sync(_to_roll_back, journal, run)
        spec = TargetSpec.from_json(record.options["target"])
        observer.started(record)
        made = await to_thread.run_sync(journal.created_by, record.id)
        torn = await to_thread.run_sync(journal.steps, record.id, State.BEGUN)
        failed = await to_thread.run_sync(journal.steps, record.id, State.FAILED)
        containerd = Containerd(Path(spec.path), spec.namespace) if spec.is_cache else USUAL_CONTAINERD
        caches = CacheRestoration(state_dir, record, made, [*torn, *failed], containerd)
        await to_thread.run_sync(caches.begin)
        if spec.is_cache:
            async with recorded(state_dir, record.id, observer) as emit:
                return await engine_rollback.rollback(record.id, journal, caches.undo, emit)
        if spec.in_place:
            restoration = Restoration(state_dir, record, made, [*torn, *failed])
            await to_thread.run_sync(restoration.begin)
            async with recorded(state_dir, record.id, observer) as emit:
                return await engine_rollback.rollback(record.id, journal, restoration.undo, emit, restoration.end)
        async with opened(spec) as target:
            undo = {**undo_of_metadata(), **caches.undo, **undo_of(target, made)}
            await to_thread.run_sync(partial(remove_torn_names, target, spec.namespace, record.id, torn, made))
            await to_thread.run_sync(target.release, record.id)
            async with recorded(state_dir, record.id, observer) as emit:
                return await engine_rollback.rollback(record.id, journal, undo, emit)


def _to_roll_back(journal: Journal, run: str | None) -> RunRecord:
    if run is not None:
        record = journal.run(run)
    else:
        candidates: Sequence[RunRecord] = [
            record for record in journal.runs() if record.leg in LEGS and record.state is not RunState.ROLLED_BACK
        ]
        if not candidates:
            raise RunNotFound("there is no run to roll back", remedy="see the runs with `transship status`")
        record = candidates[0]
    if record.leg not in LEGS:
        raise JournalError(f"run {record.id} moved nothing", remedy=f"name a run of the leg {' or '.join(LEGS)}")
    return record
