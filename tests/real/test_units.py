"""The units on a real systemd: valid, hardened, in the right order, and with all the rights that a migration needs."""

from __future__ import annotations

import os
import shlex
import stat
from typing import TYPE_CHECKING

import pytest

from tests.conftest import DOCKER_DATA, unpack_archive
from tests.real.facts import chain_of
from tests.real.trees import differences, snapshot_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.real.command import Ended
    from tests.real.conftest import Containerd
    from tests.real.facts import Facts
    from tests.real.machine import Machine

pytestmark = pytest.mark.real

UNITS = ("transship.socket", "transship.service", "transship-boot.service")
_TRIAL = "/etc/systemd/system/trial.service"
_OUTPUT = "/var/lib/trial.json"


def hardened(machine: Machine, *command: str) -> Ended:
    """Run a command in a copy of transship.service, with all that it may and may not do."""
    unit = machine.path("/usr/local/lib/systemd/system/transship.service").read_text()
    machine.write(_TRIAL, unit)
    other = ["Type=oneshot", "Restart=no", "WatchdogSec=0", f"StandardOutput=truncate:{_OUTPUT}", "StandardError=journal"]
    machine.write(
        f"{_TRIAL}.d/command.conf", "\n".join(["[Service]", *other, "ExecStart=", f"ExecStart={shlex.join(command)}", ""])
    )
    machine.run("systemctl", "daemon-reload").expect()
    started = machine.run("systemctl", "start", "trial.service", seconds=300)
    code = int(machine.show("trial.service", "ExecMainStatus"))
    assert (code == 0) is (started.code == 0), started.stderr
    return type(started)(code, machine.path(_OUTPUT).read_text(), machine.journal("trial.service"))


def test_units_are_valid(make_machine: Callable[[], Machine]) -> None:
    machine = make_machine()
    machine.enable(*UNITS, "containerd.service", "docker.service", "docker.socket")
    machine.boot()
    verified = machine.run("systemd-analyze", "verify", "--recursive-errors=yes", *UNITS).expect()
    assert verified.stderr == ""
    for unit in ("transship.service", "transship-boot.service"):
        machine.run("systemd-analyze", "security", "--threshold=30", unit).expect()
    machine.run("man", "--pager=cat", "transship").expect()


def test_group_directories_and_socket(make_machine: Callable[[], Machine]) -> None:
    machine = make_machine()
    machine.enable("transship.socket")
    machine.boot()
    described = machine.run(
        "stat", "--format=%n %A %U %G", "/run/transship", "/run/transship/transship.sock", "/var/lib/transship"
    )
    assert described.expect().stdout.splitlines() == [
        "/run/transship drwxr-xr-x root root",
        "/run/transship/transship.sock srw-rw---- root transship",
        "/var/lib/transship drwx------ root root",
    ]
    assert machine.run("systemctl", "--failed", "--no-legend").expect().stdout == ""
    machine.run("systemctl", "stop", "transship.socket").expect()
    assert machine.run("test", "-e", "/run/transship/transship.sock").code == 1


def test_a_migration_with_no_more_rights_than_the_service_has(
    make_machine: Callable[[], Machine],
    start_containerd: Callable[[Path], Containerd],
    facts: Callable[[str], Facts],
) -> None:
    machine = make_machine()
    unpack(machine)
    machine.enable("containerd.service")
    machine.boot()
    ended = hardened(machine, "transship", "migrate", "--direct", "--json").expect()
    assert ended.last["complete"]
    checked = hardened(machine, "transship", "verify", "--json").expect()
    assert checked.last["differences"] == []
    machine.power_off()

    source, target = machine.path("/var/lib/docker"), machine.path("/var/lib/containerd")
    here, there = ({(s.st_dev, s.st_ino) for s in statuses(root) if stat.S_ISREG(s.st_mode)} for root in (source, target))
    assert here & there, "files of 64 KiB and more are hard links"
    kinds = {stat.S_IFMT(status.st_mode) for status in statuses(target) if status.st_rdev or stat.S_ISFIFO(status.st_mode)}
    assert kinds == {stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO}
    assert any(status.st_mode & stat.S_ISUID for status in statuses(target))

    containerd = start_containerd(target)
    known = facts("overlay2")
    used = {layer for image in known["images"].values() for layer in chain_of(known, image["chain"])}
    for chain_id, tree in known["chain_trees"].items():
        if chain_id in used:
            assert differences(snapshot_tree(containerd, "moby", "overlayfs", chain_id), tree) == {}
    containerd.stop()


