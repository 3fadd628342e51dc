from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship.formats.go_struct import COMMAND, FLAG, INTEGER, LABELS, NAMES, TEXT, TEXTS, TIME, Field, Kind, pointer, struct

INNER = struct(Field("User", TEXT), Field("Env", TEXTS), Field("Labels", LABELS))
OUTER = struct(
    Field("name", TEXT, omit_empty=True),
    Field("on", FLAG, omit_empty=True),
    Field("Size", INTEGER, omit_empty=True),
    Field("ports", NAMES, omit_empty=True),
    Field("inner", INNER),
    Field("to", pointer(INNER), omit_empty=True),
)
EMPTY = b'{"User":"","Env":null,"Labels":null}'


def rewritten(kind: Kind, raw: bytes) -> bytes:
    return kind.encode(kind.decode(raw, kind.zero))


def test_fields_are_written_in_their_order_and_empty_ones_left_out() -> None:
    assert rewritten(OUTER, b"{}") == b'{"inner":' + EMPTY + b"}"
    raw = b'{"to":{},"ports":{"b":{},"a":{"x":1}},"Size":7,"on":true,"name":"n"}'
    assert (
        rewritten(OUTER, raw)
        == b'{"name":"n","on":true,"Size":7,"ports":{"a":{},"b":{}},"inner":' + EMPTY + b',"to":' + EMPTY + b"}"
    )
    assert rewritten(OUTER, b'{"to":null,"ports":{},"Size":0,"on":false,"name":""}') == b'{"inner":' + EMPTY + b"}"


def test_keys_match_whatever_their_case_and_others_are_dropped() -> None:
    assert rewritten(INNER, '{"uſer":"a","ENV":["x"],"users":1}'.encode()) == b'{"User":"a","Env":["x"],"Labels":null}'


def test_the_last_of_several_counts_and_structs_and_maps_are_merged() -> None:
    assert OUTER.decode(b'{"size":5,"Size":6,"SIZE":7}', OUTER.zero)["Size"] == 7
    raw = b'{"to":{"User":"a","Env":["1","2"],"Labels":{"x":"1","y":"1"}},"TO":{"Env":["3"],"Labels":{"y":"2"}}}'
    assert OUTER.decode(raw, OUTER.zero)["to"] == {"User": "a", "Env": ["3"], "Labels": {"x": "1", "y": "2"}}
    assert OUTER.decode(b'{"to":{"User":"a"},"to":null,"to":{}}', OUTER.zero)["to"]["User"] == ""


def test_null_leaves_plain_fields_and_empties_others() -> None:
    values = OUTER.decode(b'{"name":"n","name":null,"on":true,"on":null,"Size":1,"Size":null,"inner":null}', OUTER.zero)
    assert (values["name"], values["on"], values["Size"], values["inner"]) == ("n", True, 1, INNER.zero)
    values = INNER.decode(b'{"Env":["a",null],"Labels":{"x":null}}', INNER.zero)
    assert values == {"User": "", "Env": ["a", ""], "Labels": {"x": ""}}
    assert INNER.decode(b'{"Env":["a"],"env":null,"Labels":{},"labels":null}', INNER.zero) == INNER.zero


def test_a_decoded_value_is_no_part_of_the_next() -> None:
    OUTER.decode(b'{"inner":{"User":"a","Labels":{"x":"1"}},"ports":{"a":{}}}', OUTER.zero)
    assert rewritten(OUTER, b"{}") == b'{"inner":' + EMPTY + b"}"


