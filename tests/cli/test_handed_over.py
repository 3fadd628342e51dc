"""Migrations and rollbacks that the service carries out: nobody who waits for them can tell the difference."""

from __future__ import annotations

import json
import re
import signal
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import SOON, Ended, Sample, Service, command, held, start

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def twin(tmp_path: Path) -> Sample:
    """The same store as the sample, with a state directory that no service has."""
    (tmp_path / "twin").mkdir()
    return Sample(tmp_path / "twin")


RUN = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


def alike(sample: Sample, text: str) -> list[str]:
    """The lines printed, without what differs from run to run and from place to place, such as their order."""
    text = text.replace(str(sample.source.parent), "PLACE")
    text = RUN.sub("RUN", text)
    return sorted(re.sub(r"[0-9.]+ s\b", "SECONDS", text).splitlines())


def outcome(report: dict[str, Any], sample: Sample) -> dict[str, Any]:
    """Every field of a report, with the same left out; lists in an order of their own."""
    return {
        name: sorted(alike(sample, json.dumps(each))[0] for each in value)
        if isinstance(value, list)
        else alike(sample, json.dumps(value))
        for name, value in (report | {"seconds": 0}).items()
    }


def events(ended: Ended) -> list[tuple[str, str]]:
    """What happened, in whichever order."""
    return sorted((event["type"], event.get("key", "")) for event in ended.documents)


def keep_whole(_: Sample) -> None:
    pass


def damage(sample: Sample) -> None:
    (sample.builder.files(sample.top) / "app").unlink()
    sample.builder.config_path(sample.other).write_bytes(b"")


@pytest.mark.parametrize(("change", "code"), [(keep_whole, 0), (damage, 1)])
@pytest.mark.usefixtures("service")
def test_it_ends_as_it_does_directly(sample: Sample, twin: Sample, change: Callable[[Sample], None], code: int) -> None:
    for each in (sample, twin):
        change(each)
    here, there = twin.migrate(), sample.migrate()
    assert (there.code, here.code) == (code, code), there.all
    assert outcome(there.report, sample) == outcome(here.report, twin)
    assert events(there) == events(here)
    assert {frozenset(each) for each in there.documents} == {frozenset(each) for each in here.documents}
    assert there.err == ""
    assert sample.names() == twin.names()
    # Once more, for people.
    here, there = twin.run("migrate"), sample.run("migrate")
    assert (there.code, here.code) == (code, code)
    assert alike(sample, there.out) == alike(twin, here.out)
    assert "goes on in the service; Ctrl-C ends only this command" in there.err
    assert "Ctrl-C" not in here.err
    # And back.
    here, there = twin.rollback(), sample.rollback()
    assert (there.code, here.code) == (0, 0)
    assert outcome(there.report, sample) == outcome(here.report, twin)
    assert events(there) == events(here)
    here, there = (command("rollback", "--state-dir", each.state) for each in (twin, sample))
    assert (there.code, alike(sample, there.all)) == (here.code, alike(twin, here.all))


def no_source(sample: Sample) -> None:
    sample.source.rename(sample.source.with_name("away"))


def no_target(sample: Sample) -> None:
    sample.layout.mkdir()
    (sample.layout / "something").touch()


@pytest.mark.parametrize(
    ("change", "more", "code"),
    [
        (no_source, (), 3),
        (no_target, (), 4),
        (keep_whole, ("--image", "nosuch:1"), 2),
        (keep_whole, ("--target", "nowhere:x"), 2),
        (keep_whole, ("--level", "-1"), 2),
        (keep_whole, ("--compression", "gzip", "--level", "99"), 2),
    ],
)
@pytest.mark.usefixtures("service")
def test_it_fails_as_it_does_directly(
    sample: Sample, twin: Sample, change: Callable[[Sample], None], more: tuple[str, ...], code: int
) -> None:
    for each in (sample, twin):
        change(each)
    here, there = twin.migrate(*more), sample.migrate(*more)
    assert (there.code, here.code) == (code, code), there.all
    assert outcome(there.report, sample) == outcome(here.report, twin)
    here, there = twin.run("migrate", *more), sample.run("migrate", *more)
    assert (there.code, there.out, alike(sample, there.err)) == (code, here.out, alike(twin, here.err))


@pytest.mark.usefixtures("service")
def test_relative_paths_mean_what_they_mean_here(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sample.source)
    places = ["--source", "../docker", "--target", "oci:../layout", "--state-dir", "../state"]
    ended = command("migrate", "--json", *places)
    assert ended.code == 0, ended.all
    assert sample.image_ids().items() >= sample.expected.items()
    document = command("status", "--json", "--state-dir", "../state").report
    assert document["service"] is not None
    assert document["runs"][0]["id"] == ended.report["run"]
    assert command("rollback", "--state-dir", "../state").code == 0
    assert sample.names() == {}


