from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship.formats import go_json

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
spaced = st.sampled_from([None, 0, 2, "\t"])


def test_members_stand_as_they_are_in_their_order() -> None:
    raw = b' {"b" : [1, 2.50,{"x":"]}\\""}] ,\n"a":\t-0e+1 , "b":null, "\\u00e9":"\\ud83d\\ude00" } \r\n'
    assert go_json.members(raw) == [
        ("b", b'[1, 2.50,{"x":"]}\\""}]'),
        ("a", b"-0e+1"),
        ("b", b"null"),
        ("é", b'"\\ud83d\\ude00"'),
    ]
    assert go_json.members(b"{ }") == []


def test_elements_stand_as_they_are() -> None:
    assert go_json.elements(b' [ 1 ,[ ], {} ,"a" , [true,[false]] ] ') == [b"1", b"[ ]", b"{}", b'"a"', b"[true,[false]]"]
    assert go_json.elements(b"[ ]") == []


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b" ", b"{", b"{,}", b'{"a"}', b'{"a":}', b'{"a":1,}', b'{"a":1 "b":2}', b"{a:1}", b"{'a':1}"),
        *(b"{}x", b"{} {}", b"\xef\xbb\xbf{}", b"{}\0", b"{\x0c}"),
        *(
            b'{"a":%s}' % value
            for value in (
                *(b"01", b"1.", b".5", b"+1", b"1e", b"-", b"0x1", b"NaN", b"Infinity", b"nul", b"True"),
                *(b'"\n"', b'"\\x"', b'"\\u12"', b'"\\', b'"', b'"a\x00"', b"'a'"),
                *(b"[1,]", b"[,1]", b"[1 2]", b"[1", b"[}", b"{]", b"[1}", b'{"b":1]', b'{"b":[}]', b"]"),
            )
        ),
    ],
)
def test_what_go_refuses_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        go_json.members(raw)


@pytest.mark.parametrize("raw", [b"null", b"1", b"[]", b' "x"', b"[{}]"])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not a JSON object"):
        go_json.members(raw)


@pytest.mark.parametrize("raw", [b"null", b"{}", b""])
def test_what_is_no_array_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not a JSON array"):
        go_json.elements(raw)


def test_size_depth_and_number_have_bounds() -> None:
    deep = go_json.MAX_DEPTH
    assert len(go_json.members(b'{"a":' + b"[" * deep + b"1" + b"]" * deep + b"}")) == 1
    for raw in (
        b'{"a":' + b"[" * (deep + 1) + b"1" + b"]" * (deep + 1) + b"}",
        b'{"a":' * (go_json.MAX_SIZE // 5),
        b"{" + b'"":0,' * go_json.MAX_ITEMS + b'"":0}',
        b" " * go_json.MAX_SIZE + b"{}",
    ):
        with pytest.raises(ValueError, match=r"nested|more than|over the limit"):
            go_json.members(raw)
    with pytest.raises(ValueError, match="more than"):
        go_json.elements(b"[" + b"0," * go_json.MAX_ITEMS + b"0]")


def test_no_text_takes_longer_than_its_length_lets_expect() -> None:
    started = time.process_time()
    for raw in (
        b'{"a":"' + b'\\"' * 500_000,
        b"{" + b" " * 1_000_000,
        b'{"a":' + b"1" * 1_000_000,
        b'{"a"' + b"\t" * 1_000_000 + b"x",
    ):
        with pytest.raises(ValueError, match="not JSON"):
            go_json.members(raw)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (rb'"\"\\\/\b\f\n\r\t\u00e9"', '"\\/\b\f\n\r\té'),
        (rb'"\ud83d\ude00"', "😀"),
        (rb'"\ud83dx\ude00"', "\ufffdx\ufffd"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd😀"),
        (b'"\xff\xe2\x80x\xed\xa0\x80"', "\ufffd\ufffd\ufffdx\ufffd\ufffd\ufffd"),
        (b'"\x7f\xe2\x80\xa8"', "\x7f\u2028"),
    ],
)
def test_strings_are_unquoted_as_by_go(raw: bytes, text: str) -> None:
    assert go_json.string(raw) == text


