"""``transship graph``: look into a store of Docker 1.9 or older."""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from anyio import CapacityLimiter, create_task_group, from_thread, to_thread

from transship.cli.options import add_jobs, add_json
from transship.cli.output import say, say_json
from transship.errors import ExitCode, SourceCorrupt, UsageError
from transship.formats import go_json
from transship.stores.docker.problem import Problem
from transship.stores.graph import check
from transship.stores.graph.images import RESTORE_HINT
from transship.stores.graph.relations import children, heads
from transship.stores.graph.store import find_image, read_graph
from transship.stores.mapped import mapped
from transship.text import printable, size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from transship.config import Settings
    from transship.stores.graph.images import GraphImage
    from transship.stores.graph.store import Graph

_SHORT = 12
"""Digits of an ID that are shown where there is little room."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "graph",
        help="look into a store of Docker 1.9 or older",
        description="Shows what a data root of Docker 1.9 or older has: its images, their layers, what is damaged. Writes"
        " nothing to it.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    texts = {
        "ls": ("list all images", "Lists all images, the newest first."),
        "heads": ("list the images on which no other stands", "Lists the images on which no other stands, the newest first."),
        "show": ("show all that is known of an image", "Shows all that is known of an image."),
        "tar": ("write the archive of an image's layer", "Writes the tar archive that an image's layer came as."),
        "verify": (
            "name everything that is damaged",
            "Reads all images, layers and names, and names everything that is damaged.",
        ),
    }
    added = {name: actions.add_parser(name, help=short, description=long) for name, (short, long) in texts.items()}
    for action in added.values():
        action.add_argument("root", type=Path, metavar="ROOT", help="Docker's data root")
    for name in ("show", "tar"):
        added[name].add_argument("image", metavar="ID", help="the image's ID, the first digits of it, or its name")
    added["tar"].add_argument("-o", "--output", type=Path, metavar="FILE", help="where to write it (default: standard output)")
    add_jobs(added["verify"])
    for action in added.values():
        action.add_argument(
            "--driver", metavar="D", help="the graph driver that the layers are of (default: that which has layers)"
        )
    for name in ("ls", "heads", "show", "verify"):
        add_json(added[name], "print one JSON object")
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Look; return DONE, or VERIFICATION if something is damaged. Raises TransshipError."""
    graph = await to_thread.run_sync(read_graph, options.root, options.driver)
    match options.action:
        case "ls" | "heads":
            _list(graph, graph.images.values() if options.action == "ls" else heads(graph), as_json=options.json)
        case "show":
            await to_thread.run_sync(partial(_show, graph, _find(graph, options.image), as_json=options.json))
        case "tar":
            await to_thread.run_sync(_write_tar, graph, _find(graph, options.image), options.output)
        case "verify":
            return await _verify(graph, options.jobs or settings.run.parallel, as_json=options.json)
    return ExitCode.DONE


def _find(graph: Graph, text: str) -> GraphImage:
    """Return the image that is meant. Raises UsageError, SourceCorrupt if it is damaged."""
    image_id = find_image(graph, text)
    if image_id in graph.images:
        return graph.images[image_id]
    absent = SourceCorrupt(f"{text} stands for {image_id[:64]}, which is not in the store", remedy=RESTORE_HINT)
    raise graph.broken.get(image_id, absent)


