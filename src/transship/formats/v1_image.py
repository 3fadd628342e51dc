"""Image configs of Docker 1.9 and before, and what Docker 1.10 made of them when it gave images content-addressed IDs.

Sources: moby v1.10.3 ``migrate/v1/migratev1.go`` (parents, containers), ``image/v1/imagev1.go`` (configs, history),
``image/image.go``, engine-api ``types/container/config.go`` (structs); moby v1.9.1 ``image/image.go`` and ``graph/graph.go``
(strong IDs, v1Compatibility); distribution ``digest/digest.go``. ``raw`` is always the content of a file; all raise
ValueError that says what is wrong with it: not JSON, more than ``go_json.MAX_SIZE`` bytes, or a value of another type.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from transship.formats import digest, go_json
from transship.formats.go_struct import COMMAND, FLAG, INTEGER, LABELS, NAMES, TEXT, TEXTS, TIME, Field, Kind, pointer, struct

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transship.formats.digest import Digest

_ARGS_ESCAPED = Field("ArgsEscaped", FLAG, omit_empty=True)
"""New in 1.10."""


def _container_config(*new: Field) -> Kind:
    return struct(
        Field("Hostname", TEXT),
        Field("Domainname", TEXT),
        Field("User", TEXT),
        Field("AttachStdin", FLAG),
        Field("AttachStdout", FLAG),
        Field("AttachStderr", FLAG),
        Field("ExposedPorts", NAMES, omit_empty=True),
        Field("PublishService", TEXT, omit_empty=True),
        Field("Tty", FLAG),
        Field("OpenStdin", FLAG),
        Field("StdinOnce", FLAG),
        Field("Env", TEXTS),
        Field("Cmd", COMMAND),
        *new,
        Field("Image", TEXT),
        Field("Volumes", NAMES),
        Field("WorkingDir", TEXT),
        Field("Entrypoint", COMMAND),
        Field("NetworkDisabled", FLAG, omit_empty=True),
        Field("MacAddress", TEXT, omit_empty=True),
        Field("OnBuild", TEXTS),
        Field("Labels", LABELS),
        Field("StopSignal", TEXT, omit_empty=True),
    )


def _image(container_config: Kind, *more: Field) -> Kind:
    return struct(
        Field("id", TEXT, omit_empty=True),
        Field("parent", TEXT, omit_empty=True),
        Field("comment", TEXT, omit_empty=True),
        Field("created", TIME),
        Field("container", TEXT, omit_empty=True),
        Field("container_config", container_config),
        Field("docker_version", TEXT, omit_empty=True),
        Field("author", TEXT, omit_empty=True),
        Field("config", pointer(container_config), omit_empty=True),
        Field("architecture", TEXT, omit_empty=True),
        Field("os", TEXT, omit_empty=True),
        Field("Size", INTEGER, omit_empty=True),
        *more,
    )


_IMAGE = _image(_container_config(_ARGS_ESCAPED))
_IMAGE_1_9 = _image(_container_config(), Field("parent_id", TEXT, omit_empty=True), Field("layer_id", TEXT, omit_empty=True))
_HISTORY_ENTRY = struct(
    Field("created", TIME),
    Field("author", TEXT, omit_empty=True),
    Field("created_by", TEXT, omit_empty=True),
    Field("comment", TEXT, omit_empty=True),
    Field("empty_layer", FLAG, omit_empty=True),
)
_PARENT = struct(Field("Parent", TEXT), Field("parent_id", TEXT))
_VERSION = struct(Field("docker_version", TEXT))
_ID = struct(Field("ID", TEXT))

_NEVER_IN_CONFIG = ("id", "parent", "Size", "parent_id", "layer_id", "throwaway")
_NEVER_IN_STRONG_CONFIG = ("id", "parent", "Size")

_VERSION_PARTS = 100
"""Parts of a version that are compared; nobody has written more than four."""

_DIGEST = re.compile(rb"sha256:[0-9a-fA-F]{64}|sha384:[0-9a-fA-F]{96}|sha512:[0-9a-fA-F]{128}")


def parent_of(raw: bytes, parent_file: bytes | None = None) -> str | None:
    """Return what an image's ``json`` and its file ``parent`` (None if there is none) name as its parent, None if it is a base.

    As Docker 1.10 resolved it: the ``parent`` of the JSON, else the hexadecimal part of its ``parent_id``, and before both a
    ``parent`` file that is not empty; but for white space around the file's text, which Docker took for a part of the ID, and
    did not find it. The text is not checked. Raises ValueError if ``parent_id`` has no colon, where Docker panicked.
    """
    values = _decode(_PARENT, raw)
    written = (parent_file or b"").strip()
    if written:
        return written.decode("utf-8", "replace")
    if values["Parent"]:
        return str(values["Parent"])
    _, colon, hex_part = values["parent_id"].partition(":")
    if values["parent_id"] and not colon:
        raise ValueError(f"parent_id without a colon: {values['parent_id'][:80]!r}")
    return hex_part or None


def image_config(raw: bytes, diff_ids: Sequence[Digest], history: Sequence[bytes]) -> bytes:
    """Return the config that Docker 1.10 made of an image's ``json``; its SHA-256 is the image ID.

    ``diff_ids`` base first; ``history`` likewise, each as ``history_entry`` returns it. What Docker 1.8.3 or later wrote is
    kept as it stands, unknown keys and all; what is older is first decoded and written anew. Raises ValueError also if the
    config gets larger than ``go_json.MAX_SIZE``.
    """
    members = _members(raw, _IMAGE)
    for key in _NEVER_IN_CONFIG:
        members.pop(key, None)
    diffs = go_json.array_of(map(go_json.quote, diff_ids))
    members["rootfs"] = go_json.object_of([("type", go_json.quote("layers")), ("diff_ids", diffs)])
    members["history"] = go_json.array_of(history)
    config = go_json.map_of(members)
    if len(config) > go_json.MAX_SIZE:
        raise ValueError(f"an image config of {len(config)} bytes, over the limit of {go_json.MAX_SIZE}")
    return config


def history_entry(raw: bytes) -> bytes:
    """Return the entry for the history of an image and its descendants: a JSON object."""
    image = _decode(_IMAGE, raw)
    entry = {
        "created": image["created"],
        "author": image["author"],
        "created_by": " ".join(image["container_config"]["Cmd"] or ()),
        "comment": image["comment"],
        "empty_layer": False,
    }
    return _HISTORY_ENTRY.encode(entry)


def history_of(config: bytes) -> list[bytes]:
    """Return the entries of the history in an image config, decoded and written anew as Docker does when it passes them on."""
    history = dict(go_json.members(config)).get("history", b"null")
    entries = [] if history == b"null" else go_json.elements(history)
    return [_HISTORY_ENTRY.encode(_HISTORY_ENTRY.decode(entry, _HISTORY_ENTRY.zero)) for entry in entries]


def container_config(raw: bytes, image_id: Digest) -> bytes:
    """Return the ``config.v2.json`` that Docker 1.10 made of a container's ``config.json``."""
    return go_json.map_of(dict(go_json.members(raw)) | {"Image": go_json.quote(image_id)})


