"""The check of an old root that was upgraded in place: every layer's stream, and whether every image arrived."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

from transship.engine.step import Cost, Resource, Result, Step
from transship.errors import SourceMissing, VerificationFailed
from transship.formats import references
from transship.legs.containerd.damage import find_damage
from transship.legs.graph.mapping import SavedMapping
from transship.legs.graph.names import NAMES_KEY
from transship.stores.docker import small_files, tar_stream
from transship.stores.docker.store import read_store
from transship.stores.graph.images import ID

if TYPE_CHECKING:
    from collections.abc import Callable

    from transship.engine.step import Context
    from transship.stores.docker.layers import Layer
    from transship.stores.docker.store import Store
    from transship.stores.graph.store import Graph

_REMEDY = "run `transship migrate --target docker` again"


def plan_check(graph: Graph) -> list[Step]:
    """Return the steps that check what was made of ``graph`` in its own root; each that finds a difference fails.

    Raises SourceMissing if nothing was made of it yet.
    """
    if not (graph.root / "image" / graph.driver).is_dir():
        raise SourceMissing(
            f"{graph.root} is a store of Docker 1.9 or older, and nothing has been made of it yet",
            remedy="verify after `transship migrate --target docker`",
        )
    store = read_store(graph.root, graph.driver)
    mapping = SavedMapping(graph.root)
    damage = [f"{left.subject}: {left.reason}" for left in find_damage(store)]
    steps = [_step(f"layer:{chain_id}", partial(_check_layer, layer), layer) for chain_id, layer in store.layers.items()]
    everything = sorted({*graph.images, *graph.broken})
    steps += [_step(f"v1-image:{v1_id}", partial(_check_image, store, mapping, v1_id)) for v1_id in everything]
    steps += [
        _step(f"v1-container:{entry.name}", partial(_check_container, graph, entry.name))
        for entry in small_files.entries(graph.root / "containers")
        if ID.fullmatch(entry.name)
    ]
    steps.append(_step(NAMES_KEY, partial(_check_names, store, mapping, graph)))
    steps.append(_step("store:image", lambda _: "; ".join(damage)))
    return steps


def _step(key: str, find: Callable[[Context], str], layer: Layer | None = None) -> Step:
    """Return the step that fails if ``find`` finds something to say."""

    def run(context: Context) -> Result:
        if difference := find(context):
            raise VerificationFailed(difference, remedy=_REMEDY)
        return Result({}, created=False)

    cost = Cost(layer.size) if layer else Cost()
    return Step(key, key, Resource.CPU if layer else Resource.DISK, run, lambda _: False, cost=cost)


def _check_layer(layer: Layer, context: Context) -> str:
    total = hashlib.sha256()
    for chunk in tar_stream.read(layer.tar_split, layer.driver_directory):
        total.update(chunk)
        context.advance(len(chunk))
    found = f"sha256:{total.hexdigest()}"
    return "" if found == layer.diff_id else f"layer {layer.chain_id}: its files give {found} instead of {layer.diff_id}"


def _check_image(store: Store, mapping: SavedMapping, v1_id: str, _context: Context) -> str:
    image_id = mapping.get(v1_id)
    if image_id is None:
        return f"image {v1_id} was not carried over"
    return "" if image_id in store.images else f"image {v1_id} has become {image_id}, which is not in the store"


def _check_container(graph: Graph, container_id: str, _context: Context) -> str:
    mount = graph.root / "image" / graph.driver / "layerdb" / "mounts" / container_id / "mount-id"
    whole = mount.exists() and (graph.root / "containers" / container_id / "config.v2.json").exists()
    return "" if whole else f"container {container_id} was not carried over"


def _check_names(store: Store, mapping: SavedMapping, graph: Graph, _context: Context) -> str:
    wrong = [
        name
        for name, v1_id in graph.names.ids.items()
        if mapping.get(v1_id) is None or store.references.get(references.canonical(name)) != mapping.get(v1_id)
    ]
    return f"names that are missing or stand for something else: {', '.join(wrong)}" if wrong else ""
