"""transship as a user runs it: a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transship

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Json = dict[str, Any]


def environment() -> dict[str, str]:
    """Return this process' environment, so that a child finds the very package that the tests import, installed or not."""
    package = Path(transship.__file__).parent.parent
    paths = [str(package), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: the signal that killed it), and what it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def documents(self) -> list[Json]:
        """What it printed with ``--json``. A last line that a kill cut off does not count."""
        return [json.loads(line) for line in self.stdout.splitlines(keepends=True) if line.endswith("\n")]

    @property
    def last(self) -> Json:
        return self.documents[-1]

    def events(self, kind: str) -> list[Json]:
        return [document for document in self.documents if document["type"] == kind]

    def done(self, *, skipped: bool) -> set[str]:
        """Return the keys of the steps that are done, those that were done before or those that were not."""
        return {event["key"] for event in self.events("step_done") if event["skipped"] is skipped}

    def expect(self, code: int = 0) -> Ended:
        failed = [event["error"] for event in self.events("step_failed")] if self.code != code else []
        assert self.code == code, (self.code, failed, self.last if self.stdout.startswith("{") else None, self.stderr)
        return self


class Running:
    """A command under way, whose events are read one at a time. A context manager: it is dead at the end."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        # What it prints on standard error is short: it fits into the pipe.
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self._lines: list[str] = []

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def documents(self) -> Iterator[Json]:
        """Yield what it prints as it prints it, until it ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)
            if line.endswith("\n"):
                yield json.loads(line)

    def until(self, kind: str, count: int = 1) -> bool:
        """Read up to the event number ``count`` of that ``kind``; False if the command ends before."""
        for document in self.documents():
            count -= document["type"] == kind
            if count == 0:
                return True
        return False

    def end(self, seconds: float = 120) -> Ended:
        """Wait until it has ended; it is killed after so many seconds."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        watch = threading.Timer(seconds, self.process.kill)
        watch.start()
        try:
            # Not communicate(), which knows nothing of what ``documents`` has read ahead.
            stdout, stderr = self.process.stdout.read(), self.process.stderr.read()
            self.process.wait()
        finally:
            watch.cancel()
        return Ended(self.process.returncode, "".join(self._lines) + stdout, stderr)

    def kill(self) -> Ended:
        """Kill it, as ``kill -9`` does."""
        self.process.kill()
        return self.end()


@dataclass(frozen=True)
class Transship:
    """The command with its state directory and with options that all calls share."""

    state_dir: Path
    options: tuple[str | Path, ...] = ()
    wrapper: tuple[str | Path, ...] = field(default=(), repr=False)

    def command(self, verb: str, *arguments: str | Path) -> list[str | Path]:
        options = () if verb in {"status", "rollback"} else self.options
        base: list[str | Path] = [sys.executable, "-m", "transship", verb, "--state-dir", self.state_dir]
        return [*self.wrapper, *base, "--json", *options, *arguments]

    def __call__(self, verb: str, *arguments: str | Path, seconds: float = 300) -> Ended:
        """Run it to its end."""
        with self.start(verb, *arguments) as running:
            return running.end(seconds)

    def start(self, verb: str, *arguments: str | Path) -> Running:
        return Running(self.command(verb, *arguments))
