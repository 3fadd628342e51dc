from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
from anyio import create_task_group

from tests.daemon.harness import Gate, order, until_idle
from tests.daemon.web.harness import answering, client, decoded, problem
from transship.api.models import Run
from transship.daemon.web import event_stream
from transship.engine.event_log import event_log_path
from transship.engine.events import RunEnded, from_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx

    from tests.cli.harness import Sample
    from transship.config import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def socket(place: Path) -> Path:
    return place / "socket"


@dataclass
class Sent:
    """An event as it was sent: ``id``, ``event``, ``data``."""

    id: int
    kind: str
    data: dict[str, Any]


async def sent(answer: httpx.Response) -> AsyncIterator[Sent]:
    """Read a stream of events as the standard says; only its three kinds of line are in it, and comments."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if not line and fields:
            assert list(fields) == ["id", "event", "data"]
            yield Sent(int(fields["id"]), fields["event"], json.loads(fields["data"]))
            fields = {}
        elif line and line != ":":
            name, _, value = line.partition(": ")
            assert name not in fields
            fields[name] = value
    assert not fields, "cut off in the middle of an event"


@asynccontextmanager
async def stream(http: httpx.AsyncClient, run: str, query: str = "", **headers: str) -> AsyncIterator[AsyncIterator[Sent]]:
    async with http.stream("GET", f"/v1/runs/{run}/events{query}", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-store"
        yield sent(answer)


async def all_of(http: httpx.AsyncClient, run: str, query: str = "", **headers: str) -> list[Sent]:
    async with stream(http, run, query, **headers) as events:
        return [event async for event in events]


async def test_a_run_that_is_over_is_told_from_any_event_on(sample: Sample, settings: Settings, socket: Path) -> None:
    async with answering(settings, socket) as there:
        run = await there.migrated(order(sample))
        whole = await all_of(there.http, run.id)
        log = await anyio.Path(event_log_path(sample.state, run.id)).read_bytes()
        assert [event.data for event in whole] == [json.loads(line) for line in log.splitlines()]
        assert [event.id for event in whole] == list(range(1, len(whole) + 1))
        for event in whole:
            assert event.kind == event.data["type"]
            assert event.id == event.data["seq"]
            assert from_json(event.data) is not None
        assert (whole[0].kind, whole[-1].kind) == ("run_started", "run_ended")
        for last in (0, 1, 5, len(whole) - 1, len(whole), len(whole) + 1, 10**18 - 1):
            assert await all_of(there.http, run.id, **{"last-event-id": str(last)}) == whole[last:]
        assert await all_of(there.http, run.id, "?follow=false") == whole


@pytest.mark.parametrize("wrong", ["x", "-1", "1.5", "", "9" * 19, "9" * 5000, "0x1", "1 2", "²"])
async def test_an_event_that_cannot_be_is_refused(sample: Sample, settings: Settings, socket: Path, wrong: str) -> None:
    async with answering(settings, socket) as there:
        run = await there.migrated(order(sample, images=("low:1",)))
        found = problem(await there.get(f"/v1/runs/{run.id}/events", headers={"last-event-id": wrong.encode()}), 400)
        assert "Last-Event-ID" in found.detail
        assert len(found.detail) < 200
        assert there.service.streams.open == 0


async def test_a_run_that_goes_on_is_followed_to_its_end_by_all(
    sample: Sample, settings: Settings, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    got: list[list[Sent]] = [[] for _ in range(8)]
    started: list[anyio.Event] = [anyio.Event() for _ in got]

    async def follow(number: int, run: str) -> None:
        async with client(socket) as http, stream(http, run, **{"last-event-id": str(number)}) as events:
            async for event in events:
                got[number].append(event)
                started[number].set()

    async with answering(settings, socket) as there:
        run = decoded(await there.post("/v1/runs", json=msgspec.to_builtins(order(sample))), Run)
        await gate.reached.wait()
        before = await all_of(there.http, run.id, "?follow=false")
        assert before[-1].kind != "run_ended"
        async with create_task_group() as tasks:
            for number in range(len(got)):
                tasks.start_soon(follow, number, run.id)
            for each in started:
                await each.wait()
            assert there.service.streams.open == len(got)
            gate.open.set()
        assert await all_of(there.http, run.id) == got[0]
        assert got[0][-1].kind == "run_ended"
        assert got[0][: len(before)] == before
        for number, mine in enumerate(got):
            assert mine == got[0][number:]
        await until_idle(there.service)
        assert there.service.streams.open == 0


async def test_no_more_streams_are_open_than_allowed(
    sample: Sample, settings: Settings, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    two = msgspec.structs.replace(settings.service, streams=2)
    async with answering(msgspec.structs.replace(settings, service=two), socket) as there:
        run = decoded(await there.post("/v1/runs", json=msgspec.to_builtins(order(sample))), Run)
        await gate.reached.wait()
        async with stream(there.http, run.id) as first:
            await anext(first)
            async with stream(there.http, run.id) as second:
                await anext(second)
                found = problem(await there.get(f"/v1/runs/{run.id}/events"), 503)
                assert "2 event streams" in found.detail
                assert (await there.get("/v1/status")).status_code == 200
        while there.service.streams.open:
            await anyio.lowlevel.checkpoint()
        async with stream(there.http, run.id) as third:
            await anext(third)
        gate.open.set()
        await until_idle(there.service)


async def test_silence_is_broken_so_that_dead_clients_are_noticed(
    sample: Sample, settings: Settings, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "_SILENCE", 0.01)
    gate = Gate(monkeypatch)
    async with answering(settings, socket) as there:
        run = decoded(await there.post("/v1/runs", json=msgspec.to_builtins(order(sample))), Run)
        await gate.reached.wait()
        async with there.http.stream("GET", f"/v1/runs/{run.id}/events", headers={"last-event-id": "1000000"}) as answer:
            comments = 0
            async for line in answer.aiter_lines():
                comments += line == ":"
                if comments == 4:
                    break
        gate.open.set()
        await until_idle(there.service)


async def test_a_client_that_does_not_read_holds_up_nothing(
    sample: Sample, settings: Settings, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    async with answering(settings, socket) as there:
        run = decoded(await there.post("/v1/runs", json=msgspec.to_builtins(order(sample))), Run)
        await gate.reached.wait()
        async with await anyio.connect_unix(str(socket)) as deaf:
            await deaf.send(b"GET /v1/runs/%s/events HTTP/1.1\r\nhost: x\r\n\r\n" % run.id.encode())
            while there.service.streams.open == 0:
                await anyio.lowlevel.checkpoint()
            gate.open.set()
            await until_idle(there.service)
        assert (await all_of(there.http, run.id))[-1].kind == "run_ended"


async def test_a_rollback_is_followed_after_what_it_takes_back(
    sample: Sample, settings: Settings, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with answering(settings, socket) as there:
        run = await there.migrated(order(sample))
        before = await all_of(there.http, run.id)
        gate = Gate(monkeypatch)
        gate.at = lambda event: isinstance(event, RunEnded)
        await there.post(f"/v1/runs/{run.id}/rollback")
        await gate.reached.wait()
        async with stream(there.http, run.id) as events:
            whole = [await anext(events) for _ in range(len(before) + 2)]
            assert whole[: len(before)] == before
            assert [event.kind for event in whole[len(before) :]] == ["rollback_started", "step_undone"]
            gate.open.set()
            whole += [event async for event in events]
        assert whole[-1].data["state"] == "rolled-back"
        assert [event.id for event in whole] == list(range(1, len(whole) + 1))
