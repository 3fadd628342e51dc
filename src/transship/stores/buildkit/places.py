"""Where build caches are: in a worker's directory, in those of a buildkitd, in Docker's data root.

Sources: BuildKit ``cmd/buildkitd`` (``main_oci_worker.go``, ``main_containerd_worker.go``); moby ``builder/builder-next``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from transship.errors import SourceError, SourceMissing
from transship.stores.docker import small_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION_1 = "metadata.db"
VERSION_2 = "metadata_v2.db"
CONTAINERD_METADATA = "containerdmeta.db"
"""What BuildKit's own containerd knows: snapshots, blobs and leases. Docker's builder has leases in it, nothing else."""
DOCKER_SNAPSHOTS = "snapshots.db"
"""What Docker's builder knows of its snapshots."""
OCI, CONTAINERD = "runc-", "containerd-"
"""What the names of workers' directories begin with; that of the snapshotter follows."""


class Kind(Enum):
    """What holds a cache's snapshots and blobs."""

    EMBEDDED = auto()
    """Parts of containerd within BuildKit, with databases in the cache's directory (OCI worker)."""
    GRAPH_DRIVER = auto()
    """Docker: layers of its graph driver, and a database of the builder's."""
    CONTAINERD = auto()
    """A containerd that runs on its own (containerd worker)."""


@dataclass(frozen=True)
class Cache:
    """A build cache at ``place``. ``metadata`` is the file that counts, of ``version`` 1 or 2."""

    place: Path
    metadata: Path
    version: int
    kind: Kind


def find_caches(directory: Path) -> list[Cache]:
    """Return the caches in a worker's directory, buildkitd's root or Docker's data root. Raises SourceMissing, SourceError."""
    docker = directory / "buildkit"
    places = (directory, *worker_directories(directory), docker, *worker_directories(docker))
    found = [cache for place in places for cache in _cache(place)]
    if not found:
        raise SourceMissing(
            f"no build cache here: {directory} has neither {VERSION_1} nor {VERSION_2}, nor has a directory that could",
            remedy="give the root of buildkitd (/var/lib/buildkit), a worker's directory in it, or Docker's data root",
        )
    return found


def worker_directories(directory: Path) -> Iterator[Path]:
    """Yield the directories of workers in buildkitd's root, or where Docker has its builder. Raises SourceError."""
    for entry in small_files.entries(directory):
        if entry.name.startswith((OCI, CONTAINERD)) and entry.is_dir():
            yield directory / entry.name


def _cache(place: Path) -> Iterator[Cache]:
    """Yield the cache in a directory, if there is one. Where both versions are, BuildKit does not look at the older.

    But for an empty file of version 2, which a full disk may leave: BuildKit would take it for a cache without records.
    """
    old, new = _size(place / VERSION_1), _size(place / VERSION_2)
    if new or (new is not None and old is None):
        yield Cache(place, place / VERSION_2, 2, _kind(place))
    elif old is not None:
        yield Cache(place, place / VERSION_1, 1, _kind(place))


def _kind(place: Path) -> Kind:
    if _size(place / DOCKER_SNAPSHOTS) is not None:
        return Kind.GRAPH_DRIVER
    if _size(place / CONTAINERD_METADATA) is None and place.resolve().name.startswith(CONTAINERD):
        return Kind.CONTAINERD
    return Kind.EMBEDDED


def _size(file: Path) -> int | None:
    """Return the bytes that a file has, None if it is none. Raises SourceError."""
    try:
        return file.stat().st_size if file.is_file() else None
    except OSError as error:
        raise SourceError(f"cannot read {file}: {error.strerror}", remedy=small_files.READ_REMEDY) from error
