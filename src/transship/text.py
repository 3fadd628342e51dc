"""What people read: amounts, durations, the state of a run; made so that no terminal is confused by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transship.engine.progress import Snapshot

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


def line(now: Snapshot) -> str:
    """Return the state of a run in one line."""
    passed = now.done + now.skipped + now.left_out
    eta = f", about {duration(now.eta)} left" if now.eta is not None else ""
    return (
        f"{passed.steps} of {now.total.steps} steps, {size(passed.bytes)} of {size(now.total.bytes)}, {size(now.rate)}/s{eta}"
    )


def printable(text: str) -> str:
    """Return ``text`` without what would confuse a terminal: it may come from inside an image."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
