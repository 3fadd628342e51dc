from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from anyio import to_thread
from prometheus_client.parser import text_string_to_metric_families

from tests.daemon.harness import Gate, opened, order, until_idle
from transship import __version__
from transship.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from pathlib import Path
    from typing import Any

    from prometheus_client import Metric

    from tests.cli.harness import Sample
    from transship.config import Settings
    from transship.daemon.service import Service

pytestmark = pytest.mark.anyio

_BASE_UNITS = ("_seconds", "_bytes", "_ratio", "_info", "_total", "_per_second")
_COUNTS = ("_steps", "_complete", "_migrating", "_rolling_back", "_fds", "_runs")


def parsed(text: bytes) -> dict[str, Metric]:
    """By name; none of them twice."""
    families = list(text_string_to_metric_families(text.decode()))
    found = {family.name: family for family in families}
    assert len(found) == len(families)
    return found


async def figures(service: Service) -> dict[str, Metric]:
    return parsed(await to_thread.run_sync(service.metrics.text))


def value(found: dict[str, Metric], name: str, **labels: str) -> float:
    samples = [sample for family in found.values() for sample in family.samples]
    (one,) = [sample.value for sample in samples if sample.name == name and sample.labels == labels]
    return one


async def test_an_idle_service_says_so(settings: Settings) -> None:
    async with opened(settings) as service:
        found = await figures(service)
    assert value(found, "transship_info", version=__version__) == 1
    assert value(found, "transship_migrating") == value(found, "transship_rolling_back") == 0
    assert not any(name.startswith("transship_run_") for name in found)
    assert value(found, "process_resident_memory_bytes") > 0


async def test_names_follow_the_conventions(sample: Sample, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """https://prometheus.io/docs/practices/naming: one prefix, base units, plural, totals called so."""
    gate = Gate(monkeypatch)
    async with opened(settings) as service:
        await service.supervisor.migrate(order(sample))
        await gate.reached.wait()
        during = await figures(service)
        gate.open.set()
        await until_idle(service)
        after = await figures(service)
    for family in {**during, **after}.values():
        assert family.documentation
        for one in family.samples:
            assert re.fullmatch(r"(transship|process)_[a-z_]+", one.name)
            assert one.name.endswith((*_BASE_UNITS, *_COUNTS)), one.name
            assert one.name.endswith("_total") == (family.type == "counter"), one.name


async def test_what_goes_on_is_measured(sample: Sample, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    async with opened(settings) as service:
        await service.supervisor.migrate(order(sample))
        await gate.reached.wait()
        found = await figures(service)
        assert value(found, "transship_migrating") == 1
        assert 0 < value(found, "transship_run_passed_steps") < value(found, "transship_run_steps")
        assert 0 < value(found, "transship_run_passed_bytes") <= value(found, "transship_run_bytes")
        assert value(found, "transship_run_left_out_steps") == 0
        assert value(found, "transship_run_quiet_seconds") >= 0
        gate.open.set()
        await until_idle(service)


async def test_what_ended_is_counted_and_left_in_the_textfile(sample: Sample, settings: Settings) -> None:
    path = settings.service.textfile
    assert path is not None
    async with opened(settings) as service:
        assert not path.exists()
        run, _ = await service.supervisor.migrate(order(sample))
        await until_idle(service)
        found = parsed(await to_thread.run_sync(path.read_bytes))
        assert value(found, "transship_runs_total", state="done") == 1
        assert value(found, "transship_read_bytes_total") > 0
        assert value(found, "transship_last_run_complete") == 1
        assert value(found, "transship_last_run_steps", state="done") > 5
        started = value(found, "transship_last_run_start_timestamp_seconds")
        assert abs(started - run.started) < 10
        assert started <= value(found, "transship_last_run_end_timestamp_seconds")
        assert not any(name.startswith(("process_", "transship_run_")) for name in found), "would be wrong when it is read"

        await service.supervisor.rollback(run.id)
        await until_idle(service)
        found = await figures(service)
        assert value(found, "transship_runs_total", state="done") == 1
        assert value(found, "transship_runs_total", state="rolled-back") == 1
        steps = next(family for name, family in found.items() if name == "transship_last_run_steps")
        assert {one.labels["state"] for one in steps.samples} == {"undone"}
    assert oct(path.stat().st_mode & 0o777) == "0o644", "node_exporter is not root"


async def test_a_run_that_was_stopped_is_not_complete(
    sample: Sample, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    async with opened(settings) as service:
        run, _ = await service.supervisor.migrate(order(sample))
        await gate.reached.wait()
        await service.supervisor.cancel(run.id)
        found = await figures(service)
    assert value(found, "transship_last_run_complete") == 0
    assert value(found, "transship_runs_total", state="interrupted") == 1


async def test_a_textfile_that_cannot_be_written_hinders_nothing(
    sample: Sample, settings: Settings, tmp_path: Path, logs: list[MutableMapping[str, Any]]
) -> None:
    wrong = msgspec.structs.replace(settings.service, textfile=tmp_path / "no" / "such" / "directory.prom")
    async with opened(msgspec.structs.replace(settings, service=wrong)) as service:
        await service.supervisor.migrate(order(sample))
        await until_idle(service)
        assert value(await figures(service), "transship_runs_total", state="done") == 1
    (entry,) = [each for each in logs if each["log_level"] == "error"]
    assert (entry["event"], entry["error"]) == ("not_settled", JournalError.__name__)
    assert "directory.prom" in entry["message"]
