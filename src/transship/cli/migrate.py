"""``transship migrate``: move a Docker store's images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transship.cli.display import shown
from transship.cli.options import add_json, add_recipe, add_source_and_target, add_state_dir, request_from
from transship.cli.output import duration, say, say_json, size
from transship.errors import ExitCode
from transship.legs.containerd.migrate import migrate

if TYPE_CHECKING:
    import argparse

    from transship.config import Settings
    from transship.legs.containerd.migrate import Report


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
        say_json(_document(report))
    else:
        _summarise(report)
    return ExitCode.DONE if report.complete else ExitCode.INCOMPLETE


def _document(report: Report) -> dict[str, Any]:
    summary = report.summary
    return {
        "type": "report",
        "run": summary.run,
        "complete": report.complete,
        "images": len(report.itinerary.images),
        "steps": summary.steps,
        "done": summary.done,
        "skipped": summary.skipped,
        "failed": [{"key": failure.key, "message": failure.error.message} for failure in summary.failed],
        "blocked": summary.blocked,
        "left_out": [
            {"subject": left.subject, "reason": left.reason, "remedy": left.remedy, "lost": left.lost}
            for left in report.itinerary.left_out
        ],
        "map": str(report.map_file),
    }


def _summarise(report: Report) -> None:
    summary = report.summary
    for left in report.itinerary.left_out:
        if not left.lost:
            say(f"note: {left.subject}: {left.reason}")
            say(f"  what to do: {left.remedy}")
    for failure in summary.failed:
        say(f"NOT MOVED: {failure.title}: {failure.error.message}")
        if failure.error.remedy:
            say(f"  what to do: {failure.error.remedy}")
    missing = len(summary.failed) + len(summary.blocked)
    say(
        f"{len(report.itinerary.images)} images, {len(report.itinerary.layers)} layers: {summary.done} steps done"
        f" ({summary.skipped} of them before), {missing} not, {size(summary.bytes)} read in {duration(summary.seconds)}"
    )
    say(f"target: {report.target}")
    say(f"old and new identities: {report.map_file}")
    if report.complete:
        say(f"run {summary.run} is done. Check it with `transship verify`.")
    else:
        say(f"run {summary.run} is INCOMPLETE: what is named above was not moved. Run the same command again to try it again.")
