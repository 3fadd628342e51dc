"""The command line: which command, with which options, and the exit code that comes of it."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import textwrap
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from transship import __version__, config, logging
from transship.cli.output import print_error
from transship.engine.signals import until_signal
from transship.errors import ExitCode, TransshipError

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS = (
    "plan",
    "migrate",
    "status",
    "logs",
    "cancel",
    "resume",
    "verify",
    "rollback",
    "arm",
    "disarm",
    "boot",
    "graph",
    "bolt",
    "buildkit",
    "serve",
    "config",
)
"""Each is a module here. Only the one that is asked for is imported: a service that stays has no use for progress bars."""
_EXIT_CODES = """\
exit codes:
  0  done                                 4  the target cannot be used
  1  ended, but something was left out    5  verification found a difference
  2  wrong usage or configuration         6  another run holds the state directory
  3  the source cannot be read            7  the service does not answer
  130, 143  stopped by a signal; run again to go on
"""
_STANDARD_ERROR = 2
_WIDTH = 78  # of a help text's paragraphs: beside a list that must stay as it is, argparse does not break them


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ``arguments`` (default: the process's) name; return the exit code."""
    _open_standard_files()
    try:
        try:
            words = sys.argv[1:] if arguments is None else arguments
            return _run(_parser(words[:1]).parse_args(words))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has gone; there is no one left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is written when the process ends
        return ExitCode.INCOMPLETE


def _open_standard_files() -> None:
    """Have 0, 1 and 2 be files. Whoever started us may have closed them; the event loop must not be given these numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _run(options: argparse.Namespace) -> int:
    try:
        settings = config.load(options.config)
        logging.configure(settings.log.level or "error")
        _raise_file_limit()
        work = partial(options.run, options, settings)
        if not options.heeds_signals:
            work = partial(until_signal, work)
        return int(anyio.run(work, backend_options={"use_uvloop": True}))
    except TransshipError as error:
        print_error(error, as_json=getattr(options, "json", False))
        return error.exit_code


def _parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser for a command line that begins with ``words``; it knows all commands unless they name one."""
    parser = argparse.ArgumentParser(
        prog="transship",
        description=textwrap.fill(
            "Moves the images of a Docker host to the containerd image store: nothing lost, nothing claimed that is not so,"
            " resumable, and with a way back.",
            _WIDTH,
        ),
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"transship {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in [name for name in _COMMANDS if name in words] or _COMMANDS:
        module = import_module(f"transship.cli.{name}")
        command = module.add_parser(commands)
        command.description = textwrap.fill(command.description or "", _WIDTH, break_on_hyphens=False)
        command.epilog = _EXIT_CODES
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        command.add_argument(
            "--config", type=Path, metavar="FILE", help=f"configuration file (default: {config.DEFAULT_FILE}, if there is one)"
        )
        command.set_defaults(run=module.run, heeds_signals=getattr(module, "HEEDS_SIGNALS", False))
    return parser


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets us: deep directory trees are walked through one descriptor a level."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
