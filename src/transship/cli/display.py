"""Showing a run as it goes: bars on a terminal, plain lines elsewhere, JSON for scripts."""

from __future__ import annotations

import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from transship.cli.output import say_json
from transship.engine.events import StepBlocked, StepFailed, StepUndone
from transship.engine.observer import Observer
from transship.text import duration, line, printable, size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from transship.engine.events import Event
    from transship.engine.progress import Measured, Snapshot

_REFRESH = 0.1
_PLAIN_INTERVAL = 5.0
"""Seconds between two lines of progress where there is no terminal."""


class Display(Observer):
    """Shows runs for as long as a ``shown`` block lasts."""

    async def live(self) -> None:
        """Show progress until cancelled."""
        await anyio.sleep_forever()


def shown(*, as_json: bool) -> AbstractAsyncContextManager[Display]:
    """Yield the display that suits where output goes."""
    if as_json:
        return showing(JsonDisplay())
    return showing(BarDisplay() if sys.stderr.isatty() else PlainDisplay())


@asynccontextmanager
async def showing(display: Display) -> AsyncIterator[Display]:
    """Yield ``display`` and have it show, while the block lasts, what it is told of."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(display.live)
        try:
            yield display
        finally:
            tasks.cancel_scope.cancel()


class JsonDisplay(Display):
    """Each event as a JSON object, one a line, on standard output (``engine/events.py`` describes them)."""

    async def emit(self, event: Event) -> None:
        say_json(event.to_json())


class _Watching(Display):
    """What both displays for people have in common: the progress that they read."""

    def __init__(self) -> None:
        self._progress: Measured | None = None

    def planned(self, run: str, steps: int, progress: Measured) -> None:
        self._progress = progress
        sys.stderr.write(f"run {run}: {steps} steps\n")


class PlainDisplay(_Watching):
    """Lines on standard error: what failed at once, progress every few seconds."""

    async def emit(self, event: Event) -> None:
        if text := trouble(event):
            sys.stderr.write(text + "\n")

    async def live(self) -> None:
        due = time.monotonic() + _PLAIN_INTERVAL
        while True:
            await anyio.sleep(max(0, due - time.monotonic()))
            due += _PLAIN_INTERVAL
            if self._progress is None:
                self.not_planned()
            else:
                self.tell(self._progress.snapshot())

    def not_planned(self) -> None:
        """Say what there is to say before it is known what there is to do."""

    def tell(self, now: Snapshot) -> None:
        """Say how far it is."""
        sys.stderr.write(line(now) + "\n")


class BarDisplay(_Watching):
    """Bars on the terminal: bytes of all layers, steps, and what runs right now."""

    def __init__(self) -> None:
        super().__init__()
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[detail]}", markup=False),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,
        )
        self._bytes = self._bars.add_task("layers", total=None, detail="")
        self._steps = self._bars.add_task("steps ", total=None, detail="")

    async def emit(self, event: Event) -> None:
        if text := trouble(event):
            self._bars.console.print(text, markup=False, highlight=False)

    async def live(self) -> None:
        with self._bars:
            while True:
                if self._progress is not None:
                    self._draw(self._progress.snapshot())
                await anyio.sleep(_REFRESH)

    def _draw(self, now: Snapshot) -> None:
        passed = now.done + now.skipped + now.left_out
        eta = f", {duration(now.eta)} left" if now.eta is not None else ""
        rate = f"{size(passed.bytes)} of {size(now.total.bytes)}, {size(now.rate)}/s{eta}"
        running = printable(", ".join(step.title for step in now.running[:3]))
        self._bars.update(self._bytes, total=now.total.bytes, completed=passed.bytes, detail=rate)
        self._bars.update(
            self._steps, total=now.total.steps, completed=passed.steps, detail=f"{passed.steps} of {now.total.steps}  {running}"
        )
        self._bars.refresh()


def trouble(event: Event) -> str:
    """Return what a person must know of an event at once; empty for what goes well."""
    if isinstance(event, StepFailed):
        return f"FAILED {printable(event.title)}: {printable(event.error.message)}"
    if isinstance(event, StepBlocked):
        return f"left out: {printable(event.title)}, because {printable(event.cause)} failed"
    if isinstance(event, StepUndone) and not event.removed:
        return f"kept: {printable(event.key)}, because something else uses it, or has changed it since"
    return ""
