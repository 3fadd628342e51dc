"""An OCI image layout as the place that images are moved to."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from transship.errors import TargetRefused
from transship.files import durable
from transship.formats.digest import hex_part
from transship.stores.oci.blobs import LayoutContent
from transship.stores.oci.claims import Claims
from transship.stores.oci.index import LayoutImages, read_entries
from transship.stores.oci.layout import Layout
from transship.stores.oci.references import reachable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transship.formats.digest import Digest
    from transship.stores.interfaces import ContentStore, ImageStore, Snapshotter


class LayoutTarget:
    """The layout in ``directory``, new or there already, as ``Target``. Nothing is written before the first blob or name."""

    content: ContentStore
    images: ImageStore
    snapshots: Snapshotter | None = None

    def __init__(self, directory: Path) -> None:
        self._layout = Layout(directory)
        self._claims = Claims(self._layout)
        self.content = LayoutContent(self._layout, self._claims)
        self.images = LayoutImages(self._layout)

    def open(self) -> None:
        """Check that the directory is a layout, or that one can be made there. Raises TargetRefused, TargetUnavailable."""
        self._layout.check()
        read_entries(self._layout)

    def close(self) -> None:
        """Nothing is held open."""

    def hold(self, run: str) -> None:
        """See that it can be written to, and remove what killed processes left half-written. Nothing else needs protection:
        only ``collect`` and ``release`` remove blobs, those that they know. Raises TargetUnavailable.
        """
        self._layout.check_writable()
        self._layout.remove_stale()
        self._claims.begin(run)

    def release(self, run: str) -> None:
        """Remove what killed processes left half-written, and what ``run`` stored and nothing leads to."""
        self._layout.remove_stale()
        with suppress(TargetRefused):  # what a damaged manifest refers to nobody knows: all stays
            self.collect(self._claims.of(run), frozenset())
        self._claims.end(run)

    def collect(self, digests: frozenset[Digest], snapshots: frozenset[str]) -> None:  # noqa: ARG002
        """Remove those of the blobs that no entry of the index, whoever wrote it, leads to. Raises TargetRefused, and removes
        nothing, if a manifest on the way is damaged.
        """
        if not digests or not self._layout.check():
            return
        with self._layout.locked():
            kept = reachable(self._layout, (entry.descriptor for entry in read_entries(self._layout)))
            for digest in digests - kept:
                (self._layout.blobs / hex_part(digest)).unlink(missing_ok=True)
            durable.sync_directory(self._layout.blobs)

    def durable(self) -> None:
        """All is durable as soon as it is stored: blobs and names are synced one by one."""

    def file_systems(self) -> Mapping[str, Path]:
        """Where bytes will land."""
        return {"content": self._layout.landing()}
