"""Steps that find the diff ID of each layer of a v1 store, which Docker 1.10 did first, too.

What it left in ``graph/<ID>`` (moby v1.10.3 ``migrate/v1/migratev1.go``, ``layer/migration.go``): ``.migration-diffid`` and
``.migration-size`` as text, ``.migration-tardata`` with the tar-split data that belong to them.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from transship.engine.step import Cost, Resource, Result, Step
from transship.errors import SourceCorrupt
from transship.files.changes import Copy, File, HardLink, holds
from transship.formats import digest
from transship.formats.digest import Digest
from transship.stores.docker import small_files, tar_stream
from transship.stores.docker.reduced import is_reduced
from transship.stores.graph import check
from transship.stores.graph.images import RESTORE_HINT
from transship.stores.graph.stream import checksum

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transship.engine.step import Context
    from transship.files.changes import Change
    from transship.legs.graph.workspace import Workspace
    from transship.stores.graph.images import GraphImage
    from transship.stores.graph.stream import LayerFiles

_UNKNOWN_SIZE = 1 << 20


class LayerSum(msgspec.Struct, frozen=True):
    """What a step leaves: the layer's diff ID, the bytes of its files, and which tar-split data belong to it.

    ``recorded``: not those that Docker recorded, but new ones. ``fallback`` says why Docker's do not serve, if it has any.
    ``corrected`` is what an earlier migration noted as the diff ID, if that is not true.
    """

    diff_id: Digest
    size: int
    recorded: bool
    fallback: str = ""
    corrected: str = ""


def checksum_key(image_id: str) -> str:
    """Return the key of the step that finds the diff ID of an image's layer."""
    return f"checksum:{image_id}"


def checksum_step(workspace: Workspace, image: GraphImage) -> Step:
    """Return the step that finds the diff ID of the layer of ``image``, one that is in the store with its parent."""
    return Step(
        key=checksum_key(image.id),
        title=f"checksum {image.id[:12]}",
        resource=Resource.CPU,
        run=partial(_find, workspace, image),
        check=lambda value: _stands(workspace, image, msgspec.convert(value, LayerSum)),
        cost=cost_of(image),
    )


def notes(image: GraphImage) -> str:
    """Return the directory, relative to the workspace, for what is noted of an image."""
    return f"graph/{image.id}"


def recorded_data(workspace: Workspace, image: GraphImage) -> Path:
    """Return where tar-split data made anew for an image are."""
    return workspace.place / notes(image) / ".migration-tardata"


def cost_of(image: GraphImage) -> Cost:
    """Return about what it takes to read an image's layer."""
    try:
        size = image.size
    except SourceCorrupt:
        size = None
    return Cost(_UNKNOWN_SIZE if size is None else size, tar_stream.estimated_files(image.tar_data))


def _stands(workspace: Workspace, image: GraphImage, found: LayerSum) -> bool:
    place = workspace.place / notes(image) / ".migration-diffid"
    has_data = not found.recorded or recorded_data(workspace, image).exists()
    return has_data and holds(place, found.diff_id.encode(), 0o600)


def _find(workspace: Workspace, image: GraphImage, context: Context) -> Result:
    scratch = workspace.scratch / f"{image.id}.tardata"
    noted = _noted(workspace, image)
    found = _checked(workspace, image, noted, context)
    if found is None:
        found = _computed(workspace, image, scratch, context)
        if noted is not None and noted != found.diff_id:
            found = msgspec.structs.replace(found, corrected=noted[:100] or "nothing that can be read")
    created = workspace.make(checksum_key(image.id), list(_changes(workspace, image, found, scratch)))
    scratch.unlink(missing_ok=True)
    return Result(msgspec.to_builtins(found), created)


def _computed(workspace: Workspace, image: GraphImage, scratch: Path, context: Context) -> LayerSum:
    """Return what the layer's files come to; new tar-split data are in ``scratch`` then."""
    files = layer_files(workspace, image)
    try:
        made = checksum(files, scratch, context.advance)
    except OSError as error:
        raise SourceCorrupt(
            f"image {image.id}: {error.filename or files.directory} cannot be read: {error.strerror or error}",
            remedy="check the disk and that transship runs as root",
        ) from error
    fallback = made.fallback if files.tar_data is not None else ""
    return LayerSum(made.diff_id, made.size, made.tar_data != files.tar_data, fallback)


def layer_files(workspace: Workspace, image: GraphImage) -> LayerFiles:
    """Return where the files of an image's layer are. Raises SourceCorrupt if they are not there."""
    try:
        return check.layer_files(workspace.graph, image)
    except SourceCorrupt as error:
        raise SourceCorrupt(f"image {image.id}: {error.message}", remedy=RESTORE_HINT) from error


def _changes(workspace: Workspace, image: GraphImage, found: LayerSum, scratch: Path) -> Iterator[Change]:
    directory = notes(image)
    yield from workspace.directories(directory, 0o700)
    if not found.recorded and workspace.in_place:
        yield HardLink(f"{directory}/.migration-tardata", f"{directory}/{image.tar_data.name}")
    elif found.recorded and scratch.exists():
        yield Copy(f"{directory}/.migration-tardata", scratch, 0o644)
    yield File(f"{directory}/.migration-size", str(found.size).encode(), 0o600)
    yield File(f"{directory}/.migration-diffid", found.diff_id.encode(), 0o600)


def _noted(workspace: Workspace, image: GraphImage) -> str | None:
    """Return what is noted as the layer's diff ID, None if nothing is; an empty text if it cannot be read."""
    try:
        return small_files.read_text(f"{workspace.place / notes(image)}/.migration-diffid")
    except SourceCorrupt:
        return ""


def _checked(workspace: Workspace, image: GraphImage, known: str | None, context: Context) -> LayerSum | None:
    """Return what Docker 1.10, its migrator or an earlier run has found; None if there is nothing, or if it is not true.

    Docker took such files as they were. Here the stream that they describe is put together, and has to have the diff ID.
    """
    new = recorded_data(workspace, image)
    recorded = new.exists() and not (image.tar_data.exists() and new.samefile(image.tar_data))
    data = new if recorded else image.tar_data
    if known is None or not data.exists() or is_reduced(data, image.id):
        return None
    total = hashlib.sha256()
    try:
        diff_id = digest.parse(known)
        size = sum(entry.size for entry in tar_stream.entries(data))
        for chunk in tar_stream.read(data, layer_files(workspace, image).directory):
            total.update(chunk)
            context.advance(len(chunk))
    except (SourceCorrupt, OSError, ValueError):  # then it is found anew, and what is wrong will show
        return None
    if total.hexdigest() != digest.hex_part(diff_id):
        return None
    return LayerSum(diff_id, size, recorded, "so an earlier migration says" if recorded and image.tar_data.exists() else "")
