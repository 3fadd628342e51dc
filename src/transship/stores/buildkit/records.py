"""Records of a build cache, as both versions of BuildKit's metadata have them.

Source: BuildKit ``cache/metadata/metadata.go`` (buckets, values), ``cache/metadata.go`` (keys); v0.6.4 for version 1. Each is a
bucket of ``_main``; its keys have values of the form ``{"value":…,"index":…}``, or none at all if they were cleared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from transship.errors import SourceCorrupt
from transship.formats.bolt.reader import Bucket
from transship.stores.docker.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transship.formats.bolt.reader import Database

_VALUE_LIMIT = 1024 * 1024
_REMEDY = "BuildKit drops such a record when it starts, or does not start: `transship bolt dump` shows all of it"


@dataclass(frozen=True)
class Record:
    """What the cache knows of one result.

    ``values`` are by key, as BuildKit calls it; keys that were cleared are not among them. Properties are None, or empty, for
    what is not noted, or is of another type than BuildKit gives it.
    """

    id: str
    values: Mapping[str, object]

    @property
    def parents(self) -> tuple[str, ...]:
        """The records that this one stands on, as version 2 has them."""
        single = [self.text(key) for key in ("cache.parent", "cache.lowerDiffParent", "cache.upperDiffParent")]
        merged = self.values.get("cache.mergeParents")
        several = merged if isinstance(merged, list) else []
        return tuple(each for each in [*single, *several] if isinstance(each, str) and each)

    @property
    def size(self) -> int | None:
        """Bytes of its files, if they have been counted."""
        size = self.number("snapshot.size")
        return size if size is not None and size >= 0 else None

    def text(self, key: str) -> str | None:
        """Return the value of ``key`` if it is a text that is not empty."""
        value = self.values.get(key)
        return value if isinstance(value, str) and value else None

    def number(self, key: str) -> int | None:
        """Return the value of ``key`` if it is a whole number."""
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def flag(self, key: str) -> bool:
        """Tell whether the value of ``key`` is true."""
        return self.values.get(key) is True


class _Value(msgspec.Struct):
    value: object = None


def read_records(database: Database, problems: list[Problem]) -> Iterator[Record]:
    """Yield the records in a cache's metadata, by ID; a value that cannot be read is among ``problems``. Raises Damage."""
    main = database.root.get(b"_main")
    if not isinstance(main, Bucket):
        return
    for name, bucket in main.items():
        if not isinstance(bucket, Bucket):
            continue
        record_id = name.decode("utf-8", "backslashreplace")
        values: dict[str, object] = {}
        for key, raw in bucket.items():
            if isinstance(raw, Bucket) or not raw:
                continue
            text = key.decode("utf-8", "backslashreplace")
            try:
                values[text] = _decoded(raw)
            except (ValueError, RecursionError) as error:
                damage = SourceCorrupt(f"record {record_id}: {text[:200]}: {error}", remedy=_REMEDY)
                problems.append(Problem(record_id, damage))
        yield Record(record_id, values)


def _decoded(raw: bytes) -> object:
    if len(raw) > _VALUE_LIMIT:
        raise ValueError(f"{len(raw)} bytes, over the limit of {_VALUE_LIMIT}")
    return msgspec.json.decode(raw, type=_Value).value
