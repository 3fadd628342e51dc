from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest
from anyio import create_task_group, to_thread
from structlog.testing import capture_logs

from tests.cli.harness import Journey, Sample, snapshot
from tests.daemon.harness import Gate, opened, order, until_idle
from transship.api.models import Order, Phase
from transship.daemon import history, pledge
from transship.engine.events import RollbackStarted, RunEnded
from transship.engine.lock import StateLock
from transship.engine.records import RunState
from transship.errors import (
    JournalError,
    RunGoesOn,
    RunNotFound,
    RunOver,
    ServiceUnavailable,
    SourceMissing,
    StateLocked,
    TransshipError,
    UsageError,
)
from transship.formats.compression import Codec

if TYPE_CHECKING:
    from pathlib import Path

    from transship.config import Settings
    from transship.daemon.service import Service
    from transship.engine.records import RunRecord

pytestmark = pytest.mark.anyio


async def record(sample: Journey, run: str) -> RunRecord:
    return await to_thread.run_sync(history.record, sample.state, run)


async def pledged(sample: Journey) -> pledge.Task | None:
    return await to_thread.run_sync(pledge.given, sample.state)


async def go_on(service: Service) -> bool:
    """Whether there was something to go on with."""
    if task := await service.supervisor.unfinished():
        await service.supervisor.go_on(task)
    return task is not None


async def complete(sample: Sample) -> bool:
    return (await to_thread.run_sync(sample.image_ids)).items() >= sample.expected.items()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


async def test_a_migration_from_begin_to_end(sample: Sample, settings: Settings) -> None:
    async with opened(settings) as service:
        supervisor = service.supervisor
        assert (supervisor.phase, await pledged(sample)) == (Phase.IDLE, None)
        run, begun = await supervisor.migrate(order(sample))
        assert begun
        assert (run.state, run.attempts, run.ended) == (RunState.RUNNING, 1, None)
        assert supervisor.phase is Phase.MIGRATING
        await until_idle(service)
        assert (await record(sample, run.id)).state is RunState.DONE
        assert await complete(sample)
        assert await pledged(sample) is None
        assert (await supervisor.status()).last == msgspec.structs.replace(
            run, state=RunState.DONE, ended=(await record(sample, run.id)).ended, bytes=(await record(sample, run.id)).bytes
        )


async def test_while_it_goes_on(sample: Sample, settings: Settings, gate: Gate) -> None:
    async with opened(settings) as service:
        supervisor = service.supervisor
        run, _ = await supervisor.migrate(order(sample))
        await gate.reached.wait()
        status = await supervisor.status()
        assert status.current is not None
        assert status.current.run is not None
        assert (status.state, status.current.run.id, status.last) == (Phase.MIGRATING, run.id, None)
        assert status.current.progress is not None
        assert status.current.progress.total.steps > status.current.progress.done.steps
        task = await pledged(sample)
        assert isinstance(task, pledge.Migration)
        assert task.order.source == str(sample.source)

        again, begun = await supervisor.migrate(order(sample))
        assert (again.id, begun) == (run.id, False)
        others = [
            order(sample, images=("low:1",)),
            order(sample, compression=Codec.GZIP),
            Order(source="/nowhere", target=f"oci:{sample.layout}"),
            Order(source=str(sample.source), target=f"oci:{sample.layout}-2"),
        ]
        for other in others:
            with pytest.raises(RunGoesOn, match=run.id) as caught:
                await supervisor.migrate(other)
            assert caught.value.run == run.id
            assert caught.value.remedy
        with pytest.raises(RunGoesOn):
            await supervisor.rollback(run.id)
        with pytest.raises(UsageError, match="relative"):
            await supervisor.migrate(Order(source="relative"))
        gate.open.set()
        await until_idle(service)
        assert await complete(sample)


async def test_of_many_that_ask_for_the_same_one_begins_it(sample: Sample, settings: Settings, gate: Gate) -> None:
    answers = []

    async def ask() -> None:
        answers.append(await service.supervisor.migrate(order(sample)))

    async with opened(settings) as service:
        async with create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(ask)
        assert len({run.id for run, _ in answers}) == 1
        assert sum(begun for _, begun in answers) == 1
        gate.open.set()
        await until_idle(service)


