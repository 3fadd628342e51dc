"""Copies of v1 stores, to be upgraded in place, and how to see that nothing old has been hurt, and all that is new is whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.real.command import Transship
from tests.real.trees import KIND, MTIME, XATTRS, Tree, differences, listing
from tests.v1_stores import copy_v1_root

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class OldRoot:
    """A data root that Docker 1.9 has left, and transship with its own upgrade as the target."""

    root: Path
    before: Tree = field(repr=False)
    transship: Transship

    @classmethod
    def make(cls, store: Path, place: Path) -> OldRoot:
        """Copy a store of tests/data/docker to ``place``, which also gets the state directory."""
        root = copy_v1_root(store, place / "root")
        return cls(root, listing(root), Transship(place / "state", ("--source", root, "--target", "docker")))

    def made(self) -> Tree:
        """Describe the root, without the times of what an upgrade makes and of the directories that it makes it in."""
        tree = listing(self.root)
        for path, entry in tree.items():
            if entry[KIND] == "d" or path not in self.before:
                entry[MTIME] = None
        return tree

    def check_old_is_whole(self) -> None:
        """Assert that all that was there is there, as it was, whatever else there is."""
        now = listing(self.root)
        assert self.before.keys() - now.keys() == set()
        hurt = {path for path, entry in self.before.items() if _content(entry) != _content(now[path])}
        assert hurt == set()

    def check_restored(self) -> None:
        """Assert that everything is as it was, and nothing else there."""
        assert differences(listing(self.root), self.before) == {}


def _content(entry: list[object]) -> list[object]:
    """Return what is known of a file, and of a directory what adding files to it does not change."""
    return entry[:MTIME] if entry[KIND] == "d" else entry[: XATTRS + 1]
