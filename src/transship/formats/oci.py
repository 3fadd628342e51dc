"""OCI manifests, and the media types of what they name.

Source: OCI image-spec ``manifest.md``, ``descriptor.md``, ``media-types.md``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"

MAX_MANIFEST = 16 << 20
"""Bytes of a manifest that are read at most; registries accept 4 MiB."""


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """What points at a blob; ``size`` in bytes."""

    media_type: str
    digest: str
    size: int


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """The parts of an image manifest that are read here."""

    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    media_type: str = MANIFEST


def encode_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """Return an image manifest: the same bytes for the same blobs, always."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": msgspec.to_builtins(config),
        "layers": msgspec.to_builtins(layers),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def decode_manifest(data: bytes) -> Manifest:
    """Decode an image manifest, OCI's or Docker's schema 2. Raises ValueError if it is neither."""
    try:
        return msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise ValueError(f"not an image manifest: {error}") from error
