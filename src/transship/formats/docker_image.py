"""Image configs, as Docker keeps them in its imagedb.

Source: moby ``daemon/internal/image/image.go`` (Image, NewFromJSON) and ``rootfs.go``; OCI image-spec ``config.md``. The bytes
themselves are what an image ID is the digest of: callers keep them and never write this back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from transship.formats import digest

if TYPE_CHECKING:
    from transship.formats.digest import Digest

SIZE_LIMIT = 16 * 1024 * 1024
"""Bytes. Real configs have some KiB."""


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

    As in Go, keys match whatever their case, null is the same as absent, and of a key given twice the last counts; a key given
    in two spellings (``os`` and ``OS``) is refused, since readers differ on it. Bytes that are not UTF-8 are let pass
    where nothing is read.
    """
    if len(raw) > SIZE_LIMIT:
        raise ValueError(f"image config of {len(raw)} bytes, over the limit of {SIZE_LIMIT}")
    try:
        return _decode(raw)
    except RecursionError as error:
        raise ValueError("image config nested too deeply") from error
    except msgspec.MsgspecError as error:
        raise ValueError(f"image config: {error}") from error


def _decode(raw: bytes) -> ImageConfig:
    fields = _Fields(raw, ("rootfs", "architecture", "os", "variant", "created", "container_config"))
    rootfs = fields.raw("rootfs")
    if rootfs is None:
        raise ValueError("image config without rootfs")
    diff_ids = _Fields(rootfs, ("diff_ids",)).raw("diff_ids")
    container_config = fields.raw("container_config")
    if container_config is not None and not container_config.startswith(b"{"):
        raise ValueError("image config whose container_config is not an object")
    return ImageConfig(
        diff_ids=() if diff_ids is None else tuple(map(digest.parse, msgspec.json.decode(diff_ids, type=list[str]))),
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
        for key, value in msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).items():
            name = _fold(key)
            if name not in names:
                continue
            if name in self._values:
                raise ValueError(f"image config with two spellings of {name!r}")
            self._values[name] = bytes(value)

    def raw(self, name: str) -> bytes | None:
        """Return the value's JSON text, None if it is absent or null."""
        value = self._values.get(name)
        return None if value == b"null" else value

    def text(self, name: str) -> str | None:
        """Return the value as a string, None if it is absent or null. Raises msgspec.MsgspecError if it is anything else."""
        value = self.raw(name)
        return None if value is None else msgspec.json.decode(value, type=str)


def _fold(key: str) -> str:
    """Fold case as Go's encoding/json does: besides ASCII, the long s and the Kelvin sign are letters of some key."""
    return key.lower().replace("ſ", "s")  # lower() makes a "k" of the Kelvin sign
