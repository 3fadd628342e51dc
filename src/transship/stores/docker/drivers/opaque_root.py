"""A layer that hides all that is below it, in a form that overlayfs understands.

At the root of a mount overlayfs does not heed the mark for an opaque directory: each name below has to be deleted by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transship.files.tree import Child, DiffDirectory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping


class OpaqueRoot:
    """The root of a diff, with whiteouts for ``hidden``, names in the root below that it has not itself."""

    def __init__(self, diff: DiffDirectory, hidden: Collection[str]) -> None:
        """Takes ``diff`` over."""
        self._diff = diff
        self._hidden = hidden
        self.status = diff.status
        self.opaque = True

    def children(self) -> Iterator[Child]:
        own = set()
        for child in self._diff.children():
            own.add(child.name)
            yield child
        for name in self._hidden:
            if name not in own:
                yield Child(name, None, -1)

    def enter(self, child: Child) -> DiffDirectory:
        entered = self._diff.enter(child)
        entered.opaque = True
        return entered

    def xattrs(self) -> Mapping[str, bytes]:
        return self._diff.xattrs()

    def close(self) -> None:
        self._diff.close()
