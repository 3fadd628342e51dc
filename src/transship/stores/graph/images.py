"""The images of the v1 store: a directory ``graph/<ID>`` each, with ``json`` and, for some, what registries and tar-split left.

Source: moby v1.9.1 ``graph/graph.go``, ``graph/graph_unix.go`` and ``image/image.go``; v1.10.3 ``migrate/v1/migratev1.go``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.errors import SourceCorrupt
from transship.formats import docker_image, v1_image
from transship.stores.docker import small_files

if TYPE_CHECKING:
    import os
    from pathlib import Path

ID = re.compile(r"[0-9a-f]{64}")
"""What Docker 1.10 migrates."""
SHORT_ID = re.compile(r"[0-9a-f]{16}|[0-9a-f]{64}")
"""Registries of 2013 gave images IDs of 16 digits, too."""

RESTORE_HINT = "restore it from a backup, or pull or rebuild the image"


@dataclass(frozen=True)
class GraphImage:
    """An image of the v1 store. ``raw`` is its ``json`` as it is; ``parent`` the ID that Docker would follow, if any."""

    id: str
    directory: Path
    raw: bytes
    parent: str | None

    @property
    def tar_data(self) -> Path:
        """The file with what the layer's tar stream had besides file contents; Docker 1.8 and 1.9 write it."""
        return self.directory / "tar-data.json.gz"

    @property
    def registry_digest(self) -> str | None:
        """The digest of the layer in a registry, None if there is none that Docker 1.10 knows. Raises SourceCorrupt."""
        checksum = small_files.read(f"{self.directory}/checksum", 4096)
        return None if checksum is None else v1_image.registry_digest(checksum)

    @property
    def size(self) -> int | None:
        """Bytes of the layer's files as Docker noted them; None if it did not. Raises SourceCorrupt."""
        text = small_files.read_text(f"{self.directory}/layersize")
        if text is None:
            return None
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise SourceCorrupt(f"{self.directory}/layersize is not a number: {text[:100]!r}", remedy="remove it")
        return int(text)


def read_image(directory: Path) -> GraphImage:
    """Read the image in ``directory``. Raises SourceCorrupt if its ``json`` or ``parent`` cannot be what Docker wrote.

    Like Docker 1.10's migration, and unlike Docker 1.9 itself (``store.load``), it does not ask whether the ``json`` has the
    ID of its directory.
    """
    if directory.is_symlink():
        raise SourceCorrupt(f"image {directory.name}: {directory} is a link, which is not followed", remedy=RESTORE_HINT)
    raw = small_files.read(f"{directory}/json", docker_image.SIZE_LIMIT)
    if raw is None:
        raise SourceCorrupt(f"image {directory.name}: {directory}/json is missing", remedy=RESTORE_HINT)
    try:
        parent = v1_image.parent_of(raw, small_files.read(f"{directory}/parent", 4096))
    except ValueError as error:
        raise SourceCorrupt(f"image {directory.name}: {directory}/json: {error}", remedy=RESTORE_HINT) from error
    if parent is not None and not SHORT_ID.fullmatch(parent):
        raise SourceCorrupt(
            f"image {directory.name}: its parent is called {parent[:100]!r}, which is no image ID", remedy=RESTORE_HINT
        )
    return GraphImage(directory.name, directory, raw, parent)


def list_directories(root: Path) -> list[os.DirEntry[str]]:
    """Return what is in ``graph/`` of the data root ``root``, but for Docker's own scratch, by name. Raises SourceError."""
    return [entry for entry in small_files.entries(root / "graph") if not entry.name.startswith("_")]
