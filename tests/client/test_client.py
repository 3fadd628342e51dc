"""Reaching the service, or finding out that it cannot be reached; and what it says is wrong."""

from __future__ import annotations

import inspect
import os
import socket
import traceback
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest
from anyio import create_task_group, create_unix_listener

from tests.cli.harness import SOON, Sample, Service, held
from transship import errors
from transship.api.models import Order
from transship.api.problem import Problem
from transship.client import client as clients
from transship.client.client import Client, reached
from transship.errors import (
    AccessDenied,
    Detached,
    RunGoesOn,
    RunInterrupted,
    RunNotFound,
    ServiceUnavailable,
    SourceMissing,
    TransshipError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyio.abc import SocketStream

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("_no_blocking_of_the_loop")]


async def is_reached(path: Path, state_dir: Path) -> bool:
    with anyio.fail_after(SOON):
        async with reached(path, state_dir) as client:
            return client is not None


async def test_a_service(service: Service, sample: Sample, tmp_path: Path) -> None:
    assert await is_reached(service.socket, sample.state)
    assert await is_reached(service.socket, sample.state / ".." / "state")
    assert not await is_reached(service.socket, tmp_path / "another")


async def test_no_socket(place: Path, tmp_path: Path) -> None:
    await anyio.Path(place / "file").touch()
    for path in (place / "nothing", place / "file", place / "file" / "below", place / ("x" * 200), place):
        assert not await is_reached(path, tmp_path)


async def test_a_socket_that_a_dead_server_left(service: Service, sample: Sample) -> None:
    service.kill()
    assert await anyio.Path(service.socket).is_socket()
    assert not await is_reached(service.socket, sample.state)


async def test_a_socket_for_datagrams(place: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(place / "sock"))
        with pytest.raises(ServiceUnavailable) as caught:
            await is_reached(place / "sock", tmp_path)
    assert str(place / "sock") in caught.value.message


@asynccontextmanager
async def listening(path: Path, answer: bytes) -> AsyncIterator[None]:
    """Someone who takes what comes and says ``answer``; nothing: keeps silent."""

    async def serve(stream: SocketStream) -> None:
        async with stream:
            async for _ in stream:
                if answer:
                    await stream.send(answer)
                    return

    async with create_task_group() as tasks, await create_unix_listener(path) as listener:
        tasks.start_soon(listener.serve, serve)
        yield
        tasks.cancel_scope.cancel()


def http(status: str, body: bytes, kind: str = "application/json") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (
        status.encode(),
        kind.encode(),
        len(body),
        body,
    )


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
        http("200 OK", b"<html>", "text/html"),
        http("200 OK", b"[1, 2]"),
        http("200 OK", b'{"version": 1}'),
        http("200 OK", b"\xff"),
        http("404 Not Found", b'{"message": "page not found"}'),
        http("500 Internal Server Error", b""),
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
    ],
)
async def test_something_else_that_listens(place: Path, tmp_path: Path, answer: bytes) -> None:
    async with listening(place / "sock", answer):
        with pytest.raises(ServiceUnavailable) as caught:
            await is_reached(place / "sock", tmp_path)
    assert caught.value.remedy


async def test_a_server_that_never_answers(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_ANSWER_WITHIN", 0.1)
    async with listening(place / "sock", b""):
        with pytest.raises(ServiceUnavailable) as caught:
            await is_reached(place / "sock", tmp_path)
    assert caught.value.message == f"the service at {place}/sock does not answer: no answer within 0.1 s"
    assert "systemctl status transship.service" in caught.value.remedy


@pytest.mark.usefixtures("as_root")
def test_a_socket_that_is_not_for_us(place: Path, tmp_path: Path) -> None:
    path = place / "sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        other.listen()
        path.chmod(0o660)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                try:
                    anyio.run(is_reached, path, tmp_path)
                except AccessDenied as error:
                    os.write(writer, f"{error.message}\n{error.remedy}".encode())
            except BaseException:  # noqa: BLE001 - the child must end here, whatever happens
                os.write(writer, traceback.format_exc().encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as told:
            message, _, remedy = told.read().partition("\n")
        os.waitpid(child, 0)
    assert message == f"{path}: Permission denied"
    assert "ask as root, or as a member of the group" in remedy


# Errors of the service


ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TransshipError)]


@pytest.mark.parametrize("kind", [kind for kind in ERRORS if not issubclass(kind, RunInterrupted)])
def test_every_error_comes_back_as_what_it_was(kind: type[TransshipError]) -> None:
    document = msgspec.json.encode(Problem.of(kind("what", remedy="do this")))
    error = msgspec.json.decode(document, type=Problem).as_error()
    assert type(error) is kind
    assert (error.message, error.remedy, error.exit_code) == ("what", "do this", kind.exit_code)


def test_the_run_that_is_in_the_way_comes_back() -> None:
    error = Problem.of(RunGoesOn("busy", run="x")).as_error()
    assert isinstance(error, RunGoesOn)
    assert error.run == "x"


@pytest.mark.parametrize("name", ["RunInterrupted", "Detached", "ExitCode", "nonsense", "IntEnum"])
def test_an_error_that_is_not_known_is_one_all_the_same(name: str) -> None:
    error = Problem("about:blank", "t", 500, "what", "do this", error=name).as_error()
    assert type(error) is TransshipError
    assert (error.message, error.remedy) == ("what", "do this")


async def test_what_the_service_raises_is_raised_here(service: Service, sample: Sample) -> None:
    async with Client(service.socket) as client:
        with pytest.raises(SourceMissing, match="nowhere"):
            await client.start(Order(source="/nowhere", target=f"oci:{sample.layout}"))
        with pytest.raises(UsageError, match="not an absolute path"):
            await client.start(Order(source="here"))
        for call in (client.run, client.cancel, client.resume, client.rollback):
            with pytest.raises(RunNotFound):
                await call("20200101-000000-abcd")
        for run in ("", "..", "../status", "a/b", "a b", "é", "x?y"):
            with pytest.raises(RunNotFound, match="there is no run"):
                await client.run(run)
        with pytest.raises(RunNotFound):
            async for _ in client.events("20200101-000000-abcd"):
                pass


async def test_a_run_in_the_way_is_named(service: Service, sample: Sample) -> None:
    order = Order(source=str(sample.source), target=f"oci:{sample.layout}")
    with held(sample.layout):
        async with Client(service.socket) as client:
            run, begun = await client.start(order)
            assert begun
            assert await client.start(order) == (run, False)
            with pytest.raises(RunGoesOn) as caught:
                await client.start(Order(source=str(sample.source), target=f"oci:{sample.layout}", images=("low:1",)))
            assert caught.value.run == run.id


async def test_whoever_stops_waiting_for_an_answer_is_told_that_it_may_be_done_all_the_same(place: Path) -> None:
    caught: list[Detached] = []
    async with listening(place / "sock", b""), Client(place / "sock") as client:
        with anyio.move_on_after(0.1):
            try:
                await client.start(Order())
            except Detached as error:
                caught.append(error)
    assert caught[0].exit_code == 130
    assert "may do it" in caught[0].message