def test_what_the_service_may_do(make_machine: Callable[[], Machine]) -> None:
    machine = make_machine()
    machine.boot()
    machine.run("mknod", "/var/lib/kmsg", "c", "1", "11").expect()
    for allowed in (
        ("mknod", "/var/lib/char", "c", "5", "1"),
        ("mknod", "/var/lib/block", "b", "259", "7"),
        ("head", "--bytes=1", "/dev/null"),
        ("ls", "/root/.."),
        ("touch", "/var/tmp/mine"),
    ):
        hardened(machine, *allowed).expect()
    for forbidden in (
        ("head", "--bytes=1", "/var/lib/kmsg"),  # a device that somebody has made
        ("mount", "-t", "tmpfs", "tmpfs", "/mnt"),
        ("unshare", "--mount", "true"),
        ("touch", "/usr/mine"),
        ("touch", "/etc/mine"),
        ("sh", "-c", "echo 1 >/proc/sys/kernel/panic"),
        ("python3", "-c", "import socket; socket.socket(socket.AF_INET)"),
    ):
        assert hardened(machine, *forbidden).code != 0, forbidden


DOCKER = ("containerd.service", "docker.service", "docker.socket", "transship.socket", "transship-boot.service")
_EXTENDS = """\
#!/usr/bin/env python3
import os, socket, time
for _ in range(8):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"EXTEND_TIMEOUT_USEC=1500000", os.environ["NOTIFY_SOCKET"])
    time.sleep(0.4)
"""


def replace_boot(machine: Machine, command: str, *settings: str) -> None:
    """Arm the host, and have the boot unit run something else."""
    machine.write("/var/lib/transship/armed", "")
    directory = "/etc/systemd/system/transship-boot.service.d"
    machine.write(f"{directory}/command.conf", "\n".join(["[Service]", "ExecStart=", f"ExecStart={command}", *settings, ""]))


@pytest.mark.parametrize(("code", "result"), [(0, "success"), (1, "exit-code")])
def test_docker_waits_for_the_boot_unit_and_for_nothing_else(
    make_machine: Callable[[], Machine], code: int, result: str
) -> None:
    machine = make_machine()
    machine.enable(*DOCKER)
    os.mkfifo(machine.path("/var/lib/gate"))
    replace_boot(machine, "/bin/sh -c 'read code </var/lib/gate; exit $code'")
    machine.boot(wait=False)
    machine.wait_for("systemctl", "is-active", "docker.socket")
    with machine.start(
        "curl", "--silent", "--show-error", "--unix-socket", "/run/docker.sock", "http://localhost/_ping"
    ) as asking:
        machine.wait_for("sh", "-c", "systemctl list-jobs | grep -q 'transship-boot.service *start *running'")
        machine.wait_for("sh", "-c", "systemctl list-jobs | grep -q 'docker.service *start *waiting'")
        with machine.path("/var/lib/gate").open("w") as gate:
            gate.write(f"{code}\n")
        assert asking.communicate(timeout=60)[0] == "OK"
    assert machine.show("transship-boot.service", "Result") == result
    assert machine.show("docker.service", "ActiveState") == "active"
    assert "ordering cycle" not in machine.console()


def test_without_being_armed_nothing_is_started(make_machine: Callable[[], Machine]) -> None:
    machine = make_machine()
    machine.enable(*DOCKER)
    machine.boot()
    assert machine.show("transship-boot.service", "ConditionResult") == "no"
    assert machine.show("docker.service", "ActiveState") == "active"
    assert machine.show("transship.service", "ExecMainPID") == "0"


def test_the_boot_unit_has_its_time_and_more_if_it_asks(make_machine: Callable[[], Machine]) -> None:
    machine = make_machine()
    machine.enable(*DOCKER)
    replace_boot(machine, "/bin/sleep infinity", "TimeoutStartSec=1")
    machine.boot()
    assert machine.show("transship-boot.service", "Result") == "timeout"
    assert machine.show("docker.service", "ActiveState") == "active"
    machine.power_off()

    machine.write("/usr/local/bin/extends", _EXTENDS, 0o755)
    replace_boot(machine, "/usr/local/bin/extends", "TimeoutStartSec=1")
    machine.boot()
    assert machine.show("transship-boot.service", "Result") == "success"


def unpack(machine: Machine) -> None:
    """Put a store where Docker has it."""
    directory = machine.path("/var/lib/unpacked")
    directory.mkdir()
    unpack_archive(DOCKER_DATA / "docker-20.10.24-overlay2.tar.zst", directory)
    (directory / "root").rename(machine.path("/var/lib/docker"))


def statuses(root: Path) -> Iterator[os.stat_result]:
    """Yield the status of everything below ``root``."""
    for directory, directories, files in os.walk(root):
        for name in directories + files:
            yield os.lstat(f"{directory}/{name}")
