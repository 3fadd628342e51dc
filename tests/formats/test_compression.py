"""Layer blobs: the same bytes however they are made, and the same content back."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import random
import zlib
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from transship.errors import UsageError
from transship.formats.compression import Codec, Recipe, decompressed

if TYPE_CHECKING:
    from collections.abc import Iterable

MIB = 1 << 20
LEVELS = [(Codec.ZSTD, level) for level in range(1, 20)] + [(Codec.GZIP, level) for level in range(4)] + [(Codec.NONE, 0)]


def compress(recipe: Recipe, chunks: Iterable[bytes | memoryview], threads: int = 1) -> bytes:
    compressor = recipe.compressor(threads)
    return b"".join([*(compressor.compress(chunk) for chunk in chunks), compressor.flush()])


def decompress(recipe: Recipe, data: bytes) -> bytes:
    """With decoders other than the ones that are used."""
    match recipe.codec:
        case Codec.ZSTD:
            return zstandard.ZstdDecompressor(max_window_size=8 * MIB).stream_reader(io.BytesIO(data)).read()
        case Codec.GZIP:
            return gzip.decompress(data)
        case Codec.NONE:
            return data


def cut(data: bytes, sizes: Iterable[int]) -> Iterable[memoryview]:
    """Cut ``data`` at sizes taken in turn, the rest in one."""
    view = memoryview(data)
    for size in sizes:
        yield view[:size]
        view = view[size:]
    yield view


@functools.cache
def much() -> bytes:
    """Some 20 MiB, as a layer has them: text, noise, zeros, and a lot that occurred long before."""
    source = random.Random(1)
    words = [source.randbytes(source.randint(3, 12)).hex().encode() for _ in range(3000)]
    text = b" ".join(source.choices(words, k=300_000))
    noise = source.randbytes(3 * MIB)
    return (text + noise + bytes(2 * MIB) + text[::-1] + noise + text)[: 20 * MIB + 12345]


@pytest.mark.parametrize(("codec", "level"), LEVELS)
@pytest.mark.parametrize(
    "data", [b"", b"x", bytes(1024), b"transship " * 20_000], ids=["nothing", "byte", "empty layer", "text"]
)
def test_same_content_back(codec: Codec, level: int, data: bytes) -> None:
    recipe = Recipe.make(codec, level)
    assert decompress(recipe, compress(recipe, [data])) == data


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(Codec.ZSTD, 1), (Codec.ZSTD, 3), (Codec.ZSTD, 9), (Codec.GZIP, 0), (Codec.GZIP, 1), (Codec.GZIP, 3)]),
    st.binary(min_size=1, max_size=2000),
    st.integers(1, 300),
    st.lists(st.integers(1, 70_000), max_size=20),
    st.integers(1, 4),
)
def test_chunks_and_threads_do_not_show(
    kind: tuple[Codec, int], seed: bytes, times: int, sizes: list[int], threads: int
) -> None:
    recipe = Recipe.make(*kind)
    data = seed * times + random.Random(seed).randbytes(times * 100) + seed * times
    assert compress(recipe, cut(data, sizes), threads) == compress(recipe, [data])


@pytest.mark.parametrize(("codec", "level"), [(Codec.ZSTD, 1), (Codec.ZSTD, 3), (Codec.GZIP, 1), (Codec.GZIP, 3)])
def test_chunks_and_threads_do_not_show_in_much_data(codec: Codec, level: int) -> None:
    """Enough for several of zstd's jobs."""
    recipe = Recipe.make(codec, level)
    data = much()
    expected = compress(recipe, [data])
    assert decompress(recipe, expected) == data
    source = random.Random(2)
    for threads, size in ((1, MIB), (2, MIB), (3, 100_003), (4, 16_384), (2, 7 * MIB)):
        assert compress(recipe, cut(data, [size] * (len(data) // size)), threads) == expected
    for threads in (1, 4):
        assert compress(recipe, cut(data, [source.randint(1, 300_000) for _ in range(130)]), threads) == expected


@pytest.mark.parametrize(("codec", "level"), [(Codec.ZSTD, 3), (Codec.GZIP, 1), (Codec.NONE, 0)])
def test_empty_chunks_do_not_show(codec: Codec, level: int) -> None:
    recipe = Recipe.make(codec, level)
    for data in (b"", b"x" * 1000):
        expected = compress(recipe, [data])
        for chunks in ([b"", data], [data, b""], [b"", b"", data, b"", b""], [data] if data else []):
            for threads in (1, 2):
                assert compress(recipe, chunks, threads) == expected


@pytest.mark.parametrize(("codec", "level"), LEVELS)
def test_every_level_is_deterministic(codec: Codec, level: int) -> None:
    recipe = Recipe.make(codec, level)
    data = much()[4 * MIB : 5 * MIB]
    assert compress(recipe, cut(data, [1000] * 100), 2) == compress(recipe, [data])


def test_buffer_of_the_caller_may_be_used_again() -> None:
    """A chunk is good until the next is asked for: nothing may keep it."""
    for codec in Codec:
        recipe = Recipe.make(codec)
        compressor = recipe.compressor(2)
        buffer = bytearray(MIB)
        packed, content = [], hashlib.sha256()
        for number in range(12):
            buffer[:] = random.Random(number).randbytes(MIB)
            content.update(buffer)
            packed.append(compressor.compress(memoryview(buffer)))
            buffer[:] = bytes(MIB)
        packed.append(compressor.flush())
        assert hashlib.sha256(decompress(recipe, b"".join(packed))).digest() == content.digest()


def test_zstd_has_a_checksum_and_a_window_that_all_support() -> None:
    for level in range(1, 20):
        parameters = zstandard.get_frame_parameters(compress(Recipe.make(Codec.ZSTD, level), [bytes(1000)]))
        assert parameters.has_checksum
        assert parameters.window_size <= 8 * MIB


def test_gzip_says_nothing_of_time_and_place() -> None:
    header = compress(Recipe.make(Codec.GZIP), [b"data"])[:10]
    assert header[:4] == b"\x1f\x8b\x08\x00"  # no name, no comment
    assert header[4:8] == bytes(4)


def test_gzip_is_one_member() -> None:
    data = compress(Recipe.make(Codec.GZIP), cut(much(), [MIB] * 10))
    decoder = zlib.decompressobj(wbits=31)
    assert decoder.decompress(data) == much()
    assert (decoder.eof, decoder.unused_data) == (True, b"")


@pytest.mark.parametrize(
    ("codec", "level"),
    [(Codec.ZSTD, 0), (Codec.ZSTD, 20), (Codec.ZSTD, -1), (Codec.GZIP, 4), (Codec.GZIP, -1), (Codec.NONE, 1)],
)
def test_levels_that_do_not_exist(codec: Codec, level: int) -> None:
    with pytest.raises(UsageError, match=f"compression {codec.value} has no level {level}; give one from"):
        Recipe.make(codec, level)


def test_recipes() -> None:
    assert (Recipe.make().codec, Recipe.make().level) == (Codec.ZSTD, 3)
    assert len({Recipe.make(codec, level).name for codec, level in LEVELS}) == len(LEVELS)
    assert Recipe.make().name.startswith("zstd-3 libzstd-")
    assert {codec: Recipe.make(codec).media_type for codec in Codec} == {
        Codec.ZSTD: "application/vnd.oci.image.layer.v1.tar+zstd",
        Codec.GZIP: "application/vnd.oci.image.layer.v1.tar+gzip",
        Codec.NONE: "application/vnd.oci.image.layer.v1.tar",
    }


class TestDecompressed:
    @pytest.fixture(params=list(Codec), ids=lambda codec: codec.value)
    def recipe(self, request: pytest.FixtureRequest) -> Recipe:
        return Recipe.make(request.param)

    @pytest.mark.parametrize("size", [1, 100, 70_000, MIB])
    def test_comes_back_in_pieces(self, recipe: Recipe, size: int) -> None:
        data = much()[: 9 * MIB if size > 1 else 10_000]
        packed = compress(recipe, [data])
        pieces = list(decompressed((packed[at : at + size] for at in range(0, len(packed), size)), recipe.media_type))
        assert b"".join(pieces) == data
        assert max(map(len, pieces)) <= MIB

    def test_bomb_comes_in_pieces(self, recipe: Recipe) -> None:
        packed = compress(recipe, [bytes(MIB)] * 100)
        assert max(map(len, decompressed(cut(packed, [MIB] * (len(packed) // MIB)), recipe.media_type))) <= MIB  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "media_type",
        [
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ],
    )
    def test_several_gzip_members(self, media_type: str) -> None:
        packed = gzip.compress(b"one") + gzip.compress(b"two")
        assert b"".join(decompressed([packed], media_type)) == b"onetwo"

    def test_several_zstd_frames(self) -> None:
        frame = zstandard.ZstdCompressor().compress
        skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip"
        packed = frame(b"one") + skippable + frame(b"two") + skippable
        assert b"".join(decompressed([packed], Recipe.make().media_type)) == b"onetwo"

    @given(keep=st.integers(1, 400))
    def test_truncated_gzip(self, keep: int) -> None:
        packed = compress(Recipe.make(Codec.GZIP), [random.Random(1).randbytes(300)])
        with pytest.raises(ValueError, match="not whole gzip"):
            list(decompressed([packed[: min(keep, len(packed) - 1)]], Recipe.make(Codec.GZIP).media_type))

    @given(keep=st.integers(0, 400))
    def test_truncated_zstd_gives_what_there_is(self, keep: int) -> None:
        content = random.Random(1).randbytes(300)
        packed = compress(Recipe.make(Codec.ZSTD), [content])
        assert content.startswith(b"".join(decompressed([packed[:keep]], Recipe.make().media_type)))

    @pytest.mark.parametrize("codec", [Codec.ZSTD, Codec.GZIP])
    @given(position=st.integers(20, 10_000), bit=st.integers(0, 7))
    def test_flipped_bit_in_the_content(self, codec: Codec, position: int, bit: int) -> None:
        packed = bytearray(compress(Recipe.make(codec), [random.Random(1).randbytes(300)]))
        packed[20 + position % (len(packed) - 40)] ^= 1 << bit
        with pytest.raises(ValueError, match="not whole"):
            list(decompressed([bytes(packed)], Recipe.make(codec).media_type))

    @pytest.mark.parametrize("codec", [Codec.ZSTD, Codec.GZIP])
    @given(garbage=st.binary(min_size=1))
    def test_garbage(self, codec: Codec, garbage: bytes) -> None:
        try:
            content = b"".join(decompressed([garbage], Recipe.make(codec).media_type))
        except ValueError:
            content = b""
        assert content == b""

    @pytest.mark.parametrize("media_type", ["", "application/json", "application/vnd.oci.image.layer.v1.tar+zip"])
    def test_unknown_media_type(self, media_type: str) -> None:
        with pytest.raises(ValueError, match="unknown media type"):
            list(decompressed([b""], media_type))
