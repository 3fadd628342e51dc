"""Which caches there are in a directory, of which kind and version."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from transship.errors import SourceMissing
from transship.stores.buildkit.places import Kind, find_caches

if TYPE_CHECKING:
    from pathlib import Path


def made(place: Path, **sizes: int) -> Path:
    """Make files ``<name>.db`` of so many bytes."""
    place.mkdir(parents=True)
    for name, size in sizes.items():
        (place / f"{name}.db").write_bytes(bytes(size))
    return place


def found(directory: Path) -> list[tuple[str, str, int, Kind]]:
    caches = find_caches(directory)
    assert all(cache.metadata.parent == cache.place for cache in caches)
    return [(str(cache.place.relative_to(directory)), cache.metadata.name, cache.version, cache.kind) for cache in caches]


def test_workers_of_a_buildkitd(tmp_path: Path) -> None:
    made(tmp_path / "runc-native", metadata=1, containerdmeta=1)
    made(tmp_path / "containerd-overlayfs", metadata_v2=1)
    made(tmp_path / "containerd-native")
    assert found(tmp_path) == [
        ("containerd-overlayfs", "metadata_v2.db", 2, Kind.CONTAINERD),
        ("runc-native", "metadata.db", 1, Kind.EMBEDDED),
    ]
    assert found(tmp_path / "containerd-overlayfs") == [(".", "metadata_v2.db", 2, Kind.CONTAINERD)]


def test_caches_of_a_docker(tmp_path: Path) -> None:
    made(tmp_path / "buildkit", metadata=1, snapshots=1, containerdmeta=1)
    made(tmp_path / "buildkit" / "containerd-overlayfs", metadata_v2=1)
    assert found(tmp_path) == [
        ("buildkit", "metadata.db", 1, Kind.GRAPH_DRIVER),
        ("buildkit/containerd-overlayfs", "metadata_v2.db", 2, Kind.CONTAINERD),
    ]


def test_a_copy_of_a_worker_by_another_name(tmp_path: Path) -> None:
    made(tmp_path / "containerd-backup", metadata=1, containerdmeta=1)
    assert found(tmp_path) == [("containerd-backup", "metadata.db", 1, Kind.EMBEDDED)]


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ({"metadata": 1, "metadata_v2": 1}, "metadata_v2.db"),
        ({"metadata": 1, "metadata_v2": 0}, "metadata.db"),
        ({"metadata": 0, "metadata_v2": 0}, "metadata.db"),
        ({"metadata": 0, "metadata_v2": 1}, "metadata_v2.db"),
        ({"metadata": 0}, "metadata.db"),
        ({"metadata_v2": 0}, "metadata_v2.db"),
    ],
)
def test_which_file_counts(tmp_path: Path, sizes: dict[str, int], name: str) -> None:
    # BuildKit takes an empty file of version 2 for one that it has migrated, and its cache for empty.
    made(tmp_path / "worker", **sizes)
    [cache] = find_caches(tmp_path / "worker")
    assert cache.metadata.name == name


def test_no_cache(tmp_path: Path) -> None:
    (tmp_path / "metadata.db").mkdir()
    with pytest.raises(SourceMissing, match="no build cache here"):
        find_caches(tmp_path)
