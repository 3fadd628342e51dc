"""Ending a migration as ``kill -9`` does, at moments that chance or a system call decides."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.real.command import Ended, Transship


def kill_until_done(
    transship: Transship, chance: random.Random, between: Callable[[], None], *, costly: str = "blob:", code: int = 0
) -> int:
    """Kill a migration soon after a few more events, each time it is started, until it gets through; return how often.

    ``between`` is done after some of the kills. Asserts that it ends with ``code``, and that no step whose key begins with
    ``costly`` is done again.
    """
    done: set[str] = set()
    for kills in range(1000):
        last = chance.randint(1, 24)
        with transship.start("migrate") as running:
            for event in running.documents():
                if event["type"] == "step_done" and not event["skipped"]:
                    last -= 1
                if last <= 0:
                    ended = running.kill()
                    break
            else:
                ended = running.end().expect(code)
        again = {event["key"] for event in ended.events("step_started")} & done
        assert not again
        if ended.code == code:
            return kills
        done |= {key for key in ended.done(skipped=False) if key.startswith(costly)}
        if chance.random() < 0.3:
            between()
    raise AssertionError("it never got through")


def killed_at(transship: Transship, call: str, number: int, verb: str = "migrate") -> Ended:
    """Run a migration that is killed when one of its threads makes a system call for the time ``number``."""
    inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
    return replace(transship, wrapper=("strace", "-f", "-qq", "-o", "/dev/null", *inject))(verb)
