"""Killing what changes files at any of its system calls, without a process to be killed.

From some call on, each one that would change anything raises: what is on the disk then is what a kill would have left, since no
``except`` or ``finally`` can clean up. The calls are those that Python tells its audit hooks of, and are made by Python itself.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CALLS = frozenset(
    {f"os.{name}" for name in ("rename", "mkdir", "rmdir", "remove", "link", "symlink", "chmod", "chown", "utime")}
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_life = threading.local()


class Killed(BaseException):
    """What a kill is here. Nothing catches it by mistake."""


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    left = getattr(_life, "left", None)
    if left is None or not (event in _CALLS or (event == "open" and _is_writing(arguments[2]))):
        return
    _life.left = left - 1
    if left <= 0:
        raise Killed


def _is_writing(flags: object) -> bool:
    return isinstance(flags, int) and bool(flags & _WRITING)


sys.addaudithook(_watch)  # there is no way to remove one; without a life that is to end, it does nothing


@contextmanager
def killed_after(calls: int) -> Iterator[None]:
    """Let this thread change files ``calls`` times, and end the block quietly when it is killed."""
    _life.left = calls
    try:
        yield
    except Killed:
        pass
    finally:
        _life.left = None


def calls_of(work: Callable[[], object]) -> int:
    """Do the work, and return how many calls it takes."""
    plenty = 1 << 30
    _life.left = plenty
    try:
        work()
        return plenty - int(_life.left)
    finally:
        _life.left = None
