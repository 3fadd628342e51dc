"""Looking at what the service is at: ``status`` and ``logs``, once and until the end."""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import SOON, Ended, Sample, Service, command, held, moving, start

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator


def status(sample: Sample, *arguments: str) -> Ended:
    ended = command("status", "--state-dir", sample.state, *arguments)
    assert ended.code == 0, ended.all
    return ended


def logs(sample: Sample, *arguments: str) -> Ended:
    return command("logs", "--state-dir", sample.state, *arguments)


def begun(sample: Sample) -> str:
    ended = sample.migrate("--detach")
    assert ended.code == 0, ended.all
    return str(ended.report["run"])


@contextmanager
def going_on(sample: Sample, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A command that waits for a run that is held, or endless."""
    with start(*arguments, "--state-dir", sample.state) as process:
        try:
            yield process
        finally:
            process.kill()


# status


@pytest.mark.usefixtures("service")
def test_an_idle_service(sample: Sample) -> None:
    assert status(sample).out == f"service: idle\nno runs yet (state directory {sample.state})\n"
    document = status(sample, "--json").report
    assert document | {"runs": [], "last": None} == document
    assert document["service"] | {"state": "idle", "current": None, "last": None, "armed": False} == document["service"]
    assert document["service"]["state_dir"] == str(sample.state)
    assert status(sample, "--watch").out == status(sample).out


def test_with_the_service_and_without_it_says_the_same_of_runs(sample: Sample, service: Service) -> None:
    (sample.builder.files(sample.top) / "app").unlink()
    sample.migrate()
    here = status(sample)
    document = status(sample, "--json").report
    assert service.stop() == 0
    assert here.out == "service: idle\n" + status(sample).out
    assert document | {"service": None} == status(sample, "--json").report


@pytest.mark.usefixtures("service")
def test_during_a_run(endless: Sample) -> None:
    run = begun(endless)
    document = moving(endless)
    current = document["service"]["current"]
    assert document["service"]["state"] == "migrating"
    assert (current["run"]["id"], current["run"]["state"], current["stalled"]) == (run, "running", False)
    assert current["progress"]["total"]["bytes"] > 1 << 40
    assert current["progress"]["eta"] > 0
    assert document["runs"][0]["id"] == run
    shown = status(endless).out
    how_far = r"\d+ of \d+ steps, .* of 1.1 TB, .*/s, about .* left"
    assert re.search(rf"^service: migrating run {run}: {how_far}$", shown, re.MULTILINE)
    assert re.search(r"^  now: layer [0-9a-f]{12}: [0-9.]+ [kMG]?B of 1.1 TB, for [0-9.]+ s$", shown, re.MULTILINE)
    assert re.search(rf"^{run} +migrate +running ", shown, re.MULTILINE)


@pytest.mark.usefixtures("service")
def test_watching_a_run_to_its_end(sample: Sample) -> None:
    with ExitStack() as hold:
        hold.enter_context(held(sample.layout))
        run = begun(sample)
        with going_on(sample, "status", "--watch", "--json") as scripts, going_on(sample, "status", "--watch") as people:
            assert scripts.stdout is not None
            assert people.stderr is not None
            first = json.loads(scripts.stdout.readline())
            assert first | {"type": "run_started", "run": run} == first
            assert re.fullmatch(rf"run {run}: \d+ steps\n", people.stderr.readline())
            hold.close()
            out, err = scripts.communicate(timeout=SOON)
            told, _ = people.communicate(timeout=SOON)
    assert (scripts.returncode, err) == (0, "")
    *events, document = [json.loads(line) for line in out.splitlines()]
    assert events[-1] | {"type": "run_ended", "state": "done"} == events[-1]
    assert document["service"]["state"] == "idle"
    assert document["runs"][0] | {"id": run, "state": "done"} == document["runs"][0]
    assert people.returncode == 0
    assert told == status(sample).out


@pytest.mark.usefixtures("service")
def test_watching_a_run_that_is_cancelled(endless: Sample) -> None:
    run = begun(endless)
    moving(endless)
    with going_on(endless, "status", "--watch", "--json") as scripts, going_on(endless, "status", "--watch") as people:
        for output in (scripts.stdout, people.stderr):
            assert output is not None
            output.readline()
        assert command("cancel", "--state-dir", endless.state).code == 0
        out, _ = scripts.communicate(timeout=SOON)
        told, _ = people.communicate(timeout=SOON)
    assert (scripts.returncode, people.returncode) == (0, 0)
    assert json.loads(out.splitlines()[-1])["runs"][0]["state"] == "interrupted"
    assert f"run {run} did not come to its end: run {run} was stopped before its end" in told
    assert "  what to do: go on with it: `transship resume`\n" in told
    assert re.search(rf"^{run} +migrate +interrupted ", told, re.MULTILINE)


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("name", ["status", "logs"])
def test_a_signal_ends_the_watching(endless: Sample, name: str) -> None:
    run = begun(endless)
    moving(endless)
    with going_on(endless, name, "--json", "--watch" if name == "status" else "--follow") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SOON)
    assert (process.returncode, err) == (130, "")
    error = json.loads(out.splitlines()[-1])
    assert error["message"] == f"no longer following run {run}, which goes on in the service"
    assert status(endless, "--json").report["service"]["current"]["run"]["id"] == run


@pytest.mark.parametrize(("name", "option"), [("status", "--watch"), ("logs", "--follow")])
def test_without_a_service_there_is_nothing_to_watch(sample: Sample, name: str, option: str) -> None:
    sample.migrate()
    ended = command(name, option, "--state-dir", sample.state)
    assert (ended.code, ended.out) == (7, "")
    assert f"no service on /nonexistent/transship.sock that keeps its journal in {sample.state}" in ended.err
    assert f"leave out {option}" in ended.err


# logs


def test_logs_with_the_service_and_without_it_are_the_same(sample: Sample, service: Service) -> None:
    (sample.builder.files(sample.top) / "app").unlink()
    run = sample.migrate().report["run"]
    sample.migrate()
    sample.rollback()
    texts, documents = [logs(sample).out], [logs(sample, "--json").documents]
    texts.append(logs(sample, run).out)
    texts.append(logs(sample, "--follow").out)
    assert service.stop() == 0
    texts += [logs(sample).out, logs(sample, run).out]
    documents.append(logs(sample, "--json", run).documents)
    assert len(set(texts)) == 1
    assert documents[0] == documents[1]
    assert [event["seq"] for event in documents[0]] == list(range(1, len(documents[0]) + 1))
    path = sample.state / "runs" / run / "events.jsonl"
    assert documents[0] == [json.loads(line) for line in path.read_text().splitlines()]
    for line in texts[0].splitlines():
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [a-zF]", line)
    for text in (
        "begun (attempt 1): ",
        "begun (attempt 2): ",
        "begins: layer ",
        "done: layer ",
        "FAILED: layer ",
        "left out: ",
    ):
        assert f" {text}" in texts[0]
    for text in ("done before: ", "rollback begun: ", "removed: image:", "ended (incomplete): ", "ended (rolled-back): "):
        assert f" {text}" in texts[0]


@pytest.mark.usefixtures("service")
def test_following_a_run_to_its_end(sample: Sample) -> None:
    with ExitStack() as hold:
        hold.enter_context(held(sample.layout))
        run = begun(sample)
        with going_on(sample, "logs", "--follow", "--json") as scripts, going_on(sample, "logs", "--follow", run) as people:
            for output in (scripts.stdout, people.stdout):
                assert output is not None
                assert "run_started" in (first := output.readline()) or "begun (attempt 1)" in first
            hold.close()
            out, _ = scripts.communicate(timeout=SOON)
            told, _ = people.communicate(timeout=SOON)
    assert (scripts.returncode, people.returncode) == (0, 0)
    assert json.loads(out.splitlines()[-1])["type"] == "run_ended"
    assert " ended (done): " in told.splitlines()[-1]
    assert logs(sample).out.endswith(told)


@pytest.mark.usefixtures("service")
def test_logs_of_a_run_that_goes_on_end_without_being_told_to_follow(endless: Sample) -> None:
    run = begun(endless)
    moving(endless)
    assert logs(endless, "--json").documents[0] | {"type": "run_started", "run": run} == logs(endless, "--json").documents[0]


@pytest.mark.usefixtures("service")
def test_following_what_has_ended_ends(sample: Sample) -> None:
    sample.migrate()
    assert logs(sample, "--follow").out == logs(sample).out


@pytest.mark.parametrize("run", ["20200101-000000-abcd", "../../status", "", "a b", "\x1b[31m"])
@pytest.mark.parametrize("with_service", [True, False])
def test_a_run_that_is_not_known(sample: Sample, run: str, with_service: bool, request: pytest.FixtureRequest) -> None:
    if with_service:
        request.getfixturevalue("service")
    assert sample.migrate().code == 0
    names = sample.names()
    for name in ("logs", "resume", "rollback"):
        ended = command(name, "--state-dir", sample.state, run)
        assert (ended.code, ended.out) == (2, "")
        assert "there is no run " in ended.err
        assert "\x1b" not in ended.err
    assert sample.names() == names


@pytest.mark.parametrize("with_service", [True, False])
def test_no_runs(sample: Sample, with_service: bool, request: pytest.FixtureRequest) -> None:
    if with_service:
        request.getfixturevalue("service")
    for name in ("logs", "resume", "rollback"):
        ended = command(name, "--state-dir", sample.state)
        assert (ended.code, ended.out) == (2, ""), ended.all
        assert "  what to do: " in ended.err


@pytest.mark.usefixtures("service")
def test_whoever_reads_may_stop_reading(sample: Sample) -> None:
    sample.migrate()
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as output, start("logs", "--state-dir", sample.state, stdout=output) as process:  # noqa: PTH123
        _, err = process.communicate(timeout=SOON)
    assert (process.returncode, err) == (1, "")
