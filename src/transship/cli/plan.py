"""``transship plan``: what a migration would do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from transship.api.models import PlanAnswer
from transship.cli.options import add_json, add_recipe, add_source_and_target, add_state_dir, request_from
from transship.cli.output import say, say_json
from transship.errors import ExitCode
from transship.legs.preview import preview
from transship.text import duration, size

if TYPE_CHECKING:
    import argparse

    from transship.config import Settings
    from transship.legs.preview import PlannedImage, Preview


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
    return ExitCode.INCOMPLETE if any(left.lost for left in found.left_out) else ExitCode.DONE


def _describe(found: Preview) -> None:
    figures = found.estimate
    place, target = found.route.place, found.route.target
    driver = f" (driver {place.driver})" if place.driver else ""
    say(f"from {place.root}{driver} to {target}")
    if len(found.legs) > 1 or target.in_place:
        for number, leg in enumerate(found.legs, 1):
            steps = "its steps are not known yet" if leg.steps is None else f"{leg.steps} steps"
            say(f"leg {number}: {leg.leg}: {leg.what} ({steps})")
    if place.other_drivers:
        say(f"note: images of other drivers in the same root are not part of this: {', '.join(place.other_drivers)}")
    for image in found.images:
        say(f"  {image.id.removeprefix('sha256:')[:12]}  {_names(image)}")
    for left in found.left_out:
        say(f"{'CANNOT MOVE' if left.lost else 'note'}: {left.subject}: {left.reason}")
        say(f"  what to do: {left.remedy}")
    say(f"{len(found.images)} images, {found.layers} layers, {figures.steps} steps, {figures.standing} of them done already")
    say(f"to read: {size(figures.bytes_to_read)} in about {figures.files} files; about {duration(figures.seconds)}")
    for room in figures.rooms:
        verdict = "" if room.enough else "  NOT ENOUGH ROOM"
        say(
            f"to write to {room.path}: about {size(room.bytes_to_write)} and {room.inodes_to_write} inodes;"
            f" free: {size(room.bytes_free)} and {room.inodes_free or 'any number of'} inodes{verdict}"
        )


def _names(image: PlannedImage) -> str:
    if not image.references:
        return "(no tag)"
    more = f" and {len(image.references) - 1} more names" if len(image.references) > 1 else ""
    return f"{image.references[0]}{more}"
