"""Requests and answers of the service. Fields are added in later versions, none is renamed or removed.

Times are seconds since 1970 (UTC), durations seconds, sizes bytes.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from transship.api.problem import Problem
from transship.engine.progress import Snapshot
from transship.engine.records import ErrorInfo, RunState
from transship.engine.step import State
from transship.errors import UsageError
from transship.files.fill import FillMode
from transship.formats.compression import Codec
from transship.legs.containerd.estimate import Room
from transship.legs.left_out import LeftOut
from transship.legs.preview import PlannedImage, PlannedLeg
from transship.legs.report import Report
from transship.legs.request import Request

if TYPE_CHECKING:
    from transship.config import Settings
    from transship.engine.records import RunRecord, StepRecord
    from transship.legs.preview import Preview

_Text = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
MAX_RUNS = 1000
MAX_STEPS = 1000
"""On one page."""
MAX_JOBS = 1024
_MAX_LEVEL = 100
_MAX_SEQ = (1 << 63) - 1


class Order(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A migration that is asked for. What is not given is as in the service's configuration.

    ``source`` is Docker's data root, ``driver`` one of its graph drivers, ``target`` ``containerd``, ``containerd:SOCKET``,
    ``oci:DIRECTORY``, ``docker`` or ``graph``; paths are absolute. ``images``: names or IDs, none: all. ``jobs``: layers worked
    on at once.
    """

    source: _Text | UnsetType = UNSET
    driver: _Text | UnsetType = UNSET
    target: _Text | UnsetType = UNSET
    namespace: _Text | UnsetType = UNSET
    snapshotter: _Text | UnsetType = UNSET
    compression: Codec | UnsetType = UNSET
    level: Annotated[int, Meta(ge=0, le=_MAX_LEVEL)] | UnsetType = UNSET
    fill: FillMode | UnsetType = UNSET
    jobs: Annotated[int, Meta(ge=1, le=MAX_JOBS)] | UnsetType = UNSET
    images: Annotated[tuple[_Text, ...], Meta(max_length=1000)] = ()

    @classmethod
    def of(cls, request: Request) -> Order:
        """Return the order that asks for ``request`` and leaves nothing to the service's configuration that is set in it.

        Raises UsageError for what an order cannot say: what is no UTF-8, or beyond the bounds.
        """
        settings = request.settings
        kind, _, path = (settings.target.to or "").partition(":")
        chosen: dict[str, Any] = {
            "source": settings.source.directory and str(settings.source.directory.absolute()),
            "driver": settings.source.driver,
            "target": f"{kind}:{Path(path).absolute()}" if path else kind or None,
            "namespace": settings.target.namespace,
            "snapshotter": settings.target.snapshotter,
            "compression": settings.blobs.compression,
            "level": settings.blobs.level,
            "fill": settings.snapshots.fill,
            "jobs": settings.run.jobs or None,
            "images": request.images,
        }
        order = cls(**{name: value for name, value in chosen.items() if value is not None})
        try:
            return msgspec.json.decode(msgspec.json.encode(order), type=cls)
        except ValueError as error:
            raise UsageError(
                f"the service cannot be asked for this: {error}", remedy="do without it: migrate --direct"
            ) from error

    def request(self, settings: Settings) -> Request:
        """Return what is asked for, with ``settings`` where nothing was said. Raises UsageError for a path that is relative."""
        replace = msgspec.structs.replace
        for path in (self.source or "", (self.target or "").partition(":")[2]):
            if path and not Path(path).is_absolute():
                raise UsageError(f"{path} is not an absolute path", remedy="give the whole path")
        source = _given(directory=Path(self.source) if self.source else UNSET, driver=self.driver)
        target = _given(to=self.target, namespace=self.namespace, snapshotter=self.snapshotter)
        return Request(
            replace(
                settings,
                source=replace(settings.source, **source),
                target=replace(settings.target, **target),
                blobs=replace(settings.blobs, **_given(compression=self.compression, level=self.level)),
                snapshots=replace(settings.snapshots, **_given(fill=self.fill)),
                run=replace(settings.run, **_given(jobs=self.jobs)),
            ),
            self.images,
        )


