"""Who holds a lock on a file."""

from __future__ import annotations

import os
from pathlib import Path


def holder(status: os.stat_result) -> str | None:
    """Name the process that holds a lock on a file, from /proc/locks (proc_locks(5)); None if it cannot be seen from here."""
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:  # no /proc here: the lock is known all the same, only its holder is not
        return None
    for line in locks.splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[1] == "FLOCK" and fields[5] == file and int(fields[4]) > 0:
            return f"process {fields[4]}{_command(fields[4])}"
    return None


def _command(pid: str) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has just ended, or is not ours to look at
        return ""
    words = command.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "backslashreplace")
    return f" ({words[:200]})" if words else ""
