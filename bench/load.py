"""Measures what many curious clients cost: the service while it migrates, alone and asked by 200 pollers and 50 event streams.

    python bench/load.py [--store DIRECTORY] [--rounds N]

Rounds alternate, with cold caches; prints the ratio of the medians, and how long answers took. Without ``--store`` the store of
make_store.py is built first. Needs root, and dockerd if the store is to be built.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import make_store

if TYPE_CHECKING:
    from collections.abc import Iterator

_IDLE_SECONDS = 10
_PATIENCE = 3600


class Service:
    """A service of our own below ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "socket"
        command = [
            sys.executable,
            "-m",
            "transship",
            "serve",
            "--socket",
            str(self.socket),
            "--state-dir",
            str(directory / "state"),
        ]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://transship", timeout=_PATIENCE
        )
        while not self.socket.exists():
            time.sleep(0.05)

    def migrate(self, store: Path, target: Path) -> str:
        """Begin to migrate; return the run's ID."""
        answer = self._http.post("/v1/runs", json={"source": str(store / "root"), "target": f"oci:{target}"})
        return str(answer.raise_for_status().json()["id"])

    def wait(self, run: str) -> float:
        """Return when ``run`` has ended, with the seconds that it took."""
        with self._http.stream("GET", f"/v1/runs/{run}/events") as events:
            for _ in events.iter_lines():
                pass
        found = self._http.get(f"/v1/runs/{run}").json()["run"]
        if found["state"] != "done":
            raise RuntimeError(f"run {run} is {found['state']}")
        return float(found["ended"] - found["started"])

    def memory(self) -> int:
        """Return the most memory that the process has had, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def stop(self) -> None:
        """End it."""
        self._http.close()
        self.process.terminate()
        self.process.wait()


@contextmanager
def clients(service: Service, run: str | None) -> Iterator[dict[str, Any]]:
    """Have clients ask while the block lasts; what they saw is in the object afterwards."""
    seen: dict[str, Any] = {}
    command = [sys.executable, str(Path(__file__).with_name("clients.py")), str(service.socket), *([run] if run else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield seen
        seen |= json.loads(process.communicate()[0])


def migrated(store: Path, scratch: Path, *, asked: bool) -> tuple[float, dict[str, Any], int]:
    """Migrate once, alone or asked; return seconds, what clients saw, and the service's peak memory in bytes."""
    work = Path(tempfile.mkdtemp(dir=scratch))
    service = Service(work)
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        run = service.migrate(store, work / "layout")
        if not asked:
            return service.wait(run), {}, service.memory()
        with clients(service, run) as seen:
            seconds = service.wait(run)
        return seconds, seen, service.memory()
    finally:
        service.stop()
        shutil.rmtree(work)


def idle(scratch: Path) -> dict[str, Any]:
    """Return what clients see of a service that does nothing else."""
    service = Service(Path(tempfile.mkdtemp(dir=scratch)))
    try:
        with clients(service, None) as seen:
            time.sleep(_IDLE_SECONDS)
        return seen
    finally:
        service.stop()


def main() -> int:
    """Measure and print; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="directory that make_store.py has filled")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    out = sys.stdout.write
    with tempfile.TemporaryDirectory(prefix="transship-bench-", dir="/var/tmp") as scratch:
        store = options.store or Path(scratch, "store")
        if options.store is None:
            subprocess.run([sys.executable, str(Path(make_store.__file__)), str(store)], check=True)
        alone: list[float] = []
        asked: list[float] = []
        for number in range(options.rounds):
            seconds, _, memory_alone = migrated(store.resolve(), Path(scratch), asked=False)
            alone.append(seconds)
            seconds, seen, memory = migrated(store.resolve(), Path(scratch), asked=True)
            asked.append(seconds)
            sys.stderr.write(f"round {number + 1}: alone {alone[-1]:.1f} s, asked {asked[-1]:.1f} s, {seen}\n")
        ratio = statistics.median(alone) / statistics.median(asked)
        out(f"A migration that is asked has {ratio:.0%} of the speed of one alone.\n")
        out(f"Peak memory of the service: alone {memory_alone / 1e6:.0f} MB, asked {memory / 1e6:.0f} MB.\n")
        for name, found in (("while migrating", seen), ("idle", idle(Path(scratch)))):
            p50, p99, longest = (f"{found[key] * 1000:.1f} ms" for key in ("p50", "p99", "max"))
            out(f"Answers {name}: {found['answers']}, errors {found['errors']}; {p50} median, {p99} p99, {longest} longest.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
