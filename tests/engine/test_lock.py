from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from transship.engine.lock import FILE_NAME, StateLock
from transship.errors import ExitCode, JournalError, StateLocked

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

_HOLDER = """
import sys
from pathlib import Path
from transship.engine.lock import StateLock

with StateLock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_and_told_who_holds_it(
    state_dir: Path, child: Callable[..., subprocess.Popen[str]]
) -> None:
    holder = child(_HOLDER, state_dir)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(StateLocked, match=f"process {holder.pid}, .*{state_dir}") as caught:
        StateLock(state_dir).acquire()
    assert caught.value.exit_code is ExitCode.LOCKED
    assert json.loads((state_dir / FILE_NAME).read_bytes())["pid"] == holder.pid
    holder.communicate()
    with StateLock(state_dir):
        pass


def test_kill_9_lets_go(state_dir: Path, child: Callable[..., subprocess.Popen[str]]) -> None:
    holder = child(_HOLDER, state_dir)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    holder.kill()
    holder.wait()
    with StateLock(state_dir), pytest.raises(StateLocked):
        StateLock(state_dir).acquire()


def test_it_can_be_taken_again(state_dir: Path) -> None:
    lock = StateLock(state_dir)
    for _ in range(2):
        with lock:
            pass
    lock.release()


def test_a_holder_without_a_name_is_another_process(state_dir: Path) -> None:
    with StateLock(state_dir):
        (state_dir / FILE_NAME).write_bytes(b"{")
        with pytest.raises(StateLocked, match="another process"):
            StateLock(state_dir).acquire()


def test_a_lock_file_that_is_a_link_is_not_followed(state_dir: Path, tmp_path: Path) -> None:
    state_dir.mkdir()
    (tmp_path / "precious").write_text("data")
    (state_dir / FILE_NAME).symlink_to(tmp_path / "precious")
    with pytest.raises(JournalError, match=str(state_dir / FILE_NAME)):
        StateLock(state_dir).acquire()
    assert (tmp_path / "precious").read_text() == "data"
