"""Whatever bytes come, the server stands."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import given
from hypothesis import strategies as st

from tests.daemon.http.harness import GET, SOON, hello
from transship.daemon.http.server import Server, serving
from transship.daemon.listen import listening

if TYPE_CHECKING:
    from collections.abc import Iterator

_PARTS = [
    *(
        b"GET",
        b"POST",
        b"HEAD",
        b"CONNECT",
        b"PRI",
        b" ",
        b"/",
        b"*",
        b"%00",
        b"http://",
        b" HTTP/1.1",
        b" HTTP/1.0",
        b"\r\n",
        b"\n",
    ),
    *(
        b"\r\n\r\n",
        b"host: h\r\n",
        b"content-length: 3\r\n",
        b"content-length: 99999999\r\n",
        b"transfer-encoding: chunked\r\n",
    ),
    *(b"connection: close\r\n", b"connection: upgrade\r\nupgrade: websocket\r\n", b"expect: 100-continue\r\n", b"3\r\nabc\r\n"),
    *(b"0\r\n\r\n", b"abc", b"\x00", b"\xff" * 9, b"x" * 40_000, GET, GET * 30),
]
BYTES = st.lists(st.sampled_from(_PARTS) | st.binary(max_size=20), max_size=12)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Path, Server]]:
    """A server in a thread of its own. Errors that nothing in it handled fail the module's last test."""
    unhandled: list[dict[str, Any]] = []

    async def note() -> None:
        def handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:  # noqa: ARG001
            unhandled.append(context)

        asyncio.get_running_loop().set_exception_handler(handler)

    async def make(listening_: socket.socket) -> Any:
        return serving(hello, listening_)

    with (
        tempfile.TemporaryDirectory() as directory,
        listening(Path(directory) / "s", "no-such-group") as listener,
        start_blocking_portal("asyncio", {"use_uvloop": True}) as portal,
    ):
        portal.call(note)
        with portal.wrap_async_context_manager(portal.call(make, listener.socket)) as made:
            yield listener.path, made
    assert unhandled == []


@given(BYTES, st.booleans())
def test_no_bytes_harm_the_server(server: tuple[Path, Server], pieces: list[bytes], together: bool) -> None:
    path, _ = server
    with _connected(path) as client:
        with suppress(BrokenPipeError, ConnectionResetError):
            for piece in [b"".join(pieces)] if together else pieces:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
        received = _to_the_end(client)
        assert received == b"" or received.startswith(b"HTTP/1.1 ")
    with _connected(path) as client:
        client.sendall(GET.replace(b"host:", b"connection: close\r\nhost:"))
        assert _to_the_end(client).startswith(b"HTTP/1.1 200 ")


def _connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(SOON)
    client.connect(os.fspath(path))
    return client


def _to_the_end(client: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):
        while more := client.recv(65536):
            received += more
    return received
