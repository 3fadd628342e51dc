"""Where the metadata that are made of a v1 store go: into its root, or aside.

An upgrade in place writes beside what is there, and remembers how to take that back. On the way to containerd the old root is
not written to: the metadata are kept in the state directory, where a later run finds them again.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.files.changes import Directory, make_all
from transship.legs.trouble import trouble

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from transship.files.changes import Change
    from transship.files.ledger import Ledger
    from transship.stores.graph.store import Graph


@dataclass(frozen=True)
class Workspace:
    """What is made of ``graph`` is written below ``place``; ``ledger`` is there if that is the old root itself.

    ``scratch`` is a directory of our own.
    """

    graph: Graph
    place: Path
    scratch: Path
    ledger: Ledger | None

    @property
    def in_place(self) -> bool:
        """Whether the old root is written to."""
        return self.ledger is not None

    @property
    def image_root(self) -> str:
        """Where the content-addressable store is, relative to the place."""
        return f"image/{self.graph.driver}"

    def make(self, key: str, changes: Sequence[Change]) -> bool:
        """Make ``changes`` for the step ``key``; return whether the old root was changed. Raises TransshipError."""
        try:
            if self.ledger is not None:
                return self.ledger.make(key, changes)
            make_all(self.place, changes, key)
        except OSError as error:
            raise trouble(error, self.place) from error
        return False

    def directories(self, path: str, mode: int) -> Iterator[Directory]:
        """Yield what makes the directory ``path`` and those above it, as far as they are missing, all with ``mode``."""
        parts = path.split("/")
        for end in range(1, len(parts) + 1):
            yield Directory("/".join(parts[:end]), mode)


def aside(state_dir: Path, root: Path, driver: str) -> Path:
    """Return the directory of the state directory in which the metadata made of the store at ``root`` are kept."""
    name = hashlib.sha256(os.fsencode(root.resolve()) + b"\0" + driver.encode()).hexdigest()[:32]
    return state_dir / "graph" / name
