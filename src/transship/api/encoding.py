"""How answers are written."""

from __future__ import annotations

import json

import msgspec


def encoded(value: object) -> bytes:
    """Return ``value`` as JSON. Paths that are not UTF-8 pass, which msgspec's own encoder refuses."""
    return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode()
