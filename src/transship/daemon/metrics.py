"""Figures for Prometheus: what the service is at, and how its last run ended."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily

from transship import __version__
from transship.api.models import Phase
from transship.daemon import history
from transship.engine.records import RunState
from transship.errors import JournalError
from transship.files.durable import write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from transship.config import Settings
    from transship.daemon.activity import Activity
    from transship.engine.records import RunRecord

_TEXTFILE = Path("/var/lib/prometheus/node-exporter/transship.prom")
"""Where Debian's node_exporter looks."""


class Metrics:
    """Counts what ends; what goes on is read when it is asked for, from ``current``."""

    def __init__(self, current: Callable[[], Activity | None]) -> None:
        disable_created_metrics()  # they would double the counters, and say when the service started
        lasting = self._lasting = CollectorRegistry()
        Info("transship", "Version of transship.", registry=lasting).info({"version": __version__})
        self._runs = Counter("transship_runs", "Runs and rollbacks that ended.", ["state"], registry=lasting)
        self._bytes = Counter("transship_read_bytes", "Bytes of layers read by runs that ended.", registry=lasting)
        self._last = CollectorRegistry()  # empty until a run has ended: figures of none would pass for those of a failed one
        self._live = CollectorRegistry()
        self._live.register(_Current(current))
        ProcessCollector(registry=self._live)

    async def ended(self, activity: Activity, settings: Settings) -> None:
        """Count ``activity``, which is over, and leave all that lasts in the textfile. Raises JournalError."""
        if (run := activity.run) is None:
            return
        state_dir = settings.run.state_dir
        record = await to_thread.run_sync(history.record, state_dir, run.id)
        counts = await to_thread.run_sync(history.counts, state_dir, run.id)
        self._count(record, counts, activity)
        await to_thread.run_sync(self._write, settings.service.textfile)

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format. Blocks: figures of the process are read from ``/proc``."""
        return generate_latest(self._live) + self._kept()

    def _count(self, record: RunRecord, counts: dict[str, int], activity: Activity) -> None:
        self._runs.labels(record.state.value).inc()
        self._bytes.inc(activity.bytes)
        last = self._last = CollectorRegistry()
        started = Gauge("transship_last_run_start_timestamp_seconds", "When the last run began.", registry=last)
        started.set(activity.since)
        ended = Gauge("transship_last_run_end_timestamp_seconds", "When the last run ended.", registry=last)
        ended.set(time.time())
        complete = Gauge("transship_last_run_complete", "1 if the last run did all it was to do.", registry=last)
        complete.set(record.state in {RunState.DONE, RunState.ROLLED_BACK})
        steps = Gauge("transship_last_run_steps", "Steps of the last run, by state.", ["state"], registry=last)
        for state, count in counts.items():
            steps.labels(state).set(count)

    def _kept(self) -> bytes:
        return generate_latest(self._lasting) + generate_latest(self._last)

    def _write(self, chosen: Path | None) -> None:
        path = chosen or _TEXTFILE
        if path.is_char_device() or (chosen is None and not path.parent.is_dir()):  # /dev/null: nowhere; it is not replaced
            return
        try:
            write_file(path, self._kept())
        except OSError as error:
            raise JournalError(f"cannot write {path}: {error}", remedy="see service.textfile in the configuration") from error


class _Current:
    """Collects the figures of what goes on at the moment that they are asked for."""

    def __init__(self, current: Callable[[], Activity | None]) -> None:
        self._current = current

    def collect(self) -> Iterator[Metric]:
        activity = self._current()
        for phase in (Phase.MIGRATING, Phase.ROLLING_BACK):
            name = phase.value.replace("-", "_")
            value = activity is not None and activity.phase is phase
            yield GaugeMetricFamily(f"transship_{name}", f"1 while the service is {phase.value}.", value=value)
        if activity is None or activity.progress is None:
            return
        now = activity.progress.snapshot()
        passed = now.done + now.skipped + now.left_out
        yield GaugeMetricFamily("transship_run_bytes", "Bytes that the run is to read.", value=now.total.bytes)
        yield GaugeMetricFamily("transship_run_passed_bytes", "Bytes of that which are behind it.", value=passed.bytes)
        yield GaugeMetricFamily("transship_run_steps", "Steps of the run.", value=now.total.steps)
        yield GaugeMetricFamily("transship_run_passed_steps", "Steps of that which are behind it.", value=passed.steps)
        yield GaugeMetricFamily("transship_run_left_out_steps", "Steps that failed or were blocked.", value=now.left_out.steps)
        yield GaugeMetricFamily("transship_run_read_bytes_per_second", "How fast it reads.", value=now.rate)
        if now.eta is not None:
            yield GaugeMetricFamily("transship_run_eta_seconds", "About how long it will take.", value=now.eta)
        yield GaugeMetricFamily("transship_run_quiet_seconds", "Since anything advanced.", value=activity.quiet_for())
