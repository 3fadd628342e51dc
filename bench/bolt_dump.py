"""Measures `transship bolt dump` on a file of a million keys: wall time, and peak memory.

    python bench/bolt_dump.py

Prints one line. There is nothing to compare it with that would print the same; absolute times mean little on shared machines.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transship.stores import bolt_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BUCKETS = 10
KEYS = 100_000
"""In each bucket."""


@dataclass
class Content:
    """A bucket to be written."""

    held: Iterable[tuple[bytes, bytes | Content]]
    sequence: int = 0

    def items(self) -> Iterable[tuple[bytes, bytes | Content]]:
        """Return what it holds."""
        return self.held


def main() -> int:
    """Make the file, dump it, say how that went."""
    with tempfile.TemporaryDirectory(prefix="transship-bench-", dir="/var/tmp") as scratch:
        path = Path(scratch, "big.db")
        bolt_file.create(path, Content((b"bucket%02d" % number, Content(keys())) for number in range(BUCKETS)))
        size = path.stat().st_size
        started = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "transship", "bolt", "dump", str(path)], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        return process.returncode
    sys.stdout.write(
        f"transship bolt dump: {BUCKETS * KEYS} keys, {size / 1e6:.0f} MB: {seconds:.1f} s,"
        f" {usage.ru_maxrss * 1024 / 1e6:.0f} MB of memory\n"
    )
    return 0


def keys() -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys of a bucket, with their values."""
    return ((b"key-%010d" % number, b"%070d" % number) for number in range(KEYS))


if __name__ == "__main__":
    sys.exit(main())
