"""What a store remembers of registries: blobs that a layer came from or went to, and original manifests.

Source: moby ``daemon/internal/distribution/metadata/v2_metadata_service.go``; since Docker 20.10 a containerd that is dockerd's
child keeps the manifests of pulled images, in the layout of containerd's ``plugins/content/local``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from transship.errors import SourceCorrupt
from transship.formats import digest
from transship.stores.docker import small_files

if TYPE_CHECKING:
    from pathlib import Path

    from transship.formats.digest import Digest

_SIZE_LIMIT = 16 * 1024 * 1024


@dataclass(frozen=True)
class RegistryBlob:
    """A compressed form of a layer in a registry: its digest, and the canonical name of the repository that has it."""

    digest: Digest
    repository: str


class _V2Metadata(msgspec.Struct, rename={"digest": "Digest", "repository": "SourceRepository"}):
    digest: str = ""
    repository: str = ""


def registry_blobs(image_root: Path, diff_id: Digest) -> tuple[RegistryBlob, ...]:
    """Return the blobs that the layer ``diff_id`` is known under in registries, the one last used last.

    ``image_root`` is ``image/<driver>`` in the data root. Raises SourceCorrupt if what is there cannot be read.
    """
    path = image_root / "distribution" / "v2metadata-by-diffid" / "sha256" / digest.hex_part(diff_id)
    raw = small_files.read(str(path), _SIZE_LIMIT)
    if raw is None:
        return ()
    try:
        known = msgspec.json.decode(raw, type=list[_V2Metadata] | None) or []
        return tuple(RegistryBlob(digest.parse(blob.digest), blob.repository) for blob in known)
    except (ValueError, RecursionError) as error:
        raise SourceCorrupt(
            f"{path} is damaged: {error}", remedy="it may be removed: Docker uses it to save uploads"
        ) from error


def original_manifest(root: Path, manifest: Digest) -> bytes | None:
    """Return the manifest ``manifest`` as a registry gave it, None if it was not kept in the data root ``root``.

    Raises SourceCorrupt if it is there and damaged.
    """
    blobs = root / "containerd" / "daemon" / "io.containerd.content.v1.content" / "blobs" / "sha256"
    path = blobs / digest.hex_part(manifest)
    raw = small_files.read(str(path), _SIZE_LIMIT)
    if raw is not None and digest.of(raw) != manifest:
        raise SourceCorrupt(f"{path} does not have the digest that is its name", remedy="pull the image again by this digest")
    return raw
