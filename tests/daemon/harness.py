"""A service's parts on stores of one's own, and runs that go as far as a test lets them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio import create_task_group

from transship.api.models import Order
from transship.daemon import supervisor as supervisors
from transship.daemon.service import Service
from transship.engine.events import StepStarted
from transship.legs import migrate as migration
from transship.legs import rollback as taking_back

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pytest

    from tests.cli.harness import Journey
    from transship.config import Settings
    from transship.engine.events import Event
    from transship.engine.observer import Observer
    from transship.legs.request import Request

SOON = 10
"""Seconds after which a test has failed."""


def order(journey: Journey, **more: Any) -> Order:
    """What asks for a migration from one end of ``journey`` to the other."""
    return Order(source=str(journey.source), target=f"oci:{journey.layout}", **more)


def when_a_name_comes(event: Event) -> bool:
    """After layers and manifests, before the first name is given."""
    return isinstance(event, StepStarted) and event.key.startswith("image:")


class Gate:
    """Holds up runs and rollbacks when an event comes that is ``at``, until it is opened.

    Only that is added to what the service does: whoever watches a run may take as long as it wants with an event.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: Callable[[Event], bool] = when_a_name_comes
        self.reached = anyio.Event()
        self.open = anyio.Event()
        self.error: Exception | None = None
        """Raised when the event comes."""
        monkeypatch.setattr(supervisors, "migrate", self._migrate)
        monkeypatch.setattr(supervisors, "rollback", self._rollback)

    def close(self) -> None:
        self.reached, self.open = anyio.Event(), anyio.Event()

    async def _migrate(self, request: Request, observer: Observer) -> object:
        return await migration.migrate(request, self._held(observer))

    async def _rollback(self, run: str, state_dir: Any, observer: Observer) -> object:
        return await taking_back.rollback(run, state_dir, self._held(observer))

    def _held(self, observer: Observer) -> Observer:
        emit = observer.emit

        async def held(event: Event) -> None:
            await emit(event)
            if self.at(event):
                self.reached.set()
                if self.error is not None:
                    raise self.error
                await self.open.wait()

        observer.emit = held  # type: ignore[method-assign]
        return observer


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Service]:
    """A service that nobody can reach, and that is stopped at the end."""
    with anyio.fail_after(SOON):
        async with create_task_group() as tasks:
            service = await Service.opened(settings, tasks)
            yield service
            assert await service.supervisor.stop()


async def until_idle(service: Service) -> None:
    while service.supervisor.current is not None:
        await service.supervisor.changed.wait()
