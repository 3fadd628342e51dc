"""What the JSON blobs of a layout refer to.

Source: OCI image-spec ``descriptor.md``, ``image-index.md``, ``manifest.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from transship.errors import TargetRefused
from transship.formats import digest as digests
from transship.stores.oci.layout import read_small

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transship.formats.digest import Digest
    from transship.stores.oci.layout import Layout

SIZE_LIMIT = 16 << 20
"""Bytes of a manifest or index. Registries take 4 MiB."""

_REFERRING = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.artifact.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)


class Descriptor(msgspec.Struct, frozen=True):
    """A reference to a blob, as far as it is of use here; ``size`` in bytes."""

    media_type: str = msgspec.field(name="mediaType", default="")
    digest: str = ""
    size: int = 0
    annotations: dict[str, str] | None = None


class _Referring(msgspec.Struct):
    """A manifest or index of any of the kinds."""

    config: Descriptor | None = None
    subject: Descriptor | None = None
    layers: list[Descriptor] | None = None
    blobs: list[Descriptor] | None = None
    manifests: list[Descriptor] | None = None

    def descriptors(self) -> list[Descriptor]:
        single = [one for one in (self.config, self.subject) if one is not None]
        return [*single, *(self.layers or ()), *(self.blobs or ()), *(self.manifests or ())]


def reachable(layout: Layout, roots: Iterable[Descriptor]) -> set[Digest]:
    """Return the digests that ``roots`` reach, their own too, whether the blobs are there or not.

    Raises TargetRefused if a manifest or index on the way is damaged: nobody knows then what it refers to.
    """
    found: set[Digest] = set()
    todo = list(roots)
    while todo:
        descriptor = todo.pop()
        try:
            digest = digests.parse(descriptor.digest)
        except ValueError:  # of another kind, which is stored elsewhere
            continue
        if digest in found:
            continue
        found.add(digest)
        if descriptor.media_type in _REFERRING:
            todo.extend(_references(layout, digest))
    return found


def _references(layout: Layout, digest: Digest) -> list[Descriptor]:
    path = layout.blobs / digests.hex_part(digest)
    data = read_small(path, SIZE_LIMIT)
    if data is None:
        return []
    if digests.of(data) != digest:
        raise TargetRefused(f"{path} is damaged: its bytes have another digest", remedy="restore it or remove its image")
    try:
        return msgspec.json.decode(data, type=_Referring).descriptors()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TargetRefused(f"{path} is not a manifest: {error}", remedy="remove its image") from error
