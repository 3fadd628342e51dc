from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import CancelScope, create_task_group, to_thread, wait_all_tasks_blocked

from transship.engine.event_log import _BACKLOG, event_log_path, open_event_log
from transship.engine.events import Event, StepStarted, fan_out
from transship.errors import JournalError

if TYPE_CHECKING:
    from pathlib import Path

    from transship.engine.events import EventSink

pytestmark = pytest.mark.anyio


def unheard(_lines: bytes) -> None:
    """For who does not want the lines."""


def event(number: int) -> Event:
    return StepStarted("run-1", 1000.0 + number, f"a:{number}", f"größer \udcff {number}")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def begin(state_dir: Path, data: bytes) -> Path:
    path = event_log_path(state_dir, "run-1")
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def fill_disk(state_dir: Path) -> Path:
    path = event_log_path(state_dir, "run-1")
    path.parent.mkdir(parents=True)
    path.symlink_to("/dev/full")
    return path


async def lines(state_dir: Path) -> list[dict[str, Any]]:
    return await to_thread.run_sync(read, event_log_path(state_dir, "run-1"))


async def test_all_events_in_order(state_dir: Path) -> None:
    async with open_event_log(state_dir, "run-1", unheard) as emit:
        for number in range(3 * _BACKLOG):
            await emit(event(number))
    written = await lines(state_dir)
    assert written == [{"seq": number + 1} | event(number).to_json() for number in range(3 * _BACKLOG)]


async def test_what_has_been_written_is_handed_on(state_dir: Path) -> None:
    heard: list[bytes] = []
    async with open_event_log(state_dir, "run-1", heard.append) as emit:
        for number in range(3 * _BACKLOG):
            await emit(event(number))
    path = event_log_path(state_dir, "run-1")
    assert b"".join(heard) == await to_thread.run_sync(path.read_bytes)


async def test_numbers_go_on_when_a_run_goes_on(state_dir: Path) -> None:
    for attempt in range(3):
        async with open_event_log(state_dir, "run-1", unheard) as emit:
            for number in range(attempt * 5, attempt * 5 + 5):
                await emit(event(number))
    assert [line["seq"] for line in await lines(state_dir)] == list(range(1, 16))


@pytest.mark.parametrize("torn", [b'{"seq":6,"ty', b"\0" * 5000, b"x" * 200_000])
async def test_a_line_torn_by_a_crash_is_cut_off(state_dir: Path, torn: bytes) -> None:
    async with open_event_log(state_dir, "run-1", unheard) as emit:
        for number in range(5):
            await emit(event(number))

    def tear() -> None:
        with event_log_path(state_dir, "run-1").open("ab") as file:
            file.write(torn)

    await to_thread.run_sync(tear)
    async with open_event_log(state_dir, "run-1", unheard) as emit:
        await emit(event(5))
    assert [line["seq"] for line in await lines(state_dir)] == [1, 2, 3, 4, 5, 6]


async def test_a_first_line_torn_is_cut_off(state_dir: Path) -> None:
    await to_thread.run_sync(begin, state_dir, b'{"se')
    async with open_event_log(state_dir, "run-1", unheard) as emit:
        await emit(event(0))
    assert [line["seq"] for line in await lines(state_dir)] == [1]


async def test_a_log_that_is_not_one_is_left_alone(state_dir: Path) -> None:
    path = await to_thread.run_sync(begin, state_dir, b"something else\n")
    with pytest.raises(JournalError, match=str(path)):
        async with open_event_log(state_dir, "run-1", unheard):
            pass
    assert await to_thread.run_sync(path.read_bytes) == b"something else\n"


async def test_cancellation_loses_nothing(state_dir: Path) -> None:
    with CancelScope() as scope:
        async with open_event_log(state_dir, "run-1", unheard) as emit:
            for number in range(20):
                await emit(event(number))
            scope.cancel()
            with CancelScope(shield=True):
                await emit(event(20))
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert [line["seq"] for line in await lines(state_dir)] == list(range(1, 22))


async def test_a_full_disk_is_an_error_of_the_one_who_emits(state_dir: Path) -> None:
    path = await to_thread.run_sync(fill_disk, state_dir)

    async def emit_events(count: int) -> None:
        async with open_event_log(state_dir, "run-1", unheard) as emit:
            for number in range(count):
                await emit(event(number))

    for count in (1, 100 * _BACKLOG):
        with pytest.raises(JournalError, match=str(path)):
            await emit_events(count)


async def test_errors_of_the_run_pass_through_unwrapped(state_dir: Path) -> None:
    error = ZeroDivisionError("a defect")

    async def fail() -> None:
        async with open_event_log(state_dir, "run-1", unheard) as emit:
            await emit(event(0))
            raise error

    with pytest.raises(ZeroDivisionError) as caught:
        await fail()
    assert caught.value is error
    assert len(await lines(state_dir)) == 1


async def test_a_slow_disk_holds_up_the_run_not_the_loop(state_dir: Path) -> None:
    disk_is_back = threading.Event()
    executor = ThreadPoolExecutor(1)  # where aiofiles does its work
    loop = asyncio.get_running_loop()
    loop.set_default_executor(executor)
    stuck = loop.run_in_executor(None, disk_is_back.wait)
    handed_in = 0

    async def produce(emit: EventSink) -> None:
        nonlocal handed_in
        for number in range(2 * _BACKLOG):
            await emit(event(number))
            handed_in += 1

    async with open_event_log(state_dir, "run-1", unheard) as emit, create_task_group() as tasks:
        tasks.start_soon(produce, emit)
        await wait_all_tasks_blocked()
        assert handed_in == _BACKLOG
        disk_is_back.set()
    await stuck
    assert [line["seq"] for line in await lines(state_dir)] == list(range(1, 2 * _BACKLOG + 1))


async def test_every_sink_gets_every_event_in_turn() -> None:
    got: list[tuple[str, Event]] = []

    def sink(name: str) -> EventSink:
        async def emit(each: Event) -> None:
            got.append((name, each))

        return emit

    await fan_out(sink("first"), sink("second"))(event(0))
    assert got == [("first", event(0)), ("second", event(0))]
