"""The service on a real systemd: its socket starts it, it ends when idle, and a run goes on whatever ends the service."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.real.host import SERVICE, SOCKET, Host
from transship.config import ServiceSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.real.machine import Machine

pytestmark = pytest.mark.real

_STAYS = "idle-exit = 0"
_MOST_MEMORY = 60_000_000


@pytest.fixture
def make_host(make_machine: Callable[[], Machine]) -> Callable[..., Host]:
    return lambda settings=_STAYS, unit="": Host(make_machine(), settings, unit)


def test_the_socket_starts_it_and_it_ends_when_idle(make_host: Callable[..., Host]) -> None:
    host = make_host("idle-exit = 0.1")
    machine = host.machine
    machine.boot()
    interval = machine.run("systemd-analyze", "timespan", machine.show(SERVICE, "StartLimitIntervalUSec")).expect().stdout
    usual = int(interval.split("μs:")[1].split()[0]) / 1_000_000 / ServiceSettings().idle_exit
    assert int(machine.show(SERVICE, "StartLimitBurst")) >= 2 * usual, "that it ends when idle is no reason to start it no more"
    host.adjust(SERVICE, "StartLimitIntervalSec=0", section="Unit")
    machine.run("systemctl", "daemon-reload").expect()

    assert machine.show(SERVICE, "ExecMainPID") == "0"
    pids = set()
    for _ in range(5):
        pids.add(host.status()["pid"])
        host.wait_for_state(SERVICE, "inactive")
        assert machine.show(SERVICE, "Result") == "success"
    assert len(pids) == 5
    for _ in range(100):  # whenever they come, also at the moment at which it ends
        host.status()
    machine.run("transship", "status").expect()
    assert machine.show("transship.socket", "ActiveState") == "active"
    assert machine.show(SERVICE, "NRestarts") == "0"


def test_it_says_when_it_is_ready_and_how_it_goes(make_host: Callable[..., Host]) -> None:
    host = make_host()
    machine = host.machine
    machine.path("/var/lib/prometheus/node-exporter").mkdir(parents=True)
    machine.boot()
    machine.run("systemctl", "start", SERVICE).expect()
    assert machine.show(SERVICE, "StatusText") == "idle"
    with host.migrating() as first:
        host.hold()
        machine.wait_for("sh", "-c", f"systemctl show -P StatusText {SERVICE} | grep -q 'migrating: [1-9][0-9]* of 315 steps'")
        seen = host.status()["current"]
        run = seen["run"]["id"]
        with (
            host.migrating() as second,  # the same once more: it follows the run that is going
            machine.start("transship", "status", "--watch", "--json") as watching,
            machine.start("curl", "--silent", "--unix-socket", SOCKET, f"http://x/v1/runs/{run}/events") as streaming,
        ):
            for _ in range(5):
                told = machine.run("transship", "status", "--json").expect().last["service"]["current"]
                assert told["run"] == seen["run"]
                assert told["progress"]["done"] == host.status()["current"]["progress"]["done"]
            host.release()
            reports = [host.ended(command).expect().last for command in (first, second)]
            watched = host.ended(watching).expect()
            streamed = host.ended(streaming).expect().stdout
    assert reports[0] == reports[1]
    assert reports[0]["complete"]
    assert watched.last["runs"][0]["state"] == "done"
    assert [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: ")] == host.events()
    assert "transship_last_run_complete 1.0" in machine.path("/var/lib/prometheus/node-exporter/transship.prom").read_text()
    host.check()


def test_it_sleeps_and_listens_nowhere_else(make_host: Callable[..., Host]) -> None:
    host = make_host(unit="WatchdogSec=4")
    machine = host.machine
    machine.boot()
    pid = host.status()["pid"]
    for command in ("migrate", "status"):  # before a run and after it
        wakes, pings = idle(machine, pid)
        assert wakes <= 2 * pings
        machine.run("transship", command).expect()
    assert host.status()["pid"] == pid
    for kind in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        assert len(machine.run("cat", f"/proc/{pid}/net/{kind}").expect().stdout.splitlines()) == 1


def test_it_stays_small(make_host: Callable[..., Host]) -> None:
    host = make_host()
    host.machine.boot()
    pid = host.status()["pid"]
    assert memory(host.machine, pid) < _MOST_MEMORY
    host.machine.run("transship", "migrate").expect()
    assert memory(host.machine, pid) < _MOST_MEMORY


def memory(machine: Machine, pid: int) -> int:
    """Return how many bytes are a process's alone: without pages of programs and libraries, which the kernel can drop."""
    status = dict(line.split(":") for line in machine.run("cat", f"/proc/{pid}/status").expect().stdout.splitlines())
    return sum(int(status[kind].split()[0]) for kind in ("RssAnon", "RssShmem")) * 1024


