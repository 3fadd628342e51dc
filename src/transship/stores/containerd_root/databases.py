"""containerd's databases while a run changes them: what is read, what is to be, and when it is written.

Who only looks shares them with others who do. The first change takes them for this process alone: a containerd that is started
then waits until they are let go. Changes are made in memory and noted in the file of pending changes; a *checkpoint* brings
them into the databases, a snapshotter's before meta.db: what only the former knows is garbage to containerd.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from transship.errors import SourceBusy, SourceCorrupt, SourceError, TargetError, TargetExists, TargetRefused, TargetUnavailable
from transship.files.durable import SharedSync
from transship.formats.bolt.draft import Draft
from transship.stores import bolt_file
from transship.stores.containerd_db import metadata
from transship.stores.containerd_db.snapshotter import Snapshots
from transship.stores.containerd_root import leftovers, pending
from transship.stores.containerd_root.places import META, SNAPSHOTTERS
from transship.stores.mapped import mapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transship.formats.bolt.reader import Database
    from transship.stores.bolt_file import Held
    from transship.stores.containerd_root.places import Root

_RESERVED = 1 << 20
"""How many numbers of snapshots are set aside in the database before the first is given out. A directory has its snapshot's
number, and containerd fails to make one that is there: a run that is killed, and that nobody resumes, leaves some."""
_BUSY_HINT = "stop it, then run again; if it is a containerd that is to go on, give --target containerd:SOCKET"


class Databases:
    """``meta.db`` and the ``metadata.db`` of ``snapshotter`` below ``root``. Safe to use from several threads.

    Raises TargetUnavailable if another program has them open or they cannot be written, TargetFull, and TargetRefused for what
    containerd would not have written, or a version of it not known here.
    """

    def __init__(self, root: Root, snapshotter: str) -> None:
        self.root = root
        self.dropped = leftovers.Dropped()
        """Files that the next checkpoint removes, if no record speaks of them then."""
        self._names = (META, snapshotter)
        self._lock = threading.RLock()
        self._resources: ExitStack | None = None
        self._drafts: dict[str, Draft] = {}
        self._held: dict[str, Held] = {}  # none while they are shared
        self._pending: pending.Pending | None = None
        self._changed: set[str] = set()
        self._syncs: list[SharedSync] = []

    @property
    def meta(self) -> Draft:
        """The root bucket of ``meta.db``, for use inside ``read`` and ``change``."""
        return self._drafts[META]

    @property
    def snapshots(self) -> Snapshots:
        """The snapshotter's own records, likewise."""
        return Snapshots(self._drafts[self._names[1]])

    @contextmanager
    def read(self) -> Iterator[None]:
        """Have them to read. Writes nothing."""
        with self._lock, self._as_target():
            if self._resources is None:
                self._share()
            yield

    @contextmanager
    def change(self) -> Iterator[None]:
        """Have them to change: all that the block changes, or nothing if it raises. Not to be used within itself."""
        with self._lock, self._as_target():
            self._prepare()
            try:
                yield
                self._note()
            except BaseException:
                for draft in self._drafts.values():
                    draft.undo(list(draft.edits))
                raise
            finally:
                for draft in self._drafts.values():
                    draft.edits.clear()

    def durable(self) -> None:
        """Return when all changes, and all files below the root, would survive a power cut."""
        for sync in self._syncs:
            with mapped(self.root.directory):
                sync.wait()

    def checkpoint(self) -> None:
        """Bring what is pending into the databases, durably, and remove the files that were dropped."""
        with self._lock, self._as_target():
            if self._pending is None:
                return
            try:
                self.durable()
                self._commit(self._changed)
                leftovers.remove_dropped(self.root, self._names[1], self._drafts, self.dropped)
                self._pending.close()
                self._pending = None
                pending.remove(self.root.pending)
                self._changed.clear()
            except BaseException:
                self._let_go()  # whoever goes on has to begin with what is pending, as after a kill
                raise

    def close(self) -> None:
        """Bring in what is pending, and let go of the databases. What there is no room for stays pending."""
        with self._lock:
            with suppress(TargetError):
                self.checkpoint()
            self._let_go()

    def _share(self) -> None:
        """Have the databases as they will be with what is pending, without writing."""
        with ExitStack() as stack:
            stack.callback(self._forget)
            found: dict[str, Database] = {}
            self._share_one(stack, META, found)
            waiting = pending.read(self.root.pending)  # now that nobody adds to it
            for name in self._snapshotters(waiting):
                self._share_one(stack, name, found)
            self._drafts = self._as_read(found)
            if waiting is not None and not pending.redo(waiting, found, self._drafts):
                self._drafts = self._as_read(found)
            for draft in self._drafts.values():
                draft.edits.clear()
            metadata.check_version(self.meta)
            self._resources = stack.pop_all()

    def _share_one(self, stack: ExitStack, name: str, found: dict[str, Database]) -> None:
        if self.root.database(name).exists():
            found[name] = stack.enter_context(bolt_file.opened(self.root.database(name)))

    def _as_read(self, found: dict[str, Database]) -> dict[str, Draft]:
        return {name: Draft(found[name].root if name in found else None) for name in {*self._names, *found}}

    def _snapshotters(self, waiting: pending.Found | None) -> list[str]:
        """Return this run's, and that of a killed run, which may have been another."""
        return sorted({*self._names, *(waiting.databases if waiting is not None else ())} & set(SNAPSHOTTERS))

    def _prepare(self) -> None:
        try:
            if not self._held:
                self._take()
            if self._pending is None:
                self._begin()
        except BaseException:
            self._let_go()
            raise

    def _take(self) -> None:
        """Have the databases for this process alone, made if they are not there; finish what a killed run has left."""
        self._let_go()
        with ExitStack() as stack:
            stack.callback(self._forget)
            self._make(META, 0o644)
            self._hold(stack, META)
            metadata.check_version(self.meta)
            self.root.make(self._names[1])
            self._make(self._names[1], 0o600)
            waiting = pending.read(self.root.pending)
            for name in self._snapshotters(waiting):
                if self.root.database(name).exists():
                    self._hold(stack, name)
            if waiting is not None:
                self._finish(waiting)
            self._syncs = [SharedSync(path) for path in self.root.file_systems(self._names[1])]
            self._resources = stack.pop_all()

    def _make(self, name: str, mode: int) -> None:
        """Make a database, and all directories, if it is not there."""
        path = self.root.database(name)
        if path.exists():
            return
        self.root.make(self._names[1])
        content = Draft(None)
        if name == META:
            metadata.mark_version(content)
        with suppress(TargetExists):
            bolt_file.create(path, content)
            path.chmod(mode)

    def _hold(self, stack: ExitStack, name: str) -> None:
        self._held[name] = stack.enter_context(bolt_file.held(self.root.database(name)))
        self._drafts[name] = self._held[name].draft()

    def _finish(self, waiting: pending.Found) -> None:
        """Bring in what a killed run has left pending, if nobody has been here since, and remove files without a record."""
        if pending.redo(waiting, {name: held.database for name, held in self._held.items()}, self._drafts):
            self._commit([name for name, draft in self._drafts.items() if draft.edits])
        self._drafts = {name: held.draft() for name, held in self._held.items()}
        leftovers.sweep(self.root, self._drafts)
        pending.remove(self.root.pending)

    def _begin(self) -> None:
        """Set numbers aside, and begin a file of pending changes, by the first of which they are not set aside."""
        name = self._names[1]
        number = self.snapshots.sequence
        self.snapshots.sequence = number + _RESERVED
        self._commit([name])
        databases = {name: self._held[name].database.meta for name in self._names}
        self._pending = pending.Pending(self.root.pending, databases)
        self.snapshots.sequence = number
        self._note()
        self._drafts[name].edits.clear()

    def _note(self) -> None:
        changes = {name: draft.edits for name, draft in self._drafts.items() if draft.edits}
        if changes and self._pending is not None:
            self._pending.append(changes)
            self._changed |= changes.keys()

    def _commit(self, names: Iterable[str]) -> None:
        for name in sorted(names, key=lambda name: name == META):
            self._held[name].commit(self._drafts[name])
            self._drafts[name] = self._held[name].draft()

    def _let_go(self) -> None:
        if self._resources is not None:
            self._resources.close()

    def _forget(self) -> None:
        if self._pending is not None:
            self._pending.close()
        self._resources = self._pending = None
        self._drafts, self._held = {}, {}
        self._changed.clear()
        self.dropped.clear()

    @contextmanager
    def _as_target(self) -> Iterator[None]:
        """Say as errors of a target what is wrong with the databases."""
        try:
            with mapped(self.root.directory):
                yield
        except SourceBusy as error:
            raise TargetUnavailable(error.message, remedy=_BUSY_HINT) from error
        except SourceCorrupt as error:
            raise TargetRefused(error.message, remedy=error.remedy) from error
        except SourceError as error:
            raise TargetUnavailable(error.message, remedy=error.remedy) from error
        except ValueError as error:
            raise TargetRefused(
                f"the databases in {self.root.directory} are not as containerd writes them: {error}",
                remedy="`transship bolt check` and `transship bolt dump` show more",
            ) from error
