"""The service's parts, as the operations see them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from anyio import CapacityLimiter, Lock, to_thread

from transship.api.encoding import encoded
from transship.daemon.metrics import Metrics
from transship.daemon.supervisor import Supervisor
from transship.daemon.web.access import Access
from transship.daemon.web.event_stream import Streams

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from transship.config import Settings

_FRESH = 0.1
"""Seconds for which one answer to how things stand serves all who ask."""


class Service:
    """Holds together what lives as long as the service does; made by ``opened``."""

    def __init__(self, settings: Settings, access: Access, tasks: TaskGroup) -> None:
        self.access = access
        self.metrics = Metrics(lambda: self.supervisor.current)
        self.supervisor = Supervisor(settings, tasks, self.metrics)
        self.streams = Streams()
        self.planning = CapacityLimiter(1)
        self._status = b""
        self._status_of: tuple[object, ...] = ()
        self._status_until = 0.0
        self._looking = Lock()

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.supervisor.settings

    @classmethod
    async def opened(cls, settings: Settings, tasks: TaskGroup) -> Service:
        """Return the service. Raises UsageError for settings that cannot be meant."""
        return cls(settings, await to_thread.run_sync(Access.of, settings.service), tasks)

    async def reload(self, settings: Settings) -> None:
        """Have new settings: at once for who may ask, for what is started from now on otherwise.

        Where the journal is, and the socket, stay as they are. Raises UsageError, and then changes nothing.
        """
        self.access = await to_thread.run_sync(Access.of, settings.service)
        self.supervisor.reload(settings)

    async def status(self) -> bytes:
        """Return how things stand, as JSON: at most ``_FRESH`` seconds old, and younger than the last run's begin or end.

        Raises JournalError.
        """
        if self._outdated():
            async with self._looking:
                if self._outdated():
                    of = self._what_goes_on()
                    self._status = encoded(await self.supervisor.status())
                    self._status_of, self._status_until = of, time.monotonic() + _FRESH
        return self._status

    def _outdated(self) -> bool:
        return time.monotonic() >= self._status_until or self._status_of != self._what_goes_on()

    def _what_goes_on(self) -> tuple[object, ...]:
        current = self.supervisor.current
        return (self.supervisor.phase, current, current and current.run)
