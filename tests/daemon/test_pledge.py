from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from transship.api.models import Order
from transship.daemon import pledge
from transship.errors import JournalError
from transship.formats.compression import Codec

if TYPE_CHECKING:
    from pathlib import Path

ORDER = Order(source="/var/lib/docker", target="oci:/x", compression=Codec.GZIP, level=2, images=("a:1", "b"))


@pytest.mark.parametrize(
    "task",
    [
        pledge.Migration(ORDER),
        pledge.Migration(Order()),
        pledge.Migration(Order(source="/not-utf8-\udcff")),
        pledge.Return("20240501-120000-abcd"),
    ],
)
def test_what_is_pledged_is_remembered_until_it_is_redeemed(tmp_path: Path, task: pledge.Task) -> None:
    state_dir = tmp_path / "state"
    assert pledge.given(state_dir) is None
    pledge.give(state_dir, pledge.Return("earlier"))
    pledge.give(state_dir, task)
    assert pledge.given(state_dir) == task
    assert stat.S_IMODE((state_dir / pledge.FILE_NAME).stat().st_mode) == 0o600
    pledge.redeem(state_dir)
    assert pledge.given(state_dir) is None
    pledge.redeem(state_dir)
    assert not list(state_dir.iterdir())


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b'{"task":{"type":"other"}}', b'{"task":{"type":"rollback","run":3}}', b"\xff"]
)
def test_a_damaged_pledge_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / pledge.FILE_NAME
    path.write_bytes(content)
    with pytest.raises(JournalError, match=str(path)) as caught:
        pledge.given(tmp_path)
    assert caught.value.remedy


def test_a_pledge_that_cannot_be_given_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"a file where the directory should be")
    with pytest.raises(JournalError, match="state"):
        pledge.give(tmp_path / "state", pledge.Return("x"))
