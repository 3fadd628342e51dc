"""The leg ``graph`` from end to end: checksums of all layers, then images, then containers and names.

Each part is planned from what the one before has left. What fails takes with it what stands on it, and nothing else.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from anyio import to_thread

from transship.engine.plan import Plan
from transship.engine.state_dir import run_directory
from transship.errors import SourceCorrupt
from transship.files.durable import write_file
from transship.files.ledger import Ledger
from transship.legs.aufs.steps import plan_relocation
from transship.legs.aufs.steps import touched as touched_by_relocation
from transship.legs.graph.checksums import LayerSum, checksum_key, checksum_step
from transship.legs.graph.containers import container_steps
from transship.legs.graph.images import NewImage, blocked, image_key, image_steps
from transship.legs.graph.mapping import FILE_NAME as MAPPING
from transship.legs.graph.mapping import SavedMapping
from transship.legs.graph.names import name_steps
from transship.legs.graph.workspace import Workspace, aside
from transship.legs.left_out import LeftOut, lost_step
from transship.legs.report import Report, write_report
from transship.legs.trouble import trouble
from transship.stores.docker.store import read_store
from transship.stores.graph.store import find_image, read_graph
from transship.stores.root import Generation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from transship.engine.step import Step
    from transship.formats.digest import Digest
    from transship.legs.attempt import Attempt
    from transship.legs.targets import TargetSpec
    from transship.stores.graph.images import GraphImage
    from transship.stores.graph.store import Graph
    from transship.stores.root import Place


def ledger_of(root: Path, state_dir: Path, run: str) -> Ledger:
    """Return the ledger of what ``run`` changes in the data root ``root``."""
    return Ledger(root, run_directory(state_dir, run) / "undo")


def workspace_of(state_dir: Path, graph: Graph) -> Workspace:
    """Return where the metadata made of ``graph`` go when its root is not to be written to. Raises OSError."""
    place = aside(state_dir, graph.root, graph.driver)
    scratch = place / "scratch"
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Workspace(graph, place, scratch, None)


def with_ancestors(graph: Graph, wanted: Sequence[str]) -> frozenset[str]:
    """Return the v1 IDs of the images ``wanted`` (names or IDs; none: all), and of those that they stand on.

    Raises UsageError for one that is not in the store, SourceCorrupt for a damaged one.
    """
    if not wanted:
        return frozenset(graph.images)
    whole, lost = graph.in_order()
    parents = {image.id: image.parent for image in whole}
    chosen: set[str] = set()
    for text in wanted:
        current: str | None = find_image(graph, text)
        if current in lost:
            raise lost[current]
        if current not in parents:
            raise SourceCorrupt(
                f"{text} stands for image {current}, which is not in the store", remedy="pull or build it again"
            )
        while current is not None and current not in chosen:
            chosen.add(current)
            current = parents[current]
    return frozenset(chosen)


async def upgrade_in_place(attempt: Attempt, place: Place, spec: TargetSpec) -> Report:
    """Do a whole run: bring the old root at ``place`` to what ``spec`` names, beside what is there."""
    run, state_dir = attempt.record.id, attempt.settings.run.state_dir
    ledger = ledger_of(place.root, state_dir, run)
    await to_thread.run_sync(_remember_times, ledger, place)
    only_relocated = spec.kind == "graph"
    if place.generation is Generation.BEFORE_DRIVERS or only_relocated:
        steps, left_out = await to_thread.run_sync(plan_relocation, place.root, ledger)
        await _sail(attempt, steps, left_out, last=only_relocated)
    graph = await to_thread.run_sync(read_graph, place.root, place.driver)
    new_ids: dict[str, Digest] = {}
    if not only_relocated:
        scratch = run_directory(state_dir, run) / "scratch"
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        workspace = Workspace(graph, place.root, scratch, ledger)
        new_ids = await upgrade(attempt, workspace, frozenset(graph.images), last=True)
    return await to_thread.run_sync(partial(_report, attempt, spec, graph, new_ids))


async def upgrade(attempt: Attempt, workspace: Workspace, wanted: frozenset[str], *, last: bool = False) -> dict[str, Digest]:
    """Do the parts of a run that bring the images ``wanted`` (v1 IDs) to the workspace; return their new IDs by v1 ID.

    ``last``: the run ends with them.
    """
    graph = workspace.graph
    everything = wanted >= graph.images.keys()
    in_order, lost = await to_thread.run_sync(graph.in_order)
    images = [image for image in in_order if image.id in wanted]
    left_out = [LeftOut.of(image_id, error, lost=True) for image_id, error in sorted(lost.items()) if everything]
    left_out += [
        LeftOut.of(each.subject, each.error, lost=False) for each in graph.problems if _is_told_here(graph, each.subject)
    ]
    await _sail(attempt, [checksum_step(workspace, image) for image in images], left_out)

    values = await to_thread.run_sync(attempt.values)
    sums = {image.id: msgspec.convert(values[key], LayerSum) for image in images if (key := checksum_key(image.id)) in values}
    attempt.notes += _recorded_anew(sums)
    whole, left_out = _standing_on(images, sums.keys())
    mapping = SavedMapping(workspace.place)
    former = {image.id: new_id for image in whole if (new_id := mapping.get(image.id))}
    broken = await to_thread.run_sync(_broken_images, workspace) if former else frozenset()
    if mapping.damage:
        left_out.append(LeftOut(MAPPING, f"{mapping.damage}; it was made anew", "nothing is lost", lost=False))
    await _sail(attempt, image_steps(workspace, mapping, whole, sums), left_out)

    values = await to_thread.run_sync(attempt.values)
    new = {image.id: msgspec.convert(values[key], NewImage) for image in whole if (key := image_key(image.id)) in values}
    replaced = {v1_id: old for v1_id, old in former.items() if old in broken and v1_id in new and new[v1_id].image_id != old}
    steps, left_out = await to_thread.run_sync(partial(name_steps, workspace, new, replaced, all_names=everything))
    if workspace.in_place:  # on the way to containerd, nobody would look for containers in the state directory
        more, strays = await to_thread.run_sync(container_steps, workspace, new)
        steps, left_out = [*steps, *more], [*left_out, *strays]
    await _sail(attempt, steps, left_out, last=last)
    return {v1_id: made.image_id for v1_id, made in new.items()}


def _broken_images(workspace: Workspace) -> frozenset[Digest]:
    """Return which images an earlier migration has made in an old root that are of no use."""
    return frozenset(read_store(workspace.graph.root, workspace.graph.driver).broken) if workspace.in_place else frozenset()


async def _sail(attempt: Attempt, steps: Iterable[Step], left_out: Sequence[LeftOut], *, last: bool = False) -> None:
    """Do a part of the run; what is lost is a step of it that fails."""
    attempt.notes += left_out
    lost = {step.key: step for step in (lost_step(left) for left in left_out if left.lost)}
    plan = Plan([*steps, *lost.values()])
    if len(plan) or last:
        await attempt.sail(plan, last=last)


def _standing_on(images: Sequence[GraphImage], known: Iterable[str]) -> tuple[list[GraphImage], list[LeftOut]]:
    """Return the images whose layers, with all that they stand on, are ``known``; and what to say of those above others."""
    ids = set(known)
    whole: dict[str, GraphImage] = {}
    lost: list[LeftOut] = []
    for image in images:
        if image.parent is not None and image.parent not in whole:
            lost.append(LeftOut.of(image.id, blocked(image), lost=True))
        elif image.id in ids:
            whole[image.id] = image
    return list(whole.values()), lost


def _recorded_anew(sums: Mapping[str, LayerSum]) -> Iterator[LeftOut]:
    """Say of which layers the stream is not the one that Docker had, since it did not record it, or its record is damaged."""
    remedy = "nothing is lost; a registry that has such a layer will be sent it again"
    missing = sum(found.recorded and not found.fallback for found in sums.values())
    if missing:
        reason = "Docker, before 1.8, recorded no tar streams; theirs were made anew from the files, with digests of their own"
        yield LeftOut(f"{missing} layers", reason, remedy, lost=False)
    for image_id, found in sums.items():
        if found.fallback:
            reason = f"its recorded tar stream is damaged, and was made anew from the files: {found.fallback}"
            yield LeftOut(image_id, reason, remedy, lost=False)
        if found.corrected:
            reason = f"an earlier migration noted a diff ID that its files do not have ({found.corrected}); it was corrected"
            yield LeftOut(image_id, reason, "nothing is lost", lost=False)


def _is_told_here(graph: Graph, subject: str) -> bool:
    """Tell whether a problem of the store concerns neither an image nor a name: these are told where they are lost."""
    return subject not in graph.broken and all(problem.subject != subject for problem in graph.names.problems)


def _remember_times(ledger: Ledger, place: Place) -> None:
    try:
        ledger.remember_times(_touched(place))
    except OSError as error:
        raise trouble(error, place.root) from error


def _touched(place: Place) -> list[str]:
    """Return the directories of the old root whose times of change an upgrade would change, relative to it."""
    below = [str(path.relative_to(place.root)) for name in ("graph", "containers") for path in place.root.glob(f"{name}/*")]
    image = [str(path.relative_to(place.root)) for path in place.root.glob("image/**/") if path.is_dir()]
    return ["", "graph", "containers", *below, *image, *touched_by_relocation(place.root)]


def _report(attempt: Attempt, spec: TargetSpec, graph: Graph, new_ids: Mapping[str, str]) -> Report:
    directory = run_directory(attempt.settings.run.state_dir, attempt.record.id)
    map_file = directory / "map.json"
    document = {"run": attempt.record.id, "target": str(spec), "v1_images": dict(sorted(new_ids.items()))}
    write_file(map_file, json.dumps(document, indent=1).encode() + b"\n")
    assert attempt.summary is not None  # noqa: S101 - its last part has ended
    report = Report.make(
        attempt.summary,
        target=str(spec),
        images=len(new_ids) or len(graph.images),
        layers=len(new_ids),
        left_out=attempt.notes,
        map_file=map_file,
    )
    write_report(directory, report)
    return report
