"""``transship bolt``: look into a bbolt file."""

from __future__ import annotations

import base64
import json
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import from_thread, to_thread

from transship.cli.options import add_json
from transship.cli.output import say, say_json
from transship.errors import ExitCode, UsageError
from transship.formats.bolt.check import check
from transship.formats.bolt.reader import Bucket
from transship.stores.bolt_file import opened

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from transship.config import Settings
    from transship.formats.bolt.reader import Database

_BASE64 = "base64:"
_json = json.JSONEncoder(separators=(",", ":")).encode
_AT_ONCE = 1000
"""Lines that are printed together; between them the command can be interrupted."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "bolt",
        help="look into a bbolt file",
        description="Shows what is in a bbolt file, in which containerd, Docker and BuildKit keep what they know. Writes"
        f" nothing to it. What is not printable UTF-8 is written as {_BASE64}…, and may be given so.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    texts = {
        "ls": ("list a bucket's keys", "Lists the keys of a bucket, or of the whole file, with the sizes of their values."),
        "get": ("write the value of a key", "Writes the value of a key as it is; on a terminal, so that it can be read."),
        "dump": (
            "print all buckets, keys and values",
            "Prints all buckets, keys and values in their order, as JSON, one a line.",
        ),
        "check": ("name everything that is damaged", "Reads the whole file, and names everything that is damaged."),
    }
    added = {name: actions.add_parser(name, help=short, description=long) for name, (short, long) in texts.items()}
    for action in added.values():
        action.add_argument("file", type=Path, metavar="FILE", help="the bbolt file")
    for name in ("ls", "get"):
        added[name].add_argument("buckets", nargs="*", metavar="BUCKET", help="the bucket, after those that it is in")
    added["get"].add_argument("key", metavar="KEY", help="the key")
    add_json(added["ls"], "print one JSON object per key")
    add_json(added["check"], "print one JSON object")
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:  # noqa: ARG001 - all commands are called so
    """Look; return DONE, or VERIFICATION if ``check`` finds damage. Raises TransshipError."""
    return await to_thread.run_sync(_run, options)


def _run(options: argparse.Namespace) -> ExitCode:
    with opened(options.file.resolve()) as database:
        match options.action:
            case "ls":
                listed = _find(database, options.buckets).items()
                _print(_listed(listed, as_json=options.json))
            case "get":
                _write_value(_find(database, options.buckets), options.key)
            case "dump":
                _print(_dumped(database.root))
            case "check":
                return _check(database, as_json=options.json)
    return ExitCode.DONE


def shown(data: bytes) -> str:
    """Return what stands for a key or value: the text that it is, or base64 with a mark before it."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = _BASE64
    if text.isprintable() and not text.startswith(_BASE64):
        return text
    return _BASE64 + base64.b64encode(data).decode()


def meant(text: str) -> bytes:
    """Return the key that a text stands for. Raises UsageError if it is marked as base64, and is not."""
    if not text.startswith(_BASE64):
        return text.encode("utf-8", "surrogateescape")
    try:
        return base64.b64decode(text.removeprefix(_BASE64), validate=True)
    except ValueError as error:
        raise UsageError(f"{text} is not base64: {error}") from error


def _find(database: Database, names: list[str]) -> Bucket:
    """Return the bucket that is meant, the root for none. Raises UsageError."""
    bucket = database.root
    for name in names:
        found = _get(bucket, name)
        if not isinstance(found, Bucket):
            raise UsageError(f"{name} is not a bucket, but a value", remedy="see `transship bolt get`")
        bucket = found
    return bucket


def _get(bucket: Bucket, name: str) -> bytes | Bucket:
    found = bucket.get(meant(name))
    if found is None:
        raise UsageError(f"there is no {name or 'key without a name'}", remedy="see `transship bolt ls`")
    return found


def _write_value(bucket: Bucket, key: str) -> None:
    value = _get(bucket, key)
    if isinstance(value, Bucket):
        raise UsageError(f"{key} is a bucket", remedy="see `transship bolt ls`")
    if sys.stdout.isatty():
        say(shown(value))
    else:
        sys.stdout.buffer.write(value)


def _listed(items: Iterable[tuple[bytes, bytes | Bucket]], *, as_json: bool) -> Iterator[str]:
    for key, value in items:
        about = {"sequence": value.sequence} if isinstance(value, Bucket) else {"size": len(value)}
        if as_json:
            yield _json({"key": shown(key), **about})
        else:
            yield f"{about.get('size', 'bucket'):>10}  {shown(key)}"


def _dumped(root: Bucket) -> Iterator[str]:
    """Yield a line for each bucket, before those of what is in it, and one for each value."""
    yield f'{{"bucket":[],"sequence":{root.sequence}}}'
    below: list[tuple[tuple[str, ...], Iterator[tuple[bytes, bytes | Bucket]]]] = [((), iter(root.items()))]
    while below:
        path, items = below[-1]
        start = f'{{"bucket":{_json(path)},'
        for key, value in items:
            if isinstance(value, Bucket):
                inner = (*path, shown(key))
                yield f'{{"bucket":{_json(inner)},"sequence":{value.sequence}}}'
                below.append((inner, iter(value.items())))
                break
            yield f'{start}"key":{_json(shown(key))},"value":{_json(shown(value))}}}'
        else:
            below.pop()


def _print(lines: Iterator[str]) -> None:
    while some := list(islice(lines, _AT_ONCE)):
        from_thread.check_cancelled()
        sys.stdout.write("\n".join(some) + "\n")


def _check(database: Database, *, as_json: bool) -> ExitCode:
    problems = []
    for damage in check(database):
        from_thread.check_cancelled()
        problems.append({"page": damage.page, "problem": damage.problem})
        if not as_json:
            say(f"DAMAGED: {damage}")
    if as_json:
        say_json({"pages": database.meta.pages, "page_size": database.meta.page_size, "problems": problems})
    else:
        verdict = f"{len(problems)} DAMAGED, see above" if problems else "nothing damaged"
        say(f"{database.meta.pages} pages of {database.meta.page_size} bytes: {verdict}")
    return ExitCode.VERIFICATION if problems else ExitCode.DONE
