from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from anyio import CancelScope, create_task_group, to_thread
from anyio.lowlevel import checkpoint

from transship.engine.context import StepContext
from transship.engine.plan import Plan
from transship.engine.progress import Progress
from transship.engine.step import Resource, Result, Step
from transship.errors import ProcessLost

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio


def context() -> StepContext:
    step = Step("blob:1", "", Resource.CPU, lambda _: Result({}, created=True), lambda _: True)
    return StepContext(step, {}, Progress(Plan([step])))


async def in_step(work: Callable[[StepContext], object]) -> object:
    """Run ``work`` as a step runs: in a thread that is waited for."""
    return await to_thread.run_sync(work, context(), abandon_on_cancel=False)


async def test_a_function_runs_in_another_process_and_its_result_comes_back() -> None:
    assert await in_step(lambda step: step.in_process(os.getpid)) != os.getpid()


async def test_the_processes_error_is_the_steps_error() -> None:
    with pytest.raises(ValueError, match="no number"):
        await in_step(lambda step: step.in_process(int, "no number"))


async def test_a_process_that_is_killed_fails_the_step() -> None:
    with pytest.raises(ProcessLost, match="-9"):
        await in_step(lambda step: step.in_process(signal.raise_signal, signal.SIGKILL))


async def test_cancellation_kills_the_process_and_ends_the_step() -> None:
    scope = CancelScope()
    before = await to_thread.run_sync(children)

    async def run() -> None:
        with scope:
            await in_step(lambda step: step.in_process(signal.pause))

    async with create_task_group() as tasks:
        tasks.start_soon(run)
        while not (new := await to_thread.run_sync(children) - before):
            await checkpoint()
        scope.cancel()
    assert scope.cancelled_caught
    assert not new & await to_thread.run_sync(children)


def children() -> frozenset[int]:
    """Return the processes that this one has started."""
    found = set[int]()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return frozenset(found)
