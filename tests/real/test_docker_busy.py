"""A real dockerd holds its databases as long as it runs."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from transship.errors import SourceBusy
from transship.stores.busy import ensure_not_in_use
from transship.stores.docker.store import read_store
from transship.stores.root import locate

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.real


@contextmanager
def dockerd(directory: Path) -> Iterator[Path]:
    """Run a private dockerd; yield its data root once it answers. Paths of sockets must be short."""
    root, socket_path = directory / "root", directory / "s"
    command = ["dockerd", "--data-root", str(root), "--exec-root", str(directory / "exec"), "--pidfile", str(directory / "pid")]
    options = [
        "--host",
        f"unix://{socket_path}",
        "--storage-driver",
        "vfs",
        "--bridge",
        "none",
        "--iptables=false",
        "--ip6tables=false",
    ]
    with (directory / "log").open("wb") as log, subprocess.Popen([*command, *options], stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + 60
            while not answers(socket_path):
                assert process.poll() is None, (directory / "log").read_text()
                assert time.monotonic() < deadline, (directory / "log").read_text()
            yield root
        finally:
            process.terminate()
            process.wait(60)


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        try:
            connection.connect(str(path))
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(100)
        except OSError:
            return False


def test_a_running_daemon_is_found_and_a_stopped_one_is_not() -> None:
    with tempfile.TemporaryDirectory(prefix="dockerd-") as name:
        with dockerd(Path(name)) as root, pytest.raises(SourceBusy, match=r"open: process [0-9]+ \(dockerd "):
            ensure_not_in_use(root)
        ensure_not_in_use(root)
        assert locate(root, Path(name) / "none.json").driver == "vfs"
        store = read_store(root, "vfs")
        assert (store.driver, store.images, store.problems) == ("vfs", {}, ())
