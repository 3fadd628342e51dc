"""A blob on its way into containerd's root: a directory of its own, laid out as containerd's are.

So containerd's garbage collector removes what is left of a run that was killed: it knows of no such ingest. Source:
containerd ``content/local/store.go``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from transship.files.remove import remove
from transship.stores.containerd_db.objects import encoded
from transship.stores.containerd_root.leftovers import ingest_name
from transship.stores.containerd_root.places import make_directory
from transship.stores.directories import Arriving
from transship.stores.mapped import mapped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from transship.formats.digest import Digest
    from transship.stores.containerd_root.store import Store
    from transship.stores.interfaces import Labels

    Add = Callable[[Path, Digest, int, Labels], bool]


class Ingest:
    """One ingest, as ``ContentWriter``: a file aside. Used by one thread at a time."""

    def __init__(self, store: Store, ref: str, add: Add) -> None:
        """``add`` is called with a file that is complete and durable, its digest, size and labels; it may move it."""
        self._store = store
        # containerd numbers its ingests from 1 on.
        self._reference = f"{store.name}/0/{ref}"
        self._about = f"ingest {ref}"
        self._add = add
        self._directory = store.root.ingests / ingest_name(self._reference)

    def __enter__(self) -> Self:
        with self._store.databases.change():  # from here on the root is there, and nobody else's
            self._store.begin_ingest(self._reference)
        try:
            with mapped(self._about):
                remove(self._directory)
                make_directory(self._directory, 0o755)
                (self._directory / "ref").write_bytes(encoded(self._reference))
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._descriptor = os.open(self._directory / "data", flags, 0o600)
                self._arriving = Arriving(self._descriptor, self._about)
        except BaseException:
            self._store.end_ingest(self._reference)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with mapped(self._about):
                try:
                    remove(self._directory)
                finally:
                    os.close(self._descriptor)
        finally:
            self._store.end_ingest(self._reference)

    def write(self, data: bytes) -> None:
        """Append ``data``. Raises TargetFull, TargetUnavailable."""
        self._arriving.write(data)

    def commit(self, digest: Digest, size: int, labels: Labels) -> bool:
        """Verify and store what was written; see ``ContentWriter.commit``."""
        self._arriving.ensure(digest, size)
        with mapped(self._about):
            os.fchmod(self._descriptor, 0o444)
            os.fsync(self._descriptor)  # before its record can be on the disk
        return self._add(self._directory / "data", digest, size, labels)
