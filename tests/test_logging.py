"""Logs go to standard error: JSON where nobody sits at a terminal, from the level asked for on."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

SCRIPT = """\
import sys, structlog
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


def run(level: str, error_stream: int) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, level],
        stdout=subprocess.PIPE,
        stderr=error_stream,
        text=True,
        check=True,
        env=environment,
    )


@pytest.mark.parametrize(("level", "events"), [("debug", 3), ("info", 2), ("warning", 2), ("error", 1)])
def test_json_from_the_level_on(level: str, events: int) -> None:
    ended = run(level, subprocess.PIPE)
    assert ended.stdout == "result\n"
    entries = [json.loads(line) for line in ended.stderr.splitlines()]
    assert len(entries) == events
    assert all({"event", "level", "timestamp"} <= entry.keys() for entry in entries)
    assert entries[-1]["exception"][0]["exc_type"] == "ZeroDivisionError"


def test_text_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    try:
        ended = run("warning", theirs)
        shown = os.read(ours, 100_000).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert ended.stdout == "result\n"
    assert "careful" in shown
    assert not shown.startswith("{")
