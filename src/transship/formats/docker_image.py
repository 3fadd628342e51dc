"""Image configs, as Docker keeps them in its imagedb.

Source: moby ``daemon/internal/image/image.go`` (Image, NewFromJSON) and ``rootfs.go``; OCI image-spec ``config.md``. The bytes
themselves are what an image ID is the digest of: callers keep them and never write this back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.formats import digest, go_json

if TYPE_CHECKING:
    from transship.formats.digest import Digest

SIZE_LIMIT = go_json.MAX_SIZE
"""Bytes of a config that are read at most."""


@dataclass(frozen=True)
class ImageConfig:
    """What a migration needs to know of a config. Texts that are absent are empty.

    ``created`` is RFC 3339, unchecked. ``container_config`` is the JSON object of that name exactly as it stands in the config,
    None if absent or null. dockerd's classic builder looks an instruction up in its cache by comparing the config that it would
    run with this one, field by field after decoding (moby ``daemon/internal/image/cache/compare.go``). In a containerd store
    it decodes the blob that the label ``containerd.io/gc.ref.content.moby/container.config`` names
    (``daemon/containerd/cache.go``); the blob's digest is compared with nothing. dockerd writes such a blob by marshalling its
    own struct again (``saveContainerConfig``), but Go decodes the original bytes into the very same struct as it did from
    within the config, so that they can be that blob as they are, whichever version of Docker wrote them.
    """

    diff_ids: tuple[Digest, ...]
    architecture: str
    os: str
    variant: str
    created: str | None
    container_config: bytes | None


def parse_config(raw: bytes) -> ImageConfig:
    """Decode an image config. Raises ValueError if it is too large, not JSON, or not of a config's shape.

    As in Go, keys match whatever their case, null is the same as absent, of a key given twice the last counts, and what is no
    Unicode (bytes that are not UTF-8, a lone surrogate) is read as U+FFFD. A key given in two spellings (``os`` and ``OS``) is
    refused, since readers differ on it.
    """
    try:
        return _decode(raw)
    except ValueError as error:
        raise ValueError(f"image config: {error}") from error


def _decode(raw: bytes) -> ImageConfig:
    fields = _Fields(raw, ("rootfs", "architecture", "os", "variant", "created", "container_config"))
    rootfs = fields.raw("rootfs")
    if rootfs is None:
        raise ValueError("no rootfs")
    diff_ids = _Fields(rootfs, ("diff_ids",)).raw("diff_ids")
    container_config = fields.raw("container_config")
    if container_config is not None and not container_config.startswith(b"{"):
        raise ValueError("container_config is not an object")
    return ImageConfig(
        diff_ids=() if diff_ids is None else tuple(digest.parse(go_json.string(text)) for text in go_json.elements(diff_ids)),
        architecture=fields.text("architecture") or "",
        os=fields.text("os") or "",
        variant=fields.text("variant") or "",
        created=fields.text("created"),
        container_config=container_config,
    )


class _Fields:
    """The values of some keys of a JSON object, found as Go finds them."""

    def __init__(self, raw: bytes, names: tuple[str, ...]) -> None:
        self._values: dict[str, bytes] = {}
        for key, value in dict(go_json.members(raw)).items():
            name = go_json.fold(key)
            if name not in names:
                continue
            if name in self._values:
                raise ValueError(f"two spellings of {name!r}")
            self._values[name] = value

    def raw(self, name: str) -> bytes | None:
        """Return the value's JSON text, None if it is absent or null."""
        value = self._values.get(name)
        return None if value == b"null" else value

    def text(self, name: str) -> str | None:
        """Return the value as a string, None if it is absent or null. Raises ValueError if it is anything else."""
        value = self.raw(name)
        return None if value is None else go_json.string(value)
