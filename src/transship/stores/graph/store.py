"""The v1 store (Docker 0.7 to 1.9, and its forerunner), read whole.

``graph/`` is shared by all graph drivers, names and layers' files are not: a store is what one driver has.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.errors import SourceCorrupt, SourceMissing, SourceUnsupported, UsageError
from transship.stores.docker import small_files
from transship.stores.docker.drivers.driver import ensure_directory
from transship.stores.docker.drivers.known import DRIVERS
from transship.stores.docker.problem import Problem
from transship.stores.graph.images import RESTORE_HINT, SHORT_ID, GraphImage, list_directories, read_image
from transship.stores.graph.names import Names, read_names

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_PRIORITY = ("aufs", "btrfs", "zfs", "devicemapper", "overlay", "vfs")
"""The order in which Docker 1.9 looked for a store (moby v1.9.1 ``daemon/graphdriver/driver_linux.go``)."""
PLACES = {
    "aufs": "aufs/diff",
    "btrfs": "btrfs/subvolumes",
    "zfs": "zfs/graph",
    "devicemapper": "devicemapper/mnt",
    "overlay": "overlay",
    "vfs": "vfs/dir",
}
"""Where each driver has a directory for each image, in the data root."""


@dataclass(frozen=True)
class Graph:
    """What a data root's v1 store holds for one graph driver. Files are read once, when it is opened.

    ``images`` have a ``json`` that can be read, ``broken`` are directories of images that have not, and why. ``names`` are
    those of images in either, and of absent ones. ``problems`` are things that are not as they should be, each told once.
    ``other_drivers`` have layers in the same root; images that only these have are not part of the store.
    """

    root: Path
    driver: str
    other_drivers: tuple[str, ...]
    images: dict[str, GraphImage]
    broken: dict[str, SourceCorrupt]
    names: Names
    problems: tuple[Problem, ...]

    def layer_directory(self, image_id: str) -> Path:
        """Return the directory with the files of an image's layer, in the driver's form. Raises SourceCorrupt.

        Before Docker 0.7 it was beside the ``json``, and has the form of aufs.
        """
        beside = self.root / "graph" / image_id / "layer"
        if self.driver == "aufs" and not os.path.lexists(self.root / PLACES["aufs"] / image_id) and os.path.lexists(beside):
            ensure_directory(beside)
            return beside
        return DRIVERS[self.driver].find(self.root, image_id)

    def in_order(self) -> tuple[list[GraphImage], dict[str, SourceCorrupt]]:
        """Return the images that have all their ancestors, these first, and why the others have not.

        Otherwise the order is that of the IDs, as Docker 1.10 went through them. No recursion: chains may be long.
        """
        lost = dict(self.broken)
        done: dict[str, GraphImage] = {}
        for image in sorted(self.images.values(), key=lambda image: image.id):
            chain: list[GraphImage] = []
            current: GraphImage | None = image
            on_the_way: set[str] = set()
            while current is not None and current.id not in done:
                if current.id in on_the_way:
                    lost |= {each.id: _circle(each) for each in chain[chain.index(current) :]}
                if current.id in lost:
                    break
                on_the_way.add(current.id)
                chain.append(current)
                above = current
                current = None if above.parent is None else self.images.get(above.parent)
                if current is None and above.parent is not None:
                    lost.setdefault(above.id, self._orphan(above, above.parent))
                    break
            _settle(chain, done, lost)
        return list(done.values()), lost

    def _orphan(self, image: GraphImage, parent: str) -> SourceCorrupt:
        cause = self.broken.get(parent)
        why = f"cannot be read: {cause.message}" if cause else "is not in the store"
        return SourceCorrupt(f"image {image.id}: its parent {parent} {why}", remedy=cause.remedy if cause else RESTORE_HINT)


def _circle(image: GraphImage) -> SourceCorrupt:
    return SourceCorrupt(f"image {image.id} is among its own ancestors", remedy=RESTORE_HINT)


def _settle(chain: list[GraphImage], done: dict[str, GraphImage], lost: dict[str, SourceCorrupt]) -> None:
    """Add ``chain``, an image and its ancestors that are not settled, to ``done``, or to ``lost`` above a lost one."""
    for place in reversed(range(len(chain))):
        image = chain[place]
        if image.id in lost:
            continue
        if image.parent is not None and image.parent not in done:
            cause = lost[image.parent]
            lost[image.id] = SourceCorrupt(f"image {image.id} stands on a damaged one: {cause.message}", remedy=cause.remedy)
            continue
        done[image.id] = image


def read_graph(root: Path, driver: str | None = None) -> Graph:
    """Read the v1 store in the data root ``root``: that of ``driver``, or of the one that has layers, Docker's favourite first.

    Damage to single things is among what is returned. Raises SourceMissing, SourceUnsupported, SourceError.
    """
    entries = [entry for entry in list_directories(root) if SHORT_ID.fullmatch(entry.name)]
    found = layers_by_driver(root, (entry.name for entry in entries))
    chosen = _choose(root, list(found), driver)
    elsewhere = set[str]().union(*found.values()) - found[chosen]
    images: dict[str, GraphImage] = {}
    broken: dict[str, SourceCorrupt] = {}
    for entry in entries:
        if entry.name in elsewhere:
            continue
        try:
            images[entry.name] = read_image(root / "graph" / entry.name)
        except SourceCorrupt as error:
            broken[entry.name] = error
    problems = [Problem(image_id, error) for image_id, error in broken.items()]
    problems += [_stray(entry) for entry in list_directories(root) if not SHORT_ID.fullmatch(entry.name)]
    names = read_names(names_file(root, chosen))
    others = tuple(name for name in found if name != chosen)
    return Graph(root, chosen, others, images, broken, names, (*problems, *names.problems))


def names_file(root: Path, driver: str) -> Path:
    """Return the file with the names of the images of ``driver``: before Docker 0.7 there was one driver, and no suffix."""
    path = root / f"repositories-{driver}"
    plain = root / "repositories"
    return plain if driver == "aufs" and not os.path.lexists(path) and os.path.lexists(plain) else path


def layers_by_driver(root: Path, image_ids: Iterable[str]) -> dict[str, set[str]]:
    """Return which of the images ``image_ids`` have a layer in each graph driver that has any, Docker's favourite first."""
    ids = set(image_ids)
    found = {driver: ids & {entry.name for entry in small_files.entries(root / PLACES[driver])} for driver in _PRIORITY}
    found["aufs"] |= {image_id for image_id in ids if os.path.lexists(root / "graph" / image_id / "layer")}
    return {driver: layers for driver, layers in found.items() if layers}