async def test_cancelled_it_can_be_resumed(sample: Sample, settings: Settings, gate: Gate) -> None:
    async with opened(settings) as service:
        supervisor = service.supervisor
        run, _ = await supervisor.migrate(order(sample))
        await gate.reached.wait()
        cancelled = await supervisor.cancel(run.id)
        assert cancelled.state is RunState.INTERRUPTED
        assert supervisor.phase is Phase.IDLE
        assert await pledged(sample) is None
        with pytest.raises(RunOver, match=f"{run.id} is not going on: it is interrupted"):
            await supervisor.cancel(run.id)

        gate.open.set()
        resumed = await supervisor.resume(run.id)
        assert (resumed.id, resumed.attempts) == (run.id, 2)
        await until_idle(service)
        assert (await record(sample, run.id)).state is RunState.DONE
        assert await complete(sample)
        anew = await supervisor.resume(run.id)
        assert anew.id != run.id
        await until_idle(service)


async def test_one_is_resumed_as_it_was_asked_for_whatever_the_configuration_says_now(
    sample: Sample, settings: Settings, gate: Gate
) -> None:
    async with opened(settings) as service:
        run, _ = await service.supervisor.migrate(order(sample, compression=Codec.GZIP, level=1, images=("low:1",)))
        await gate.reached.wait()
        await service.supervisor.cancel(run.id)
        gate.open.set()
        changed = msgspec.structs.replace(settings.target, to="oci:/elsewhere", namespace="other")
        await service.reload(msgspec.structs.replace(settings, target=changed))
        assert (await service.supervisor.resume(run.id)).options == run.options
        await until_idle(service)
        assert (await record(sample, run.id)).state is RunState.DONE


async def test_rolled_back_nothing_of_it_is_left(sample: Sample, settings: Settings, gate: Gate) -> None:
    gate.at = lambda event: isinstance(event, RollbackStarted)
    async with opened(settings) as service:
        supervisor = service.supervisor
        run, _ = await supervisor.migrate(order(sample))
        await until_idle(service)
        await supervisor.rollback(run.id)
        await gate.reached.wait()
        assert supervisor.phase is Phase.ROLLING_BACK
        assert await pledged(sample) == pledge.Return(run.id)
        with pytest.raises(RunGoesOn):
            await supervisor.migrate(order(sample))
        cancelled = await supervisor.cancel(run.id)
        assert cancelled.state is not RunState.ROLLED_BACK
        assert await pledged(sample) is None
        gate.open.set()
        await supervisor.rollback(run.id)
        await until_idle(service)
        assert (await record(sample, run.id)).state is RunState.ROLLED_BACK
        assert not await to_thread.run_sync(sample.names)
        left = await to_thread.run_sync(snapshot, sample.layout / "blobs")
        assert set(left) == {"/sha256"}


async def test_what_hinders_a_run_is_raised_before_there_is_one(sample: Sample, settings: Settings, tmp_path: Path) -> None:
    async with opened(settings) as service:
        supervisor = service.supervisor
        with pytest.raises(SourceMissing, match="/nowhere"):
            await supervisor.migrate(Order(source="/nowhere", target=f"oci:{tmp_path}/x"))
        with pytest.raises(UsageError, match="no-such-image"):
            await supervisor.migrate(order(sample, images=("no-such-image",)))
        with pytest.raises(UsageError, match="floppy"):
            await supervisor.migrate(Order(source=str(sample.source), target="floppy:/x"))
        with pytest.raises(UsageError, match="level"):
            await supervisor.migrate(order(sample, level=99))
        for ask in (supervisor.rollback, supervisor.resume, supervisor.cancel):
            with pytest.raises(RunNotFound, match="no-such-run"):
                await ask("no-such-run")
        lock = StateLock(sample.state)
        await to_thread.run_sync(lock.__enter__)
        try:
            with pytest.raises(StateLocked, match=str(sample.state)):
                await supervisor.migrate(order(sample))
        finally:
            await to_thread.run_sync(lock.__exit__, None, None, None)
        assert supervisor.current is None
        assert await pledged(sample) is None
        await supervisor.migrate(order(sample))
        await until_idle(service)
        assert await complete(sample)


