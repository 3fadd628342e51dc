"""What of a content-addressable store cannot be moved, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transship.legs.left_out import LeftOut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transship.stores.docker.store import Store


def find_damage(store: Store) -> Iterator[LeftOut]:
    """Tell what in the source is damaged, each thing once."""
    told: set[int] = set()
    for image_id, error in store.broken.items():
        told.add(id(error))
        names = sorted(name for name, named in store.references.items() if named == image_id)
        subject = f"{image_id} ({', '.join(names)})" if names else image_id
        yield LeftOut.of(subject, error, lost=True)
    for problem in store.problems:
        if id(problem.error) not in told:
            yield LeftOut.of(problem.subject, problem.error, lost=problem.loses)
