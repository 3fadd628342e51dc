"""``.migration-v1-images.json``: which v1 image became which, saved as images are made.

Source: moby v1.10.3 ``migrate/v1/migratev1.go``. One file for all graph drivers; Docker wrote it at the end only, trusted it,
and gave up if it could not be read.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import msgspec

from transship.errors import SourceCorrupt
from transship.files.changes import File
from transship.formats import digest
from transship.stores.docker import small_files
from transship.stores.graph.images import SHORT_ID

if TYPE_CHECKING:
    from pathlib import Path

    from transship.formats.digest import Digest

FILE_NAME = ".migration-v1-images.json"
_SIZE_LIMIT = 64 * 1024 * 1024


class SavedMapping:
    """The mapping in the directory ``place``. What of the file cannot be is left out. Thread-safe."""

    def __init__(self, place: Path) -> None:
        self._lock = threading.Lock()
        self._ids: dict[str, Digest] = {}
        self.damage = ""
        """Why the file that is there cannot be read, if it cannot."""
        try:
            self._ids = _read(place / FILE_NAME)
        except SourceCorrupt as error:  # it is made anew, from what is there
            self.damage = error.message
        except (ValueError, RecursionError) as error:
            self.damage = f"{place / FILE_NAME} is damaged: {error}"

    def get(self, v1_id: str) -> Digest | None:
        """Return what became of a v1 image, None if that is not known."""
        with self._lock:
            return self._ids.get(v1_id)

    def with_image(self, v1_id: str, image_id: Digest) -> File:
        """Add an image; return the file as it is to be now."""
        with self._lock:
            self._ids[v1_id] = image_id
            document = dict(sorted(self._ids.items()))
            return File(FILE_NAME, json.dumps(document, separators=(",", ":")).encode() + b"\n", 0o600)


def _read(path: Path) -> dict[str, Digest]:
    raw = small_files.read(str(path), _SIZE_LIMIT)
    known = {} if raw is None else msgspec.json.decode(raw, type=dict[str, object] | None) or {}
    found: dict[str, Digest] = {}
    for v1_id, image_id in known.items():
        try:
            if SHORT_ID.fullmatch(v1_id):
                found[v1_id] = digest.parse(str(image_id))
        except ValueError:
            continue
    return found
