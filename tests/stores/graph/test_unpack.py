"""Layers unpacked: as GNU tar does, as Docker did, and never outside of them."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.files.trees import CAPABILITY, descriptors, listing
from tests.stores.docker import unpacking
from tests.stores.docker.test_trees import members
from transship.files.fill import Filler, FillMode
from transship.formats import tar_split
from transship.stores.docker.drivers.known import DRIVERS
from transship.stores.graph.members import read_members
from transship.stores.graph.places import make_layer
from transship.stores.graph.unpack import Unpacker

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.usefixtures("as_root")

FORMATS = ["v7", "oldgnu", "gnu", "ustar", "pax"]


def unpack(archive: bytes, top: Path, *, as_it_is: bool = False, shared: bool = False) -> int:
    """Unpack into ``top``, which must hold nothing open afterwards; return the size."""
    before = descriptors()
    try:
        with Unpacker(top, as_it_is=as_it_is, shared=shared) as unpacker:
            for member in read_members(io.BytesIO(archive), lambda _: None):
                unpacker.add(member)
            unpacker.finish()
            return unpacker.size
    finally:
        assert descriptors() == before


def make_archive(*infos: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for each in infos:
            info, content = each if isinstance(each, tuple) else (each, b"")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def info(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", **fields: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, target, 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def file(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return info(name), content


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A directory to unpack into, beside which there is a file that nothing may touch."""
    (tmp_path / "outside").write_bytes(b"outside")
    place = tmp_path / "top"
    place.mkdir()
    return place


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with all that an archive can have."""
    top = tmp_path_factory.mktemp("everything")
    top.chmod(0o750)
    for name in ("d", "d/e", "empty", "sticky"):
        (top / name).mkdir()
    (top / "sticky").chmod(0o1777)
    (top / "d/e/file").write_bytes(b"content" * 1000)
    (top / "d/link").hardlink_to(top / "d/e/file")
    (top / "setuid").write_bytes(b"")
    os.chown(top / "setuid", 1000, 70000)
    (top / "setuid").chmod(0o6755)
    (top / "symlink").symlink_to("/etc/passwd")
    os.lchown(top / "symlink", 5, 6)
    os.utime(top / "symlink", (7, 8), follow_symlinks=False)
    os.mkfifo(top / "fifo")
    os.mknod(top / "character", stat.S_IFCHR | 0o620, os.makedev(4, 64))
    os.mknod(top / "block", stat.S_IFBLK | 0o660, os.makedev(259, 1))
    (top / "capable").write_bytes(b"x")
    (top / "old").write_bytes(b"x")
    os.utime(top / "old", (1, 1))
    (top / os.fsdecode(b"caf\xe9")).write_bytes(b"")
    (top / ("n" * 60) / ("m" * 30)).mkdir(parents=True)
    (top / ("n" * 60) / ("m" * 30) / "in a long path").write_bytes(b"x")
    return top


def archived(tree: Path, kind: str, *options: str) -> bytes:
    everything = ["--format", kind, "--numeric-owner", "--sort=name", "-C", str(tree), *options]
    made = subprocess.run(["tar", "-c", *everything, "."], check=False, capture_output=True)
    assert made.returncode == (2 if kind == "v7" else 0), made.stderr  # which has no devices: these are left out
    return made.stdout


def by_gnu_tar(archive: bytes, place: Path) -> dict[bytes, dict[str, Any]]:
    place.mkdir()
    options = ["--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*", "-p", "-C", str(place)]
    subprocess.run(["tar", "-x", *options], input=archive, check=True)
    return listing(place)


@pytest.mark.parametrize("kind", FORMATS)
def test_all_kinds_of_files_in_all_formats(everything: Path, top: Path, tmp_path: Path, kind: str) -> None:
    archive = archived(everything, kind)
    assert unpack(archive, top) == 7000 + (2 if kind == "v7" else 3)
    assert listing(top) == by_gnu_tar(archive, tmp_path / "expected")


def test_attributes(top: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/capable").write_bytes(b"x")
    os.setxattr(tmp_path / "tree/capable", "security.capability", CAPABILITY)
    os.chown(tmp_path / "tree/capable", 3, 4)
    os.setxattr(tmp_path / "tree/capable", "security.capability", CAPABILITY)
    archive = archived(tmp_path / "tree", "pax", "--xattrs", "--xattrs-include=*")
    unpack(archive, top)
    assert os.getxattr(top / "capable", "security.capability") == CAPABILITY
    assert listing(top) == by_gnu_tar(archive, tmp_path / "expected")


@pytest.mark.parametrize(
    ("kind", "version"), [("gnu", "0.0"), ("oldgnu", "0.0"), *[("pax", each) for each in ("0.0", "0.1", "1.0")]]
)
@pytest.mark.parametrize("pieces", [0, 1, 3, 4, 5, 60])
def test_sparse_files(top: Path, tmp_path: Path, kind: str, version: str, pieces: int) -> None:
    (tmp_path / "tree").mkdir()
    with (tmp_path / "tree/sparse").open("wb") as made:
        for number in range(pieces):
            made.seek(number * (1 << 20) + (1 << 19))
            made.write(b"%d" % number * 4096)
        made.truncate(pieces * (1 << 20) + (3 << 20))
    (tmp_path / "tree/zzz").write_bytes(b"after it")
    archive = archived(tmp_path / "tree", kind, "--sparse", f"--sparse-version={version}")
    assert len(archive) < (1 << 20)
    entries: list[tar_split.Entry] = []
    with Unpacker(top, as_it_is=False, shared=False) as unpacker:
        for member in read_members(io.BytesIO(archive), entries.append):
            unpacker.add(member)
        unpacker.finish()
    assert unpacker.size == (tmp_path / "tree/sparse").stat().st_size + 8
    expected = by_gnu_tar(archive, tmp_path / "expected")
    assert listing(top) == expected
    assert [entry.path for entry in entries if entry.type == tar_split.FILE] == [b"./", b"./sparse", b"./zzz"]


def test_times_to_the_nanosecond_and_those_that_cannot_be(top: Path) -> None:
    times = {
        "exact": "1234567890.123456789",
        "short": "5.5",
        "before": "-5.5",
        "far": "8589934592",
        "none": "x",
        "long": "7." + "1" * 90,
    }
    unpack(make_archive(*[info(name, mtime=9, pax_headers={"mtime": text}) for name, text in times.items()]), top)
    found = {name: (top / name).stat().st_mtime_ns for name in times}
    assert found == {
        "exact": 1234567890_123456789,
        "short": 5_500_000_000,
        "before": 0,
        "far": 0,
        "none": 9_000_000_000,
        "long": 7_111111111,
    }


def test_directories_have_their_times_whatever_is_made_in_them(top: Path) -> None:
    unpack(make_archive(info("d", tarfile.DIRTYPE, mtime=5), file("d/x"), info("./", tarfile.DIRTYPE, mtime=6), file("y")), top)
    assert (top / "d").stat().st_mtime == 5
    assert top.stat().st_mtime == 6


def test_parents_that_the_archive_lacks(top: Path, tmp_path: Path) -> None:
    """Docker made them with the modes that are expected here."""
    unpack(make_archive(file("a/b/c")), top)
    assert [stat.S_IMODE((top / name).stat().st_mode) for name in ("a", "a/b")] == [0o600, 0o600]
    (tmp_path / "aufs").mkdir()
    unpack(make_archive(file("a/b/c")), tmp_path / "aufs", as_it_is=True)
    assert [stat.S_IMODE((tmp_path / "aufs" / name).stat().st_mode) for name in ("a", "a/b")] == [0o755, 0o755]


def test_global_headers_and_what_follows_the_end_mean_nothing(top: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "other", "uid": "7"}) as tar:
        tar.addfile(info("name"))
    unpack(buffer.getvalue() + b"garbage", top)
    assert names(top) == ["name"]
    assert (top / "name").stat().st_uid == 0


@pytest.mark.parametrize("archive", [b"", bytes(512), bytes(1024), bytes(10240)])
def test_archives_of_nothing(top: Path, archive: bytes) -> None:
    assert unpack(archive, top) == 0
    assert names(top) == []


def test_an_archive_that_ends_with_its_last_byte_of_content(top: Path) -> None:
    archive = make_archive(file("a", b"12345"))
    assert unpack(archive[: 512 + 5], top) == 5
    assert (top / "a").read_bytes() == b"12345"


# What archives of layers delete


def lower(top: Path) -> None:
    unpack(
        make_archive(info("d", tarfile.DIRTYPE), file("d/old"), info("d/e", tarfile.DIRTYPE), file("d/e/deep"), file("f")), top
    )


def names(top: Path) -> list[str]:
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


def test_deletions(top: Path) -> None:
    lower(top)
    unpack(make_archive(file("d/.wh.e"), file(".wh.f"), file(".wh.never"), file("d/new")), top)
    assert names(top) == ["d", "d/new", "d/old"]


def test_a_directory_that_hides_what_was_there(top: Path) -> None:
    lower(top)
    unpack(make_archive(file("d/new"), file("d/.wh..wh..opq"), file("d/newer")), top)
    assert names(top) == ["d", "d/new", "d/newer", "f"]


def test_a_root_that_hides_all(top: Path) -> None:
    lower(top)
    unpack(make_archive(file(".wh..wh..opq"), file("only")), top)
    assert names(top) == ["only"]


def test_what_a_link_leads_to_is_not_hidden(top: Path) -> None:
    unpack(make_archive(info("real", tarfile.DIRTYPE), file("real/old"), info("l", tarfile.SYMTYPE, "real")), top)
    unpack(make_archive(file("l/.wh..wh..opq"), file("l/.wh.other"), file("l/new")), top)
    assert names(top) == ["l", "real", "real/new", "real/old"]
    unpack(make_archive(file("real/.wh..wh..opq")), top)
    assert names(top) == ["l", "real"]


def test_what_aufs_leaves_behind_is_not_unpacked_but_for_its_links(top: Path) -> None:
    kept = (info(".wh..wh.plnk/12.34", mode=0o640, mtime=3), b"linked")
    link = info("linked", tarfile.LNKTYPE, "/.wh..wh.plnk/12.34")
    again = info("again", tarfile.LNKTYPE, ".wh..wh.plnk/12.34")
    unpack(make_archive(info(".wh..wh.plnk", tarfile.DIRTYPE), kept, file(".wh..wh.aufs"), link, again), top)
    assert names(top) == ["again", "linked"]
    for name in ("again", "linked"):
        status = (top / name).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime, status.st_size) == (0o640, 3, 6)


def test_marks_as_they_are(top: Path) -> None:
    unpack(make_archive(file("d/.wh.e", b""), file(".wh..wh..opq", b""), file(".wh..wh.aufs", b"")), top, as_it_is=True)
    assert names(top) == [".wh..wh..opq", ".wh..wh.aufs", "d", "d/.wh.e"]


def test_files_shared_with_the_layer_below_do_not_change(top: Path, tmp_path: Path) -> None:
    """Docker's overlay driver changed the mode and times of what all layers below had, too."""
    below = tmp_path / "below"
    below.mkdir()
    lower(below)
    Filler(FillMode.LINK_ALL, full=True, advance=lambda _: None).fill(DRIVERS["vfs"].full([below]), top)
    before = listing(below)
    link = info("link", tarfile.LNKTYPE, "d/old", mode=0o777, uid=7, mtime=9)
    own = info("own link", tarfile.LNKTYPE, "own", mode=0o600, mtime=4)
    unpack(make_archive(link, file("own"), own, file("f", b"changed"), file("d/.wh.e")), top, shared=True)
    assert listing(below) == before
    assert (top / "link").samefile(below / "d/old")
    assert stat.S_IMODE((top / "own").stat().st_mode) == 0o600


