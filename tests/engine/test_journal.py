from __future__ import annotations

import re
import sqlite3
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from blockbuster import BlockingError
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from transship.engine.journal import FILE_NAME, SCHEMA_VERSION, Journal
from transship.engine.records import ErrorInfo, Outcome, RunState
from transship.engine.step import State
from transship.errors import JournalError, RunNotFound

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable


def done(
    key: str, *, created: bool = True, skipped: bool = False, value: dict[str, Any] | None = None, size: int = 0
) -> Outcome:
    return Outcome(
        key, State.DONE, 1.0, 2.0, value={"key": key} if value is None else value, created=created, skipped=skipped, bytes=size
    )


def failed(key: str) -> Outcome:
    return Outcome(key, State.FAILED, 3.0, 4.0, error=ErrorInfo("TargetRefused", "no", "try"))


def test_a_run_from_start_to_end(journal: Journal) -> None:
    run = journal.start_run("containerd", "here -> there", {"jobs": 2})
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", run)
    record = journal.run(run)
    assert (record.leg, record.scope, record.options) == ("containerd", "here -> there", {"jobs": 2})
    assert (record.state, record.ended, record.attempts) == (RunState.RUNNING, None, 1)
    journal.record(run, done("a:1", size=5), failed("a:2"), done("a:3", size=7))
    journal.end_run(run, RunState.INCOMPLETE)
    record = journal.run(run)
    assert (record.state, record.bytes) == (RunState.INCOMPLETE, 12)
    assert record.ended is not None
    assert record.ended >= record.started
    journal.reopen_run(run)
    record = journal.run(run)
    assert (record.state, record.ended, record.attempts) == (RunState.RUNNING, None, 2)


def test_steps_come_back_as_they_were_recorded(journal: Journal) -> None:
    run = journal.start_run("leg", "scope", {})
    value = {"digest": "sha256:1", "list": [1, None, {"x": "\udcff"}], "größe": 1.5}
    journal.record(run, done("blob:sha256:1", value=value, size=9), failed("blob:sha256:2"))
    (first, second) = journal.steps(run)
    assert (first.key, first.kind, first.state, first.created, first.value) == (
        "blob:sha256:1",
        "blob",
        State.DONE,
        True,
        value,
    )
    assert (first.started, first.ended, first.bytes, first.error) == (1.0, 2.0, 9, None)
    assert second.error == ErrorInfo("TargetRefused", "no", "try")
    assert journal.steps(run, State.FAILED) == [second]


def test_runs_are_listed_newest_first(journal: Journal) -> None:
    ids = [journal.start_run("leg", "scope", {}) for _ in range(20)]
    assert len(set(ids)) == 20
    assert [record.id for record in journal.runs()] == ids[::-1]


@pytest.mark.parametrize("act", [Journal.run, Journal.reopen_run, lambda journal, run: journal.end_run(run, RunState.DONE)])
def test_a_run_that_is_not_there_is_named(journal: Journal, act: Callable[[Journal, str], object]) -> None:
    with pytest.raises(RunNotFound, match="20000101-000000-0000"):
        act(journal, "20000101-000000-0000")
    with pytest.raises(JournalError):
        journal.record("20000101-000000-0000", done("a:1"))
    with pytest.raises(JournalError, match="a:1"):
        journal.mark_undone("20000101-000000-0000", "a:1")


def test_the_newest_outcome_of_a_scope_stands(journal: Journal) -> None:
    first, second = journal.start_run("leg", "scope", {}), journal.start_run("leg", "scope", {})
    other = journal.start_run("leg", "elsewhere", {})
    journal.record(first, done("a:1", value={"n": 1}), done("a:2", value={"n": 1}), done("a:3", value={"n": 1}))
    journal.record(second, done("a:1", value={"n": 2}), failed("a:2"))
    journal.record(other, done("a:4"))
    journal.mark_undone(first, "a:3")
    assert journal.standing("scope") == {"a:1": {"n": 2}, "a:2": {"n": 1}}


def test_what_a_run_created_stays_its_own_until_undone(journal: Journal) -> None:
    run = journal.start_run("leg", "scope", {})
    journal.record(run, done("a:1"), done("a:2", created=False))
    journal.record(run, done("a:1", created=False))
    assert [step.key for step in journal.created_by(run)] == ["a:1"]
    journal.record(run, failed("a:1"))
    (step,) = journal.created_by(run)
    assert step.value == {"key": "a:1"}
    assert journal.standing("scope") == {"a:2": {"key": "a:2"}}
    journal.mark_undone(run, "a:1")
    journal.record(run, done("a:1", created=False))
    assert journal.created_by(run) == []


