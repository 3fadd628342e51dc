"""What a run shows while it goes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import HUB, Sample, environment
from transship.cli import display
from transship.cli.display import trouble
from transship.engine.events import RunStarted, StepBlocked, StepDone, StepFailed, StepUndone
from transship.engine.progress import Amount, RunningStep, Snapshot
from transship.engine.records import ErrorInfo
from transship.text import line

if TYPE_CHECKING:
    from pathlib import Path

ESCAPE = "\x1b[31m"


@pytest.fixture
def long(tmp_path: Path) -> Sample:
    sample = Sample(tmp_path)
    sample.builder.add_image(sample.builder.add_large_layer(400 << 20), "[::1]:5000/large:1")
    return sample


def on_a_terminal(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, and what was seen on the terminal that is standard error."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def watch() -> None:
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # nobody has it open any more
                return
            if not data:
                return
            shown.extend(data)

    with subprocess.Popen(
        [sys.executable, "-m", "transship", *arguments],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env=environment() | {"TERM": "xterm", "COLUMNS": "200"},
    ) as process:
        os.close(theirs)
        watcher = threading.Thread(target=watch)
        watcher.start()
        out, _ = process.communicate(timeout=60)
        watcher.join(timeout=10)
    os.close(ours)
    return process.returncode, out, shown.decode()


def test_bars_on_a_terminal(long: Sample) -> None:
    (long.builder.files(long.top) / "app").unlink()
    code, out, shown = on_a_terminal("migrate", *long.ends)
    assert code == 1, shown
    assert "layers" in shown
    assert "steps" in shown
    assert "%" in shown
    assert "419 MB" in shown or "420 MB" in shown
    assert "FAILED layer " in shown
    assert "app is missing" in shown.replace("\r\n", "")
    assert "what to do: " in out
    assert f"left out: name {HUB}/high:1" in shown
    assert "Traceback" not in shown
    assert "\x1b" not in out
    assert "is INCOMPLETE" in out


def test_bars_of_verification_and_rollback(long: Sample) -> None:
    assert long.migrate().code == 0
    code, out, shown = on_a_terminal("verify", *long.ends)
    assert (code, "no differences" in out) == (0, True), shown
    code, out, shown = on_a_terminal("rollback", "--state-dir", str(long.state))
    assert (code, "0 kept, 0 failed" in out) == (0, True), shown


def test_lines_elsewhere(long: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_PLAIN_INTERVAL", 0.02)
    (long.builder.files(long.top) / "app").unlink()
    ended = long.run("migrate")
    assert ended.code == 1
    lines = ended.err.splitlines()
    assert any(" steps, " in each and "/s" in each for each in lines)
    assert any(each.startswith("FAILED layer ") for each in lines)
    assert "\x1b" not in ended.all


def test_json_has_every_event_and_nothing_else(sample: Sample) -> None:
    ended = sample.migrate()
    assert ended.err == ""
    kinds = [document["type"] for document in ended.documents]
    assert kinds[0] == "run_started"
    assert kinds[-2:] == ["run_ended", "report"]
    assert kinds.count("step_started") == kinds.count("step_done") == 12
    assert {document["run"] for document in ended.documents} == {ended.report["run"]}


def test_a_line_of_progress() -> None:
    running = (RunningStep("blob:x", "layer x", 500, 250, 1.0),)
    now = Snapshot(Amount(10, 2000), Amount(2, 500), Amount(1, 250), Amount(1, 250), 1e6, 10.0, 0.1, 65.0, running)
    assert line(now) == "4 of 10 steps, 1 kB of 2 kB, 1 MB/s, about 1 min 05 s left"
    assert "left" not in line(Snapshot(Amount(), Amount(), Amount(), Amount(), 0.0, 0.0, 0.0, None, ()))


def test_only_trouble_is_told_at_once_and_harmlessly() -> None:
    error = ErrorInfo("SourceCorrupt", f"bad {ESCAPE}", f"do {ESCAPE}")
    told = trouble(StepFailed("run", 0.0, "key", f"title {ESCAPE}", error))
    assert "\x1b" not in told
    assert told.count("\\x1b") == 2
    blocked = trouble(StepBlocked("run", 0.0, "key", f"title {ESCAPE}", ("need",), f"cause {ESCAPE}"))
    assert "\x1b" not in blocked
    kept = trouble(StepUndone("run", 0.0, f"key {ESCAPE}", removed=False))
    assert "kept: " in kept
    assert "\x1b" not in kept
    assert trouble(StepUndone("run", 0.0, "key", removed=True)) == ""
    assert trouble(StepDone("run", 0.0, "key", "title", created=True, skipped=False, bytes=0, seconds=0.0)) == ""
    assert trouble(RunStarted("run", 0.0, "containerd", 1, 0, 0, 0)) == ""
