"""The leg ``containerd``: a content-addressable store's images into containerd, or an OCI image layout."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from anyio import to_thread

from transship.engine.state_dir import run_directory
from transship.files.durable import write_file
from transship.legs.attempt import put_away
from transship.legs.containerd import mapping
from transship.legs.containerd.itinerary import plan_voyage
from transship.legs.report import Report, write_report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from transship.engine.summary import Summary
    from transship.legs.attempt import Attempt
    from transship.legs.containerd.itinerary import Itinerary
    from transship.legs.containerd.voyage import Voyage
    from transship.legs.targets import TargetSpec
    from transship.stores.docker.images import Image
    from transship.stores.interfaces import Target

_HOLD_INTERVAL = 3600
"""Seconds between two renewals of the run's protection from garbage collection, which lasts a day."""


@asynccontextmanager
async def opened(spec: TargetSpec) -> AsyncIterator[Target]:
    """Yield the target that ``spec`` names, ready for use. Raises TargetError."""
    target = spec.connect()
    await to_thread.run_sync(target.open)
    try:
        yield target
    finally:
        await put_away(target.close)


async def move_images(
    attempt: Attempt,
    voyage: Voyage,
    images: Sequence[Image],
    spec: TargetSpec,
    *,
    damage: bool,
    former: Mapping[str, str] | None = None,
) -> Report:
    """Do the last part of a run: move ``images``, and say how the whole run ended.

    ``damage``: what is damaged in the store counts as left out. ``former`` are the v1 IDs that image IDs have come from.
    """
    run, target = attempt.record.id, voyage.target
    await to_thread.run_sync(target.hold, run)
    itinerary = await to_thread.run_sync(partial(plan_voyage, voyage, images, attempt.standing, damage=damage))
    summary = await attempt.sail(itinerary.plan, (_HOLD_INTERVAL, partial(target.hold, run)))
    report = await to_thread.run_sync(_write_reports, attempt, summary, itinerary, spec, former or {})
    await to_thread.run_sync(target.release, run)
    return report


def _write_reports(
    attempt: Attempt, summary: Summary, itinerary: Itinerary, spec: TargetSpec, former: Mapping[str, str]
) -> Report:
    directory = run_directory(attempt.settings.run.state_dir, summary.run)
    map_file = directory / mapping.FILE_NAME
    steps = attempt.journal.steps(summary.run)
    write_file(map_file, mapping.make_map(summary.run, str(spec), itinerary.images, steps, former))
    report = Report.make(
        summary,
        target=str(spec),
        images=len(itinerary.images),
        layers=len(itinerary.layers),
        left_out=(*attempt.notes, *itinerary.left_out),
        map_file=map_file,
    )
    write_report(directory, report)
    return report
