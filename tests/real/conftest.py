"""Real daemons with private roots, stopped at the end."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real.disks import Disk
from tests.real.install import make
from tests.real.machine import PROGRAMS, Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CONFIG = """\
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]

[grpc]
  address = "{socket}"
"""


class Containerd:
    """A containerd of our own below ``directory``; ``root`` is where it keeps everything."""

    def __init__(self, directory: Path, root: Path | None = None) -> None:
        self.directory = directory
        self.root = root or directory / "root"
        self.socket = directory / "containerd.sock"
        self._log = directory / "containerd.log"
        self._config = directory / "config.toml"
        self._config.write_text(_CONFIG.format(root=self.root, state=directory / "state", socket=self.socket))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 30) -> None:
        """Start it and return when it says that it is ready, as it would say to systemd."""
        with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(f"{directory}/notify")
            ready.settimeout(0.2)
            environment = {**os.environ, "NOTIFY_SOCKET": f"{directory}/notify"}
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    ["containerd", "--config", str(self._config)], stdout=log, stderr=log, env=environment
                )
            end = time.monotonic() + seconds
            while self._process.poll() is None and time.monotonic() < end:
                with suppress(TimeoutError):
                    if b"READY=1" in ready.recv(4096):
                        return
        self.kill()
        raise RuntimeError(f"containerd did not start: {self._log.read_text()[-4000:]}")

    def kill(self) -> None:
        """Kill it, as ``kill -9`` does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Have it end in good order."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def ctr(self, *arguments: str, namespace: str = "moby") -> str:
        """Run ``ctr`` on it and return what it prints."""
        return self.ctr_bytes(*arguments, namespace=namespace).decode()

    def ctr_bytes(self, *arguments: str, namespace: str = "moby") -> bytes:
        """The same for what is not text."""
        command = ["ctr", "--address", str(self.socket), "--namespace", namespace, *arguments]
        return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait(30)
        self._process = None


class Dockerd:
    """A dockerd of our own below ``directory``, without networks; ``root`` is its data root."""

    def __init__(self, directory: Path, driver: str, root: Path | None = None) -> None:
        self.root = root or directory / "root"
        self.driver = driver
        self._directory = directory
        self._socket = directory / "s"
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 60) -> None:
        """Start it and return when it answers."""
        own = ["--data-root", self.root, "--exec-root", self._directory / "exec", "--pidfile", self._directory / "pid"]
        options = ["--storage-driver", self.driver, "--bridge=none", "--iptables=false", "--ip6tables=false"]
        command = ["dockerd", *map(str, own), "--host", f"unix://{self._socket}", *options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + seconds
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"dockerd did not start: {self._log.read_text()[-4000:]}")

    def stop(self) -> None:
        """Have it end in good order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it while the block lasts."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    def docker(self, *arguments: str | Path, stdin: bytes = b"") -> str:
        """Run ``docker`` on it, with the classic builder, and return what it prints."""
        command = ["docker", "--host", f"unix://{self._socket}", *map(str, arguments)]
        environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
        ended = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=300, env=environment)
        if ended.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {ended.stderr.decode()}")
        return ended.stdout.decode().strip()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            try:
                connection.connect(str(self._socket))
                connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in connection.recv(100)
            except OSError:
                return False


def need(request: pytest.FixtureRequest, *programs: str) -> None:
    """Fail unless root and all ``programs`` are there; skip where nobody asked for tests with real daemons."""
    missing = [program for program in programs if shutil.which(program) is None]
    problem = f"not installed: {', '.join(missing)}" if missing else "not root" if os.geteuid() != 0 else None
    if problem is None:
        return
    if os.environ.get("CI") or "real" in request.config.option.markexpr:
        pytest.fail(f"tests with real daemons: {problem}")
    pytest.skip(problem)


@pytest.fixture
def chance() -> random.Random:
    """The same for the same seed, which is shown if a test fails."""
    seed = secrets.randbelow(1 << 32)
    print(f"seed {seed}")  # noqa: T201
    return random.Random(seed)


@pytest.fixture(scope="session")
def start_containerd(request: pytest.FixtureRequest) -> Iterator[Callable[..., Containerd]]:
    """Starts one more containerd at each call, with its ``root`` where one likes."""
    need(request, "containerd", "ctr")
    started: list[Containerd] = []

    def start(root: Path | None = None) -> Containerd:
        # Not pytest's directory for temporary files: a socket's path has at most 107 bytes.
        daemon = Containerd(Path(tempfile.mkdtemp(prefix="transship-containerd-")), root)
        started.append(daemon)
        daemon.start()
        return daemon

    yield start
    for daemon in started:
        daemon.stop()
        shutil.rmtree(daemon.directory)


@pytest.fixture(scope="session")
def containerd(start_containerd: Callable[..., Containerd]) -> Containerd:
    """The containerd that tests share; who kills it starts it again."""
    return start_containerd()


@pytest.fixture(scope="session")
def make_dockerd(request: pytest.FixtureRequest) -> Iterator[Callable[..., Dockerd]]:
    """Makes one more dockerd with the driver named at each call, with its ``root`` where one likes; start it."""
    need(request, "dockerd", "docker", "busybox")
    made: list[tuple[Path, Dockerd]] = []

    def make(driver: str, root: Path | None = None) -> Dockerd:
        directory = Path(tempfile.mkdtemp(prefix="transship-dockerd-"))
        made.append((directory, Dockerd(directory, driver, root)))
        return made[-1][1]

    yield make
    for directory, daemon in made:
        daemon.stop()
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What ``make install`` puts below DESTDIR: for reading only."""
    need(request, "make", *PROGRAMS)
    with Disk(tmp_path_factory.mktemp("installed"), "ext4", 1 << 30) as disk:
        stage = disk.path / "stage"
        make("install", stage, tmp_path_factory.mktemp("project"))
        yield stage


@pytest.fixture
def make_machine(installed: Path) -> Iterator[Callable[[], Machine]]:
    """Makes one more host at each call, switched off: see machine.py."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Machine(installed))
