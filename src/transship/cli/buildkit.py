"""``transship buildkit``: look into BuildKit's build cache, and bring it to version 2 of its metadata."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from transship.cli.migrate import add_how, carried_out
from transship.cli.options import add_json, overridden
from transship.cli.output import say, say_json
from transship.errors import ExitCode
from transship.legs.request import Request
from transship.legs.targets import BUILDKIT, DEFAULT_SOCKET
from transship.stores import bolt_file
from transship.stores.buildkit.ancestry import parents_of_snapshots
from transship.stores.buildkit.places import find_caches
from transship.stores.buildkit.records import read_records
from transship.text import printable, size

if TYPE_CHECKING:
    import argparse

    from transship.config import Settings
    from transship.stores.buildkit.places import Cache
    from transship.stores.buildkit.records import Record
    from transship.stores.docker.problem import Problem

_NANOSECONDS = 1_000_000_000
_SHORT = 19
"""Characters of an ID that are shown where there is little room: those of a digest begin with ``sha256:``."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "buildkit",
        help="look into BuildKit's build cache, or bring it to what BuildKit 0.28 and later read",
        description="Shows what a build cache has, of BuildKit or of Docker's builder, in either version of its metadata; and"
        " brings it from version 1, which BuildKit 0.28 and Docker 29.3 refuse to start on, to version 2.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    inspect = actions.add_parser(
        "inspect",
        help="list the records of a cache",
        description="Lists the records of all caches in a directory, those last used first, with their sizes and what they"
        " stand on.",
    )
    inspect.add_argument("directory", type=Path, metavar="DIR", help="a worker's directory, the root of buildkitd, or Docker's")
    add_json(inspect, "print one JSON object")
    bring = actions.add_parser(
        "migrate",
        help="bring caches to version 2 of their metadata",
        description="Brings all caches in a directory that are of version 1 to version 2, while no BuildKit or Docker runs on"
        " them. The old metadata stay beside the new ones, and `transship rollback` takes all of it back. Run it again to go on"
        " after an interruption.",
    )
    bring.add_argument("directory", type=Path, metavar="DIR", help="a worker's directory, the root of buildkitd, or Docker's")
    bring.add_argument(
        "--containerd",
        type=Path,
        metavar="SOCKET",
        help=f"the containerd that holds the data of caches of the containerd worker (default: {DEFAULT_SOCKET})",
    )
    bring.add_argument("--namespace", default=BUILDKIT, metavar="N", help=f"BuildKit's namespace in it (default: {BUILDKIT})")
    add_how(bring)
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Look; return DONE, or VERIFICATION if something is damaged. Or migrate: DONE or INCOMPLETE. Raises TransshipError."""
    if options.action == "migrate":
        options.source = options.directory
        options.target = f"buildkit:{options.containerd or DEFAULT_SOCKET}"
        return await carried_out(Request(overridden(options, settings)), options)
    found = await to_thread.run_sync(lambda: [_described(cache) for cache in find_caches(options.directory)])
    if options.json:
        say_json({"caches": found})
    else:
        for cache in found:
            _show(cache)
    return ExitCode.VERIFICATION if any(cache["damaged"] for cache in found) else ExitCode.DONE


def _described(cache: Cache) -> dict[str, Any]:
    problems: list[Problem] = []
    parents = parents_of_snapshots(cache) if cache.version == 1 else {}
    with bolt_file.opened(cache.metadata) as database:
        records = [_record(record, parents) for record in read_records(database, problems)]
    records.sort(key=lambda about: (about["last_used"] or about["created"] or 0.0, about["id"]), reverse=True)
    return {
        "metadata": str(cache.metadata),
        "version": cache.version,
        "records": records,
        "damaged": [problem.error.message for problem in problems],
    }


def _record(record: Record, parents: dict[str, str]) -> dict[str, Any]:
    snapshot = record.text("cache.snapshot") or record.text("cache.equalMutable") or record.id
    below = record.parents or tuple(filter(None, [parents.get(snapshot)]))
    return {
        "id": record.id,
        "type": record.text("cache.recordType"),
        "description": record.text("cache.description"),
        "size": record.size,
        "parents": list(below),
        "created": _seconds(record.number("cache.createdAt")),
        "last_used": _seconds(record.number("cache.lastUsedAt")),
        "uses": record.number("cache.usageCount"),
        "blob": record.text("cache.blob"),
        "deleted": record.flag("cache.deleted"),
    }


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / _NANOSECONDS


def _show(cache: dict[str, Any]) -> None:
    total = sum(record["size"] or 0 for record in cache["records"])
    say(f"{printable(cache['metadata'])}: version {cache['version']}, {len(cache['records'])} records, {size(total)} counted")
    rows = [("ID", "SIZE", "LAST USED", "PARENT", "DESCRIPTION"), *map(_row, cache["records"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    for message in cache["damaged"]:
        say(f"DAMAGED: {printable(message)}")


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    shown = "" if record["size"] is None else size(record["size"])
    moment = record["last_used"] or record["created"]
    used = "" if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M}"
    parents = ", ".join(parent[:_SHORT] for parent in record["parents"][:2])
    what = record["description"] or record["type"] or ""
    return printable(record["id"][:_SHORT]), shown, used, printable(parents), printable(" ".join(what.split()))[:80]
