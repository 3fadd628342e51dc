"""``arm``, ``disarm``, ``boot``: migrating before Docker starts."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import SOON, Ended, Sample, Service, command, held, start
from transship.cli import display

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def arm(sample: Sample, *arguments: object) -> None:
    ended = command("arm", *sample.ends, *arguments)
    assert ended.code == 0, ended.all
    assert ended.out.startswith("armed: the next boot migrates before Docker starts. `transship disarm` takes this back.\n")


def boot(sample: Sample) -> Ended:
    return command("boot", "--state-dir", sample.state)


def boot_that_waits(sample: Sample, run: str, end: Callable[[], object]) -> str:
    """Boot while the service is at ``run``; when that is shown call ``end``, and return what the boot prints until its end."""
    with start("boot", "--state-dir", sample.state) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith(f"run {run}: ")
            end()
            out, err = process.communicate(timeout=SOON)
        finally:
            process.kill()
    assert process.returncode == 0, err
    return out


def is_armed(sample: Sample) -> bool:
    return (sample.state / "armed").exists()


def test_what_was_asked_for_is_written_down(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sample.source)
    places = ["--source", "../docker", "--target", "oci:../layout", "--state-dir", "../state"]
    more = ["--image", "low:1", "--image", "high:1", "--compression", "gzip", "--level", "2", "--fill", "copy", "--jobs", "3"]
    ended = command("arm", *places, *more)
    assert ended.code == 0
    assert f"not in {sample.source}/../state" in ended.out
    assert json.loads((sample.state / "armed").read_bytes()) == {
        "source": f"{sample.source}/../docker",
        "target": f"oci:{sample.source}/../layout",
        "namespace": "moby",
        "compression": "gzip",
        "level": 2,
        "fill": "copy",
        "jobs": 3,
        "images": ["low:1", "high:1"],
    }
    assert (sample.state / "armed").stat().st_mode & 0o777 == 0o600
    assert not sample.layout.exists()
    assert command("disarm", "--state-dir", "../state").out == "disarmed\n"
    assert not is_armed(sample)
    assert command("disarm", "--state-dir", "../state").out == "was not armed\n"


def test_what_is_not_said_is_left_to_the_service(sample: Sample) -> None:
    assert command("arm", "--state-dir", sample.state).code == 0
    document = json.loads((sample.state / "armed").read_bytes())
    assert not {"source", "target", "driver", "snapshotter", "level", "jobs", "images"} & document.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--compression", "gzip", "--level", "9"), "no level 9"),
        (("--target", "nowhere"), "unknown target 'nowhere'"),
        (("--image", ""), "the service cannot be asked for this"),
        (("--image", "x" * 5000), "the service cannot be asked for this"),
    ],
)
def test_what_cannot_be_meant_is_told_before_the_next_boot(sample: Sample, arguments: tuple[str, ...], message: str) -> None:
    ended = command("arm", "--state-dir", sample.state, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert not is_armed(sample)


def test_not_armed(sample: Sample) -> None:
    ended = boot(sample)
    assert (ended.code, ended.out, ended.err) == (0, "not armed: nothing to do\n", "")
    assert not sample.state.exists()


@pytest.mark.usefixtures("service")
def test_all_is_moved_and_the_host_disarmed(sample: Sample) -> None:
    arm(sample, "--compression", "gzip")
    assert command("status", "--json", "--state-dir", sample.state).report["service"]["armed"] is True
    assert "armed: the next boot migrates" in command("status", "--state-dir", sample.state).out
    ended = boot(sample)
    assert ended.code == 0, ended.all
    assert ended.out.endswith("disarmed: the next boot does not migrate again.\n")
    assert "Ctrl-C" not in ended.all
    assert not is_armed(sample)
    assert sample.image_ids().items() >= sample.expected.items()
    assert boot(sample).out == "not armed: nothing to do\n"


@pytest.mark.usefixtures("service")
def test_what_is_incomplete_is_tried_again(sample: Sample) -> None:
    path = sample.builder.files(sample.top) / "app"
    path.unlink()
    arm(sample)
    ended = boot(sample)
    assert ended.code == 1
    assert "NOT MOVED: layer " in ended.out
    assert ended.out.endswith("still armed: the next boot tries again. `transship disarm` takes this back.\n")
    assert is_armed(sample)
    path.write_bytes(b"application")
    assert boot(sample).code == 0
    assert not is_armed(sample)


@pytest.mark.usefixtures("service")
def test_an_error_leaves_it_armed(sample: Sample) -> None:
    arm(sample)
    sample.source.rename(sample.source.with_name("away"))
    ended = boot(sample)
    assert ended.code == 3
    assert str(sample.source) in ended.err
    assert is_armed(sample)


def test_without_a_service_it_fails(sample: Sample) -> None:
    arm(sample)
    ended = boot(sample)
    assert ended.code == 7
    assert "see `systemctl status transship.socket`" in ended.err
    assert is_armed(sample)
    assert not sample.layout.exists()


def test_an_armed_file_that_is_damaged(sample: Sample) -> None:
    arm(sample)
    (sample.state / "armed").write_text("{")
    ended = boot(sample)
    assert ended.code == 4
    assert f"{sample.state}/armed is damaged" in ended.err


@pytest.mark.usefixtures("service")
def test_a_run_that_goes_on_is_waited_for(sample: Sample) -> None:
    arm(sample)
    with ExitStack() as hold:
        hold.enter_context(held(sample.layout))
        run = sample.migrate("--detach", "--image", "low:1").report["run"]
        out = boot_that_waits(sample, run, hold.close)
    assert f"first run {run}, which the service goes on with" in out
    assert sample.image_ids().items() >= sample.expected.items()
    assert not is_armed(sample)


@pytest.mark.usefixtures("service")
def test_a_run_that_is_cancelled_is_not_waited_for(endless: Sample, tmp_path: Path) -> None:
    """The other run never ends by itself."""
    other = Sample(tmp_path / "other")
    order = ["--source", other.source, "--target", f"oci:{other.layout}", "--state-dir", endless.state]
    assert command("arm", *order).code == 0
    run = endless.migrate("--detach").report["run"]

    def cancel() -> None:
        assert command("cancel", "--state-dir", endless.state).code == 0

    out = boot_that_waits(endless, run, cancel)
    assert f"run {run} did not come to its end" in out
    assert other.image_ids().items() >= other.expected.items()


def test_what_a_power_cut_stopped_is_gone_on_with(sample: Sample, service: Service) -> None:
    """The service may have begun with it by itself when the boot asks for it."""
    arm(sample)
    with ExitStack() as hold:
        hold.enter_context(held(sample.layout))
        run = sample.migrate("--detach").report["run"]
        service.kill()
        service.start()
        out = boot_that_waits(sample, run, hold.close)
    assert f"run {run} is done." in out
    assert not is_armed(sample)


EXTENSION = "EXTEND_TIMEOUT_USEC=120000000"


def test_the_service_manager_is_told_that_it_advances(
    endless: Sample, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm(endless)
    monkeypatch.setattr(display, "_PLAIN_INTERVAL", 0.05)
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(service.socket.with_name("manager")))
        manager.settimeout(SOON)
        monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())

        def manage() -> None:
            while sum(" of 1.1 TB, " in each for each in heard) < 3 or heard.count(EXTENSION) < 3:
                heard.append(manager.recv(4096).decode())
            with start("cancel", "--state-dir", endless.state) as process:
                process.communicate(timeout=SOON)

        thread = threading.Thread(target=manage)
        thread.start()
        ended = boot(endless)
        thread.join()
    assert ended.code == 1
    assert "was stopped before its end" in ended.err
    assert is_armed(endless)
    assert {each for each in heard if not each.startswith("STATUS=")} == {EXTENSION}
