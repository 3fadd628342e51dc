from __future__ import annotations

import json
from http import HTTPStatus
from itertools import chain
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator, meta
from schemathesis.openapi import from_dict

from transship.api.encoding import encoded
from transship.api.models import Order
from transship.api.problem import MEDIA_TYPE
from transship.daemon.web.openapi import document
from transship.daemon.web.operations import OPERATIONS

DOCUMENT: dict[str, Any] = json.loads(encoded(document(OPERATIONS)))


def test_it_is_valid() -> None:
    """OpenAPI's own schema for 3.1, which comes with schemathesis; and JSON Schema's, for what is inside."""
    assert DOCUMENT["openapi"].startswith("3.1.")
    from_dict(DOCUMENT).validate()
    for schema in DOCUMENT["components"]["schemas"].values():
        meta.validate(schema)
        Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def test_every_operation_is_in_it_once() -> None:
    operations = [operation for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len(operations) == len(OPERATIONS)
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    for operation in operations:
        assert operation["summary"]
        assert operation["description"]


def test_everything_that_is_referred_to_is_there_and_the_other_way_round() -> None:
    text = json.dumps(DOCUMENT)
    names = set(DOCUMENT["components"]["schemas"])
    referred = {each.split('"')[0] for each in text.split("#/components/schemas/")[1:]}
    queries = {operation.query.__name__ for operation in OPERATIONS if operation.query}
    assert referred <= names
    assert names <= referred | queries


def test_every_error_is_a_problem_document() -> None:
    for operation in chain.from_iterable(path.values() for path in DOCUMENT["paths"].values()):
        for status, answer in operation["responses"].items():
            if int(status) >= HTTPStatus.BAD_REQUEST:
                assert answer == {"$ref": f"#/components/responses/Problem{status}"}
    for answer in DOCUMENT["components"]["responses"].values():
        assert list(answer["content"]) == [MEDIA_TYPE]


@pytest.mark.parametrize(
    ("order", "valid"),
    [
        ({}, True),
        ({"source": "/x", "jobs": 4, "images": ["a"], "compression": "gzip"}, True),
        ({"jobs": 0}, False),
        ({"source": ""}, False),
        ({"source": "/a\0b"}, False),
        ({"images": "a"}, False),
        ({"unknown": 1}, False),
    ],
)
def test_it_says_of_an_order_what_the_service_does(order: dict[str, Any], valid: bool) -> None:
    schema = {"$ref": f"#/components/schemas/{Order.__name__}", "components": DOCUMENT["components"]}
    assert Draft202012Validator(schema).is_valid(order) == valid
