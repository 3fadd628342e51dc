"""What one migration is between, and how: what every step of it is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transship.files.fill import FillMode
    from transship.formats.compression import Recipe
    from transship.legs.request import Route
    from transship.stores.docker.store import Store
    from transship.stores.interfaces import Target

UNCOMPRESSED_LABEL = "containerd.io/uncompressed"
RECIPE_LABEL = "transship/recipe"
RUN_LABEL = "transship/run"
"""On an image record: the run that made it. Tells a name that a killed run wrote from one that was there before."""
GC_SNAPSHOT_LABEL = "containerd.io/gc.ref.snapshot."
GC_CONFIG_LABEL = "containerd.io/gc.ref.content.config"
GC_LAYER_LABEL = "containerd.io/gc.ref.content.l."


@dataclass(frozen=True)
class Voyage:
    """From ``store`` to ``target``, with ``jobs`` layers at once.

    ``namespace`` decides how images are named; ``run`` is the run's ID, empty for a plan.
    """

    store: Store
    target: Target
    recipe: Recipe
    fill: FillMode
    namespace: str
    jobs: int
    run: str = ""


def voyage_of(route: Route, store: Store, target: Target, run: str = "") -> Voyage:
    """Return the voyage of ``route``, from ``store`` as it was read to ``target`` as it was opened."""
    request, settings = route.request, route.settings
    return Voyage(store, target, request.recipe, settings.snapshots.fill, route.target.namespace, settings.run.parallel, run)
