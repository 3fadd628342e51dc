"""Is a Docker daemon using a data root?

Its bbolt databases tell: bbolt holds flock(2) on a file that it has open for writing (etcd-io/bbolt ``bolt_unix.go``), whatever
namespace the process is in, and the kernel lets go when it dies. Databases of containerd's are not looked at: a containerd
that outlives its dockerd does not write to the graph driver's store.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from transship.errors import SourceBusy, SourceError
from transship.files.beneath import FILE_FLAGS
from transship.stores.docker import small_files

_DATABASES = (
    "network/files/local-kv.db",  # libnetwork
    "volumes/metadata.db",
    "content/metadata.db",  # manifests, of a Docker 20.10 or later without containerd
    "builder/fscache.db",  # the classic builder, up to Docker 19.03
)


def ensure_not_in_use(root: Path) -> None:
    """Return if no daemon has the data root ``root`` open. A root without databases is not in use.

    Raises SourceBusy, naming the file and, if it can be found, the process; SourceError if a database cannot be opened.
    """
    for path in [*(root / name for name in _DATABASES), *_buildkit_databases(root)]:
        try:
            descriptor = os.open(path, FILE_FLAGS)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}", remedy=small_files.READ_REMEDY) from error
        try:
            _ensure_not_locked(path, descriptor)
        finally:
            os.close(descriptor)


def _buildkit_databases(root: Path) -> list[Path]:
    return [Path(entry.path) for entry in small_files.entries(root / "buildkit") if entry.name.endswith(".db")]


def _ensure_not_locked(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise SourceError(f"cannot lock {path}: {error.strerror}", remedy=small_files.READ_REMEDY) from error
        holder = _holder(os.fstat(descriptor))
        raise SourceBusy(
            f"a running daemon has {path} open{f': {holder}' if holder else ''}",
            remedy="stop it first (systemctl stop docker.socket docker.service)",
        ) from error


def _holder(status: os.stat_result) -> str | None:
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
