"""Makes the sample store: a small Docker data root, as a real dockerd left it, packed into ``harbour.tar.zst``.

    python samples/make_sample.py

Needs root and Docker 20.10 to 28 with the driver overlay2. File contents are the same every time; image IDs are not, since
the classic builder writes the time of day into them. What the store holds is told in README.md.
"""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import zstandard

ARCHIVE = Path(__file__).with_name("harbour.tar.zst")
CLOCK = 1_700_000_000
BLOCK = 16 << 10
NOT_IMAGES = ("./root/containerd", "./root/tmp", "./root/runtimes")
"""Of the daemon's own, and of no use to anyone else."""

WEB = {
    "1": {
        "Dockerfile": "FROM harbour/base:1\nLABEL port=Rotterdam\nCOPY ships /srv/ships\nENV BERTHS=4\nCOPY index.html /srv/\n",
        "index.html": "<h1>Arrivals</h1>\n",
        "ships/mary-celeste": "bound for Genoa\n",
        "ships/santa-maria": "bound for Palos\n",
    },
    "2": {
        "Dockerfile": 'FROM harbour/web:1\nCOPY index.html /srv/\nCMD ["/srv/serve"]\n',
        "index.html": "<h1>Arrivals and departures</h1>\n",
    },
    "2, built again": {
        "Dockerfile": 'FROM harbour/web:1\nCOPY index.html /srv/\nCMD ["/srv/serve"]\n',
        "index.html": "<h1>Arrivals, departures and weather</h1>\n",
    },
}
"""The builds on top of the base: their files. The third takes the second's tag, and leaves it dangling."""


def main() -> int:
    """Make the archive; return 0."""
    with tempfile.TemporaryDirectory(prefix="transship-sample-") as text:
        directory = Path(text)
        daemon = start_dockerd(directory)
        try:
            make_images(directory, ["docker", "-H", f"unix://{directory}/docker.sock"])
        finally:
            daemon.terminate()
            daemon.wait()
        pack(directory)
    return 0


def make_images(directory: Path, docker: list[str]) -> None:
    """Make all images with the ``docker`` command given."""
    (directory / "base.tar").write_bytes(base_image())
    subprocess.run([*docker, "load", "-q", "-i", str(directory / "base.tar")], check=True)
    for name, files in WEB.items():
        context = directory / name.replace(", ", "-").replace(" ", "-")
        for path, content in files.items():
            (context / path).parent.mkdir(parents=True, exist_ok=True)
            (context / path).write_text(content)
        build = [*docker, "build", "-q", "-t", f"harbour/web:{name[0]}", str(context)]
        subprocess.run(build, check=True, env={"DOCKER_BUILDKIT": "0", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    for tag in ("harbour/web:latest", "registry.example:5000/team/web:stable"):
        subprocess.run([*docker, "tag", "harbour/web:2", tag], check=True)


def base_image() -> bytes:
    """Return an image of three layers as ``docker load`` takes it. The second deletes and replaces what is in the first."""
    layers = [
        layer(
            {
                "etc/": None,
                "etc/motd": b"Welcome to the harbour.\n",
                "etc/rumours": b"The lighthouse is closing.\n",
                "var/": None,
                "var/queue/": None,
                "var/queue/0001": b"timber\n",
                "var/queue/0002": b"salt\n",
            }
        ),
        layer({"etc/.wh.rumours": b"", "var/queue/": None, "var/queue/.wh..wh..opq": b"", "var/queue/0003": b"spices\n"}),
        layer({"srv/": None, "srv/ledger/": None} | {f"srv/ledger/{year}.txt": ledger(year) for year in range(1850, 1900)}),
    ]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2023-11-14T22:13:20Z",
            "config": {"Env": ["PATH=/srv"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(data).hexdigest()}" for data in layers]},
            "history": [{"created": "2023-11-14T22:13:20Z", "created_by": f"layer {number}"} for number in (1, 2, 3)],
        }
    ).encode()
    names = [f"{number}/layer.tar" for number in (1, 2, 3)]
    manifest = json.dumps([{"Config": "config.json", "RepoTags": ["harbour/base:1"], "Layers": names}]).encode()
    files = dict(zip(names, layers, strict=True))
    return layer({"config.json": config, "manifest.json": manifest, "1/": None, "2/": None, "3/": None, **files})


def layer(files: dict[str, bytes | None]) -> bytes:
    """Return a tar with ``files``; a name that ends in a slash is a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.rstrip("/"))
            member.mtime = CLOCK
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            member.mode = 0o755 if content is None else 0o644
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))
    return out.getvalue()


def ledger(year: int) -> bytes:
    """Return two megabytes of bookkeeping. All years share their pages, so that the archive stays small."""
    source = random.Random(1)  # noqa: S311 - reproducible content, not a secret
    goods = ["timber", "salt", "spices", "wool", "copper", "tea", "rope", "grain"]
    pages = []
    for _ in range(8):
        lines = [f"{source.choice(goods):8}{source.randrange(900):6} bales  berth {source.randrange(1, 5)}" for _ in range(500)]
        pages.append("\n".join(lines)[:BLOCK].ljust(BLOCK, ".") + "\n")
    order = random.Random(year)  # noqa: S311
    return f"Ledger of {year}\n{''.join(order.choices(pages, k=128))}".encode()


def start_dockerd(directory: Path) -> subprocess.Popen[bytes]:
    """Start a private dockerd below ``directory``; return it once it answers. Raises RuntimeError."""
    socket = directory / "docker.sock"
    log = directory / "dockerd.log"
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            ["dockerd", "--data-root", str(directory / "root"), "--exec-root", str(directory / "exec"), "-H", f"unix://{socket}",
             "-p", str(directory / "docker.pid"), "--iptables=false", "--ip6tables=false", "--bridge=none", "-s", "overlay2"],
            stdout=output,
            stderr=output,
        )  # fmt: skip
    for _ in range(300):
        if daemon.poll() is not None:
            break
        if subprocess.run(["docker", "-H", f"unix://{socket}", "info"], check=False, capture_output=True).returncode == 0:
            return daemon
        time.sleep(0.1)
    daemon.terminate()
    raise RuntimeError(f"dockerd did not come up: {log.read_text()[-2000:]}")


def pack(directory: Path) -> None:
    """Pack the data root with everything that is in it: owners, modes, times, xattrs, devices."""
    leave_out = [f"--exclude={path}" for path in NOT_IMAGES]
    keep = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--sort=name", "--sparse"]
    command = ["tar", "-C", str(directory), *keep, *leave_out, "-cf", "-", "./root"]
    tar = subprocess.run(command, check=True, capture_output=True)
    parameters = zstandard.ZstdCompressionParameters.from_level(19, window_log=23, enable_ldm=True)
    ARCHIVE.write_bytes(zstandard.ZstdCompressor(compression_params=parameters).compress(tar.stdout))


if __name__ == "__main__":
    sys.exit(main())
