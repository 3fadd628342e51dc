"""What people and scripts read: amounts, durations, errors."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transship.errors import TransshipError

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_STEP = 1000


def size(count: float) -> str:
    """Return ``count`` bytes as Docker shows sizes: 1.23 GB."""
    for unit in _UNITS[:-1]:
        if count < _STEP:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= _STEP
    return f"{count:.3g} {_UNITS[-1]}"


def duration(seconds: float) -> str:
    """Return ``seconds`` as 4.2 s, 3 min 05 s or 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def say(text: str) -> None:
    """Print a line of a result, whatever is in it."""
    sys.stdout.write(printable(text) + "\n")


def say_json(document: Any) -> None:
    """Print a JSON document in one line, at once."""
    sys.stdout.write(json.dumps(document, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def print_error(error: TransshipError, *, as_json: bool) -> None:
    """Tell what ended the command, and what to do about it."""
    if as_json:
        document = {"type": "error", "error": type(error).__name__, "message": error.message, "remedy": error.remedy}
        say_json(document | {"exit_code": int(error.exit_code)})
        return
    sys.stderr.write(f"transship: {printable(error.message)}\n")
    if error.remedy:
        sys.stderr.write(f"  what to do: {printable(error.remedy)}\n")


def printable(text: str) -> str:
    """Return ``text`` without what would confuse a terminal: it may come from inside an image."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
