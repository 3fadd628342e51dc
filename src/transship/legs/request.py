"""A migration that was asked for, and by what a stopped run is recognised as the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from transship.errors import JournalError, TransshipError
from transship.files.fill import FillMode
from transship.formats.compression import Recipe
from transship.legs.targets import LEGS, TargetSpec, is_cache, is_in_place, parse_target
from transship.stores.busy import ensure_not_in_use
from transship.stores.root import locate, locate_caches

if TYPE_CHECKING:
    from typing import Any, Self

    from transship.config import Settings
    from transship.engine.records import RunRecord
    from transship.stores.root import Place


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
        if run.leg not in LEGS:
            raise JournalError(f"run {run.id} moved nothing", remedy=f"name a run of the leg {' or '.join(LEGS)}")
        replace = msgspec.structs.replace
        try:
            options = run.options
            target, recipe = TargetSpec.from_json(options["target"]), Recipe.parse(options["recipe"])
            asked = replace(
                settings,
                source=replace(settings.source, directory=Path(options["source"]), driver=options["driver"] or None),
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

    def route(self) -> Route:
        """Find the source, and say which target is meant. Raises UsageError, SourceError, also if a daemon uses the source."""
        source, target = self.settings.source, self.settings.target
        if is_cache(target.to):
            place = locate_caches(source.directory)
        else:
            place = locate(source.directory, driver=source.driver, old=is_in_place(target.to))
        ensure_not_in_use(place.root)
        return Route(self, place, parse_target(target.to, target.namespace, target.snapshotter, place))


@dataclass(frozen=True)
class Route:
    """What a request comes to: the store that was found at ``place``, and the target."""

    request: Request
    place: Place
    target: TargetSpec

    @property
    def settings(self) -> Settings:
        """Those of the request."""
        return self.request.settings

    @property
    def options(self) -> dict[str, Any]:
        """The options by which a run that has stopped is recognised as one of the same request."""
        return {
            "source": str(self.place.root.resolve()),
            "driver": self.place.driver,
            "target": self.target.to_json(),
            "recipe": self.request.recipe.name,
            "fill": self.settings.snapshots.fill.value,
            "images": sorted(self.request.images),
        }

    @property
    def scope(self) -> str:
        """Within what outcomes of one run may be used again by another."""
        place, target = self.place, self.target
        return "|".join([target.leg, str(place.root.resolve()), place.driver, str(target), self.request.recipe.name])
