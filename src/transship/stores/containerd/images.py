"""Image names in containerd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask

from transship.errors import TargetExists, TargetNotFound
from transship.formats.digest import Digest
from transship.stores.containerd import rpc
from transship.stores.containerd.api import images_pb2 as api
from transship.stores.containerd.api.types_pb2 import Descriptor
from transship.stores.interfaces import ImageDescriptor, ImageRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

_SERVICE = api.DESCRIPTOR.services_by_name["Images"]
_GET = rpc.method(_SERVICE, "Get", api.GetImageRequest, api.GetImageResponse)
_LIST = rpc.method(_SERVICE, "List", api.ListImagesRequest, api.ListImagesResponse)
_CREATE = rpc.method(_SERVICE, "Create", api.CreateImageRequest, api.CreateImageResponse)
_UPDATE = rpc.method(_SERVICE, "Update", api.UpdateImageRequest, api.UpdateImageResponse)
_DELETE = rpc.method(_SERVICE, "Delete", api.DeleteImageRequest, Empty)


class ContainerdImages:
    """The image names of one namespace, as ``ImageStore``."""

    def __init__(self, connection: rpc.Connection) -> None:
        self._connection = connection

    def get(self, name: str) -> ImageRecord:
        """Look a name up. Raises TargetNotFound."""
        return _record(self._connection.call(_GET, api.GetImageRequest(name=name), f"image {name}").image)

    def list(self) -> Iterator[ImageRecord]:
        """Yield every record."""
        for image in self._connection.call(_LIST, api.ListImagesRequest(), "list of images").images:
            yield _record(image)

    def put(self, record: ImageRecord) -> None:
        """Create the name, or point it at the record's target and labels if it exists."""
        target = Descriptor(media_type=record.target.media_type, digest=record.target.digest, size=record.target.size)
        image = api.Image(name=record.name, labels=record.labels, target=target)
        try:
            self._connection.call(_CREATE, api.CreateImageRequest(image=image), f"image {record.name}")
        except TargetExists:
            request = api.UpdateImageRequest(image=image, update_mask=FieldMask(paths=["target", "labels"]))
            self._connection.call(_UPDATE, request, f"image {record.name}")

    def delete(self, name: str) -> None:
        """Remove a name; one that is not there is success."""
        try:
            self._connection.call(_DELETE, api.DeleteImageRequest(name=name), f"image {name}")
        except TargetNotFound:
            return


def _record(image: api.Image) -> ImageRecord:
    # Not parsed: one image of another tool with a digest other than sha256 must not spoil the list.
    target = ImageDescriptor(image.target.media_type, Digest(image.target.digest), image.target.size)
    return ImageRecord(image.name, target, dict(image.labels))