def idle(machine: Machine, pid: int, count: int = 2) -> tuple[int, int]:
    """Watch a process until it has told the watchdog so many times that it is alive; return how often it woke up, and that."""
    script = f"""
    last() {{ systemctl show -P WatchdogTimestampMonotonic {SERVICE}; }}
    woken() {{ awk '/^voluntary_ctxt/ {{ sum += $2 }} END {{ print sum }}' /proc/{pid}/task/*/status; }}
    wait_for_ping() {{ old=$(last); while [ "$(last)" = "$old" ]; do sleep 0.02; done; }}
    wait_for_ping; before=$(woken)
    for ping in $(seq {count}); do wait_for_ping; done
    echo $(($(woken) - before))"""
    return int(machine.run("sh", "-c", script).expect().stdout), count


def test_who_may(make_host: Callable[..., Host]) -> None:
    host = make_host()
    machine = host.machine
    machine.path("/root").chmod(0o755)  # where the Python may be that runs it
    machine.boot()
    for name, groups in (("reader", ["--groups=transship"]), ("starter", ["--groups=transship"]), ("stranger", [])):
        machine.run("useradd", "--no-create-home", *groups, name).expect()

    def as_user(name: str, *command: str) -> list[str]:
        return ["runuser", f"--user={name}", "--", "transship", *command]

    assert "service: idle" in machine.run(*as_user("reader", "status")).expect().stdout
    for name in ("reader", "starter"):
        refused = machine.run(*as_user(name, "migrate")).expect(2)
        assert "may not start, cancel, resume or roll back runs" in refused.stderr
        assert "service.users" in refused.stderr
    code = machine.run("runuser", "--user=reader", "--", *post("/v1/runs", "--write-out", "%{http_code}")).expect().stdout
    assert code.endswith("403")

    unable = machine.run(*as_user("stranger", "status")).expect(2)
    assert SOCKET in unable.stderr
    assert "group" in unable.stderr
    assert machine.run("runuser", "--user=stranger", "--", *post("/v1/runs")).code != 0
    assert host.ask("/v1/runs")["total"] == 0

    host.configure('users = ["starter"]')
    machine.run("systemctl", "reload", SERVICE).expect()
    host.wait_for_entry(SERVICE, '"event": "reloaded"')
    machine.run(*as_user("starter", "migrate", "--detach")).expect()
    host.middle()
    machine.run(*as_user("reader", "cancel")).expect(2)
    machine.run(*as_user("starter", "cancel")).expect()
    assert host.run()["state"] == "interrupted"


def post(path: str, *options: str) -> list[str]:
    return ["curl", "--silent", "--unix-socket", SOCKET, "--json", "{}", *options, f"http://x{path}"]


def test_configuration_is_read_again_and_logs_are_the_journals(make_host: Callable[..., Host]) -> None:
    host = make_host()
    machine = host.machine
    machine.boot()
    pid = host.status()["pid"]
    host.configure("group = 7")
    machine.run("systemctl", "reload", SERVICE).expect()
    host.wait_for_entry(SERVICE, "not_reloaded")
    assert host.status()["pid"] == pid, "it goes on with what it had"
    machine.run("transship", "migrate", "--direct").expect(2)

    entries = [json.loads(line) for line in machine.run("journalctl", "-u", SERVICE, "-o", "json").stdout.splitlines()]
    own = [entry for entry in entries if entry["_TRANSPORT"] == "stdout"]
    logged = {json.loads(entry["MESSAGE"])["event"]: entry for entry in own}
    assert {entry["SYSLOG_IDENTIFIER"] for entry in own} == {"transship"}
    assert (logged["serving"]["PRIORITY"], logged["not_reloaded"]["PRIORITY"]) == ("6", "3")
    document = json.loads(logged["not_reloaded"]["MESSAGE"])
    assert "/etc/transship/conf.d/test.toml" in document["message"]
    assert "service.group" in document["message"]

    assert machine.run("systemctl", "restart", SERVICE).code != 0
    assert (machine.show(SERVICE, "ExecMainStatus"), machine.show(SERVICE, "NRestarts")) == ("2", "0")
    host.configure(_STAYS)
    machine.run("systemctl", "restart", SERVICE).expect()
    assert host.status()["pid"] != pid


