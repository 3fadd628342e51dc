from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from transship.api.models import Phase
from transship.daemon import activity as activities
from transship.daemon.activity import Activity
from transship.engine.events import StepDone
from transship.engine.plan import Plan
from transship.engine.progress import Progress
from transship.engine.records import RunRecord, RunState

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

RUN = RunRecord("r", "containerd", "scope", {}, RunState.RUNNING, 0, None, 1, 1, 0)
EVENT = StepDone("r", 0, "a:1", "a", created=True, skipped=False, bytes=0, seconds=0)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(activities, "time", made)
    return made


@pytest.fixture
def progress(clock: Clock) -> Callable[[], Progress]:
    return lambda: Progress(Plan([]), clock=clock.monotonic)


async def test_reading_and_planning_end_by_themselves(clock: Clock) -> None:
    activity = Activity(Phase.MIGRATING)
    clock.now += 5000
    assert activity.quiet_for() == 0
    activity.started(RUN)
    clock.now += 5000
    assert activity.quiet_for() == 0


async def test_a_migration_advances_by_steps_bytes_and_events(clock: Clock, progress: Callable[[], Progress]) -> None:
    activity = Activity(Phase.MIGRATING)
    activity.started(RUN)
    clock.now += 50
    measured = progress()
    activity.planned("r", 1, measured)
    clock.now += 7
    assert activity.quiet_for() == 7
    measured.alive()
    clock.now += 2
    assert activity.quiet_for() == 2
    await activity.emit(EVENT)
    clock.now += 1
    assert activity.quiet_for() == 1


async def test_a_rollback_advances_by_events(clock: Clock) -> None:
    activity = Activity(Phase.ROLLING_BACK)
    clock.now += 7
    assert activity.quiet_for() == 0
    activity.started(replace(RUN, state=RunState.DONE))
    assert activity.quiet_for() == 7
    await activity.emit(EVENT)
    clock.now += 3
    assert activity.quiet_for() == 3


async def test_it_is_known_when_it_has_a_run_or_is_over() -> None:
    with_run, without = Activity(Phase.MIGRATING), Activity(Phase.MIGRATING)
    assert not with_run.known.is_set()
    with_run.started(RUN)
    assert with_run.known.is_set()
    assert not with_run.ended.is_set()
    without.end()
    assert without.known.is_set()
    assert without.ended.is_set()
    assert without.tail.closed
