"""Following a run in the service, through all that can happen to it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import to_thread

from tests.cli.harness import SOON, Sample, Service, add_endless_layer, held
from transship.api.models import Order
from transship.client import follow as following
from transship.client.client import Client
from transship.client.follow import follow, happenings
from transship.engine.events import RunEnded, RunStarted
from transship.engine.observer import Observer
from transship.engine.records import RunState
from transship.errors import RunStopped, ServiceUnavailable, SourceMissing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from transship.engine.events import Event
    from transship.engine.progress import Measured

pytestmark = pytest.mark.anyio


class Noting(Observer):
    """Notes what it is told, and does something when it hears of the first event."""

    def __init__(self, then: Callable[[], Awaitable[object]] | None = None) -> None:
        self.events: list[Event] = []
        self.progress: list[Measured] = []
        self._then = then

    def planned(self, run: str, steps: int, progress: Measured) -> None:
        assert run
        assert steps == progress.snapshot().total.steps
        self.progress.append(progress)

    async def emit(self, event: Event) -> None:
        self.events.append(event)
        if self._then and len(self.events) == 1:
            await self._then()

    @property
    def attempts(self) -> list[int]:
        return [event.attempt for event in self.events if isinstance(event, RunStarted)]


def order(sample: Sample) -> Order:
    return Order(source=str(sample.source), target=f"oci:{sample.layout}")


async def test_a_run_to_its_end(service: Service, sample: Sample) -> None:
    noting = Noting()
    async with Client(service.socket) as client:
        since = time.time()
        run, _ = await client.start(order(sample))
        with anyio.fail_after(SOON):
            details = await follow(client, run.id, since, noting)
        assert details.run.state is RunState.DONE
        assert details.report is not None
        assert details.report.complete
        assert isinstance(noting.events[0], RunStarted)
        assert isinstance(noting.events[-1], RunEnded)
        # It can be followed afterwards.
        again = Noting()
        with anyio.fail_after(SOON):
            assert await follow(client, run.id, 0, again) == details
        assert again.events == noting.events


async def test_what_was_before_is_not_handed_on(service: Service, sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_TAKEN_UP_WITHIN", 0.0)
    noting = Noting()
    async with Client(service.socket) as client:
        run, _ = await client.start(order(sample))
        with anyio.fail_after(SOON):
            await follow(client, run.id, 0, Noting())
            await follow(client, run.id, time.time(), noting)
    assert noting.events == []


async def test_a_service_that_is_killed_and_started_again(
    service: Service, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_GIVE_UP_AFTER", SOON)
    with ExitStack() as hold:
        hold.enter_context(held(sample.layout))

        def restart() -> None:
            service.kill()
            service.start()
            hold.close()

        noting = Noting(lambda: to_thread.run_sync(restart))
        async with Client(service.socket) as client:
            since = time.time()
            run, _ = await client.start(order(sample))
            with anyio.fail_after(SOON):
                details = await follow(client, run.id, since, noting)
    assert details.run.state is RunState.DONE
    assert noting.attempts == [1, 2]
    keys = [(type(event), getattr(event, "key", None), event.time) for event in noting.events]
    assert len(keys) == len(set(keys))  # nothing twice
    assert isinstance(noting.events[-1], RunEnded)


async def test_a_service_that_stays_away(service: Service, sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_GIVE_UP_AFTER", 0.2)
    with held(sample.layout):
        async with Client(service.socket) as client:
            run, _ = await client.start(order(sample))
            with anyio.fail_after(SOON), pytest.raises(ServiceUnavailable) as caught:
                await follow(client, run.id, 0, Noting(lambda: to_thread.run_sync(service.kill)))
    assert str(service.socket) in caught.value.message
    assert caught.value.exit_code == 7


async def test_a_service_that_does_not_go_on_with_it(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_TAKEN_UP_WITHIN", 0.1)
    with Service(sample.state, "resume = false") as service, held(sample.layout):
        await to_thread.run_sync(service.start)

        def restart() -> None:
            service.kill()
            service.start()

        async with Client(service.socket) as client:
            run, _ = await client.start(order(sample))
            with anyio.fail_after(SOON), pytest.raises(RunStopped, match=f"run {run.id} was stopped"):
                await follow(client, run.id, 0, Noting(lambda: to_thread.run_sync(restart)))


async def test_what_stopped_a_run_is_raised(service: Service, sample: Sample) -> None:
    """Here: the service goes on with a run whose source is gone by then."""
    sample.builder.add_image(add_endless_layer(sample.builder), "endless:1")
    async with Client(service.socket) as client:
        run, _ = await client.start(order(sample))
        await client.cancel(run.id)
        with anyio.fail_after(SOON), pytest.raises(RunStopped) as caught:
            await follow(client, run.id, 0, Noting())
        assert "transship resume" in caught.value.remedy
        await anyio.Path(sample.source).rename(sample.source.with_name("away"))
        with pytest.raises(SourceMissing):
            await client.resume(run.id)


async def test_events_of_what_is_not_going_on_end_at_once(service: Service, sample: Sample) -> None:
    async with Client(service.socket) as client:
        run, _ = await client.start(order(sample))
        with anyio.fail_after(SOON):
            first = [event async for event in happenings(client, run.id)]
            assert [event async for event in happenings(client, run.id)] == first
    assert [event["seq"] for event in first] == list(range(1, len(first) + 1))
    assert first[-1]["type"] == "run_ended"
