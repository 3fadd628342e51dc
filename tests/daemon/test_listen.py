from __future__ import annotations

import grp
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from transship.daemon.listen import listening
from transship.errors import ExitCode, ServiceRunning, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NO_GROUP = "no-such-group"

_SERVER = """
import sys
from pathlib import Path
from transship.daemon.listen import listening
from transship.errors import TransshipError

sys.stdin.readline()
try:
    with listening(Path(sys.argv[1]), "no-such-group"):
        print("listening", flush=True)
        sys.stdin.readline()
except TransshipError as error:
    print(type(error).__name__, error, flush=True)
"""

# What systemd does: puts sockets at 3 and on, says so in the environment, and runs the service in that very process.
_ACTIVATED = """
import json, os, socket, stat, sys
from pathlib import Path
from transship.daemon.listen import listening
from transship.errors import TransshipError

handed_over = json.loads(sys.argv[3])
above = 50
for number, fd in enumerate(handed_over):
    os.dup2(fd, above + number)
for number in range(len(handed_over)):
    os.dup2(above + number, 3 + number)
os.closerange(3 + len(handed_over), above + len(handed_over))
os.environ |= json.loads(sys.argv[2])
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
open_before = sorted(fd for fd in range(3, 10) if os.path.exists(f"/proc/self/fd/{fd}"))
try:
    with listening(Path(sys.argv[1]), "no-such-group") as listener:
        found = {
            "fd": listener.socket.fileno(),
            "path": str(listener.path),
            "activated": listener.activated,
            "inheritable": listener.socket.get_inheritable(),
            "blocking": listener.socket.getblocking(),
            "left": [name for name in os.environ if name.startswith("LISTEN_")],
            "open": [fd for fd in open_before if os.path.exists(f"/proc/self/fd/{fd}")],
        }
except TransshipError as error:
    found = {"error": type(error).__name__, "message": str(error)}
print(json.dumps(found))
"""


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="transship-") as directory:
        yield Path(directory) / "test.sock"


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python with a script and arguments, its standard input and output connected."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: object, hand_over: tuple[int, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            pass_fds=hand_over,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def told(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))


def leave_dead_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
        dead.listen()


class TestOurOwn:
    def test_it_listens_with_its_rights_and_goes_away(self, path: Path) -> None:
        deep = path.parent / "made" / "for" / "it.sock"
        with listening(deep, _NO_GROUP) as listener:
            connect(deep)
            assert (listener.path, listener.activated) == (deep, False)
            assert stat.S_IMODE(deep.stat().st_mode) == 0o660
            assert not listener.socket.getblocking()
            assert not listener.socket.get_inheritable()
        assert not deep.exists()
        listener.close()

    @pytest.mark.usefixtures("as_root")
    def test_it_belongs_to_the_group(self, path: Path) -> None:
        group = next(group for group in grp.getgrall() if group.gr_gid != 0)
        with listening(path, group.gr_name):
            assert (path.stat().st_uid, path.stat().st_gid) == (0, group.gr_gid)

    def test_a_dead_socket_is_replaced(self, path: Path) -> None:
        leave_dead_socket(path)
        with listening(path, _NO_GROUP):
            connect(path)

    def test_the_socket_of_a_killed_server_is_replaced(self, path: Path, child: Callable[..., subprocess.Popen[str]]) -> None:
        server = child(_SERVER, path)
        tell(server)
        assert told(server) == "listening"
        server.kill()
        server.wait()
        assert path.exists()
        with listening(path, _NO_GROUP):
            connect(path)

    def test_a_live_server_is_left_alone(self, path: Path) -> None:
        with listening(path, _NO_GROUP):
            with pytest.raises(ServiceRunning, match=str(path)) as caught:
                listening(path, _NO_GROUP)
            assert caught.value.exit_code is ExitCode.LOCKED
            connect(path)

    @pytest.mark.parametrize("backlog", [0, 5])
    def test_so_is_one_that_knows_nothing_of_our_lock(self, path: Path, backlog: int) -> None:
        with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
            other.bind(os.fspath(path))
            other.listen(backlog)
            waiting.connect(os.fspath(path))  # with a backlog of 0, no other can
            with pytest.raises(ServiceRunning, match=str(path)):
                listening(path, _NO_GROUP)
            assert path.is_socket()

    def test_of_many_that_start_at_once_one_wins(self, path: Path, child: Callable[..., subprocess.Popen[str]]) -> None:
        leave_dead_socket(path)
        servers = [child(_SERVER, path) for _ in range(6)]
        for server in servers:
            tell(server)
        said = [told(server) for server in servers]
        assert sorted(line.split()[0] for line in said) == ["ServiceRunning"] * 5 + ["listening"]
        connect(path)

    @pytest.mark.parametrize("kind", ["file", "directory", "link", "datagrams"])
    def test_what_is_no_socket_of_a_server_stays(self, path: Path, kind: str) -> None:
        if kind == "file":
            path.write_text("precious")
        elif kind == "directory":
            path.mkdir()
        elif kind == "link":
            leave_dead_socket(path.parent / "elsewhere")
            path.symlink_to("elsewhere")
        else:
            other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            other.bind(os.fspath(path))
        before = path.lstat()
        with pytest.raises(UsageError, match=str(path)):
            listening(path, _NO_GROUP)
        assert path.lstat() == before
        if kind == "datagrams":
            other.close()

    def test_a_lock_that_is_a_link_is_not_followed(self, path: Path) -> None:
        Path(f"{path}.lock").symlink_to("made")
        with pytest.raises(UsageError, match=str(path)):
            listening(path, _NO_GROUP)
        assert not (path.parent / "made").exists()

    def test_a_socket_that_is_not_ours_any_more_is_not_removed(self, path: Path) -> None:
        with listening(path, _NO_GROUP):
            aside = path.with_name("aside")
            leave_dead_socket(aside)  # before the other goes, or it may get the same inode
            aside.rename(path)
        assert path.is_socket()

    def test_a_socket_that_is_gone_is_no_error(self, path: Path) -> None:
        with listening(path, _NO_GROUP):
            path.unlink()

    def test_the_longest_path_works_and_a_longer_one_does_not(self, path: Path) -> None:
        longest = path.parent / ("x" * (107 - len(os.fsencode(path.parent)) - 1))
        with listening(longest, _NO_GROUP):
            connect(longest)
        with pytest.raises(UsageError, match="107 bytes"):
            listening(longest.with_name(longest.name[:-1] + "é"), _NO_GROUP)

    @pytest.mark.parametrize("name", ["file/x.sock", "nul\0.sock"])
    def test_a_path_that_cannot_be_is_a_usage_error(self, path: Path, name: str) -> None:
        (path.parent / "file").touch()
        with pytest.raises(UsageError, match="cannot listen on"):
            listening(path.parent / name, _NO_GROUP)

    def test_a_failure_leaves_nothing_open(self, path: Path) -> None:
        path.mkdir()
        before = os.listdir("/proc/self/fd")  # noqa: PTH208
        with pytest.raises(UsageError):
            listening(path, _NO_GROUP)
        assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
        path.rmdir()
        with listening(path, _NO_GROUP):
            pass


