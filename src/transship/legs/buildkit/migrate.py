"""The part of a run that brings build caches to version 2."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread

from transship.engine.plan import Plan
from transship.engine.state_dir import run_directory
from transship.errors import SourceMissing
from transship.files.durable import write_file
from transship.legs.buildkit.job import Containerd, Job, jobs
from transship.legs.buildkit.steps import RECORDS, Records, cache_steps, records_in
from transship.legs.left_out import LeftOut
from transship.legs.report import Report, write_report
from transship.legs.targets import BUILDKIT, DEFAULT_SOCKET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transship.engine.step import Value
    from transship.legs.attempt import Attempt
    from transship.legs.targets import TargetSpec

USUAL_CONTAINERD = Containerd(DEFAULT_SOCKET, BUILDKIT)


async def upgrade_caches(attempt: Attempt, root: Path, spec: TargetSpec) -> Report:
    """Do a whole run: bring the build caches in ``root`` to version 2. Raises SourceMissing if there are none."""
    containerd = Containerd(Path(spec.path), spec.namespace)
    found = await to_thread.run_sync(jobs, root, attempt.settings.run.state_dir, attempt.record.id, containerd)
    await _sail(attempt, found, last=True)
    return await to_thread.run_sync(_report, attempt, spec)


async def take_caches_along(attempt: Attempt, root: Path) -> None:
    """Do the part of a run of a Docker data root that brings its build cache to version 2, if it has one that is not."""
    found, notes = await to_thread.run_sync(caches_of_docker, root, attempt.settings.run.state_dir, attempt.record.id)
    attempt.notes += notes
    if found:
        await _sail(attempt, found, last=False)


def caches_of_docker(root: Path, state_dir: Path, run: str) -> tuple[list[Job], list[LeftOut]]:
    """Return the caches of a Docker data root that are of version 1, and what to say of those that cannot be changed."""
    try:
        found = jobs(root, state_dir, run, USUAL_CONTAINERD)
    except SourceMissing:
        return [], []
    writable = [job for job in found if os.access(job.cache.place, os.W_OK)]
    remedy = "nothing is lost: run `transship buildkit migrate` where it can be written to"
    reason = "the build cache stays of version 1, since it cannot be written to"
    return writable, [LeftOut(str(job.cache.metadata), reason, remedy, lost=False) for job in found if job not in writable]


async def _sail(attempt: Attempt, found: Sequence[Job], *, last: bool) -> None:
    steps = [step for job in found for step in cache_steps(job)]
    await attempt.sail(Plan(steps), last=last)
    made = _records(await to_thread.run_sync(attempt.values))
    dropped = [each for records in made.values() for each in records.dropped]
    attempt.notes += [LeftOut(subject, reason, remedy, lost=False) for subject, reason, remedy in dropped]


def _report(attempt: Attempt, spec: TargetSpec) -> Report:
    directory = run_directory(attempt.settings.run.state_dir, attempt.record.id)
    map_file = directory / "map.json"
    counted = {name: records.records for name, records in _records(attempt.values()).items()}
    document = {"run": attempt.record.id, "target": str(spec), "caches": counted}
    write_file(map_file, json.dumps(document, indent=1).encode() + b"\n")
    assert attempt.summary is not None  # noqa: S101 - its last part has ended
    report = Report.make(
        attempt.summary,
        target=str(spec),
        records=sum(counted.values()),
        left_out=attempt.notes,
        map_file=map_file,
    )
    write_report(directory, report)
    return report


def _records(values: Mapping[str, Value]) -> dict[str, Records]:
    """Return what the run, in this attempt or an earlier one, has made of each cache, by its path in the root."""
    found = {key.partition(":"): value for key, value in values.items()}
    return {name: records_in(value) for (kind, _, name), value in found.items() if kind == RECORDS}
