from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import to_thread
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from transship.daemon import tail as tails
from transship.daemon.tail import Tail, seq_of
from transship.daemon.web import event_stream
from transship.daemon.web.event_stream import follow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def line(seq: int) -> bytes:
    return json.dumps({"seq": seq, "type": "step_started"} | {"x": "y" * (seq % 7)}, separators=(",", ":")).encode()


def lines(first: int, count: int) -> bytes:
    return b"".join(line(seq) + b"\n" for seq in range(first, first + count))


def test_what_it_has_is_told_from_any_place_on() -> None:
    tail = Tail()
    assert tail.after(0) is None
    tail.append(lines(5, 3))
    assert tail.after(3) is None
    assert [[seq_of(each) for each in tail.after(seq) or []] for seq in (4, 5, 6, 7, 100, 1 << 60)] == [
        [5, 6, 7],
        [6, 7],
        [7],
        [],
        [],
        [],
    ]
    tail.append(lines(8, 5000))
    assert tail.after(7) is None
    assert len(tail.after(5007 - 1024) or []) == 1024


@pytest.mark.parametrize("wrong", [b"", b"{}", b'{"type":"x","seq":1}', b'{"seq":x', b'{"seq":'])
def test_what_is_no_event_has_no_number(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="not an event"):
        seq_of(wrong)


class Log:
    """A run's event log as it is written: each piece goes to the file, then to the tail."""

    def __init__(self, path: Path, before: int) -> None:
        self.path = path
        self.tail = Tail()
        self.count = before
        path.write_bytes(lines(1, before))

    def write(self, count: int) -> None:
        data = lines(self.count + 1, count)
        with self.path.open("ab") as file:
            file.write(data)
        self.count += count
        self.tail.append(data)


async def followed(stream: AsyncIterator[list[bytes]], pace: list[int], got: list[int], step: anyio.Event) -> None:
    """Take what comes; after each piece let others go first as many times as ``pace`` says."""
    turn = 0
    async for piece in stream:
        got.extend(seq_of(each) for each in piece)
        step.set()
        for _ in range(pace[turn % len(pace)]):
            await anyio.lowlevel.checkpoint()
        turn += 1


@given(
    before=st.integers(0, 40),
    writes=st.lists(st.integers(1, 40), max_size=12),
    followers=st.lists(
        st.tuples(st.integers(0, 60), st.lists(st.integers(0, 30), min_size=1, max_size=4)), min_size=1, max_size=4
    ),
    limits=st.tuples(st.integers(1, 20), st.integers(1, 400)),
)
@examples(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_follower_gets_every_line_once_and_in_order(
    tmp_path: Path, before: int, writes: list[int], followers: list[tuple[int, list[int]]], limits: tuple[int, int]
) -> None:
    """However many lines the tail keeps and are read at once, and whoever starts where and follows how slowly."""

    async def run() -> None:
        log = await to_thread.run_sync(Log, tmp_path / "events.jsonl", before)
        got: list[list[int]] = [[] for _ in followers]
        async with anyio.create_task_group() as tasks:
            for (after, pace), mine in zip(followers, got, strict=True):
                tasks.start_soon(followed, follow(log.path, log.tail, after), pace, mine, anyio.Event())
            for count in writes:
                await to_thread.run_sync(log.write, count)
                await anyio.lowlevel.checkpoint()
            log.tail.close()
        for (after, _), mine in zip(followers, got, strict=True):
            assert mine == list(range(after + 1, log.count + 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tails, "_MAX_LINES", limits[0])
        patch.setattr(event_stream, "_PIECE", limits[1])
        patch.setattr(event_stream, "_PAUSE", 0)
        anyio.run(run, backend_options={"use_uvloop": True})


@pytest.mark.anyio
async def test_one_that_waits_gets_what_comes(tmp_path: Path) -> None:
    log = await to_thread.run_sync(Log, tmp_path / "events.jsonl", 2)
    got: list[int] = []
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for number in range(3, 6):
                step = anyio.Event()
                if number == 3:
                    tasks.start_soon(followed, follow(log.path, log.tail, 0), [0], got, step)
                    await step.wait()
                await to_thread.run_sync(log.write, 1)
            log.tail.close()
    assert got == [1, 2, 3, 4, 5]


@pytest.mark.anyio
async def test_without_a_tail_it_ends_with_the_file(tmp_path: Path) -> None:
    log = await to_thread.run_sync(Log, tmp_path / "events.jsonl", 3)
    (tmp_path / "events.jsonl").write_bytes(lines(1, 3) + b'{"seq":4,"ty')  # torn by a crash
    assert [seq_of(each) async for piece in follow(log.path, None, 1) for each in piece] == [2, 3]
    assert [piece async for piece in follow(tmp_path / "none", None, 0)] == []
