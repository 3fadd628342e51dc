from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship.formats import references
from transship.formats.references import Reference

SHA256 = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "0123456789abcdef" * 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("debian", "docker.io/library/debian"),
        ("debian:bookworm", "docker.io/library/debian:bookworm"),
        ("library/debian:1", "docker.io/library/debian:1"),
        ("foo/bar:1", "docker.io/foo/bar:1"),
        ("foo/bar/baz:1", "docker.io/foo/bar/baz:1"),
        ("docker.io/debian", "docker.io/library/debian"),
        ("docker.io/foo/bar", "docker.io/foo/bar"),
        ("index.docker.io/debian:1", "docker.io/library/debian:1"),
        ("index.docker.io/foo/bar", "docker.io/foo/bar"),
        ("localhost/x:1", "localhost/x:1"),
        ("localhost:5000/x", "localhost:5000/x"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("host:5000/x:2", "host:5000/x:2"),
        ("127.0.0.1:5055/team/app:2", "127.0.0.1:5055/team/app:2"),
        ("[::1]:5000/x:1", "[::1]:5000/x:1"),
        ("reg.example.com/x_y/z__w/a---b", "reg.example.com/x_y/z__w/a---b"),
        ("HOST/x", "HOST/x"),
        (f"host:5000/x@{SHA256}", f"host:5000/x@{SHA256}"),
        (f"debian@{SHA512}", f"docker.io/library/debian@{SHA512}"),
        (f"debian:bookworm@{SHA256}", f"docker.io/library/debian:bookworm@{SHA256}"),
        ("x:" + "a" * 128, "docker.io/library/x:" + "a" * 128),
        ("x:_1.-", "docker.io/library/x:_1.-"),
    ],
)
def test_canonical_form(text: str, expected: str) -> None:
    assert references.canonical(text) == expected
    assert references.canonical(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":tag",
        "@" + SHA256,
        "/x",
        "x/",
        "x//y",
        "foo/../bar",
        "../x:1",
        "Debian:1",
        "foo/Bar",
        "a:5000/Bar",
        "x:",
        "x:-1",
        "x:" + "a" * 129,
        "x: 1",
        "x:1\n",
        "x\x00y",
        "x:é",
        "x___y",
        "x..y",
        "-x",
        "x@sha256:123",
        "x@" + SHA256.upper(),
        "x@" + SHA256.replace("a", "A"),
        "x@md5:" + "0" * 32,
        f"x@{SHA256}@{SHA256}",
        f"x@{SHA256}:1",
        "0123456789abcdef" * 4,
        "a" * 256,
        "host:port/x",
        "https://host/x",
        "x" * 5000,
    ],
)
def test_malformed_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="image"):
        references.parse(text)


def test_a_name_taken_apart() -> None:
    reference = references.parse(f"debian:bookworm@{SHA256}")
    assert reference == Reference("docker.io", "library/debian", "bookworm", SHA256)
    assert reference.repository == "docker.io/library/debian"
    assert references.parse("host/x").tag is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("docker.io/library/debian:1", "debian:1"),
        ("docker.io/foo/bar", "foo/bar"),
        ("docker.io/library/foo/bar:1", "library/foo/bar:1"),
        ("localhost:5000/library/x", "localhost:5000/library/x"),
        (f"index.docker.io/debian@{SHA256}", f"debian@{SHA256}"),
    ],
)
def test_familiar_form(text: str, expected: str) -> None:
    assert references.familiar(text) == expected


@pytest.mark.parametrize(
    ("wanted", "name", "expected"),
    [
        ("debian", "docker.io/library/debian:latest", True),
        ("debian", "docker.io/library/debian:bookworm", False),
        ("debian:bookworm", "docker.io/library/debian:bookworm", True),
        ("docker.io/library/debian:bookworm", "docker.io/library/debian:bookworm", True),
        ("debian", f"docker.io/library/debian@{SHA256}", False),
        (f"debian@{SHA256}", f"docker.io/library/debian@{SHA256}", True),
        (f"debian:any@{SHA256}", f"docker.io/library/debian@{SHA256}", True),
        (f"debian:latest@{SHA256}", "docker.io/library/debian:latest", False),
        ("host/debian", "docker.io/library/debian:latest", False),
    ],
)
def test_what_a_person_types_finds_what_docker_would_find(wanted: str, name: str, expected: bool) -> None:
    assert references.matches(wanted, name) is expected


path_parts = st.from_regex(r"[a-z0-9]{1,8}(?:(?:_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True).filter(
    lambda part: part != "localhost"
)
domains = st.sampled_from(
    ["docker.io", "localhost", "localhost:5000", "reg.example.com", "10.0.0.1:80", "[fe80::1]:443", "UPPER"]
)
tags = st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)
digests = st.none() | st.sampled_from([SHA256, SHA512])


@given(domains, st.lists(path_parts, min_size=1, max_size=4), tags, digests)
def test_forms_lead_to_each_other(domain: str, parts: list[str], tag: str | None, digest: str | None) -> None:
    path = "/".join(parts if domain != "docker.io" or len(parts) > 1 else ["library", *parts])
    reference = Reference(domain, path, tag, digest)
    assert references.parse(str(reference)) == reference
    assert references.parse(reference.familiar) == reference
    assert references.familiar(reference.familiar) == reference.familiar


@given(st.text() | st.text(alphabet="ab.:/@-_0sha256A", max_size=100))
def test_any_text_is_a_name_or_a_value_error(text: str) -> None:
    try:
        canonical = references.canonical(text)
    except ValueError:
        return
    assert references.canonical(canonical) == canonical
