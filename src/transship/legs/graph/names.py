"""The step that writes the names of images where Docker 1.10 and later look for them.

Source: moby v1.10.3 ``migrate/v1/migratev1.go`` (migrateRefs) and ``reference/store.go``.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from transship.engine.step import Resource, Result, Step
from transship.errors import SourceCorrupt
from transship.files.changes import File
from transship.formats import references
from transship.legs.left_out import LeftOut
from transship.stores.docker.repositories import read_repositories

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transship.engine.step import Context, Value
    from transship.files.changes import Change
    from transship.legs.graph.images import NewImage
    from transship.legs.graph.workspace import Workspace
    from transship.stores.graph.store import Graph

NAMES_KEY = "v1-names:repositories.json"
MARKER = ".migration-v1-tags"
_REMEDY = "pull or build the image again, or remove the name"


def name_steps(
    workspace: Workspace, images: Mapping[str, NewImage], replaced: Mapping[str, str], *, all_names: bool
) -> tuple[list[Step], list[LeftOut]]:
    """Return the step for all names whose image is among ``images`` (by v1 ID), and the names that are lost, and why.

    ``all_names``: those of images that are not among them are lost; else they were not asked for. ``replaced`` are images, by
    v1 ID, that an earlier migration spoilt and that have been made anew: names that stand for these follow. A root in which
    Docker has carried names over gets no others: some may have been removed since.
    """
    graph = workspace.graph
    standing = _standing(workspace)
    known = _following(graph, images, replaced, standing)
    lost: list[LeftOut] = []
    if workspace.in_place and (workspace.place / MARKER).exists():
        note = "Docker has carried the names over already; those that are not there by now were removed, or lost then"
        lost.append(LeftOut(MARKER, note, "tag images again where a name is missing", lost=False))
        if not known:
            return [], lost
    else:
        for name, v1_id in graph.names.ids.items():
            try:
                known[name] = _target(graph, images, standing, name, v1_id)
            except SourceCorrupt as error:
                lost.append(LeftOut.of(name, error, lost=True))
        lost += [LeftOut.of(problem.subject, problem.error, lost=True) for problem in graph.names.problems]
    known |= {references.familiar(name): image_id for name, image_id in standing.items()}
    run, check = partial(_write, workspace, known), partial(_stands, workspace, known)
    return [Step(NAMES_KEY, f"{len(known)} names", Resource.DISK, run, check)], lost if all_names else []


def _standing(workspace: Workspace) -> dict[str, str]:
    """Return the canonical names that the new store has already, in an old root, and the images that they stand for."""
    path = workspace.place / workspace.image_root / "repositories.json"
    if not workspace.in_place or not path.exists():
        return {}
    present = read_repositories(path)
    return dict(present.tags | present.digest_references)


def _following(
    graph: Graph, images: Mapping[str, NewImage], replaced: Mapping[str, str], standing: dict[str, str]
) -> dict[str, str]:
    """Move the names of images that were ``replaced`` out of ``standing``; return them, familiar, with the new images."""
    found: dict[str, str] = {}
    for name, v1_id in graph.names.ids.items():
        canonical = references.canonical(name)
        if v1_id in replaced and standing.get(canonical) == replaced[v1_id]:
            del standing[canonical]
            found[name] = images[v1_id].image_id
    return found


def _target(graph: Graph, images: Mapping[str, NewImage], standing: Mapping[str, str], name: str, v1_id: str) -> str:
    """Return the new image of the v1 image that ``name`` stands for.

    Raises SourceCorrupt if there is none, or if the name stands for another one already.
    """
    if v1_id in images:
        target = images[v1_id].image_id
        before = standing.get(references.canonical(name), target)
        if before == target:
            return target
        raise SourceCorrupt(f"{name} stands for {before} already, and not for {target}", remedy="tag one of them anew")
    state = "could not be carried over" if v1_id in graph.images or v1_id in graph.broken else "is not in the store"
    raise SourceCorrupt(f"{name} stands for image {v1_id[:64]}, which {state}", remedy=_REMEDY)


def _repositories(known: Mapping[str, str]) -> bytes:
    """Return ``repositories.json`` with these familiar names."""
    repositories: dict[str, dict[str, str]] = {}
    for name in sorted(known, key=str.encode):
        bare = references.parse(name)
        repository = references.familiar(bare.repository)
        repositories.setdefault(repository, {})[name] = known[name]
    ordered = {name: repositories[name] for name in sorted(repositories, key=str.encode)}
    return json.dumps({"Repositories": ordered}, separators=(",", ":")).encode()


def _file(workspace: Workspace, known: Mapping[str, str]) -> File:
    return File(f"{workspace.image_root}/repositories.json", _repositories(known), 0o600)


def _write(workspace: Workspace, known: Mapping[str, str], _context: Context) -> Result:
    changes: list[Change] = [
        *workspace.directories(workspace.image_root, 0o700),
        _file(workspace, known),
        File(MARKER, b"", 0o644),
    ]
    return Result({"names": len(known)}, workspace.make(NAMES_KEY, changes))


def _stands(workspace: Workspace, known: Mapping[str, str], _value: Value) -> bool:
    return _file(workspace, known).is_made(workspace.place)
