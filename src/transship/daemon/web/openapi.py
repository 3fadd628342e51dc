"""The service's interface as an OpenAPI 3.1 document, made from the operations themselves."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from transship import __version__
from transship.api.problem import MEDIA_TYPE, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transship.daemon.web.operation import Operation

_DESCRIPTION = (
    "HTTP/1.1 on a Unix socket. Who may ask is decided by the credentials of the process that connected. Errors are problem"
    " documents (RFC 9457)."
)

MAX_DIGITS = 18
"""Of a number in a header: it is less than 2^63."""
_ALWAYS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
"""What any request may be answered, whatever it asks for."""
_NUMBER = {"type": "string", "pattern": f"^[0-9]{{1,{MAX_DIGITS}}}$"}


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """Return the document as a JSON object."""
    operations = list(operations)
    models = {kind for each in operations for kind in (each.query, each.body, *each.answers.values()) if isinstance(kind, type)}
    named = sorted(models | {Problem}, key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(named, ref_template="#/components/schemas/{name}")
    references = dict(zip(named, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, references, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "transship", "version": __version__, "description": _DESCRIPTION, "license": {"name": "Apache-2.0"}},
        "servers": [{"url": "http://localhost", "description": "any name will do: the socket is what counts"}],
        "paths": paths,
        "components": {"schemas": components, "responses": _problems(operations, references[Problem])},
    }


def _described(
    operation: Operation, references: dict[type[msgspec.Struct], dict[str, Any]], components: dict[str, Any]
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"For those who may {operation.right.value}.",
        "responses": _responses(operation, references),
    }
    if parameters := _parameters(operation, components):
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = {"required": False, "content": {"application/json": {"schema": references[operation.body]}}}
    return described


def _parameters(operation: Operation, components: dict[str, Any]) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    if operation.query is not None:
        parameters += [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in components[operation.query.__name__]["properties"].items()
        ]
    parameters += [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": text,
            "schema": _NUMBER,
        }
        for name, text in operation.headers.items()
    ]
    return parameters


def _responses(operation: Operation, references: dict[type[msgspec.Struct], dict[str, Any]]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, kind in operation.answers.items():
        content = {kind: {}} if isinstance(kind, str) else {"application/json": {"schema": references[kind]}}
        responses[str(int(status))] = {"description": status.phrase, "content": content}
        if status is HTTPStatus.ACCEPTED:
            responses[str(int(status))]["headers"] = {"Location": {"schema": {"type": "string"}}}
    for status in sorted({*_ALWAYS, *operation.problems}):
        responses[str(int(status))] = {"$ref": f"#/components/responses/{_name(status)}"}
    return responses


def _problems(operations: Iterable[Operation], schema: dict[str, Any]) -> dict[str, Any]:
    """Return an answer for each status of a problem; all of them have the same ``schema``."""
    statuses = {*_ALWAYS, *(status for operation in operations for status in operation.problems)}
    content = {MEDIA_TYPE: {"schema": schema}}
    return {
        _name(status): {"description": f"A problem of status {status:d}", "content": content} for status in sorted(statuses)
    }


def _name(status: HTTPStatus) -> str:
    """Return what answers of ``status`` are called here. By the number: Python's words for some change with its versions."""
    return f"Problem{status:d}"