async def test_without_a_place_for_the_journal_nothing_begins(sample: Sample, settings: Settings) -> None:
    await to_thread.run_sync(sample.state.write_bytes, b"a file where the directory should be")
    async with opened(settings) as service:
        with pytest.raises(JournalError, match=str(sample.state)):
            await service.supervisor.migrate(order(sample))
        assert service.supervisor.current is None
    assert not sample.layout.exists()


async def test_an_error_in_the_middle_ends_the_run_not_the_service(sample: Sample, settings: Settings, gate: Gate) -> None:
    gate.error = JournalError("the disk is gone", remedy="get it back")
    async with opened(settings) as service:
        supervisor = service.supervisor
        with capture_logs() as logs:
            run, _ = await supervisor.migrate(order(sample))
            await until_idle(service)
        assert {"event": "stopped", "message": "the disk is gone"}.items() <= logs[-1].items()
        assert supervisor.before is not None
        assert supervisor.before.error is gate.error
        assert (await record(sample, run.id)).state is RunState.INTERRUPTED
        assert await pledged(sample) is None
        gate.error = None
        gate.open.set()
        await supervisor.resume(run.id)
        await until_idle(service)
        assert (await record(sample, run.id)).state is RunState.DONE


async def test_a_defect_ends_the_run_not_the_service(sample: Sample, settings: Settings, gate: Gate) -> None:
    gate.error = ZeroDivisionError("a defect")
    async with opened(settings) as service:
        with capture_logs() as logs:
            run, _ = await service.supervisor.migrate(order(sample))
            await until_idle(service)
        assert [each["event"] for each in logs if each.get("exc_info")] == ["stopped"]
        assert service.supervisor.before is not None
        error = service.supervisor.before.error
        assert isinstance(error, TransshipError)
        assert "ZeroDivisionError: a defect" in error.message
        assert (await record(sample, run.id)).state is RunState.INTERRUPTED
        assert (await service.supervisor.status()).state is Phase.IDLE


