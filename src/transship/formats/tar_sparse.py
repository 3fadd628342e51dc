"""Where in a sparse file of a tar archive anything is: the rest of it are holes, which read as zeros.

Source: the GNU tar manual, "Storing Sparse Files". The old GNU format keeps the map in the member's header and blocks after it,
the pax formats 0.0 and 0.1 in records, 1.0 before the content. Places are pairs of offset and length in bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Places = tuple[tuple[int, int], ...]

MAX_PLACES = 100_000
"""So many are accepted in one file."""

_ENTRY = 24
_IN_HEADER, _IN_BLOCK = slice(386, 482), slice(0, 504)


def old_map(header: bytes, more: Iterable[bytes], number: Callable[[bytes], int]) -> Places:
    """Return the places of a file in the old GNU format, from its header and the blocks after it.

    ``number`` reads a field of a header. Raises ValueError.
    """
    found: list[int] = []
    for entries in (header[_IN_HEADER], *(block[_IN_BLOCK] for block in more)):
        for start in range(0, len(entries), _ENTRY):
            entry = entries[start : start + _ENTRY]
            if entry.strip(b"\0"):
                found += (number(entry[:12]), number(entry[12:]))
    return _paired(found)


def pax_map(records: Sequence[tuple[bytes, bytes]]) -> Places:
    """Return the places of a file in the formats 0.0 and 0.1, from its pax records in their order. Raises ValueError."""
    if text := dict(records).get(b"GNU.sparse.map"):
        return _paired([_decimal(number) for number in text.split(b",")])
    return _paired([_decimal(value) for key, value in records if key in {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}])


def leading_map(read_block: Callable[[], bytes]) -> Places:
    """Return the places of a file in format 1.0, from the blocks before its content. Raises ValueError."""
    text = bytearray(read_block())
    count = _decimal(bytes(text.partition(b"\n")[0]))
    if count > MAX_PLACES:
        raise ValueError(f"a sparse file in {count} pieces, of which {MAX_PLACES} are accepted")
    lines = text.count(b"\n")
    while lines < 1 + 2 * count:
        block = read_block()
        lines += block.count(b"\n")
        text += block
    return _paired([_decimal(bytes(line)) for line in text.split(b"\n")[1 : 1 + 2 * count]])


def ensure_fit(places: Places, stored: int, size: int) -> None:
    """Return if ``places`` are in order, all in a file of ``size`` bytes, and ``stored`` bytes together. Raises ValueError."""
    end = 0
    for offset, length in places:
        if offset < end:
            raise ValueError("a sparse file whose pieces are not in order")
        end = offset + length
    if end > size or sum(length for _, length in places) != stored:
        raise ValueError("a sparse file whose pieces do not make it")


def _paired(numbers: list[int]) -> Places:
    if len(numbers) % 2 or len(numbers) > 2 * MAX_PLACES:
        raise ValueError("a sparse file with a malformed map")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 19:
        raise ValueError(f"a sparse file with {digits[:40]!r} in the place of a number")
    return int(digits)
