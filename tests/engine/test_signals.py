from __future__ import annotations

import os
import signal

import anyio
import pytest
from anyio import CancelScope

from transship.engine.signals import until_signal
from transship.errors import RunInterrupted, TargetFull

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_cancels_the_work_and_names_itself(number: signal.Signals, code: int) -> None:
    cleaned_up = False

    async def work() -> None:
        nonlocal cleaned_up
        try:
            os.kill(os.getpid(), number)
            await anyio.sleep_forever()
        finally:
            with CancelScope(shield=True):
                os.kill(os.getpid(), signal.SIGTERM)  # the impatient send another
                await anyio.lowlevel.checkpoint()
            cleaned_up = True

    with pytest.raises(RunInterrupted, match=number.name) as caught:
        await until_signal(work)
    assert caught.value.exit_code == code
    assert cleaned_up


async def test_work_that_ends_by_itself_returns_its_result() -> None:
    async def work() -> int:
        return 7

    assert await until_signal(work) == 7


async def test_errors_pass_through_unwrapped() -> None:
    error = TargetFull("no room")

    async def work() -> None:
        raise error

    with pytest.raises(TargetFull) as caught:
        await until_signal(work)
    assert caught.value is error


async def test_cancellation_from_outside_is_not_a_signal() -> None:
    async def work() -> None:
        scope.cancel()
        await anyio.sleep_forever()

    with CancelScope() as scope:
        await until_signal(work)
    assert scope.cancelled_caught
