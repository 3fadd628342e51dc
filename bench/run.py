"""Measures transship against what people would run instead, on one store, with cold caches, in one run.

    python bench/run.py [--store DIRECTORY] [--rounds N]

Without ``--store`` the store of make_store.py is built first. Needs root, dockerd, containerd, tar and zstd, and some 20 GB of
disk below /var/tmp. Prints a table of
medians and ratios in Markdown; absolute times mean little on shared machines, the ratios hold.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import make_store

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE = "bench:1"


@dataclass(frozen=True)
class Measurement:
    """One run of one way: wall time in seconds, and peak memory of its largest process in bytes (0: not measured)."""

    seconds: float
    memory: int = 0


class Containerd:
    """A containerd with nothing in it, below ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "containerd.sock"
        config = directory / "containerd.toml"
        config.write_text(
            f'version = 2\nroot = "{directory}/containerd"\nstate = "{directory}/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{self.socket}"\n'
        )
        with (directory / "containerd.log").open("wb") as log:
            self._process = subprocess.Popen(["containerd", "-c", str(config)], stdout=log, stderr=log)
        ctr = ["ctr", "-a", str(self.socket), "version"]
        while subprocess.run(ctr, check=False, capture_output=True).returncode:
            if self._process.poll() is not None:
                raise RuntimeError(f"containerd did not come up; see {directory}/containerd.log")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


def main() -> int:
    """Measure and print; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="directory that make_store.py has filled")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="transship-bench-", dir="/var/tmp") as scratch:
        store = options.store or Path(scratch, "store")
        if options.store is None:
            subprocess.run([sys.executable, str(Path(make_store.__file__)), str(store)], check=True)
        ways: dict[str, Callable[[Path, Path], Measurement]] = {
            "transship migrate": migrate,
            "transship migrate, into a containerd's root": into_root,
            "docker save, ctr images import": save_and_import,
            "transship migrate, blobs only (OCI layout)": blobs_only,
            "tar c, zstd -3 -T0": tar_and_zstd,
        }
        results: dict[str, list[Measurement]] = {name: [] for name in ways}
        for number in range(options.rounds):
            for name, way in ways.items():
                # Removed at the end only: after many files were deleted, ext4 is slow for minutes to make new ones.
                work = Path(tempfile.mkdtemp(dir=scratch))
                results[name].append(way(store.resolve(), work))
                sys.stderr.write(f"round {number + 1}: {name}: {results[name][-1].seconds:.1f} s\n")
        report(store, results)
    return 0


def migrate(store: Path, work: Path) -> Measurement:
    """Move the whole store into containerd, snapshots and all."""
    containerd = Containerd(work)
    try:
        return timed(transship(store, f"containerd:{containerd.socket}", work))
    finally:
        containerd.stop()


def into_root(store: Path, work: Path) -> Measurement:
    """Move the whole store, snapshots and all, into the root of a containerd that does not run."""
    return timed(transship(store, f"containerd-root:{work}/containerd", work))


def save_and_import(store: Path, work: Path) -> Measurement:
    """Move the same image by `docker save | ctr images import`, which unpacks it too."""
    daemon, socket = make_store.start_dockerd(store)
    containerd = Containerd(work)
    try:
        save = f"docker -H unix://{socket} save {IMAGE}"
        return timed(["bash", "-o", "pipefail", "-c", f"{save} | ctr -a {containerd.socket} -n moby images import -"])
    finally:
        containerd.stop()
        daemon.terminate()
        daemon.wait()


def blobs_only(store: Path, work: Path) -> Measurement:
    """Make compressed blobs of all layers: reading, verifying, compressing, writing."""
    return timed(transship(store, f"oci:{work}/layout", work))


def tar_and_zstd(store: Path, work: Path) -> Measurement:
    """Pack the same files with tar and zstd, which verify nothing."""
    return timed(
        [
            "bash",
            "-o",
            "pipefail",
            "-c",
            f"tar c -C {store}/root/overlay2 . | zstd -q -3 -T0 -o {work}/all.tar.zst && sync -f {work}",
        ]
    )


def transship(store: Path, target: str, work: Path) -> list[str]:
    """Return the command that migrates ``store`` to ``target``."""
    migrate_command = [
        "migrate",
        "--direct",
        "--source",
        str(store / "root"),
        "--target",
        target,
        "--state-dir",
        str(work / "state"),
    ]
    return [sys.executable, "-m", "transship", *migrate_command]


def timed(command: list[str]) -> Measurement:
    """Run ``command`` with cold caches. Raises RuntimeError if it fails."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None  # noqa: S101 - it was asked for
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}: {errors.decode()[-2000:]}")
    return Measurement(seconds, usage.ru_maxrss * 1024)


def report(store: Path, results: dict[str, list[Measurement]]) -> None:
    """Print the table."""
    overlay = store / "root" / "overlay2"
    files = sum(len(names) for _, _, names in os.walk(overlay))
    size = int(subprocess.run(["du", "-sb", str(overlay)], check=True, capture_output=True, text=True).stdout.split()[0])
    out = sys.stdout.write
    out(f"Store: {size / 1e9:.2f} GB in {files} files; {os.cpu_count()} processors; cold caches; medians.\n\n")
    out("| way | seconds (min to max) | peak memory of its process |\n|---|---|---|\n")
    for name, runs in results.items():
        seconds = sorted(run.seconds for run in runs)
        memory = f"{max(run.memory for run in runs) / 1e6:.0f} MB" if name.startswith("transship") else ""
        out(f"| {name} | {statistics.median(seconds):.1f} ({seconds[0]:.1f} to {seconds[-1]:.1f}) | {memory} |\n")
    migrate_runs, root_runs, save, blobs, packed = ([run.seconds for run in runs] for runs in results.values())
    whole = statistics.median(b / a for a, b in zip(migrate_runs, save, strict=True))
    offline = statistics.median(b / a for a, b in zip(root_runs, migrate_runs, strict=True))
    stage = statistics.median(b / a for a, b in zip(blobs, packed, strict=True))
    out(f"\ntransship is {whole:.1f} times as fast as docker save, ctr images import.\n")
    out(f"Into the root of a containerd that does not run it is {offline:.1f} times as fast as into one that does.\n")
    out(f"Its blob stage has {stage:.0%} of the speed of tar c, zstd -3 -T0.\n")


if __name__ == "__main__":
    sys.exit(main())
