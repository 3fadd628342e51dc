from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from anyio import CancelScope, create_task_group, to_thread
from hypothesis import given, settings
from hypothesis import strategies as st

from transship.engine.events import Event, RunEnded, RunStarted, StepBlocked, StepDone, StepFailed, StepStarted
from transship.engine.journal import Journal
from transship.engine.plan import Plan
from transship.engine.progress import Amount, Progress
from transship.engine.records import RunState
from transship.engine.run import run
from transship.engine.step import Context, Cost, Resource, Result, State, Step, Value
from transship.errors import (
    JournalError,
    SourceBusy,
    SourceCorrupt,
    TargetFull,
    TargetRefused,
    TargetUnavailable,
    TransshipError,
)

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable, Mapping

    from transship.engine.summary import Summary

pytestmark = pytest.mark.anyio

LIMITS = {Resource.CPU: 2, Resource.DISK: 2, Resource.REMOTE: 2}
PATIENCE = 30.0
"""Seconds after which a thread that waits in vain gives up, so that a defect fails a test instead of hanging it."""


class World:
    """A target that holds names; its steps put one there each."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.ran: list[str] = []
        self.checked: list[str] = []

    def step(
        self,
        key: str,
        needs: tuple[str, ...] = (),
        after: tuple[str, ...] = (),
        *,
        size: int = 0,
        resource: Resource = Resource.CPU,
        body: Callable[[Context], None] | None = None,
    ) -> Step:
        def work(context: Context) -> Result:
            if body is not None:
                body(context)
            self.ran.append(key)
            created = key not in self.names
            self.names.add(key)
            return Result({"name": key}, created)

        def check(value: Value) -> bool:
            self.checked.append(key)
            return value["name"] in self.names

        return Step(key, f"put {key}", resource, work, check, needs, after, Cost(size, 1))


@dataclass
class Attempts:
    """Runs plans against one journal, and keeps the events of the last one."""

    journal: Journal
    events: list[Event] = field(default_factory=list)
    progress: Progress | None = None

    def start(self) -> str:
        return self.journal.start_run("leg", "scope", {})

    async def go(
        self,
        steps: Iterable[Step],
        run_id: str,
        limits: Mapping[Resource, int] = LIMITS,
        *,
        earlier: Summary | None = None,
        last: bool = True,
    ) -> Summary:
        plan = Plan(steps)
        self.events = []
        self.progress = Progress(plan)
        standing = await to_thread.run_sync(self.journal.standing, "scope")

        async def emit(event: Event) -> None:
            self.events.append(event)

        return await run(
            plan,
            journal=self.journal,
            run_id=run_id,
            standing=standing,
            limits=limits,
            emit=emit,
            progress=self.progress,
            earlier=earlier,
            last=last,
        )

    async def state(self, run_id: str) -> RunState:
        return (await to_thread.run_sync(self.journal.run, run_id)).state

    def of(self, kind: type[Event]) -> list[str]:
        return [
            event.key
            for event in self.events
            if isinstance(event, kind) and isinstance(event, StepStarted | StepDone | StepFailed | StepBlocked)
        ]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def attempts(journal: Journal) -> Attempts:
    return Attempts(journal)


@pytest.fixture
def run_id(attempts: Attempts) -> str:
    return attempts.start()


async def in_thread(act: Callable[[], object]) -> None:
    await to_thread.run_sync(act)


async def states(journal: Journal, run_id: str) -> dict[str, State]:
    """Return how the steps stand that have come to an end."""
    steps = await to_thread.run_sync(journal.steps, run_id)
    return {step.key: step.state for step in steps if step.state is not State.BEGUN}


def raises(error: Exception) -> Callable[[Context], None]:
    def body(_: Context) -> None:
        raise error

    return body


async def test_everything_runs_in_order_and_is_journalled(world: World, attempts: Attempts, run_id: str) -> None:
    steps = [
        world.step("image:1", ("manifest:1",)),
        world.step("manifest:1", ("blob:1", "blob:2"), size=1),
        world.step("blob:1", size=10),
        world.step("blob:2", size=20),
    ]
    summary = await attempts.go(steps, run_id)
    assert (summary.state, summary.steps, summary.done, summary.created, summary.skipped) == (RunState.DONE, 4, 4, 4, 0)
    assert world.ran.index("image:1") == 3
    assert world.ran.index("manifest:1") == 2
    record = await to_thread.run_sync(attempts.journal.run, run_id)
    assert record.state is RunState.DONE
    assert await states(attempts.journal, run_id) == dict.fromkeys(("blob:1", "blob:2", "manifest:1", "image:1"), State.DONE)
    assert attempts.progress is not None
    assert attempts.progress.snapshot().done == Amount(4, 31, 4)


async def test_an_empty_plan_is_done(attempts: Attempts, run_id: str) -> None:
    assert (await attempts.go([], run_id)).state is RunState.DONE


async def test_events_tell_the_whole_story(world: World, attempts: Attempts, run_id: str) -> None:
    broken = world.step(
        "blob:2", body=raises(SourceCorrupt("blob 2 is damaged", remedy="pull it again")), resource=Resource.DISK
    )
    steps = [world.step("blob:1", size=7), broken, world.step("image:1", ("blob:1", "blob:2"))]
    summary = await attempts.go(steps, run_id)
    first, *_, last = attempts.events
    assert isinstance(first, RunStarted)
    assert first.to_json() == {
        "type": "run_started",
        "run": run_id,
        "time": first.time,
        "leg": "leg",
        "attempt": 1,
        "steps": 3,
        "bytes": 7,
        "files": 3,
    }
    assert isinstance(last, RunEnded)
    assert (last.state, last.done, last.failed, last.blocked, last.remaining) == (RunState.INCOMPLETE, 1, 1, 1, 0)
    assert last.to_json()["state"] == "incomplete"
    assert sorted(attempts.of(StepStarted)) == ["blob:1", "blob:2"]
    assert attempts.of(StepDone) == ["blob:1"]
    (failure,) = [event for event in attempts.events if isinstance(event, StepFailed)]
    assert failure.to_json()["error"] == {"type": "SourceCorrupt", "message": "blob 2 is damaged", "remedy": "pull it again"}
    (blocked,) = [event for event in attempts.events if isinstance(event, StepBlocked)]
    assert (blocked.key, blocked.needs, blocked.cause) == ("image:1", ("blob:2",), "blob:2")
    assert [(failed.key, failed.error.remedy) for failed in summary.failed] == [("blob:2", "pull it again")]


async def test_no_more_run_at_once_than_the_limit_of_their_resource(world: World, attempts: Attempts, run_id: str) -> None:
    lock = threading.Lock()
    running = dict.fromkeys(Resource, 0)
    most = dict.fromkeys(Resource, 0)
    limits = {Resource.CPU: 1, Resource.DISK: 3, Resource.REMOTE: 2}
    together = {resource: threading.Barrier(limit) for resource, limit in limits.items()}

    def counted(resource: Resource) -> Callable[[Context], None]:
        def body(_: Context) -> None:
            with lock:
                running[resource] += 1
                most[resource] = max(most[resource], running[resource])
            together[resource].wait(PATIENCE)
            with lock:
                running[resource] -= 1

        return body

    steps = [
        world.step(f"{resource.value}:{number}", resource=resource, body=counted(resource))
        for resource in Resource
        for number in range(6)
    ]
    summary = await attempts.go(steps, run_id, limits)
    assert summary.done == 18
    assert most == limits


async def test_the_costliest_goes_first(world: World, attempts: Attempts, run_id: str) -> None:
    sizes = [3, 9, 1, 7, 5]
    await attempts.go([world.step(f"blob:{size}", size=size) for size in sizes], run_id, {Resource.CPU: 1})
    assert world.ran == ["blob:9", "blob:7", "blob:5", "blob:3", "blob:1"]


async def test_what_most_waits_for_goes_first(world: World, attempts: Attempts, run_id: str) -> None:
    steps = [
        world.step("blob:small", size=1),
        world.step("blob:large", size=2_000_000),
        *(world.step(f"snapshot:{n}", ("blob:small",) if n == 0 else (f"snapshot:{n - 1}",), size=900_000) for n in range(3)),
    ]
    await attempts.go(steps, run_id, {Resource.CPU: 1})
    assert world.ran[0] == "blob:small"


async def test_a_resource_without_limit_is_refused(world: World, attempts: Attempts, run_id: str) -> None:
    with pytest.raises(ValueError, match="DISK"):
        await attempts.go([world.step("blob:1", resource=Resource.DISK)], run_id, {Resource.CPU: 1, Resource.DISK: 0})


async def test_values_go_to_those_that_wait(world: World, attempts: Attempts, run_id: str) -> None:
    seen: list[Value | None] = []

    def look(context: Context) -> None:
        seen.extend([context.value("blob:1"), context.value("blob:2")])
        with pytest.raises(ValueError, match="blob:3"):
            context.value("blob:3")

    steps = [
        world.step("blob:1"),
        world.step("blob:2", body=raises(TargetRefused("no"))),
        world.step("blob:3"),
        world.step("map:1", ("blob:1",), ("blob:2",), body=look),
    ]
    await attempts.go(steps, run_id)
    assert seen == [{"name": "blob:1"}, None]


async def test_a_failure_blocks_what_needs_it_and_nothing_else(world: World, attempts: Attempts, run_id: str) -> None:
    steps = [
        world.step("blob:1", body=raises(SourceCorrupt("damaged"))),
        world.step("manifest:1", ("blob:1",)),
        world.step("image:1", ("manifest:1",)),
        world.step("blob:2"),
        world.step("image:2", ("blob:2",)),
        world.step("map:1", (), ("image:1", "image:2", "blob:1")),
    ]
    summary = await attempts.go(steps, run_id)
    assert summary.state is RunState.INCOMPLETE
    assert sorted(world.ran) == ["blob:2", "image:2", "map:1"]
    assert world.ran[-1] == "map:1"
    assert summary.blocked == ("manifest:1", "image:1")
    rows = {step.key: step for step in await to_thread.run_sync(attempts.journal.steps, run_id)}
    assert rows["blob:1"].state is State.FAILED
    assert rows["image:1"].state is State.BLOCKED
    assert rows["image:1"].error is not None
    assert "blob:1" in rows["image:1"].error.message
    assert attempts.progress is not None
    assert attempts.progress.snapshot().left_out.steps == 3


async def test_an_outcome_is_journalled_before_anything_that_needs_it_starts(
    world: World, attempts: Attempts, run_id: str
) -> None:
    found: list[bool] = []

    def look(_: Context) -> None:
        found.append("blob:1" in attempts.journal.standing("scope"))

    await attempts.go([world.step("blob:1"), world.step("image:1", ("blob:1",), body=look)], run_id)
    assert found == [True]


async def test_what_still_stands_is_not_run_again(world: World, attempts: Attempts, run_id: str) -> None:
    steps = [world.step("blob:1", size=5), world.step("blob:2", size=5), world.step("image:1", ("blob:1", "blob:2"))]
    await attempts.go(steps, run_id)
    world.ran.clear()
    world.names.discard("blob:2")
    second = await to_thread.run_sync(attempts.start)
    summary = await attempts.go(steps, second)
    assert world.ran == ["blob:2"]
    assert (summary.done, summary.skipped, summary.created) == (3, 2, 1)
    assert sorted(attempts.of(StepStarted)) == ["blob:2"]
    created = await to_thread.run_sync(attempts.journal.created_by, second)
    assert [step.key for step in created] == ["blob:2"]
    assert attempts.progress is not None
    assert attempts.progress.snapshot().skipped == Amount(2, 5, 2)


async def test_a_continued_run_keeps_what_it_created(world: World, attempts: Attempts, run_id: str) -> None:
    world.names.add("blob:0")
    trouble: list[Exception] = [TargetRefused("not yet")]

    def once(_: Context) -> None:
        if trouble:
            raise trouble.pop()

    steps = [world.step("blob:0"), world.step("blob:1"), world.step("image:1", ("blob:0", "blob:1"), body=once)]
    assert (await attempts.go(steps, run_id)).state is RunState.INCOMPLETE
    await to_thread.run_sync(attempts.journal.reopen_run, run_id)
    summary = await attempts.go(steps, run_id)
    assert (summary.state, summary.skipped) == (RunState.DONE, 2)
    started = attempts.events[0]
    assert isinstance(started, RunStarted)
    assert started.attempt == 2
    created = await to_thread.run_sync(attempts.journal.created_by, run_id)
    assert [step.key for step in created] == ["image:1", "blob:1"]


async def test_a_check_that_fails_fails_its_step(world: World, attempts: Attempts, run_id: str) -> None:
    good = world.step("blob:1")
    await attempts.go([good], run_id)

    def check(_: Value) -> bool:
        raise TargetRefused("cannot look")

    bad = Step(good.key, good.title, good.resource, good.run, check)
    summary = await attempts.go([bad, world.step("blob:2")], await to_thread.run_sync(attempts.start))
    assert [failure.key for failure in summary.failed] == ["blob:1"]
    assert world.ran == ["blob:1", "blob:2"]


@pytest.mark.parametrize(
    "error", [TargetUnavailable("gone"), TargetFull("no room"), SourceBusy("dockerd runs"), ZeroDivisionError("a defect")]
)
async def test_some_errors_stop_the_run_at_once(world: World, attempts: Attempts, run_id: str, error: Exception) -> None:
    other_runs = threading.Event()

    def long_one(context: Context) -> None:
        other_runs.set()
        while True:
            context.advance(1)

    def fatal(_: Context) -> None:
        assert other_runs.wait(PATIENCE)
        raise error

    steps = [
        world.step("blob:1", body=long_one),
        world.step("blob:2", body=fatal),
        world.step("image:2", ("blob:2",)),
        *(world.step(f"blob:{number}") for number in range(3, 9)),
    ]
    with pytest.raises(type(error)) as caught:
        await attempts.go(steps, run_id)
    assert caught.value is error
    assert world.ran == []
    (row,) = [step for step in await to_thread.run_sync(attempts.journal.steps, run_id) if step.state is not State.BEGUN]
    assert (row.key, row.state) == ("blob:2", State.FAILED)
    assert row.error is not None
    assert row.error.type == type(error).__name__
    assert (await to_thread.run_sync(attempts.journal.run, run_id)).state is RunState.INTERRUPTED
    last = attempts.events[-1]
    assert isinstance(last, RunEnded)
    assert (last.state, last.failed, last.remaining) == (RunState.INTERRUPTED, 1, 8)


async def test_cancellation_stops_threads_records_what_was_finished_and_the_run_resumes(
    world: World, attempts: Attempts, run_id: str
) -> None:
    waiting, cancelled = threading.Barrier(3), threading.Event()

    def stops(context: Context) -> None:
        waiting.wait(PATIENCE)
        assert cancelled.wait(PATIENCE)
        while True:
            context.check_cancelled()

    def finishes(_: Context) -> None:
        waiting.wait(PATIENCE)
        assert cancelled.wait(PATIENCE)

    steps = [
        world.step("blob:1", body=stops),
        world.step("blob:2", body=finishes),
        world.step("image:2", ("blob:2",)),
    ]
    with CancelScope() as scope:
        async with create_task_group() as tasks:
            tasks.start_soon(attempts.go, steps, run_id)
            await to_thread.run_sync(waiting.wait, PATIENCE)
            scope.cancel()
            cancelled.set()
    assert scope.cancelled_caught
    assert await states(attempts.journal, run_id) == {"blob:2": State.DONE}
    assert (await to_thread.run_sync(attempts.journal.run, run_id)).state is RunState.INTERRUPTED
    last = attempts.events[-1]
    assert isinstance(last, RunEnded)
    assert (last.done, last.remaining) == (1, 2)

    again = [world.step("blob:1"), world.step("blob:2"), world.step("image:2", ("blob:2",))]
    await to_thread.run_sync(attempts.journal.reopen_run, run_id)
    summary = await attempts.go(again, run_id)
    assert (summary.state, summary.skipped) == (RunState.DONE, 1)
    assert world.ran[0] == "blob:2"
    assert sorted(world.ran) == ["blob:1", "blob:2", "image:2"]
    created = await to_thread.run_sync(attempts.journal.created_by, run_id)
    assert {step.key for step in created} == {"blob:1", "blob:2", "image:2"}


async def test_advance_stops_a_step_too_and_counts(world: World, attempts: Attempts, run_id: str) -> None:
    def body(context: Context) -> None:
        for _ in range(5000):
            context.advance(2)

    summary = await attempts.go([world.step("blob:1", size=10_000, body=body)], run_id)
    assert summary.bytes == 10_000
    assert (await to_thread.run_sync(attempts.journal.run, run_id)).bytes == 10_000


async def test_a_journal_that_cannot_be_written_stops_the_run(world: World, attempts: Attempts, run_id: str) -> None:
    def body(_: Context) -> None:
        attempts.journal.close()

    with pytest.raises(JournalError):
        await attempts.go([world.step("blob:1", body=body), world.step("image:1", ("blob:1",))], run_id)
    assert world.ran == ["blob:1"]


@pytest.mark.parametrize(("kind", "left"), [(StepStarted, {}), (StepDone, {"blob:1": State.DONE})])
async def test_a_sink_that_fails_stops_the_run_and_fails_no_step(
    world: World, attempts: Attempts, run_id: str, kind: type[Event], left: dict[str, State]
) -> None:
    plan = Plan([world.step("blob:1"), world.step("image:1", ("blob:1",))])

    async def emit(event: Event) -> None:
        if isinstance(event, kind):
            raise JournalError("the log is full")

    with pytest.raises(JournalError, match="the log is full"):
        await run(plan, journal=attempts.journal, run_id=run_id, standing={}, limits=LIMITS, emit=emit, progress=Progress(plan))
    assert await states(attempts.journal, run_id) == left
    assert (await to_thread.run_sync(attempts.journal.run, run_id)).state is RunState.INTERRUPTED


async def test_messages_that_are_not_unicode_are_journalled(world: World, attempts: Attempts, run_id: str) -> None:
    summary = await attempts.go([world.step("blob:1", body=raises(SourceCorrupt("file \udcff", remedy="\udcfe")))], run_id)
    assert summary.failed[0].error.message == "file \\udcff"
    assert await states(attempts.journal, run_id) == {"blob:1": State.FAILED}


_KILLED = """
import os, signal, sys
from pathlib import Path
import anyio, uvloop
from transship.engine.journal import Journal
from transship.engine.plan import Plan
from transship.engine.progress import Progress
from transship.engine.run import run
from transship.engine.step import Resource, Result, Step