# Archives of someone who means ill

ESCAPES = [
    [file("../outside")],
    [file("..")],
    [file("d/../../outside")],
    [info("../outside", tarfile.DIRTYPE)],
    [file("../.wh.outside")],
    [info("x", tarfile.LNKTYPE, "../outside")],
    [info("x", tarfile.LNKTYPE, "a/../../outside")],
    [info("up", tarfile.SYMTYPE, ".."), file("up/../../outside")],
]


@pytest.mark.parametrize("as_it_is", [False, True])
@pytest.mark.parametrize("made", ESCAPES, ids=range(len(ESCAPES)))
def test_names_that_lead_out_are_refused(top: Path, made: list[Any], as_it_is: bool) -> None:
    with pytest.raises(ValueError, match="leads out of the layer"):
        unpack(make_archive(*made), top, as_it_is=as_it_is)
    assert (top.parent / "outside").read_bytes() == b"outside"


@pytest.mark.parametrize("as_it_is", [False, True])
@pytest.mark.parametrize("target", ["..", "../..", "/", "../../../../..", "d/../.."])
@pytest.mark.parametrize("name", ["outside", ".wh.outside", "new"])
def test_links_lead_nowhere_but_into_the_layer(top: Path, target: str, name: str, as_it_is: bool) -> None:
    link = info("l", tarfile.SYMTYPE, target)
    hard = info("h", tarfile.LNKTYPE, "l/d")
    before = {path: path.read_bytes() for path in top.parent.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match="hard link to a directory"):
        unpack(make_archive(info("d", tarfile.DIRTYPE), link, file(f"l/{name}"), hard), top, as_it_is=as_it_is)
    assert (top / name).exists() == (as_it_is or not name.startswith(".wh."))
    assert {path: path.read_bytes() for path in top.parent.iterdir() if path.is_file()} == before