class TestSystemds:
    @pytest.fixture
    def activated(self, path: Path, child: Callable[..., subprocess.Popen[str]]) -> Callable[..., dict[str, object]]:
        """Runs a service that gets ``sockets`` as systemd hands them over, and returns what it found."""

        def run(sockets: list[socket.socket], **environment: str) -> dict[str, object]:
            handed_over = tuple(handed.fileno() for handed in sockets)
            variables = {"LISTEN_FDS": str(len(sockets))} | environment
            process = child(_ACTIVATED, path, json.dumps(variables), json.dumps(handed_over), hand_over=handed_over)
            found: dict[str, object] = json.loads(told(process))
            return found

        return run

    @pytest.fixture
    def handed(self, path: Path) -> Iterator[Callable[..., socket.socket]]:
        """Makes sockets as systemd would."""
        made: list[socket.socket] = []

        def make(
            family: int = socket.AF_UNIX, kind: int = socket.SOCK_STREAM, *, listens: bool = True, name: str = "systemd.sock"
        ) -> socket.socket:
            sock = socket.socket(family, kind)
            made.append(sock)
            sock.bind(os.fspath(path.with_name(name)) if family == socket.AF_UNIX else ("127.0.0.1", 0))
            if listens:
                sock.listen()
            return sock

        yield make
        for sock in made:
            sock.close()

    def test_it_is_taken(self, path: Path, activated: Callable[..., object], handed: Callable[..., socket.socket]) -> None:
        assert activated([handed()], LISTEN_FDNAMES="whatever") == {
            "fd": 3,
            "path": str(path.with_name("systemd.sock")),
            "activated": True,
            "inheritable": False,
            "blocking": False,
            "left": [],
            "open": [3],
        }
        connect(path.with_name("systemd.sock"))  # it was not removed, and systemd listens on
        assert not path.exists()

    @pytest.mark.parametrize(("names", "ours"), [("a:transship:b", 4), ("transship.socket:a:b", 3), ("a::transship", 5)])
    def test_of_several_the_one_with_our_name_is_taken(
        self, activated: Callable[..., dict[str, object]], handed: Callable[..., socket.socket], names: str, ours: int
    ) -> None:
        found = activated([handed(name=str(number)) for number in range(3)], LISTEN_FDNAMES=names)
        assert (found["fd"], found["open"]) == (ours, [ours])

    @pytest.mark.parametrize("names", ["", "a:b", "transship:transship", "transship:transship.socket"])
    def test_of_several_without_one_name_none_is_taken(
        self, activated: Callable[..., dict[str, object]], handed: Callable[..., socket.socket], names: str
    ) -> None:
        found = activated([handed(name=str(number)) for number in range(2)], LISTEN_FDNAMES=names)
        assert found["error"] == "UsageError"
        assert "FileDescriptorName=transship" in str(found["message"])

    @pytest.mark.parametrize(
        ("family", "kind", "listens"),
        [
            (socket.AF_INET, socket.SOCK_STREAM, True),
            (socket.AF_UNIX, socket.SOCK_STREAM, False),
            (socket.AF_UNIX, socket.SOCK_DGRAM, False),
            (socket.AF_UNIX, socket.SOCK_SEQPACKET, True),
        ],
    )
    def test_other_sockets_are_refused(
        self,
        activated: Callable[..., dict[str, object]],
        handed: Callable[..., socket.socket],
        family: int,
        kind: int,
        listens: bool,
    ) -> None:
        assert activated([handed(family, kind, listens=listens)])["error"] == "UsageError"

    @pytest.mark.parametrize("count", ["1", "two", "-1", "²", ""])
    def test_nonsense_is_refused(self, activated: Callable[..., dict[str, object]], count: str) -> None:
        assert activated([], LISTEN_FDS=count)["error"] == "UsageError"

    @pytest.mark.parametrize("environment", [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": "0"}])
    def test_what_is_not_for_us_is_left(
        self,
        path: Path,
        activated: Callable[..., dict[str, object]],
        handed: Callable[..., socket.socket],
        environment: dict[str, str],
    ) -> None:
        found = activated([handed()], **environment)
        assert (found["path"], found["activated"], found["left"]) == (str(path), False, [])
