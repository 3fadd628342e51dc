"""A function run in a process of its own, called from a thread.

For work that is all short system calls: a thread would let go of Python's lock and fight for it again at each. Starting a
process takes about a tenth of a second.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from transship.errors import ProcessLost

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from transship.engine.step import Arguments, T

_INTERVAL = 0.05
"""Seconds between two looks whether to stop."""
_PR_SET_PDEATHSIG = 1  # prctl(2)


def call(
    function: Callable[[*Arguments], T],
    arguments: tuple[*Arguments],
    check_cancelled: Callable[[], None],
    alive: Callable[[], None],
) -> T:
    """Return what ``function`` returns; what it raises is raised here. All three are pickled.

    ``alive`` is called again and again while the other process uses its processor. If ``check_cancelled`` raises, or this
    process dies, the other is killed. Raises ProcessLost if it ends without an answer.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, os.getpid(), function, arguments), daemon=True)
    with receiver:
        try:
            # Ctrl-C at a terminal reaches the whole group: what it means is for this process to say.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        finally:
            sender.close()
        try:
            used = _processor_time(process.pid)
            while not receiver.poll(_INTERVAL):
                check_cancelled()
                before, used = used, _processor_time(process.pid)
                if used > before:
                    alive()
            outcome, error = receiver.recv()
        except EOFError:
            process.join()
            raise ProcessLost(
                f"a worker process ended with exit code {process.exitcode}",
                remedy="see the kernel's log for a lack of memory, then run again",
            ) from None
        finally:
            process.kill()
            process.join()
            process.close()
    if error is not None:
        raise error
    result: T = outcome
    return result


def _processor_time(pid: int | None) -> int:
    """Return how much the process has used (utime and stime of proc_pid_stat(5), in ticks)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except FileNotFoundError:  # it has just ended
        return 0
    return int(fields[11]) + int(fields[12])


def _answer(sender: Connection, parent: int, function: Callable[[*Arguments], T], arguments: tuple[*Arguments]) -> None:
    """Run in the other process."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that took effect
        return
    try:
        answer = (function(*arguments), None)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised over there
        sender.send((None, error))
    else:
        sender.send(answer)
