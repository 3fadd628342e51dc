"""The imagedb: image configs by ID, and what Docker noted beside each.

Source: moby ``daemon/internal/image/fs.go`` and ``store.go``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from transship.errors import SourceCorrupt
from transship.formats import digest, docker_image
from transship.stores.docker import small_files
from transship.stores.docker.problem import Problem

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from pathlib import Path

    from transship.formats.digest import Digest
    from transship.formats.docker_image import ImageConfig

_Value = TypeVar("_Value")

RESTORE_HINT = "pull or rebuild the image, or leave it out"


@dataclass(frozen=True)
class Image:
    """An image. ``raw`` are the config's bytes, whose digest is ``id``; ``config`` is what they say.

    ``parent`` is the image that the classic builder or a commit started from. ``built_locally`` is Docker's own mark (since
    24.0.9 and 25.0.2) that the builder may take the image from its cache. ``references`` are canonical names with a tag,
    ``digest_references`` with a registry's manifest digest. ``chain_ids`` are its layers, base first.
    """

    id: Digest
    raw: bytes
    config: ImageConfig
    parent: Digest | None
    last_updated: datetime | None
    built_locally: bool
    references: tuple[str, ...]
    digest_references: tuple[str, ...]
    chain_ids: tuple[Digest, ...]


@dataclass(frozen=True)
class Metadata:
    """What Docker noted beside a config."""

    parent: Digest | None
    last_updated: datetime | None
    built_locally: bool


def list_configs(image_root: Path, problems: list[Problem]) -> dict[Digest, os.DirEntry[str]]:
    """Return the imagedb's entries by image ID; names that are none are added to ``problems``. Raises SourceError."""
    found: dict[Digest, os.DirEntry[str]] = {}
    for entry in small_files.entries(image_root / "imagedb" / "content" / "sha256"):
        try:
            found[digest.from_hex(entry.name)] = entry
        except ValueError:
            error = SourceCorrupt(
                f"{small_files.shown(entry.path)} is not an image's config",
                remedy="if Docker left it behind when it was interrupted, it is of no use",
            )
            problems.append(Problem(small_files.shown(entry.path), error))
    return found


def read_config(image_id: Digest, path: str) -> tuple[bytes, ImageConfig]:
    """Return the config at ``path``, as it is and decoded. Raises SourceCorrupt if it is not what ``image_id`` names."""
    raw = small_files.read(path, docker_image.SIZE_LIMIT)
    if not raw:
        raise SourceCorrupt(f"image {image_id}: {path} is {'missing' if raw is None else 'empty'}", remedy=RESTORE_HINT)
    if digest.of(raw) != image_id:
        raise SourceCorrupt(f"image {image_id}: {path} does not have this digest", remedy=RESTORE_HINT)
    try:
        return raw, docker_image.parse_config(raw)
    except ValueError as error:
        raise SourceCorrupt(f"image {image_id}: {path}: {error}", remedy=RESTORE_HINT) from error


def read_metadata(image_root: Path, image_id: Digest, problems: list[Problem]) -> Metadata:
    """Return what Docker noted beside the config of ``image_id``; what of it cannot be read is added to ``problems``."""
    directory = f"{image_root}/imagedb/metadata/sha256/{digest.hex_part(image_id)}"

    def noted(name: str, parse: Callable[[str], _Value]) -> _Value | None:
        try:
            text = small_files.read_text(f"{directory}/{name}")
            return parse(text) if text else None
        except SourceCorrupt as error:
            problems.append(Problem(image_id, error))
        except ValueError as error:
            problems.append(
                Problem(image_id, SourceCorrupt(f"image {image_id}: {directory}/{name}: {error}", remedy=_NOTES_HINT))
            )
        return None

    return Metadata(
        parent=noted("parent", digest.parse),
        last_updated=noted("lastUpdated", datetime.fromisoformat),
        built_locally=noted("builtLocally", str) == "\1",
    )


_NOTES_HINT = "the image itself is whole; the build cache may lose it"