def test_an_option_says_which_service(sample: Sample, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSSHIP_SERVICE_SOCKET")
    assert sample.migrate("--socket", service.socket, "--detach").report["type"] == "detached"


@pytest.mark.usefixtures("service")
def test_with_another_state_directory_it_works_directly(sample: Sample, tmp_path: Path) -> None:
    sample.state = tmp_path / "another"
    ended = sample.run("migrate")
    assert ended.code == 0
    assert "service" not in ended.all
    assert command("status", "--json", "--state-dir", sample.state).report["service"] is None


@pytest.mark.usefixtures("service")
def test_a_state_directory_that_a_link_leads_to_is_the_same(sample: Sample, tmp_path: Path) -> None:
    sample.state.mkdir()
    (tmp_path / "link").symlink_to(sample.state)
    assert command("status", "--json", "--state-dir", tmp_path / "link").report["service"] is not None


@pytest.mark.usefixtures("service")
def test_a_path_that_is_no_text_is_for_direct_runs(sample: Sample, tmp_path: Path) -> None:
    sample.source = sample.source.rename(tmp_path / "docker-\udcff")
    for ended in (sample.migrate(), command("arm", *sample.ends)):
        assert ended.code == 2
        assert "--direct" in ended.all
        assert "surrogates not allowed" in ended.all
    assert sample.migrate("--direct").code == 0


@pytest.mark.usefixtures("service")
def test_direct_works_while_the_service_is_idle(sample: Sample) -> None:
    assert sample.run("migrate", "--direct").code == 0
    ended = command("rollback", "--direct", "--state-dir", sample.state)
    assert ended.code == 0
    assert "service" not in ended.all


def detached(sample: Sample) -> str:
    """Have a migration begun; return its run."""
    ended = sample.migrate("--detach")
    assert ended.code == 0, ended.all
    [document] = ended.documents
    assert document | {"type": "detached"} == document
    return str(document["run"])


def watched(sample: Sample) -> dict[str, Any]:
    """Wait until the service has nothing more to do; return how things stand."""
    return command("status", "--watch", "--json", "--state-dir", sample.state).report


@pytest.mark.usefixtures("service")
def test_beginning_without_waiting(sample: Sample) -> None:
    with held(sample.layout):
        ended = sample.run("migrate", "--detach")
        assert ended.code == 0
        assert re.fullmatch(
            rf"run {RUN.pattern} goes on in the service\. Follow it with `transship status --watch`\.\n", ended.out
        )
        assert detached(sample) in ended.out  # the very same
        assert sample.names() == {}
    assert watched(sample)["runs"][0]["state"] == "done"
    assert sample.image_ids().items() >= sample.expected.items()


def test_without_a_service_there_is_none_to_detach_from(sample: Sample) -> None:
    ended = sample.migrate("--detach")
    assert ended.code == 7
    assert "no service on /nonexistent/transship.sock" in ended.report["message"]
    assert not sample.state.exists()


@contextmanager
def following(sample: Sample, name: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A command for people, that has said that its run goes on in the service."""
    with start(name, "--state-dir", sample.state, *arguments) as process:
        try:
            assert process.stderr is not None
            assert "goes on in the service" in process.stderr.readline()
            yield process
        finally:
            process.kill()


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_following_and_not_the_run(sample: Sample, number: signal.Signals) -> None:
    with held(sample.layout):
        with following(sample, "migrate", *sample.ends) as process:
            process.send_signal(number)
            out, err = process.communicate(timeout=SOON)
        assert (process.returncode, out) == (130, "")
        run = command("status", "--json", "--state-dir", sample.state).report["service"]["current"]["run"]["id"]
        assert f"transship: no longer following run {run}, which goes on in the service\n  what to do: " in err
        assert "`transship cancel`" in err
    assert watched(sample)["runs"][0] | {"id": run, "state": "done", "attempts": 1} == watched(sample)["runs"][0]


@pytest.mark.usefixtures("service")
def test_a_second_run_is_refused_and_told_of_the_first(sample: Sample, tmp_path: Path) -> None:
    with held(sample.layout):
        run = detached(sample)
        for arguments in (
            ["migrate", *sample.ends, "--image", "low:1"],
            ["migrate", *sample.ends, "--detach", "--image", "low:1"],
            ["rollback", "--state-dir", sample.state, run],
        ):
            ended = command(*arguments)
            assert ended.code == 6
            assert (
                f"transship: the service is at run {run} (migrating)\n  what to do: wait for it to end (`transship" in ended.err
            )
        for arguments in (["migrate", *sample.ends, "--direct"], ["verify", *sample.ends]):
            ended = command(*arguments)
            assert ended.code == 6
            assert f"{sample.state} is in use by process " in ended.err
        # Elsewhere is another matter, and looking is allowed.
        (tmp_path / "other").mkdir()
        assert Sample(tmp_path / "other").migrate().code == 0
        assert sample.run("plan").code == 0
    assert watched(sample)["runs"][0]["state"] == "done"


@pytest.mark.usefixtures("service")
def test_the_very_same_run_is_followed(sample: Sample) -> None:
    with ExitStack() as hold:
        hold.enter_context(held(sample.layout))
        with (
            following(sample, "migrate", *sample.ends) as first,
            following(sample, "migrate", *sample.ends) as second,
            following(sample, "resume") as third,
        ):
            hold.close()
            outputs = [process.communicate(timeout=SOON)[0] for process in (first, second, third)]
    assert [process.returncode for process in (first, second, third)] == [0, 0, 0]
    assert len({RUN.findall(output)[-1] for output in outputs}) == 1
