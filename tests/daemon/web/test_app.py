from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import msgspec
import pytest
from anyio import create_task_group, to_thread
from prometheus_client.parser import text_string_to_metric_families

from tests.daemon.harness import Gate, order, until_idle
from tests.daemon.web.harness import answering, client, decoded, problem
from transship import __version__
from transship.api.models import Health, Phase, PlanAnswer, Run, RunDetails, Runs, Status
from transship.daemon import pledge
from transship.engine.records import RunState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.harness import Sample
    from transship.config import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def socket(place: Path) -> Path:
    return place / "socket"


def asked(sample: Sample, **more: Any) -> Any:
    return msgspec.to_builtins(order(sample, **more))


async def test_every_operation_answers_what_its_model_says(
    sample: Sample, settings: Settings, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    async with answering(settings, socket) as there:
        idle = decoded(await there.get("/v1/status"), Status)
        assert (idle.state, idle.version, idle.pid, idle.armed) == (Phase.IDLE, __version__, os.getpid(), False)
        assert (idle.current, idle.last, idle.state_dir) == (None, None, str(sample.state))
        assert decoded(await there.get("/v1/health"), Health).healthy
        assert decoded(await there.get("/v1/runs"), Runs) == Runs([], 0)
        plan = decoded(await there.get("/v1/plan", params=asked(sample, images=("low:1", "other:1"))), PlanAnswer)
        assert (plan.source, plan.driver, len(plan.images)) == (str(sample.source), "overlay2", 2)
        assert not await anyio.Path(sample.layout).exists()
        assert decoded(await there.get("/v1/runs"), Runs).total == 0

        answer = await there.post("/v1/runs", json=asked(sample))
        assert answer.status_code == 202
        run = decoded(answer, Run)
        assert answer.headers["location"] == f"/v1/runs/{run.id}"
        await gate.reached.wait()
        answer = await there.post("/v1/runs", json=asked(sample))
        assert (answer.status_code, decoded(answer, Run).id) == (200, run.id)
        status = decoded(await there.get("/v1/status"), Status)
        assert status.state is Phase.MIGRATING
        assert status.current is not None
        assert status.current.run is not None
        assert status.current.run.id == run.id
        assert status.current.progress is not None
        during = decoded(await there.get(f"/v1/runs/{run.id}"), RunDetails)
        assert (during.run.state, during.report, during.problem) == (RunState.RUNNING, None, None)
        assert during.counts["done"] > 0
        assert decoded(await there.post(f"/v1/runs/{run.id}/cancel"), Run).state is RunState.INTERRUPTED

        gate.open.set()
        answer = await there.post(f"/v1/runs/{run.id}/resume")
        assert (answer.status_code, decoded(answer, Run).attempts) == (202, 2)
        await until_idle(there.service)
        ended = decoded(await there.get(f"/v1/runs/{run.id}"), RunDetails)
        assert (ended.run.state, ended.counts) == (RunState.DONE, {"done": len(ended.steps)})
        assert ended.report is not None
        assert ended.report.complete
        last = decoded(await there.get("/v1/status"), Status).last
        assert last == ended.run
        metrics = await there.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain; version=")
        assert {"transship_runs", "transship_migrating"} <= {each.name for each in text_string_to_metric_families(metrics.text)}

        answer = await there.post(f"/v1/runs/{run.id}/rollback")
        assert (answer.status_code, decoded(answer, Run).id) == (202, run.id)
        await until_idle(there.service)
        assert decoded(await there.get("/v1/runs"), Runs).runs[0].state is RunState.ROLLED_BACK
        assert (await there.get("/v1/openapi.json")).json()["openapi"].startswith("3.1")


async def test_what_is_answered_after_a_run_began_knows_of_it(sample: Sample, settings: Settings, socket: Path) -> None:
    async with answering(settings, socket) as there:
        for _ in range(3):
            await there.get("/v1/status")
            run = decoded(await there.post("/v1/runs", json=asked(sample)), Run)
            status = decoded(await there.get("/v1/status"), Status)
            told = status.current.run if status.current else status.last
            assert told is not None
            assert told.id == run.id
            await until_idle(there.service)
            status = decoded(await there.get("/v1/status"), Status)
            assert status.current is None
            assert status.last is not None
            assert (status.last.id, status.last.state) == (run.id, RunState.DONE)


async def test_runs_and_steps_are_paged(sample: Sample, settings: Settings, socket: Path) -> None:
    async with answering(settings, socket) as there:
        runs = [await there.migrated(order(sample, images=(name,))) for name in ("low:1", "high:1", "other:1")]
        page = decoded(await there.get("/v1/runs?skip=1&limit=1"), Runs)
        assert ([run.id for run in page.runs], page.total) == ([runs[1].id], 3)
        whole = decoded(await there.get(f"/v1/runs/{runs[1].id}?limit=1000"), RunDetails)
        first = decoded(await there.get(f"/v1/runs/{runs[1].id}?limit=2&state=done"), RunDetails)
        rest = decoded(await there.get(f"/v1/runs/{runs[1].id}?after={first.next}"), RunDetails)
        assert (len(first.steps), rest.next) == (2, None)
        assert first.steps + rest.steps == whole.steps
        assert decoded(await there.get(f"/v1/runs/{runs[1].id}?state=failed"), RunDetails).steps == []


GOOD, BAD = "/v1/runs?limit=1", "/v1/runs?limit=%s"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/v2/status", 404),
        ("GET", "/v1/status/", 404),
        ("GET", "/v1//status", 404),
        ("GET", "/v1/runs/", 404),
        ("GET", "/v1/runs/x/y", 404),
        ("GET", "/v1/%00", 404),
        ("GET", "/v1/%ff%fe", 404),
        ("GET", "/%1b[31m", 404),
        ("DELETE", "/v1/status", 405),
        ("TRACE", "/v1/status", 405),
        ("HEAD", "/v1/status", 405),
        ("OPTIONS", "/v1/runs", 405),
        ("PUT", "/v1/runs", 405),
        ("GET", "/v1/runs/x/cancel", 405),
        ("POST", "/v1/runs/x", 405),
        ("GET", "/v1/runs/x", 404),
        ("GET", "/v1/runs/%00", 404),
        ("GET", "/v1/runs/%ff", 404),
        ("GET", "/v1/runs/..", 404),
        ("GET", "/v1/runs/..%2f..%2fetc", 404),
        ("GET", "/v1/runs/x/events", 404),
        ("POST", "/v1/runs/x/cancel", 404),
        ("POST", "/v1/runs/x/resume", 404),
        ("POST", "/v1/runs/x/rollback", 404),
        ("GET", "/v1/status?x=1", 400),
        ("GET", "/v1/status?=", 400),
        ("POST", "/v1/runs?dry=1", 400),
        ("GET", BAD % 0, 400),
        ("GET", BAD % -1, 400),
        ("GET", BAD % 1001, 400),
        ("GET", BAD % (1 << 70), 400),
        ("GET", BAD % ("9" * 5000), 400),
        ("GET", BAD % "1.5", 400),
        ("GET", BAD % "", 400),
        ("GET", BAD % "null", 400),
        ("GET", BAD % "true", 400),
        ("GET", BAD % "%D9%A3", 400),
        ("GET", BAD % "1&limit=1", 400),
        ("GET", "/v1/runs?skip=-1", 400),
        ("GET", "/v1/runs?skip=9223372036854775808", 400),
        ("GET", "/v1/runs/x?state=odd", 400),
        ("GET", "/v1/runs/x/events?follow=maybe", 400),
        ("GET", "/v1/plan?source=relative", 400),
        ("GET", "/v1/plan?source=/a%00b", 400),
        ("GET", "/v1/plan?source=", 400),
        ("GET", "/v1/plan?source=" + "/a" * 3000, 400),
        ("GET", "/v1/plan?source=/nowhere&target=oci:relative", 400),
        ("GET", "/v1/plan?source=/nowhere", 422),
        ("GET", "/v1/plan?source=/nowhere/%ff", 422),
    ],
)
async def test_what_is_asked_wrongly_is_told_so(settings: Settings, socket: Path, method: str, path: str, status: int) -> None:
    async with answering(settings, socket) as there:
        answer = await there.http.request(method, path)
        if method == "HEAD":
            assert (answer.status_code, answer.content) == (status, b"")
            return
        found = problem(answer, status)
        assert found.detail.isprintable()
        if status == 405:
            assert set(answer.headers["allow"].split(", ")) <= {"GET", "POST"}
        decoded(await there.get("/v1/status"), Status)


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", JSON, 400),
        (b"[]", JSON, 400),
        (b"null", JSON, 400),
        (b"3", JSON, 400),
        (b"\xff", JSON, 400),
        (b'{"source":"\\ud800"}', JSON, 400),
        (b'{"source":"/a\\u0000b"}', JSON, 400),
        (b'{"source":3}', JSON, 400),
        (b'{"source":null}', JSON, 400),
        (b'{"source":"relative"}', JSON, 400),
        (b'{"target":"floppy:/x","source":"/nowhere"}', JSON, 422),
        (b'{"sauce":"/x"}', JSON, 400),
        (b'{"jobs":0}', JSON, 400),
        (b'{"jobs":true}', JSON, 400),
        (b'{"jobs":1e400}', JSON, 400),
        (b'{"jobs":' + b"9" * 5000 + b"}", JSON, 400),
        (b'{"images":"a"}', JSON, 400),
        (b'{"images":' + b"[" * 30000, JSON, 400),
        (b'{"compression":"zip"}', JSON, 400),
        (b'{"level":-1}', JSON, 400),
        (b"source=/x", {"content-type": "application/x-www-form-urlencoded"}, 415),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b"{}", {"content-type": "application/json5"}, 415),
        (b'{"source":"/nowhere"}', {"content-type": "Application/JSON; charset=utf-8"}, 422),
        (b'{"source":"/nowhere"}', {}, 422),
    ],
    ids=lambda value: value[:20].decode("latin-1") if isinstance(value, bytes) else None,
)
async def test_a_wrong_body_starts_nothing(
    settings: Settings, socket: Path, content: bytes, headers: dict[str, str], status: int
) -> None:
    async with answering(settings, socket) as there:
        found = problem(await there.post("/v1/runs", content=content, headers=headers), status)
        assert found.detail.isprintable()
        assert decoded(await there.get("/v1/runs"), Runs).total == 0
        assert there.service.supervisor.current is None


