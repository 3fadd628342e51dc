"""Is a daemon, Docker's or BuildKit's, using a data root?

Its bbolt databases tell, and the lock that buildkitd has beside them: bbolt holds flock(2) on a file that it has open for
writing (etcd-io/bbolt ``bolt_unix.go``), whatever namespace the process is in, and the kernel lets go when it dies. Databases
of containerd's are not looked at: a containerd that outlives its dockerd does not write to the graph driver's store.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from transship.errors import SourceBusy, SourceError
from transship.files.beneath import FILE_FLAGS
from transship.files.locks import holder
from transship.stores import bolt_file
from transship.stores.buildkit.places import worker_directories
from transship.stores.docker import small_files

_BUILDKITD_LOCK = "buildkitd.lock"
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
    for path in [*(root / name for name in _DATABASES), *_buildkit_files(root)]:
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


def _buildkit_files(root: Path) -> list[Path]:
    """Return what a BuildKit locks whose root, or worker's directory, is ``root``, or that is Docker's own."""
    own, docker = root, root / "buildkit"
    directories = [each for above in (own, docker) for each in (above, *worker_directories(above))]
    databases = [Path(entry.path) for each in directories for entry in small_files.entries(each) if entry.name.endswith(".db")]
    return [*databases, root / _BUILDKITD_LOCK, root.parent / _BUILDKITD_LOCK]


def _ensure_not_locked(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise SourceError(f"cannot lock {path}: {error.strerror}", remedy=small_files.READ_REMEDY) from error
        if bolt_file.is_held_here(path):
            return  # a step of ours changes it right now
        process = holder(os.fstat(descriptor))
        raise SourceBusy(
            f"a running daemon has {path} open{f': {process}' if process else ''}",
            remedy="stop it first (systemctl stop docker.socket docker.service)",
        ) from error
