"""The service as a process of its own, as a service manager starts, watches and stops it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import HUB, Journey, Sample, add_endless_layer, environment
from tests.daemon.harness import order
from tests.daemon.process import SOON, Served, served
from transship.api.models import Phase
from transship.daemon import history, pledge
from transship.engine.records import RunState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGE = 1 << 30
_CONFIG = '[service]\ngroup = "no-such-group"\ntextfile = "{place}/transship.prom"\n'


@pytest.fixture(scope="module")
def long_source(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A store with a layer that takes a second or more."""
    sample = Sample(tmp_path_factory.mktemp("long"))
    sample.builder.add_image(sample.builder.add_large_layer(LARGE), "large:1")
    return sample


@pytest.fixture
def long(long_source: Sample, tmp_path: Path) -> Journey:
    return Journey(long_source.source, tmp_path / "layout", tmp_path / "state")


def under_way(service: Served, journey: Journey) -> str:
    """Begin a migration; return its run when it has done something, and is reading the large layer."""
    run = service.start(order(journey, jobs=2)).id
    large, done = False, 0
    for event in service.events(run):
        large |= event["type"] == "step_started" and event["key"].startswith("blob:")
        done += event["type"] == "step_done"
        if large and done > 5:
            return run
    raise AssertionError("it has ended already")


def complete(journey: Journey, run: str, attempts: int) -> None:
    record = history.record(journey.state, run)
    assert (record.state, record.attempts) == (RunState.DONE, attempts)
    assert pledge.given(journey.state) is None
    journey.ensure_consistent()
    assert f"{HUB}/large:1" in journey.names()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_it_is_idle(place: Path, tmp_path: Path, number: signal.Signals) -> None:
    with served(place, tmp_path / "state") as service:
        service.status()
        service.signal(number)
        assert service.wait() == 0
        service.manager.rest()
        assert service.manager.heard[-1][1] == ["STOPPING=1", "STATUS=stopping"]
    assert not service.path.exists()
    assert [entry["event"] for entry in service.log] == ["serving", "stopping"]
    assert service.log[-1]["reason"] == number.name
    assert not (tmp_path / "state").exists()


def test_stopped_in_the_middle_of_a_run_it_goes_on_at_its_next_start(place: Path, long: Journey) -> None:
    with served(place, long.state) as service:
        run = under_way(service, long)
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
    record = history.record(long.state, run)
    assert (record.state, record.attempts) == (RunState.INTERRUPTED, 1)
    assert isinstance(pledge.given(long.state), pledge.Migration)
    long.ensure_consistent(unfinished=True)
    with served(place, long.state) as service:
        assert service.until_idle().last is not None
        complete(long, run, 2)
        assert service.logged("resumed")[0]["run"] == run


def test_killed_in_the_middle_of_a_run_it_goes_on_at_its_next_start(place: Path, long: Journey) -> None:
    with served(place, long.state) as service:
        run = under_way(service, long)
        service.signal(signal.SIGKILL)
        assert service.wait() == -signal.SIGKILL
    assert service.path.exists(), "what a kill leaves"
    assert history.record(long.state, run).state is RunState.RUNNING
    with served(place, long.state) as service:
        service.until_idle()
        complete(long, run, 2)


def test_what_was_cancelled_is_not_gone_on_with(place: Path, long: Journey) -> None:
    with served(place, long.state) as service:
        run = under_way(service, long)
        assert service.http.post(f"/v1/runs/{run}/cancel").json()["state"] == "interrupted"
        service.signal(signal.SIGKILL)
        service.wait()
    with served(place, long.state) as service:
        status = service.status()
        assert (status.state, status.current) == (Phase.IDLE, None)
        assert not service.logged("resumed")


def test_it_may_be_told_not_to_go_on_by_itself(place: Path, long: Journey) -> None:
    with served(place, long.state) as service:
        under_way(service, long)
        service.signal(signal.SIGKILL)
        service.wait()
    with served(place, long.state, config=_CONFIG.format(place=place) + "resume = false\n") as service:
        assert service.status().current is None
        assert pledge.given(long.state) is not None


