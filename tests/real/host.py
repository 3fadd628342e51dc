"""A host with transship, containerd and a Docker store on it, and how to look at it and to hold it in the middle of a run.

::

    host = make_host(settings='idle-exit = 0', unit='WatchdogSec=5')   # off; a line of [service] in transship.toml, in the unit
    host.machine.boot()
    with host.migrating() as command:     # `transship migrate --json` on it
        host.hold()                       # in the middle: containerd answers no more, so that nothing advances
        host.release()
        host.ended(command).expect(0)
    host.check()                          # everything is there, and as it should be

containerd is stopped with SIGSTOP once some steps are done: so the run is in the middle, for as long as a test likes.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.conftest import DOCKER_DATA, unpack_archive
from tests.real.command import Ended, Json

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from tests.real.machine import Machine

SERVICE = "transship.service"
BOOT = "transship-boot.service"
SOCKET = "/run/transship/transship.sock"
_URL = "http://transship"
_FIRST = 20
"""Steps that are done when a run is in the middle; there are 315."""
_POLL = 0.02
_DOCKER = """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true

[Install]
WantedBy=multi-user.target
"""


class Host:
    """``settings`` and ``unit`` are lines of the service's configuration and of its unit."""

    def __init__(self, machine: Machine, settings: str = "", unit: str = "") -> None:
        self.machine = machine
        self.configure(settings)
        if unit:
            self.adjust(SERVICE, unit)
        unpack_store(machine)
        machine.enable("containerd.service", "transship.socket")

    def configure(self, settings: str) -> None:
        """Set what the service is to read when it starts, or is told to read it again."""
        self.machine.write("/etc/transship/conf.d/test.toml", f"[service]\n{settings}\n")

    def adjust(self, unit: str, lines: str, section: str = "Service") -> None:
        """Change a unit, from the next boot on."""
        self.machine.write(f"/etc/systemd/system/{unit}.d/{section}.conf", f"[{section}]\n{lines}\n")

    def add_docker(self) -> None:
        """Have a docker.service that starts at once, wherever images are."""
        self.machine.write("/etc/systemd/system/docker.service", _DOCKER)
        self.machine.enable("docker.service")

    def ask(self, path: str, *options: str) -> Any:
        """Return what the service answers, a JSON document."""
        return json.loads(self.curl(path, *options).expect().stdout)

    def curl(self, path: str, *options: str) -> Ended:
        return self.machine.run("curl", "--silent", "--show-error", "--unix-socket", SOCKET, *options, f"{_URL}{path}")

    def status(self) -> Json:
        answer: Json = self.ask("/v1/status")
        return answer

    def run(self) -> Json:
        """Return the only migration that there is."""
        (found,) = [run for run in self.ask("/v1/runs")["runs"] if run["leg"] == "containerd"]
        run: Json = found
        return run

    def events(self) -> list[Json]:
        """Return what has happened in that run up to now."""
        text = self.curl(f"/v1/runs/{self.run()['id']}/events?follow=false").expect().stdout
        return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]

    @contextmanager
    def migrating(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """Start ``transship migrate --json``; it is dead when the block ends."""
        with self.machine.start("transship", "migrate", "--json", *options) as command:
            try:
                yield command
            finally:
                command.kill()

    def ended(self, command: subprocess.Popen[str], seconds: float = 90) -> Ended:
        """Wait until a command has ended by itself."""
        stdout, stderr = command.communicate(timeout=seconds)
        return Ended(command.returncode, stdout, stderr)

    def middle(self) -> Json:
        """Wait until a run is in the middle, and return the status."""

        def is_under_way(status: Json) -> bool:
            progress = (status["current"] or {}).get("progress")
            return progress is not None and progress["done"]["steps"] + progress["skipped"]["steps"] >= _FIRST

        self.machine.wait_for("test", "-S", SOCKET)
        return self.until(is_under_way)

    def hold(self) -> None:
        """Stop a run in the middle."""
        self.middle()
        self.machine.signal("containerd.service", "SIGSTOP")
        progress = self.status()["current"]["progress"]
        assert progress["done"]["steps"] + progress["skipped"]["steps"] < progress["total"]["steps"], "too late"

    def release(self) -> None:
        """Let it go on."""
        self.machine.signal("containerd.service", "SIGCONT")

    def until(self, condition: Callable[[Json], bool], seconds: float = 60) -> Json:
        """Wait until the status is such, and return it."""
        end = time.monotonic() + seconds
        while True:
            status = self.status()
            if condition(status):
                return status
            assert time.monotonic() < end, f"{status}\n{self.machine.journal()[-8000:]}"
            time.sleep(_POLL)

    def until_last(self, state: str) -> Json:
        """Wait until the service is idle and the last run is in that state, and return the status.

        Idle alone says little: a service that has just started is, for a moment, before it goes on with what it was at.
        """
        return self.until(lambda status: status["state"] == "idle" and (status["last"] or {}).get("state") == state)

    def wait_for_state(self, unit: str, *states: str) -> None:
        """Wait until a unit is in one of these states (ActiveState of systemctl show)."""
        self.machine.wait_for("sh", "-c", f"systemctl show -P ActiveState {unit} | grep -qxE '{'|'.join(states)}'")

    def wait_for_entry(self, unit: str, text: str, count: int = 1) -> None:
        """Wait until that text is in the journal so many times."""
        self.machine.wait_for("sh", "-c", f"test $(journalctl -u {unit} -o cat | grep -cF '{text}') -ge {count}")

    def check(self, *, resumed: bool = False) -> None:
        """The only migration is done, and nothing differs; ``resumed``: the last attempt did not do it all."""
        run = self.run()
        assert run["state"] == "done", run
        verified = self.machine.run("transship", "verify", "--json")
        assert verified.expect().last["differences"] == []
        if resumed:
            last = _last_attempt(self.events())
            assert run["attempts"] > 1
            skipped = [event for event in last if event["type"] == "step_done" and event["skipped"]]
            done = [event for event in last if event["type"] == "step_done" and not event["skipped"]]
            assert skipped
            assert done


def unpack_store(machine: Machine) -> None:
    """Put a store where Docker has it."""
    directory = machine.path("/var/lib/unpacked")
    directory.mkdir()
    unpack_archive(DOCKER_DATA / "docker-20.10.24-overlay2.tar.zst", directory)
    (directory / "root").rename(machine.path("/var/lib/docker"))


def _last_attempt(events: list[Json]) -> list[Json]:
    begins = [number for number, event in enumerate(events) if event["type"] == "run_started"]
    return events[begins[-1] :]
