from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import pytest
from structlog.testing import capture_logs

from tests.daemon.http.harness import GET, SOON, Client, answer, asked, hello, listening_at, running
from transship.daemon.http.bounds import Bounds
from transship.daemon.http.peer import Peer, connection_of
from transship.daemon.http.server import serving

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

POST = b"POST /runs?dry=1 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhello"


async def test_requests_of_one_connection_are_answered(path: Path) -> None:
    async with running(path) as server, Client.of(path) as client:
        for _ in range(3):
            await client.send(POST)
            said = json.loads((await client.answer()).body)
            assert (said["method"], said["path"], said["query"], said["body"]) == ("POST", "/runs", "dry=1", "hello")
        assert server.connections == 1


async def test_a_request_in_single_bytes_is_one_request(path: Path) -> None:
    async with running(path), Client.of(path) as client:
        for at in range(len(POST)):
            await client.send(POST[at : at + 1])
        assert json.loads((await client.answer()).body)["body"] == "hello"


async def test_chunked_bodies_are_whole_and_their_trailers_no_headers(path: Path) -> None:
    request = b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nsecret: yes\r\n\r\n"
    async with running(path):
        said = json.loads((await asked(path, request)).body)
    assert said["body"] == "hello"
    assert "secret" not in said["headers"]


async def test_who_waits_for_a_go_ahead_gets_it(path: Path) -> None:
    async with running(path), Client.of(path) as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"hello")
        assert json.loads((await client.answer()).body)["body"] == "hello"


@pytest.mark.parametrize(
    "request_", [GET.replace(b"1.1", b"1.0"), GET.replace(b"host: localhost", b"connection: close")], ids=["1.0", "close"]
)
async def test_a_connection_ends_when_the_client_wants_it(path: Path, request_: bytes) -> None:
    async with running(path), Client.of(path) as client:
        await client.send(request_ + GET)
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.rest() == b""


async def test_upgrades_are_answered_plainly(path: Path) -> None:
    upgrade = (
        b"GET /ws HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: eA==\r\n\r\n\x81\x00"
    )
    async with running(path), Client.of(path) as client:
        await client.send(upgrade)
        assert (await client.answer()).status == 200
        assert await client.rest() == b""


