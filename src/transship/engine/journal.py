"""The journal: what each run did, in SQLite, durable at every step.

It is a record, not the truth: the target is the truth. A journal that is lost or stale costs time, and the knowledge of
what a rollback may remove; it never costs data. One process writes (it holds the ``StateLock``), any number read.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

from transship.engine.records import ErrorInfo, Outcome, RunRecord, RunState, StepRecord, merged, printable
from transship.engine.state_dir import make_state_dir
from transship.engine.step import State
from transship.errors import JournalError, JournalMissing, RunNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from transship.engine.step import Value

T = TypeVar("T")
E = TypeVar("E", RunState, State)

FILE_NAME = "journal.db"
SCHEMA_VERSION = 1

_SCHEMA = (
    """CREATE TABLE runs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        leg TEXT NOT NULL,
        scope TEXT NOT NULL,
        options TEXT NOT NULL,
        state TEXT NOT NULL,
        started REAL NOT NULL,
        ended REAL,
        pid INTEGER NOT NULL,
        attempts INTEGER NOT NULL
    )""",
    """CREATE TABLE steps (
        run TEXT NOT NULL REFERENCES runs (id),
        key TEXT NOT NULL,
        kind TEXT NOT NULL,
        state TEXT NOT NULL,
        created INTEGER NOT NULL,
        value TEXT,
        error_type TEXT,
        error_message TEXT,
        remedy TEXT,
        started REAL NOT NULL,
        ended REAL NOT NULL,
        bytes INTEGER NOT NULL,
        seq INTEGER NOT NULL UNIQUE,
        PRIMARY KEY (run, key)
    )""",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_RUN = """SELECT id, leg, scope, options, state, started, ended, pid, attempts,
    (SELECT COALESCE(SUM(bytes), 0) FROM steps WHERE run = runs.id) FROM runs"""
_STEP = """SELECT run, key, kind, state, created, value, error_type, error_message, remedy, started, ended, bytes, seq
    FROM steps"""
_UNFINISHED = (RunState.RUNNING.value, RunState.INTERRUPTED.value, RunState.INCOMPLETE.value)


class Journal:
    """Runs and their steps. Open it with ``Journal.open`` or ``Journal.read_only``; a context manager that closes it.

    Methods block and may be called from several threads at once. What they write is durable when they return. All raise
    JournalError if the file cannot be read or written, and RunNotFound if a run is not in it.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        self._path = path
        self._lock = threading.RLock()
        with self._reaching():
            uri = f"{path.absolute().as_uri()}?{'mode=rwc' if writable else _reading(path)}"
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10)
            try:
                self._prepare() if writable else self._check_readable()
            except BaseException:
                self._db.close()
                raise

    @classmethod
    def open(cls, state_dir: Path) -> Self:
        """Open the journal in ``state_dir`` for writing; both are made if they are not there.

        The caller holds the ``StateLock``. So a run that is still called running was killed; it becomes interrupted.
        """
        make_state_dir(state_dir)
        return cls(state_dir / FILE_NAME, writable=True)

    @classmethod
    def read_only(cls, state_dir: Path) -> Self:
        """Open the journal in ``state_dir`` for reading, also while another process writes to it."""
        path = state_dir / FILE_NAME
        if not path.exists():
            raise _missing(state_dir)
        return cls(path, writable=False)

    def close(self) -> None:
        """Close the file. Calling it twice is harmless."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start_run(self, leg: str, scope: str, options: Mapping[str, Any]) -> str:
        """Begin a run and return its ID, which sorts by time. ``options`` is a JSON object."""
        now = time.time()
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
        with self._writing() as db:
            run = f"{stamp}-{secrets.token_hex(2)}"
            while db.execute("SELECT 1 FROM runs WHERE id = ?", (run,)).fetchone():
                run = f"{stamp}-{secrets.token_hex(2)}"
            db.execute(
                "INSERT INTO runs (id, leg, scope, options, state, started, pid, attempts) VALUES (?, ?, ?, ?, ?, ?, ?, 1)",
                (run, printable(leg), printable(scope), _json(options), RunState.RUNNING.value, now, os.getpid()),
            )
        return run

    def reopen_run(self, run: str) -> None:
        """Continue a run that has stopped, under its ID."""
        with self._writing() as db:
            changed = db.execute(
                "UPDATE runs SET state = ?, ended = NULL, pid = ?, attempts = attempts + 1 WHERE id = ?",
                (RunState.RUNNING.value, os.getpid(), run),
            )
            self._expect_run(run, found=changed.rowcount == 1)

    def end_run(self, run: str, state: RunState) -> None:
        """Write down how a run ended."""
        with self._writing() as db:
            changed = db.execute("UPDATE runs SET state = ?, ended = ? WHERE id = ?", (state.value, time.time(), run))
            self._expect_run(run, found=changed.rowcount == 1)

    def record(self, run: str, *outcomes: Outcome) -> None:
        """Journal how steps of ``run`` ended, all or none; see ``records.merged`` for steps journalled before."""
        with self._writing() as db:
            (seq,) = db.execute("SELECT COALESCE(MAX(seq), 0) FROM steps").fetchone()
            for number, outcome in enumerate(outcomes, seq + 1):
                row = db.execute(f"{_STEP} WHERE run = ? AND key = ?", (run, outcome.key)).fetchone()
                self._put(merged(row and _step(row), outcome, run=run, seq=number))

    def begin(self, run: str, key: str) -> None:
        """Journal that a step of ``run`` begins, so that what a killed attempt may have made is known to be the run's own.

        This alone survives a kill, but perhaps not a power cut: it is not worth a sync before every step.
        """
        with self._lock, self._reaching():
            self._db.execute("PRAGMA synchronous = NORMAL")
            try:
                now = time.time()
                self.record(run, Outcome(key, State.BEGUN, now, now))
            finally:
                self._db.execute("PRAGMA synchronous = FULL")

    def mark_undone(self, run: str, key: str) -> None:
        """Write down that what ``run`` created for the step ``key`` has been removed."""
        with self._writing() as db:
            changed = db.execute(
                "UPDATE steps SET state = ?, created = 0 WHERE run = ? AND key = ?", (State.UNDONE.value, run, key)
            )
            if changed.rowcount != 1:
                raise JournalError(f"run {run} has no step {key} in the journal {self._path}")

    def standing(self, scope: str) -> dict[str, Value]:
        """Return, for each step of any run of ``scope`` that is done and not undone, the value of its newest outcome."""
        rows = self._read(
            """SELECT key, value, MAX(seq) FROM steps WHERE state = ? AND value IS NOT NULL
               AND run IN (SELECT id FROM runs WHERE scope = ?) GROUP BY key""",
            (State.DONE.value, printable(scope)),
            lambda row: (str(row[0]), _object(row[1])),
        )
        return dict(rows)

    def created_by(self, run: str) -> list[StepRecord]:
        """Return what ``run`` created and has not undone, newest first, each with the value it was left with.

        Steps that were done in one attempt and failed or were blocked in a later one are among them.
        """
        return self._read(f"{_STEP} WHERE run = ? AND created = 1 ORDER BY seq DESC", (run,), _step)

    def steps(self, run: str, state: State | None = None) -> list[StepRecord]:
        """Return the steps of ``run``, or those of them in ``state``, in the order in which they ended."""
        condition, values = ("", ()) if state is None else ("AND state = ?", (state.value,))
        return self._read(f"{_STEP} WHERE run = ? {condition} ORDER BY seq", (run, *values), _step)

    def page(self, run: str, state: State | None, after: int, limit: int) -> list[StepRecord]:
        """Return the first ``limit`` steps of ``run`` (of those in ``state``) with a ``seq`` above ``after``, in its order."""
        condition, values = ("", ()) if state is None else ("AND state = ?", (state.value,))
        query = f"{_STEP} WHERE run = ? AND seq > ? {condition} ORDER BY seq LIMIT ?"
        return self._read(query, (run, after, *values, limit), _step)

    def counts(self, run: str) -> dict[State, int]:
        """Return how many steps of ``run`` are in each state."""
        query = "SELECT state, COUNT(*) FROM steps WHERE run = ? GROUP BY state"
        return dict(self._read(query, (run,), lambda row: (_member(State, row[0]), int(row[1]))))

    def runs(self, skip: int = 0, limit: int = -1) -> list[RunRecord]:
        """Return the runs, newest first: without the ``skip`` newest, and no more than ``limit`` (negative: all)."""
        return self._read(f"{_RUN} ORDER BY number DESC LIMIT ? OFFSET ?", (limit, skip), _run)

    def number_of_runs(self) -> int:
        """Return how many runs there are."""
        return self._read("SELECT COUNT(*) FROM runs", (), lambda row: int(row[0]))[0]

    def run(self, run: str) -> RunRecord:
        """Return the run with the ID ``run``."""
        found = self._read(f"{_RUN} WHERE id = ?", (run,), _run)
        self._expect_run(run, found=bool(found))
        return found[0]

    def last_unfinished(self, scope: str, options: Mapping[str, Any]) -> RunRecord | None:
        """Return the newest run of ``scope`` with the same options that has not come to its end with everything done."""
        marks = ", ".join("?" * len(_UNFINISHED))
        found = self._read(
            f"{_RUN} WHERE scope = ? AND options = ? AND state IN ({marks}) ORDER BY number DESC LIMIT 1",
            (printable(scope), _json(options), *_UNFINISHED),
            _run,
        )
        return found[0] if found else None

    def _version(self) -> int:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise JournalError(
                f"the journal {self._path} was written by a newer transship: schema {version}, known here {SCHEMA_VERSION}",
                remedy="use that version, or another state directory",
            )
        return int(version)

    def _check_readable(self) -> None:
        if self._version() == 0:  # its maker was killed before anything was in it
            raise _missing(self._path.parent)

    def _prepare(self) -> None:
        version = self._version()
        if (problem := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(problem)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        with self._writing() as db:
            if not version:
                for statement in _SCHEMA:
                    db.execute(statement)
            db.execute("UPDATE runs SET state = ? WHERE state = ?", (RunState.INTERRUPTED.value, RunState.RUNNING.value))

    def _put(self, row: StepRecord) -> None:
        error = row.error or ErrorInfo("", "")
        self._db.execute(
            "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.run,
                row.key,
                row.kind,
                row.state.value,
                row.created,
                None if row.value is None else _json(row.value),
                error.type or None,
                error.message or None,
                error.remedy or None,
                row.started,
                row.ended,
                row.bytes,
                row.seq,
            ),
        )

    def _read(self, query: str, values: tuple[Any, ...], made: Callable[[Any], T]) -> list[T]:
        with self._lock, self._reaching():
            return [made(row) for row in self._db.execute(query, values)]

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, durable when the block is left."""
        with self._lock, self._reaching():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _mapped(error, self._path) from error

    def _expect_run(self, run: str, *, found: bool) -> None:
        if not found:
            raise RunNotFound(
                f"there is no run {run} in the journal {self._path}",
                remedy="see with `transship status` which there are",
            )


