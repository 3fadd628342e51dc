"""How a migration ended: for whoever waits for it, and, as ``report.json`` beside its event log, for whoever asks later."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

from transship.engine.records import RunState
from transship.errors import JournalError
from transship.files.durable import write_file
from transship.legs.left_out import LeftOut

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transship.engine.summary import Summary

FILE_NAME = "report.json"


class FailedStep(msgspec.Struct, frozen=True):
    """A step that failed, why, and what to do about it."""

    key: str
    title: str
    message: str
    remedy: str


class Report(msgspec.Struct, frozen=True, tag="report"):
    """How a migration ended: of its ``steps``, ``skipped`` of those ``done`` were done before.

    ``complete``: everything is in the target that was to go there. ``blocked`` are the keys of steps that were not run because
    of those that failed. ``bytes`` were read in ``seconds``. ``map`` is the path of the map of identities. ``records`` are
    those of build caches that were brought to version 2, if that was all that was to be done.
    """

    run: str
    complete: bool
    target: str
    images: int
    layers: int
    steps: int
    done: int
    skipped: int
    failed: tuple[FailedStep, ...]
    blocked: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    bytes: int
    seconds: float
    map: str
    records: int = 0

    @classmethod
    def make(
        cls,
        summary: Summary,
        *,
        target: str,
        left_out: Sequence[LeftOut],
        map_file: Path,
        images: int = 0,
        layers: int = 0,
        records: int = 0,
    ) -> Report:
        """Put together what the engine, the plan and the target say."""
        return cls(
            run=summary.run,
            complete=summary.state is RunState.DONE,
            target=target,
            images=images,
            layers=layers,
            steps=summary.steps,
            done=summary.done,
            skipped=summary.skipped,
            failed=tuple(
                FailedStep(failure.key, failure.title, failure.error.message, failure.error.remedy)
                for failure in summary.failed
            ),
            blocked=summary.blocked,
            left_out=tuple(left_out),
            bytes=summary.bytes,
            seconds=summary.seconds,
            map=str(map_file),
            records=records,
        )


def write_report(run_directory: Path, report: Report) -> None:
    """Keep ``report`` in the run's directory, durably."""
    document = msgspec.to_builtins(report)
    write_file(run_directory / FILE_NAME, json.dumps(document).encode())  # unlike msgspec's, carries paths that are not UTF-8


def read_report(run_directory: Path) -> Report | None:
    """Return the report of the run whose directory this is, None if it has not come to its end. Raises JournalError."""
    path = run_directory / FILE_NAME
    try:
        return msgspec.convert(json.loads(path.read_bytes()), Report)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise JournalError(f"cannot read {path}: {error}", remedy="move it aside; nothing else depends on it") from error
