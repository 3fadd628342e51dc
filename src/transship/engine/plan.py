"""The steps of a run, and which of them need which."""

from __future__ import annotations

from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from types import MappingProxyType
from typing import TYPE_CHECKING

from transship.engine.records import printable
from transship.engine.step import Cost

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from transship.engine.step import Step


class Plan:
    """Steps by key, in the order given; what they name is there, and nothing goes round in a circle.

    Raises ValueError, naming the keys, for a key given twice or that is not Unicode text, a need or after that no step has,
    and a cycle.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        self._steps: dict[str, Step] = {}
        for step in steps:
            if printable(step.key) != step.key:
                raise ValueError(f"the key {step.key!r} is not Unicode text")
            if step.key in self._steps:
                raise ValueError(f"two steps have the key {step.key}")
            self._steps[step.key] = step
        for step in self:
            for key in before(step):
                if key not in self._steps:
                    raise ValueError(f"step {step.key} waits for {key}, which is not in the plan")
        try:
            self._order = tuple(TopologicalSorter({step.key: before(step) for step in self}).static_order())
        except CycleError as error:
            raise ValueError(f"steps wait for each other: {' <- '.join(error.args[1])}") from None
        self.cost = Cost(sum(step.cost.bytes for step in self), sum(step.cost.files for step in self))
        self.needed_by = _reversed({step.key: step.needs for step in self})
        """For each key, the keys of the steps that need it."""
        self.followed_by = _reversed({step.key: before(step) for step in self})
        """For each key, the keys of the steps that wait for it, whether they need it or come after it."""
        self.urgency: dict[str, int] = {}
        """For each key, the work on the longest way from the step's start to the end of the run: no run can be shorter."""
        for key in reversed(self._order):
            later = max((self.urgency[follower] for follower in self.followed_by[key]), default=0)
            self.urgency[key] = self[key].cost.work + later

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps.values())

    def __contains__(self, key: object) -> bool:
        return key in self._steps

    def __getitem__(self, key: str) -> Step:
        return self._steps[key]

    def ordered(self) -> Iterator[Step]:
        """Yield the steps so that each comes after all that it waits for."""
        return (self._steps[key] for key in self._order)

    def subset(self, keys: Iterable[str]) -> Plan:
        """Return the plan of the steps ``keys`` and all that they need; waits for other steps are dropped.

        Raises ValueError for a key that is not in the plan.
        """
        wanted: set[str] = set()
        waiting = list(keys)
        while waiting:
            key = waiting.pop()
            if key not in self._steps:
                raise ValueError(f"{key} is not in the plan")
            if key not in wanted:
                wanted.add(key)
                waiting.extend(self._steps[key].needs)
        return Plan(
            replace(step, after=tuple(key for key in step.after if key in wanted)) for step in self if step.key in wanted
        )


def before(step: Step) -> frozenset[str]:
    """Return the keys of the steps that must have ended before ``step`` may start."""
    return frozenset(step.needs) | frozenset(step.after)


def _reversed(edges: Mapping[str, Iterable[str]]) -> Mapping[str, tuple[str, ...]]:
    back: dict[str, list[str]] = {key: [] for key in edges}
    for key, others in edges.items():
        for other in dict.fromkeys(others):
            back[other].append(key)
    return MappingProxyType({key: tuple(others) for key, others in back.items()})