state_dir, target = map(Path, sys.argv[1:])

def step(number):
    path = target / str(number)
    def work(context):
        if number == 3:
            path.write_text("x")
            os.kill(os.getpid(), signal.SIGKILL)
        path.write_text("x")
        return Result({"name": str(number)}, True)
    needs = (f"file:{number - 1}",) if number else ()
    return Step(f"file:{number}", "", Resource.DISK, work, lambda value: path.exists(), needs)

async def main():
    async def emit(event):
        pass
    plan = Plan(step(number) for number in range(6))
    journal = Journal.open(state_dir)
    run_id = journal.start_run("leg", "scope", {})
    await run(plan, journal=journal, run_id=run_id, standing={}, limits={Resource.DISK: 2}, emit=emit, progress=Progress(plan))

anyio.run(main, backend_options={"use_uvloop": True})
"""


async def test_a_run_killed_in_the_middle_goes_on_where_it_was(
    tmp_path: Path, world: World, child: Callable[..., subprocess.Popen[str]]
) -> None:
    state_dir, target = tmp_path / "other-state", tmp_path / "target"
    await in_thread(target.mkdir)
    killed = await to_thread.run_sync(child, _KILLED, state_dir, target)
    assert await to_thread.run_sync(killed.wait) == -9
    journal = await to_thread.run_sync(Journal.open, state_dir)
    try:
        found = await to_thread.run_sync(journal.last_unfinished, "scope", {})
        assert found is not None
        await to_thread.run_sync(journal.reopen_run, found.id)
        world.names |= {"0", "1", "2", "file:3", "file:4"}  # 3 is there because of the kill, 4 was there before
        steps = [world.step(f"file:{number}", (f"file:{number - 1}",) if number else ()) for number in range(6)]
        summary = await Attempts(journal).go(steps, found.id)
        assert (summary.state, summary.skipped) == (RunState.DONE, 3)
        assert world.ran == ["file:3", "file:4", "file:5"]
        created = await to_thread.run_sync(journal.created_by, found.id)
        assert [step.key for step in created] == [f"file:{number}" for number in (5, 3, 2, 1, 0)]
    finally:
        await in_thread(journal.close)


@st.composite
def plans(draw: st.DrawFn) -> list[tuple[set[int], set[int], bool]]:
    """For each step: the numbers of the earlier ones that it needs and comes after, and whether it fails."""
    steps = []
    for number in range(draw(st.integers(0, 15))):
        earlier = st.sets(st.integers(0, number - 1), max_size=3) if number else st.just(set[int]())
        steps.append((draw(earlier), draw(earlier), draw(st.integers(0, 5)) == 0))
    return steps


@settings(max_examples=30, deadline=None)
@given(plans())
async def test_any_plan_ends_as_its_failures_say(shape: list[tuple[set[int], set[int], bool]]) -> None:
    ended: list[int] = []
    world = World()

    def body(number: int, *, fails: bool) -> Callable[[Context], None]:
        def work(_: Context) -> None:
            ended.append(number)
            if fails:
                raise TransshipError("as told")

        return work

    expected: dict[str, State] = {}
    for number, (needs, _, fails) in enumerate(shape):
        blocked = any(expected[f"s:{need}"] is not State.DONE for need in needs)
        expected[f"s:{number}"] = State.BLOCKED if blocked else State.FAILED if fails else State.DONE
    steps = [
        world.step(
            f"s:{number}", tuple(f"s:{n}" for n in needs), tuple(f"s:{n}" for n in after), body=body(number, fails=fails)
        )
        for number, (needs, after, fails) in enumerate(shape)
    ]
    with tempfile.TemporaryDirectory() as directory:
        journal = await to_thread.run_sync(Journal.open, Path(directory))
        try:
            attempts = Attempts(journal)
            run_id = await to_thread.run_sync(attempts.start)
            summary = await attempts.go(steps, run_id)
            assert await states(journal, run_id) == expected
        finally:
            await to_thread.run_sync(journal.close)
    assert (summary.state is RunState.DONE) == all(state is State.DONE for state in expected.values())
    for number, (needs, after, _) in enumerate(shape):
        if number in ended:
            assert all(ended.index(n) < ended.index(number) for n in needs | after if n in ended)


async def test_a_run_of_several_parts_ends_with_the_last(world: World, attempts: Attempts) -> None:
    run_id = await to_thread.run_sync(attempts.start)
    first = await attempts.go([world.step("a", size=3), world.step("b")], run_id, last=False)
    assert not any(isinstance(event, RunEnded) for event in attempts.events)
    assert await attempts.state(run_id) is RunState.RUNNING
    second = await attempts.go([world.step("c", size=4)], run_id, earlier=first)
    assert (second.state, second.steps, second.done, second.created) == (RunState.DONE, 3, 3, 3)
    [ended] = [event for event in attempts.events if isinstance(event, RunEnded)]
    assert (ended.state, ended.done, ended.remaining) == (RunState.DONE, 3, 0)
    assert await attempts.state(run_id) is RunState.DONE


async def test_what_failed_in_an_early_part_is_not_forgotten(world: World, attempts: Attempts) -> None:
    run_id = await to_thread.run_sync(attempts.start)

    def fail(_: Context) -> None:
        raise SourceCorrupt("a is damaged")

    first = await attempts.go([world.step("a", body=fail), world.step("b", ("a",))], run_id, last=False)
    second = await attempts.go([world.step("c")], run_id, earlier=first)
    assert second.state is RunState.INCOMPLETE
    assert ([failure.key for failure in second.failed], second.blocked) == (["a"], ("b",))
    assert await attempts.state(run_id) is RunState.INCOMPLETE


async def test_a_part_that_is_stopped_ends_the_run(world: World, attempts: Attempts) -> None:
    run_id = await to_thread.run_sync(attempts.start)

    def fail(_: Context) -> None:
        raise TargetUnavailable("it is gone")

    with pytest.raises(TargetUnavailable):
        await attempts.go([world.step("a", body=fail)], run_id, last=False)
    assert await attempts.state(run_id) is RunState.INTERRUPTED
    assert any(isinstance(event, RunEnded) for event in attempts.events)
