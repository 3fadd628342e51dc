"""Image IDs given here are those that Docker 1.10.3 computed for these very configs, strong IDs those of Docker 1.9.1."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship.formats import digest, go_json, v1_image
from transship.formats.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable

PARENT = "eaca70a93319b71f653d63d0bfca86516aaef38364ff90872c2d972cf6618a31"
PARENT_HISTORY = b'{"created":"2026-11-20T17:30:32.250033548Z","comment":"Imported from -"}'
DIFF_IDS = [Digest("sha256:2a9af21a1d1b00635374fe8adfb5e38dc856c47ada5d3807b4255bc69ed25c1b"), digest.EMPTY_LAYER]
IMAGE_ID = digest.of(b"image")

NOTHING: dict[str, Any] = json.loads(
    """{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,"Tty":false,
    "OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":null,"Image":"","Volumes":null,"WorkingDir":"","Entrypoint":null,
    "OnBuild":null,"Labels":null}"""
)
CONTAINER_CONFIG = NOTHING | {
    "Hostname": "679308cf5500",
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "T=2"],
    "Cmd": ["/bin/sh", "-c", "#(nop) ENV T=2"],
    "Image": PARENT,
    "OnBuild": [],
    "Labels": {},
}
IMAGE = {
    "id": "0" * 64,
    "parent": PARENT,
    "created": "2026-11-20T17:30:33.228461768Z",
    "container": "679308cf5500e85861510c285a06be1b6b89fa72a14d41701bfef15875bb15f7",
    "container_config": CONTAINER_CONFIG,
    "docker_version": "1.9.1",
    "config": CONTAINER_CONFIG | {"Cmd": None},
    "architecture": "amd64",
    "os": "linux",
}
ABSENT = object()

WEIRD = r"""{ "zkey" : [1, 2.50, 1e5, -0, {"b":1, "a" : "<&>"}] ,
 "created" : "2015-10-12T03:04:05.120000000+02:00", "id":"00","parent" :"00",
 VERSION "os":"linux", "architecture":"amd64", "os":"linux2",
 "container_config":{"Cmd":["a<b>&c","tab\tnl\ncr\rbs\b ff\f ctl\u0001 del\u007f",
                            "slash\/ \u00e9 é \ud83d\ude00 \u2028 \ud800x"],"Image":"sha256:x"},
 "config":{ "Env":["A=<&>\u003c","B=U+2028U+2029é\/"], "Zed":null, "Cmd":null , "Entrypoint":"/bin/ep string" },
 "author":"A <a&b>U+2028 \u00fc","comment":"c\/d","Size":123,"size":5,"throwaway":true,"layer_id":"sha256:abc",
 "parent_id":"sha256:00","container":"c1","Id":"x","empty":"","nul":null,"x-y":true,"Xy":1,"xy":2,"_":3,"é":4 }