@pytest.mark.parametrize(
    ("raw", "value"),
    [(b'"a b"', ["a b"]), (b'["a","b"]', ["a", "b"]), (b"[]", []), (b'""', [""]), (b"null", None)],
)
def test_a_command_is_a_list_or_a_string(raw: bytes, value: list[str] | None) -> None:
    assert COMMAND.decode(raw, None) == value


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        *((TEXT, raw) for raw in (b"1", b"{}", b"true")),
        *((FLAG, raw) for raw in (b"1", b'"true"', b"[]")),
        *(
            (INTEGER, raw)
            for raw in (b'"1"', b"1.0", b"1e3", b"9223372036854775808", b"-9223372036854775809", b"1" * 10_000, b"true")
        ),
        *((TEXTS, raw) for raw in (b'"a"', b"{}", b"[1]", b"[[]]")),
        *((COMMAND, raw) for raw in (b"1", b"{}", b"[1]")),
        *((LABELS, raw) for raw in (b"[]", b'{"a":1}', b'"a"')),
        *((NAMES, raw) for raw in (b"[]", b'{"a":1}', b'{"a":[]}', b'"a"')),
        *((INNER, raw) for raw in (b"[]", b'"a"', b"1")),
    ],
)
def test_another_type_is_refused(kind: Kind, raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        kind.decode(raw, kind.zero)


def test_an_error_names_the_field() -> None:
    with pytest.raises(ValueError, match="inner: Env: not a JSON array"):
        OUTER.decode(b'{"inner":{"env":1}}', OUTER.zero)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("2015-10-12T03:04:05.120000000+02:00", "2015-10-12T03:04:05.12+02:00"),
        ("2015-01-02T03:04:05.678900000-07:00", "2015-01-02T03:04:05.6789-07:00"),
        ("2015-01-02T03:04:05Z", "2015-01-02T03:04:05Z"),
        ("2015-01-02T03:04:05.000Z", "2015-01-02T03:04:05Z"),
        ("2015-01-02T03:04:05.100000001+00:00", "2015-01-02T03:04:05.100000001Z"),
        ("2015-01-02T03:04:05-00:00", "2015-01-02T03:04:05Z"),
        ("2016-02-29T3:04:05Z", "2016-02-29T03:04:05Z"),
        ("0000-02-29T00:00:00Z", "0000-02-29T00:00:00Z"),
        ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999999Z"),
    ],
)
def test_times_are_written_as_by_go(raw: str, text: str) -> None:
    assert TIME.decode(f'"{raw}"'.encode(), TIME.zero) == text


def test_no_time_is_year_one() -> None:
    assert TIME.decode(b"null", TIME.zero) == TIME.zero == "0001-01-01T00:00:00Z"


@pytest.mark.parametrize(
    "raw",
    [
        *(
            b"0",
            b'""',
            b'"not a time"',
            b'"2015-01-02"',
            b'"2015-01-02 03:04:05Z"',
            b'"2015-01-02T03:04:05"',
            b'"2015-1-2T03:04:05Z"',
        ),
        *(b'"2015-13-02T03:04:05Z"', b'"2015-00-02T03:04:05Z"', b'"2015-02-29T03:04:05Z"', b'"2015-01-00T03:04:05Z"'),
        *(b'"2015-01-02T24:04:05Z"', b'"2015-01-02T03:60:05Z"', b'"2015-01-02T03:04:60Z"', b'"2015-01-02T03:04:05.Z"'),
        *(
            b'"2015-01-02T03:04:05.1234567890Z"',
            b'"2015-01-02T03:04:05+24:00"',
            b'"2015-01-02T03:04:05+0200"',
            b'"2015-01-02T03:04:05z"',
        ),
        *(b'"\\u0032015-01-02T03:04:05Z"', b'"2015-01-02T03:04:05Z "', '"٢015-01-02T03:04:05Z"'.encode()),
    ],
)
def test_what_is_no_time_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="time"):
        TIME.decode(raw, TIME.zero)


texts = st.text(max_size=5)
inner = st.fixed_dictionaries(
    {
        "User": texts,
        "Env": st.none() | st.lists(texts, max_size=3),
        "Labels": st.none() | st.dictionaries(texts, texts, max_size=3),
    }
)


@given(
    st.fixed_dictionaries(
        {
            "name": texts,
            "on": st.booleans(),
            "Size": st.integers(-(2**63), 2**63 - 1),
            "ports": st.none() | st.dictionaries(texts, st.just(""), min_size=1, max_size=3),
            "inner": inner,
            "to": st.none() | inner,
        }
    )
)
def test_what_is_written_is_read_again(values: dict[str, Any]) -> None:
    assert OUTER.decode(OUTER.encode(values), OUTER.zero) == values
