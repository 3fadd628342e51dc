"""``repositories-<driver>``: which names the images of the v1 store have.

Source: moby v1.9.1 ``graph/tags.go``; v1.10.3 ``migrate/v1/migratev1.go`` (migrateRefs). A key of a repository is a tag or the
digest of a registry's manifest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from transship.errors import SourceCorrupt
from transship.formats import references
from transship.stores.docker import repositories as newer
from transship.stores.docker.problem import Problem

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Names:
    """Familiar names, each with a tag or a digest, and the v1 ID that each stands for; and what cannot be a name."""

    ids: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_names(path: Path) -> Names:
    """Read the file at ``path``; no file means no names. What is wrong with it, or with a name, is among the problems.

    Docker 1.9 knew one image under several spellings (``debian``, ``library/debian``, ``docker.io/debian``), which are one name
    since 1.10. Where these stand for different images, the spelling that Docker 1.9 itself wrote, the shortest, counts.
    """
    found = Names()
    try:
        repositories = read_file(path)
    except SourceCorrupt as error:
        found.problems.append(Problem(str(path), error, loses=True))
        return found
    for repository in sorted(repositories, key=lambda name: (len(name), name)):
        for key, image_id in sorted(repositories[repository].items()):
            _add(found, path, repository, key, image_id)
    return found


def read_file(path: Path) -> dict[str, dict[str, str]]:
    """Return what the file at ``path`` says, as it stands: repository to tag or digest to v1 ID. Raises SourceCorrupt."""
    return newer.read_file(path) or {}


def _add(found: Names, path: Path, repository: str, key: str, image_id: str) -> None:
    shown = f"{repository[:300]}{'@' if ':' in key else ':'}{key[:150]}"
    try:
        name = familiar_name(repository, key)
    except ValueError as error:
        what = str(error)
    else:
        known = found.ids.setdefault(name, image_id)
        if known == image_id:
            return
        what = f"is the same name as {name} now, which stands for {known[:64]}, and not for {image_id[:64]}"
    remedy = "tag the image again after the migration"
    found.problems.append(Problem(shown, SourceCorrupt(f"{path}: {shown}: {what}", remedy=remedy), loses=True))


def familiar_name(repository: str, key: str) -> str:
    """Return the familiar name of ``key``, a tag or a digest, in ``repository``. Raises ValueError if it cannot be one."""
    bare = references.parse(repository)
    if bare.tag is not None or bare.digest is not None:
        raise ValueError(f"not the name of a repository: {repository[:100]!r}")
    reference = references.parse(f"{repository}{'@' if ':' in key else ':'}{key}")
    if bare.familiar == "sha256":
        raise ValueError("Docker takes the name sha256 for a digest")
    return reference.familiar
