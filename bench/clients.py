"""Asks a transship service how things stand, from many connections at once, and measures how long it takes to answer.

    python bench/clients.py SOCKET RUN --pollers 200 --hertz 10 --streams 50

until its standard input is closed; then prints a JSON object: ``answers``, ``errors``, ``events``, latencies (``p50``, ``p99``,
``max``) in seconds.
Written against the transport itself, so that the clients cost the machine as little as can be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from typing import TYPE_CHECKING, cast

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable

_ASK = b"GET /v1/status HTTP/1.1\r\nhost: transship\r\n\r\n"


class Poller(asyncio.Protocol):
    """Asks at a steady rate on a connection that stays open."""

    def __init__(self, interval: float, figures: Figures) -> None:
        self._interval = interval
        self._figures = figures
        self._asked = 0.0
        self._waiting = False
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + random.random() * self._interval  # noqa: S311 - spreads them out
        self._loop.call_at(self._due, self._ask)

    def _ask(self) -> None:
        if not self._waiting:
            self._waiting = True
            self._asked = time.perf_counter()
            self._transport.write(_ASK)
        self._due = max(self._due + self._interval, self._loop.time())
        self._loop.call_at(self._due, self._ask)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, mark, body = self._received.partition(b"\r\n\r\n")
        if not mark:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        if len(body) < length:
            return
        self._received = body[length:]
        self._waiting = False
        self._figures.answered(time.perf_counter() - self._asked, ok=head.startswith(b"HTTP/1.1 200"))

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        self._figures.lost()


class Stream(asyncio.Protocol):
    """Follows the events of a run."""

    def __init__(self, run: str, figures: Figures) -> None:
        self._run = run
        self._figures = figures

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(
            f"GET /v1/runs/{self._run}/events HTTP/1.1\r\nhost: transship\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self._figures.events += data.count(b"\nevent: ")


class Figures:
    """What the clients saw."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.errors = 0
        self.events = 0
        self.ending = False

    def answered(self, seconds: float, *, ok: bool) -> None:
        """Count an answer."""
        self.latencies.append(seconds)
        self.errors += not ok

    def lost(self) -> None:
        """Count a connection that the service has ended."""
        self.errors += not self.ending

    def document(self) -> dict[str, float]:
        """Return what was seen."""
        found = sorted(self.latencies) or [0.0]
        return {
            "answers": len(self.latencies),
            "errors": self.errors,
            "events": self.events,
            "p50": found[len(found) // 2],
            "p99": found[len(found) * 99 // 100],
            "max": found[-1],
        }


async def connect(path: str, protocol: Callable[[], asyncio.Protocol]) -> None:
    """Connect, as soon as the service has room in its queue."""
    while True:
        try:
            await asyncio.get_running_loop().create_unix_connection(protocol, path)
        except BlockingIOError:
            await asyncio.sleep(0.01)
        else:
            return


async def ask(options: argparse.Namespace) -> None:
    """Open the connections, keep them busy until standard input ends, and print what was seen."""
    loop = asyncio.get_running_loop()
    figures = Figures()
    for _ in range(options.pollers):
        await connect(options.socket, lambda: Poller(1 / options.hertz, figures))
    for _ in range(options.streams if options.run else 0):
        await connect(options.socket, lambda: Stream(options.run, figures))
    await loop.run_in_executor(None, sys.stdin.read)
    figures.ending = True
    sys.stdout.write(json.dumps(figures.document()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("socket")
    parser.add_argument("run", nargs="?")
    parser.add_argument("--pollers", type=int, default=200)
    parser.add_argument("--hertz", type=float, default=10)
    parser.add_argument("--streams", type=int, default=50)
    uvloop.run(ask(parser.parse_args()))