def test_only_a_step_that_was_done_anew_changes_its_place(journal: Journal) -> None:
    run = journal.start_run("leg", "scope", {})
    journal.record(run, done("blob:1", size=9))
    journal.record(run, done("manifest:1"))
    journal.record(run, done("blob:1", created=False, skipped=True))
    assert [step.key for step in journal.created_by(run)] == ["manifest:1", "blob:1"]
    assert journal.run(run).bytes == 9
    journal.record(run, failed("blob:1"))
    assert [step.key for step in journal.created_by(run)] == ["manifest:1", "blob:1"]
    journal.record(run, done("blob:1"))
    assert [step.key for step in journal.created_by(run)] == ["blob:1", "manifest:1"]


def test_the_run_to_continue_is_the_newest_unfinished_one_with_the_same_options(journal: Journal) -> None:
    options = {"images": ["a"], "jobs": 2}
    assert journal.last_unfinished("scope", options) is None
    runs = [journal.start_run("leg", "scope", options) for _ in range(4)]
    for run, state in zip(runs, [RunState.INCOMPLETE, RunState.INTERRUPTED, RunState.DONE, RunState.ROLLED_BACK], strict=True):
        journal.end_run(run, state)
    journal.start_run("leg", "scope", {"images": ["b"], "jobs": 2})
    journal.start_run("leg", "elsewhere", options)
    found = journal.last_unfinished("scope", {"jobs": 2, "images": ["a"]})
    assert found is not None
    assert found.id == runs[1]


def test_a_run_that_was_killed_is_interrupted_when_the_next_writer_comes(state_dir: Path) -> None:
    with Journal.open(state_dir) as journal:
        run = journal.start_run("leg", "scope", {})
    with Journal.read_only(state_dir) as journal:
        assert journal.run(run).state is RunState.RUNNING
    with Journal.open(state_dir) as journal:
        assert journal.run(run).state is RunState.INTERRUPTED


def test_readers_see_what_a_writer_has_recorded_and_write_nothing(journal: Journal, state_dir: Path) -> None:
    run = journal.start_run("leg", "scope", {})
    with Journal.read_only(state_dir) as first, Journal.read_only(state_dir) as second:
        journal.record(run, done("a:1"))
        assert [step.key for step in first.steps(run)] == ["a:1"]
        assert second.standing("scope") == {"a:1": {"key": "a:1"}}
        with pytest.raises(JournalError, match=FILE_NAME):
            first.start_run("leg", "scope", {})


def test_reading_needs_a_journal(state_dir: Path) -> None:
    with pytest.raises(JournalError, match=str(state_dir)) as caught:
        Journal.read_only(state_dir)
    assert caught.value.remedy
    state_dir.mkdir()
    (state_dir / FILE_NAME).touch()
    with pytest.raises(JournalError, match=str(state_dir)):
        Journal.read_only(state_dir)


def test_a_batch_is_recorded_wholly_or_not_at_all(journal: Journal) -> None:
    run = journal.start_run("leg", "scope", {})
    with pytest.raises(TypeError):
        journal.record(run, done("a:1"), done("a:2", value={"not": object()}))
    assert journal.steps(run) == []
    journal.record(run, done("a:1"))
    assert len(journal.steps(run)) == 1


