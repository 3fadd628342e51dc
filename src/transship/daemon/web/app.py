"""The ASGI app: finds the operation, checks who asks, decodes what is asked, and turns errors into problem documents."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router

from transship.api.encoding import encoded
from transship.api.problem import MEDIA_TYPE, Problem
from transship.daemon.http.peer import connection_of
from transship.daemon.web.operation import Asked, decoded_body, decoded_query
from transship.daemon.web.operations import OPERATIONS, STATUS
from transship.errors import TransshipError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from transship.daemon.service import Service
    from transship.daemon.web.operation import Operation


_OF_BODIES = {b"content-length", b"transfer-encoding"}


def make_app(service: Service) -> ASGIApp:
    """Return the app that answers for ``service``. What an operation does not foresee, it raises, for the server to log."""
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    routes = [Route(path, _Endpoint(service, operations)) for path, operations in by_path.items()]
    return _Often(service, Router(routes, redirect_slashes=False, default=_not_found))


class _Often:
    """Answers what watchers ask ten times a second in a third of the time; leaves all else to ``others``. An ASGI app."""

    def __init__(self, service: Service, others: ASGIApp) -> None:
        self._service = service
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        plain = scope["path"] == STATUS.path and scope["method"] == STATUS.method and not scope["query_string"]
        if not plain or any(name in _OF_BODIES for name, _ in scope["headers"]):
            await self._others(scope, receive, send)
            return
        try:
            self._service.access.check(connection_of(scope).peer, STATUS.right)
            status = await self._service.status()
        except TransshipError as error:
            await _problem(Problem.of(error))(scope, receive, send)
            return
        headers = [(b"content-length", b"%d" % len(status)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": headers})
        await send({"type": "http.response.body", "body": status})


class _Endpoint:
    """All operations on one path. An ASGI app."""

    def __init__(self, service: Service, operations: dict[str, Operation]) -> None:
        self._service = service
        self._operations = operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(Request(scope, receive))
        except ClientDisconnect:
            return
        except TransshipError as error:
            answer = _problem(Problem.of(error))
        except HTTPException as error:
            answer = _problem(Problem.of_status(HTTPStatus(error.status_code), error.detail), error.headers)
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> ASGIApp:
        operation = self._operations.get(request.method)
        if operation is None:
            allowed = ", ".join(self._operations)
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, f"allowed here: {allowed}", {"allow": allowed})
        peer = connection_of(request.scope).peer
        self._service.access.check(peer, operation.right)
        asked = Asked(
            self._service,
            peer,
            request.path_params.get("run", ""),
            decoded_query(operation.query, request.query_params),
            decoded_body(operation.body, await _body(request)),
            request.headers,
        )
        return await operation.answer(asked)


async def _body(request: Request) -> bytes:
    """Return the body, which the server has bounded. Raises HTTPException if it says that it is no JSON."""
    body = await request.body()
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if body and kind != "application/json":
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body is {kind}, not application/json")
    return body


def _problem(problem: Problem, headers: Any = None) -> Response:
    return Response(encoded(problem), problem.status, headers, MEDIA_TYPE)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    problem = Problem.of_status(HTTPStatus.NOT_FOUND, f"there is nothing at {scope['path']}; see /v1/openapi.json")
    await _problem(problem)(scope, receive, send)
