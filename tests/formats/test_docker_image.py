from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship.formats import digest
from transship.formats.docker_image import SIZE_LIMIT, ImageConfig, parse_config

DIFF_ID = digest.of(b"layer")


def parse(**fields: Any) -> ImageConfig:
    return parse_config(json.dumps({"rootfs": {"type": "layers", "diff_ids": [DIFF_ID]}, **fields}).encode())


def test_what_a_config_says() -> None:
    config = parse(
        architecture="arm", os="linux", variant="v7", created="2024-05-01T12:00:00Z", history=[{"empty_layer": True}]
    )
    assert config == ImageConfig((DIFF_ID,), "arm", "linux", "v7", "2024-05-01T12:00:00Z", None)


def test_what_is_absent_or_null_is_empty() -> None:
    expected = ImageConfig((), "", "", "", None, None)
    assert parse_config(b'{"rootfs":{}}') == expected
    nulls = b'{"rootfs":{"diff_ids":null},"architecture":null,"os":null,"variant":null,"created":null,"container_config":null}'
    assert parse_config(nulls) == expected


def test_keys_match_whatever_their_case() -> None:
    raw = f'{{"RootFS":{{"Diff_IDs":["{DIFF_ID}"]}},"Architecture":"amd64","OS":"linux","Container_Config":{{}}}}'
    assert parse_config(raw.encode()) == ImageConfig((DIFF_ID,), "amd64", "linux", "", None, b"{}")
    assert parse_config(b'{"rootfs":{},"o\xc5\xbf":"linux"}').os == "linux"  # the long s, to Go the same letter


def test_container_config_is_kept_as_it_stands() -> None:
    raw = b'{"rootfs":{}, "container_config" : {"Cmd":["/bin/sh", "-c"],  "Env":null,"Zu":"\\u0041"} , "os":"linux"}'
    assert parse_config(raw).container_config == b'{"Cmd":["/bin/sh", "-c"],  "Env":null,"Zu":"\\u0041"}'


def test_what_is_no_unicode_is_read_as_a_replacement() -> None:
    raw = b'{"rootfs":{},"comment":"caf\xe9 \\ud800","container_config":{"Cmd":["\\ud800"]},"variant":"\xe9\\ud800x"}'
    assert parse_config(raw) == ImageConfig((), "", "", "\ufffd\ufffdx", None, b'{"Cmd":["\\ud800"]}')


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b"{}",
        b'{"rootfs":null}',
        b'{"rootfs":[]}',
        b'{"rootfs":{}} x',
        b'{"rootfs":{"diff_ids":"x"}}',
        b'{"rootfs":{"diff_ids":[1]}}',
        b'{"rootfs":{"diff_ids":[null]}}',
        b'{"rootfs":{"diff_ids":["sha256:12"]}}',
        b'{"rootfs":{"diff_ids":["../../x"]}}',
        b'{"rootfs":{},"os":1}',
        b'{"rootfs":{},"architecture":{}}',
        b'{"rootfs":{},"container_config":"x"}',
        b'{"rootfs":{},"container_config":[]}',
        b'{"rootfs":{},"os":"linux","OS":"windows"}',
        b'{"rootfs":{},"config":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"{" * 100_000,
        b'{"rootfs":{},"comment":"' + b"x" * SIZE_LIMIT + b'"}',
    ],
    ids=lambda raw: raw[:40].decode("latin-1"),
)
def test_what_is_no_config_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_config(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.just(DIFF_ID),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["diff_ids", "type", "x"]), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["rootfs", "RootFS", "os", "OS", "architecture", "variant", "created", "container_config", "x", ""])


@given(st.binary() | st.dictionaries(keys, json_values).map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_config_or_a_value_error(raw: bytes) -> None:
    try:
        config = parse_config(raw)
    except ValueError:
        return
    assert isinstance(config, ImageConfig)
    assert config.container_config is None or isinstance(json.loads(config.container_config), dict)


@given(st.dictionaries(keys, json_values), st.integers(min_value=0), st.binary(max_size=3))
def test_a_damaged_config_is_a_config_or_a_value_error(fields: dict[str, Any], at: int, damage: bytes) -> None:
    raw = json.dumps({"rootfs": {"diff_ids": [DIFF_ID]}, **fields}).encode()
    at %= len(raw)
    try:
        parse_config(raw[:at] + damage + raw[at + 1 :])
    except ValueError:
        return