def _list(graph: Graph, images: Iterable[GraphImage], *, as_json: bool) -> None:
    names = _names(graph)
    listed = [_summary(image, names) for image in images]
    listed.sort(key=lambda about: (about["created"] or "", about["id"]), reverse=True)
    if as_json:
        say_json({"driver": graph.driver, "images": listed, "damaged": sorted(graph.broken)})
        return
    rows = [("ID", "CREATED", "SIZE", "PARENT", "NAMES"), *map(_row, listed)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    if graph.broken:
        say(f"{len(graph.broken)} more cannot be read: see `transship graph verify`")


def _row(about: dict[str, Any]) -> tuple[str, ...]:
    created = (about["created"] or "")[:16].replace("T", " ")
    parent = (about["parent"] or "")[:_SHORT]
    return about["id"][:_SHORT], created, _shown_size(about["size"]), parent, ", ".join(about["names"])


def _summary(image: GraphImage, names: dict[str, list[str]]) -> dict[str, Any]:
    try:
        layer_size = image.size
    except SourceCorrupt:
        layer_size = None
    return {
        "id": image.id,
        "names": names.get(image.id, []),
        "created": _created(image),
        "size": layer_size,
        "parent": image.parent,
    }


def _names(graph: Graph) -> dict[str, list[str]]:
    """Return the names of each image."""
    found: dict[str, list[str]] = {}
    for name, image_id in sorted(graph.names.ids.items()):
        found.setdefault(image_id, []).append(name)
    return found


def _created(image: GraphImage) -> str | None:
    """Return when an image was made, in UTC, None if it does not say so in a way that can be understood."""
    try:
        found = {go_json.fold(key): value for key, value in go_json.members(image.raw)}
        return datetime.fromisoformat(go_json.string(found["created"])).astimezone(UTC).isoformat()
    except (KeyError, ValueError, OverflowError):
        return None


def _shown_size(count: int | None) -> str:
    return "" if count is None else size(count)


def _show(graph: Graph, image: GraphImage, *, as_json: bool) -> None:
    about = _summary(image, _names(graph)) | {
        "ancestors": _ancestors(graph, image),
        "children": [child.id for child in children(graph).get(image.id, [])],
        "driver": graph.driver,
        "layer": _layer(graph, image),
        "recorded": image.tar_data.is_file(),
    }
    if as_json:
        say_json(about | {"json": image.raw.decode("utf-8", "backslashreplace")})
        return
    lines = {
        "id": [image.id],
        "names": about["names"],
        "created": [about["created"]],
        "size": [_shown_size(about["size"])],
        "ancestors": about["ancestors"],
        "children": about["children"],
        "layer": [about["layer"]],
        "stream": ["recorded, to the byte" if about["recorded"] else "not recorded: to be made anew of the files"],
        "json": [f"{key}: {value.decode('utf-8', 'backslashreplace')}" for key, value in go_json.members(image.raw)],
    }
    for name, values in lines.items():
        for place, value in enumerate(values or [None]):
            say(f"{'' if place else name:10}  {value or '-'}")


def _ancestors(graph: Graph, image: GraphImage) -> list[str]:
    """Return the IDs of an image's ancestors, the nearest first, as far as they are there."""
    found: dict[str, None] = {}
    above = image.parent
    while above is not None and above not in found:
        found[above] = None
        above = graph.images[above].parent if above in graph.images else None
    return list(found)


def _layer(graph: Graph, image: GraphImage) -> str | None:
    try:
        return str(graph.layer_directory(image.id))
    except SourceCorrupt:
        return None


def _write_tar(graph: Graph, image: GraphImage, output: Path | None) -> None:
    if output is None and sys.stdout.isatty():
        raise UsageError("an archive is nothing for a terminal", remedy="give a file with -o, or hand the output on")
    chunks, why_not_recorded = check.best_stream(check.layer_files(graph, image))
    if why_not_recorded:
        sys.stderr.write(f"{printable(f'made anew of the files, not as it came: {why_not_recorded}')}\n")
    with _opened(output) as file:
        for chunk in chunks:
            from_thread.check_cancelled()
            file.write(chunk)


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[bytes]]:
    """Open the file ``output``, which gets its name when it is whole; or standard output."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with mapped(output), tempfile.NamedTemporaryFile(prefix=f".{output.name}.", dir=output.parent, delete=False) as file:
        try:
            yield file
            file.flush()
            Path(file.name).replace(output)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


async def _verify(graph: Graph, jobs: int, *, as_json: bool) -> ExitCode:
    problems = await to_thread.run_sync(check.metadata_problems, graph)
    read, not_recorded = 0, 0
    limiter = CapacityLimiter(jobs)

    def passed(count: int) -> None:
        nonlocal read
        from_thread.check_cancelled()
        read += count

    async def verify(image: GraphImage) -> None:
        nonlocal not_recorded
        try:
            is_recorded = await to_thread.run_sync(check.check_layer, graph, image, passed, limiter=limiter)
            not_recorded += not is_recorded
        except SourceCorrupt as error:
            problems.append(Problem(image.id, error))

    async with create_task_group() as tasks:
        for image in graph.images.values():
            tasks.start_soon(verify, image)
    problems.sort(key=lambda problem: (problem.subject, problem.error.message))
    if as_json:
        damaged = [{"subject": problem.subject, **problem.error.fields()} for problem in problems]
        say_json({"images": len(graph.images), "not_recorded": not_recorded, "bytes": read, "damaged": damaged})
    else:
        _tell(graph, problems, not_recorded, read)
    return ExitCode.VERIFICATION if problems else ExitCode.DONE


def _tell(graph: Graph, problems: list[Problem], not_recorded: int, read: int) -> None:
    for problem in problems:
        say(f"DAMAGED: {problem.error.message}")
    verdict = f"{len(problems)} DAMAGED, see above" if problems else "nothing damaged"
    unsure = f"; {not_recorded} without a record to hold the files against" if not_recorded else ""
    say(f"{len(graph.images)} images, {size(read)} read: {verdict}{unsure}")
    for remedy in dict.fromkeys(problem.error.remedy for problem in problems if problem.error.remedy):
        say(f"  what to do: {remedy}")