async def test_bodies_are_for_those_operations_that_take_one(settings: Settings, socket: Path) -> None:
    async with answering(settings, socket) as there:
        problem(await there.http.request("GET", "/v1/status", content=b"{}", headers=JSON), 400)
        problem(await there.post("/v1/runs/x/cancel", content=b"{}", headers=JSON), 400)
        problem(await there.post("/v1/runs", content=b" " * (1 << 17), headers=JSON), 413)


async def test_another_run_is_in_the_way(
    sample: Sample, settings: Settings, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    async with answering(settings, socket) as there:
        run = decoded(await there.post("/v1/runs", json=asked(sample)), Run)
        await gate.reached.wait()
        for path, body in (
            ("/v1/runs", asked(sample, images=("low:1",))),
            ("/v1/runs", {"source": "/nowhere"}),
            (f"/v1/runs/{run.id}/rollback", None),
        ):
            found = problem(await there.post(path, json=body) if body else await there.post(path), 409)
            assert (found.run, found.error, found.type) == (run.id, "RunGoesOn", "urn:transship:run-goes-on")
            assert found.remedy
        gate.open.set()
        await until_idle(there.service)
        found = problem(await there.post(f"/v1/runs/{run.id}/cancel"), 409)
        assert "done" in found.detail


async def test_what_stopped_a_run_is_told_with_it(
    sample: Sample, settings: Settings, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    gate.error = ZeroDivisionError("a defect")
    async with answering(settings, socket) as there:
        run = await there.migrated(order(sample))
        found = decoded(await there.get(f"/v1/runs/{run.id}"), RunDetails)
        assert found.run.state is RunState.INTERRUPTED
        assert found.problem is not None
        assert (found.problem.status, found.problem.error) == (500, "TransshipError")
        assert "ZeroDivisionError" in found.problem.detail


async def test_one_that_does_not_advance_is_not_well(
    sample: Sample, settings: Settings, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    at_once = msgspec.structs.replace(settings.service, stalled_after=1e-9)
    async with answering(msgspec.structs.replace(settings, service=at_once), socket) as there:
        decoded(await there.post("/v1/runs", json=asked(sample)), Run)
        await gate.reached.wait()
        assert "advance" in problem(await there.get("/v1/health"), 503).detail
        gate.open.set()
        await until_idle(there.service)
        assert decoded(await there.get("/v1/health"), Health).healthy


async def test_a_service_that_stops_takes_no_more_work(sample: Sample, settings: Settings, socket: Path) -> None:
    async with answering(settings, socket) as there:
        await there.service.supervisor.stop()
        problem(await there.post("/v1/runs", json=asked(sample)), 503)
        assert decoded(await there.get("/v1/status"), Status).state is Phase.STOPPING
        assert await to_thread.run_sync(pledge.given, sample.state) is None


async def test_a_damaged_journal_is_told_of(sample: Sample, settings: Settings, socket: Path) -> None:
    await to_thread.run_sync(sample.state.mkdir)
    await to_thread.run_sync((sample.state / "journal.db").write_bytes, b"no database" * 1000)
    async with answering(settings, socket) as there:
        for path in ("/v1/status", "/v1/runs", "/v1/runs/x", "/v1/runs/x/events"):
            assert "journal.db" in problem(await there.get(path), 500).detail
        problem(await there.post("/v1/runs", json=asked(sample)), 500)
        decoded(await there.get("/v1/health"), Health)


async def test_a_defect_is_answered_and_logged(
    settings: Settings, socket: Path, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("transship.daemon.history.runs", broken)
    async with answering(settings, socket) as there:
        answer = await there.get("/v1/runs")
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert "secret" not in answer.text
        assert decoded(await there.get("/v1/health"), Health).healthy
    assert any(each.get("exc_info") for each in logs)


async def test_many_who_ask_at_once_are_all_answered(sample: Sample, settings: Settings, socket: Path) -> None:
    states: list[Phase] = []

    async def ask() -> None:
        async with client(socket) as http:
            for _ in range(5):
                states.append(decoded(await http.get("/v1/status"), Status).state)  # noqa: PERF401 - one client of many

    async with answering(settings, socket) as there:
        await there.post("/v1/runs", json=asked(sample))
        async with create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(ask)
        assert len(states) == 200
        await until_idle(there.service)


def as_user(uid: int, gid: int, groups: list[int], ask: Callable[[], Any]) -> Any:
    """What ``ask`` returns in a process with other rights."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            os.write(writing, pickle.dumps(ask()))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        data = answer.read()
    os.waitpid(child, 0)
    return pickle.loads(data)


Who = tuple[int, int, list[int]]
STRANGER: Who = (12345, 12345, [])
MEMBER: Who = (12345, 12345, [54321])
ACTOR: Who = (12346, 12345, [])


@pytest.mark.parametrize(
    ("who", "reads", "acts"),
    [((0, 0, []), True, True), (STRANGER, False, False), (MEMBER, True, False), (ACTOR, True, True)],
    ids=["root", "stranger", "member", "actor"],
)
@pytest.mark.usefixtures("as_root")
async def test_who_may(settings: Settings, socket: Path, who: Who, reads: bool, acts: bool) -> None:
    operations = [
        ("GET", "/v1/status", 200),
        ("GET", "/v1/runs", 200),
        ("GET", "/metrics", 200),
        ("GET", "/v1/openapi.json", 200),
        ("GET", "/v1/runs/x/events", 404),
        ("GET", "/v1/plan?source=/nowhere", 422),
        ("POST", "/v1/runs", 400),
        ("POST", "/v1/runs/x/cancel", 404),
        ("POST", "/v1/runs/x/resume", 404),
        ("POST", "/v1/runs/x/rollback", 404),
    ]

    def ask() -> list[int]:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://service") as http:
            return [
                http.request(method, path, content=b"{" if path == "/v1/runs" and method == "POST" else None).status_code
                for method, path, _ in operations
            ]

    async with answering(settings, socket) as there:
        there.service.access = type(there.service.access)(frozenset({0, ACTOR[0]}), MEMBER[2][0])
        await to_thread.run_sync(socket.chmod, 0o666)
        found = await to_thread.run_sync(as_user, *who, ask)
    # Whoever names a source has root look there.
    allowed = [acts if method == "POST" or "source=" in path else reads for method, path, _ in operations]
    assert found == [status if may else 403 for may, (_, _, status) in zip(allowed, operations, strict=True)]
