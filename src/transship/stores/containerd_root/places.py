"""Where containerd keeps things below its root, and how it makes that: directories with their modes.

Sources: containerd ``plugins/content/local``, ``plugins/metadata``, ``plugins/snapshots/{overlay,native}``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from transship.errors import TargetRefused, TargetUnavailable
from transship.stores.directories import names_in

if TYPE_CHECKING:
    from pathlib import Path

META = "meta"
"""The name here of containerd's database of everything; a snapshotter's has the snapshotter's."""
SNAPSHOTTERS = ("native", "overlayfs")
_OWN = "io.containerd."
"""Begins the names of containerd's directories."""
_PENDING = "transship.pending"


class Root:
    """containerd's root at ``directory``, which may be yet to be made. Links to directories in it are followed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.content = directory / f"{_OWN}content.v1.content"
        self.blobs = self.content / "blobs" / "sha256"
        self.ingests = self.content / "ingest"
        self.pending = directory / _PENDING
        """What is to come into the databases yet: see ``pending.py``."""

    def snapshotter(self, name: str) -> Path:
        """Return a snapshotter's directory."""
        return self.directory / f"{_OWN}snapshotter.v1.{name}"

    def trees(self, snapshotter: str) -> Path:
        """Return the directory that has one for each snapshot, named by its number."""
        return self.snapshotter(snapshotter) / "snapshots"

    def database(self, name: str) -> Path:
        """Return the database called ``name`` here."""
        if name == META:
            return self.directory / f"{_OWN}metadata.v1.bolt" / "meta.db"
        return self.snapshotter(name) / "metadata.db"

    def check(self) -> bool:
        """Tell whether containerd's root is there, False if it can be made.

        Raises TargetRefused if the directory holds something else, TargetUnavailable if it cannot be read, or made.
        """
        names = names_in(self.directory) - {_PENDING}  # which a run that is killed leaves first
        if any(name.startswith(_OWN) for name in names):
            return True
        if names:
            raise TargetRefused(
                f"{self.directory} is not empty, and not containerd's root",
                remedy="give a new or empty directory, or such a root",
            )
        landing = self._landing()
        if not os.access(landing, os.W_OK | os.X_OK):
            raise TargetUnavailable(f"{landing} cannot be written to", remedy="run as root, or give another directory")
        return False

    def make(self, snapshotter: str) -> None:
        """Make what is not there of the directories. Raises OSError."""
        modes = {
            self.directory: 0o700,
            self.content: 0o755,
            self.blobs.parent: 0o755,
            self.blobs: 0o755,
            self.ingests: 0o755,
            self.database(META).parent: 0o711,
            self.snapshotter(snapshotter): 0o700,
            self.trees(snapshotter): 0o700,
        }
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        for path, mode in modes.items():
            if not path.is_dir():
                make_directory(path, mode)

    def file_systems(self, snapshotter: str) -> list[Path]:
        """Return a directory on each of the file systems that the root is on, once it is made. Raises OSError."""
        places = (self.directory, self.content, self.database(META).parent, self.snapshotter(snapshotter))
        return list({path.stat().st_dev: path for path in places}.values())

    def _landing(self) -> Path:
        directory = self.directory.absolute()
        return next(path for path in (directory, *directory.parents) if path.is_dir() or path == path.parent)


def make_directory(path: Path, mode: int) -> None:
    """Make a directory with this very mode, whatever this process' mask is: others than containerd pass through some."""
    path.mkdir(mode)
    path.chmod(mode)