def test_it_reads_its_configuration_again(place: Path, tmp_path: Path) -> None:
    config = place / "transship.toml"
    with served(place, tmp_path / "state") as service:

        def reloaded(text: str) -> None:
            config.write_text(text)
            service.signal(signal.SIGHUP)
            assert service.manager.until("MONOTONIC_USEC=")
            service.manager.until("READY=1")

        def names() -> list[str]:
            answer = service.http.get("/v1/plan", params={"target": f"oci:{place}/layout"})
            return (
                [name for image in answer.json()["images"] for name in image["references"]]
                if answer.is_success
                else [answer.text]
            )

        sample = Sample(place)
        assert "docker.io/library/low:1" not in names()
        good = f'[source]\ndirectory = "{sample.source}"\n[service]\ngroup = "no-such-group"\n'
        reloaded(good)
        assert "docker.io/library/low:1" in names()
        assert service.logged("reloaded")
        for wrong, said in (("[service", "transship.toml"), (good + 'users = ["no-such-user"]\n', "no-such-user")):
            reloaded(wrong)
            assert said in service.logged("not_reloaded")[-1]["message"]
            assert "docker.io/library/low:1" in names()
        reloaded('[log]\nlevel = "error"\n')
        assert len(service.logged("reloaded")) == 1, "this is logged no more"
        assert service.status().state_dir == str(tmp_path / "state")


def test_a_second_one_on_the_same_socket_is_refused(place: Path, tmp_path: Path) -> None:
    with served(place, tmp_path / "state") as service:
        command = [
            sys.executable,
            "-m",
            "transship",
            "serve",
            "--socket",
            str(service.path),
            "--state-dir",
            str(tmp_path / "b"),
        ]
        second = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=SOON, check=False)
        assert second.returncode == 6
        assert str(service.path) in second.stderr
        assert "Traceback" not in second.stderr
        assert service.status().pid == service.process.pid


def test_a_wrong_configuration_hinders_the_start(place: Path, tmp_path: Path) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text('[service]\nusers = ["no-such-user"]\n')
    command = [sys.executable, "-m", "transship", "serve", "--socket", str(place / "s"), "--config", str(config)]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=SOON, check=False)
    assert ended.returncode == 2
    assert "no-such-user" in ended.stderr
    assert not (place / "s").exists()


def test_the_manager_is_told_how_it_goes(place: Path, tmp_path: Path) -> None:
    sample = Sample(tmp_path)
    sample.builder.add_image(add_endless_layer(sample.builder), "endless:1")
    with served(place, sample.state, WATCHDOG_USEC="400000") as service:
        assert service.manager.heard[0][1] == ["READY=1", "STATUS=idle"]
        service.manager.until("WATCHDOG=1")
        run = under_way(service, sample)
        assert " steps, " in service.manager.until("STATUS=migrating: ")
        service.manager.until("WATCHDOG=1")
        service.http.post(f"/v1/runs/{run}/cancel").raise_for_status()
        service.manager.until("STATUS=idle")
        service.manager.until("WATCHDOG=1")
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
        service.manager.rest()
    states = [state for _, states in service.manager.heard for state in states]
    assert states[-2:] == ["STOPPING=1", "STATUS=stopping"]
    assert states.count("READY=1") == 1


def test_status_is_not_told_more_than_once_a_second(place: Path, tmp_path: Path) -> None:
    sample = Sample(place)
    with served(place, tmp_path / "state") as service:
        for number in range(3):  # of which each begins and ends in much less
            service.start(order(Journey(sample.source, place / f"layout{number}", tmp_path / "state")))
            service.until_idle()
        for _ in range(2):
            service.start(order(Journey(sample.source, place / "layout0", tmp_path / "state")))
            service.until_idle()
            service.manager.until("STATUS=")
    told = service.manager.times("STATUS=")
    assert len(told) >= 2
    assert all(later - earlier > 0.9 for earlier, later in pairwise(told)), told


def test_the_watchdog_is_not_fed_when_nothing_advances(place: Path, long: Journey) -> None:
    config = _CONFIG.format(place=place) + "stalled-after = 0.000001\n"
    with served(place, long.state, config=config, WATCHDOG_USEC="100000") as service:
        service.manager.until("WATCHDOG=1")
        run = under_way(service, long)
        service.manager.rest()
        service.manager.heard.clear()
        assert service.http.get("/v1/health").status_code == 503
        for _ in service.events(run):
            pass
        service.manager.until("STATUS=")
        fed = len(service.manager.times("WATCHDOG=1"))
        assert fed < 5, "two looks in a hundred may find that something has just advanced"


