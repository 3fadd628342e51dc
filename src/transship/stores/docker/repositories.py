"""repositories.json: which names a store's images have.

Source: moby ``daemon/internal/refstore/store.go``. Names in the file are familiar ones; here they are canonical.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from transship.errors import SourceCorrupt
from transship.formats import digest, references
from transship.stores.docker import small_files
from transship.stores.docker.problem import Problem

if TYPE_CHECKING:
    from pathlib import Path

    from transship.formats.digest import Digest

_SIZE_LIMIT = 64 * 1024 * 1024
_RESTORE_HINT = "restore it from a backup; without it, images have no names"


class _File(msgspec.Struct, rename="pascal"):
    repositories: dict[str, dict[str, str] | None] | None = None


@dataclass(frozen=True)
class Repositories:
    """Names, each canonical and with either a tag or a registry's manifest digest, and the image ID that each stands for."""

    tags: dict[str, Digest] = field(default_factory=dict)
    digest_references: dict[str, Digest] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_repositories(path: Path) -> Repositories:
    """Read the file at ``path``; what is wrong with it, or with a name in it, is among the problems. Raises nothing."""
    found = Repositories()
    try:
        named = _read_file(path)
    except SourceCorrupt as error:
        found.problems.append(Problem(str(path), error, loses=True))
        return found
    # The form that Docker itself looks up comes first, should a name be there in two spellings.
    for name, image_id in sorted(named, key=lambda pair: (not _is_familiar(pair[0]), pair[0])):
        try:
            _add(found, name, image_id)
        except ValueError as error:
            message = f"{path}: {name[:300]!r}: {error}"
            damage = SourceCorrupt(message, remedy="tag the image again after the migration")
            found.problems.append(Problem(name, damage, loses=True))
    return found


def _read_file(path: Path) -> list[tuple[str, str]]:
    repositories = read_file(path)
    if repositories is None:
        raise SourceCorrupt(f"{path} is missing", remedy=_RESTORE_HINT)
    return [pair for names in repositories.values() for pair in names.items()]


def read_file(path: Path) -> dict[str, dict[str, str]] | None:
    """Return what the file at ``path`` has for each repository, None if nothing is there. Raises SourceCorrupt.

    The file of the v1 store has the same form, with other keys.
    """
    raw = small_files.read(str(path), _SIZE_LIMIT)
    if raw is None:
        return None
    try:
        repositories = msgspec.json.decode(raw, type=_File).repositories or {}
    except (ValueError, RecursionError) as error:
        raise SourceCorrupt(f"{path} is damaged: {error}", remedy=_RESTORE_HINT) from error
    return {repository: names or {} for repository, names in repositories.items()}


def _add(found: Repositories, name: str, image_id: str) -> None:
    reference = references.parse(name)
    target = digest.parse(image_id)
    if (reference.tag is None) == (reference.digest is None):
        raise ValueError("expected either a tag or a digest")
    names = found.digest_references if reference.tag is None else found.tags
    if names.setdefault(str(reference), target) != target:
        raise ValueError(f"stands for {target} and, in another spelling, for {names[str(reference)]}")


def _is_familiar(name: str) -> bool:
    try:
        return references.familiar(name) == name
    except ValueError:
        return False