def test_absolute_names_are_below_the_top(top: Path) -> None:
    unpack(make_archive(file("/etc/x"), file("//y"), file("/../../z"), info("l", tarfile.LNKTYPE, "/../etc/x")), top)
    assert names(top) == ["etc", "etc/x", "l", "y", "z"]


def test_a_hard_link_to_a_symbolic_one_is_not_followed(top: Path) -> None:
    link = info("l", tarfile.SYMTYPE, str(top.parent / "outside"))
    here, hard = info("here", tarfile.SYMTYPE, "."), info("h", tarfile.LNKTYPE, "l", mode=0o777, uid=5)
    unpack(make_archive(link, hard, here, file("here/l", b"replaced")), top)
    assert (top / "h").is_symlink()
    assert (top / "l").read_bytes() == b"replaced"
    assert (top.parent / "outside").stat().st_uid == os.geteuid()


def test_a_directory_that_became_a_link_gets_no_time_through_it(top: Path) -> None:
    before = top.parent.stat().st_mtime_ns
    here, link = info("here", tarfile.SYMTYPE, "."), info("here/d", tarfile.SYMTYPE, "..")
    unpack(make_archive(info("d", tarfile.DIRTYPE, mtime=5), here, link), top)
    assert (top / "d").is_symlink()
    assert top.parent.stat().st_mtime_ns == before