def _choose(root: Path, found: list[str], wanted: str | None) -> str:
    if wanted is not None and wanted not in found:
        has = f", but of {', '.join(found)}" if found else ""
        raise SourceMissing(f"{root} has no layers of the graph driver {wanted}{has}", remedy="name the driver that it has")
    if not found:
        raise SourceMissing(
            f"{root} has a graph/, but no graph driver in it has a layer of its images", remedy="restore the driver's directory"
        )
    chosen = wanted or found[0]
    if chosen not in DRIVERS:
        raise SourceUnsupported(f"{root} has a v1 store of the graph driver {chosen}", remedy="it cannot be moved yet")
    return chosen


def _stray(entry: os.DirEntry[str]) -> Problem:
    path = small_files.shown(entry.path)
    error = SourceCorrupt(f"{path} is not called by an image ID", remedy="no image was ever to be had from it")
    return Problem(path, error)


def find_image(graph: Graph, text: str) -> str:
    """Return the ID of the one image whose ID begins with ``text``, or that has this name. Raises UsageError."""
    named = graph.names.ids.get(text) or graph.names.ids.get(f"{text}:latest")
    if named is not None:
        return named
    everything = {*graph.images, *graph.broken}
    found = [image_id for image_id in everything if text and image_id.startswith(text)]
    if text in everything:
        return text
    if len(found) != 1:
        problem = "is in the store" if not found else "is the only one meant"
        raise UsageError(f"no image {text!r} {problem}", remedy="see the images with `transship graph ls`")
    return found[0]
