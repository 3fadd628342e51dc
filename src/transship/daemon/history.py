"""What the journal remembers, for whoever asks the service. These functions block; they raise JournalError."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from transship.api.models import Run, RunDetails, StepDetails
from transship.engine.journal import Journal
from transship.engine.state_dir import run_directory
from transship.errors import JournalMissing, RunNotFound
from transship.legs.report import read_report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transship.api.problem import Problem
    from transship.engine.records import RunRecord
    from transship.engine.step import State


def runs(state_dir: Path, skip: int, limit: int) -> tuple[list[RunRecord], int]:
    """Return ``limit`` runs, newest first, after the ``skip`` newest; and how many there are."""
    try:
        with Journal.read_only(state_dir) as journal:
            return journal.runs(skip, limit), journal.number_of_runs()
    except JournalMissing:
        return [], 0


def record(state_dir: Path, run: str) -> RunRecord:
    """Return a run. Raises RunNotFound."""
    with _journal(state_dir, run) as journal:
        return journal.run(run)


def counts(state_dir: Path, run: str) -> dict[str, int]:
    """Return how many steps of a run are in each state."""
    with _journal(state_dir, run) as journal:
        return _counts(journal, run)


def details(state_dir: Path, run: str, *, state: State | None, after: int, limit: int, problem: Problem | None) -> RunDetails:
    """Return a run, a page of its steps (see ``StepsQuery``) and its report. Raises RunNotFound."""
    with _journal(state_dir, run) as journal:
        found = Run.of(journal.run(run))
        steps = journal.page(run, state, after, limit + 1)
        counted = _counts(journal, run)
    page = steps[:limit]
    return RunDetails(
        run=found,
        counts=counted,
        steps=[StepDetails.of(step) for step in page],
        next=page[-1].seq if len(steps) > limit else None,
        report=read_report(run_directory(state_dir, run)),
        problem=problem,
    )


@contextmanager
def _journal(state_dir: Path, run: str) -> Iterator[Journal]:
    """The journal, to look ``run`` up in. Raises RunNotFound if there is none."""
    try:
        journal = Journal.read_only(state_dir)
    except JournalMissing:
        raise RunNotFound(
            f"there is no run {run}: there has been none yet", remedy="start one with `transship migrate`"
        ) from None
    with journal:
        yield journal


def _counts(journal: Journal, run: str) -> dict[str, int]:
    return {state.value: count for state, count in journal.counts(run).items()}
