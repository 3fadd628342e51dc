"""What has the graph driver aufs know a layer that was there before it.

A layer has three places: ``aufs/diff/<ID>`` with its files, ``aufs/mnt/<ID>`` to mount it on, and ``aufs/layers/<ID>``, the IDs
that it stands on, nearest first. The files come last: while they are in the old place, there is something to be done.
Source: moby v1.9.1 ``daemon/graphdriver/aufs/migrate.go`` and ``aufs.go`` (Create).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from transship.errors import SourceCorrupt
from transship.files.changes import Directory, File, Move
from transship.legs.aufs.init_layer import init_layer
from transship.stores.docker import small_files
from transship.stores.docker.drivers.aufs import Aufs
from transship.stores.graph.before_drivers import container_place, image_place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from transship.files.changes import Change
    from transship.stores.graph.before_drivers import Container

HOME = ("aufs", "aufs/diff", "aufs/layers", "aufs/mnt")
"""The driver's directories, relative to the data root. Any may be a link that someone made to have it elsewhere."""
_MODE = 0o755


def book(layer_id: str) -> str:
    """Return the file with what a layer stands on, relative to the data root."""
    return f"aufs/layers/{layer_id}"


def image_changes(root: Path, image_id: str, parents: Mapping[str, str | None]) -> Iterator[Change]:
    """Yield what moves an image's layer. ``parents`` are those of all images, by ID."""
    yield from _home(root)
    yield Directory(f"aufs/mnt/{image_id}", _MODE)
    yield _book(image_id, _chain(parents[image_id], parents))
    yield Move(f"aufs/diff/{image_id}", image_place(image_id))


def container_changes(root: Path, container: Container, parents: Mapping[str, str | None]) -> Iterator[Change]:
    """Yield what moves a container's files, and makes what it has besides. Reads its image's layers. Raises SourceCorrupt."""
    if not os.path.lexists(root / book(container.id)):
        init = f"{container.id}-init"
        above = _chain(container.image, parents)
        yield from _home(root)
        yield from _places(init)
        yield from _init_layer(root, container, above)
        yield _book(init, above)
        yield Directory(f"aufs/mnt/{container.id}", _MODE)
        if not container.has_files:
            yield Directory(f"aufs/diff/{container.id}", _MODE)
        yield _book(container.id, [init, *above])
    if container.has_files:
        yield Move(f"aufs/diff/{container.id}", container_place(container.id))


def _home(root: Path) -> Iterator[Directory]:
    return (Directory(path, _MODE) for path in HOME if not (root / path).is_symlink())


def _places(layer_id: str) -> Iterator[Directory]:
    return (Directory(f"aufs/{name}/{layer_id}", _MODE) for name in ("mnt", "diff"))


def _book(layer_id: str, above: list[str]) -> File:
    return File(book(layer_id), "".join(f"{each}\n" for each in above).encode(), 0o644)


def _chain(image_id: str | None, parents: Mapping[str, str | None]) -> list[str]:
    """Return an image and those that it stands on, nearest first."""
    chain = []
    while image_id is not None:
        chain.append(image_id)
        image_id = parents[image_id]
    return chain


def _init_layer(root: Path, container: Container, images: list[str]) -> list[Change]:
    driver = Aufs()
    try:
        tree = driver.full([driver.find(root, image_id) for image_id in images])
        return list(init_layer(f"aufs/diff/{container.id}-init", tree))
    except OSError as error:
        message = f"container {container.id}: its image {container.image} cannot be read: {error}"
        raise SourceCorrupt(message, remedy=small_files.READ_REMEDY) from error