def test_handed_a_socket_it_ends_when_idle_and_leaves_it(place: Path, tmp_path: Path) -> None:
    config = _CONFIG.format(place=place) + "idle-exit = 0.2\n"
    with served(place, tmp_path / "state", config=config, activated=True) as service:
        assert service.wait() == 0
        assert service.logged("stopping")[0]["reason"] == "idle"
        assert service.path.exists()


def test_it_does_not_end_while_a_client_is_there_or_a_run_goes_on(place: Path, long: Journey) -> None:
    config = _CONFIG.format(place=place) + "idle-exit = 0.05\n"
    with served(place, long.state, config=config, activated=True) as service:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(service.path))
            run = service.start(order(long, jobs=2)).id
            service.until_idle()
            service.http.close()
            with pytest.raises(subprocess.TimeoutExpired):
                service.process.wait(0.5)  # ten times as long as it may be idle
        assert service.wait() == 0
    complete(long, run, 1)


def test_it_does_not_end_before_its_run_does(place: Path, long: Journey) -> None:
    config = _CONFIG.format(place=place) + "idle-exit = 0.05\n"
    with served(place, long.state, config=config, activated=True) as service:
        run = service.start(order(long, jobs=2)).id
        service.http.close()
        assert service.wait() == 0
    complete(long, run, 1)


def test_one_of_its_own_does_not_end_when_idle(place: Path, tmp_path: Path) -> None:
    config = _CONFIG.format(place=place) + "idle-exit = 0.01\n"
    with served(place, tmp_path / "state", config=config, WATCHDOG_USEC="200000") as service:
        for _ in range(4):
            service.manager.until("WATCHDOG=1")
        assert service.process.poll() is None


@pytest.fixture
def used(place: Path, long: Journey) -> Iterator[Served]:
    """A service that has been asked everything, and has made several runs."""
    with served(place, long.state, config=_CONFIG.format(place=place)) as service:
        for number in range(3):
            run = service.start(order(Journey(long.source, place / f"layout{number}", long.state), jobs=2)).id
            assert sum(1 for _ in service.events(run)) > 10
            service.until_idle()
        for path in ("/v1/openapi.json", "/metrics", "/v1/runs", f"/v1/runs/{run}", f"/v1/runs/{run}/events"):
            assert service.http.get(path).is_success
        yield service


def test_resident_after_runs_it_is_small(used: Served) -> None:
    assert used.figure("VmRSS") < 60_000, "kB"


def test_idle_it_does_not_wake_up(used: Served) -> None:
    """Not for two seconds in which it has been asked nothing, once what the last request has set going is over."""
    used.http.close()
    used.manager.until("STATUS=idle")
    quiet = switches_in(used, 2)
    for _ in range(10):
        if not quiet:
            return
        quiet = switches_in(used, 2)
    raise AssertionError(f"{quiet} wake-ups in two seconds")


def switches_in(service: Served, seconds: float) -> int:
    """How often it woke up while nothing was heard from it."""
    before = service.switches
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nobody:
        nobody.settimeout(seconds)
        nobody.bind("\0" + os.fspath(service.path) + ".nobody")
        with pytest.raises(TimeoutError):
            nobody.recv(1)
    return service.switches - before


def test_its_log_is_json_and_says_what_it_did(used: Served) -> None:
    events = [entry["event"] for entry in used.log]
    assert events[0] == "serving"
    assert events.count("run_started") == events.count("run_ended") == 3
    assert all(entry["level"] == "info" for entry in used.log)


def test_a_directory_that_is_not_to_be_had_for_the_socket_is_said(place: Path) -> None:
    (place / "file").touch()
    command: list[Any] = [sys.executable, "-m", "transship", "serve", "--socket", place / "file" / "socket"]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=SOON, check=False)
    assert ended.returncode == 2
    assert str(place / "file" / "socket") in ended.stderr
