from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from transship.daemon.notify import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(address.replace("@", "\0", 1))

    def heard(self) -> list[str]:
        """The states of the next datagram."""
        return self._socket.recv(4096).decode().split("\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, place: Path) -> Iterator[Manager]:
    made = Manager(str(place / "notify") if request.param == "file" else f"@{place}/notify")
    yield made
    made.close()


def test_each_state_is_one_datagram(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    notifier.ready("idle")
    assert manager.heard() == ["READY=1", "STATUS=idle"]
    notifier.status("3 of 4 steps\nREADY=1")
    assert manager.heard() == ["STATUS=3 of 4 steps READY=1"]
    notifier.alive()
    assert manager.heard() == ["WATCHDOG=1"]
    notifier.stopping()
    assert manager.heard() == ["STOPPING=1", "STATUS=stopping"]
    notifier.extend_timeout(1.5)
    assert manager.heard() == ["EXTEND_TIMEOUT_USEC=1500000"]


def test_a_reload_carries_the_time_by_which_it_is_told_from_others(manager: Manager) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    Notifier(manager.address).reloading()
    state, moment = manager.heard()
    assert state == "RELOADING=1"
    name, _, value = moment.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_manager_that_does_not_listen_holds_up_nothing(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    for number in range(5000):  # more than the socket has room for
        notifier.status(str(number))
    assert manager.heard() == ["STATUS=0"]


def test_without_a_manager_nothing_is_sent(place: Path) -> None:
    Notifier(None).ready("idle")
    Notifier(str(place / "gone")).ready("idle")
    Notifier("/" + "long" * 100).ready("idle")


def test_the_environment_is_for_the_service_alone(monkeypatch: pytest.MonkeyPatch, manager: Manager) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "2500000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier.from_environment()
    notifier.alive()
    assert manager.heard() == ["WATCHDOG=1"]
    assert notifier.watchdog == 2.5
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & os.environ.keys()


def test_a_watchdog_may_be_meant_for_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2500000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert Notifier.from_environment().watchdog is None
    monkeypatch.setenv("WATCHDOG_USEC", "2500000")  # without WATCHDOG_PID: for whoever has it
    assert Notifier.from_environment().watchdog == 2.5
