"""JSON as Go's encoding/json reads and writes it, to the byte.

Old image configs are only known by digests of what Go made of them, and it differs from other readers and writers: keys match
whatever their case, the last of several counts, what is no Unicode becomes U+FFFD, and what HTML would take for markup is
escaped. Source: Go 1.5 (that of Docker 1.10) ``src/encoding/json``: ``scanner.go`` (grammar), ``indent.go`` (compact),
``encode.go`` (strings, maps), ``decode.go`` and ``fold.go`` (keys, unquoting).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_SIZE = 16 << 20
"""Bytes of JSON that are read at most. Real configs have some KiB."""

MAX_ITEMS = 100_000
"""Members of one object, or elements of one array, that are taken apart at most. Real ones have some dozens."""

MAX_DEPTH = 10_000
"""Arrays and objects within each other, as in today's Go; Go 1.5 knew no limit."""

_BLANK = rb"[ \t\r\n]*+"
_STRING = rb'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"'
_NUMBER = rb"-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?+[0-9]++)?+"
_KEY = rb"(?P<key>" + _STRING + rb")" + _BLANK + rb":"

_VALUE = re.compile(
    _BLANK + rb"(?:(?:" + _STRING + rb"|" + _NUMBER + rb"|true|false|null|\[" + _BLANK + rb"\]|\{" + _BLANK + rb"\})"
    rb"|(?P<array>\[)|\{" + _BLANK + _KEY + rb")"
)
"""A value that holds no others, or the start of one that does: of an object with its first key."""

_FIRST_ELEMENT = re.compile(_BLANK + rb"\[" + _BLANK + rb"(?P<end>\])?+")
_NEXT_ELEMENT = re.compile(_BLANK + rb"(?:,|(?P<end>\]))")
_FIRST_MEMBER = re.compile(_BLANK + rb"\{" + _BLANK + rb"(?:" + _KEY + rb"|(?P<end>\}))")
_NEXT_MEMBER = re.compile(_BLANK + rb"(?:," + _BLANK + _KEY + rb"|(?P<end>\}))")
_REST = re.compile(_BLANK + rb"\Z")
_BLANK_OR_STRING = re.compile(rb'("(?:[^"\\]++|\\.)*+")|[ \t\r\n]++')

_MARKUP = (
    (b"<", rb"\u003c"),
    (b">", rb"\u003e"),
    (b"&", rb"\u0026"),
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
)
_ESCAPES = {
    **{code: f"\\u{code:04x}" for code in (*range(0x20), *map(ord, "<>&\u2028\u2029"))},
    **{
        ord(character): escape
        for character, escape in (('"', '\\"'), ("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"))
    },
}
_SURROGATE = re.compile("[\ud800-\udfff]")


def members(raw: bytes) -> list[tuple[str, bytes]]:
    """Return the members of a JSON object in their order, double ones too: the key, and the value as it stands.

    Raises ValueError if ``raw`` is not one JSON object, or too large.
    """
    found = _FIRST_MEMBER.match(_bounded(raw))
    items = []
    while found is not None and found["end"] is None:
        end = _end(raw, found.end())
        items.append((string(found["key"]), raw[found.end() : end].strip(b" \t\r\n")))
        if len(items) > MAX_ITEMS:
            raise ValueError(f"a JSON object with more than {MAX_ITEMS} members")
        found = _expected(_NEXT_MEMBER, raw, end)
    if found is None:
        _end(raw, 0)
        raise ValueError(f"not a JSON object: {raw[:40]!r}")
    _expected(_REST, raw, found.end())
    return items


def elements(raw: bytes) -> list[bytes]:
    """Return the elements of a JSON array as they stand. Raises ValueError if ``raw`` is not one JSON array, or too large."""
    found = _FIRST_ELEMENT.match(_bounded(raw))
    if found is None:
        raise ValueError(f"not a JSON array: {raw[:40]!r}")
    items = []
    while found["end"] is None:
        end = _end(raw, found.end())
        items.append(raw[found.end() : end].strip(b" \t\r\n"))
        if len(items) > MAX_ITEMS:
            raise ValueError(f"a JSON array with more than {MAX_ITEMS} elements")
        found = _expected(_NEXT_ELEMENT, raw, end)
    _expected(_REST, raw, found.end())
    return items


def string(raw: bytes) -> str:
    """Return the text of a JSON string, U+FFFD for each byte that is not UTF-8 and each surrogate without its other half.

    Raises ValueError if ``raw`` is no string.
    """
    if not raw.startswith(b'"'):
        raise ValueError(f"not a JSON string: {raw[:40]!r}")
    text: str = json.loads(raw.decode("utf-8", "surrogateescape"))
    return _SURROGATE.sub("\ufffd", text)


def fold(key: str) -> str:
    """Return ``key`` such that keys that Go takes for the same are the same: besides ASCII, two letters of Unicode match."""
    return key.lower().replace("ſ", "s")  # lower() makes a "k" of the Kelvin sign


def compact(raw: bytes) -> bytes:
    """Return a valid JSON value as Go writes a ``RawMessage``: no blanks, no markup; all else as it stands."""
    dense = _BLANK_OR_STRING.sub(rb"\1", raw)
    for markup, escape in _MARKUP:
        dense = dense.replace(markup, escape)
    return dense


def quote(text: str) -> bytes:
    """Return ``text`` as a JSON string."""
    return b'"' + text.translate(_ESCAPES).encode() + b'"'


def array_of(values: Iterable[bytes]) -> bytes:
    """Return a JSON array of ``values``, which are JSON."""
    return b"[" + b",".join(values) + b"]"


def object_of(items: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a JSON object with keys and values, which are JSON, in the order given."""
    return b"{" + b",".join(quote(key) + b":" + value for key, value in items) + b"}"


def map_of(values: Mapping[str, bytes]) -> bytes:
    """Return a JSON object as Go writes a map of ``RawMessage``: keys in the order of their bytes, values compacted."""
    return object_of((key, compact(values[key])) for key in sorted(values))


def _bounded(raw: bytes) -> bytes:
    if len(raw) > MAX_SIZE:
        raise ValueError(f"JSON of {len(raw)} bytes, over the limit of {MAX_SIZE}")
    return raw


def _end(raw: bytes, at: int) -> int:
    """Return where the value ends that begins at ``at`` or after blanks there. Without recursion: a level costs one byte."""
    around = bytearray()  # what is open: "[" or "{"
    while True:
        found = _expected(_VALUE, raw, at)
        at = found.end()
        if found.lastgroup is not None:
            around += b"[" if found["array"] else b"{"
            if len(around) > MAX_DEPTH:
                raise ValueError(f"JSON nested more than {MAX_DEPTH} levels deep")
            continue
        while around:
            found = _expected(_NEXT_ELEMENT if around[-1:] == b"[" else _NEXT_MEMBER, raw, at)
            at = found.end()
            if found["end"] is None:
                break  # a comma: the next value is due
            around.pop()
        else:
            return at


def _expected(pattern: re.Pattern[bytes], raw: bytes, at: int) -> re.Match[bytes]:
    found = pattern.match(raw, at)
    if found is None:
        raise ValueError(f"not JSON from byte {at} on: {raw[at : at + 40]!r}")
    return found
