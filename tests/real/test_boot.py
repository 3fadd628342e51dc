"""Migrations at boot, before Docker starts, on a real systemd; and that Docker starts whatever comes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.real.host import BOOT, SERVICE, Host
from transship.api import armed
from transship.api.models import Order

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.real.machine import Machine

pytestmark = pytest.mark.real


@pytest.fixture
def make_host(make_machine: Callable[[], Machine]) -> Callable[..., Host]:
    """Makes a host that is armed, with a docker.service that starts at once; ``unit``: lines for the boot unit."""

    def make(unit: str = "", order: Order | None = None) -> Host:
        host = Host(make_machine(), "idle-exit = 0")
        host.adjust(BOOT, unit)
        host.machine.enable(BOOT)
        host.add_docker()
        armed.arm(host.machine.path("/var/lib/transship"), order or Order())
        return host

    return make


def is_armed(host: Host) -> bool:
    return host.machine.path("/var/lib/transship/armed").exists()


def docker_waits(host: Host) -> None:
    """It is to be started, and has not been."""
    jobs = host.machine.run("systemctl", "list-jobs", "--no-legend").expect().stdout
    assert ["docker.service", "start", "waiting"] in [line.split()[1:] for line in jobs.splitlines()], jobs


def docker_was_not_kept(host: Host, result: str) -> None:
    """The boot unit has failed like that; Docker runs all the same, and the next boot tries again."""
    host.wait_for_state("docker.service", "active")
    host.wait_for_state(BOOT, "failed")
    assert host.machine.show(BOOT, "Result") == result
    assert is_armed(host)
    started = int(host.machine.show("docker.service", "ExecMainStartTimestampMonotonic"))
    assert started >= int(host.machine.show(BOOT, "ExecMainExitTimestampMonotonic"))


def test_docker_finds_its_images_moved(make_machine: Callable[[], Machine]) -> None:
    host = Host(make_machine(), "idle-exit = 0")
    machine = host.machine
    machine.enable(BOOT)
    machine.boot()
    assert machine.show(BOOT, "ConditionResult") == "no"
    assert "armed" in machine.run("transship", "arm").expect().stdout
    machine.power_off()

    machine.enable("docker.service", "docker.socket")
    machine.boot(wait=False)
    host.hold()
    docker_waits(host)
    assert "migrating" in machine.run("transship", "status").expect().stdout
    assert machine.show(BOOT, "ActiveState") == "activating"
    host.release()
    machine.wait_for("docker", "version")
    assert machine.show(BOOT, "Result") == "success"
    assert not is_armed(host)
    ended, started = (
        int(machine.show(unit, f"ExecMain{name}TimestampMonotonic"))
        for unit, name in ((BOOT, "Exit"), ("docker.service", "Start"))
    )
    assert ended <= started
    assert "weird" in machine.run("docker", "images", "--format={{.Repository}}").expect().stdout
    machine.run("systemctl", "stop", "docker.socket", "docker.service").expect()
    host.check()
    machine.power_off()

    machine.boot()
    assert machine.show(BOOT, "ConditionResult") == "no"
    assert machine.show("docker.service", "ActiveState") == "active"


def test_the_boot_unit_has_time_as_long_as_the_run_advances(make_host: Callable[..., Host]) -> None:
    host = make_host("TimeoutStartSec=10")
    machine = host.machine
    machine.boot(wait=False)
    host.hold()
    host.wait_for_entry(BOOT, " of 315 steps, ")  # with this it asks for more time
    machine.wait_for("sh", "-c", f"systemctl show -P StatusText {BOOT} | grep -q '[1-9][0-9]* of 315 steps'")
    begun = int(machine.show(BOOT, "ExecMainStartTimestampMonotonic"))
    late = f"import sys, time; sys.exit(time.monotonic() < {begun} / 1e6 + 12)"
    machine.wait_for("python3", "-c", late)
    assert machine.show(BOOT, "ActiveState") == "activating"
    docker_waits(host)
    machine.signal(SERVICE, "SIGKILL")  # nor does it give up because of that
    host.release()
    host.wait_for_state("docker.service", "active")
    assert machine.show(BOOT, "Result") == "success"
    assert not is_armed(host)
    host.check(resumed=True)


def test_a_run_that_does_not_advance_is_cancelled_in_time(make_host: Callable[..., Host]) -> None:
    host = make_host("TimeoutStartSec=4\nTimeoutStopSec=2")
    host.machine.enable(SERVICE)  # so that it need not be started within this time
    host.machine.boot(wait=False)
    host.hold()
    docker_was_not_kept(host, "timeout")
    host.release()
    assert host.until_last("interrupted")["armed"]
    unfinished = host.machine.path("/var/lib/transship/unfinished.json")
    assert not unfinished.exists(), "the service goes on with it by itself"


def test_the_boot_unit_can_be_stopped(make_host: Callable[..., Host]) -> None:
    host = make_host()
    host.machine.boot(wait=False)
    host.hold()
    host.machine.run("systemctl", "stop", "--no-block", BOOT).expect()
    host.wait_for_state(BOOT, "deactivating")
    host.release()
    docker_was_not_kept(host, "exit-code")
    host.until_last("interrupted")


def test_docker_starts_without_a_target(make_host: Callable[..., Host]) -> None:
    host = make_host()
    host.machine.path("/etc/systemd/system/multi-user.target.wants/containerd.service").unlink()
    host.machine.boot()
    docker_was_not_kept(host, "exit-code")
    assert "containerd" in host.machine.journal(BOOT)


def test_docker_starts_although_something_was_not_moved(make_host: Callable[..., Host]) -> None:
    host = make_host()
    directory = host.machine.path("/var/lib/docker/image/overlay2/layerdb/sha256")
    next(directory.glob("*/tar-split.json.gz")).unlink()
    host.machine.boot()
    docker_was_not_kept(host, "exit-code")
    assert host.run()["state"] == "incomplete"
    assert "NOT MOVED" in host.machine.journal(BOOT)


def test_docker_starts_without_a_source_or_a_service(make_host: Callable[..., Host]) -> None:
    host = make_host(order=Order(source="/var/lib/nowhere"))
    machine = host.machine
    machine.boot()
    docker_was_not_kept(host, "exit-code")
    assert "/var/lib/nowhere" in machine.journal(BOOT)
    machine.power_off()

    host.adjust(SERVICE, "ExecStart=\nExecStart=/bin/false")
    machine.boot()
    docker_was_not_kept(host, "exit-code")
    machine.power_off()

    host.configure("nonsense = 1")
    machine.boot()
    docker_was_not_kept(host, "exit-code")
    assert "nonsense" in machine.journal(BOOT)


def test_after_a_power_cut_the_next_boot_goes_on(make_host: Callable[..., Host]) -> None:
    host = make_host()
    machine = host.machine
    machine.boot(wait=False)
    host.middle()
    machine.cut_power()
    assert is_armed(host)

    machine.boot(wait=False)
    host.hold()
    docker_waits(host)
    host.release()
    host.wait_for_state("docker.service", "active")
    assert machine.show(BOOT, "Result") == "success"
    assert not is_armed(host)
    host.check(resumed=True)
