"""Digests, diff IDs and chain IDs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship.formats import digest

if TYPE_CHECKING:
    from collections.abc import Callable

ZEROS = "sha256:" + "0" * 64


@given(st.binary())
def test_digest_of(data: bytes) -> None:
    made = digest.of(data)
    assert made == "sha256:" + hashlib.sha256(data).hexdigest()
    assert digest.parse(made) == digest.from_hex(digest.hex_part(made)) == made


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0" * 64,
        ZEROS[:-1],
        ZEROS + "0",
        ZEROS + "\n",
        "\n" + ZEROS,
        ZEROS[:-1] + "A",
        ZEROS[:-1] + "g",
        ZEROS[:-1] + "٠",
        "SHA256:" + "0" * 64,
        "sha512:" + "0" * 128,
        "sha256:sha256:" + "0" * 64,
        "sha256:../" + "0" * 61,
    ],
)
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(ValueError, match="not a sha256 digest"):
        digest.parse(text)


@given(st.text())
def test_hexadecimal_part_is_checked(text: str) -> None:
    with pytest.raises(ValueError, match="not a sha256 digest"):
        digest.from_hex(text)


def test_empty_layer() -> None:
    assert digest.of(bytes(1024)) == digest.EMPTY_LAYER


def test_chains() -> None:
    one, two, three = (digest.of(bytes([number])) for number in range(3))
    both = digest.of(f"{one} {two}".encode())
    assert list(digest.chains([one, two, three])) == [one, both, digest.of(f"{both} {three}".encode())]
    assert list(digest.chains([])) == []


@pytest.mark.parametrize("store", ["overlay2", "vfs"])
def test_chains_of_a_real_store(store: str, facts: Callable[[str], dict[str, Any]]) -> None:
    layers = facts(store)["layers"]
    assert layers
    for chain_id, layer in layers.items():
        parent = layer["parent"]
        assert digest.chain(digest.parse(parent) if parent else None, digest.parse(layer["diff"])) == chain_id
