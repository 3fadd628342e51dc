"""``transship logs``: what happened in a run."""

from __future__ import annotations

import json
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from transship.cli.options import add_json, add_socket, add_state_dir, overridden
from transship.cli.output import say, say_json
from transship.cli.service import found, missing
from transship.client.follow import detached, happenings
from transship.daemon import history
from transship.engine.event_log import event_log_path, read_lines
from transship.errors import ExitCode, RunNotFound
from transship.text import duration, size

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from transship.client.client import Client
    from transship.config import Settings

_PIECE = 1 << 20


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "logs",
        help="show what happened in a run",
        description="Shows what happened in a run, the oldest first: each thing that was moved, left out or removed, and each"
        " attempt. Times are UTC.",
    )
    parser.add_argument("run_id", nargs="?", metavar="RUN", help="its ID (default: the newest run)")
    parser.add_argument(
        "--follow", action="store_true", help="go on with what comes, until the run that the service is at ends"
    )
    add_socket(parser)
    add_state_dir(parser)
    add_json(parser, "print one JSON object per event")
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Show events; return DONE. Raises TransshipError."""
    settings = overridden(options, settings)
    async with found(options, settings) as client:
        if client is None and options.follow:
            raise missing(settings, "leave out --follow: what happened so far is shown without a service, too")
        told = _asked(client, options) if client else _read(settings.run.state_dir, options.run_id)
        async with aclosing(told) as events:
            async for event in events:
                if options.json:
                    say_json(event)
                else:
                    say(f"{datetime.fromtimestamp(event['time'], UTC):%Y-%m-%d %H:%M:%S} {_told(event)}")
    return ExitCode.DONE


async def _asked(client: Client, options: argparse.Namespace) -> AsyncGenerator[dict[str, Any], None]:
    run_id = options.run_id
    if run_id is None:
        runs = await client.runs()
        if not runs:
            raise _none()
        run_id = runs[0].id
    try:
        async with aclosing(happenings(client, run_id) if options.follow else client.events(run_id, further=False)) as events:
            async for event in events:
                yield event
    except anyio.get_cancelled_exc_class():
        if not options.follow:
            raise
        raise detached(run_id) from None


async def _read(state_dir: Path, run_id: str | None) -> AsyncGenerator[dict[str, Any], None]:
    def chosen() -> str:
        if run_id is not None:
            return history.record(state_dir, run_id).id
        runs, _ = history.runs(state_dir, 0, 1)
        if not runs:
            raise _none()
        return runs[0].id

    path, offset = event_log_path(state_dir, await to_thread.run_sync(chosen)), 0
    while True:
        lines, offset = await to_thread.run_sync(read_lines, path, offset, _PIECE)
        if not lines:
            return
        for line in lines:
            yield json.loads(line)


def _none() -> RunNotFound:
    return RunNotFound("there has been no run yet", remedy="start one with `transship migrate`")


def _told(event: dict[str, Any]) -> str:
    """Return an event in words."""
    match event:
        case {"type": "run_started", "attempt": attempt, "steps": steps, "bytes": count}:
            return f"begun (attempt {attempt}): {steps} steps, {size(count)} to read"
        case {"type": "step_started", "title": title}:
            return f"begins: {title}"
        case {"type": "step_done", "title": title, "skipped": True}:
            return f"done before: {title}"
        case {"type": "step_done", "title": title, "bytes": 0, "seconds": seconds}:
            return f"done: {title} ({duration(seconds)})"
        case {"type": "step_done", "title": title, "bytes": count, "seconds": seconds}:
            return f"done: {title} ({size(count)} in {duration(seconds)})"
        case {"type": "step_failed", "title": title, "error": {"message": message}}:
            return f"FAILED: {title}: {message}"
        case {"type": "step_blocked", "title": title, "cause": cause}:
            return f"left out: {title}, because {cause} failed"
        case {"type": "rollback_started", "steps": steps}:
            return f"rollback begun: {steps} things to remove"
        case {"type": "step_undone", "key": key, "removed": removed}:
            return f"removed: {key}" if removed else f"kept, because something else uses it: {key}"
        case {"type": "run_ended", "state": state, "done": done, "failed": failed, "seconds": seconds}:
            return f"ended ({state}): {done} done, {failed} failed, after {duration(seconds)}"
        case _:
            return str(event.get("type"))