@pytest.mark.parametrize("raw", [b"1", b"null", b"x", b'"', b'"a" "b"', b""])
def test_what_is_no_string_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        go_json.string(raw)


def test_strings_are_quoted_as_by_go() -> None:
    assert go_json.quote('"\\/\n\r\t') == rb'"\"\\/\n\r\t"'
    assert go_json.quote("\b\f\0\x1f<>&\u2028\u2029") == rb'"\u0008\u000c\u0000\u001f\u003c\u003e\u0026\u2028\u2029"'
    assert go_json.quote("\x7fé😀\ufffd") == '"\x7fé😀\ufffd"'.encode()


def test_compact_keeps_all_but_blanks_and_markup() -> None:
    raw = b' { "z" : [ 1.0 , 1E5 ] ,\r\n"a" :\t"\\/ \\u00E9 \\" <&>\xe2\x80\xa8\xff \\\\" }'
    assert go_json.compact(raw) == b'{"z":[1.0,1E5],"a":"\\/ \\u00E9 \\" \\u003c\\u0026\\u003e\\u2028\xff \\\\"}'


def test_maps_are_sorted_by_the_bytes_of_their_keys() -> None:
    values = {"é": b"4", "b<": b"[ 1 ]", "_": b"3", "a": b"1", "Z": b"0", "\uffff": b"5", "😀": b"6"}
    assert go_json.map_of(values) == '{"Z":0,"_":3,"a":1,"b\\u003c":[1],"é":4,"\uffff":5,"😀":6}'.encode()


def test_keys_match_whatever_their_case() -> None:
    assert go_json.fold("Docker_VerSion") == go_json.fold("docKer_verſion") == go_json.fold("docker_version")
    assert go_json.fold("parent_id") != go_json.fold("parentid")
    assert go_json.fold("İd") != go_json.fold("id")


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=5), spaced, st.booleans())
def test_members_are_those_that_python_reads(document: dict[str, Any], indent: int | str | None, ascii_only: bool) -> None:
    raw = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()
    assert {key: json.loads(value) for key, value in go_json.members(raw)} == document


@given(st.lists(json_values, max_size=5), spaced)
def test_elements_are_those_that_python_reads(document: list[Any], indent: int | str | None) -> None:
    assert [json.loads(value) for value in go_json.elements(json.dumps(document, indent=indent).encode())] == document


@given(json_values, spaced)
def test_compact_loses_nothing_and_is_done_at_once(document: Any, indent: int | str | None) -> None:
    dense = go_json.compact(json.dumps(document, indent=indent, ensure_ascii=False).encode())
    assert json.loads(dense) == document
    assert go_json.compact(dense) == dense
    if not set("<>&\u2028\u2029") & set(json.dumps(document, ensure_ascii=False)):
        assert dense == json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


@given(st.text())
def test_a_quoted_string_is_read_again(text: str) -> None:
    assert go_json.string(go_json.quote(text)) == text == json.loads(go_json.quote(text))


def no_constant(name: str) -> None:
    raise ValueError(name)


def python_takes(raw: bytes) -> bool:
    """Whether Python's own parser, which is as strict when it has Latin-1 for text, takes ``raw`` for an object."""
    try:
        return isinstance(json.loads(raw.decode("latin-1"), parse_constant=no_constant), dict)
    except ValueError:
        return False


damages = st.lists(
    st.tuples(st.integers(min_value=0), st.sampled_from([b"", *(bytes([c]) for c in b'{}[]",:\\ \n0-+.eu\xff\x00')])),
    max_size=3,
)


@given(st.dictionaries(st.text(max_size=3), json_values, max_size=3), damages)
def test_what_is_json_is_what_python_takes_for_it(document: dict[str, Any], damaged: list[tuple[int, bytes]]) -> None:
    raw = json.dumps(document).encode()
    for at, damage in damaged:
        start = at % (len(raw) + 1)
        raw = raw[:start] + damage + raw[start + 1 :]
    try:
        go_json.members(raw)
    except ValueError:
        assert not python_takes(raw)
    else:
        assert python_takes(raw)
