"""Measures a store of many small images, into a containerd and into the root of one that does not run.

    python bench/many_images.py [--rounds N]

The store is one of the tests': 28 images of 126 layers, and few bytes. So what is measured is what a step costs besides its
bytes. Needs root and containerd. Prints one line.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from run import Containerd, timed, transship

STORE = Path(__file__).parent.parent / "tests" / "data" / "docker" / "docker-20.10.24-overlay2.tar.zst"


def main() -> int:
    """Measure and print; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    live: list[float] = []
    root: list[float] = []
    with tempfile.TemporaryDirectory(prefix="transship-bench-", dir="/var/tmp") as scratch:
        store = Path(scratch)
        unpack = f"zstd -dc {STORE} | tar -C {store} --xattrs --xattrs-include='*' --warning=no-timestamp -xpf -"
        subprocess.run(["bash", "-o", "pipefail", "-c", unpack], check=True)
        for _ in range(options.rounds):
            live.append(into_containerd(store, Path(tempfile.mkdtemp(dir=scratch))))
            work = Path(tempfile.mkdtemp(dir=scratch))
            root.append(timed(transship(store, f"containerd-root:{work}/containerd", work)).seconds)
    ratio = statistics.median(a / b for a, b in zip(live, root, strict=True))
    sys.stdout.write(
        f"Many small images: into containerd {statistics.median(live):.1f} s, into the root of one that does not run"
        f" {statistics.median(root):.1f} s: {ratio:.1f} times as fast\n"
    )
    return 0


def into_containerd(store: Path, work: Path) -> float:
    """Return how many seconds it takes to move all into a containerd."""
    containerd = Containerd(work)
    try:
        return timed(transship(store, f"containerd:{containerd.socket}", work)).seconds
    finally:
        containerd.stop()


if __name__ == "__main__":
    sys.exit(main())
