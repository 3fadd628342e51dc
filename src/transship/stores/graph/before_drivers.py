"""The layout of Docker before 0.7, which knew aufs only: layers lie beside the metadata, not in a driver's directory.

``graph/<ID>/layer`` is what an image adds, ``containers/<ID>/rw`` what a container has written, once it was started. Docker 0.7
to 1.9 moved these to ``aufs/diff/<ID>``, or left links to them there.
Sources: moby v0.6.7 ``graph.go`` and ``container.go``; v1.9.1 ``daemon/graphdriver/aufs/migrate.go``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import msgspec

from transship.errors import SourceCorrupt
from transship.files.changes import is_directory, link_text
from transship.stores.docker import small_files
from transship.stores.docker.drivers.aufs import Aufs
from transship.stores.graph.images import ID, RESTORE_HINT, SHORT_ID, GraphImage, list_directories, read_image
from transship.stores.graph.names import Names
from transship.stores.graph.store import Graph

if TYPE_CHECKING:
    from pathlib import Path

_CONFIG_LIMIT = 16 * 1024 * 1024
_NEVER = "0001-01-01T00:00:00Z"
_REMEDY = "its files stay where they are; restore what is missing from a backup, and run again"


@dataclass(frozen=True)
class Layers:
    """The images that aufs has layers of, wherever these are: parents first. ``lost`` are why others in the old place are none.

    ``strays`` are directories with a layer that are not called by an image ID, from which no image was ever to be had.
    """

    images: tuple[GraphImage, ...]
    lost: dict[str, SourceCorrupt]
    strays: tuple[str, ...]


@dataclass(frozen=True)
class Container:
    """A container that the driver is to know. ``image`` is a v1 ID. ``has_files``: they are in the old place."""

    id: str
    image: str
    has_files: bool


class _State(msgspec.Struct, rename="pascal"):
    started_at: str | None = None


class _Config(msgspec.Struct, rename="pascal"):
    image: str
    driver: str | None = None
    state: _State | None = None

    @property
    def was_started(self) -> bool:
        return self.state is not None and self.state.started_at not in {None, _NEVER}


def image_place(image_id: str) -> str:
    """Return where the layer of an image was before there were drivers, relative to the data root."""
    return f"graph/{image_id}/layer"


def container_place(container_id: str) -> str:
    """Return where the files of a container were before there were drivers, relative to the data root."""
    return f"containers/{container_id}/rw"


def read_layers(root: Path) -> Layers:
    """Read the images of the data root ``root`` that have a layer of aufs. Raises SourceError."""
    images: dict[str, GraphImage] = {}
    broken: dict[str, SourceCorrupt] = {}
    strays: list[str] = []
    for entry in list_directories(root):
        if not SHORT_ID.fullmatch(entry.name):
            strays += [entry.path] if os.path.lexists(f"{entry.path}/layer") else []
            continue
        try:
            if not is_in_old_place(root, image_place(entry.name), entry.name):
                Aufs().find(root, entry.name)
            images[entry.name] = read_image(root / "graph" / entry.name)
        except SourceCorrupt as error:
            broken[entry.name] = error
    in_order, lost = Graph(root, "aufs", (), images, broken, Names(), ()).in_order()
    old = {image_id: error for image_id, error in lost.items() if os.path.lexists(root / image_place(image_id))}
    return Layers(tuple(in_order), old, tuple(strays))


def read_containers(root: Path) -> tuple[list[Container], dict[str, SourceCorrupt]]:
    """Return the containers that Docker 0.6 made and the driver does not know, and why others cannot be made known to it.

    One that Docker made when it had drivers, and that has no layer any more, is not among them. Raises SourceError.
    """
    found: list[Container] = []
    lost: dict[str, SourceCorrupt] = {}
    for entry in small_files.entries(root / "containers"):
        if ID.fullmatch(entry.name):
            try:
                found += _read_container(root, entry)
            except SourceCorrupt as error:
                lost[entry.name] = error
    return found, lost


def is_in_old_place(root: Path, old: str, layer_id: str) -> bool:
    """Tell whether a layer is at ``old``, relative to ``root``. Raises SourceCorrupt if not a directory, or elsewhere too."""
    place = root / "aufs" / "diff" / layer_id
    link = link_text(place)
    if not os.path.lexists(root / old):
        return False
    if not is_directory(root / old):
        raise SourceCorrupt(f"{root / old} is not a directory", remedy=RESTORE_HINT)
    if link is None and os.path.lexists(place):
        raise SourceCorrupt(f"{root / old} and {place} are both there", remedy="move away the one that is not wanted")
    if link is not None and PurePath(link).parts[-3:] != PurePath(old).parts:
        raise SourceCorrupt(f"{place} is a link to {link!r}, while {root / old} is there too", remedy="remove that link")
    return True


def _read_container(root: Path, entry: os.DirEntry[str]) -> list[Container]:
    """Return the container in a directory if the driver does not know it. Raises SourceCorrupt."""
    if not entry.is_dir(follow_symlinks=False):
        raise SourceCorrupt(f"{entry.path} is not a directory", remedy=RESTORE_HINT)
    has_files = is_in_old_place(root, container_place(entry.name), entry.name)
    if not has_files and os.path.lexists(root / "aufs" / "layers" / entry.name):
        return []
    try:
        config = _read_config(f"{entry.path}/config.json")
    except SourceCorrupt:
        if has_files:
            raise
        return []
    if not has_files and config.driver:
        return []
    if not has_files and config.was_started and not os.path.lexists(root / "aufs" / "diff" / entry.name):
        raise SourceCorrupt(f"container {entry.name}: {root / container_place(entry.name)} is missing", remedy=_REMEDY)
    return [Container(entry.name, config.image, has_files)]


def _read_config(path: str) -> _Config:
    raw = small_files.read(path, _CONFIG_LIMIT)
    if raw is None:
        raise SourceCorrupt(f"{path} is missing", remedy=_REMEDY)
    try:
        return msgspec.json.decode(raw, type=_Config)
    except (ValueError, RecursionError) as error:
        raise SourceCorrupt(f"{path} is damaged: {error}", remedy=_REMEDY) from error
