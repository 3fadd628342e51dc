"""Measures the checksums of an old store's layers against tar and sha256sum on the same files, in one run.

    python bench/old_store.py [--rounds N]

Makes a v1 store (Docker 1.9, driver vfs) of four layers with small and large files first: 1 GB in 40,000. Needs root and tar.
With cold caches and with warm ones. Both ways use all processors: transship as it is, the other as so many `tar c | sha256sum`
at once. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from transship.formats import tar_split
from transship.formats.tar_archive import Disassembler

_LAYERS = 4
_SMALL, _LARGE = 10_000, 25
"""Files in each layer: of 1 to 16 KiB, and of 6 MiB."""


def main() -> int:
    """Measure and print; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="transship-bench-", dir="/var/tmp") as scratch:
        root = Path(scratch, "docker")
        size = make_store(root)
        for caches in ("cold", "warm"):
            ours, theirs = [], []
            for number in range(options.rounds):
                ours.append(transship(root, Path(scratch, "state"), caches))
                theirs.append(tar_and_sha256sum(root, caches))
                sys.stderr.write(f"round {number + 1}, {caches}: transship {ours[-1]:.2f} s, tar {theirs[-1]:.2f} s\n")
            report(caches, size, statistics.median(ours), statistics.median(theirs))
    return 0


def make_store(root: Path) -> int:
    """Make the store; return its bytes."""
    chance = random.Random(1)  # noqa: S311 - the same store at all times
    size = 0
    for number in range(_LAYERS):
        image_id = f"{number + 1:064x}"
        layer, entry = root / "vfs" / "dir" / image_id, root / "graph" / image_id
        entry.mkdir(parents=True)
        for name in range(_SMALL + _LARGE):
            path = layer / f"{name % 97:02d}" / f"{name % 13:02d}" / f"file{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            length = chance.randrange(1 << 10, 16 << 10) if name < _SMALL else 6 << 20
            path.write_bytes(chance.randbytes(length))
            size += length
        (entry / "json").write_text(json.dumps({"id": image_id, "created": "2015-01-01T00:00:00Z", "docker_version": "1.9.1"}))
        record(layer, entry / "tar-data.json.gz")
    return size


def record(layer: Path, tar_data: Path) -> None:
    """Write the tar-split data of the layer's stream, as Docker did when it unpacked it."""
    with (
        subprocess.Popen(["tar", "-C", str(layer), "-cf", "-", "."], stdout=subprocess.PIPE) as tar,
        tar_data.open("wb") as file,
        tar_split.Writer(file) as writer,
    ):
        assert tar.stdout is not None  # noqa: S101 - it is a pipe
        splitter = Disassembler(writer.add)
        while chunk := tar.stdout.read(1 << 20):
            splitter.feed(chunk)
        splitter.close()


def transship(root: Path, state: Path, caches: str) -> float:
    """Return the seconds from the first checksum's begin to the last one's end, while the store is upgraded and restored."""
    prepare(caches)
    command = [sys.executable, "-m", "transship"]
    options = ["--direct", "--state-dir", str(state), "--json"]
    what = ["migrate", "--source", str(root), "--target", "docker"]
    migrated = subprocess.run([*command, *what, *options], capture_output=True, check=True)
    subprocess.run([*command, "rollback", *options], capture_output=True, check=True)
    events = [json.loads(line) for line in migrated.stdout.splitlines()]
    times = [event["time"] for event in events if event.get("key", "").startswith("checksum:")]
    shutil.rmtree(state)
    return float(max(times) - min(times))


def tar_and_sha256sum(root: Path, caches: str) -> float:
    """Return the seconds that it takes to hash tar archives of all layers, as many at once as there are processors."""
    prepare(caches)
    layers = "\n".join(str(path) for path in sorted((root / "vfs" / "dir").iterdir()))
    each = ["bash", "-c", 'tar -C "$0" -cf - . | sha256sum > /dev/null']
    begun = time.monotonic()
    subprocess.run(["xargs", "-P", str(os.cpu_count()), "-n", "1", *each], input=layers.encode(), check=True)
    return time.monotonic() - begun


def prepare(caches: str) -> None:
    """Have the disk be read anew if ``caches`` are to be cold."""
    os.sync()
    if caches == "cold":
        Path("/proc/sys/vm/drop_caches").write_text("3")


def report(caches: str, size: int, ours: float, theirs: float) -> None:
    """Print the table."""
    sys.stdout.write(f"| checksums of an old store's layers, {caches} | median | rate | |\n| --- | --- | --- | --- |\n")
    for name, seconds in (("transship migrate --target docker", ours), ("tar c, sha256sum", theirs)):
        sys.stdout.write(f"| {name} | {seconds:.2f} s | {size / seconds / 1e6:.0f} MB/s | {theirs / seconds:.0%} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
