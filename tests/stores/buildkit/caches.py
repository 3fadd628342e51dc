"""Build caches that real daemons wrote, with what BuildKit's own migration made of them (see tests/data/buildkit/README.md)."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import zstandard

from tests.formats.bolt.databases import Made, held
from transship.stores import bolt_file
from transship.stores.buildkit.holders import opened
from transship.stores.buildkit.places import find_caches
from transship.stores.buildkit.upgrade import Upgrade, upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transship.stores.buildkit.holder import Holder

DATA = Path(__file__).parents[2] / "data" / "buildkit"
BUILDKIT, DOCKER = "buildkit-0.6.4", "docker-19.03.15"
CHANGING = {b"createdat", b"updatedat", b"containerd.io/gc.flat"}
"""What says when something was done."""

Path_: TypeAlias = tuple[bytes, ...]
Held: TypeAlias = "bytes | Made | None"


def unpack(name: str, place: Path) -> Path:
    """Unpack a cache: ``root``, ``migrated``."""
    place.mkdir(parents=True)
    subprocess.run(["tar", "-C", place, "-xf", "-"], input=_archive(name), check=True)
    return place


@cache
def _archive(name: str) -> bytes:
    packed = (DATA / f"{name}.tar.zst").read_bytes()
    return zstandard.ZstdDecompressor(max_window_size=1 << 25).stream_reader(packed).read()


def read(file: Path) -> Made:
    """Return all that is in a database."""
    with bolt_file.opened(file) as database:
        return held(database.root)


def below(bucket: Made, *path: bytes) -> Made:
    """Return the bucket that is under ``path``."""
    for name in path:
        found = bucket.held[name]
        assert isinstance(found, Made)
        bucket = found
    return bucket


def differences(one: Made, other: Made, path: Path_ = ()) -> Iterator[tuple[Path_, Held, Held]]:
    """Yield where two buckets differ, and what each has there."""
    if one.sequence != other.sequence:
        yield path, one, other
    for key in sorted(one.held.keys() | other.held.keys()):
        first, second = one.held.get(key), other.held.get(key)
        if isinstance(first, Made) and isinstance(second, Made):
            yield from differences(first, second, (*path, key))
        elif first != second:
            yield (*path, key), first, second


def apart_from_times(one: Made, other: Made) -> list[tuple[Path_, Held, Held]]:
    """Return where two buckets differ in more than when something was done."""
    found = differences(one, other)
    return [each for each in found if each[0][-1] not in CHANGING or None in each[1:]]


@contextmanager
def upgraded(root: Path, containerd: Path | None = None, namespace: str = "buildkit") -> Iterator[tuple[Upgrade, Holder]]:
    """Work out version 2 of the only cache in ``root``."""
    [cache] = find_caches(root)
    with opened(cache, containerd, namespace) as holder, bolt_file.opened(cache.metadata) as database:
        yield upgrade(database, holder), holder


def written(upgraded: Upgrade, place: Path) -> Made:
    """Write version 2 of metadata, and return what can be read of it then."""
    bolt_file.create(place, upgraded.content)
    return read(place)


def all_changes(upgraded: Upgrade, holder: Holder) -> list[bytes]:
    """Work out all changes that go with an upgrade, and make them, in their order."""
    leases = holder.lease(upgraded.leases)
    holder.apply(leases)
    labels = holder.unroot(upgraded.snapshots, upgraded.blobs)
    holder.apply(labels)
    return [leases, labels]
