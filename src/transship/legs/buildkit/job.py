"""One build cache that is to be brought to version 2, and where a run keeps what it needs for that."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from transship.engine.records import printable
from transship.engine.state_dir import run_directory
from transship.errors import SourceBusy
from transship.files.durable import write_file
from transship.files.ledger import Ledger
from transship.stores.buildkit.holders import opened
from transship.stores.buildkit.places import VERSION_2, find_caches

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from transship.stores.buildkit.holder import Holder
    from transship.stores.buildkit.places import Cache


@dataclass(frozen=True)
class Containerd:
    """The containerd that may hold a cache's snapshots and blobs: its socket, and BuildKit's namespace in it."""

    socket: Path
    namespace: str


class Todo(msgspec.Struct, frozen=True):
    """What follows from a cache's records: ``leases`` by ID with what each is to hold (kind, name); the snapshots and blobs
    that need no other protection then.
    """

    leases: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    snapshots: tuple[str, ...]
    blobs: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """A cache at ``path`` in the root that was given. ``ledger`` is of the changes to files in that root."""

    cache: Cache
    path: str
    directory: Path
    """Where the run keeps what it made of the cache."""
    ledger: Ledger
    containerd: Containerd

    @property
    def name(self) -> str:
        """What the keys of its steps have of it."""
        return printable(self.path)

    @property
    def metadata(self) -> Path:
        """The metadata of version 2, before they take their place."""
        return self.directory / VERSION_2

    @property
    def todo(self) -> Path:
        """What is to be done besides."""
        return self.directory / "todo.json"

    def holder(self) -> AbstractContextManager[Holder]:
        """Open what holds the cache's snapshots and blobs. Raises like ``holders.opened``."""
        return opened(self.cache, self.containerd.socket, self.containerd.namespace)

    def source(self) -> str:
        """Return the SHA-256 of the metadata of version 1, which no step changes."""
        with self.cache.metadata.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def ensure_unchanged(self, source: str) -> None:
        """Raises SourceBusy if the metadata are not what they were when ``source`` was their SHA-256."""
        if self.source() != source:
            raise SourceBusy(
                f"{self.cache.metadata} was changed since this run has read it", remedy="stop what uses it, then run again"
            )

    def change(self, holder: Holder, what: str, work_out: Callable[[], bytes]) -> None:
        """Have ``holder`` change what ``work_out`` says, which is written down, under the name ``what``, before.

        What an attempt that was killed has written down is made first.
        """
        done = self.changes(what)
        for file in done:
            holder.apply(file.read_bytes())
        if changes := work_out():
            write_file(self.directory / f"{what}-{len(done)}.json", changes, 0o600)
            holder.apply(changes)

    def changes(self, what: str) -> list[Path]:
        """Return what was written down under the name ``what``, the first first."""
        found = self.directory.glob(f"{what}-*.json")
        return sorted(found, key=lambda path: int(path.stem.rpartition("-")[2]))


def jobs(root: Path, state_dir: Path, run: str, containerd: Containerd) -> list[Job]:
    """Return a job for each cache of version 1 in ``root``. Raises SourceMissing if there is no cache, SourceError."""
    return [job(root, cache, state_dir, run, containerd) for cache in find_caches(root) if cache.version == 1]


def job(root: Path, cache: Cache, state_dir: Path, run: str, containerd: Containerd) -> Job:
    """Return the job of ``cache``."""
    path = str(cache.place.relative_to(root))
    directory = run_directory(state_dir, run)
    kept = directory / "caches" / hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    return Job(cache, path, kept, Ledger(root, directory / "undo"), containerd)
