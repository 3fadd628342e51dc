"""A stream made into a blob: digests and sizes of both sides, whatever the pieces."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transship.formats.compression import Codec, Recipe, decompressed
from transship.stores.blob import Compressed, compress


def compressed(pieces: list[bytes], codec: Codec, threads: int = 1) -> tuple[Compressed, bytes]:
    recipe = Recipe.make(codec)
    written = bytearray()
    made = compress(map(memoryview, pieces), recipe.compressor(threads), written.extend)
    assert b"".join(decompressed([bytes(written)], recipe.media_type)) == b"".join(pieces)
    return made, bytes(written)


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("pieces", [[], [b""], [b"a"], [b"a" * 3_000_000], [bytes([n % 256]) * 70_000 for n in range(100)]])
def test_digests_and_sizes_are_those_of_the_bytes(codec: Codec, pieces: list[bytes]) -> None:
    made, written = compressed(pieces, codec)
    plain = b"".join(pieces)
    assert made.diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"
    assert made.digest == f"sha256:{hashlib.sha256(written).hexdigest()}"
    assert (made.uncompressed_size, made.size) == (len(plain), len(written))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=5000), max_size=8), st.sampled_from(Codec), st.integers(1, 3))
def test_neither_pieces_nor_threads_change_the_blob(pieces: list[bytes], codec: Codec, threads: int) -> None:
    assert compressed(pieces, codec, threads) == compressed([b"".join(pieces)], codec)


def test_an_error_of_the_writer_passes_through() -> None:
    def full(_: bytes) -> None:
        raise OSError(28, "no room")

    with pytest.raises(OSError, match="no room"):
        compress([memoryview(b"x")], Recipe.make(Codec.NONE).compressor(), full)
