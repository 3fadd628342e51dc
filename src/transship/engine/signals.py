"""Stopping cleanly when a signal says so."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, TypeVar

from anyio import TASK_STATUS_IGNORED, CancelScope, create_task_group, open_signal_receiver

from transship.engine.groups import first_error
from transship.errors import RunInterrupted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskStatus

T = TypeVar("T")


async def until_signal(work: Callable[[], Awaitable[T]]) -> T:
    """Return what ``work`` returns; on SIGINT or SIGTERM cancel it, wait until it has stopped, and raise RunInterrupted.

    More signals while it stops change nothing. Runs in the main thread.
    """
    received: list[signal.Signals] = []
    results: list[T] = []
    failure: Exception | None = None
    scope = CancelScope()

    async def watch(*, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        with open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                received.append(number)
                scope.cancel()

    try:
        async with create_task_group() as tasks:
            await tasks.start(watch)
            with scope:
                results.append(await work())
            tasks.cancel_scope.cancel()
    except ExceptionGroup as group:
        failure = first_error(group)
    if failure:
        raise failure
    if not results:
        name = signal.Signals(received[0]).name
        raise RunInterrupted(f"stopped by {name}", signal_number=received[0], remedy="run the same command again to go on")
    return results[0]
