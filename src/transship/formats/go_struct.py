"""Structs as Go's encoding/json decodes them from JSON and encodes them again, as far as image configs need.

Decoding is Go's: a key sets the field that is spelt like it, else the one that is when case is ignored; other keys are dropped.
null leaves a plain field as it is, and makes a pointer, a list or a map nil (None here). Of a key given twice the later value
counts, but structs and maps keep what the earlier one put in. Source: Go 1.5 ``src/encoding/json/decode.go`` and ``encode.go``;
``src/time/format.go`` for times.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transship.formats import go_json

if TYPE_CHECKING:
    from collections.abc import Callable

_TIME = re.compile(
    rb'"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{1,2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?'
    rb'(Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"'
)
_INTEGER = re.compile(rb"-?[0-9]{1,19}")


@dataclass(frozen=True)
class Kind:
    """A type: how JSON is decoded, given the field's value before; how a value is encoded; the value of a field never set.

    ``decode`` raises ValueError if the JSON is of another type. It takes JSON without blanks around it.
    """

    decode: Callable[[bytes, Any], Any]
    encode: Callable[[Any], bytes]
    zero: Any = None


@dataclass(frozen=True)
class Field:
    """A field of a struct. With ``omit_empty`` it is not written when it is false, 0, nil, or an empty string or map."""

    name: str
    kind: Kind
    omit_empty: bool = False


def struct(*fields: Field) -> Kind:
    """Return the type of a struct with ``fields``, given as Go writes them. A value is a dict that has all of them."""
    exact = {field.name: field for field in fields}
    folded = {go_json.fold(field.name): field for field in fields}

    def decode(raw: bytes, old: dict[str, Any]) -> dict[str, Any]:
        if raw == b"null":
            return old
        values = dict(old)
        for key, value in go_json.members(raw):
            field = exact.get(key) or folded.get(go_json.fold(key))
            if field is not None:
                try:
                    values[field.name] = field.kind.decode(value, values[field.name])
                except ValueError as error:
                    raise ValueError(f"{field.name}: {error}") from error
        return values

    def encode(values: dict[str, Any]) -> bytes:
        return go_json.object_of(
            (field.name, field.kind.encode(values[field.name]))
            for field in fields
            if values[field.name] or not field.omit_empty
        )

    return Kind(decode, encode, {field.name: field.kind.zero for field in fields})


def pointer(to: Kind) -> Kind:
    """Return the type of a pointer to a value of another type: None is nil."""
    return Kind(
        lambda raw, old: None if raw == b"null" else to.decode(raw, to.zero if old is None else old),
        lambda value: b"null" if value is None else to.encode(value),
    )


def _text(raw: bytes, old: str) -> str:
    return old if raw == b"null" else go_json.string(raw)


def _flag(raw: bytes, old: bool) -> bool:
    if raw not in {b"true", b"false", b"null"}:
        raise ValueError(f"neither true nor false: {raw[:40]!r}")
    return old if raw == b"null" else raw == b"true"


def _integer(raw: bytes, old: int) -> int:
    if raw == b"null":
        return old
    if not _INTEGER.fullmatch(raw) or not -(1 << 63) <= int(raw) < 1 << 63:
        raise ValueError(f"not a whole number of 64 bits: {raw[:40]!r}")
    return int(raw)


def _time(raw: bytes, old: str) -> str:
    """Decode a time, into the text that Go writes for it: RFC 3339, no trailing zeros, Z for +00:00. Go does not unquote it.

    null is let pass as Go has done since 1.8, the one of the last Dockers that could migrate; Go 1.5 refused it.
    """
    if raw == b"null":
        return old
    found = _TIME.fullmatch(raw)
    if found is None:
        raise ValueError(f"not a time: {raw[:40]!r}")
    year, month, day, hour, minute, second = (int(found[group]) for group in range(1, 7))
    if not (1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1] and hour < 24 and minute < 60 and second < 60):
        raise ValueError(f"no such time: {raw[:40]!r}")
    fraction = (found[7] or b"").decode().rstrip("0")
    zone = found[8].decode()
    return (
        f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        + (f".{fraction}" if fraction else "")
        + ("Z" if zone[1:] == "00:00" else zone)
    )


def _texts(raw: bytes, _old: list[str] | None) -> list[str] | None:
    return None if raw == b"null" else [_text(element, "") for element in go_json.elements(raw)]


def _command(raw: bytes, old: list[str] | None) -> list[str] | None:
    """Decode Docker's StrSlice, which is a list of strings, or one string by itself."""
    return [go_json.string(raw)] if raw.startswith(b'"') else _texts(raw, old)


def _labels(raw: bytes, old: dict[str, str] | None) -> dict[str, str] | None:
    return None if raw == b"null" else (old or {}) | {key: _text(value, "") for key, value in go_json.members(raw)}


def _names(raw: bytes, old: dict[str, str] | None) -> dict[str, str] | None:
    if raw == b"null":
        return None
    names = dict(go_json.members(raw))
    if not all(value == b"null" or value.startswith(b"{") for value in names.values()):
        raise ValueError(f"a name with a value: {raw[:40]!r}")
    return (old or {}) | dict.fromkeys(names, "")


def _encode_texts(value: list[str] | None) -> bytes:
    return b"null" if value is None else go_json.array_of(map(go_json.quote, value))


def _encode_labels(value: dict[str, str] | None) -> bytes:
    return b"null" if value is None else go_json.object_of((key, go_json.quote(value[key])) for key in sorted(value))


def _encode_names(value: dict[str, str] | None) -> bytes:
    return b"null" if value is None else go_json.object_of((key, b"{}") for key in sorted(value))


TEXT = Kind(_text, go_json.quote, "")
FLAG = Kind(_flag, lambda value: b"true" if value else b"false", False)
INTEGER = Kind(_integer, lambda value: b"%d" % value, 0)
TIME = Kind(_time, go_json.quote, "0001-01-01T00:00:00Z")
TEXTS = Kind(_texts, _encode_texts)
COMMAND = Kind(_command, _encode_texts)
LABELS = Kind(_labels, _encode_labels)
NAMES = Kind(_names, _encode_names)
"""Go's ``map[string]struct{}``: a set."""
