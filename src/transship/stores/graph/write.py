"""Changing a v1 store: registering and deleting images, and the files beside their ``json``.

Source: moby v1.9.1 ``graph/graph.go`` (register, storeImage, Delete, SetLayerDigest, GenerateV1CompatibilityChain).
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from transship.errors import SourceCorrupt, TargetNotFound, TargetRefused, UsageError
from transship.files import durable
from transship.files.remove import remove
from transship.formats import docker_image, tar_split, v1_image
from transship.stores.docker import small_files
from transship.stores.docker.drivers.known import DRIVERS
from transship.stores.graph import places
from transship.stores.graph.holds import Locks, Retained
from transship.stores.graph.images import ID, RESTORE_HINT, SHORT_ID, GraphImage, read_image
from transship.stores.graph.members import read_members
from transship.stores.graph.relations import children, ensure_loadable, ensure_stated
from transship.stores.graph.store import read_graph
from transship.stores.graph.unpack import Unpacker
from transship.stores.mapped import mapped

if TYPE_CHECKING:
    from pathlib import Path

_V1_COMPATIBILITY = "v1Compatibility"


class GraphWriter:
    """The v1 store of the graph driver ``driver`` in the data root ``root``, which need not be there yet.

    Thread-safe; no other process may use the store meanwhile. Raises TargetError if it cannot be written.
    """

    def __init__(self, root: Path, driver: str) -> None:
        """Raises UsageError if no layers can be made for ``driver``."""
        if driver not in places.WRITABLE:
            raise UsageError(f"no layers can be made for the graph driver {driver}", remedy=f"use {', '.join(places.WRITABLE)}")
        self._root = root
        self._driver = driver
        self._graph = root / "graph"
        self._locks = Locks()
        self._retained = Retained()

    def register(self, image_id: str, raw: bytes, layer: IO[bytes], parent: str | None = None) -> bool:
        """Add an image with the ``json`` ``raw`` and the uncompressed archive ``layer``; return False if it was there already.

        ``parent`` is another image's ID if it is not the one that ``raw`` names: Docker 1.9 kept old IDs of base layers so.
        What is there of an image without a layer is replaced. If anything fails nothing is left behind. Raises
        UsageError, SourceCorrupt if ``raw`` or ``layer`` is damaged, OSError if ``layer`` cannot be read.
        """
        named = _parent_of(image_id, raw)
        below = parent or named
        if below is not None and (below == image_id or not SHORT_ID.fullmatch(below)):
            raise UsageError(f"image {image_id} cannot stand on {below[:100]!r}")
        with self._locks.held(image_id), mapped(self._graph / image_id):
            if self._is_whole(image_id):
                return False
            self._retained.add(f"register {image_id}", filter(None, [below]))
            try:
                self._make(image_id, raw, layer, below, noted=below if below != named else None)
            finally:
                self._retained.remove(f"register {image_id}", filter(None, [below]))
        return True

    def delete(self, image_id: str) -> None:
        """Remove an image with its layer; its names stay. Raises TargetRefused if it is needed, TargetNotFound, SourceError.

        It is gone at once, and its files by and by.
        """
        with self._locks.held(image_id), mapped(self._graph / image_id):
            self._ensure_there(image_id)
            self._ensure_free(image_id)
            grave = self._scratch(f"{image_id}-removed")
            (self._graph / image_id).rename(grave)
            durable.sync_directory(self._graph)
            places.remove_layer(self._root, self._driver, image_id)
            remove(grave)

    def retain(self, session: str, *image_ids: str) -> None:
        """Keep images, which may be yet to come, from being deleted until ``session`` releases them, or this process ends."""
        self._retained.add(session, image_ids)

    def release(self, session: str, *image_ids: str) -> None:
        """Let go of images for ``session``."""
        self._retained.remove(session, image_ids)

    def is_retained(self, image_id: str) -> bool:
        """Tell whether any session needs an image."""
        return bool(self._retained.sessions(image_id))

    def registry_digest(self, image_id: str) -> str | None:
        """Return the digest of an image's layer in a registry, None if not known. Raises TargetNotFound, SourceCorrupt."""
        with self._locks.held(image_id):
            return self._read(image_id).registry_digest

    def set_registry_digest(self, image_id: str, text: str) -> None:
        """Note the digest of an image's layer in a registry. Raises TargetNotFound, UsageError if it is not one."""
        if v1_image.registry_digest(text.encode()) is None:
            raise UsageError(f"not a digest: {text[:150]!r}")
        with self._locks.held(image_id):
            self._write(image_id, "checksum", text.encode())

    def v1_compatibility(self, image_id: str) -> bytes:
        """Return what stands for an image in manifests of registries: what is stored, else what is made of its ``json``.

        What is made, for it and for those of its ancestors that have none, is stored. Raises TargetNotFound, SourceCorrupt.
        """
        text = b""
        for image in reversed(self._lineage(image_id)):
            with self._locks.held(image.id):
                text = self._compatibility(image, text)
        return text

    def set_v1_compatibility(self, image_id: str, text: bytes) -> None:
        """Store what a manifest has for an image. Raises TargetNotFound."""
        with self._locks.held(image_id):
            self._write(image_id, _V1_COMPATIBILITY, text)

    def _lineage(self, image_id: str) -> list[GraphImage]:
        """Return an image and its ancestors, up to the first that needs no others for its v1Compatibility."""
        lineage = {image_id: self._read(image_id)}
        image = lineage[image_id]
        while image.parent is not None and _stored_compatibility(image) is None:
            if image.parent in lineage:
                raise SourceCorrupt(f"image {image.parent} is among its own ancestors", remedy=RESTORE_HINT)
            image = lineage[image.parent] = self._read(image.parent)
        return list(lineage.values())

    def _compatibility(self, image: GraphImage, of_parent: bytes) -> bytes:
        stored = _stored_compatibility(image)
        if stored is not None:
            return stored
        try:
            parent = None if image.parent is None else v1_image.compatibility_id(of_parent)
            text = v1_image.v1_compatibility(image.raw, image.id, parent, image.size or 0)
        except ValueError as error:
            raise SourceCorrupt(f"image {image.id}: {error}", remedy=RESTORE_HINT) from error
        self._write(image.id, _V1_COMPATIBILITY, text)
        return text

    def _make(self, image_id: str, raw: bytes, layer: IO[bytes], parent: str | None, *, noted: str | None) -> None:
        scratch = self._scratch(image_id)
        try:
            scratch.mkdir(mode=0o700)
            size = self._unpack(image_id, layer, parent, scratch)
            files = {"layersize": str(size).encode(), "json": raw, "parent": (noted or "").encode()}
            for name, data in files.items():
                if data:
                    (scratch / name).write_bytes(data)
            for path in scratch.iterdir():
                path.chmod(0o600)
            self._commit(image_id, scratch)
        except BaseException:
            places.remove_layer(self._root, self._driver, image_id)
            remove(scratch)
            raise

    def _unpack(self, image_id: str, layer: IO[bytes], parent: str | None, scratch: Path) -> int:
        """Unpack a layer, with its tar-split data into ``scratch``; return its size as the driver takes it."""
        top = places.make_layer(self._root, self._driver, image_id, parent)
        as_it_is, shared = self._driver == "aufs", self._driver == "overlay" and parent is not None
        try:
            with (
                (scratch / "tar-data.json.gz").open("wb") as file,
                tar_split.Writer(file) as writer,
                Unpacker(top, as_it_is=as_it_is, shared=shared) as unpacker,
            ):
                for member in read_members(layer, writer.add):
                    unpacker.add(member)
                unpacker.finish()
        except ValueError as error:
            raise SourceCorrupt(f"the layer of image {image_id}: {error}", remedy="get the image anew") from error
        durable.sync_file_system(top)
        return places.disk_usage(top) if as_it_is else unpacker.size

    def _commit(self, image_id: str, scratch: Path) -> None:
        """Put what is ready in its place. What is there has no layer, as images of another driver have none in this one."""
        durable.sync_file_system(scratch)
        place, replaced = self._graph / image_id, self._scratch(f"{image_id}-replaced")
        if place.exists():
            place.rename(replaced)
        scratch.rename(place)
        durable.sync_directory(self._graph)
        remove(replaced)

    def _scratch(self, name: str) -> Path:
        """Return a path in the store's scratch directory at which nothing is."""
        for directory in (self._graph, self._graph / "_tmp"):
            directory.mkdir(mode=0o700, exist_ok=True)
        remove(self._graph / "_tmp" / name)
        return self._graph / "_tmp" / name

    def _is_whole(self, image_id: str) -> bool:
        """Tell whether an image is there, and has a layer, as far as Docker 1.9 looked."""
        try:
            ensure_loadable(read_image(self._graph / image_id))
            return DRIVERS[self._driver].find(self._root, image_id).is_dir()
        except SourceCorrupt:
            return False

    def _read(self, image_id: str) -> GraphImage:
        self._ensure_there(image_id)
        return read_image(self._graph / image_id)

    def _ensure_there(self, image_id: str) -> None:
        if not SHORT_ID.fullmatch(image_id) or not (self._graph / image_id).is_dir():
            raise TargetNotFound(f"no image {image_id[:100]!r} in {self._root}", remedy="see what is with `transship graph ls`")

    def _ensure_free(self, image_id: str) -> None:
        if sessions := self._retained.sessions(image_id):
            raise TargetRefused(f"image {image_id} is needed by {', '.join(sessions)}", remedy="wait for that to end")
        if above := children(read_graph(self._root, self._driver)).get(image_id):
            ids = ", ".join(image.id[:12] for image in above[:5])
            raise TargetRefused(f"image {image_id} has others that stand on it: {ids}", remedy="delete these first")

    def _write(self, image_id: str, name: str, data: bytes) -> None:
        self._ensure_there(image_id)
        with mapped(self._graph / image_id / name):
            durable.write_file(self._graph / image_id / name, data, 0o600)


def _stored_compatibility(image: GraphImage) -> bytes | None:
    return small_files.read(f"{image.directory}/{_V1_COMPATIBILITY}", docker_image.SIZE_LIMIT)


def _parent_of(image_id: str, raw: bytes) -> str | None:
    """Return the parent that ``raw`` names, if it can be the ``json`` of this image. Raises UsageError, SourceCorrupt."""
    if not ID.fullmatch(image_id):
        raise UsageError(f"not an image ID of 64 hexadecimal digits: {image_id[:100]!r}")
    if len(raw) > docker_image.SIZE_LIMIT:
        raise SourceCorrupt(f"image {image_id}: its json has {len(raw)} bytes, over the limit of {docker_image.SIZE_LIMIT}")
    try:
        named = v1_image.parent_of(raw)
    except ValueError as error:
        raise SourceCorrupt(f"image {image_id}: its json: {error}") from error
    ensure_stated(image_id, raw)
    return named
