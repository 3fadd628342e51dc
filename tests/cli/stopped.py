"""Commands that are stopped on their way: killed, or out of room, before any of the changes that they make to files."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.cli.harness import environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

STOPPED = """
import errno, os, signal, sys
from transship.cli.main import main

below, at, what, *words = sys.argv[1:]
writes = {"os.rename", "os.remove", "os.mkdir", "os.link", "os.symlink", "os.rmdir", "os.chmod", "os.chown", "os.utime"}
done = 0

def look(event, arguments):
    global done
    opened = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if not (opened or event in writes):
        return
    if not done and not os.fsdecode(str(arguments[0])).startswith(below):
        return  # it has not begun yet
    if what == "full" and not os.fsdecode(str(arguments[0])).startswith(below):
        return
    done += 1
    if done == int(at):
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

def counted(call):
    def made(descriptor, *arguments):
        if done and what == "kill":
            look("os.rename", (below, ""))
        return call(descriptor, *arguments)
    return made

for name in ("fsync", "pwrite", "ftruncate"):
    setattr(os, name, counted(getattr(os, name)))  # of which no audit hook is told
sys.addaudithook(look)
code = main(words)
print(done, file=sys.stderr)
sys.exit(code)
"""
"""Runs the command, and stops it before it changes a file for the so-manieth time."""


@dataclass
class Run:
    """A command in a process of its own that is stopped on its way; ``below`` is where its changes are counted from."""

    below: Path
    words: Sequence[object]

    def stopped(self, at: int, what: str = "kill") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", STOPPED, str(self.below), str(at), what, *map(str, self.words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment())

    def changes(self, what: str = "kill") -> int:
        """Let it come to its end, and return how often it changes something."""
        ended = self.stopped(0, what)
        assert ended.returncode == 0, ended.stderr
        return int(ended.stderr.split()[-1])
