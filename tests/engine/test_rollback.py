from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from anyio import to_thread

from transship.engine.events import Event, RollbackStarted, RunEnded, StepFailed, StepUndone
from transship.engine.records import Outcome, RunState
from transship.engine.rollback import Rollback, rollback
from transship.engine.step import State, Value
from transship.errors import JournalError, RunNotFound, TargetRefused, TargetUnavailable

if TYPE_CHECKING:
    from transship.engine.journal import Journal

pytestmark = pytest.mark.anyio

KEYS = ["blob:1", "blob:2", "manifest:1", "image:1"]


class Target:
    """Holds names. Those in ``used_by`` are kept while what uses them is there; those in ``trouble`` raise."""

    def __init__(self) -> None:
        self.names = {*KEYS, "blob:before"}
        self.used_by: dict[str, str] = {}
        self.trouble: dict[str, Exception] = {}
        self.calls: list[str] = []

    def undo(self, key: str, value: Value) -> bool:
        assert value == {"name": key}
        self.calls.append(key)
        if key in self.trouble:
            raise self.trouble[key]
        if self.used_by.get(key) in self.names:
            return False
        self.names.discard(key)
        return True


@pytest.fixture
def target() -> Target:
    return Target()


@pytest.fixture
def run_id(journal: Journal) -> str:
    run = journal.start_run("leg", "scope", {})
    for key in KEYS:
        journal.record(run, Outcome(key, State.DONE, 1.0, 2.0, value={"name": key}, created=True))
    journal.record(run, Outcome("blob:before", State.DONE, 1.0, 2.0, value={"name": "blob:before"}))
    journal.end_run(run, RunState.DONE)
    return run


async def roll_back(journal: Journal, run_id: str, target: Target, events: list[Event] | None = None) -> Rollback:
    async def emit(event: Event) -> None:
        if events is not None:
            events.append(event)

    return await rollback(run_id, journal, dict.fromkeys(("blob", "manifest", "image"), target.undo), emit)


async def state(journal: Journal, run_id: str) -> RunState:
    return (await to_thread.run_sync(journal.run, run_id)).state


async def test_what_the_run_created_goes_newest_first_and_nothing_else(journal: Journal, run_id: str, target: Target) -> None:
    events: list[Event] = []
    result = await roll_back(journal, run_id, target, events)
    assert target.calls == KEYS[::-1]
    assert target.names == {"blob:before"}
    assert result.removed == tuple(KEYS[::-1])
    assert await state(journal, run_id) is RunState.ROLLED_BACK
    undone = await to_thread.run_sync(journal.steps, run_id, State.UNDONE)
    assert {step.key for step in undone} == set(KEYS)
    assert await to_thread.run_sync(journal.standing, "scope") == {"blob:before": {"name": "blob:before"}}
    first, *middle, last = events
    assert isinstance(first, RollbackStarted)
    assert first.steps == 4
    assert [event.key for event in middle if isinstance(event, StepUndone) and event.removed] == KEYS[::-1]
    assert isinstance(last, RunEnded)
    assert (last.state, last.done, last.remaining) == (RunState.ROLLED_BACK, 4, 0)


async def test_rolling_back_twice_does_nothing_more(journal: Journal, run_id: str, target: Target) -> None:
    await roll_back(journal, run_id, target)
    target.calls.clear()
    assert await roll_back(journal, run_id, target) == Rollback(run_id, (), (), ())
    assert target.calls == []


@pytest.mark.parametrize("error", [TargetUnavailable("gone"), ZeroDivisionError("a defect")])
@pytest.mark.parametrize("at", KEYS)
async def test_a_rollback_that_was_stopped_goes_on(
    journal: Journal, run_id: str, target: Target, error: Exception, at: str
) -> None:
    target.trouble[at] = error
    events: list[Event] = []
    with pytest.raises(type(error)):
        await roll_back(journal, run_id, target, events)
    assert await state(journal, run_id) is RunState.DONE
    assert isinstance(events[-1], RunEnded)
    removed_before = target.calls[:-1]
    target.trouble.clear()
    target.calls.clear()
    result = await roll_back(journal, run_id, target)
    assert target.calls == [key for key in KEYS[::-1] if key not in removed_before]
    assert result.removed == tuple(target.calls)
    assert target.names == {"blob:before"}
    assert await state(journal, run_id) is RunState.ROLLED_BACK


async def test_one_that_was_stopped_at_its_very_end_goes_on(journal: Journal, run_id: str, target: Target) -> None:
    ends: list[RunState] = []

    async def emit(_: Event) -> None:
        pass

    def finish() -> None:
        ends.append(journal.run(run_id).state)
        if len(ends) == 1:
            raise TargetUnavailable("gone")

    undo = dict.fromkeys(("blob", "manifest", "image"), target.undo)
    with pytest.raises(TargetUnavailable):
        await rollback(run_id, journal, undo, emit, finish)
    assert await state(journal, run_id) is RunState.DONE
    assert await rollback(run_id, journal, undo, emit, finish) == Rollback(run_id, (), (), ())
    assert await state(journal, run_id) is RunState.ROLLED_BACK
    assert ends == [RunState.DONE, RunState.DONE]


async def test_what_something_else_uses_is_kept_and_tried_again_later(journal: Journal, run_id: str, target: Target) -> None:
    target.names.add("image:other")
    target.used_by["blob:1"] = "image:other"
    events: list[Event] = []
    result = await roll_back(journal, run_id, target, events)
    assert result.kept == ("blob:1",)
    assert StepUndone(run_id, events[-2].time, "blob:1", removed=False) in events
    assert await state(journal, run_id) is RunState.ROLLED_BACK
    assert await to_thread.run_sync(lambda: set(journal.standing("scope"))) == {"blob:1", "blob:before"}
    target.names.discard("image:other")
    assert (await roll_back(journal, run_id, target)).removed == ("blob:1",)


async def test_what_was_used_only_by_something_removed_later_goes_too(journal: Journal, run_id: str, target: Target) -> None:
    target.used_by = {"image:1": "manifest:1", "manifest:1": "blob:1"}
    result = await roll_back(journal, run_id, target)
    assert (set(result.removed), result.kept) == (set(KEYS), ())


async def test_one_that_fails_does_not_stop_the_others(journal: Journal, run_id: str, target: Target) -> None:
    target.trouble["manifest:1"] = TargetRefused("not now", remedy="wait")
    events: list[Event] = []
    result = await roll_back(journal, run_id, target, events)
    assert [failure.key for failure in result.failed] == ["manifest:1"]
    assert result.failed[0].error.remedy == "wait"
    assert target.names == {"blob:before", "manifest:1"}
    assert any(isinstance(event, StepFailed) for event in events)
    assert await state(journal, run_id) is RunState.DONE
    target.trouble.clear()
    assert (await roll_back(journal, run_id, target)).removed == ("manifest:1",)
    assert await state(journal, run_id) is RunState.ROLLED_BACK


async def test_an_unknown_kind_is_refused_before_anything_is_removed(journal: Journal, run_id: str, target: Target) -> None:
    async def emit(_: Event) -> None:
        raise AssertionError("nothing happens")

    with pytest.raises(JournalError, match="image, manifest"):
        await rollback(run_id, journal, {"blob": target.undo}, emit)
    assert target.calls == []


async def test_a_run_that_is_not_there_is_named(journal: Journal, target: Target) -> None:
    with pytest.raises(RunNotFound, match="20000101-000000-0000"):
        await roll_back(journal, "20000101-000000-0000", target)
