"""``transship migrate``: move a Docker store's images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from transship.cli.display import shown
from transship.cli.options import add_json, add_recipe, add_source_and_target, add_state_dir, request_from
from transship.cli.output import duration, say, say_json, size
from transship.errors import ExitCode
from transship.legs.containerd.migrate import migrate

if TYPE_CHECKING:
    import argparse

    from transship.config import Settings
    from transship.legs.containerd.report import Report


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "migrate",
        help="move images into containerd or an OCI image layout",
        description="Moves every image of a stopped Docker data root, under all its names. Run it again to go on after an"
        " interruption: what is done is not done twice. The source is never changed.",
    )
    add_source_and_target(parser)
    add_recipe(parser)
    add_state_dir(parser)
    add_json(parser, "print one JSON object per event, and one at the end")
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Migrate; return DONE or INCOMPLETE. Raises TransshipError."""
    async with shown(as_json=options.json) as display:
        report = await migrate(request_from(options, settings), display)
    if options.json:
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
    say(
        f"{report.images} images, {report.layers} layers: {report.done} steps done"
        f" ({report.skipped} of them before), {missing} not, {size(report.bytes)} read in {duration(report.seconds)}"
    )
    say(f"target: {report.target}")
    say(f"old and new identities: {report.map}")
    if report.complete:
        say(f"run {report.run} is done. Check it with `transship verify`.")
    else:
        say(f"run {report.run} is INCOMPLETE: what is named above was not moved. Run the same command again to try it again.")
