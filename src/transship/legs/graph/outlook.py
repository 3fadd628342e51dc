"""What the leg ``graph`` would do, as far as that can be told without reading layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.legs.containerd.estimate import guessed_seconds
from transship.legs.graph.checksums import checksum_key, cost_of
from transship.legs.graph.images import image_key, unreadable
from transship.legs.left_out import LeftOut
from transship.stores.docker import small_files
from transship.stores.graph.images import ID

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transship.engine.step import Value
    from transship.stores.graph.images import GraphImage
    from transship.stores.graph.store import Graph


@dataclass(frozen=True)
class Outlook:
    """``images`` in the order in which they are made, with ``depths`` layers each; ``bytes`` in ``files`` are still to be read.

    ``metadata`` bytes would be written, roughly. ``seconds`` is a guess.
    """

    images: tuple[GraphImage, ...]
    depths: Mapping[str, int]
    names: Mapping[str, str]
    left_out: tuple[LeftOut, ...]
    steps: int
    standing: int
    bytes: int
    files: int
    metadata: int
    seconds: float


def outlook(graph: Graph, wanted: frozenset[str], known: Mapping[str, Value], jobs: int, *, in_place: bool = False) -> Outlook:
    """Look ahead. ``wanted`` are v1 IDs; ``known`` are the values of steps that earlier runs have done, ``jobs`` layers are
    read at once. ``in_place``: the root is to be upgraded itself, with its containers.
    """
    in_order, lost = graph.in_order()
    images = [image for image in in_order if image.id in wanted]
    everything = wanted >= graph.images.keys()
    depths: dict[str, int] = {}
    for image in images:
        depths[image.id] = 1 + (depths[image.parent] if image.parent else 0)
    left_out = [LeftOut.of(image_id, error, lost=True) for image_id, error in sorted(lost.items()) if everything]
    left_out += [LeftOut.of(each.subject, each.error, lost=True) for each in graph.names.problems if everything]
    left_out += [LeftOut.of(image.id, error, lost=True) for image in images if in_place and (error := unreadable(image))]
    containers = [entry for entry in small_files.entries(graph.root / "containers") if ID.fullmatch(entry.name)]
    steps = 2 * len(images) + 2 + (len(containers) if in_place else 0)
    keys = [key for image in images for key in (checksum_key(image.id), image_key(image.id))]
    done = sum(key in known for key in keys)
    costs = [cost_of(image) for image in images if checksum_key(image.id) not in known]
    content, files = sum(cost.bytes for cost in costs), sum(cost.files for cost in costs)
    return Outlook(
        images=tuple(images),
        depths=depths,
        names={name: v1_id for name, v1_id in graph.names.ids.items() if v1_id in depths},
        left_out=tuple(left_out),
        steps=steps,
        standing=steps if done == len(keys) else done,
        bytes=content,
        files=files,
        metadata=sum(_size(image) for image in images) * 2 + 16384 * len(images),
        seconds=guessed_seconds(content, files, jobs),
    )


def _size(image: GraphImage) -> int:
    try:
        return image.tar_data.stat().st_size
    except OSError:
        return 0
