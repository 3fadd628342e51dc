"""Digests, diff IDs and chain IDs.

Sources: OCI image-spec ``descriptor.md`` (digests) and ``config.md`` (layer ChainID).
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Digest = NewType("Digest", str)
"""``sha256:`` and 64 lower-case hexadecimal digits."""

_PATTERN = re.compile(r"sha256:[0-9a-f]{64}")

EMPTY_LAYER = Digest("sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef")
"""Diff ID of the layer without entries: 1,024 zero bytes."""


def parse(text: str) -> Digest:
    """Return ``text`` as a digest. Raises ValueError if it is not one; only sha256 is known to Docker's stores."""
    if not is_digest(text):
        raise ValueError(f"not a sha256 digest: {text[:100]!r}")
    return Digest(text)


def is_digest(text: str) -> bool:
    """Tell whether ``text`` is a digest, as ``parse`` has it."""
    return _PATTERN.fullmatch(text) is not None


def from_hex(text: str) -> Digest:
    """Return the digest whose hexadecimal part is ``text``. Raises ValueError if it is not 64 hexadecimal digits."""
    return parse(f"sha256:{text}")


def of(data: bytes) -> Digest:
    """Return the digest of ``data``."""
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


def hex_part(digest: Digest) -> str:
    """Return the 64 digits after ``sha256:``."""
    return digest.removeprefix("sha256:")


def chain(parent: Digest | None, diff_id: Digest) -> Digest:
    """Return the chain ID of a layer with ``diff_id`` on top of ``parent`` (a chain ID, None for a base layer)."""
    return diff_id if parent is None else of(f"{parent} {diff_id}".encode())


def chains(diff_ids: Iterable[Digest]) -> Iterator[Digest]:
    """Yield the chain ID of each layer, base first."""
    parent: Digest | None = None
    for diff_id in diff_ids:
        parent = chain(parent, diff_id)
        yield parent