async def test_a_defect_before_there_is_a_run_is_told_to_whoever_asked(
    sample: Sample, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_request: object, _observer: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr("transship.daemon.supervisor.migrate", broken)
    async with opened(settings) as service:
        with pytest.raises(TransshipError, match="KeyError"):
            await service.supervisor.migrate(order(sample))
        assert service.supervisor.current is None
        assert await pledged(sample) is None


async def test_a_stop_leaves_what_the_next_start_goes_on_with(sample: Sample, settings: Settings, gate: Gate) -> None:
    async with opened(settings) as service:
        run, _ = await service.supervisor.migrate(order(sample, images=("high:1",)))
        await gate.reached.wait()
        assert await service.supervisor.stop()
        assert (await record(sample, run.id)).state is RunState.INTERRUPTED
        with pytest.raises(ServiceUnavailable, match="stopping"):
            await service.supervisor.migrate(order(sample))
        assert (await service.supervisor.status()).state is Phase.STOPPING
    gate.open.set()
    async with opened(settings) as service:
        assert await go_on(service)
        await until_idle(service)
        assert (await record(sample, run.id)).attempts == 2
        assert (await record(sample, run.id)).state is RunState.DONE
        assert await pledged(sample) is None
        assert not await go_on(service)
        assert service.supervisor.current is None


async def test_a_run_that_ends_while_the_service_stops_is_not_begun_again(
    sample: Sample, settings: Settings, gate: Gate
) -> None:
    gate.at = lambda event: isinstance(event, RunEnded)
    async with opened(settings) as service:
        run, _ = await service.supervisor.migrate(order(sample))
        await gate.reached.wait()
        service.supervisor._stopping = True
        gate.open.set()
        await until_idle(service)
        assert (await record(sample, run.id)).state is RunState.DONE
        assert await pledged(sample) is None


async def test_a_rollback_that_was_stopped_is_gone_on_with(sample: Sample, settings: Settings, gate: Gate) -> None:
    gate.at = lambda event: isinstance(event, RollbackStarted)
    async with opened(settings) as service:
        run, _ = await service.supervisor.migrate(order(sample))
        await until_idle(service)
        await service.supervisor.rollback(run.id)
        await gate.reached.wait()
        assert await service.supervisor.stop()
        assert await pledged(sample) == pledge.Return(run.id)
    gate.open.set()
    async with opened(settings) as service:
        assert await go_on(service)
        await until_idle(service)
    assert (await record(sample, run.id)).state is RunState.ROLLED_BACK
    assert await pledged(sample) is None


async def test_what_a_kill_leaves_is_gone_on_with(sample: Sample, settings: Settings, gate: Gate, tmp_path: Path) -> None:
    """What is on disk in the middle of a run is what a kill leaves there."""
    async with opened(settings) as service:
        run, _ = await service.supervisor.migrate(order(sample))
        await gate.reached.wait()
        killed = Journey(sample.source, sample.layout, tmp_path / "killed")
        await to_thread.run_sync(shutil.copytree, sample.state, killed.state)
        gate.open.set()
        await until_idle(service)
    assert (await record(killed, run.id)).state is RunState.RUNNING
    assert isinstance(await pledged(killed), pledge.Migration)
    there = msgspec.structs.replace(settings.run, state_dir=killed.state)
    async with opened(msgspec.structs.replace(settings, run=there)) as service:
        assert await go_on(service)
        await until_idle(service)
    assert ((await record(killed, run.id)).state, (await record(killed, run.id)).attempts) == (RunState.DONE, 2)
    assert await pledged(killed) is None


@pytest.mark.parametrize(
    "content", [b"{", json.dumps({"task": {"type": "rollback", "run": "gone"}}).encode()], ids=["damaged", "unknown run"]
)
async def test_what_cannot_be_gone_on_with_is_said(sample: Sample, settings: Settings, content: bytes) -> None:
    await to_thread.run_sync(sample.state.mkdir)
    await to_thread.run_sync((sample.state / pledge.FILE_NAME).write_bytes, content)
    async with opened(settings) as service:
        with capture_logs() as logs:
            await go_on(service)
        assert [each["event"] for each in logs if each["log_level"] == "error"][-1:] == ["not_resumed"]
        await service.supervisor.migrate(order(sample))
        await until_idle(service)
        assert await pledged(sample) is None


async def test_a_step_that_does_not_come_to_its_end_does_not_hold_up_the_stop(sample: Sample, settings: Settings) -> None:
    hangs, over = anyio.Event(), anyio.Event()

    async def hanging(_observer: object) -> None:
        with anyio.CancelScope(shield=True):
            hangs.set()
            await over.wait()

    quick = msgspec.structs.replace(settings.service, stop_within=0.01)
    async with opened(msgspec.structs.replace(settings, service=quick)) as service:
        supervisor = service.supervisor
        async with create_task_group() as tasks:

            async def begin() -> None:
                with pytest.raises(ServiceUnavailable):
                    await supervisor._begin(Phase.MIGRATING, pledge.Migration(order(sample)), hanging)

            tasks.start_soon(begin)
            await hangs.wait()
            assert not await supervisor.stop()
            assert await pledged(sample) is not None
            over.set()


async def test_one_that_does_not_advance_is_called_stalled(sample: Sample, settings: Settings, gate: Gate) -> None:
    at_once = msgspec.structs.replace(settings.service, stalled_after=1e-9)
    async with opened(msgspec.structs.replace(settings, service=at_once)) as service:
        assert not service.supervisor.stalled
        await service.supervisor.migrate(order(sample))
        await gate.reached.wait()
        assert service.supervisor.stalled
        await service.reload(settings)
        assert not service.supervisor.stalled
        gate.open.set()
        await until_idle(service)
        assert not service.supervisor.stalled
