"""Where build caches are: in a worker's directory, in those of a buildkitd, in Docker's data root.

Sources: BuildKit ``cmd/buildkitd`` (``main_oci_worker.go``, ``main_containerd_worker.go``); moby ``builder/builder-next``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.errors import SourceMissing
from transship.stores.docker import small_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION_1 = "metadata.db"
VERSION_2 = "metadata_v2.db"
_WORKERS = ("runc-", "containerd-")


@dataclass(frozen=True)
class Cache:
    """A build cache at ``place``. ``metadata`` is the file that counts, of ``version`` 1 or 2.

    ``graph_driver``: it is Docker's, whose snapshots are layers of a graph driver.
    """

    place: Path
    metadata: Path
    version: int
    graph_driver: bool


def find_caches(directory: Path) -> list[Cache]:
    """Return the caches in a worker's directory, buildkitd's root or Docker's data root. Raises SourceMissing, SourceError."""
    docker = directory / "buildkit"
    found = [cache for place in (directory, *_workers(directory), docker, *_workers(docker)) for cache in _cache(place)]
    if not found:
        raise SourceMissing(
            f"no build cache here: {directory} has neither {VERSION_1} nor {VERSION_2}, nor has a directory that could",
            remedy="give the root of buildkitd (/var/lib/buildkit), a worker's directory in it, or Docker's data root",
        )
    return found


def _workers(directory: Path) -> Iterator[Path]:
    for entry in small_files.entries(directory):
        if entry.name.startswith(_WORKERS) and entry.is_dir():
            yield directory / entry.name


def _cache(place: Path) -> Iterator[Cache]:
    """Yield the cache in a directory, if there is one. Where both versions are, BuildKit does not look at the older."""
    for name, version in ((VERSION_2, 2), (VERSION_1, 1)):
        if (place / name).is_file():
            yield Cache(place, place / name, version, graph_driver=(place / "snapshots.db").is_file())
            return
