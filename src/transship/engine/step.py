"""The unit of a migration: an idempotent step, and what is known of how it went.

A leg turns what it reads into steps. The engine orders them, runs them in worker threads, journals what came of them, and
knows nothing of what they do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

Value = Mapping[str, Any]
"""What a step leaves for those that need it and for the journal: a JSON object."""


class Resource(Enum):
    """What a step spends most of its time on; each has its own limit on how many run at once."""

    CPU = "cpu"
    DISK = "disk"
    REMOTE = "remote"


_FILE_WORK = 16 * 1024
_STEP_WORK = 256 * 1024
"""Opening a small file, or going through a step at all, takes about as long as reading so many bytes."""


@dataclass(frozen=True)
class Cost:
    """How much a step reads: content ``bytes`` and number of ``files``. For progress, limits and estimates, never exact."""

    bytes: int = 0
    files: int = 0

    @property
    def work(self) -> int:
        """The time that one step of this cost takes; see ``work``."""
        return work(1, self.bytes, self.files)


def work(steps: int, content: int, files: int) -> int:
    """Return about how long it takes to go through ``steps`` that read ``content`` bytes in ``files``.

    The unit is the time to read a byte. To order and to estimate, no more.
    """
    return content + files * _FILE_WORK + steps * _STEP_WORK


@dataclass(frozen=True)
class Result:
    """A step's outcome. ``created`` is False if all of it was in the target before, so that undo leaves it alone."""

    value: Value
    created: bool


class Context(Protocol):
    """What a running step may ask of the engine. Methods are called from the step's own thread."""

    def advance(self, count: int) -> None:
        """Report ``count`` more of the step's bytes as done. Raises the engine's cancellation if the run is stopping."""
        ...

    def check_cancelled(self) -> None:
        """Raise the engine's cancellation if the run is stopping. Called at least every few MiB or few hundred files."""
        ...

    def in_process(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Return what ``function`` returns, run in a process of its own.

        For work that would keep Python's lock from other threads. The function is one of a module, and it, its arguments and
        its outcome are pickled. If the run is stopping, the process is killed and the engine's cancellation raised.
        """
        ...

    def value(self, key: str) -> Value | None:
        """Return what the step ``key`` left, None if it did not succeed. ``key`` is one of this step's needs or afters."""
        ...


@dataclass(frozen=True)
class Step:
    """One idempotent piece of work.

    ``key`` is stable between runs: ``blob:sha256:…``, ``image:docker.io/library/x:1``. ``run`` blocks, in a worker thread, and
    either returns when its result is durable or raises. ``check`` is cheap and says whether a journalled outcome still
    stands in the target. ``needs`` must have succeeded before; ``after`` must have ended before, well or not.
    ``title`` is for people.
    """

    key: str
    title: str
    resource: Resource
    run: Callable[[Context], Result]
    check: Callable[[Value], bool]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    cost: Cost = Cost()

    @property
    def kind(self) -> str:
        """The part of the key before the first colon."""
        return self.key.partition(":")[0]


class State(Enum):
    """How a step stands."""

    BEGUN = "begun"
    """Begun, and not come to an end: it runs now, or was stopped or killed."""
    DONE = "done"
    """Run and durable, in this run or in an earlier one whose outcome still checked."""
    FAILED = "failed"
    BLOCKED = "blocked"
    """Not run, because something that it needs failed."""
    UNDONE = "undone"
    """Done once, then taken back by a rollback."""
