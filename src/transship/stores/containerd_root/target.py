"""containerd's root directory as the place that images are moved to, while no containerd runs on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transship.stores.containerd_root.collect import CONTENT, snapshots_of
from transship.stores.containerd_root.content import RootContent
from transship.stores.containerd_root.garbage import remove_garbage
from transship.stores.containerd_root.images import RootImages
from transship.stores.containerd_root.labels import check_namespace
from transship.stores.containerd_root.lease import runs_leases
from transship.stores.containerd_root.snapshots import RootSnapshotter
from transship.stores.containerd_root.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transship.formats.digest import Digest
    from transship.stores.interfaces import ContentStore, ImageStore, Snapshotter


class ContainerdRootTarget:
    """The root in ``directory``, new or there already, one of its namespaces and one of its snapshotters, as ``Target``.

    A containerd of 1.2 or later that is started on it afterwards finds all as if it had made it. One that is started meanwhile
    waits from the first thing that is written until ``close``.
    """

    content: ContentStore
    images: ImageStore
    snapshots: Snapshotter | None

    def __init__(self, directory: Path, namespace: str = "moby", snapshotter: str = "overlayfs") -> None:
        """Looks at nothing yet. Raises TargetRefused for a snapshotter other than overlayfs and native."""
        self._snapshotter = snapshotter
        self._store = Store(directory, namespace, snapshotter)
        self.content = RootContent(self._store)
        self.images = RootImages(self._store)
        self.snapshots = RootSnapshotter(self._store, snapshotter)

    def open(self) -> None:
        """Check that the directory is containerd's root and nobody writes to it, or that one can be made there.

        Writes nothing. Raises TargetRefused, TargetUnavailable.
        """
        check_namespace(self._store.name)
        self._store.root.check()
        with self._store.databases.read():
            return

    def close(self) -> None:
        """Bring what was changed into the databases and let go of them. What there is no room for waits for the next run."""
        self._store.databases.close()

    def hold(self, run: str) -> None:
        """Make the root if it is not there, and a lease that protects what is stored from the garbage collector of a
        containerd that may run before ``release``; in any case for a day, like that of a live containerd.
        """
        with self._store.databases.change():
            self._store.lease.hold(self._store.namespace, run)
        self.durable()

    def release(self, run: str) -> None:
        """End the protection and remove what was protected and nothing refers to."""
        with self._store.databases.read():
            held = bool(runs_leases(self._store.namespace, run))
        if held:
            with self._store.databases.change():
                named = self._store.lease.release(self._store.namespace, run)
                remove_garbage(self._store, self._snapshotter, named)
        self._store.databases.checkpoint()

    def collect(self, digests: frozenset[Digest], snapshots: frozenset[str]) -> None:
        """Remove what is named, what removed names pointed at, and what all that refers to, unless containerd would keep it."""
        if not self._store.root.check():
            return
        kind = snapshots_of(self._snapshotter)
        with self._store.databases.change():
            named = {(CONTENT, digest) for digest in digests} | {(kind, name) for name in snapshots}
            remove_garbage(self._store, self._snapshotter, named)
        self._store.databases.checkpoint()

    def durable(self) -> None:
        """Return when all that was stored before the call would survive a power cut. Raises TargetFull, TargetUnavailable."""
        self._store.databases.durable()

    def file_systems(self) -> Mapping[str, Path]:
        """Where bytes will land."""
        root = self._store.root
        return {"content": root.content, "snapshots": root.snapshotter(self._snapshotter)}
