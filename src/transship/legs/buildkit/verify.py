"""The check of build caches that were brought to version 2: whether all that they need is held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transship.engine.step import Resource, Result, Step
from transship.errors import VerificationFailed
from transship.legs.buildkit.job import job
from transship.stores import bolt_file
from transship.stores.buildkit.holder import Lease
from transship.stores.buildkit.places import find_caches
from transship.stores.buildkit.records import read_records

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transship.legs.buildkit.job import Containerd, Job
    from transship.stores.buildkit.holder import Holder
    from transship.stores.buildkit.records import Record
    from transship.stores.docker.problem import Problem

_MOST_NAMED = 3
_REMEDY = "prune the cache (`docker builder prune`, `buildctl prune`): such records cannot be used, or not for long"


def plan_check(root: Path, state_dir: Path, containerd: Containerd) -> list[Step]:
    """Return a step for each cache in ``root``, which fails if something is missing. Raises SourceMissing, SourceError."""
    return [_check(job(root, cache, state_dir, "verify", containerd)) for cache in find_caches(root)]


def _check(found: Job) -> Step:
    def run(_: object) -> Result:
        if found.cache.version == 1:
            remedy = "run `transship buildkit migrate`"
            raise VerificationFailed(f"{found.cache.metadata} is still of version 1", remedy=remedy)
        _ensure_whole(found)
        return Result({}, created=False)

    return Step(f"cache:{found.name}", f"cache {found.cache.metadata}", Resource.DISK, run, lambda _: False)


def _ensure_whole(found: Job) -> None:
    """Raise VerificationFailed if a record cannot be read, has no snapshot, or is not held by its lease."""
    damaged: list[Problem] = []
    with bolt_file.opened(found.cache.metadata) as database, found.holder() as holder:
        records = list(read_records(database, damaged))
        problems = [problem.error.message for problem in damaged]
        problems += [f"record {record.id} has no snapshot {name}" for record, name in _absent(records, holder)]
        lacking = holder.lease([_lease(record, holder.snapshotter) for record in records])
    if lacking:
        problems.append("some records have no lease that keeps their data")
    if problems:
        named = "; ".join(problems[:_MOST_NAMED])
        more = f"; and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
        raise VerificationFailed(f"{found.cache.metadata}: {named}{more}", remedy=_REMEDY)


def _absent(records: list[Record], holder: Holder) -> Iterator[tuple[Record, str]]:
    for record in records:
        name = record.text("cache.snapshot")
        if name is None or record.text("cache.equalMutable") is not None or record.flag("cache.blobonly"):
            continue  # it has none of its own, or none yet
        if holder.snapshot(name) is None:
            yield record, name


def _lease(record: Record, snapshotter: str) -> Lease:
    snapshot, blob = record.text("cache.snapshot"), record.text("cache.blob")
    held = [(f"snapshots/{snapshotter}", snapshot)] if snapshot else []
    return Lease(record.id, (*held, *([("content", blob)] if blob else [])))
