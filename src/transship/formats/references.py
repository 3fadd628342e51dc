"""Names of images: the familiar form that people type and the canonical form that registries and containerd use.

Source: distribution/reference ``normalize.go`` (domain, ``library/``), ``regexp.go`` (grammar), and go-digest ``algorithm.go``
(digests that are accepted). ``debian:bookworm`` is familiar, ``docker.io/library/debian:bookworm`` canonical.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HUB = "docker.io"
_HUB_LEGACY = "index.docker.io"
_OFFICIAL = "library/"
_DEFAULT_TAG = "latest"
_PATH_MAX = 255

_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PATH_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<domain>{_DOMAIN})/(?P<path>{_PATH_PART}(?:/{_PATH_PART})*)(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>[^@]+))?",
    re.ASCII,
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
_TEXT_MAX = 1024  # longer than any domain, path, tag and digest that pass


@dataclass(frozen=True)
class Reference:
    """A name taken apart. ``domain`` and ``path`` are canonical; ``tag`` and ``digest`` are there as far as they were given."""

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @property
    def repository(self) -> str:
        """The canonical name without tag and digest: ``docker.io/library/debian``."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar(self) -> str:
        """The form that Docker shows and keeps in its repositories.json: ``debian:bookworm``."""
        return self._suffixed(self._familiar_repository())

    def __str__(self) -> str:
        return self._suffixed(self.repository)

    def _familiar_repository(self) -> str:
        if self.domain != _HUB:
            return self.repository
        official = self.path.removeprefix(_OFFICIAL)
        return self.path if "/" in official else official

    def _suffixed(self, repository: str) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{repository}{tag}{digest}"


def parse(text: str) -> Reference:
    """Return the reference that ``text``, familiar or canonical, stands for. No tag is added where none is given.

    Raises ValueError if it is malformed, or is 64 hexadecimal digits, which Docker takes for an image ID.
    """
    if len(text) > _TEXT_MAX:
        raise ValueError(f"image name too long: {text[:100]!r}...")
    if _IMAGE_ID.fullmatch(text):
        raise ValueError(f"an image ID, not an image name: {text}")
    domain, remainder = _split_domain(text)
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if match is None:
        raise ValueError(f"not an image name: {text[:100]!r}")
    if len(match["path"]) > _PATH_MAX:
        raise ValueError(f"image name longer than {_PATH_MAX} characters: {text[:100]!r}...")
    if match["digest"] is not None and not _DIGEST.fullmatch(match["digest"]):
        raise ValueError(f"not a digest that an image name can have: {match['digest'][:150]!r} in {text[:100]!r}")
    return Reference(match["domain"], match["path"], match["tag"], match["digest"])


def canonical(text: str) -> str:
    """Return the canonical form of ``text``. Raises ValueError if it is malformed."""
    return str(parse(text))


def familiar(text: str) -> str:
    """Return the familiar form of ``text``. Raises ValueError if it is malformed."""
    return parse(text).familiar


def matches(wanted: str, name: str) -> bool:
    """Say whether ``wanted``, as a person types it, finds the image called ``name``, by the rule of Docker's reference store.

    A digest decides where one is given, whatever the tag; neither tag nor digest means ``:latest``. ``name`` is canonical, with
    a tag or a digest. Image IDs are not looked at. Raises ValueError if either is malformed.
    """
    reference = parse(wanted)
    if reference.digest is not None:
        return canonical(name) == f"{reference.repository}@{reference.digest}"
    return canonical(name) == f"{reference.repository}:{reference.tag or _DEFAULT_TAG}"


def _split_domain(text: str) -> tuple[str, str]:
    """Split off the registry's host. A first part without ``.``, ``:`` or capitals is a user of Docker Hub, not a host."""
    first, slash, rest = text.partition("/")
    if not slash:
        return _HUB, _OFFICIAL + text
    if first == _HUB_LEGACY:
        domain = _HUB
    elif first != "localhost" and "." not in first and ":" not in first and first == first.lower():
        domain, rest = _HUB, text
    else:
        domain = first
    if domain == _HUB and "/" not in rest:
        rest = _OFFICIAL + rest
    return domain, rest
