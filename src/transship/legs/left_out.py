"""What of a source cannot be moved, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.engine.records import printable
from transship.engine.step import Resource, Result, Step
from transship.errors import SourceCorrupt

if TYPE_CHECKING:
    from transship.engine.step import Context


@dataclass(frozen=True)
class LeftOut:
    """Something of the source that is not moved. ``subject`` is an image ID, a name or a path.

    ``lost`` says that an image, a name or a container is missing in the target because of it: a run cannot end as done then.
    """

    subject: str
    reason: str
    remedy: str
    lost: bool

    @classmethod
    def of(cls, subject: str, error: SourceCorrupt, *, lost: bool) -> LeftOut:
        """Return what ``error`` says of ``subject``."""
        return cls(subject, error.message, error.remedy, lost)


def lost_step(left: LeftOut) -> Step:
    """Return a step that fails, so that what is lost is journalled, reported and counted like everything that fails."""

    def run(_context: Context) -> Result:
        raise SourceCorrupt(left.reason, remedy=left.remedy)

    return Step(f"lost:{printable(left.subject)}", printable(left.subject), Resource.REMOTE, run, lambda _: False)
