"""``cancel`` and ``resume``."""

from __future__ import annotations

import fcntl
import json
from contextlib import ExitStack

import pytest

from tests.cli.harness import HUB, SOON, Ended, Sample, Service, command, held, moving, start


def cancel(sample: Sample, *arguments: str) -> Ended:
    return command("cancel", "--state-dir", sample.state, *arguments)


def resume(sample: Sample, *arguments: str) -> Ended:
    return command("resume", "--state-dir", sample.state, *arguments)


def runs(sample: Sample) -> list[tuple[str, str, int]]:
    found = command("status", "--json", "--state-dir", sample.state).report["runs"]
    return [(run["id"], run["state"], run["attempts"]) for run in found]


def begun(sample: Sample, *arguments: str) -> str:
    ended = sample.migrate("--detach", *arguments)
    assert ended.code == 0, ended.all
    return str(ended.report["run"])


@pytest.fixture
def damaged(sample: Sample) -> Sample:
    (sample.builder.files(sample.top) / "app").unlink()
    return sample


def repair(sample: Sample) -> None:
    (sample.builder.files(sample.top) / "app").write_bytes(b"application")


def test_there_is_nothing_to_cancel(sample: Sample, service: Service) -> None:
    assert cancel(sample).out == "the service is idle: there is nothing to cancel\n"
    run = sample.migrate().report["run"]
    ended = cancel(sample, run)
    assert ended.code == 2
    assert f"run {run} is not going on: it is done" in ended.err
    assert cancel(sample, "../status").code == 2
    assert service.stop() == 0
    ended = cancel(sample)
    assert (ended.code, ended.out) == (0, "no service is running, so there is nothing to cancel\n")


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("named", [True, False])
def test_it_waits_until_the_run_has_stopped(endless: Sample, named: bool) -> None:
    run = begun(endless)
    ended = cancel(endless, *([run] if named else []))
    assert ended.code == 0, ended.all
    assert ended.out == (
        f"run {run} has stopped. Go on with it: transship resume. Remove what it moved: transship rollback {run}\n"
    )
    assert runs(endless) == [(run, "interrupted", 1)]
    endless.ensure_consistent(unfinished=True)
    # Nobody is at it now.
    assert command("rollback", "--direct", "--state-dir", endless.state).code == 0


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_going_on(damaged: Sample, direct: bool, named: bool) -> None:
    """With the options of the run, whatever others say meanwhile."""
    first = damaged.migrate("--image", "high:1", "--compression", "gzip")
    assert first.code == 1
    run = first.report["run"]
    repair(damaged)
    ended = resume(damaged, "--json", *(["--direct"] if direct else []), *([run] if named else []))
    assert ended.code == 0, ended.all
    assert ended.report | {"type": "report", "run": run, "complete": True} == ended.report
    assert runs(damaged) == [(run, "done", 2)]
    assert {f"{HUB}/high:1", f"{HUB}/high:latest"} <= damaged.names().keys()
    assert f"{HUB}/other:1" not in damaged.names()
    nothing = resume(damaged, *(["--direct"] if direct else []))
    assert nothing.code == 2
    assert "there is no migration that was stopped or is incomplete" in nothing.err


@pytest.mark.usefixtures("service")
def test_going_on_with_one_that_is_still_incomplete(damaged: Sample) -> None:
    run = damaged.migrate().report["run"]
    ended = resume(damaged)
    assert ended.code == 1
    assert f"run {run} is INCOMPLETE" in ended.out
    assert "NOT MOVED: layer " in ended.out


def test_a_run_that_was_cancelled_is_left_alone_by_the_next_service(endless: Sample, service: Service) -> None:
    run = begun(endless)
    cancel(endless)
    service.stop()
    service.start()
    assert cancel(endless).out == "the service is idle: there is nothing to cancel\n"
    assert runs(endless) == [(run, "interrupted", 1)]


@pytest.mark.usefixtures("service")
def test_whoever_waits_for_a_run_that_is_cancelled_is_told(endless: Sample) -> None:
    with start("migrate", "--json", *endless.ends) as process:
        try:
            assert process.stdout is not None
            run = json.loads(process.stdout.readline())["run"]
            assert cancel(endless).code == 0
            out, err = process.communicate(timeout=SOON)
        finally:
            process.kill()
    assert (process.returncode, err) == (1, "")
    *_, ended, error = [json.loads(line) for line in out.splitlines()]
    assert ended | {"type": "run_ended", "state": "interrupted"} == ended
    assert error == {
        "type": "error",
        "error": "RunStopped",
        "message": f"run {run} was stopped before its end: by `transship cancel`, or with the service",
        "remedy": "go on with it: `transship resume`",
        "exit_code": 1,
    }


def test_whoever_waits_for_a_run_that_ends_with_the_service_is_told(endless: Sample, service: Service) -> None:
    with start("migrate", *endless.ends) as process:
        try:
            assert process.stderr is not None
            assert "goes on in the service" in process.stderr.readline()
            moving(endless)
            assert service.stop() == 0
            _, err = process.communicate(timeout=SOON)
        finally:
            process.kill()
    assert process.returncode == 1
    assert "was stopped before its end: by `transship cancel`, or with the service" in err


def test_whoever_waits_bears_with_a_service_that_is_killed(sample: Sample, service: Service) -> None:
    with ExitStack() as hold:
        hold.enter_context(held(sample.layout))
        with start("migrate", "--json", *sample.ends) as process:
            try:
                assert process.stdout is not None
                first = process.stdout.readline()
                service.kill()
                service.start()
                hold.close()
                out, err = process.communicate(timeout=SOON)
            finally:
                process.kill()
    assert (process.returncode, err) == (0, "")
    events = [json.loads(line) for line in [first, *out.splitlines()]]
    assert [event["attempt"] for event in events if event["type"] == "run_started"] == [1, 2]
    assert events[-1] | {"type": "report", "complete": True} == events[-1]
    assert runs(sample) == [(events[0]["run"], "done", 2)]


def test_a_rollback_bears_with_it_too(sample: Sample, service: Service) -> None:
    run = sample.migrate().report["run"]
    with (sample.layout / "oci-layout").open("r+") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)  # as another process that is changing names has it
        with start("rollback", "--json", "--state-dir", sample.state) as process:
            try:
                while command("status", "--json", "--state-dir", sample.state).report["service"]["state"] != "rolling-back":
                    pass
                service.kill()
                service.start()
                fcntl.flock(marker, fcntl.LOCK_UN)
                out, err = process.communicate(timeout=SOON)
            finally:
                process.kill()
    assert (process.returncode, err) == (0, "")
    report = json.loads(out.splitlines()[-1])
    assert (report["run"], len(report["removed"]), report["kept"], report["failed"]) == (run, 12, [], [])
    assert runs(sample) == [(run, "rolled-back", 1)]
    assert sample.names() == {}