def container_image(raw: bytes) -> str:
    """Return the ID of the image that a container's ``config.json`` names. Raises ValueError if it names none."""
    members = dict(go_json.members(raw))
    if "Image" not in members:
        raise ValueError("no Image")
    if not members["Image"].startswith(b'"'):
        raise ValueError(
            "Image is null" if members["Image"] == b"null" else f"Image is not a string: {members['Image'][:40]!r}"
        )
    image = go_json.string(members["Image"])
    if not image:
        raise ValueError("Image is empty")
    return image


def registry_digest(text: bytes) -> str | None:
    """Return the digest of a layer's blob in a registry from an image's file ``checksum``, None if Docker 1.10 ignored it.

    It ignored what is not to the letter a SHA-256, SHA-384 or SHA-512 digest: a tarsum, or one with a newline after it.
    """
    return text.decode() if _DIGEST.fullmatch(text) else None


def v1_compatibility(raw: bytes, image_id: str, parent: str | None, size: int) -> bytes:
    """Return what Docker 1.9 stored in an image's file ``v1Compatibility`` when it had none yet: its ``json`` written anew.

    ``image_id`` is the name of the image's directory, ``parent`` the ``compatibility_id`` of its parent (None if it is a base),
    ``size`` that of its layer in bytes.
    """
    image = _decode(_IMAGE_1_9, raw)
    image |= {"id": image["id"] or image_id, "parent": parent or "", "Size": size}
    return _IMAGE_1_9.encode(image)


def compatibility_id(v1_compatibility: bytes) -> str:
    """Return the ID that children name as their parent in their own ``v1Compatibility``: empty if there is none."""
    return str(_decode(_ID, v1_compatibility)["ID"])


def strong_config(v1_compatibility: bytes, layer: str, parent: Digest | None) -> bytes:
    """Return the ``json`` that Docker 1.9 gave an image pulled from a v2 registry.

    ``layer`` is the digest of the layer's blob, ``parent`` the parent's strong ID (None for a base).
    """
    members = _members(v1_compatibility, _IMAGE_1_9)
    members["layer_id"] = go_json.quote(layer)
    if parent is not None:
        members["parent_id"] = go_json.quote(parent)
    for key in _NEVER_IN_STRONG_CONFIG:
        members.pop(key, None)
    return go_json.map_of(members)


def strong_id(v1_compatibility: bytes, layer: str, parent: Digest | None) -> Digest:
    """Return the digest of ``strong_config``. Docker stored the image under its hexadecimal part.

    Where that was taken by another image: under the SHA-256 of these digits, and so on.
    """
    return digest.of(strong_config(v1_compatibility, layer, parent))


def _decode(kind: Kind, raw: bytes) -> dict[str, Any]:
    if raw.strip(b" \t\r\n") == b"null":
        raise ValueError("null")  # Go let it pass: Docker made an empty image of it
    values: dict[str, Any] = kind.decode(raw, kind.zero)
    return values


def _members(raw: bytes, image: Kind) -> dict[str, bytes]:
    """Return the members of an image's JSON by key, where it is older than 1.8.3 after it was decoded as ``image``."""
    if _before_1_8_3(_decode(_VERSION, raw)["docker_version"]):
        raw = image.encode(_decode(image, raw))
    return dict(go_json.members(raw))


def _before_1_8_3(version: str) -> bool:
    """Compare versions as Docker did (``pkg/version/version.go``): a part that is no number ("3-rc1", "v1") counts as 0."""
    parts = [_number(part) for part in version.split(".", _VERSION_PARTS)]
    reference = [1, 8, 3]
    return parts + [0] * (3 - len(parts)) < reference + [0] * (len(parts) - 3)


def _number(text: str) -> int:
    found = re.fullmatch(r"([+-]?)0*([0-9]+)", text)
    return int(found[1] + found[2][:18]) if found else 0  # 18 digits are more than any number that it is compared with
