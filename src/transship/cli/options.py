"""Options that several commands share, and how they override the configuration file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from transship.api.models import MAX_JOBS
from transship.files.fill import FillMode
from transship.formats.compression import Codec
from transship.legs.request import Request
from transship.legs.targets import ensure_known

if TYPE_CHECKING:
    from transship.config import Settings

T = TypeVar("T", bound=msgspec.Struct)


def add_source_and_target(parser: argparse.ArgumentParser) -> None:
    """Add the options that say from where to where."""
    parser.add_argument(
        "--source",
        type=Path,
        metavar="DIR",
        help="Docker's data root (default: the data-root of daemon.json, or /var/lib/docker)",
    )
    parser.add_argument(
        "--target",
        metavar="TARGET",
        help="containerd, containerd:SOCKET, containerd-root:DIR for the root of a containerd that does not run, oci:DIR for an"
        " OCI image layout, or docker to upgrade a store of Docker 1.9 or older in its own root (default: containerd, if its"
        " socket is there)",
    )
    parser.add_argument(
        "--image",
        dest="images",
        action="append",
        default=[],
        metavar="REF",
        help="only this image (name or ID), with the images it was built from; may be repeated",
    )
    parser.add_argument("--namespace", metavar="N", help="containerd namespace (default: moby, Docker's; Kubernetes': k8s.io)")
    parser.add_argument(
        "--snapshotter", metavar="S", help="overlayfs or native (default: native for vfs, overlayfs for all others)"
    )


def add_state_dir(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where the journal is."""
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="where the journal is (default: /var/lib/transship)")


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the option for scripts."""
    parser.add_argument("--json", action="store_true", help=what)


def add_socket(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where the service listens."""
    parser.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help="where the transship service listens (default: /run/transship/transship.sock)",
    )


def add_direct(parser: argparse._ActionsContainer) -> None:
    """Add the option of commands that the service carries out if there is one."""
    parser.add_argument("--direct", action="store_true", help="do the work in this process, even if the service runs")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how blobs are made and snapshots are filled."""
    parser.add_argument(
        "--compression",
        choices=[codec.value for codec in Codec],
        help="of layer blobs (default: zstd; Docker 20.10 and older can read only gzip)",
    )
    parser.add_argument("--level", type=int, metavar="N", help="zstd 1 to 19 (default: 3), gzip 0 to 3 (default: 1)")
    parser.add_argument(
        "--fill",
        choices=[mode.value for mode in FillMode],
        help="how files get into snapshots (default: auto: reflink where the file system can, else hard links for files of"
        " 64 KiB and more and copies of smaller ones, else copies)",
    )
    add_jobs(parser)


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add the option that says how much is done at once."""
    parser.add_argument(
        "--jobs", type=_number_of_jobs, metavar="N", help="layers worked on at once (default: one per processor, but at most 8)"
    )


def request_from(options: argparse.Namespace, settings: Settings) -> Request:
    """Return what ``options`` ask for, on top of ``settings``."""
    return Request(overridden(options, settings), tuple(options.images))


def ensure_usable(request: Request) -> None:
    """Return if level and target are such as there are: better told here than by whoever is to carry it out.

    Raises UsageError.
    """
    target = request.settings.target
    _ = request.recipe
    if target.to is not None:
        ensure_known(target.to)


def overridden(options: argparse.Namespace, settings: Settings) -> Settings:
    """Return ``settings`` with what was given on the command line in their place.

    The state directory is an absolute path, which means the same to the service.
    """

    def given(name: str) -> object:
        return getattr(options, name, None)

    def replace(section: T, **names: str) -> T:
        return msgspec.structs.replace(
            section, **{field: value for field, name in names.items() if (value := given(name)) is not None}
        )

    compression, fill = given("compression"), given("fill")
    blobs = replace(settings.blobs, level="level")
    if compression is not None:
        blobs = msgspec.structs.replace(blobs, compression=Codec(compression))
    snapshots = settings.snapshots if fill is None else msgspec.structs.replace(settings.snapshots, fill=FillMode(fill))
    run = replace(settings.run, state_dir="state_dir", jobs="jobs")
    return msgspec.structs.replace(
        settings,
        source=replace(settings.source, directory="source"),
        target=replace(settings.target, to="target", namespace="namespace", snapshotter="snapshotter"),
        blobs=blobs,
        snapshots=snapshots,
        run=msgspec.structs.replace(run, state_dir=run.state_dir.absolute()),
        service=replace(settings.service, socket="socket"),
    )


def _number_of_jobs(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_JOBS:
        raise argparse.ArgumentTypeError(f"must be from 1 to {MAX_JOBS}")
    return value
