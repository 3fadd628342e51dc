"""``transship plan``: what a migration would do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from transship.api.models import PlanAnswer
from transship.cli.options import add_json, add_recipe, add_source_and_target, add_state_dir, request_from
from transship.cli.output import say, say_json
from transship.errors import ExitCode
from transship.legs.containerd.inspect import preview
from transship.legs.containerd.manifests import title
from transship.text import duration, size

if TYPE_CHECKING:
    import argparse

    from transship.config import Settings
    from transship.legs.containerd.inspect import Preview


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "plan",
        help="show what a migration would do; writes nothing",
        description="Shows what a migration would move, what is there already, what cannot move and why, and whether there is"
        " room. Writes nothing.",
    )
    add_source_and_target(parser)
    add_recipe(parser)
    add_state_dir(parser)
    add_json(parser, "print one JSON object")
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Plan; return DONE, or INCOMPLETE if something could not be moved. Raises TransshipError."""
    found = await preview(request_from(options, settings))
    if options.json:
        say_json(msgspec.to_builtins(PlanAnswer.of(found)))
    else:
        _describe(found)
    return ExitCode.INCOMPLETE if any(left.lost for left in found.itinerary.left_out) else ExitCode.DONE


def _describe(found: Preview) -> None:
    figures = found.estimate
    say(f"from {found.store.root} (driver {found.store.driver}) to {found.target}")
    if found.store.other_drivers:
        say(f"note: images of other drivers in the same root are not part of this: {', '.join(found.store.other_drivers)}")
    for image in found.itinerary.images:
        more = f" and {len(image.references) - 1} more names" if len(image.references) > 1 else ""
        say(f"  {image.id[7:19]}  {title(image) + more if image.references else '(no tag)'}")
    for left in found.itinerary.left_out:
        say(f"{'CANNOT MOVE' if left.lost else 'note'}: {left.subject}: {left.reason}")
        say(f"  what to do: {left.remedy}")
    say(
        f"{len(found.itinerary.images)} images, {len(found.itinerary.layers)} layers, {figures.steps} steps,"
        f" {figures.standing} of them done already"
    )
    say(f"to read: {size(figures.bytes_to_read)} in about {figures.files} files; about {duration(figures.seconds)}")
    for room in figures.rooms:
        verdict = "" if room.enough else "  NOT ENOUGH ROOM"
        say(
            f"to write to {room.path}: about {size(room.bytes_to_write)} and {room.inodes_to_write} inodes;"
            f" free: {size(room.bytes_free)} and {room.inodes_free or 'any number of'} inodes{verdict}"
        )