""".replace("U+2028", "\u2028").replace("U+2029", "\u2029")


def encoded(document: dict[str, Any]) -> bytes:
    return json.dumps({key: value for key, value in document.items() if value is not ABSENT}, separators=(",", ":")).encode()


def image_id(raw: bytes) -> str:
    return digest.of(v1_image.image_config(raw, DIFF_IDS, [PARENT_HISTORY, v1_image.history_entry(raw)]))


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ('"docker_version":"1.9.1",', "sha256:a3606c628233c716b4b2e764eb51aa26f12eec2acd08928dc8716c47c15def50"),
        ('"docker_version":"1.8.2",', "sha256:de6c26e07622b22e08eacbd3d5f14ec69b1e324a5a31b54961d30fba9bffd2f2"),
        ("", "sha256:996c6f0b32b3f566a4728b93fb140acbbcac5c4958ea4676a8873c19ee82c468"),
    ],
)
def test_escapes_numbers_duplicates_cases_and_unknown_keys(version: str, expected: str) -> None:
    assert image_id(WEIRD.replace("VERSION", version).encode()) == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("", "59f7345dc5fdce4a930e7dae7a548e663b0d3b0fe172b9e4554138b5dcde3ba2"),
        ("1.8.2", "dfbd6a3044df78082a1fa22184977b078f6e7d8767019d463a8153ceb266de6f"),
        ("1.8.3", "d82f10a9b900e416a58b4bc13b786db45590fc974b4da4bd910b04fa57e14d32"),
        ("1.8.3-rc1", "95f89eb74d479251670ae01600d6a46c01dcf157df58edf2428ea7672209ea9e"),
        ("1.8.2-fc22", "f853677cbcb701feb7454386f89933d1fe7a34c4875480c65519614c373ffbde"),
        ("1.8", "c81e9c1c0cf0ea33e93af77129937e6894249c01f8a79b7dce8037530b97bed8"),
        ("1.9", "3cea5ded7e61f6f8df4e0bae4a4a2ea550a015db7bd898d2853bee5f3268ce44"),
        ("1.10.0-dev", "625677c951292e89a580c0b9942615b7c881b841e067da929d3ea657aa768e19"),
        ("1.9.1-fc23", "35d954b468f5b2e7c176dcf7d632b9d3e98aff5124b169d9c8a6f6fa029ac195"),
        ("0.11.1", "761d90d789226550ae521b9b5fcc60d50f4a876f47e709feda8f5d55a24ef1b0"),
        ("dev", "1f5c9f4d317960299a20e55a1871ffa22e5ba67d0d4db05132e084b3c2c6c9dd"),
        ("1.8.3.0", "33e72c5488346c99d03694e3e2f43bdbdaa8120d9311535e2f7fd57cb0992df5"),
        ("1.8.4", "160100e562472ffd41b8d0a930fafec593a1e45015ed52999ce79e5205fee632"),
        ("1..9", "f739c8ee2ac40121b097db875bdeb5520aa7b5fabb7b5f5384445ca364c9c006"),
        ("v1.9.1", "65e6109aa2c0da94dfe3d72a72602312ab967f8649defc731db36018759dc0ce"),
        ("01.9", "6fa16a613047f4d6db45b5405c92b1c3848b5ca7df257212ad337852f3328e1c"),
        ("2", "363b2239c33b779cf5084c3b8660af0652efc172903ed79c8e46ab77acbbc8ca"),
        (" 1.9.1", "2739c463c76cb947108ea7659b9b01afadb654f5756d8ad29add09bc0eb044d1"),
    ],
)
def test_versions(version: str, expected: str) -> None:
    config = CONTAINER_CONFIG | {"Cmd": None, "Bogus": 1}
    changed = {"docker_version": version, "config": config, "xunknown": {"b": 1, "a": [1, 2]}}
    assert image_id(encoded(IMAGE | changed)) == f"sha256:{expected}"


@pytest.mark.parametrize(
    ("version", "kept"),
    [
        ("99999999999999999999999", True),
        ("-1.9", False),
        ("1.8.3.-1", False),
        ("1.8.+3", True),
        ("1.0x9", False),
        ("1.²", False),
    ],
)
def test_odd_versions(version: str, kept: bool) -> None:
    raw = encoded(IMAGE | {"docker_version": version, "unknown": 1})
    assert (b'"unknown"' in v1_image.image_config(raw, DIFF_IDS, [])) == kept


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"created": ABSENT}, "f250fef39f65fff9cb2cb784be7b2350b33224619c65b32c4ebef4333d556752"),
        ({"created": ABSENT, "docker_version": "1.6.0"}, "73b6f398611b43caaffe43e03e0f0bafed0f89b4d7d3ca4e53f4b9a5ad483b89"),
        ({"created": "0001-01-01T00:00:00Z"}, "efef97de4474c86d78ebc861883fb57bea50d1fbd5ef64e1e7c86e78dfadd842"),
        (
            {"created": "2015-01-02T03:04:05.678900000-07:00"},
            "9e4562dd5cad9d050d550fcb9758450d587d48b7dc765552d4530dfd561de73b",
        ),
        (
            {"created": "2015-01-02T03:04:05.678900000-07:00", "docker_version": "1.6.0"},
            "fc83440fe4a67203ef07bf1ccc02dce16b9fa630a3b401b8d8f6fa410574c664",
        ),
        ({"created": "2015-01-02T03:04:05Z"}, "4f71e2f86eb3984ec32f16a3cba44509af6b03adf78ddab1846146c5a927fe1a"),
        (
            {"created": "2015-01-02T03:04:05Z", "docker_version": "1.6.0"},
            "97f5ef7a1301d749cb00b62e8218ce59e05d96cc46338668c3fc02dd9d2c8922",
        ),
    ],
)
def test_created(changed: dict[str, Any], expected: str) -> None:
    assert image_id(encoded(IMAGE | changed)) == f"sha256:{expected}"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.9.1", "43c948ff109d92008bf3d5862d07f0e41a220ad54ea6b7d975602ab8cd25a660"),
        ("1.5.0", "c096f6ff49370e657c4e959a7ac202b846c6ed01bdb6639c61fdd0a9a68fd55b"),
    ],
)
def test_a_command_that_is_a_string(version: str, expected: str) -> None:
    changed = {
        "docker_version": version,
        "container_config": CONTAINER_CONFIG | {"Cmd": "just a string"},
        "config": CONTAINER_CONFIG | {"Cmd": "cfg string"},
    }
    assert image_id(encoded(IMAGE | changed)) == f"sha256:{expected}"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"config": None}, "45da0a2e056c6ae8e8b3fc1297497dc0824029d9122c3788367ea12df7a38510"),
        ({"config": None, "docker_version": "1.5.0"}, "41e7676ed1cfdcd6a45e33904a3c07416f37cfa85c0942e30fd38363dc8e024a"),
        ({"config": ABSENT, "container_config": ABSENT}, "84b5278add3f14e3d30e86113fb17bf0be94b38a9154fa85a1c9ee16187e4ccc"),
        (
            {"config": ABSENT, "container_config": ABSENT, "docker_version": "1.5.0"},
            "975632b9a38bd77001ec7883154ad8f52fa043bdc29c146f8b4fbb24707c9b78",
        ),
    ],
)
def test_a_config_that_is_null_or_absent(changed: dict[str, Any], expected: str) -> None:
    assert image_id(encoded(IMAGE | changed)) == f"sha256:{expected}"


def test_fields_of_docker_1_10_are_kept_and_those_of_the_first_versions_dropped() -> None:
    old = {"ArgsEscaped": True, "StopSignal": "9", "Memory": 1, "PortSpecs": ["80"], "Dns": None, "VolumesFrom": ""}
    raw = encoded({"container_config": {"ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Cmd": [], **old}, "config": old})
    written = json.loads(v1_image.image_config(raw, DIFF_IDS, []))
    assert written["config"] == NOTHING | {"ArgsEscaped": True, "StopSignal": "9"}
    assert list(written["container_config"]) == [
        *("Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr", "ExposedPorts", "Tty", "OpenStdin"),
        *("StdinOnce", "Env", "Cmd", "ArgsEscaped", "Image", "Volumes", "WorkingDir", "Entrypoint", "OnBuild", "Labels"),
        "StopSignal",
    ]
    assert list(written["container_config"]["ExposedPorts"]) == ["53/udp", "80/tcp"]
    assert written["container_config"]["Cmd"] == []


def test_what_a_config_brings_as_rootfs_and_history_is_replaced() -> None:
    changed = {
        "rootfs": {"type": "x"},
        "history": [1],
        "parent_id": "sha256:00",
        "layer_id": "sha256:00",
        "throwaway": True,
        "Size": 9,
    }
    assert image_id(encoded(IMAGE | changed)) == image_id(encoded(IMAGE))


def test_history_is_passed_on() -> None:
    raw = encoded(IMAGE)
    first = v1_image.image_config(raw, DIFF_IDS[:1], [v1_image.history_entry(raw)])
    assert v1_image.history_of(first) == [v1_image.history_entry(raw)]
    odd = b'{"history":[{"comment":"a<","Created":"2015-01-02T03:04:05.10Z", "x":1 ,"empty_layer":true}, {}]}'
    assert v1_image.history_of(odd) == [
        b'{"created":"2015-01-02T03:04:05.1Z","comment":"a\\u003c","empty_layer":true}',
        b'{"created":"0001-01-01T00:00:00Z"}',
    ]
    assert v1_image.history_of(b"{}") == v1_image.history_of(b'{"history":null}') == []


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"null", b" null\n", b"[]", b'"x"', b"{", b'{"id":"x"} trailing', b'{"id":"x"}{}', b'{"docker_version":1}'),
        *(
            b'{"created":"not a time"}',
            b'{"config":[]}',
            b'{"container_config":"x"}',
            b'{"Size":"1"}',
            b'{"size":1.5}',
            b'{"os":[]}',
        ),
        b'{"config":' + b"[" * 1_000_000 + b"}",
        b" " * go_json.MAX_SIZE + b"{}",
    ],
    ids=lambda raw: raw[:40].decode(),
)
def test_what_is_no_image_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        made_image(raw)


def test_a_config_that_gets_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="over the limit"):
        v1_image.image_config(b"{}", [], [b'"%s"' % (b"x" * 1_000_000)] * 17)


@pytest.mark.parametrize(
    ("raw", "parent_file", "expected"),
    [
        (b"{}", None, None),
        (b'{"parent":""}', b"", None),
        (b'{"Parent":"aa","parent_id":"sha256:bb"}', None, "aa"),
        (b'{"parent":null,"parent_id":"sha256:bb"}', b"", "bb"),
        (b'{"parent_id":"sha256:b:b"}', None, "b:b"),
        (b'{"parent_id":"sha256:"}', None, None),
        (b'{"parent":"aa","parent_id":"sha256:bb"}', b"cc", "cc"),
        (b'{"parent":"aa"}', b"cc\n", "cc"),
        (b'{"parent":"aa"}', b" \n", "aa"),
        (b'{"parent":"aa","parent_id":"nocolon"}', None, "aa"),
    ],
)
def test_the_parent(raw: bytes, parent_file: bytes | None, expected: str | None) -> None:
    assert v1_image.parent_of(raw, parent_file) == expected


def test_a_parent_id_without_a_colon_is_refused() -> None:
    with pytest.raises(ValueError, match="without a colon: 'bb'"):
        v1_image.parent_of(b'{"parent_id":"bb"}')


@pytest.mark.parametrize("raw", [b"null", b"[]", b"", b'{"parent":1}', b'{"parent_id":{}}', b"{} x"])
def test_no_parent_without_an_image(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        v1_image.parent_of(raw, b"cc")


def test_a_container_names_its_new_image() -> None:
    raw = b'{\n "zz": {"b": 1, "a": "<&>"}, "image":1, "ID" : "c", "Image": "old", "Aa": [ 1,2 ], "n": null, "ID":"d"\n}'
    assert v1_image.container_image(raw) == "old"
    assert v1_image.container_config(raw, IMAGE_ID) == (
        b'{"Aa":[1,2],"ID":"d","Image":"%s","image":1,"n":null,"zz":{"b":1,"a":"\\u003c\\u0026\\u003e"}}' % IMAGE_ID.encode()
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{}", "no Image"),
        (b'{"image":"x"}', "no Image"),
        (b'{"Image":null}', "null"),
        (b'{"Image":["x"]}', "not a string"),
        (b'{"Image":""}', "empty"),
        (b'{"Image":"x"', "not JSON"),
        (b"null", "not a JSON object"),
    ],
)
def test_a_container_without_an_image_says_why(raw: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        v1_image.container_image(raw)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        *((f"sha{bits}:" + "a0" * (bits // 8), True) for bits in (256, 384, 512)),
        ("sha256:" + "AB" * 32, True),
        *((text, False) for text in ("", "garbage", "sha256:abcd", "tarsum.v1+sha256:" + "a" * 64, "SHA256:" + "a" * 64)),
        *(
            (text, False)
            for text in ("sha256:" + "a" * 64 + "\n", " sha256:" + "a" * 64, "sha256:" + "g" * 64, "sha1:" + "a" * 40)
        ),
    ],
)
def test_digests_of_registries(text: str, known: bool) -> None:
    assert v1_image.registry_digest(text.encode()) == (text if known else None)


BASE = {
    "id": "dea6d79f6a039f85c717b91dc818885442b691afe18e087601f1819f602c5d50",
    "comment": "remote base",
    "created": "2026-11-20T17:20:20.317044761Z",
    "container_config": NOTHING,
    "docker_version": "1.9.1",
    "config": NOTHING,
    "architecture": "amd64",
    "os": "linux",
    "Size": 7755,
}
BLOB = "sha256:e3ce6af96d4a3e3627ae0883bd12ac598f613b8fb94d3935f5d748b73f8b0e5c"


def test_v1_compatibility_is_the_image_with_its_size_today() -> None:
    assert v1_image.v1_compatibility(encoded(BASE), "?", None, 8107) == encoded(BASE | {"Size": 8107})


def test_v1_compatibility_names_the_image_and_its_parent_by_their_own_ids() -> None:
    config = NOTHING | {"ArgsEscaped": True}  # not known to Docker 1.9
    raw = encoded({"parent": "strong", "config": config, "layer_id": "l", "parent_id": "p", "unknown": 1})
    written = v1_image.v1_compatibility(raw, "aa", "bb", 0)
    expected = {"id": "aa", "parent": "bb", "created": "0001-01-01T00:00:00Z", "container_config": NOTHING, "config": NOTHING}
    assert written == encoded(expected | {"parent_id": "p", "layer_id": "l"})
    assert v1_image.compatibility_id(written) == "aa"
    assert v1_image.compatibility_id(b"{}") == ""


def test_the_strong_id_is_that_of_the_image_as_pulled() -> None:
    raw = encoded(BASE)
    assert v1_image.strong_id(raw, BLOB, None) == "sha256:e66fec6e7602b008d0de88769e6b350e5abaf4dacd15b97310fd2d65de2aa560"
    config = v1_image.strong_config(raw, BLOB, IMAGE_ID)
    assert json.loads(config) == {key: BASE[key] for key in BASE if key not in {"id", "Size"}} | {
        "layer_id": BLOB,
        "parent_id": IMAGE_ID,
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("2015-01-02T03:04:05Z"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Cmd", "env", "Labels", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
keys = st.sampled_from(
    ["id", "Parent", "parent_id", "created", "config", "container_config", "docker_version", "Size", "Image", "x", ""]
)


def made_image(raw: bytes) -> bytes:
    return v1_image.image_config(raw, DIFF_IDS, [v1_image.history_entry(raw)])


def made_container(raw: bytes) -> bytes:
    return v1_image.container_config(raw, IMAGE_ID)


@pytest.mark.parametrize("made", [made_image, made_container])
@given(fields=st.dictionaries(keys, json_values), at=st.integers(min_value=0), damage=st.binary(max_size=3))
def test_damaged_json_gives_a_config_or_a_value_error(
    made: Callable[[bytes], bytes], fields: dict[str, Any], at: int, damage: bytes
) -> None:
    raw = json.dumps(fields).encode()
    at %= len(raw)
    try:
        config = made(raw[:at] + damage + raw[at + 1 :])
    except ValueError:
        return
    written = [key for key, _ in go_json.members(config)]
    assert written == sorted(set(written))
    assert go_json.compact(config) == config


@given(st.binary(max_size=50))
def test_any_bytes_have_a_parent_or_are_a_value_error(raw: bytes) -> None:
    try:
        v1_image.parent_of(raw)
    except ValueError:
        return
    assert isinstance(json.loads(raw), dict)