async def test_head_and_body_come_together_but_a_head_alone_does_not_wait(path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while (await receive())["type"] != "http.disconnect":
                pass
        else:
            await hello(scope, receive, send)

    async with running(path, app), Client.of(path) as client:
        for _ in range(20):
            await client.send(GET)
            assert (await client.receive()).endswith(b"}")
        await client.send(GET.replace(b"hello", b"stream"))
        assert (await client.receive()).endswith(b"\r\n\r\n")


async def test_the_answer_to_head_has_no_body(path: Path) -> None:
    async with running(path), Client.of(path) as client:
        await client.send(GET.replace(b"GET", b"HEAD").replace(b"1.1", b"1.0"))
        assert (await client.rest()).endswith(b"\r\n\r\n")


async def test_the_date_is_right(path: Path) -> None:
    async with running(path):
        before = datetime.now(UTC).replace(microsecond=0)
        given = parsedate_to_datetime((await asked(path)).headers["date"])
        assert before <= given <= datetime.now(UTC)


async def test_pipelined_requests_are_answered_in_order(path: Path) -> None:
    async with running(path), Client.of(path) as client:
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nhost: h\r\n\r\n" % number for number in range(10)))
        assert [json.loads((await client.answer()).body)["path"] for _ in range(10)] == [f"/{number}" for number in range(10)]
        await client.send(GET)
        assert (await client.answer()).status == 200


async def test_more_pipelined_requests_than_may_wait_are_not_heard(path: Path) -> None:
    async with running(path, pipelined=4), Client.of(path) as client:
        await client.send(GET * 100)
        answers = [await client.answer() for _ in range(5)]
        assert [answer.headers.get("connection") for answer in answers] == [None] * 4 + ["close"]
        assert await client.rest() == b""


async def test_a_slow_answer_holds_up_only_its_own_connection(path: Path) -> None:
    go = anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await go.wait()
        await hello(scope, receive, send)

    async with running(path, app), Client.of(path) as client:
        await client.send(GET.replace(b"hello", b"slow") + GET + GET[:10])
        assert (await asked(path)).status == 200
        go.set()
        assert [json.loads((await client.answer()).body)["path"] for _ in range(2)] == ["/slow", "/hello"]
        await client.send(GET[10:])
        assert (await client.answer()).status == 200


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("groups", [[], [7], list(range(1000, 1400))], ids=["none", "one", "400"])
async def test_the_peer_is_known(path: Path, groups: list[int]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
        peer = connection_of(scope).peer
        assert isinstance(peer, Peer)
        await answer(send, json.dumps([peer.pid, peer.uid, peer.gid, sorted(peer.groups)]).encode())

    child = (
        "import json, os, socket, sys\n"
        "os.setgroups(json.loads(sys.argv[2])); os.setgid(4321); os.setuid(1234)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(sys.argv[3].encode())\n"
        "print(json.dumps([os.getpid(), s.makefile().read()]))\n"
    )
    async with running(path, app):
        await anyio.Path(path).chmod(0o666)
        done = await anyio.run_process(
            [sys.executable, "-c", child, os.fspath(path), json.dumps(groups), GET.replace(b"1.1", b"1.0").decode()],
            stderr=subprocess.STDOUT,
        )
        pid, said = json.loads(done.stdout)
        assert json.loads(said.splitlines()[-1]) == [pid, 1234, 4321, groups]
        ours = json.loads((await asked(path)).body)
        assert ours == [os.getpid(), os.geteuid(), os.getegid(), sorted(os.getgroups())]


@pytest.mark.usefixtures("as_root")
async def test_some_connections_are_kept_for_root(path: Path) -> None:
    child = (
        "import os, socket, sys\n"
        "os.setgid(4321); os.setuid(1234)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.makefile().readline())\n"
    )
    async with running(path, connections=3, reserved=2), Client.of(path) as client:
        await client.send(GET)
        assert (await client.answer()).status == 200
        await anyio.Path(path).chmod(0o666)
        done = await anyio.run_process([sys.executable, "-c", child, os.fspath(path)])
        assert b" 503 " in done.stdout
        assert (await asked(path)).status == 200


async def test_an_app_can_end_a_connection_at_once(path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/abort":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            connection_of(scope).abort()
            connection_of(scope).abort()
        await hello(scope, receive, send)

    async with running(path, app), Client.of(path) as client:
        await client.send(GET.replace(b"hello", b"abort"))
        await client.rest()
        assert (await asked(path)).status == 200


class AppFailedError(Exception):
    pass


async def test_an_app_that_fails_costs_one_answer(path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
        if scope["path"] == "/half":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        if scope["path"] != "/nothing":
            raise AppFailedError

    with capture_logs() as logs:
        async with running(path, app), Client.of(path) as client:
            failed = await asked(path)
            assert (failed.status, failed.problem["title"]) == (500, "Internal Server Error")
            assert (await asked(path, GET.replace(b"hello", b"nothing"))).status == 500
            await client.send(GET.replace(b"hello", b"half"))
            assert b"Internal" not in await client.rest()
    assert [(log["event"], log["path"]) for log in logs[1:]] == [
        ("a request failed", "/hello"),
        ("no whole answer to a request", "/nothing"),
        ("a request failed", "/half"),
    ]


async def test_idle_and_opened_are_told(path: Path) -> None:
    seen: list[str] = []

    async with running(path) as server, anyio.create_task_group() as tasks:

        async def watch(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            await server.idle()
            seen.append("idle")
            task_status.started()
            await server.opened()
            seen.append("opened")
            await server.idle()
            seen.append("idle")

        await tasks.start(watch)
        assert (await asked(path)).status == 200
    assert seen == ["idle", "opened", "idle"]


async def test_running_out_of_file_descriptors_is_waited_out(path: Path) -> None:
    clients = 12
    pause = 0.05
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with capture_logs() as logs:
        async with running(path, accept_again_after=pause) as server:
            began = anyio.current_time()
            sockets = [socket.socket(socket.AF_UNIX) for _ in range(clients)]
            in_use = {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208
            third = [number for number in range(soft) if number not in in_use][2]
            resource.setrlimit(resource.RLIMIT_NOFILE, (third + 1, hard))
            try:
                for connected in sockets:
                    connected.setblocking(False)
                    connected.connect(os.fspath(path))
                while not logs:
                    await anyio.lowlevel.checkpoint()
                assert 0 < server.connections < clients
                for connected in sockets:
                    client = Client(connected)
                    await client.send(GET)
                    assert (await client.answer()).status == 200
                    connected.close()
                await server.idle()
                took = anyio.current_time() - began
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for connected in sockets:
                    connected.close()
            assert (await asked(path)).status == 200
    assert {log["event"] for log in logs} == {"cannot accept a connection"}
    assert len(logs) <= took / pause + 1


class TestEnd:
    """How a server ends: ``stop`` makes it."""

    @staticmethod
    async def serve(
        path: Path, app: Any, stop: anyio.Event, *, task_status: anyio.abc.TaskStatus[None], end_within: float = SOON
    ) -> None:
        async with listening_at(path) as listening, serving(app, listening, Bounds(end_within=end_within)):
            task_status.started()
            await stop.wait()

    async def test_requests_are_answered_and_idle_connections_closed(self, path: Path) -> None:
        begun, go, stop = anyio.Event(), anyio.Event(), anyio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == "/slow":
                begun.set()
                await go.wait()
            await hello(scope, receive, send)

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                await tasks.start(self.serve, path, app, stop)
                async with Client.of(path) as slow, Client.of(path) as idle, Client.of(path) as half:
                    await half.send(GET[:10])
                    await idle.send(GET)
                    await idle.answer()
                    await slow.send(GET.replace(b"hello", b"slow"))
                    await begun.wait()
                    stop.set()
                    assert await idle.rest() == await half.rest() == b""
                    with pytest.raises(ConnectionRefusedError):
                        await asked(path)
                    go.set()
                    last = await slow.answer()
                    assert (last.status, last.headers["connection"]) == (200, "close")
                    assert await slow.rest() == b""
        assert not await anyio.Path(path).exists()

    @pytest.mark.parametrize("streams", [False, True])
    async def test_requests_that_take_too_long_are_cancelled(self, path: Path, streams: bool) -> None:
        begun, cancelled, stop = anyio.Event(), anyio.Event(), anyio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
            if streams:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            begun.set()
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()

        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                await tasks.start(partial(self.serve, path, app, stop, end_within=0.05))
                async with Client.of(path) as client:
                    await client.send(GET)
                    await begun.wait()
                    stop.set()
                    await cancelled.wait()
                    assert (await client.rest()).startswith(b"HTTP/1.1 200" if streams else b"")

    async def test_cancelling_ends_gracefully_too(self, path: Path) -> None:
        with anyio.fail_after(SOON):
            async with anyio.create_task_group() as tasks:
                await tasks.start(self.serve, path, hello, anyio.Event())
                async with Client.of(path) as client:
                    await client.send(GET)
                    await client.answer()
                    tasks.cancel_scope.cancel()
                    with anyio.CancelScope(shield=True):
                        assert await client.rest() == b""

    async def test_who_waits_to_be_accepted_is_left_to_the_next_server(self, path: Path) -> None:
        with anyio.fail_after(SOON):
            async with listening_at(path) as listening:
                systemds = listening.dup()
                async with serving(hello, listening):
                    pass
                async with Client.of(path) as client:
                    await client.send(GET)
                    async with serving(hello, systemds):
                        assert (await client.answer()).status == 200
