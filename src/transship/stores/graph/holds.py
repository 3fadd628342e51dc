"""Who is at which image just now, as Docker 1.9 kept it in memory: a lock for each ID, and sessions that need images to stay.

Source: moby v1.9.1 ``graph/mutex.go`` (one lock an ID) and ``graph/graph.go`` (retainedLayers).
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Locks:
    """A lock for each ID. One that nobody has or waits for takes no memory."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def held(self, image_id: str) -> Iterator[None]:
        """Have the lock of ``image_id`` for a ``with`` block; wait for it if need be."""
        with self._guard:
            lock, users = self._locks.get(image_id, (threading.Lock(), 0))
            self._locks[image_id] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._locks.pop(image_id)
                if users > 1:
                    self._locks[image_id] = (lock, users - 1)


class Retained:
    """Which sessions need which images. A session that needs an image twice lets go of it at once, as in Docker."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._sessions: dict[str, set[str]] = {}

    def add(self, session: str, image_ids: Iterable[str]) -> None:
        """Note that ``session`` needs ``image_ids``, which need not be there yet."""
        with self._guard:
            for image_id in image_ids:
                self._sessions.setdefault(image_id, set()).add(session)

    def remove(self, session: str, image_ids: Iterable[str]) -> None:
        """Note that it needs them no more; without effect for those that it did not need."""
        with self._guard:
            for image_id in image_ids:
                sessions = self._sessions.get(image_id, set())
                sessions.discard(session)
                if not sessions:
                    self._sessions.pop(image_id, None)

    def sessions(self, image_id: str) -> list[str]:
        """Return the sessions that need an image, by name."""
        with self._guard:
            return sorted(self._sessions.get(image_id, ()))
