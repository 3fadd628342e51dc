"""``transship status``: what the service is at, the runs, and how the last one stands."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from anyio import to_thread

from transship.api.models import MAX_RUNS, MAX_STEPS, Phase, Run
from transship.cli.display import shown
from transship.cli.options import add_json, add_socket, add_state_dir, overridden
from transship.cli.output import say, say_json
from transship.cli.service import found, missing
from transship.client.follow import follow, under_way
from transship.daemon import history
from transship.engine.step import State
from transship.errors import Detached, ExitCode, ServiceUnavailable, TransshipError
from transship.legs.targets import LEGS
from transship.text import duration, line, size

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from transship.api.models import RunDetails, Status
    from transship.client.client import Client
    from transship.config import Settings

_PHASES = {
    Phase.IDLE: "idle",
    Phase.MIGRATING: "migrating",
    Phase.ROLLING_BACK: "rolling back",
    Phase.STOPPING: "stopping",
}


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "status",
        help="show what goes on, the runs so far, and how the last one stands",
        description="Shows what the service is doing right now, the runs so far, newest first, and how many steps of the newest"
        " are done or failed. Changes nothing. Without a service it shows what the journal in the state directory has.",
    )
    parser.add_argument(
        "--watch", action="store_true", help="first show how the run that the service is at goes, until it ends"
    )
    add_socket(parser)
    add_state_dir(parser)
    add_json(parser, "print one JSON object; with --watch, before it one per event")
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Show runs; return DONE. Raises TransshipError."""
    settings = overridden(options, settings)
    async with found(options, settings) as client:
        if client is None:
            if options.watch:
                raise missing(settings, "leave out --watch: the runs are shown without a service, too")
            service, (runs, steps) = None, await to_thread.run_sync(_read, settings.run.state_dir)
        else:
            if options.watch:
                await _watch(client, as_json=options.json)
            service = await client.status()
            runs = await client.runs()
            steps = await client.run(runs[0].id) if runs else None
    if options.json:
        say_json(_document(service, runs, steps))
        return ExitCode.DONE
    if service is not None:
        _describe_service(service)
    if runs and steps:
        _describe(runs, steps)
    else:
        say(f"no runs yet (state directory {settings.run.state_dir})")
    return ExitCode.DONE


async def _watch(client: Client, *, as_json: bool) -> None:
    """Show what the service is at until it has ended, however it ends: that is shown after it."""
    current = await under_way(client)
    if current is None or current.run is None:
        return
    run, stopped = current.run.id, None
    async with shown(as_json=as_json) as display:
        try:
            await follow(client, run, current.since, display)
        except (ServiceUnavailable, Detached):
            raise
        except TransshipError as error:
            stopped = error
    if stopped is not None and not as_json:
        say(f"run {run} did not come to its end: {stopped.message}")
        if stopped.remedy:
            say(f"  what to do: {stopped.remedy}")


def _read(state_dir: Path) -> tuple[list[Run], RunDetails | None]:
    records, _ = history.runs(state_dir, 0, MAX_RUNS)
    if not records:
        return [], None
    last = history.details(state_dir, records[0].id, state=State.FAILED, after=0, limit=MAX_STEPS, problem=None)
    return [Run.of(record) for record in records], last


def _document(service: Status | None, runs: list[Run], last: RunDetails | None) -> dict[str, Any]:
    return {
        "service": msgspec.to_builtins(service),
        "runs": msgspec.to_builtins(runs),
        "last": last
        and {
            "steps": last.counts,
            "failed": [
                {"key": step.key, "message": step.error.message, "remedy": step.error.remedy}
                for step in last.steps
                if step.error
            ],
        },
    }


def _describe_service(service: Status) -> None:
    current = service.current
    run = f" run {current.run.id}" if current and current.run else ""
    progress = f": {line(current.progress)}" if current and current.progress else ""
    say(f"service: {_PHASES[service.state]}{run}{progress}")
    if current and current.stalled:
        quiet = f" for {duration(current.progress.quiet)}" if current.progress else ""
        say(f"  NOTHING ADVANCES{quiet}: see the disks and the target, and `journalctl -u transship`")
    if current and current.progress:
        for step in current.progress.running:
            how_far = f": {size(step.bytes_done)} of {size(step.bytes)}" if step.bytes else ""
            say(f"  now: {step.title}{how_far}, for {duration(step.seconds)}")
    if service.armed:
        say("armed: the next boot migrates before Docker starts (`transship disarm` takes this back)")


def _describe(runs: list[Run], last: RunDetails) -> None:
    say(f"{'RUN':22}{'WHAT':12}{'STATE':13}{'STARTED (UTC)':21}{'TOOK':>12}{'READ':>10}")
    for run in runs:
        started = datetime.fromtimestamp(run.started, UTC).strftime("%Y-%m-%d %H:%M:%S")
        took = duration(run.ended - run.started) if run.ended else "-"
        what = "migrate" if run.leg in LEGS else run.leg
        say(f"{run.id:22}{what:12}{run.state.value:13}{started:21}{took:>12}{size(run.bytes):>10}")
    say(f"steps of the newest run: {', '.join(f'{count} {state}' for state, count in last.counts.items()) or 'none yet'}")
    for step in last.steps:
        if step.error:
            say(f"  FAILED {step.key}: {step.error.message}")
            if step.error.remedy:
                say(f"    what to do: {step.error.remedy}")
