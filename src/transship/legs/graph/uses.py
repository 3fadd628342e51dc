"""What has come to stand on images that an upgrade in place made: Docker may have run on the root since."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from transship.formats.digest import Digest
from transship.stores.docker import small_files
from transship.stores.docker.store import read_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Set
    from pathlib import Path

    from transship.stores.docker.store import Store


@dataclass(frozen=True)
class Uses:
    """Images and chain IDs of layers in a root that something else needs than what a run has made."""

    images: Set[Digest]
    chains: Set[Digest]

    @classmethod
    def of(cls, root: Path, driver: str, made: Set[Digest]) -> Self:
        """Look into the root as it is now; ``made`` are the images of the run, by ID. Raises SourceError."""
        store = read_store(root, driver)
        named = set(store.references.values())
        foreign = {image_id: image for image_id, image in store.images.items() if image_id not in made or image_id in named}
        chains = {chain_id for image in foreign.values() for chain_id in image.chain_ids}
        chains |= {chain_id for top in _mounted(root, driver) for chain_id in _down(store, top)}
        return cls(foreign.keys() | named, chains)


def _mounted(root: Path, driver: str) -> Iterator[Digest]:
    """Yield the chain IDs that containers stand on."""
    for entry in small_files.entries(root / "image" / driver / "layerdb" / "mounts"):
        parent = small_files.read_text(f"{entry.path}/parent")
        if parent:
            yield Digest(parent)


def _down(store: Store, top: Digest) -> Iterator[Digest]:
    """Yield the chain ID ``top`` and those of the layers that it stands on, as far as they are whole."""
    layer = store.layers.get(top)
    while layer is not None:
        yield layer.chain_id
        layer = None if layer.parent is None else store.layers.get(layer.parent)
