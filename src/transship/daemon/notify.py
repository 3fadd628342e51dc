"""Telling the service manager how it goes: sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import Self

_MICROSECONDS = 1_000_000


class Notifier:
    """Sends states to the socket that ``NOTIFY_SOCKET`` names; without one, nowhere.

    Sending never waits: what the manager has no room for is dropped, as it would be by a manager that has gone.
    """

    def __init__(self, address: str | None, watchdog: float | None = None) -> None:
        self._address = address
        self.watchdog = watchdog
        """Seconds within which ``alive`` must be called, again and again; None: it need not."""

    @classmethod
    def from_environment(cls) -> Self:
        """Return the notifier that the environment describes, and take it out there: worker processes are not the service."""
        address = os.environ.pop("NOTIFY_SOCKET", None)
        interval = os.environ.pop("WATCHDOG_USEC", None)
        watched = os.environ.pop("WATCHDOG_PID", None) in {None, str(os.getpid())}
        return cls(address, int(interval) / _MICROSECONDS if interval and watched else None)

    def ready(self, status: str) -> None:
        """The service answers."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """Say in one line what is going on."""
        self._send(_status(text))

    def alive(self) -> None:
        """All is well."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """The configuration is being read again; ``ready`` follows."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The service is about to end."""
        self._send("STOPPING=1", _status("stopping"))

    def extend_timeout(self, seconds: float) -> None:
        """What the manager waits for takes at least ``seconds`` more."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * _MICROSECONDS)}")

    def _send(self, *states: str) -> None:
        if self._address is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager, suppress(OSError):
            manager.sendto("\n".join(states).encode(), address)


def _status(text: str) -> str:
    return "STATUS=" + text.replace("\n", " ")
