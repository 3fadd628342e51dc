"""Finding what is damaged in a v1 store. Nothing is written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from transship.errors import SourceCorrupt
from transship.stores.docker.problem import Problem
from transship.stores.graph.relations import ensure_stated
from transship.stores.graph.stream import LayerFiles, recorded, traditional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transship.stores.graph.images import GraphImage
    from transship.stores.graph.store import Graph


def metadata_problems(graph: Graph) -> list[Problem]:
    """Return what is wrong with images' files but for their layers, with their ancestors, and with names."""
    problems = list(graph.problems)
    _, lost = graph.in_order()
    problems += [Problem(image_id, error) for image_id, error in lost.items() if image_id not in graph.broken]
    for image in graph.images.values():
        try:
            ensure_stated(image.id, image.raw)
            _ = image.size, image.registry_digest
        except SourceCorrupt as error:
            problems.append(Problem(image.id, error))
    for name, image_id in graph.names.ids.items():
        if image_id not in graph.images and image_id not in graph.broken:
            absent = SourceCorrupt(f"{name} stands for {image_id[:64]}, which is not in the store", remedy="remove the name")
            problems.append(Problem(name, absent, loses=True))
    return problems


def layer_files(graph: Graph, image: GraphImage) -> LayerFiles:
    """Return where the files of an image's layer are. Raises SourceCorrupt if they or the parent's are not there."""
    return LayerFiles(
        graph.driver,
        graph.layer_directory(image.id),
        None if image.parent is None else graph.layer_directory(image.parent),
        image.tar_data if os.path.lexists(image.tar_data) else None,
    )


def best_stream(files: LayerFiles) -> tuple[Iterator[memoryview], str]:
    """Return a layer's tar stream, and why it is not the one that was recorded; empty if it is.

    What has been read cannot be taken back, so the recorded stream is read once before. Raises as ``traditional`` does.
    """
    try:
        for _ in recorded(files):
            pass
    except SourceCorrupt as error:
        return traditional(files), error.message
    return recorded(files), ""


def check_layer(graph: Graph, image: GraphImage, passed: Callable[[int], None]) -> bool:
    """Read all of an image's layer, ``passed`` called with numbers of bytes; return whether its stream was recorded.

    If it was, each file is held against its CRC-64. Raises SourceCorrupt if the layer is not whole.
    """
    if not os.path.lexists(image.tar_data):
        stream, is_recorded = traditional(layer_files(graph, image)), False
    else:  # then what the layer stands on has no part in it
        directory = graph.layer_directory(image.id)
        stream, is_recorded = recorded(LayerFiles(graph.driver, directory, None, image.tar_data)), True
    for chunk in stream:
        passed(len(chunk))
    return is_recorded