def test_a_name_twice_is_refused(top: Path) -> None:
    """No tar-split data could stand for such an archive."""
    with pytest.raises(ValueError, match="a second member"):
        unpack(make_archive(file("a"), file("./a")), top)


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        ([file("a"), file("a/b")], "Not a directory"),
        ([info("l", tarfile.SYMTYPE, "nowhere"), file("l/x")], "File exists"),
        ([info("l", tarfile.SYMTYPE, "l"), file("l/x")], "symbolic links"),
        ([info("h", tarfile.LNKTYPE, "nowhere")], "No such file"),
        ([info("h", tarfile.LNKTYPE, ".wh..wh.plnk/1.2")], "aufs did not leave"),
        ([file(".wh.")], "deletes no name"),
        ([file("d/.wh..")], "deletes no name"),
        ([file(".wh...")], "deletes no name"),
        ([file(".")], "root of a layer is a directory"),
        ([info("x", b"Z")], "of which Docker knew nothing"),
        ([info("x", pax_headers={"uid": "4294967295"})], "no user or group"),
        ([info("x", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/"})], "overlayfs"),
        ([info("x", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})], "sparse"),
        ([info("x", pax_headers={"GNU.sparse.map": "0,9", "GNU.sparse.size": "5"})], "sparse"),
        ([info("x", pax_headers={"GNU.sparse.map": "0,0", "GNU.sparse.size": "9" * 30})], "sparse"),
        ([(info("x", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.realsize": "5"}), b"9\n".ljust(512, b"\0"))], "sparse"),
    ],
)
def test_what_cannot_be_unpacked_is_named(top: Path, made: list[Any], problem: str) -> None:
    with pytest.raises((ValueError, OSError), match=problem):
        unpack(make_archive(*made), top)


@pytest.mark.parametrize("length", [1, 511, 513, 512 + 100])
def test_an_archive_that_is_cut_off(top: Path, length: int) -> None:
    with pytest.raises(ValueError, match=r".+"):
        unpack(make_archive(file("a", b"x" * 5000))[:length], top)


# As Docker did: against a model of it


def archive_of(layer: Iterable[unpacking.Member]) -> bytes:
    """The archive of what the model has unpacked. A hard link's header says what its file's does."""
    made = {member.name: member for member in layer}
    kinds = {
        unpacking.HARD_LINK: tarfile.LNKTYPE,
        stat.S_IFREG: tarfile.REGTYPE,
        stat.S_IFDIR: tarfile.DIRTYPE,
        stat.S_IFLNK: tarfile.SYMTYPE,
        stat.S_IFIFO: tarfile.FIFOTYPE,
        stat.S_IFCHR: tarfile.CHRTYPE,
    }
    infos = []
    for member in made.values():
        about = member
        while about.kind == unpacking.HARD_LINK:
            about = made[about.target]
        time = {"mtime": f"{about.mtime // 10**9}.{about.mtime % 10**9:09}"}
        target = os.fsdecode(member.target)
        fields = {"mode": about.mode, "pax_headers": time, "devmajor": 7, "devminor": 9}
        each = info(os.fsdecode(member.name), kinds[member.kind], target, **fields)
        infos.append((each, member.content) if member.kind == stat.S_IFREG else each)
    return make_archive(*infos)


def seen(tree: Path) -> dict[bytes, dict[str, Any]]:
    """What is in a tree, but for what a directory has that no archive told of."""
    found = listing(tree)
    for about in found.values():
        if stat.S_ISDIR(int(about["mode"], 8)):
            about["mtime"] = 0
            about["mode"] = about["mode"].replace("40600", "40755")
    return found


def registered(root: Path, driver: str, layers: list[bytes]) -> list[Path]:
    """Make the layers of ``driver`` as images would be, each on the one before."""
    made: list[Path] = []
    for number, archive in enumerate(layers):
        made.append(make_layer(root, driver, f"{number:064x}", f"{number - 1:064x}" if number else None))
        unpack(archive, made[-1], as_it_is=driver == "aufs", shared=driver == "overlay" and number > 0)
    return made


MANY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@MANY
@given(st.lists(members(), min_size=1, max_size=3))
def test_trees_are_those_of_docker(layers: list[list[unpacking.Member]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "model").mkdir()
        archives = [archive_of(applied) for applied in unpacking.stack(place / "model", layers)]
        for driver in ("vfs", "overlay"):
            made = registered(place, driver, archives)
            for number, tree in enumerate(made):
                assert seen(tree) == seen(place / "model" / str(number)), driver


@MANY
@given(st.lists(members(links=False).map(unpacking.with_parents), min_size=1, max_size=3))
def test_diffs_of_aufs_show_the_trees_of_docker(layers: list[list[unpacking.Member]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "model").mkdir()
        stacked = unpacking.stack(place / "model", layers)
        assume(all(unpacking.with_parents(applied) == applied for applied in stacked))
        made = registered(place, "aufs", [archive_of(applied) for applied in stacked])
        (place / "full").mkdir()
        Filler(FillMode.COPY, full=True, advance=lambda _: None).fill(DRIVERS["aufs"].full(made[::-1]), place / "full")
        assert seen(place / "full") == seen(place / "model" / str(len(layers) - 1))
