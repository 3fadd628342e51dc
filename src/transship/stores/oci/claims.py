"""What a run has stored in a layout: a list beside the blobs, for as long as the run is not at its end.

A layout has no leases. Without the list nobody could tell, once a run was killed, which of the blobs that nothing leads to are
that run's: those that it stored last and could not write down elsewhere.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from transship.formats import digest as digests
from transship.stores.mapped import mapped

if TYPE_CHECKING:
    from pathlib import Path

    from transship.formats.digest import Digest
    from transship.stores.oci.layout import Layout

_PREFIX = ".stored-by-"


class Claims:
    """The lists of one layout. ``add`` is called with the layout locked."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._run: str | None = None
        self._earlier: frozenset[Digest] = frozenset()

    def begin(self, run: str) -> None:
        """Have what is added from now on count as stored by ``run``, as does what an earlier attempt at it stored."""
        if self._run != run:
            self._run = run
            self._earlier = self.of(run)

    def from_earlier(self, digest: Digest) -> bool:
        """Tell whether an earlier attempt at the run, which was killed, has stored a blob, or was about to."""
        return digest in self._earlier

    def add(self, digest: Digest) -> None:
        """Write down, durably, that a blob is about to be stored. Raises OSError."""
        if self._run is None:
            return
        descriptor = os.open(
            self._path(self._run), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        try:
            # On a line of its own, whatever a power cut has left of the one before.
            os.write(descriptor, f"\n{digest}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def of(self, run: str) -> frozenset[Digest]:
        """Return what ``run`` stored, or was about to. Raises TargetUnavailable."""
        with mapped(self._path(run)):
            try:
                lines = self._path(run).read_text("ascii", "replace").splitlines()
            except FileNotFoundError:
                return frozenset()
        # Others are empty lines, or what a power cut has left of one.
        return frozenset(digests.parse(line) for line in lines if digests.is_digest(line))

    def end(self, run: str) -> None:
        """Forget what ``run`` stored. Raises TargetUnavailable."""
        with mapped(self._path(run)):
            self._path(run).unlink(missing_ok=True)
        self._run = None
        self._earlier = frozenset()

    def _path(self, run: str) -> Path:
        return self._layout.directory / f"{_PREFIX}{run}"
