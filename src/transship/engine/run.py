"""Running a plan: what is ready runs, in worker threads, under a limit per resource, and is journalled."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from anyio import CancelScope, CapacityLimiter, Lock, create_task_group, to_thread

from transship.engine.context import StepContext
from transship.engine.events import RunEnded, RunStarted, StepBlocked, StepDone, StepFailed, StepStarted
from transship.engine.groups import first_error
from transship.engine.plan import before
from transship.engine.records import ErrorInfo, Outcome, RunState, printable
from transship.engine.step import State
from transship.engine.summary import Failure, Summary
from transship.errors import JournalError, SourceBusy, TargetFull, TargetUnavailable, TransshipError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from anyio.abc import TaskGroup

    from transship.engine.events import Event, EventSink
    from transship.engine.journal import Journal
    from transship.engine.plan import Plan
    from transship.engine.progress import Progress
    from transship.engine.step import Resource, Step, Value

FATAL = (TargetUnavailable, TargetFull, SourceBusy)
"""Errors that would meet every other step too: they stop the run, which can be continued when their cause is gone."""


async def run(
    plan: Plan,
    *,
    journal: Journal,
    run_id: str,
    standing: Mapping[str, Value],
    limits: Mapping[Resource, int],
    emit: EventSink,
    progress: Progress,
    earlier: Summary | None = None,
    last: bool = True,
) -> Summary:
    """Run the steps of ``plan``, journal each outcome under ``run_id`` (a started run) and end the run in the journal.

    A step whose outcome in ``standing`` (``Journal.standing``) still checks does not run. At most ``limits`` steps run at
    once for each resource; of those that are ready the one goes first that has the most still to come after it. A
    TransshipError fails its step and blocks what needs it; the rest goes on, and the run ends ``incomplete``.

    An error of FATAL, of the journal or of ``emit``, any other kind of error (a defect), and cancellation stop the run:
    threads stop at their next look, what was finished is journalled, the run ends ``interrupted``, and the error or
    cancellation is raised. Raises ValueError if a resource has no limit.

    A run may have several parts, each a plan: ``earlier`` says how those before went, and unless this is the ``last`` the run
    does not end with it, but when it is stopped.
    """
    for resource in {step.resource for step in plan}:
        if limits.get(resource, 0) < 1:
            raise ValueError(f"no limit for {resource.name} steps")
    runner = _Runner(plan, journal=journal, run_id=run_id, standing=standing, limits=limits, emit=emit, progress=progress)
    return await runner.run(earlier, last=last)


class _Runner:
    """One attempt at a run. Its state belongs to the event loop; threads see only their step's context."""

    def __init__(
        self,
        plan: Plan,
        *,
        journal: Journal,
        run_id: str,
        standing: Mapping[str, Value],
        limits: Mapping[Resource, int],
        emit: EventSink,
        progress: Progress,
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._run = run_id
        self._standing = standing
        self._sink = emit
        self._progress = progress
        self._free = dict(limits)
        self._limiters = {resource: CapacityLimiter(limit) for resource, limit in limits.items() if limit > 0}
        self._journal_limiter = CapacityLimiter(1)
        self._emit_lock = Lock()
        self._ready: dict[Resource, list[tuple[int, int, str]]] = {resource: [] for resource in limits}
        self._places = {step.key: place for place, step in enumerate(plan)}
        self._waits_for = {step.key: len(before(step)) for step in plan}
        self._torn: frozenset[str] = frozenset()  # begun by an attempt that was killed: what is there is probably its work
        self._states: dict[str, State] = {}
        self._values: dict[str, Value] = {}
        self._counts: Counter[str] = Counter()
        self._failed: list[Failure] = []
        self._blocked: list[str] = []
        self._begun = time.monotonic()

    async def run(self, earlier: Summary | None, *, last: bool) -> Summary:
        state = RunState.INTERRUPTED
        failure: Exception | None = None
        try:
            await self._begin()
            async with create_task_group() as tasks:
                for step in self._plan:
                    if not self._waits_for[step.key]:
                        self._make_ready(step)
                self._launch(tasks)
            state = RunState.DONE if self._counts["done"] == len(self._plan) else RunState.INCOMPLETE
        except ExceptionGroup as group:
            failure = first_error(group)
        finally:
            with CancelScope(shield=True):
                summary = self._summary(state).after(earlier)
                if last or state is RunState.INTERRUPTED:
                    await self._end(summary)
        if failure:
            raise failure
        return summary

    async def _begin(self) -> None:
        in_thread = partial(to_thread.run_sync, limiter=self._journal_limiter)
        record = await in_thread(self._journal.run, self._run)
        self._torn = frozenset(step.key for step in await in_thread(self._journal.steps, self._run, State.BEGUN))
        cost = self._plan.cost
        await self._emit(
            RunStarted(self._run, time.time(), record.leg, record.attempts, len(self._plan), cost.bytes, cost.files)
        )

    def _summary(self, state: RunState) -> Summary:
        return Summary(
            run=self._run,
            state=state,
            steps=len(self._plan),
            done=self._counts["done"],
            skipped=self._counts["skipped"],
            created=self._counts["created"],
            failed=tuple(self._failed),
            blocked=tuple(self._blocked),
            bytes=self._counts["bytes"],
            seconds=time.monotonic() - self._begun,
        )

    async def _end(self, summary: Summary) -> None:
        await to_thread.run_sync(self._journal.end_run, self._run, summary.state, limiter=self._journal_limiter)
        await self._emit(
            RunEnded(
                self._run,
                time.time(),
                summary.state,
                done=summary.done,
                skipped=summary.skipped,
                failed=len(summary.failed),
                blocked=len(summary.blocked),
                remaining=len(self._plan) - len(self._states),
                bytes=summary.bytes,
                seconds=summary.seconds,
            )
        )

    def _make_ready(self, step: Step) -> None:
        heappush(self._ready[step.resource], (-self._plan.urgency[step.key], self._places[step.key], step.key))

    def _launch(self, tasks: TaskGroup) -> None:
        """Start a task for each ready step that its resource has room for; if the run is stopping, it ends at once."""
        for resource, ready in self._ready.items():
            while ready and self._free[resource]:
                self._free[resource] -= 1
                tasks.start_soon(self._execute, self._plan[heappop(ready)[-1]], tasks)

    async def _execute(self, step: Step, tasks: TaskGroup) -> None:
        """See one step through, and start what it has made ready. Raises what stops the run."""
        started = time.time()
        context = StepContext(step, self._values, self._progress)
        ended = [step.key]
        try:
            outcome = await self._attempt(step, context, started)
        except JournalError:  # no step's, but the engine's own
            raise
        except Exception as error:
            stops = isinstance(error, FATAL) or not isinstance(error, TransshipError)
            blocked = {} if stops else self._block(step)
            outcome = Outcome(step.key, State.FAILED, started, time.time(), bytes=context.bytes, error=ErrorInfo.of(error))
            await self._settle_failed(step, outcome, blocked)
            if stops:
                raise
            ended += blocked
        else:
            await self._settle_done(step, outcome)
        self._free[step.resource] += 1
        self._release(ended)
        self._launch(tasks)

    async def _attempt(self, step: Step, context: StepContext, started: float) -> Outcome:
        """Confirm what stands of an earlier run, else run the step."""
        in_thread = partial(to_thread.run_sync, abandon_on_cancel=False, limiter=self._limiters[step.resource])
        value = self._standing.get(step.key)
        if value is not None and await in_thread(step.check, value):
            return Outcome(step.key, State.DONE, started, time.time(), value=value, skipped=True)
        await to_thread.run_sync(self._journal.begin, self._run, step.key, limiter=self._journal_limiter)
        await self._emit(StepStarted(self._run, time.time(), step.key, printable(step.title)))
        self._progress.started(step)
        result = await in_thread(step.run, context)
        created = result.created or step.key in self._torn
        return Outcome(step.key, State.DONE, started, time.time(), value=result.value, created=created, bytes=context.bytes)

    async def _settle_done(self, step: Step, outcome: Outcome) -> None:
        """Journal and report a step that is done: also if the run is stopping, for its result is there."""
        with CancelScope(shield=True):
            await self._record(outcome)
            self._states[step.key] = State.DONE
            self._values[step.key] = outcome.value or {}
            (self._progress.skipped if outcome.skipped else self._progress.ended)(step)
            self._counts.update(done=1, skipped=outcome.skipped, created=outcome.created, bytes=outcome.bytes)
            await self._emit(
                StepDone(
                    self._run,
                    time.time(),
                    step.key,
                    printable(step.title),
                    created=outcome.created,
                    skipped=outcome.skipped,
                    bytes=outcome.bytes,
                    seconds=outcome.ended - outcome.started,
                )
            )

    async def _settle_failed(self, step: Step, outcome: Outcome, blocked: Mapping[str, tuple[str, ...]]) -> None:
        """Journal and report a step that failed, and the steps that it blocks, each with those of its needs that are out."""
        now = time.time()
        error = outcome.error or ErrorInfo("", "")
        cause = ErrorInfo("Blocked", f"not run, because {step.key} failed")
        with CancelScope(shield=True):
            await self._record(outcome, *(Outcome(key, State.BLOCKED, now, now, error=cause) for key in blocked))
            self._states[step.key] = State.FAILED
            self._failed.append(Failure(step.key, printable(step.title), error))
            self._blocked.extend(blocked)
            for key in (step.key, *blocked):
                self._progress.left_out(self._plan[key])
            await self._emit(StepFailed(self._run, now, step.key, printable(step.title), error))
            for key, needs in blocked.items():
                await self._emit(StepBlocked(self._run, now, key, printable(self._plan[key].title), needs, step.key))

    def _block(self, step: Step) -> dict[str, tuple[str, ...]]:
        """Block all that needs ``step``, directly or not: the keys, each with those of its needs that are out of it now."""
        blocked: list[str] = []
        out = [step.key]
        while out:
            for key in self._plan.needed_by[out.pop()]:
                if key not in self._states:
                    self._states[key] = State.BLOCKED
                    blocked.append(key)
                    out.append(key)
        lost = {step.key, *(key for key, state in self._states.items() if state is not State.DONE)}
        return {key: tuple(need for need in self._plan[key].needs if need in lost) for key in blocked}

    def _release(self, ended: Iterable[str]) -> None:
        """Make ready what waited for nothing but the steps ``ended``."""
        for key in ended:
            for follower in self._plan.followed_by[key]:
                self._waits_for[follower] -= 1
                if not self._waits_for[follower] and follower not in self._states:
                    self._make_ready(self._plan[follower])

    async def _record(self, *outcomes: Outcome) -> None:
        await to_thread.run_sync(self._journal.record, self._run, *outcomes, limiter=self._journal_limiter)

    async def _emit(self, event: Event) -> None:
        async with self._emit_lock:
            await self._sink(event)
