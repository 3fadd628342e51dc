"""Steps that bring a build cache from version 1 of its metadata to version 2.

As BuildKit's ``cache.MigrateV2`` (``cache/migrate_v2.go``, v0.27.1) does it, in the same order: records, leases, labels, and at
last the file that BuildKit looks for. Before the leases nothing in the cache is changed; from then on the rest is to follow, in
this run or when it is resumed. BuildKit 0.6 can go on with the cache at any moment.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from transship.engine.step import Cost, Resource, Result, Step
from transship.files.changes import Copy
from transship.files.durable import sync_directory, write_file
from transship.formats.bolt.draft import Draft
from transship.legs.buildkit.job import Todo
from transship.legs.trouble import trouble
from transship.stores import bolt_file
from transship.stores.buildkit.holder import Lease
from transship.stores.buildkit.places import VERSION_2
from transship.stores.buildkit.upgrade import Upgrade, upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transship.engine.step import Context, Value
    from transship.legs.buildkit.job import Job

RECORDS, LEASES, LABELS, METADATA = "cache-records", "cache-leases", "cache-labels", "cache-metadata"
"""The kinds of steps, in their order."""
LEASES_FILE, LABELS_FILE = "leases", "labels"
"""The names under which changes are written down."""
_MODE = 0o600


class Records(msgspec.Struct, frozen=True):
    """What the first step leaves: the SHA-256 of what it read, where it put what it made, how many ``records`` that has, and
    for each record that was left out, its name, why, and what to do.
    """

    source: str
    directory: str
    records: int
    dropped: tuple[tuple[str, str, str], ...]


def cache_steps(job: Job) -> list[Step]:
    """Return the steps for one cache."""
    records, leases, labels, metadata = (f"{kind}:{job.name}" for kind in (RECORDS, LEASES, LABELS, METADATA))
    where = job.cache.metadata

    def still_stands(value: Value) -> bool:
        return value.get("directory") == str(job.directory) and job.todo.exists() and value.get("source") == job.source()

    def is_in_place(_: Value) -> bool:
        return False  # a cache that has come to version 2 has no job any more

    return [
        Step(
            key=records,
            title=f"records of {where}",
            resource=Resource.CPU,
            run=lambda context: _read_records(job, context),
            check=still_stands,
            cost=Cost(where.stat().st_size, 1),
        ),
        Step(
            key=leases,
            title=f"leases for {where}",
            resource=Resource.DISK,
            run=lambda context: _lease(job, _records(context, records)),
            check=still_stands,
            needs=(records,),
        ),
        Step(
            key=labels,
            title=f"labels that leases replace, of {where}",
            resource=Resource.DISK,
            run=lambda context: _unlabel(job, _records(context, records)),
            check=still_stands,
            needs=(records, leases),
        ),
        Step(
            key=metadata,
            title=f"version 2 of {where}",
            resource=Resource.DISK,
            run=lambda context: _put_in_place(job, _records(context, records), metadata),
            check=is_in_place,
            needs=(records, labels),
        ),
    ]


def records_in(value: Value) -> Records:
    """Return what the first step has left."""
    return msgspec.convert(value, Records)


def _records(context: Context, key: str) -> Records:
    return records_in(context.value(key) or {})


def _read_records(job: Job, context: Context) -> Result:
    """Make the metadata of version 2 in the run's directory, and write down what follows from them."""
    source = job.source()
    with _upgraded(job, context) as found, _mapped(job):
        shutil.rmtree(job.directory, ignore_errors=True)
        job.directory.mkdir(mode=0o700, parents=True)
        bolt_file.create(job.metadata, found.content)
        leases = tuple((lease.id, lease.resources) for lease in found.leases)
        document = Todo(leases, found.snapshots, found.blobs)
        write_file(job.todo, msgspec.json.encode(document), _MODE)
        sync_directory(job.directory.parent)
        dropped = tuple((each.subject, each.error.message, each.error.remedy) for each in found.dropped)
    job.ensure_unchanged(source)
    # Not "created": nothing in the cache has changed.
    return Result(msgspec.to_builtins(Records(source, str(job.directory), found.records, dropped)), created=False)


@contextmanager
def _upgraded(job: Job, context: Context) -> Iterator[Upgrade]:
    if job.cache.metadata.stat().st_size == 0:  # made by a BuildKit that was killed at once
        yield Upgrade(Draft(None), (), (), (), 0, ())
        return
    with bolt_file.opened(job.cache.metadata) as database, job.holder() as holder:
        yield upgrade(database, holder, context.check_cancelled)


def _lease(job: Job, records: Records) -> Result:
    job.ensure_unchanged(records.source)
    todo = _todo(job)
    wanted = [Lease(name, resources) for name, resources in todo.leases]
    with job.holder() as holder, _mapped(job):
        job.change(holder, LEASES_FILE, lambda: holder.lease(wanted))
    return _changed(records)


def _unlabel(job: Job, records: Records) -> Result:
    job.ensure_unchanged(records.source)
    todo = _todo(job)
    with job.holder() as holder, _mapped(job):
        job.change(holder, LABELS_FILE, lambda: holder.unroot(todo.snapshots, todo.blobs))
    return _changed(records)


def _put_in_place(job: Job, records: Records, key: str) -> Result:
    """Have the metadata of version 2 where BuildKit looks for them. A file of a migration that failed before goes."""
    place = job.cache.place
    old = job.cache.metadata.stat()
    with _mapped(job):
        job.ensure_unchanged(records.source)
        path = f"{job.path}/{VERSION_2}"
        job.ledger.make(key, [Copy(path, job.metadata, _MODE)])
        os.chown(place / VERSION_2, old.st_uid, old.st_gid)
        (place / f"{VERSION_2}.tmp").unlink(missing_ok=True)
        sync_directory(place)
    return _changed(records)


def _todo(job: Job) -> Todo:
    return msgspec.json.decode(job.todo.read_bytes(), type=Todo)


def _changed(records: Records) -> Result:
    return Result({"source": records.source, "directory": records.directory}, created=True)


@contextmanager
def _mapped(job: Job) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise trouble(error, job.cache.place) from error