def _reading(path: Path) -> str:
    """Return how to open the file for reading. Without a -wal file nobody writes; said so, SQLite makes no files beside it."""
    return "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"


def _missing(state_dir: Path) -> JournalMissing:
    return JournalMissing(f"there is no journal in {state_dir}", remedy="name the state directory that a run has used")


def _mapped(error: sqlite3.Error, path: Path) -> JournalError:
    if type(error) is sqlite3.DatabaseError:  # its subclasses are other troubles than a damaged file
        return JournalError(
            f"the journal {path} is damaged: {error}",
            remedy=f"move it aside, with {path.name}-wal and {path.name}-shm, and run again: this costs time, never data,"
            " but a rollback will no longer know what earlier runs created",
        )
    return JournalError(f"the journal {path} cannot be used: {error}", remedy="check its file system, room and permissions")


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), sort_keys=True, separators=(",", ":"))


def _object(text: str) -> Value:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise sqlite3.DatabaseError(f"a value is not JSON: {text[:100]!r}") from error
    if not isinstance(value, dict):
        raise sqlite3.DatabaseError(f"a value is not a JSON object: {text[:100]!r}")
    return value


def _member(kind: type[E], text: str) -> E:
    try:
        return kind(text)
    except ValueError as error:
        raise sqlite3.DatabaseError(f"unknown state {text!r}") from error


def _run(row: tuple[Any, ...]) -> RunRecord:
    run, leg, scope, options, state, *rest = row
    return RunRecord(run, leg, scope, _object(options), _member(RunState, state), *rest)


def _step(row: tuple[Any, ...]) -> StepRecord:
    run, key, kind, state, created, value, error_type, message, remedy, *rest = row
    error = ErrorInfo(error_type, message or "", remedy or "") if error_type else None
    value = None if value is None else _object(value)
    return StepRecord(run, key, kind, _member(State, state), bool(created), value, error, *rest)