def test_threads_share_it(journal: Journal) -> None:
    run = journal.start_run("leg", "scope", {})

    def record(part: int) -> None:
        for number in range(20):
            journal.record(run, done(f"a:{part}.{number}"))

    threads = [threading.Thread(target=record, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    steps = journal.steps(run)
    assert len(steps) == 80
    assert [step.seq for step in steps] == list(range(1, 81))


def test_a_newer_schema_is_refused(state_dir: Path) -> None:
    Journal.open(state_dir).close()
    db = sqlite3.connect(state_dir / FILE_NAME)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    for opener in (Journal.open, Journal.read_only):
        with pytest.raises(JournalError, match="newer"):
            opener(state_dir)


@pytest.mark.parametrize("opener", [Journal.open, Journal.read_only])
def test_a_file_that_is_no_database_is_named_with_a_remedy(state_dir: Path, opener: Callable[[Path], Journal]) -> None:
    state_dir.mkdir()
    (state_dir / FILE_NAME).write_bytes(b"garbage" * 1000)
    with pytest.raises(JournalError, match=str(state_dir / FILE_NAME)) as caught:
        opener(state_dir)
    assert "aside" in caught.value.remedy


def test_damage_inside_the_database_is_found(state_dir: Path) -> None:
    with Journal.open(state_dir) as journal:
        run = journal.start_run("leg", "scope", {})
        journal.record(run, *(done(f"a:{number}", value={"text": "x" * 500}) for number in range(200)))
    data = bytearray((state_dir / FILE_NAME).read_bytes())
    data[4096 * 4 :] = b"\xa5" * (len(data) - 4096 * 4)
    (state_dir / FILE_NAME).write_bytes(data)
    with pytest.raises(JournalError, match="damaged") as caught:
        Journal.open(state_dir)
    assert "aside" in caught.value.remedy


@pytest.mark.parametrize(
    "statement", ["UPDATE steps SET value = '{'", "UPDATE steps SET value = '[]'", "UPDATE steps SET state = 'odd'"]
)
def test_rows_that_make_no_sense_are_damage(journal: Journal, state_dir: Path, statement: str) -> None:
    run = journal.start_run("leg", "scope", {})
    journal.record(run, done("a:1"))
    db = sqlite3.connect(state_dir / FILE_NAME)
    db.execute(statement)
    db.commit()
    db.close()
    with pytest.raises(JournalError, match="damaged"):
        journal.steps(run)


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="file"):
        Journal.open(tmp_path / "file")
    with pytest.raises(JournalError, match="file"):
        Journal.open(tmp_path / "file" / "state")


_KILLED = """
import os, signal, sys
from pathlib import Path
from transship.engine.journal import Journal
from transship.engine.records import Outcome
from transship.engine.step import State

journal = Journal.open(Path(sys.argv[1]))
run = journal.start_run("leg", "scope", {})
for number in range(10):
    journal.record(run, Outcome(f"a:{number}", State.DONE, 1.0, 2.0, value={"n": number}, created=True))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_recorded_outlives_kill_9(state_dir: Path, child: Callable[..., subprocess.Popen[str]]) -> None:
    assert child(_KILLED, state_dir).wait() == -9
    with Journal.open(state_dir) as journal:
        assert journal.standing("scope") == {f"a:{number}": {"n": number} for number in range(10)}
        (run,) = journal.runs()
        assert run.state is RunState.INTERRUPTED
        assert len(journal.created_by(run.id)) == 10


class JournalMachine(RuleBasedStateMachine):
    """The journal against dictionaries: who made what, who lost what, what stands."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.journal = Journal.open(Path(self.directory.name))
        self.scopes: dict[str, str] = {}
        self.states: dict[tuple[str, str], State] = {}
        self.owned: dict[tuple[str, str], int] = {}
        """What each run made and has not undone: the value that it was last left with."""
        self.latest: dict[tuple[str, str], int] = {}
        self.count = 0

    @rule(scope=st.sampled_from(["north", "south"]))
    def start(self, scope: str) -> None:
        self.scopes[self.journal.start_run("leg", scope, {})] = scope

    @precondition(lambda self: self.scopes)
    @rule(
        data=st.data(),
        key=st.sampled_from(["a:1", "a:2", "b:1"]),
        state=st.sampled_from([State.DONE, State.FAILED, State.BLOCKED]),
        created=st.booleans(),
    )
    def record(self, data: st.DataObject, key: str, state: State, created: bool) -> None:
        run = data.draw(st.sampled_from(sorted(self.scopes)))
        self.count += 1
        is_done = state is State.DONE
        value = {"n": self.count} if is_done else None
        self.journal.record(run, Outcome(key, state, time.time(), time.time(), value=value, created=created and is_done))
        self.states[run, key] = state
        if is_done:
            self.latest[run, key] = self.count
            if created or (run, key) in self.owned:
                self.owned[run, key] = self.count

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        run, key = data.draw(st.sampled_from(sorted(self.owned)))
        self.journal.mark_undone(run, key)
        self.states[run, key] = State.UNDONE
        del self.owned[run, key]

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.journal = Journal.open(Path(self.directory.name))

    @invariant()
    def standing_is_the_newest_done(self) -> None:
        for scope in ("north", "south"):
            expected: dict[str, int] = {}
            for (run, key), state in self.states.items():
                if self.scopes[run] == scope and state is State.DONE:
                    expected[key] = max(expected.get(key, 0), self.latest[run, key])
            assert self.journal.standing(scope) == {key: {"n": n} for key, n in expected.items()}

    @invariant()
    def created_is_what_was_made_and_not_undone(self) -> None:
        for run in self.scopes:
            found = self.journal.created_by(run)
            assert {step.key: step.value for step in found} == {
                key: {"n": n} for (owner, key), n in self.owned.items() if owner == run
            }
            assert [step.key for step in found] == sorted((step.key for step in found), key=lambda key: -self.owned[run, key])

    def teardown(self) -> None:
        self.journal.close()
        self.directory.cleanup()


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


@pytest.mark.anyio
async def test_it_is_not_for_the_event_loop(journal: Journal) -> None:
    with pytest.raises(BlockingError):
        journal.runs()
