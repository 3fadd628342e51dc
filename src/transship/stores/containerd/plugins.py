"""What containerd says of its parts: which it has, and where they keep their files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from transship.errors import TargetRefused
from transship.stores.containerd import rpc
from transship.stores.containerd.api import introspection_pb2 as api

if TYPE_CHECKING:
    from transship.stores.containerd.api.introspection_pb2 import Plugin

_SERVICE = api.DESCRIPTOR.services_by_name["Introspection"]
_PLUGINS = rpc.method(_SERVICE, "Plugins", api.PluginsRequest, api.PluginsResponse)

_CONTENT = ("io.containerd.content.v1", "content")
_METADATA = ("io.containerd.metadata.v1", "bolt")
_SNAPSHOTTER = "io.containerd.snapshotter.v1"


class Plugins:
    """containerd's plugins that store things (containerd ``docs/PLUGINS.md``)."""

    def __init__(self, connection: rpc.Connection, snapshotter: str) -> None:
        """Ask containerd. Raises TargetRefused if it cannot use one of those needed."""
        answer = connection.call(_PLUGINS, api.PluginsRequest(), "list of plugins")
        plugins = {(plugin.type, plugin.id): plugin for plugin in answer.plugins}
        usable = [name for kind, name in plugins if kind == _SNAPSHOTTER and not plugins[kind, name].HasField("init_err")]
        self._metadata = Path(_usable(plugins, _METADATA, usable).exports["path"]).parent
        # containerd 2.x makes the directory for content with the first blob: until then, the one that it will be in.
        content = Path(_usable(plugins, _CONTENT, usable).exports["root"])
        self._content = content if content.is_dir() else content.parent
        exported = _usable(plugins, (_SNAPSHOTTER, snapshotter), usable).exports
        # The native snapshotter of containerd before 2.0 does not say; like all, it is beside the others.
        self._snapshots = Path(exported.get("root") or self._metadata.parent / f"{_SNAPSHOTTER}.{snapshotter}")
        for path in (self._metadata, self._content, self._snapshots):
            if not path.is_dir():
                raise TargetRefused(
                    f"containerd's directory {path} is not here", remedy="run on containerd's host, in its mount namespace"
                )

    @property
    def landing(self) -> dict[str, Path]:
        """Where content and snapshots land."""
        return {"content": self._content, "snapshots": self._snapshots}

    @property
    def stores(self) -> tuple[Path, ...]:
        """Every directory that something is kept in."""
        return (self._metadata, self._content, self._snapshots)


def _usable(plugins: dict[tuple[str, str], Plugin], name: tuple[str, str], snapshotters: list[str]) -> Plugin:
    plugin = plugins.get(name)
    remedy = f"see containerd's log and configuration; snapshotters that it has ready: {', '.join(sorted(snapshotters))}"
    if plugin is None:
        raise TargetRefused(f"containerd has no {'.'.join(name)}", remedy=remedy)
    if plugin.HasField("init_err"):
        raise TargetRefused(f"containerd could not start {'.'.join(name)}: {plugin.init_err.message}", remedy=remedy)
    return plugin
