"""All operations of the service."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from anyio import to_thread
from msgspec import UNSET
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from transship.api.models import (
    EventsQuery,
    Health,
    Order,
    PlanAnswer,
    Run,
    RunDetails,
    Runs,
    RunsQuery,
    Status,
    StepsQuery,
)
from transship.api.problem import Problem
from transship.daemon import history
from transship.daemon.web import event_stream, openapi
from transship.daemon.web.access import Right
from transship.daemon.web.event_stream import EventStream, follow
from transship.daemon.web.operation import Asked, Operation, as_json
from transship.engine.event_log import event_log_path
from transship.errors import ServiceUnavailable, UsageError
from transship.legs.preview import preview

if TYPE_CHECKING:
    from starlette.types import ASGIApp


async def status(asked: Asked) -> ASGIApp:
    """The service, and what it is at."""
    return Response(await asked.service.status(), media_type="application/json")


async def health(asked: Asked) -> ASGIApp:
    """Whether all is well."""
    if asked.service.supervisor.stalled:
        raise ServiceUnavailable("the run does not advance", remedy="see what it is at in /v1/status, and the logs")
    return as_json(Health(healthy=True))


async def metrics(asked: Asked) -> ASGIApp:
    """Figures for Prometheus."""
    return Response(await to_thread.run_sync(asked.service.metrics.text), media_type=CONTENT_TYPE_LATEST)


async def plan(asked: Asked) -> ASGIApp:
    """What a migration would do. Whoever names places has root look there."""
    if asked.query.source is not UNSET or asked.query.target is not UNSET:
        asked.service.access.check(asked.peer, Right.ACT)
    request = asked.query.request(asked.service.settings)
    async with asked.service.planning:
        return as_json(PlanAnswer.of(await preview(request)))


async def list_runs(asked: Asked) -> ASGIApp:
    """The runs in the journal."""
    records, total = await to_thread.run_sync(
        history.runs, asked.service.supervisor.state_dir, asked.query.skip, asked.query.limit
    )
    return as_json(Runs([Run.of(record) for record in records], total))


async def show_run(asked: Asked) -> ASGIApp:
    """One run, and its steps."""
    query, supervisor = asked.query, asked.service.supervisor
    before = supervisor.before
    error = before.error if before and before.run and before.run.id == asked.run else None
    look = partial(
        history.details,
        supervisor.state_dir,
        asked.run,
        state=None if query.state is UNSET else query.state,
        after=query.after,
        limit=query.limit,
        problem=Problem.of(error) if error else None,
    )
    return as_json(await to_thread.run_sync(look))


async def events(asked: Asked) -> ASGIApp:
    """What happens in a run."""
    supervisor = asked.service.supervisor
    await to_thread.run_sync(history.record, supervisor.state_dir, asked.run)
    last = asked.headers.get("last-event-id", "0")
    if not (last.isascii() and last.isdigit() and len(last) <= openapi.MAX_DIGITS):
        raise UsageError(
            f"Last-Event-ID is not the number of an event: {last[:32]}",
            remedy="give the id of the last event received, or none",
        )
    current = supervisor.current
    live = asked.query.follow and current and current.run and current.run.id == asked.run
    tail = current.tail if current and live else None
    asked.service.streams.ensure_room(asked.service.settings.service.streams)
    lines = follow(event_log_path(supervisor.state_dir, asked.run), tail, int(last))
    return EventStream(lines, asked.service.streams)


async def start(asked: Asked) -> ASGIApp:
    """Begin a migration, or go on with the same one."""
    run, begun = await asked.service.supervisor.migrate(asked.body)
    return _accepted(run) if begun else as_json(run)


async def cancel(asked: Asked) -> ASGIApp:
    """Stop a run."""
    return as_json(await asked.service.supervisor.cancel(asked.run))


async def resume(asked: Asked) -> ASGIApp:
    """Go on with a run."""
    return _accepted(await asked.service.supervisor.resume(asked.run))


async def rollback(asked: Asked) -> ASGIApp:
    """Take back what a run made."""
    return _accepted(await asked.service.supervisor.rollback(asked.run))


async def document(_asked: Asked) -> ASGIApp:
    """The interface itself."""
    return as_json(openapi.document(OPERATIONS))


def _accepted(run: Run) -> Response:
    return as_json(run, HTTPStatus.ACCEPTED, {"location": f"/v1/runs/{run.id}"})


_OK = HTTPStatus.OK
_ACCEPTED = HTTPStatus.ACCEPTED
_NOT_FOUND = (HTTPStatus.NOT_FOUND, HTTPStatus.INTERNAL_SERVER_ERROR)
_UNABLE = (
    HTTPStatus.CONFLICT,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.INSUFFICIENT_STORAGE,
)
"""What is asked for cannot be done now: another run, a busy source, a target that is not there."""
_LAST_EVENT = {"Last-Event-ID": "the id of the last event received; the stream begins after it"}

STATUS = Operation("GET", "/v1/status", "status", "The service, and the run that it is at", Right.READ, status, {_OK: Status})
OPERATIONS = (
    STATUS,
    Operation(
        "GET",
        "/v1/health",
        "health",
        "Whether the service is well, and what it is at advances",
        Right.READ,
        health,
        {_OK: Health},
        problems=(HTTPStatus.SERVICE_UNAVAILABLE,),
    ),
    Operation("GET", "/metrics", "metrics", "Figures for Prometheus", Right.READ, metrics, {_OK: "text/plain"}),
    Operation(
        "GET",
        "/v1/plan",
        "plan",
        "What a migration would do; writes nothing. To name a source or target one must be one of those who may act",
        Right.READ,
        plan,
        {_OK: PlanAnswer},
        query=Order,
        problems=(HTTPStatus.NOT_FOUND, *_UNABLE),
    ),
    Operation("GET", "/v1/runs", "runs", "Runs, newest first", Right.READ, list_runs, {_OK: Runs}, query=RunsQuery),
    Operation(
        "POST",
        "/v1/runs",
        "start",
        "Begin a migration, or go on with one of the same options that was stopped. While a run goes on: 200 and that run if it"
        " is the same, else 409",
        Right.ACT,
        start,
        {_OK: Run, _ACCEPTED: Run},
        body=Order,
        problems=_UNABLE,
    ),
    Operation(
        "GET",
        "/v1/runs/{run}",
        "run",
        "A run, a page of its steps, its report",
        Right.READ,
        show_run,
        {_OK: RunDetails},
        query=StepsQuery,
        problems=_NOT_FOUND,
    ),
    Operation(
        "GET",
        "/v1/runs/{run}/events",
        "events",
        "The events of a run as server-sent events: those that were, then, while the service is at it, those that come",
        Right.READ,
        events,
        {_OK: event_stream.MEDIA_TYPE},
        query=EventsQuery,
        headers=_LAST_EVENT,
        problems=(*_NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
    ),
    Operation(
        "POST",
        "/v1/runs/{run}/cancel",
        "cancel",
        "Stop a run so that it can be gone on with later; answers when it has stopped",
        Right.ACT,
        cancel,
        {_OK: Run},
        problems=(*_NOT_FOUND, HTTPStatus.CONFLICT),
    ),
    Operation(
        "POST",
        "/v1/runs/{run}/resume",
        "resume",
        "Go on with a run that was stopped; begin it anew if it had ended",
        Right.ACT,
        resume,
        {_ACCEPTED: Run},
        problems=(HTTPStatus.NOT_FOUND, *_UNABLE),
    ),
    Operation(
        "POST",
        "/v1/runs/{run}/rollback",
        "rollback",
        "Remove what a run made in the target, and nothing else",
        Right.ACT,
        rollback,
        {_ACCEPTED: Run},
        problems=(HTTPStatus.NOT_FOUND, *_UNABLE),
    ),
    Operation("GET", "/v1/openapi.json", "openapi", "This interface", Right.READ, document, {_OK: "application/json"}),
)
