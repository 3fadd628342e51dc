"""An operation of the service: what it is asked with, what it answers, who may ask."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from transship.api.encoding import encoded
from transship.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.datastructures import Headers, QueryParams
    from starlette.types import ASGIApp

    from transship.daemon.http.peer import Peer
    from transship.daemon.service import Service
    from transship.daemon.web.access import Right


@dataclass(frozen=True)
class Asked:
    """A request that may be answered: its place ``run`` in the path, query and body as the operation declares them."""

    service: Service
    peer: Peer
    run: str
    query: Any
    body: Any
    headers: Headers


@dataclass(frozen=True)
class Operation:
    """One method on one path. ``answers`` gives for each status a model, or the media type of what is no JSON."""

    method: str
    path: str
    name: str
    summary: str
    right: Right
    answer: Callable[[Asked], Awaitable[ASGIApp]]
    answers: dict[HTTPStatus, type[msgspec.Struct] | str]
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """Request headers that it heeds, and what they say."""
    problems: tuple[HTTPStatus, ...] = ()
    """Besides 403, and 400 where it can be asked wrongly."""


def as_json(value: object, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Response:
    """Return ``value`` as an answer."""
    return Response(encoded(value), status, headers, "application/json")


def decoded_query(kind: type[msgspec.Struct] | None, given: QueryParams) -> Any:
    """Return the query as ``kind``; a list's values are given one by one. Raises UsageError."""
    if kind is None:
        if given:
            raise UsageError(f"unknown parameters: {', '.join(given)}", remedy="ask without a query")
        return None
    lists = {each.encode_name for each in msgspec.structs.fields(kind) if isinstance(each.default, tuple)}
    values: dict[str, Any] = {}
    for name in given:
        found = given.getlist(name)
        if name not in lists and len(found) > 1:
            raise UsageError(f"parameter {name} is given {len(found)} times", remedy="give it once")
        values[name] = found if name in lists else found[0]
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"wrong parameter: {error}", remedy="see /v1/openapi.json") from error


def decoded_body(kind: type[msgspec.Struct] | None, data: bytes) -> Any:
    """Return the body as ``kind``; without one, with all its defaults. Raises UsageError."""
    if kind is None:
        if data:
            raise UsageError("this takes no body", remedy="send none")
        return None
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"wrong body: {error}", remedy="see /v1/openapi.json") from error