class Run(msgspec.Struct, frozen=True):
    """A run as the journal has it. ``options`` is what was asked for; ``ended`` is null while it runs or if it was killed."""

    id: str
    leg: str
    state: RunState
    started: float
    ended: float | None
    attempts: int
    bytes: int
    options: dict[str, Any]

    @classmethod
    def of(cls, record: RunRecord) -> Run:
        """Return what of ``record`` concerns others."""
        return cls(
            record.id,
            record.leg,
            record.state,
            record.started,
            record.ended,
            record.attempts,
            record.bytes,
            dict(record.options),
        )


class Phase(Enum):
    """What the service is doing."""

    IDLE = "idle"
    MIGRATING = "migrating"
    ROLLING_BACK = "rolling-back"
    STOPPING = "stopping"


class Current(msgspec.Struct, frozen=True):
    """What it is at. ``run`` is null and ``progress`` is null until it is planned; a rollback has no progress."""

    run: Run | None
    since: float
    progress: Snapshot | None
    stalled: bool


class Status(msgspec.Struct, frozen=True):
    """The service. ``last`` is the newest run in the journal that is not ``current``; ``armed``: migrates at the next boot."""

    version: str
    state: Phase
    pid: int
    since: float
    state_dir: str
    armed: bool
    current: Current | None
    last: Run | None


class Runs(msgspec.Struct, frozen=True):
    """Runs, newest first. ``total`` is how many there are."""

    runs: list[Run]
    total: int


class RunsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which runs: ``limit`` of them, after leaving out the ``skip`` newest."""

    skip: Annotated[int, Meta(ge=0, le=_MAX_SEQ)] = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_RUNS)] = 100


class StepDetails(msgspec.Struct, frozen=True):
    """How a step of a run stands. ``created``: the run made it. ``value`` is what it left, ``seq`` orders how they ended."""

    key: str
    kind: str
    state: State
    created: bool
    started: float
    ended: float
    bytes: int
    seq: int
    value: dict[str, Any] | None
    error: ErrorInfo | None

    @classmethod
    def of(cls, record: StepRecord) -> StepDetails:
        """Return what of ``record`` concerns others."""
        return cls(
            record.key,
            record.kind,
            record.state,
            record.created,
            record.started,
            record.ended,
            record.bytes,
            record.seq,
            None if record.value is None else dict(record.value),
            record.error,
        )


class RunDetails(msgspec.Struct, frozen=True):
    """A run, a page of its steps in the order in which they ended, and how it came out.

    ``counts`` says how many steps are in each state. ``next`` is the ``after`` of the next page, null on the last one.
    ``report`` is there once a migration came to its end; ``problem`` says what stopped the last attempt, if the service
    that answers made it.
    """

    run: Run
    counts: dict[str, int]
    steps: list[StepDetails]
    next: int | None
    report: Report | None
    problem: Problem | None


class StepsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which steps: those in ``state``, ``limit`` of them, from the one whose ``seq`` follows ``after``."""

    state: State | UnsetType = UNSET
    after: Annotated[int, Meta(ge=0, le=_MAX_SEQ)] = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_STEPS)] = 100


class PlanEstimate(msgspec.Struct, frozen=True):
    """What is left to do, roughly. Of ``steps``, ``standing`` are done already. ``room``: there is enough everywhere."""

    steps: int
    standing: int
    bytes_to_read: int
    files: int
    seconds: float
    rooms: tuple[Room, ...]
    room: bool


class PlanAnswer(msgspec.Struct, frozen=True):
    """What a migration would do, in which legs, one after the other. ``layers`` is how many different ones there are."""

    source: str
    driver: str
    target: str
    images: tuple[PlannedImage, ...]
    layers: int
    left_out: tuple[LeftOut, ...]
    estimate: PlanEstimate
    legs: tuple[PlannedLeg, ...] = ()

    @classmethod
    def of(cls, found: Preview) -> PlanAnswer:
        """Put together what was found."""
        figures = found.estimate
        return cls(
            source=str(found.route.place.root),
            driver=found.route.place.driver,
            target=str(found.route.target),
            images=found.images,
            layers=found.layers,
            left_out=found.left_out,
            estimate=PlanEstimate(
                figures.steps,
                figures.standing,
                figures.bytes_to_read,
                figures.files,
                figures.seconds,
                figures.rooms,
                room=all(room.enough for room in figures.rooms),
            ),
            legs=found.legs,
        )


class EventsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether to go on with what comes, as long as the service is at the run, or only to tell what was."""

    follow: bool = True


class Health(msgspec.Struct, frozen=True):
    """The service answers, and what it is at advances."""

    healthy: bool


def _given(**values: object) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not UNSET}
