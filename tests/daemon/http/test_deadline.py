from __future__ import annotations

import asyncio

import anyio
import pytest

from tests.daemon.http.harness import SOON
from transship.daemon.http.deadline import Deadline

pytestmark = pytest.mark.anyio

SHORT = 0.03


class Missed:
    """When a deadline was missed."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.after: list[float] = []
        self.event = anyio.Event()
        self.deadline = Deadline(self.loop, self)

    def __call__(self) -> None:
        self.after.append(self.loop.time() - self.began)
        self.event.set()

    async def wait(self) -> float:
        with anyio.fail_after(SOON):
            await self.event.wait()
        (after,) = self.after
        return after


async def test_it_is_missed_once_and_in_time() -> None:
    missed = Missed()
    missed.deadline.set(SHORT)
    assert await missed.wait() >= SHORT * 0.9


@pytest.mark.parametrize(("first", "then"), [(SHORT, 3 * SHORT), (1000, 3 * SHORT)], ids=["later", "sooner"])
async def test_it_can_be_moved(first: float, then: float) -> None:
    missed = Missed()
    missed.deadline.set(first)
    missed.deadline.set(then)
    assert await missed.wait() >= then * 0.9


async def test_it_can_be_taken_back_and_set_again() -> None:
    missed, other = Missed(), Missed()
    missed.deadline.set(SHORT)
    missed.deadline.clear()
    other.deadline.set(2 * SHORT)
    await other.wait()
    assert not missed.after
    missed.deadline.set(SHORT)
    assert await missed.wait() >= 2 * SHORT


async def test_stopped_it_is_not_missed() -> None:
    missed, other = Missed(), Missed()
    missed.deadline.set(SHORT)
    missed.deadline.stop()
    other.deadline.set(2 * SHORT)
    await other.wait()
    assert not missed.after