def test_a_hung_service_is_restarted_and_goes_on(make_host: Callable[..., Host]) -> None:
    host = make_host(unit="WatchdogSec=3\nTimeoutAbortSec=1")
    machine = host.machine
    machine.boot()
    with host.migrating() as command:
        host.hold()
        machine.signal(SERVICE, "SIGSTOP")
        host.release()
        host.wait_for_entry(SERVICE, "Watchdog timeout")
        host.ended(command).expect()
    assert int(machine.show(SERVICE, "NRestarts")) >= 1
    host.check(resumed=True)


def test_a_run_that_does_not_advance_is_not_called_alive(make_host: Callable[..., Host]) -> None:
    host = make_host(f"{_STAYS}\nstalled-after = 2", unit="WatchdogSec=4")
    machine = host.machine
    machine.boot()
    with host.migrating() as command:
        host.hold()
        assert host.until(lambda status: status["current"]["stalled"])["state"] == "migrating"
        assert "the run does not advance" in host.curl("/v1/health").stdout
        host.wait_for_entry(SERVICE, "Watchdog timeout")
        host.release()
        host.ended(command).expect()
    host.check(resumed=True)


def test_a_killed_service_goes_on(make_host: Callable[..., Host]) -> None:
    host = make_host()
    machine = host.machine
    machine.boot()
    with host.migrating() as command:
        host.hold()
        machine.signal(SERVICE, "SIGKILL")
        host.release()
        host.ended(command).expect()
    assert machine.show(SERVICE, "NRestarts") == "1"
    host.check(resumed=True)


def test_a_stopped_service_goes_on_when_it_starts(make_host: Callable[..., Host]) -> None:
    host = make_host(f"{_STAYS}\nstop-within = 0.5")
    machine = host.machine
    machine.boot()
    machine.run("transship", "migrate", "--detach").expect()
    host.middle()
    machine.run("systemctl", "stop", SERVICE).expect()
    assert (machine.show(SERVICE, "Result"), machine.show(SERVICE, "ExecMainStatus")) == ("success", "0")
    stopped = machine.run("transship", "status", "--json", "--socket", "/nowhere").expect().last["runs"][0]
    assert stopped["state"] == "interrupted"

    machine.run("systemctl", "start", SERVICE).expect()
    host.hold()
    assert host.run()["id"] == stopped["id"]
    machine.run("systemctl", "stop", SERVICE).expect()  # what it waits for does not come to an end in time
    assert (machine.show(SERVICE, "Result"), machine.show(SERVICE, "ExecMainStatus")) == ("success", "0")
    assert "abandoned" in machine.journal(SERVICE)
    host.release()

    machine.run("systemctl", "start", SERVICE).expect()
    host.until_last("done")
    host.check(resumed=True)


def test_a_restart_in_the_middle_is_not_noticed_by_who_waits(make_host: Callable[..., Host]) -> None:
    host = make_host(f'{_STAYS}\ntextfile = "/dev/null"')
    machine = host.machine
    machine.boot()
    with host.migrating() as command:
        host.middle()
        machine.run("systemctl", "restart", SERVICE).expect()
        host.ended(command).expect()
    machine.run("test", "-c", "/dev/null").expect()
    host.check(resumed=True)


def test_after_a_power_cut_the_next_start_goes_on(make_host: Callable[..., Host]) -> None:
    host = make_host()
    machine = host.machine
    machine.boot()
    machine.run("transship", "migrate", "--detach").expect()
    host.middle()
    machine.cut_power()
    machine.boot()
    host.until_last("done")
    host.check(resumed=True)
