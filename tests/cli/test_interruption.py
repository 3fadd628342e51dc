"""Signals in the middle of a run, and a second run beside the first: as processes of their own."""

from __future__ import annotations

import json
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import HUB, Sample, command, start

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

LARGE = 1 << 30


@pytest.fixture
def long(tmp_path: Path) -> Sample:
    """A store with a layer that takes a second or more."""
    sample = Sample(tmp_path)
    sample.builder.add_image(sample.builder.add_large_layer(LARGE), "large:1")
    return sample


@contextmanager
def under_way(sample: Sample, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A migration that is reading the large layer, and has done something else before."""
    with start("migrate", "--json", *sample.ends, "--jobs", "2", *arguments) as process:
        try:
            assert process.stdout is not None
            large, done = False, 0
            for line in process.stdout:
                event = json.loads(line)
                large |= event["type"] == "step_started" and event["key"].startswith("blob:")
                done += event["type"] == "step_done"
                if large and done:
                    break
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_cleanly_and_it_can_be_continued(long: Sample, number: signal.Signals, code: int) -> None:
    with under_way(long) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert err == ""
    documents = [json.loads(line) for line in out.splitlines()]
    assert documents[-1]["type"] == "error"
    assert number.name in documents[-1]["message"]
    assert "run the same command again" in documents[-1]["remedy"]
    assert documents[-2] | {"state": "interrupted", "type": "run_ended"} == documents[-2]
    long.ensure_consistent(unfinished=True)
    status = command("status", "--json", "--state-dir", long.state).report["runs"][0]
    assert status["state"] == "interrupted"

    ended = long.migrate()
    assert ended.code == 0, ended.all
    assert ended.report["run"] == status["id"]
    assert ended.report["skipped"] > 0
    assert long.image_ids().keys() >= {*long.expected, f"{HUB}/large:1"}
    assert command("status", "--json", "--state-dir", long.state).report["runs"][0]["attempts"] == 2
    assert long.rollback().code == 0
    assert not list((long.layout / "blobs/sha256").iterdir())


def test_without_json_it_says_how_to_go_on(long: Sample) -> None:
    with start("migrate", *long.ends) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("run ")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "transship: stopped by SIGINT\n  what to do: run the same command again to go on\n" in err
    assert "Traceback" not in err


def test_a_kill_leaves_what_the_next_run_clears_away(long: Sample) -> None:
    with under_way(long) as process:
        process.kill()
        process.communicate(timeout=30)
    ended = long.migrate()
    assert ended.code == 0, ended.all
    long.ensure_consistent()
    assert long.run("verify").code == 0


def test_a_second_run_is_refused_and_told_who_holds_the_first(long: Sample, tmp_path: Path) -> None:
    with under_way(long) as process:
        for arguments in (["migrate", *long.ends], ["verify", *long.ends], ["rollback", "--state-dir", long.state]):
            ended = command(*arguments, "--json")
            assert ended.code == 6
            assert f"{long.state} is in use by process {process.pid}" in ended.report["message"]
            assert ended.report["remedy"]
        # Looking is allowed.
        assert command("status", "--json", "--state-dir", long.state).report["runs"][0]["state"] == "running"
        assert long.run("plan", "--json").code == 0
        # So is another run elsewhere.
        (tmp_path / "other").mkdir()
        assert Sample(tmp_path / "other").migrate().code == 0
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert long.migrate().code == 0


def test_a_stopped_verification(long: Sample) -> None:
    assert long.migrate().code == 0
    with start("verify", "--json", *long.ends) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["type"] == "step_started" and '"blob:' in line:
                break
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 130, out
    assert (long.layout / "index.json").exists()
