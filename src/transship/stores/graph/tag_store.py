"""Writing ``repositories-<driver>``, the names of a v1 store's images.

Source: moby v1.9.1 ``graph/tags.go`` and ``registry/config.go`` (NormalizeLocalName).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec

from transship.errors import TargetExists, UsageError
from transship.files import durable
from transship.formats import references
from transship.stores.graph.images import SHORT_ID
from transship.stores.graph.names import read_file
from transship.stores.mapped import mapped

if TYPE_CHECKING:
    from pathlib import Path

_RESERVED = frozenset({"scratch", "sha256"})
"""Repositories that Docker 1.9 does not make (the base of nothing), or that Docker 1.10 does not take over."""


class TagStore:
    """The names in the file at ``path``, which need not be there yet. Thread-safe; no other process may write meanwhile.

    A name is ``repository:tag`` or ``repository@digest``; without either, ``:latest`` is meant. It is kept as Docker 1.9 did:
    without ``docker.io/``, ``index.docker.io/`` and ``library/``. What else is in the file stays as it is. Raises SourceCorrupt
    if the file is damaged, UsageError for what cannot be a name, TargetError if it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def get(self, name: str) -> str | None:
        """Return the ID of the image called ``name``, None if there is none."""
        repository, key = _parsed(name)
        with self._lock:
            return self._read().get(repository, {}).get(key)

    def set(self, name: str, image_id: str, *, force: bool = False) -> None:
        """Have ``name`` stand for the image ``image_id``.

        Raises TargetExists if it stands for another one; with ``force`` a tag moves, but a digest never does.
        """
        if not SHORT_ID.fullmatch(image_id):
            raise UsageError(f"not an image ID: {image_id[:100]!r}")
        repository, key = _parsed(name)
        with self._lock:
            names = self._read()
            known = names.setdefault(repository, {}).setdefault(key, image_id)
            if known != image_id and (":" in key or not force):
                raise TargetExists(f"{name} stands for the image {known[:64]} already", remedy="remove that name first")
            names[repository][key] = image_id
            self._write(names)

    def delete(self, name: str) -> bool:
        """Remove ``name``, and its repository if that was its last; return False if it was not there."""
        repository, key = _parsed(name)
        with self._lock:
            names = self._read()
            if names.get(repository, {}).pop(key, None) is None:
                return False
            if not names[repository]:
                del names[repository]
            self._write(names)
            return True

    def _read(self) -> dict[str, dict[str, str]]:
        return read_file(self._path)

    def _write(self, names: dict[str, dict[str, str]]) -> None:
        with mapped(self._path):
            durable.write_file(self._path, msgspec.json.encode({"Repositories": names}, order="sorted"), 0o600)


def _parsed(name: str) -> tuple[str, str]:
    """Return the repository and the tag or digest of a name, as they stand in the file. Raises UsageError."""
    try:
        reference = references.parse(name)
        repository = references.familiar(reference.repository)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if repository in _RESERVED:
        raise UsageError(f"no repository can be called {repository}")
    return repository, reference.digest or reference.tag or "latest"
