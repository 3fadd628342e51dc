"""What a migration would cost: bytes to read, bytes and inodes to write, time; and whether there is room."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.engine.step import Resource
from transship.files.fill import LINK_THRESHOLD, FillMode
from transship.formats.compression import Codec
from transship.stores.docker import tar_stream

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transship.engine.step import Value
    from transship.legs.containerd.itinerary import Itinerary
    from transship.legs.containerd.voyage import Voyage

_COMPRESSED_SHARE = {Codec.ZSTD: 0.4, Codec.GZIP: 0.45, Codec.NONE: 1.05}
"""How much of a layer is left, roughly, for usual images."""
_COPIED_SHARE = 0.25
"""Of a layer's bytes, about how many are in files too small to be linked (``LINK_THRESHOLD``)."""
_BYTES_PER_SECOND = 80_000_000
"""Read, hashed and compressed by one processor, roughly."""
_SECONDS_PER_FILE = 80e-6


@dataclass(frozen=True)
class Room:
    """One file system of the target: what would be written, and what is free; in bytes and inodes."""

    path: str
    bytes_to_write: int
    bytes_free: int
    inodes_to_write: int
    inodes_free: int

    @property
    def enough(self) -> bool:
        """True if there is room for all of it. A file system without a fixed number of inodes says 0."""
        inodes = not self.inodes_free or self.inodes_to_write < self.inodes_free
        return self.bytes_to_write < self.bytes_free and inodes


@dataclass(frozen=True)
class Estimate:
    """Estimates, from sizes that Docker noted. ``standing`` steps need not run; ``seconds`` is a rough guess."""

    steps: int
    standing: int
    bytes_to_read: int
    files: int
    seconds: float
    rooms: tuple[Room, ...]


def estimate(voyage: Voyage, itinerary: Itinerary, known: Mapping[str, Value]) -> Estimate:
    """Estimate what is left to do of ``itinerary``. Looks into the target. Raises TargetError."""
    waiting = [step for step in itinerary.plan if step.key not in known or not step.check(known[step.key])]
    keys = {step.key for step in waiting}
    blobs = sum(step.cost.bytes for step in waiting if step.resource is Resource.CPU)
    files = sum(step.cost.files for step in waiting)
    snapshot_layers = [layer for layer in itinerary.layers if f"snapshot:{layer.chain_id}" in keys]
    snapshots = sum(_bytes_written(voyage, layer.size) for layer in snapshot_layers)
    inodes = sum(tar_stream.estimated_files(layer.tar_split) for layer in snapshot_layers)
    work = {"content": (int(blobs * _COMPRESSED_SHARE[voyage.recipe.codec]), len(waiting)), "snapshots": (snapshots, inodes)}
    return Estimate(
        steps=len(itinerary.plan),
        standing=len(itinerary.plan) - len(waiting),
        bytes_to_read=blobs,
        files=files,
        seconds=guessed_seconds(blobs, files, voyage.jobs),
        rooms=rooms(voyage.target.file_systems(), work),
    )


def _bytes_written(voyage: Voyage, size: int) -> int:
    """Return about what a snapshot of ``size`` bytes takes up. Whether links or reflinks work shows only when it is filled."""
    match voyage.fill:
        case FillMode.COPY:
            return size
        case FillMode.LINK_ALL | FillMode.REFLINK:
            return 0
        case _:
            return int(size * _COPIED_SHARE) if size > LINK_THRESHOLD else size


def guessed_seconds(content: int, files: int, jobs: int) -> float:
    """Return about how long ``jobs`` at once take to read so many bytes in so many files, and to compress or hash them."""
    return (content / _BYTES_PER_SECOND + files * _SECONDS_PER_FILE) / min(jobs, os.cpu_count() or 1)


def rooms(places: Mapping[str, Path], work: Mapping[str, tuple[int, int]]) -> tuple[Room, ...]:
    """Return what there is to know of the file systems of ``places``, on which so many bytes and inodes are to be written."""
    found: dict[int, Room] = {}
    for name, place in places.items():
        path = _existing(place)
        device = path.stat().st_dev
        free = os.statvfs(path)
        written, inodes = work[name]
        before = found.get(device)
        found[device] = Room(
            path=before.path if before else str(path),
            bytes_to_write=written + (before.bytes_to_write if before else 0),
            bytes_free=free.f_bavail * free.f_frsize,
            inodes_to_write=inodes + (before.inodes_to_write if before else 0),
            inodes_free=free.f_favail,
        )
    return tuple(found.values())


def _existing(path: Path) -> Path:
    """Return ``path`` or the nearest directory above it that is there."""
    while not path.exists():
        path = path.parent
    return path
