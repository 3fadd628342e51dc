"""Results and errors, for people and for scripts."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from transship.text import printable

if TYPE_CHECKING:
    from transship.errors import TransshipError


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
        say_json({"type": "error", **error.fields(), "exit_code": int(error.exit_code)})
        return
    sys.stderr.write(f"transship: {printable(error.message)}\n")
    if error.remedy:
        sys.stderr.write(f"  what to do: {printable(error.remedy)}\n")
