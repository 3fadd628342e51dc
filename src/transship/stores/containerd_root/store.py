"""What the parts of one target share: root, databases, namespace, the run's lease."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from transship.errors import TargetRefused
from transship.stores.containerd_db.metadata import Namespace
from transship.stores.containerd_root.databases import Databases
from transship.stores.containerd_root.lease import Lease
from transship.stores.containerd_root.places import Root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transship.stores.containerd_db.snapshotter import Snapshots


class Store:
    """One namespace and one snapshotter of the root at ``directory``."""

    def __init__(self, directory: Path, namespace: str, snapshotter: str) -> None:
        self.root = Root(directory)
        self.databases = Databases(self.root, snapshotter)
        self.lease = Lease()
        self.name = namespace
        self._ingests: set[str] = set()

    @property
    def namespace(self) -> Namespace:
        """The namespace's records, for use inside ``read``, ``change`` and ``use``."""
        return Namespace(self.databases.meta, self.name)

    @property
    def snapshots(self) -> Snapshots:
        """The snapshotter's own records, likewise."""
        return self.databases.snapshots

    @contextmanager
    def use(self) -> Iterator[None]:
        """Have the databases to look something up that is to be kept if a run is under way."""
        with self.databases.change() if self.lease.held else self.databases.read():
            yield

    def begin_ingest(self, reference: str) -> None:
        """Take note of an ingest, while the databases are to be changed. Raises TargetRefused if it has begun already."""
        if reference in self._ingests:
            raise TargetRefused(f"ingest {reference} has a writer already")
        self._ingests.add(reference)

    def end_ingest(self, reference: str) -> None:
        """Take note that an ingest has ended."""
        self._ingests.discard(reference)
