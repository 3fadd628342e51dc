"""``transship migrate``: move a Docker store's images."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec

from transship.api.models import Order
from transship.cli.display import JsonDisplay, shown
from transship.cli.options import (
    add_direct,
    add_json,
    add_recipe,
    add_socket,
    add_source_and_target,
    add_state_dir,
    ensure_usable,
    request_from,
)
from transship.cli.output import say, say_json
from transship.cli.service import found, missing
from transship.client.follow import follow
from transship.errors import ExitCode, ServiceUnavailable
from transship.legs.migrate import migrate
from transship.text import duration, size

if TYPE_CHECKING:
    import argparse

    from transship.api.models import Run
    from transship.cli.display import Display
    from transship.client.client import Client
    from transship.config import Settings
    from transship.legs.report import Report
    from transship.legs.request import Request


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "migrate",
        help="move images into containerd or an OCI image layout",
        description="Moves every image of a stopped Docker data root, under all its names. Run it again to go on after an"
        " interruption: what is done is not done twice. The source is not changed, unless it is a store of Docker 1.9 or"
        " older and the target is docker: then it is upgraded where it is, and rollback restores it. If the transship service"
        " runs, or its socket is there to start it, the service does the work, and this command shows how it goes: Ctrl-C then"
        " ends the command, not the work.",
    )
    add_source_and_target(parser)
    add_recipe(parser)
    add_how(parser)
    return parser


def add_how(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that ``carried_out`` carries out."""
    add_state_dir(parser)
    add_socket(parser)
    how = parser.add_mutually_exclusive_group()
    add_direct(how)
    how.add_argument("--detach", action="store_true", help="have the service begin, and do not wait for the end")
    add_json(parser, "print one JSON object per event, and one at the end")


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Migrate; return DONE or INCOMPLETE. Raises TransshipError."""
    return await carried_out(request_from(options, settings), options)


async def carried_out(request: Request, options: argparse.Namespace) -> ExitCode:
    """Have ``request`` carried out, by the service or here; return DONE or INCOMPLETE. Raises TransshipError."""
    async with found(options, request.settings) as client:
        if options.detach:
            if client is None:
                raise missing(request.settings, "start it: `systemctl start transship.socket`; or leave out --detach")
            return await _detached(client, request, as_json=options.json)
        if client is None:
            async with shown(as_json=options.json) as display:
                report = await migrate(request, display)
        else:
            report = await _handed_over(client, request, as_json=options.json)
    return told(report, as_json=options.json)


async def _handed_over(client: Client, request: Request, *, as_json: bool) -> Report:
    since = time.time()
    run, begun = await _start(client, request)
    async with shown(as_json=as_json) as display:
        return await followed(client, run, since if begun else 0, display)


async def _start(client: Client, request: Request) -> tuple[Run, bool]:
    ensure_usable(request)
    return await client.start(Order.of(request))


async def followed(client: Client, run: Run, since: float, display: Display) -> Report:
    """Tell a person that the service is at ``run``; then as ``report_of``."""
    if not isinstance(display, JsonDisplay):
        sys.stderr.write(f"run {run.id} goes on in the service; Ctrl-C ends only this command\n")
    return await report_of(client, run, since, display)


async def report_of(client: Client, run: Run, since: float, display: Display) -> Report:
    """Have ``display`` show how ``run`` goes from the time ``since`` on, and return its report. Raises TransshipError."""
    details = await follow(client, run.id, since, display)
    if details.report is None:
        raise ServiceUnavailable(f"the service has no report of run {run.id}", remedy="see `transship status`")
    return details.report


async def _detached(client: Client, request: Request, *, as_json: bool) -> ExitCode:
    run, _ = await _start(client, request)
    if as_json:
        say_json({"type": "detached", "run": run.id})
    else:
        say(f"run {run.id} goes on in the service. Follow it with `transship status --watch`.")
    return ExitCode.DONE


def told(report: Report, *, as_json: bool) -> ExitCode:
    """Tell how a migration ended; return DONE or INCOMPLETE."""
    if as_json:
        say_json(msgspec.to_builtins(report))
    else:
        summarise(report)
    return ExitCode.DONE if report.complete else ExitCode.INCOMPLETE


def summarise(report: Report) -> None:
    """Tell a person how a migration ended."""
    for left in report.left_out:
        if not left.lost:
            say(f"note: {left.subject}: {left.reason}")
            say(f"  what to do: {left.remedy}")
    for failure in report.failed:
        say(f"NOT MOVED: {failure.title}: {failure.message}")
        if failure.remedy:
            say(f"  what to do: {failure.remedy}")
    missing = len(report.failed) + len(report.blocked)
    moved = f"{report.images} images, {report.layers} layers" if not report.records else f"{report.records} records"
    say(
        f"{moved}: {report.done} steps done"
        f" ({report.skipped} of them before), {missing} not, {size(report.bytes)} read in {duration(report.seconds)}"
    )
    say(f"target: {report.target}")
    say(f"old and new identities: {report.map}")
    if report.complete:
        say(f"run {report.run} is done. Check it with `transship verify`.")
    else:
        say(f"run {report.run} is INCOMPLETE: what is named above was not moved. Run the same command again to try it again.")
