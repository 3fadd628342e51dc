"""Logs go to standard error, an entry a line: JSON where nobody sits at a terminal, from the level asked for on."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

SCRIPT = """\
import logging as standard, sys, structlog
from transship import logging
logging.configure(sys.argv[1])
log = structlog.get_logger()
log.debug("detail")
log.warning("careful", path="/x", digest="sha256:1")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("broken")
print("result")
"""

LIBRARY = """\
import logging as standard, sys
library = standard.getLogger("uvicorn.error")
library.setLevel(standard.INFO)  # as uvicorn does
from transship import logging
logging.configure("error")
logging.configure(sys.argv[1])  # a second time, as after a reload
library.debug("detail")
library.info("Started server process [%d]", 5)
standard.getLogger("asyncio").warning("slow")
try:
    1 / 0
except ZeroDivisionError:
    library.exception("broken\\nby %s", "x")
standard.getLogger("other").critical("over")
"""

ODD = """\
import structlog, sys
from pathlib import Path
from transship import logging
logging.configure("info")
log = structlog.get_logger()
log.info("two\\nlines\\r\\x1b[31m\\u2028", name="a\\nb\\x9b", path=Path("/x\\ny"), names=["a\\nb"], odd="\\udcff")
"""


def run(script: str, level: str, error_stream: int, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
    return subprocess.run(
        [sys.executable, "-c", script, level],
        stdout=subprocess.PIPE,
        stderr=error_stream,
        text=True,
        check=True,
        env=inherited | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "120"} | environment,
    )


def shown_on_a_terminal(script: str, level: str) -> str:
    ours, theirs = pty.openpty()
    try:
        assert run(script, level, theirs).returncode == 0
        return os.read(ours, 100_000).decode()
    finally:
        os.close(theirs)
        os.close(ours)


def written_to_the_journal(script: str, level: str, stream: str = "{0.st_dev}:{0.st_ino}") -> list[str]:
    """Return the lines that come out at a pipe that JOURNAL_STREAM names."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as ours:
        try:
            run(script, level, writing, JOURNAL_STREAM=stream.format(os.fstat(writing)))
        finally:
            os.close(writing)
        return ours.read().splitlines()


@pytest.mark.parametrize(("level", "events"), [("debug", 3), ("info", 2), ("warning", 2), ("error", 1)])
def test_json_from_the_level_on(level: str, events: int) -> None:
    ended = run(SCRIPT, level, subprocess.PIPE)
    assert ended.stdout == "result\n"
    entries = [json.loads(line) for line in ended.stderr.splitlines()]
    assert len(entries) == events
    assert all({"event", "level", "logger", "timestamp"} <= entry.keys() for entry in entries)
    assert entries[-1]["exception"][0]["exc_type"] == "ZeroDivisionError"


def test_text_on_a_terminal() -> None:
    shown = shown_on_a_terminal(SCRIPT, "warning")
    assert "careful" in shown
    assert not shown.startswith("{")
    [line] = [line for line in shown.splitlines() if "broken" in line]
    assert "ZeroDivisionError: division by zero" in line
    assert "<string>:8" in line
    assert len(shown.splitlines()) == 2


@pytest.mark.parametrize(("level", "events"), [("debug", 4), ("info", 4), ("warning", 3), ("error", 2)])
def test_what_libraries_log_has_the_same_form(level: str, events: int) -> None:
    entries = [json.loads(line) for line in run(LIBRARY, level, subprocess.PIPE).stderr.splitlines()]
    assert len(entries) == events, "the library's own level counts as well"
    assert all({"event", "level", "logger", "timestamp"} == entry.keys() - {"exception"} for entry in entries)
    assert [entries[-1]["logger"], entries[-1]["level"]] == ["other", "critical"]
    assert entries[-2]["event"] == "broken\nby x"
    assert entries[-2]["exception"][0]["exc_type"] == "ZeroDivisionError"
    if level == "info":
        assert [entries[0]["event"], entries[0]["logger"]] == ["Started server process [5]", "uvicorn.error"]


def test_priorities_for_the_journal() -> None:
    lines = written_to_the_journal(SCRIPT, "debug") + written_to_the_journal(LIBRARY, "info")
    assert [line[:3] for line in lines] == ["<7>", "<4>", "<3>", "<6>", "<4>", "<3>", "<2>"]
    assert all({"event", "level"} <= json.loads(line[3:]).keys() for line in lines)


@pytest.mark.parametrize("stream", ["1:{0.st_ino}", "{0.st_dev}:1", "{0.st_dev}:{0.st_ino}:1", "", "x"])
def test_no_priorities_where_the_journal_does_not_read(stream: str) -> None:
    """The variable is inherited by what writes elsewhere."""
    assert all(line.startswith("{") for line in written_to_the_journal(SCRIPT, "debug", stream))


def test_one_entry_a_line_whatever_is_in_it() -> None:
    [line] = run(ODD, "", subprocess.PIPE).stderr.splitlines()
    assert json.loads(line)["name"] == "a\nb\x9b"
    [line] = written_to_the_journal(ODD, "")
    assert json.loads(line[3:])["path"] == "/x\ny"
    shown = shown_on_a_terminal(ODD, "")
    assert len(shown.splitlines()) == 1
    assert "\x1b[31m\u2028" not in shown
    assert "\x9b" not in shown


def test_an_entry_fits_into_a_line_of_the_journal() -> None:
    script = "import structlog, sys; from transship import logging; logging.configure('info')\n"
    script += "structlog.get_logger().error('\\U0001f6a2' * 100_000, more='x' * 100_000)"
    [line] = written_to_the_journal(script, "")
    assert len(line) < 48 << 10
    entry = json.loads(line[3:])
    assert entry["event"].startswith("\U0001f6a2" * 1000)
    assert entry["shortened_from"] > 1_000_000
    assert {"level", "logger", "timestamp"} <= entry.keys()
