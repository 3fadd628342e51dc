"""A throw-away host with a systemd of its own, on which transship is installed as ``make install`` installs it.

It is this machine once more: its root is an overlay of ours, so that all programs that are here are there, booted by
systemd-nspawn in about a second. What it writes stays on a disk of its own (ext4 on a loop device, on which containerd's
overlayfs works and of which the power can be cut) and survives until the machine is gone::

    def test_something(make_machine: Callable[[], Machine]) -> None:
        machine = make_machine()                             # off; conftest.py removes it after the test
        unpack_archive(archive, machine.path("/var/lib/docker"))   # any file of it, seen from here, on or off
        machine.write("/etc/transship/transship.toml", "…")
        machine.write("/etc/systemd/system/docker.service", UNIT)  # /etc/systemd/system is empty at first
        machine.enable("containerd.service", "transship.socket")
        machine.boot()                                       # until everything that belongs to the boot is up, or has failed
        machine.run("transship", "migrate", "--json").expect(0)    # code, stdout, stderr: see command.py
        with machine.start("transship", "logs") as follower: ...   # a Popen; its stdin, stdout and stderr are pipes
        machine.wait_for("systemctl", "is-active", "docker.service")     # until that command ends with 0
        machine.show("transship.service", "NRestarts")             # a property of a unit
        print(machine.journal("transship.service"))          # of all boots
        machine.signal("transship.service", "SIGSTOP")       # to its main process
        machine.cut_power()                                  # everything dies, what was not synced is lost
        machine.boot(wait=False)                             # over the same disk; until commands can be run
        machine.power_off()                                  # in good order

Inside run only systemd's own units and those that a test enables: transship's, Debian's (containerd.service, docker.service …),
or its own. /var/lib, /var/log, /etc/docker, /etc/containerd and /etc/transship are empty, but for what ``make install`` has put
there; there is no network. As on a host that boots, /run and /tmp are new at each boot (``path`` does not show these).

What runs inside is in a cgroup of its own, and dies with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.real.command import Ended
from tests.real.disks import Disk

if TYPE_CHECKING:
    from types import TracebackType

PROGRAMS = ("systemd-nspawn", "systemctl", "nsenter", "mount", "mkfs.ext4", "containerd")
_SIZE = 8 << 30
"""Bytes of the disk, of which only those take room that are written."""
_EMPTY = ("etc/systemd/system", "etc/docker", "etc/containerd", "var/log", "usr/local/lib/systemd")
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
_POLL = 0.02


class Machine:
    """A host, off at first. A context manager: it is gone at the end.

    ``installed`` is what ``make install DESTDIR=…`` made, on a file system that is not ours: overlayfs takes no layer twice.
    """

    def __init__(self, installed: Path) -> None:
        self.name = f"transship-{uuid.uuid4().hex[:12]}"
        self._directory = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        self._installed = installed
        self._root = self._directory / "root"
        self._console = self._directory / "console.log"
        self._disk = Disk(self._directory, "ext4", _SIZE)
        self._cgroups = [cgroup / self.name for cgroup in _own_cgroups()]
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Machine:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self._directory)
            self._root.mkdir()
            self._disk.mount()
            stack.callback(self._disk.unmount)
            for name in ("upper", "work", "lib"):
                (self._disk.path / name).mkdir()
            self._mount()
            stack.callback(self._unmount)
            self._prepare()
            self._undo = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._undo:
            self.kill()

    def path(self, inside: str) -> Path:
        """Return where a file of it, an absolute path without links on the way, is seen from here."""
        return self._root / inside.removeprefix("/")

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Write a file, and the directories it is in."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def enable(self, *units: str) -> None:
        """Have ``units`` started at each boot, as their [Install] sections say."""
        subprocess.run(["systemctl", "--quiet", f"--root={self._root}", "enable", *units], check=True)

    def boot(self, *, wait: bool = True, seconds: float = 120) -> None:
        """Switch it on. Return when the boot has come to its end; without ``wait``, when commands can be run."""
        assert self._nspawn is None, "it is on"
        _sync(self._disk.path)
        end = time.monotonic() + seconds
        for cgroup in self._cgroups:
            cgroup.mkdir()
        with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.bind(f"{directory}/notify")
            notices.settimeout(0.2)
            self._nspawn = nspawn = self._start_nspawn(f"{directory}/notify")
            said = ""
            while not self._is_up(said, wait=wait):
                if nspawn.poll() is not None or time.monotonic() > end:
                    self.kill()
                    raise RuntimeError(f"{self.name} did not boot: {self.console()[-4000:]}")
                with suppress(TimeoutError):
                    said = notices.recv(4096).decode()

    def run(self, *command: str, stdin: str = "", seconds: float = 120) -> Ended:
        """Run a command in it, as root, and return how it ended."""
        ended = subprocess.run(
            self._inside(command), input=stdin, capture_output=True, text=True, check=False, timeout=seconds, env=_ENVIRONMENT
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command in it; ``options`` are those of Popen."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(self._inside(command), text=True, env=_ENVIRONMENT, **(pipes | options))

    def wait_for(self, *command: str, seconds: float = 60) -> Ended:
        """Run a command again and again until it ends with 0."""
        end = time.monotonic() + seconds
        while (ended := self.run(*command)).code != 0:
            assert time.monotonic() < end, f"{command}: {ended}\n{self.journal()[-8000:]}"
            time.sleep(_POLL)
        return ended

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit: see systemctl show."""
        return self.run("systemctl", "show", f"--property={name}", "--value", unit).expect().stdout.strip()

    def signal(self, unit: str, name: str) -> None:
        """Send a signal to the main process of a unit."""
        self.run("systemctl", "kill", "--kill-whom=main", f"--signal={name}", unit).expect()

    def journal(self, *units: str) -> str:
        """Return what is in the journal, of ``units`` or of all."""
        chosen = [f"--unit={unit}" for unit in units]
        command = ["journalctl", "--no-pager", "--quiet", "--output=short-precise", *chosen]
        if self._nspawn is not None:
            return self.run(*command).stdout
        directory = f"--directory={self.path('/var/log/journal')}"
        return subprocess.run([*command, directory], capture_output=True, text=True, check=False).stdout

    def console(self) -> str:
        """Return what systemd said on the console, at all boots."""
        return self._console.read_text(errors="replace")

    def kill(self) -> None:
        """Everything that runs in it is gone, at once; nothing else happens if it is off."""
        if self._nspawn is None:
            return
        for cgroup in self._cgroups:
            _kill_all(cgroup)
        self._nspawn.wait(30)
        self._switched_off()

    def cut_power(self) -> None:
        """As ``kill``, and what was not on the disk yet is lost."""
        self._disk.cut_power()
        self.kill()
        self._unmount()
        self._disk.unmount()
        self._disk.mount()
        self._mount()

    def power_off(self, seconds: float = 120) -> None:
        """Shut it down in good order."""
        assert self._nspawn is not None, "it is off"
        self.run("systemctl", "poweroff", "--no-block").expect()
        self._nspawn.wait(seconds)
        self._switched_off()

    def _mount(self) -> None:
        upper, work = self._disk.path / "upper", self._disk.path / "work"
        overlay = f"lowerdir={self._installed}:/,upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", overlay, self._root], check=True)
        # containerd's overlayfs cannot write to an overlay: what it needs is on the disk itself, and Docker's files beside it.
        subprocess.run(["mount", "--bind", self._disk.path / "lib", self.path("/var/lib")], check=True)

    def _unmount(self) -> None:
        subprocess.run(["umount", "--recursive", self._root], check=True)

    def _prepare(self) -> None:
        for name in _EMPTY:
            path = self._root / name
            if path.exists():
                shutil.rmtree(path)
            path.mkdir(parents=True)
        shutil.rmtree(self.path("/etc/transship"))
        for name in ("etc", "usr/local/lib"):  # what make install has put where nothing else is to be
            source = self._installed / name / {"etc": "transship", "usr/local/lib": "systemd"}[name]
            shutil.copytree(source, self._root / name / source.name, dirs_exist_ok=True)
        self.path("/etc/machine-id").unlink(missing_ok=True)
        self.write("/etc/machine-id", f"{uuid.uuid4().hex}\n")
        self.write("/etc/fstab", "")
        self.path("/var/log/journal").mkdir()

    def _start_nspawn(self, notify: str) -> subprocess.Popen[bytes]:
        # It enters its cgroups before it starts anything.
        enter = [f"echo $$ >{cgroup}/cgroup.procs" for cgroup in self._cgroups]
        options = ["--boot", "--quiet", f"--directory={self._root}", f"--machine={self.name}", "--notify-ready=yes"]
        apart = [
            "--register=no",
            "--keep-unit",
            "--private-network",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
        ]
        as_on_a_host = ["--capability=all", "--system-call-filter=bpf @keyring"]
        script = "\n".join(["set -e", *enter, 'exec systemd-nspawn "$@"'])
        with self._console.open("ab") as console:
            return subprocess.Popen(
                ["sh", "-c", script, "sh", *options, *apart, *as_on_a_host],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "NOTIFY_SOCKET": notify, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )

    def _is_up(self, said: str, *, wait: bool) -> bool:
        """Look at what nspawn said last (sd_notify(3)): who is process 1 in there, and when that one is ready."""
        fields = dict(line.partition("=")[::2] for line in said.splitlines())
        self._leader = int(fields.get("X_NSPAWN_LEADER_PID", self._leader))
        if "READY" in fields:
            return True
        return not wait and self._leader != 0 and self.run("test", "-S", "/run/systemd/private").code == 0

    def _inside(self, command: tuple[str, ...]) -> list[str]:
        assert self._leader, "it is off"
        return ["nsenter", f"--target={self._leader}", "--all", "--wdns=/", "--", *command]

    def _switched_off(self) -> None:
        self._nspawn, self._leader = None, 0
        for cgroup in self._cgroups:
            _remove(cgroup)


def _own_cgroups() -> list[Path]:
    """Return our cgroup, and where the host has systemd's old hierarchy too, the one in there (cgroups(7))."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for fields in mounts:
            kind, _, options = fields[fields.index("-") + 1 :]
            unified = (kind, controllers) == ("cgroup2", "")
            named = kind == "cgroup" and controllers == "name=systemd" and controllers in options.split(",")
            if unified or named:
                found.append(Path(fields[4]) / path.removeprefix("/"))
    return found


def _kill_all(cgroup: Path, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while running := _processes(cgroup):
        assert time.monotonic() < end, f"{cgroup}: still running: {running}"
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL)


def _processes(cgroup: Path) -> list[int]:
    found = []
    for path in cgroup.rglob("cgroup.procs"):
        with suppress(OSError):  # the cgroup has gone meanwhile
            found += [int(line) for line in path.read_text().split()]
    return found


def _remove(cgroup: Path) -> None:
    for directory, _, _ in os.walk(cgroup, topdown=False):
        Path(directory).rmdir()


def _sync(path: Path) -> None:
    subprocess.run(["sync", "--file-system", path], check=True)
