"""What an image is called in the target.

dockerd names images by their canonical reference, and those without a tag ``moby-dangling@<manifest digest>`` (moby
``daemon/containerd/image.go``). Kubernetes' CRI plugin, in the namespace ``k8s.io``, sees only images with its label, and names
those without a tag by their image ID (containerd ``internal/cri/store/image``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transship.formats.digest import Digest
    from transship.stores.interfaces import Labels

KUBERNETES = "k8s.io"
_CRI_LABELS = {"io.cri-containerd.image": "managed"}


def untagged(namespace: str, image_id: Digest, manifest: Digest) -> str:
    """Return the name of an image that has no tag."""
    return image_id if namespace == KUBERNETES else f"moby-dangling@{manifest}"


def labels(namespace: str) -> Labels:
    """Return the labels that every image record in ``namespace`` carries."""
    return _CRI_LABELS if namespace == KUBERNETES else {}
