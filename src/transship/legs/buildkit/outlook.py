"""What bringing build caches to version 2 comes to, before anything is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.legs.buildkit.steps import cache_steps
from transship.legs.left_out import LeftOut
from transship.stores import bolt_file
from transship.stores.buildkit.records import read_records

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transship.engine.step import Value
    from transship.legs.buildkit.job import Job
    from transship.stores.docker.problem import Problem


@dataclass(frozen=True)
class CacheOutlook:
    """A cache that is to be brought to version 2: how many records it has, its metadata's size in bytes, how many steps that
    takes, and how many of them are done.
    """

    job: Job
    records: int
    bytes: int
    steps: int
    standing: int
    damaged: tuple[LeftOut, ...]
    """Records with values that cannot be read."""


def outlook(job: Job, known: Mapping[str, Value]) -> CacheOutlook:
    """Look at a cache. ``known`` are values of steps that were done before. Raises SourceError."""
    problems: list[Problem] = []
    file = job.cache.metadata
    size = file.stat().st_size
    records = 0
    if size:
        with bolt_file.opened(file) as database:
            records = sum(1 for _ in read_records(database, problems))
    steps = cache_steps(job)
    standing = sum(step.key in known and step.check(known[step.key]) for step in steps)
    damaged = tuple(LeftOut.of(each.subject, each.error, lost=False) for each in problems)
    return CacheOutlook(job, records, size, len(steps), standing, damaged)
