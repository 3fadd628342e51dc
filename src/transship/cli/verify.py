"""``transship verify``: hold the target against the source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transship.cli.display import shown
from transship.cli.options import add_json, add_source_and_target, add_state_dir, request_from
from transship.cli.output import say, say_json
from transship.errors import ExitCode, VerificationFailed
from transship.legs.verify import verify
from transship.text import duration, size

if TYPE_CHECKING:
    import argparse

    from transship.config import Settings


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "verify",
        help="check the target against the source, to the byte",
        description="Checks every name, config and manifest, the digest of each blob and of what it unpacks to, and each"
        " snapshot's tree, against the source. Reads everything; changes nothing.",
    )
    add_source_and_target(parser)
    add_state_dir(parser)
    add_json(parser, "print one JSON object per event, and one at the end")
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Verify; return DONE, VERIFICATION for a difference, INCOMPLETE if only the source is damaged. Raises TransshipError."""
    async with shown(as_json=options.json) as display:
        summary = await verify(request_from(options, settings), display)
    told = {failure.key: f"{failure.title}: {failure.error.message}" for failure in summary.failed}
    different = {failure.key for failure in summary.failed if failure.error.type == VerificationFailed.__name__}
    differences = [text for key, text in told.items() if key in different]
    unchecked = [text for key, text in told.items() if key not in different]
    if options.json:
        report = {"type": "report", "run": summary.run, "checks": summary.steps}
        say_json(report | {"differences": differences, "unchecked": unchecked})
    else:
        verdict = f"{len(differences)} DIFFER, see above" if differences else "no differences"
        if unchecked:
            verdict += f", {len(unchecked)} could not be checked, see above"
        say(f"{summary.steps} checks: {verdict}; {size(summary.bytes)} read in {duration(summary.seconds)}")
        for remedy in dict.fromkeys(failure.error.remedy for failure in summary.failed if failure.error.remedy):
            say(f"  what to do: {remedy}")
    if differences:
        return ExitCode.VERIFICATION
    return ExitCode.INCOMPLETE if unchecked else ExitCode.DONE
