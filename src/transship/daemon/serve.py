"""The life of the service, from its socket to its end."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import structlog
from anyio import TASK_STATUS_IGNORED, CancelScope, create_task_group, move_on_after, open_signal_receiver, sleep, to_thread

from transship import logging
from transship.daemon.http.bounds import Bounds
from transship.daemon.http.server import serving
from transship.daemon.listen import listening
from transship.daemon.memory import share_heap
from transship.daemon.notify import Notifier
from transship.daemon.service import Service
from transship.daemon.web.app import make_app
from transship.engine.groups import first_error
from transship.errors import TransshipError
from transship.text import line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskStatus

    from transship.config import Settings
    from transship.daemon.http.server import Server

_log = structlog.get_logger()
_STATUS_INTERVAL = 1.0
LOG_LEVEL = "info"
"""What is logged, if the configuration does not say."""


async def serve(settings: Settings, reread: Callable[[], Settings]) -> None:
    """Answer on the socket of ``settings`` until SIGTERM or SIGINT, or, if started by that socket, until idle for long.

    ``reread`` returns the settings anew; it is called on SIGHUP, and blocks. Raises what hinders the start.
    """
    notifier = Notifier.from_environment()
    logging.configure(settings.log.level or LOG_LEVEL)
    share_heap()
    listener = await to_thread.run_sync(listening, settings.service.socket, settings.service.group)
    failure: Exception | None = None
    try:
        async with create_task_group() as tasks:
            service = await Service.opened(settings, tasks)
            bounds = Bounds(connections=settings.service.connections)
            async with serving(make_app(service), listener.socket, bounds) as server:
                life = _Life(service, server, notifier, reread)
                await life.live(idle_exit=settings.service.idle_exit if listener.activated else 0)
                if not await service.supervisor.stop():
                    _log.warning("abandoned", reason="a step did not come to an end in time; the run can be resumed")
                    await to_thread.run_sync(listener.close)
                    os._exit(0)  # its thread would keep the process alive; what it leaves is what a kill leaves
    except ExceptionGroup as group:
        failure = first_error(group)
    finally:
        with CancelScope(shield=True):
            await to_thread.run_sync(listener.close)
    if failure:
        raise failure


class _Life:
    """What goes on beside answering: signals, the service manager, the end."""

    def __init__(self, service: Service, server: Server, notifier: Notifier, reread: Callable[[], Settings]) -> None:
        self._service = service
        self._supervisor = service.supervisor
        self._server = server
        self._notifier = notifier
        self._reread = reread

    async def live(self, idle_exit: float) -> None:
        """Return when it is time to stop; ``idle_exit``: after how many idle seconds, 0: never."""
        async with create_task_group() as tasks:
            await tasks.start(self._heed_signals, tasks.cancel_scope)
            if self._service.settings.service.resume and (task := await self._supervisor.unfinished()):
                tasks.start_soon(self._supervisor.go_on, task)  # before the manager, and so anyone who waits, is told
            tasks.start_soon(self._tell_manager)
            if self._notifier.watchdog is not None:
                tasks.start_soon(self._stay_alive, self._notifier.watchdog / 2)
            if idle_exit:
                tasks.start_soon(self._until_idle, idle_exit, tasks.cancel_scope)
            _log.info("serving", connections=self._service.settings.service.connections)
        self._notifier.stopping()

    async def _heed_signals(self, life: CancelScope, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        with open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number is not signal.SIGHUP:
                    _log.info("stopping", reason=number.name)
                    life.cancel()
                    return
                await self._reload()

    async def _reload(self) -> None:
        self._notifier.reloading()
        try:
            settings = await to_thread.run_sync(self._reread)
            await self._service.reload(settings)
            logging.configure(settings.log.level or LOG_LEVEL)
            _log.info("reloaded")
        except TransshipError as error:
            _log.error("not_reloaded", **error.fields())
        self._notifier.ready(self._state())

    async def _tell_manager(self) -> None:
        """Say that the service is ready, then how it goes, when that has changed, and not too often."""
        self._notifier.ready(self._state())
        while True:
            changed = self._supervisor.changed
            await sleep(_STATUS_INTERVAL)
            if self._supervisor.current is None:
                await changed.wait()
            self._notifier.status(self._state())

    async def _stay_alive(self, interval: float) -> None:
        """Say that the service is alive, as long as what it is at advances."""
        while True:
            if not self._supervisor.stalled:
                self._notifier.alive()
            await sleep(interval)

    def _state(self) -> str:
        activity = self._supervisor.current
        phase = self._supervisor.phase.value
        progress = activity.progress if activity else None
        return f"{phase}: {line(progress.snapshot())}" if progress else phase

    async def _until_idle(self, seconds: float, life: CancelScope) -> None:
        """End the service's life when nobody was connected, and nothing was done, for ``seconds``."""
        while True:
            await self._server.idle()
            changed = self._supervisor.changed
            if self._supervisor.current is not None:
                await changed.wait()
                continue
            with move_on_after(seconds) as waited:
                await _first(changed.wait, self._server.opened)
            if waited.cancelled_caught:
                _log.info("stopping", reason="idle")
                life.cancel()
                return


async def _first(*waits: Callable[[], Awaitable[object]]) -> None:
    """Return when the first of ``waits`` does."""
    async with create_task_group() as tasks:

        async def wait_for(wait: Callable[[], Awaitable[object]]) -> None:
            await wait()
            tasks.cancel_scope.cancel()

        for wait in waits:
            tasks.start_soon(wait_for, wait)
