"""The command line, run on stores of one's own, and a service of one's own."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import structlog

from tests.stores.docker.builder import StoreBuilder
from transship.cli.main import main
from transship.formats import digest as digests
from transship.formats import tar_split

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transship.formats.digest import Digest

SOON = 30
"""Seconds after which a test has failed."""
SOCKET_VARIABLE = "TRANSSHIP_SERVICE_SOCKET"
NO_SERVICE = {SOCKET_VARIABLE: "/nonexistent/transship.sock"}
"""The environment in which a service that runs on the machine is nobody's business; a test's own service overrides it."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        """Standard output as JSON, an object a line; nothing else may be in it."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def report(self) -> dict[str, Any]:
        """The last object."""
        return self.documents[-1]

    @property
    def all(self) -> str:
        return self.out + self.err


def command(*arguments: object) -> Ended:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _environment(arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse's way to end
            code = int(ended.code or 0)
        finally:
            structlog.reset_defaults()  # the command sets up logs for the whole process
    return Ended(int(code), out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _environment(arguments: tuple[object, ...]) -> Iterator[None]:
    added = {} if "config" in arguments else {name: value for name, value in NO_SERVICE.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def environment() -> dict[str, str]:
    return NO_SERVICE | os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start the command as a process of its own, its output connected."""
    all_options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment()} | options
    return subprocess.Popen([sys.executable, "-m", "transship", *map(str, arguments)], text=True, **all_options)


class Service:
    """``transship serve`` with a socket on a short path and its journal in ``state``; not started yet. A context manager."""

    def __init__(self, state: Path, *settings: str) -> None:
        """``settings`` are lines of the configuration's section for the service."""
        self._directory = Path(tempfile.mkdtemp(prefix="transship-"))
        self.state = state
        self.socket = self._directory / "sock"
        self.log = self._directory / "log"
        self._config = self._directory / "config.toml"
        self._config.write_text("\n".join(["[service]", f'textfile = "{self._directory}/figures.prom"', *settings]) + "\n")
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, self.log.open("a") as log:
            address = self._directory / "notify"
            address.unlink(missing_ok=True)
            manager.bind(str(address))
            manager.settimeout(0.5)  # then see whether it lives
            places = ["--socket", self.socket, "--state-dir", self.state, "--config", self._config]
            self._process = start("serve", *places, stderr=log, env=environment() | {"NOTIFY_SOCKET": str(address)})
            ready, deadline = False, time.monotonic() + SOON
            while not ready:
                assert self._process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                with contextlib.suppress(TimeoutError):
                    ready = manager.recv(4096).startswith(b"READY=1")

    def kill(self) -> None:
        """End it at once, as a lack of memory does."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def stop(self) -> int:
        """End it as a service manager does; return its exit code."""
        assert self._process is not None
        self._process.terminate()
        self._process.communicate(timeout=SOON)
        code, self._process = self._process.returncode, None
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._directory)


@contextlib.contextmanager
def held(layout: Path) -> Iterator[None]:
    """Keep waiting whoever moves something into a layout that is not there yet, from its first blob on.

    It looks as if another process were just making the layout.
    """
    layout.mkdir()
    with (layout / "oci-layout").open("w") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        yield


def add_endless_layer(builder: StoreBuilder) -> Digest:
    """Add a layer that takes longer to read than any test lasts, and is not what it says in the end; return its chain ID."""
    member = tarfile.TarInfo("endless")
    member.size = 1 << 40
    entries = [
        tar_split.Entry(tar_split.SEGMENT, 0, payload=member.tobuf(tarfile.GNU_FORMAT)),
        tar_split.Entry(tar_split.FILE, 1, name="endless", size=member.size, payload=bytes(8)),
        tar_split.Entry(tar_split.SEGMENT, 2, payload=bytes(1024)),
    ]
    chain_id = builder.enter_layer(digests.of(b"endless"), entries, size=member.size)
    builder.files(chain_id).mkdir(parents=True)
    (builder.files(chain_id) / "endless").touch()
    os.truncate(builder.files(chain_id) / "endless", member.size)
    return chain_id


def moving(journey: Journey) -> dict[str, Any]:
    """Wait until the service reads an endless layer; return how things stand then."""
    while True:
        document = command("status", "--json", "--state-dir", journey.state).report
        progress = document["service"]["current"]["progress"]
        if progress is not None and progress["rate"] > 0 and any(step["bytes_done"] for step in progress["running"]):
            return document


@dataclass
class Journey:
    """From a source to an OCI layout, with a state directory; nothing but the source need be there."""

    source: Path
    layout: Path
    state: Path

    @property
    def ends(self) -> list[str]:
        return ["--source", str(self.source), "--target", f"oci:{self.layout}", "--state-dir", str(self.state)]

    def run(self, name: str, *arguments: object) -> Ended:
        """Run ``plan``, ``migrate`` or ``verify``."""
        return command(name, *self.ends, *arguments)

    def migrate(self, *arguments: object) -> Ended:
        return self.run("migrate", "--json", *arguments)

    def rollback(self, *arguments: object) -> Ended:
        return command("rollback", "--json", "--state-dir", self.state, *arguments)

    def names(self) -> dict[str, str]:
        """Names in the layout, and the digests that they stand for."""
        if not (self.layout / "index.json").exists():
            return {}
        index = json.loads((self.layout / "index.json").read_bytes())
        return {each["annotations"]["io.containerd.image.name"]: each["digest"] for each in index["manifests"]}

    def blob(self, digest: str) -> Path:
        return self.layout / "blobs/sha256" / digest.removeprefix("sha256:")

    def document(self, digest: str) -> Any:
        return json.loads(self.blob(digest).read_bytes())

    def image_ids(self) -> dict[str, str]:
        """Names in the layout, and the image IDs that they lead to."""
        return {name: self.document(digest)["config"]["digest"] for name, digest in self.names().items()}

    def ensure_consistent(self, *, unfinished: bool = False) -> None:
        """Nothing on its way in was left behind, and every name leads to blobs that are there.

        An ``unfinished`` run may leave the list of what it has stored.
        """
        if not self.layout.exists():
            return
        found = {path.name for path in self.layout.iterdir()}
        lists = {name for name in found if unfinished and name.startswith(".stored-by-")}
        assert found - lists <= {"oci-layout", "index.json", "blobs"}
        for digest in self.names().values():
            manifest = self.document(digest)
            for descriptor in [manifest["config"], *manifest["layers"]]:
                assert self.blob(descriptor["digest"]).stat().st_size == descriptor["size"]


HUB = "docker.io/library"


class Sample(Journey):
    """A store with an image of two layers, the image that it was built from, one of its own, and one without a name."""

    def __init__(self, place: Path, driver: str = "overlay2") -> None:
        super().__init__(place / "docker", place / "layout", place / "state")
        self.builder = builder = StoreBuilder(self.source, driver)
        self.base = builder.add_layer({"bin/": None, "bin/sh": b"shell" * 1000})
        self.top = builder.add_layer({"app": b"application"}, self.base)
        self.other_layer = builder.add_layer({"x": b"other"})
        self.low = builder.add_image(self.base, "low:1")
        self.high = builder.add_image(self.top, "high:1", "high:latest", parent=self.low)
        self.other = builder.add_image(self.other_layer, "other:1")
        self.nameless = builder.add_image(self.other_layer, config={"comment": "no name"})

    @property
    def expected(self) -> dict[str, str]:
        """The names that all of it has, without the one of the nameless image, and the image IDs behind them."""
        return {
            f"{HUB}/low:1": self.low,
            f"{HUB}/high:1": self.high,
            f"{HUB}/high:latest": self.high,
            f"{HUB}/other:1": self.other,
        }


def snapshot(directory: Path) -> dict[str, bytes | str | None]:
    """Everything below a directory: path to content, link target, or None for a directory."""
    return dict(_walk(directory, "")) if directory.exists() else {}


def _walk(directory: Path, name: str) -> Iterator[tuple[str, bytes | str | None]]:
    for path in sorted(directory.iterdir()):
        below = f"{name}/{path.name}"
        if path.is_symlink():
            yield below, str(path.readlink())
        elif path.is_dir():
            yield below, None
            yield from _walk(path, below)
        else:
            yield below, path.read_bytes() if path.is_file() else "special"
