from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from transship.api.problem import Problem
from transship.daemon import history
from transship.engine.journal import FILE_NAME
from transship.engine.records import RunState
from transship.engine.step import State
from transship.errors import JournalError, RunNotFound

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.harness import Sample


def test_without_a_journal_there_are_no_runs(tmp_path: Path) -> None:
    assert history.runs(tmp_path / "state", 0, 10) == ([], 0)
    with pytest.raises(RunNotFound, match="no run x"):
        history.record(tmp_path / "state", "x")
    assert not (tmp_path / "state").exists()


def test_in_a_journal_that_is_just_being_made_there_are_no_runs(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).touch()
    assert history.runs(tmp_path, 0, 10) == ([], 0)
    with pytest.raises(RunNotFound, match="no run x"):
        history.record(tmp_path, "x")


def test_runs_come_newest_first(sample: Sample) -> None:
    ids = [sample.migrate("--image", name).report["run"] for name in ("low:1", "high:1", "other:1")]
    found, total = history.runs(sample.state, 0, 10)
    assert ([run.id for run in found], total) == (ids[::-1], 3)
    found, total = history.runs(sample.state, 1, 1)
    assert ([run.id for run in found], total) == ([ids[1]], 3)
    assert history.runs(sample.state, (1 << 63) - 1, 1) == ([], 3)
    assert history.record(sample.state, ids[0]) == history.runs(sample.state, 2, 1)[0][0]


def test_steps_come_in_pages(sample: Sample) -> None:
    run = sample.migrate().report["run"]
    page = partial(history.details, sample.state, run, problem=None)
    whole = page(state=None, after=0, limit=1000)
    assert whole.next is None
    assert whole.counts == {"done": len(whole.steps)}
    assert [step.seq for step in whole.steps] == sorted(step.seq for step in whole.steps)
    pieces, after = [], 0
    while True:
        part = page(state=None, after=after, limit=3)
        pieces += part.steps
        assert len(part.steps) <= 3
        if part.next is None:
            break
        assert len(part.steps) == 3
        after = part.next
    assert pieces == whole.steps
    assert page(state=None, after=0, limit=len(whole.steps)).next is None
    assert page(state=State.FAILED, after=0, limit=10).steps == []
    assert page(state=State.DONE, after=0, limit=1000).steps == whole.steps


def test_a_run_is_told_with_its_report_and_what_stopped_it(sample: Sample) -> None:
    run = sample.migrate().report["run"]
    problem = Problem.of(JournalError("the disk is gone"))
    found = history.details(sample.state, run, state=None, after=0, limit=1, problem=problem)
    assert found.run.state is RunState.DONE
    assert found.problem is problem
    assert found.report is not None
    assert (found.report.run, found.report.complete) == (run, True)
    assert history.counts(sample.state, run) == found.counts
    with pytest.raises(RunNotFound, match="other"):
        history.details(sample.state, "other", state=None, after=0, limit=1, problem=None)


def test_a_damaged_journal_is_named(sample: Sample) -> None:
    sample.state.mkdir()
    (sample.state / FILE_NAME).write_bytes(b"not a database, but long enough to be looked at" * 100)
    for look in (partial(history.runs, sample.state, 0, 1), partial(history.record, sample.state, "x")):
        with pytest.raises(JournalError, match=FILE_NAME):
            look()
