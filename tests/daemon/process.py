"""The service as a process of its own, and what the service manager does for it."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import msgspec

from tests.cli.harness import environment
from transship.api.models import Order, Run, Status

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator

SOON = 60
"""Seconds after which a test has failed."""

_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; Python has no name for it
_TIMESPEC = struct.Struct("ll")

# As systemd does it: the socket is at 3, the environment says so, and the process that has it becomes the service.
_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Manager:
    """What NOTIFY_SOCKET names: hears what the service says of itself, and when."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[tuple[float, list[str]]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.bind(os.fspath(path))

    def until(self, state: str) -> str:
        """Wait for a state that begins so, said after all that was heard, and return it."""
        end = time.monotonic() + SOON
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            for each in self._hear():
                if each.startswith(state):
                    return each
        raise AssertionError(f"not heard: {state}; {self.heard}")

    def rest(self) -> None:
        """Take what has been said and not heard yet."""
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self._hear()

    def _hear(self) -> list[str]:
        data, ((_, _, stamp), *_), _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(_TIMESPEC.size))
        seconds, nanoseconds = _TIMESPEC.unpack(stamp)
        states = data.decode().split("\n")
        self.heard.append((seconds + nanoseconds / 1e9, states))
        return states

    def times(self, state: str) -> list[float]:
        """When states that begin so were sent."""
        return [moment for moment, states in self.heard for each in states if each.startswith(state)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self.path.unlink()


class Served:
    """A running service; its log goes to a file beside its socket."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path, log: Path, manager: Manager) -> None:
        self.process = process
        self.manager = manager
        self.path = path
        self._log = log
        self.http = httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://service", timeout=SOON)

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.log if entry["event"] == event]

    def status(self) -> Status:
        return msgspec.convert(self.http.get("/v1/status").raise_for_status().json(), Status)

    def start(self, order: Order) -> Run:
        answer = self.http.post("/v1/runs", json=msgspec.to_builtins(order)).raise_for_status()
        return msgspec.convert(answer.json(), Run)

    def events(self, run: str, after: int = 0) -> Iterator[dict[str, Any]]:
        """Follow a run, as long as the service is at it."""
        with self.http.stream("GET", f"/v1/runs/{run}/events", headers={"last-event-id": str(after)}) as answer:
            for line in answer.raise_for_status().iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def until_idle(self) -> Status:
        while (status := self.status()).current is not None:
            if status.current.run is not None:
                for _ in self.events(status.current.run.id, after=10**17):
                    pass
        return status

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(SOON)

    def figure(self, name: str) -> int:
        """A figure of /proc/PID/status."""
        found = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1])

    @property
    def switches(self) -> int:
        """How often any of its threads has waited for something."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        texts = [(task / "status").read_text() for task in tasks]
        return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in texts)


@contextmanager
def served(place: Path, state: Path, *, config: str = "", activated: bool = False, **variables: str) -> Iterator[Served]:
    """Start a service, wait until it is ready, and see to it that it ends. Each place has one at a time, and one log."""
    path, log, file = place / "socket", place / "log", place / "transship.toml"
    file.write_text(config or '[service]\ngroup = "no-such-group"\n')
    command = ["-m", "transship", "serve", "--socket", str(path), "--state-dir", str(state), "--config", str(file)]
    with Manager(place / "notify") as manager, log.open("ab") as errors, socket.socket(socket.AF_UNIX) as listening:
        options: dict[str, Any] = {"stderr": errors, "env": environment() | variables | {"NOTIFY_SOCKET": str(manager.path)}}
        if activated:
            path.unlink(missing_ok=True)
            listening.bind(os.fspath(path))
            listening.listen()
            command = ["-c", _ACTIVATE, str(listening.fileno()), *command]
            options["pass_fds"] = [listening.fileno()]
        process = subprocess.Popen([sys.executable, *command], **options)
        service = Served(process, path, log, manager)
        try:
            manager.until("READY=1")
            yield service
        finally:
            service.http.close()
            process.kill()
            process.wait()
