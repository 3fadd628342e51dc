"""Clients that mean no good: each is refused or cut off, others are answered, and nothing of it stays."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from tests.daemon.http.harness import GET, Client, answer, asked, hello, running

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

SHORT = 0.1
POST = b"POST / HTTP/1.1\r\nhost: h\r\n"


async def drip(client: Client, pieces: list[bytes]) -> bytes:
    """Send the pieces again and again, always in time for a bound on single reads, until the server ends it."""
    while True:
        for piece in pieces:
            try:
                await client.send(piece)
            except OSError:
                return await client.rest()
            with anyio.move_on_after(SHORT / 10):
                if received := await client.receive():
                    return received + await client.rest()
                return b""


async def flood(client: Client, piece: bytes) -> int:
    """Send the piece again and again until the server wants no more; return how many bytes it took."""
    sent = 0
    try:
        while sent < 100_000_000:
            await client.send(piece)
            sent += len(piece)
    except OSError:
        pass
    return sent


async def test_connections_that_say_nothing_are_closed(path: Path) -> None:
    async with running(path, head_within=SHORT), AsyncExitStack() as open_:
        silent = [await open_.enter_async_context(Client.of(path)) for _ in range(50)]
        assert (await asked(path)).status == 200
        for client in silent:
            assert await client.rest() == b""


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"", [b"G", b"ET / HTTP/1.1\r\n", b"a: b\r\n"]),
        (b"", [b"\r\n"]),
        (GET, [b"\r\n"]),
        (GET, [b"GET / HTTP/1.1\r\nx: ", b"y"]),
    ],
    ids=["head", "nothing", "nothing-later", "head-later"],
)
async def test_heads_that_drip_are_refused(path: Path, first: bytes, then: list[bytes]) -> None:
    async with running(path, head_within=SHORT, idle_within=SHORT), Client.of(path) as client:
        if first:
            await client.send(first)
            assert (await client.answer()).status == 200
        if first and then != [b"\r\n"]:
            await client.send(then.pop(0))
        elif then != [b"\r\n"]:
            await client.send(b"GET / HTTP/1.1\r\n")
            then = [b"a: b\r\n"]
        received = await drip(client, then)
        assert received.startswith(b"HTTP/1.1 408 ") or then == [b"\r\n"]
        assert (await asked(path)).status == 200


@pytest.mark.parametrize(
    ("head", "piece"), [(b"content-length: 9999\r\n\r\n", b"x"), (b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n")]
)
async def test_bodies_that_drip_are_refused(path: Path, head: bytes, piece: bytes) -> None:
    async with running(path, body_within=SHORT), Client.of(path) as client:
        await client.send(POST + head)
        assert (await drip(client, [piece])).startswith(b"HTTP/1.1 408 ")
        assert (await asked(path)).status == 200


async def test_idle_connections_are_closed(path: Path) -> None:
    async with running(path, idle_within=SHORT), Client.of(path) as client:
        await client.send(GET)
        assert (await client.answer()).status == 200
        assert await client.rest() == b""


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"content-length: 100000000\r\n\r\n", b"x" * 65536),
        (b"transfer-encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        (b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10000),
        (b"transfer-encoding: chunked\r\n\r\n1;", b"x" * 65536),
        (b"transfer-encoding: chunked\r\n\r\n0\r\n", b"a: " + b"x" * 65536 + b"\r\n"),
    ],
    ids=["declared", "chunked", "small-chunks", "extension", "trailers"],
)
async def test_100_mb_are_not_read(path: Path, head: bytes, piece: bytes) -> None:
    called = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal called
        called += 1
        await hello(scope, receive, send)

    async with running(path, app), Client.of(path) as client:
        await client.send(POST + head)
        assert await flood(client, piece) < 4_000_000
        refused = await client.answer()
        assert (refused.status, refused.problem["type"]) == (413, "about:blank")
        assert await client.rest() == b""
        assert (await asked(path)).status == 200
    assert called == 2  # at first, and now


async def test_a_body_of_just_the_bound_is_taken_and_of_one_more_is_not(path: Path) -> None:
    async with running(path, body=1000):
        for framing in (b"content-length: %d\r\n\r\n%s", b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"):
            assert (await asked(path, POST + framing % (1000, b"x" * 1000))).status == 200
            assert (await asked(path, POST + framing % (1001, b"x" * 1001))).status == 413


@pytest.mark.parametrize("piece", [b"a: b\r\n", b"x" * 65536, b"a: " + b"x" * 20000 + b"\r\n"])
async def test_heads_without_end_are_refused(path: Path, piece: bytes) -> None:
    async with running(path), Client.of(path) as client:
        await client.send(b"GET /")
        if b"\r" in piece:
            await client.send(b" HTTP/1.1\r\n")
        assert await flood(client, piece) < 4_000_000
        assert (await client.answer()).problem["status"] == 431
        assert (await asked(path)).status == 200


async def test_a_head_of_the_bound_is_taken_and_a_larger_one_is_not(path: Path) -> None:
    request = b"GET / HTTP/1.1\r\na: %s\r\n\r\n"
    async with running(path):
        assert (await asked(path, request % (b"x" * 32_000))).status == 200
        assert (await asked(path, request % (b"x" * 33_000))).status == 431
        assert (await asked(path, b"GET /%s HTTP/1.1\r\n\r\n" % (b"x" * 33_000))).status == 431


async def test_a_large_body_before_a_head_does_not_count_as_head(path: Path) -> None:
    body = b"x" * 60_000
    async with running(path), Client.of(path) as client:
        await client.send(POST + b"content-length: %d\r\n\r\n%s" % (len(body), body) + GET[:20])
        assert (await client.answer()).status == 200
        await client.send(GET[20:])
        assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
    ],
)
async def test_garbage_is_refused(path: Path, garbage: bytes) -> None:
    async with running(path), Client.of(path) as client:
        await client.send(garbage)
        refused = await client.answer()
        assert (refused.status, refused.headers["connection"]) == (400, "close")
        assert refused.problem["title"] == "Bad Request"
        assert await client.rest() == b""
        assert (await asked(path)).status == 200


async def test_garbage_after_requests_is_refused_after_their_answers(path: Path) -> None:
    async with running(path), Client.of(path) as client:
        await client.send(GET + GET + b"\x00\x01\x02" * 100)
        assert [(await client.answer()).status for _ in range(3)] == [200, 200, 400]
        assert await client.rest() == b""


async def endless(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
    if scope["path"] == "/hello":
        await answer(send, b"hello")
        return
    size = 50_000_000 if scope["path"] == "/large" else 1000
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": bytes(size), "more_body": size == 1000})
        if size != 1000:
            return


@pytest.mark.parametrize("what", [b"/large", b"/stream"])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_clients_that_do_not_read_are_cut_off(path: Path, what: bytes, version: bytes) -> None:
    async with running(path, endless, read_within=SHORT) as server, AsyncExitStack() as open_:
        for _ in range(3):
            client = await open_.enter_async_context(Client.of(path))
            await client.send(GET.replace(b"/hello", what).replace(b"1.1", version))
        await server.opened()
        assert (await asked(path)).status == 200
        await server.idle()


async def test_slow_readers_are_not_cut_off(path: Path) -> None:
    async with running(path, endless, read_within=SHORT), Client.of(path) as client:
        await client.send(GET.replace(b"/hello", b"/large").replace(b"1.1", b"1.0"))
        began = anyio.current_time()
        received = 0
        while more := await client.receive():
            received += len(more)
            if anyio.current_time() - began < 3 * SHORT:
                with anyio.move_on_after(SHORT / 20):
                    await anyio.sleep_forever()
        assert received > 50_000_000


@pytest.mark.parametrize(
    "said",
    [
        b"",
        GET[:10],
        POST + b"content-length: 10\r\n\r\nx",
        POST + b"transfer-encoding: chunked\r\n\r\n5\r\nx",
        GET.replace(b"/hello", b"/stream"),
        GET.replace(b"/hello", b"/stream") + GET,
        GET.replace(b"/hello", b"/large"),
    ],
    ids=["nothing", "head", "body", "chunk", "stream", "pipelined", "large"],
)
async def test_clients_may_vanish(path: Path, said: bytes) -> None:
    async with running(path, endless) as server:
        for _ in range(20):
            async with Client.of(path) as client:
                await client.send(said)
                if b"stream" in said or b"large" in said:
                    await client.receive()
        await server.idle()
        assert (await asked(path)).status == 200


async def test_an_app_is_told_that_its_client_vanished(path: Path) -> None:
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            told.extend([await receive(), await receive(), await receive()])
        else:
            await hello(scope, receive, send)

    async with running(path, app) as server:
        async with Client.of(path) as client:
            await client.send(GET.replace(b"hello", b"wait"))
            await server.opened()
        await server.idle()
        while not told:
            await anyio.lowlevel.checkpoint()
    assert [message["type"] for message in told] == ["http.request", "http.disconnect", "http.disconnect"]


async def test_apps_that_outlive_their_clients_are_bounded(path: Path) -> None:
    go = anyio.Event()
    begun = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal begun
        if scope["path"] == "/wait":
            begun += 1
            await go.wait()
        await hello(scope, receive, send)

    async with running(path, app, connections=10) as server:
        for number in range(10):
            async with Client.of(path) as client:
                await client.send(GET.replace(b"hello", b"wait"))
                while begun <= number:
                    await anyio.lowlevel.checkpoint()
            await server.idle()
        assert (await asked(path)).status == 503
        go.set()
        await server.idle()
        assert (await asked(path)).status == 200


async def test_5000_connections(path: Path) -> None:
    bound, burst, refused = 512, 500, []

    async def one() -> None:
        async with Client.of(path) as client:
            refused.append(await client.answer())

    async with running(path, connections=bound) as server:
        async with AsyncExitStack() as open_:
            clients = [await open_.enter_async_context(Client.of(path)) for _ in range(bound)]
            while server.connections < bound:
                await anyio.lowlevel.checkpoint()
            for left in range(5000 - bound, 0, -burst):
                async with anyio.create_task_group() as tasks:
                    for _ in range(min(left, burst)):
                        tasks.start_soon(one)
                assert server.connections == bound
                await clients[0].send(GET)  # who is in is answered
                assert (await clients[0].answer()).status == 200
            assert {answer.problem["status"] for answer in refused} == {503}
            assert refused[0].headers["retry-after"] == "1"
            assert len(refused) == 5000 - bound
        await server.idle()
        assert (await asked(path)).status == 200
