"""A migration that was asked for, and by what a stopped run is recognised as the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from transship.errors import JournalError, TransshipError
from transship.files.fill import FillMode
from transship.formats.compression import Recipe
from transship.legs.containerd.targets import TargetSpec, parse_target
from transship.legs.containerd.voyage import LEG
from transship.stores.docker.busy import ensure_not_in_use
from transship.stores.docker.root import open_store

if TYPE_CHECKING:
    from typing import Any, Self

    from transship.config import Settings
    from transship.engine.records import RunRecord
    from transship.stores.docker.store import Store


@dataclass(frozen=True)
class Request:
    """A migration that was asked for: settings, and the images wanted (names or IDs; none: all)."""

    settings: Settings
    images: tuple[str, ...] = ()

    @classmethod
    def of_run(cls, run: RunRecord, settings: Settings) -> Self:
        """Return what ``run`` was asked for; the rest is as in ``settings``.

        Raises JournalError if the run moved nothing, or was made by a version that knows other options.
        """
        if run.leg != LEG:
            raise JournalError(f"run {run.id} moved nothing", remedy="name a run of the leg " + LEG)
        replace = msgspec.structs.replace
        try:
            options = run.options
            target, recipe = TargetSpec.from_json(options["target"]), Recipe.parse(options["recipe"])
            asked = replace(
                settings,
                source=replace(settings.source, directory=Path(options["source"]), driver=options["driver"]),
                target=replace(
                    settings.target,
                    to=target.name,
                    namespace=target.namespace or settings.target.namespace,
                    snapshotter=target.snapshotter or None,
                ),
                blobs=replace(settings.blobs, compression=recipe.codec, level=recipe.level),
                snapshots=replace(settings.snapshots, fill=FillMode(options["fill"])),
            )
            return cls(asked, tuple(options["images"]))
        except (KeyError, ValueError, TypeError, TransshipError) as error:
            raise JournalError(
                f"run {run.id} has options that are not known here: {error}", remedy="start it anew with `transship migrate`"
            ) from error

    @property
    def recipe(self) -> Recipe:
        """The recipe for blobs. Raises UsageError."""
        return Recipe.make(self.settings.blobs.compression, self.settings.blobs.level)

    def open_source(self) -> Store:
        """Read the source. Raises SourceError, also if a daemon is using it."""
        store = open_store(self.settings.source.directory, driver=self.settings.source.driver)
        ensure_not_in_use(store.root)
        return store

    def target(self, store: Store) -> TargetSpec:
        """Return which target is meant. Raises UsageError."""
        target = self.settings.target
        return parse_target(target.to, target.namespace, target.snapshotter, store.driver)

    def options(self, store: Store, spec: TargetSpec) -> dict[str, Any]:
        """Return the options by which a run that has stopped is recognised as one of the same request."""
        return {
            "source": str(store.root.resolve()),
            "driver": store.driver,
            "target": spec.to_json(),
            "recipe": self.recipe.name,
            "fill": self.settings.snapshots.fill.value,
            "images": sorted(self.images),
        }

    def scope(self, store: Store, spec: TargetSpec) -> str:
        """Return within what outcomes of one run may be used again by another."""
        return "|".join([LEG, str(store.root.resolve()), store.driver, str(spec), self.recipe.name])
