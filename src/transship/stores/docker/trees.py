"""A layer's files in the form that a snapshotter wants, from the form in which the driver keeps them.

Some drivers keep diffs, some full trees. A full tree is made of diffs by laying them over one another; a diff is cut out of a
full tree by the names in the layer's tar-split data, which say exactly what the layer owns, whiteouts included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.files.fill import Filler, FillMode
from transship.stores.docker.drivers.known import DRIVERS
from transship.stores.interfaces import TreeForm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from transship.files.tree import Directory
    from transship.stores.docker.layers import Layer
    from transship.stores.docker.store import Store


@dataclass(frozen=True)
class Origin:
    """Where a layer's tree is to be read from, and the form wanted: all that is needed to open it, in any process.

    ``directories`` are those of the layer and of the layers below it, topmost first.
    """

    form: TreeForm
    driver: str
    directories: tuple[Path, ...]
    metadata: Path

    @classmethod
    def of(cls, store: Store, layer: Layer, form: TreeForm) -> Origin:
        """Return the origin of the tree of ``layer`` in the form wanted."""
        directories = tuple(each.driver_directory for each in _stack(store, layer))
        return cls(form, store.driver, directories, layer.tar_split)


def open_tree(origin: Origin) -> Directory:
    """Open a layer's tree in the form wanted. The caller closes it. Raises OSError, SourceError."""
    driver = DRIVERS[origin.driver]
    if origin.form is TreeForm.FULL:
        return driver.full(origin.directories)
    return driver.diff(origin.directories, origin.metadata)


def fill(origin: Origin, directory: Path, mode: FillMode, check_cancelled: Callable[[], None] = lambda: None) -> None:
    """Fill the empty ``directory`` with a layer's tree. Raises OSError, SourceError."""
    Filler(mode, origin.form is TreeForm.FULL, lambda _: check_cancelled()).fill(open_tree(origin), directory)


def _stack(store: Store, layer: Layer) -> Iterator[Layer]:
    """Yield ``layer`` and the layers below it, topmost first."""
    current: Layer | None = layer
    while current is not None:
        yield current
        current = store.layers[current.parent] if current.parent else None
