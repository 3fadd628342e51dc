"""Values of records, to the byte as Go's encoding/json writes them.

Source: BuildKit ``cache/metadata/metadata.go`` (``Value``); ``cache/blobs`` of v0.6 for the blob of version 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from transship.formats import go_json

_NULL = b"null"


@dataclass(frozen=True)
class Value:
    """JSON, nothing if there is none, and the name by which the record is found, if any."""

    json: bytes
    index: str = ""

    def text(self) -> str:
        """Return the text that it is; the empty text for anything else."""
        try:
            return go_json.string(self.json)
        except ValueError:
            return ""

    def encoded(self) -> bytes:
        """Return it as it is written."""
        members = [("value", self.json)]
        if self.index:
            members.append(("index", go_json.quote(self.index)))
        return go_json.object_of(members)


def decoded(raw: bytes) -> Value:
    """Read a value that is not empty. Raises ValueError."""
    found = _members(raw)
    return Value(found.get("value", b""), _string(found.get("index", _NULL)))


def of_text(text: str, index: str = "") -> Value:
    """Return a text as a value."""
    return Value(go_json.quote(text), index)


TRUE = Value(b"true")


def blob_of(value: Value) -> tuple[str, str]:
    """Return the digests that version 1 has of a record's blob and of its contents. Raises ValueError."""
    found = _members(value.json)
    return _string(found.get("blobsum", _NULL)), _string(found.get("diffid", _NULL))


def _members(raw: bytes) -> dict[str, bytes]:
    """Return the members of an object by folded key, as Go fills a struct: null changes nothing, the last of several counts."""
    if raw.strip() == _NULL:
        return {}
    found: dict[str, bytes] = {}
    for key, value in go_json.members(raw):
        if value != _NULL or go_json.fold(key) not in found:
            found[go_json.fold(key)] = value
    return found


def _string(raw: bytes) -> str:
    return "" if raw == _NULL else go_json.string(raw)
