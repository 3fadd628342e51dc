"""Steps that have Docker 1.10 and later find the containers of a v1 store: a config that names the new image, and a mount.

Source: moby v1.10.3 ``migrate/v1/migratev1.go`` (migrateContainers) and ``layer/migration.go`` (CreateRWLayerByGraphID).
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from transship.engine.step import Resource, Result, Step
from transship.errors import SourceCorrupt
from transship.files.changes import File, is_directory
from transship.formats import v1_image
from transship.legs.left_out import LeftOut
from transship.stores.docker import small_files
from transship.stores.graph.images import ID
from transship.stores.graph.store import PLACES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transship.engine.step import Context, Value
    from transship.files.changes import Change
    from transship.legs.graph.images import NewImage
    from transship.legs.graph.workspace import Workspace

_CONFIG_LIMIT = 16 * 1024 * 1024
_REMEDY = "its files stay where they are; restore what it lacks and run again, or remove its directory below containers/"


def container_key(container_id: str) -> str:
    """Return the key of the step for a container."""
    return f"v1-container:{container_id}"


def container_steps(workspace: Workspace, images: Mapping[str, NewImage]) -> tuple[list[Step], list[LeftOut]]:
    """Return a step for each container, and what is none; ``images`` are the new images by v1 ID.

    One that cannot be carried over fails by itself.
    """
    steps: list[Step] = []
    strays: list[LeftOut] = []
    for entry in small_files.entries(workspace.graph.root / "containers"):
        if _is_new(workspace, entry.name):
            continue
        if ID.fullmatch(entry.name):
            run, check = partial(_carry_over, workspace, images, entry.name), partial(_stands, workspace, entry.name)
            steps.append(Step(container_key(entry.name), f"container {entry.name[:12]}", Resource.DISK, run, check))
        else:
            path = small_files.shown(entry.path)
            reason = f"{path} is not called by a container's ID"
            strays.append(LeftOut(path, reason, "no container was ever to be had from it", lost=False))
    return steps, strays


def _is_new(workspace: Workspace, name: str) -> bool:
    """Tell whether a container was made by Docker 1.10 or later, on a root that had been upgraded before."""
    directory = workspace.graph.root / "containers" / name
    return os.path.lexists(directory / "config.v2.json") and not os.path.lexists(directory / "config.json")


def _stands(workspace: Workspace, container_id: str, _value: Value) -> bool:
    config = workspace.place / "containers" / container_id / "config.v2.json"
    return config.exists() and (workspace.place / _mount(workspace, container_id) / "mount-id").exists()


def _carry_over(workspace: Workspace, images: Mapping[str, NewImage], container_id: str, _context: Context) -> Result:
    image_id, raw = _config(workspace, container_id)
    if image_id not in images:
        raise SourceCorrupt(f"container {container_id}: its image {image_id[:100]} could not be carried over", remedy=_REMEDY)
    if not _has_layer(workspace, container_id):
        raise SourceCorrupt(f"container {container_id}: its writable layer is missing", remedy=_REMEDY)
    image = images[image_id]
    try:
        config = v1_image.container_config(raw, image.image_id)
    except ValueError as error:
        raise SourceCorrupt(f"container {container_id}: its config.json: {error}", remedy=_REMEDY) from error
    changes = [*_mount_changes(workspace, container_id, image), *_config_changes(workspace, container_id, config)]
    created = workspace.make(container_key(container_id), changes)
    return Result({"image_id": image.image_id, "chain_id": image.chain_id}, created)


def _config(workspace: Workspace, container_id: str) -> tuple[str, bytes]:
    """Return the v1 ID of a container's image, and its ``config.json``."""
    above = workspace.graph.root / "containers"
    path = above / container_id / "config.json"
    if not (is_directory(above) and is_directory(path.parent)):
        raise SourceCorrupt(
            f"container {container_id}: {path.parent} is not a directory; links are not followed", remedy=_REMEDY
        )
    raw = small_files.read(str(path), _CONFIG_LIMIT)
    if raw is None:
        raise SourceCorrupt(f"container {container_id}: {path} is missing", remedy=_REMEDY)
    try:
        return v1_image.container_image(raw), raw
    except ValueError as error:
        raise SourceCorrupt(f"container {container_id}: {path}: {error}", remedy=_REMEDY) from error


def _has_layer(workspace: Workspace, name: str) -> bool:
    graph = workspace.graph
    return os.path.lexists(graph.root / PLACES[graph.driver] / name)


def _mount(workspace: Workspace, container_id: str) -> str:
    return f"{workspace.image_root}/layerdb/mounts/{container_id}"


def _mount_changes(workspace: Workspace, container_id: str, image: NewImage) -> Iterator[Change]:
    """Yield what makes the mount. One that is whole is Docker's; ``mount-id`` comes last."""
    mount = _mount(workspace, container_id)
    if os.path.lexists(workspace.place / mount / "mount-id"):
        return
    yield from workspace.directories(mount, 0o755)
    if _has_layer(workspace, f"{container_id}-init"):
        yield File(f"{mount}/init-id", f"{container_id}-init".encode(), 0o644)
    yield File(f"{mount}/parent", image.chain_id.encode(), 0o644)
    yield File(f"{mount}/mount-id", container_id.encode(), 0o644)


def _config_changes(workspace: Workspace, container_id: str, config: bytes) -> Iterator[Change]:
    """Yield what makes the new config. One that is there already is Docker's, and has been in use."""
    path = f"containers/{container_id}/config.v2.json"
    if not os.path.lexists(workspace.place / path):
        yield File(path, config, 0o600)
