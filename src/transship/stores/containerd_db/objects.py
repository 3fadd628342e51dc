"""What all objects in containerd's databases have: times and labels.

Source: containerd ``metadata/boltutil/helpers.go``, ``metadata/buckets.go``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from transship.formats import go_binary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transship.formats.bolt.draft import Draft

GC_ROOT = "containerd.io/gc.root"
"""The label of what is kept for its own sake."""
_CREATED, _UPDATED, _LABELS = b"createdat", b"updatedat", b"labels"


def encoded(text: str) -> bytes:
    """Return a name as it is in a database; the reverse of ``decoded``."""
    return text.encode("utf-8", "surrogateescape")


def decoded(data: bytes) -> str:
    """Return a name that is in a database, whatever it is made of."""
    return data.decode("utf-8", "surrogateescape")


def mark_made(bucket: Draft) -> bytes:
    """Note that an object is made now, one that does not note when it is changed; return the time as it was noted."""
    now = go_binary.time(time.time_ns())
    bucket.put(_CREATED, now)
    return now


def mark_created(bucket: Draft) -> None:
    """Note that an object is made, and changed, now."""
    bucket.put(_UPDATED, mark_made(bucket))


def mark_updated(bucket: Draft) -> None:
    """Note that an object is changed now."""
    bucket.put(_UPDATED, go_binary.time(time.time_ns()))


def labels(bucket: Draft) -> dict[str, str]:
    """Return an object's labels."""
    found = bucket.bucket(_LABELS)
    return {decoded(key): decoded(value) for key, value in found.values()} if found is not None else {}


def set_labels(bucket: Draft, wanted: Mapping[str, str]) -> None:
    """Replace an object's labels; those with an empty value go, and leave an empty bucket, as containerd leaves it."""
    bucket.delete(_LABELS)
    if wanted:
        place = bucket.made(_LABELS)
        for key, value in wanted.items():
            if value:
                place.put(encoded(key), encoded(value))
