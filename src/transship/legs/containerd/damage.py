"""What of the source cannot be moved, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.engine.records import printable
from transship.engine.step import Resource, Result, Step
from transship.errors import SourceCorrupt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transship.engine.step import Context
    from transship.stores.docker.store import Store


@dataclass(frozen=True)
class LeftOut:
    """Something of the source that is not moved. ``subject`` is an image ID, a name or a path.

    ``lost`` says that an image or a name of one is missing in the target because of it: a run cannot end as done then.
    """

    subject: str
    reason: str
    remedy: str
    lost: bool


def find_damage(store: Store) -> Iterator[LeftOut]:
    """Tell what in the source is damaged, each thing once."""
    told: set[int] = set()
    for image_id, error in store.broken.items():
        told.add(id(error))
        names = sorted(name for name, named in store.references.items() if named == image_id)
        subject = f"{image_id} ({', '.join(names)})" if names else image_id
        yield LeftOut(subject, error.message, error.remedy, lost=True)
    for problem in store.problems:
        if id(problem.error) not in told:
            yield LeftOut(problem.subject, problem.error.message, problem.error.remedy, lost=problem.loses)


def lost_step(left: LeftOut) -> Step:
    """Return a step that fails, so that what is lost is journalled, reported and counted like everything that fails."""

    def run(_context: Context) -> Result:
        raise SourceCorrupt(left.reason, remedy=left.remedy)

    return Step(f"lost:{printable(left.subject)}", printable(left.subject), Resource.REMOTE, run, lambda _: False)
