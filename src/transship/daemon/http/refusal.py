"""Answers that the server gives by itself: problem documents (RFC 9457), made once, after which the connection closes."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

CONTENT_TYPE = b"application/problem+json"


def problem(status: HTTPStatus, detail: str) -> bytes:
    """Return the problem document that says ``detail`` of ``status``, as JSON."""
    return msgspec.json.encode({"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail})


def _answer(status: HTTPStatus, detail: str, *headers: bytes) -> bytes:
    body = problem(status, detail)
    head = [
        b"HTTP/1.1 %d %s" % (status, status.phrase.encode()),
        b"content-type: " + CONTENT_TYPE,
        b"content-length: %d" % len(body),
        b"connection: close",
        *headers,
    ]
    return b"\r\n".join([*head, b"", body])


NOT_HTTP = _answer(HTTPStatus.BAD_REQUEST, "what was sent is not an HTTP/1.1 request")
TOO_SLOW = _answer(HTTPStatus.REQUEST_TIMEOUT, "the request was not sent whole in time")
BODY_TOO_LARGE = _answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is larger than any request to this service")
HEAD_TOO_LARGE = _answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request line and headers are too large")
TOO_MANY = _answer(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections are open", b"retry-after: 1")
FAILED = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the request met an error that was not foreseen; the service's log has it")
